/* Run a command and write its cost to a file: measure FILE COMMAND [ARG...].

   The file contains the start and end time (CLOCK_MONOTONIC, ns), the CPU time (us), the peak resident memory (KiB) and
   the wait status. The kernel includes a process's memory before exec in its peak, so the process that starts the
   command must be as small as this one. A command that takes more than five minutes is killed; the file is then not
   written. */
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
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
    alarm(300);
    long long started = now();
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(argv[2], argv + 2);
        _exit(127);
    }
    int status;
    struct rusage used;
    if (child < 0 || wait4(child, &status, 0, &used) < 0) return 71;
    long long ended = now();
    long long cpu = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000LL + used.ru_utime.tv_usec + used.ru_stime.tv_usec;
    FILE *costs = fopen(argv[1], "w");
    if (!costs) return 73;
    fprintf(costs, "%lld %lld %lld %ld %d\n", started, ended, cpu, used.ru_maxrss, status);
    return fclose(costs) ? 74 : 0;
}
