/* Run a command and write what it cost to a file: measure FILE COMMAND [ARG...].

   Nanoseconds of wall time, microseconds of CPU, KiB of resident memory at most, and the wait status. The kernel counts
   the memory that a process had before exec as its own, so the one that starts it has to be as small as this. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc < 3) return 64;
    long long started = now();
    pid_t child = fork();
    if (child == 0) {
        execvp(argv[2], argv + 2);
        _exit(127);
    }
    int status;
    struct rusage used;
    if (child < 0 || wait4(child, &status, 0, &used) < 0) return 71;
    long long wall = now() - started;
    long long cpu = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000LL + used.ru_utime.tv_usec + used.ru_stime.tv_usec;
    FILE *costs = fopen(argv[1], "w");
    if (!costs) return 73;
    fprintf(costs, "%lld %lld %ld %d\n", wall, cpu, used.ru_maxrss, status);
    return fclose(costs) ? 74 : 0;
}
