/* The floor: the least that applies files and remembers them, in C and libpq, many files a message.

   floor DIRECTORY [each|run] applies what _floor does not name, each file with its row in one transaction. It takes no
   lock, verifies nothing, reports nothing and stops at the first error; `run` has only the last transaction wait for
   the disk. DATABASE_URL names the database. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGE_BYTES (256 * 1024) /* files are added to a message until it has as many */

/* What libpq-fe.h declares of these. */
typedef struct pg_conn PGconn;
typedef struct pg_result PGresult;
PGconn *PQconnectdb(const char *);
int PQstatus(const PGconn *);
char *PQerrorMessage(const PGconn *);
PGresult *PQexec(PGconn *, const char *);
int PQresultStatus(const PGresult *);
int PQntuples(const PGresult *);
char *PQgetvalue(const PGresult *, int, int);
void PQclear(PGresult *);
void PQfinish(PGconn *);
enum { CONNECTION_OK = 0, PGRES_FATAL_ERROR = 7 };

static char *message;
static size_t length, capacity;
static PGconn *connection;

static void fail(const char *why) {
    fprintf(stderr, "floor: %s\n", why);
    exit(1);
}

static void reserve(size_t more) {
    if (length + more + 1 > capacity) {
        capacity = length + more + 1 > 2 * capacity ? length + more + 1 : 2 * capacity;
        message = realloc(message, capacity);
        if (!message) fail("no memory");
    }
}

static void add(const char *text) {
    size_t size = strlen(text);
    reserve(size);
    memcpy(message + length, text, size + 1);
    length += size;
}

static void add_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) fail(path);
    size_t size = ftell(file);
    rewind(file);
    reserve(size);
    if (fread(message + length, 1, size, file) != size) fail(path);
    message[length += size] = 0;
    fclose(file);
}

static PGresult *ask(const char *statements) {
    PGresult *result = PQexec(connection, statements);
    if (!result || PQresultStatus(result) == PGRES_FATAL_ERROR) fail(PQerrorMessage(connection));
    return result;
}

static void send_message(void) {
    if (length) PQclear(ask(message));
    length = 0;
}

static int is_sql(const struct dirent *entry) {
    const char *dot = strrchr(entry->d_name, '.');
    return dot && !strcmp(dot, ".sql");
}

static int compare(const void *left, const void *right) { return strcmp(*(char *const *)left, *(char *const *)right); }

int main(int argc, char **argv) {
    if (argc < 2 || !getenv("DATABASE_URL")) return 64;
    int once = argc > 2 && !strcmp(argv[2], "run");
    struct dirent **files;
    int count = scandir(argv[1], &files, is_sql, alphasort);
    if (count < 0) fail(argv[1]);
    connection = PQconnectdb(getenv("DATABASE_URL"));
    if (PQstatus(connection) != CONNECTION_OK) fail(PQerrorMessage(connection));
    PGresult *seen = ask("SET client_min_messages = error; CREATE TABLE IF NOT EXISTS _floor (name text PRIMARY KEY);"
                         "SELECT name FROM _floor");
    int applied = PQntuples(seen);
    char **names = malloc((applied + 1) * sizeof *names);
    for (int i = 0; i < applied; i++) names[i] = PQgetvalue(seen, i, 0);
    qsort(names, applied, sizeof *names, compare);
    char path[4096], row[1024];
    int pending = count;
    for (int i = 0; i < count; i++) {
        char *name = files[i]->d_name;
        pending--;
        if (bsearch(&name, names, applied, sizeof *names, compare)) continue;
        snprintf(path, sizeof path, "%s/%s", argv[1], name);
        snprintf(row, sizeof row, ";INSERT INTO _floor VALUES ('%s');COMMIT;", name);
        add("BEGIN;");
        if (once && pending) add("SET LOCAL synchronous_commit=off;");
        add_file(path);
        add(row);
        if (length >= MESSAGE_BYTES) send_message();
    }
    send_message();
    PQfinish(connection);
    return 0;
}
