/* The floor: a minimal migration runner in C with libpq, which sends many files in one message. No runner that records
   what it applies can do much less work.

   `floor DIRECTORY` applies the files that are not yet in the table _floor to the database in DATABASE_URL, each file in
   one transaction with its row. It takes no lock, verifies no hash, logs nothing and stops at the first error. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Copied from libpq-fe.h, so that the header is not needed. */
typedef void PGconn, PGresult;
PGconn *PQconnectdb(const char *);
int PQstatus(const PGconn *);
char *PQerrorMessage(const PGconn *);
PGresult *PQexec(PGconn *, const char *);
int PQresultStatus(const PGresult *);
int PQntuples(const PGresult *);
char *PQgetvalue(const PGresult *, int, int);
void PQfinish(PGconn *);
enum { CONNECTION_OK = 0, PGRES_FATAL_ERROR = 7 };

static PGconn *connection;
static FILE *message;
static char *text;
static size_t length;

static void fail(const char *why) {
    fprintf(stderr, "floor: %s\n", why);
    exit(1);
}

static PGresult *execute(const char *statements) {
    PGresult *result = PQexec(connection, statements);
    if (!result || PQresultStatus(result) == PGRES_FATAL_ERROR) fail(PQerrorMessage(connection));
    return result;
}

static void add_file(const char *path) {
    char block[65536];
    size_t size;
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    while ((size = fread(block, 1, sizeof block, file))) fwrite(block, 1, size, message);
    fclose(file);
}

static void send_message(void) {
    fclose(message);
    if (length) execute(text);
    free(text);
    message = open_memstream(&text, &length);
}

int main(int argc, char **argv) {
    if (argc != 2 || !getenv("DATABASE_URL")) return 64;
    struct dirent **files;
    int count = scandir(argv[1], &files, NULL, alphasort);
    if (count < 0) fail(argv[1]);
    connection = PQconnectdb(getenv("DATABASE_URL"));
    if (PQstatus(connection) != CONNECTION_OK) fail(PQerrorMessage(connection));
    PGresult *names = execute("SET client_min_messages = error; CREATE TABLE IF NOT EXISTS _floor (name text PRIMARY KEY);"
                              "SELECT name FROM _floor ORDER BY name COLLATE \"C\"");
    message = open_memstream(&text, &length);
    for (int i = 0, applied = 0; i < count; i++) {
        char path[4096], *name = files[i]->d_name;
        int order = -1; /* compares the applied name to this one: both lists are sorted by bytes */
        while (applied < PQntuples(names) && (order = strcmp(PQgetvalue(names, applied, 0), name)) < 0) applied++;
        if (order == 0 || name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", argv[1], name);
        fputs("BEGIN;", message);
        add_file(path);
        fprintf(message, ";INSERT INTO _floor VALUES ('%s');COMMIT;", name);
        fflush(message);
        if (length >= 256 * 1024) send_message();
    }
    send_message();
    PQfinish(connection);
    return 0;
}
