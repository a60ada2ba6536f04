"""Secrets in every part of a file that a real server's message could copy into the log.

No four consecutive letters of a secret occur in ordinary lines, so every match is a leak.
"""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING

import psycopg
import pytest

from predeploy import create_db, run_migrations
from predeploy.connection.login_errors import classify_statement_error
from tests.support.database import fresh_database
from tests.support.migrations_dir import MigrationsDir
from tests.support.program import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.database import Database
    from tests.support.postgres_server import PostgresServer
    from tests.support.program import Run

# SQL with a secret at each §, which fails or makes the server send a notice; the SQLSTATE in the log, and the visible
# part of the message. SETUP creates the tables, functions and types.
SETUP = """
CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL, mail varchar(9) UNIQUE, age int CHECK (age > 0));
CREATE TABLE notes (id int PRIMARY KEY, author int REFERENCES users, body text);
CREATE TABLE parted (id int, kind text) PARTITION BY LIST (kind);
CREATE TABLE spans (during int4range, EXCLUDE USING gist (during WITH &&));
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN short AS text CHECK (length(value) < 3);
CREATE FUNCTION to_number_of(text) RETURNS int LANGUAGE sql AS 'SELECT $1::int';
CREATE FUNCTION passes_on(text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE $1;
EXCEPTION WHEN OTHERS THEN
    RAISE EXCEPTION 'passed on: %', SQLERRM USING DETAIL = SQLERRM, HINT = 'read the manual';
END $$;
"""
STATEMENTS: dict[str, tuple[str, str, str]] = {
    # Roles and connection strings
    "role, syntax after": ("CREATE ROLE x PASSWORD '§' nonsense", "42601", 'unrecognized role option "***"'),
    "role, unquoted": ("CREATE ROLE x PASSWORD §", "42601", 'syntax error at or near "***"'),
    "role, double quotes": ('CREATE ROLE x PASSWORD "§"', "42601", 'syntax error at or near "***"'),
    "role, equals": ("ALTER ROLE postgres PASSWORD = '§'", "42601", 'syntax error at or near "="'),
    "role, dollar quotes": ("CREATE ROLE postgres PASSWORD $$§$$", "42710", 'role "postgres" already exists'),
    "missing role": ("ALTER ROLE nobody_here PASSWORD '§'", "42704", 'role "nobody_here" does not exist'),
    "role that exists": ("CREATE ROLE postgres PASSWORD '§'", "42710", 'role "postgres" already exists'),
    "role, named like its password": ("ALTER ROLE § PASSWORD '§'", "42704", 'role "***" does not exist'),
    "role, valid until": (
        "CREATE ROLE x VALID UNTIL '§'",
        "22007",
        "invalid input syntax for type timestamp with time zone: ",
    ),
    "role, escape string": (r"CREATE ROLE x PASSWORD E'\§' NOLOGON", "42601", "unrecognized role option "),
    "role, continued": ("CREATE ROLE x PASSWORD 'a'\n'§' PASSWORD 'b'", "42601", "conflicting or redundant options"),
    "role, option": ("CREATE ROLE x PASSWORD 'a' §", "42601", 'unrecognized role option "***"'),
    "role, connection limit": ("CREATE ROLE x CONNECTION LIMIT '§'", "42601", 'syntax error at or near "***"'),
    "role by regrole": ("SELECT '§'::regrole", "42704", 'role "***" does not exist'),
    "user mapping, no server": (
        "CREATE USER MAPPING FOR postgres SERVER far OPTIONS (user 'u', password '§')",
        "42704",
        'server "far" does not exist',
    ),
    "user mapping, unquoted": (
        "CREATE USER MAPPING FOR postgres SERVER far OPTIONS (password §)",
        "42601",
        "syntax error at or near ",
    ),
    "server, no wrapper": (
        "CREATE SERVER far FOREIGN DATA WRAPPER no_wrapper OPTIONS (password '§')",
        "42704",
        'foreign-data wrapper "no_wrapper" does not exist',
    ),
    "subscription, malformed": (
        "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 password=pre §' PUBLICATION p WITH (create_slot=false)",
        "42601",
        "invalid connection string syntax: ",
    ),
    "subscription, refused": (
        "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1 password=§' PUBLICATION p WITH (create_slot=false)",
        "08006",
        "could not connect to the publisher",
    ),
    "subscription, port": (
        "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=§' PUBLICATION p WITH (create_slot=false)",
        "08006",
        "could not connect to the publisher",
    ),
    "subscription, double quotes": (
        'CREATE SUBSCRIPTION s CONNECTION "password=§" PUBLICATION p',
        "42601",
        "syntax error at or near ",
    ),
    # Values
    "integer": ("SELECT '§'::int", "22P02", 'invalid input syntax for type integer: "***"'),
    "bytea": (r"SELECT '\x§'::bytea", "22023", 'invalid hexadecimal digit: "***"'),
    "bit": ("SELECT B'01'::bit(2) || '§'::bit(8)", "22P02", "is not a valid binary digit"),
    "interval": ("SELECT '§'::interval", "22007", 'invalid input syntax for type interval: "***"'),
    "timestamptz": (
        "SELECT '§'::timestamptz",
        "22007",
        'invalid input syntax for type timestamp with time zone: "***"',
    ),
    "date out of range": ("SELECT '2020-99-99 §'::date", "2200", "date"),
    "time zone": ("SELECT now() AT TIME ZONE '§'", "22023", 'time zone "***" not recognized'),
    "to_date": ("SELECT to_date('§', 'YYYY')", "22007", "invalid value "),
    "extract": ("SELECT date_part('§', now())", "22023", "*** "),
    "enum label": ("SELECT '§'::mood", "22P02", 'invalid input value for enum mood: "***"'),
    "enum, new label": ("ALTER TYPE mood ADD VALUE 'angry' BEFORE '§'", "22023", "is not an existing enum label"),
    "array": ("SELECT '{§'::int[]", "22P02", 'malformed array literal: "***"'),
    "array element": ("SELECT '{1,§}'::int[]", "22P02", 'invalid input syntax for type integer: "***"'),
    "range": ("SELECT '[§'::int4range", "22P02", 'malformed range literal: "***"'),
    "record": ("SELECT '(§'::users", "22P02", 'malformed record literal: "***"'),
    "json": ("""SELECT '{"password": "§", }'::json""", "22P02", "invalid input syntax for type json"),
    "jsonb, token": ("SELECT '§'::jsonb", "22P02", "invalid input syntax for type json"),
    "jsonb path": ("SELECT '$.a §'::jsonpath", "42601", "of jsonpath input"),
    "jsonb, cast": (
        """SELECT ('{"a": "§"}'::jsonb->>'a')::int""",
        "22P02",
        'invalid input syntax for type integer: "***"',
    ),
    "jsonb, cast to regclass": (
        """SELECT ('{"a": "§"}'::jsonb->>'a')::regclass""",
        "42P01",
        'relation "***" does not exist',
    ),
    "xml": ("SELECT '<a>§'::xml", "2200N", "invalid XML content"),
    "tsquery": ("SELECT '§ &'::tsquery", "42601", "tsquery"),
    "regular expression": ("SELECT 'x' ~ '§('", "2201B", "invalid regular expression: parentheses () not balanced"),
    "regular expression, option": (
        "SELECT regexp_replace('x', 'y', 'z', '§')",
        "22023",
        'invalid regular expression option: "***"',
    ),
    "like escape": ("SELECT 'x' LIKE '§' ESCAPE '§'", "22025", "invalid escape string"),
    "too long": ("INSERT INTO users VALUES (1, 'n', '§§')", "22001", "value too long for type character varying(9)"),
    "out of range": ("SELECT '§'::text::int + 2147483647", "22P02", "invalid input syntax for type integer"),
    "crypt in a subquery": (
        "SELECT id FROM users WHERE name = '§' AND id = 'x§'",
        "22P02",
        "invalid input syntax for type integer",
    ),
    "encoding": ("SELECT convert_from('\\xff§'::text::bytea, 'UTF8')", "22", "invalid "),
    "escape in a string": (r"SELECT E'\uD800§'", "42601", "invalid Unicode surrogate pair"),
    "encoding, name": ("SELECT convert_to('x', '§')", "22023", 'invalid destination encoding name "***"'),
    "format": ("SELECT format('%§', 1)", "22023", "unrecognized format() type specifier "),
    "copy, from a file": ("COPY users FROM '/nowhere/§'", "58P01", 'could not open file "***" for reading: '),
    "copy, from a program": ("COPY users FROM PROGRAM 'cat /nowhere/§'", "38000", 'program "***" failed'),
    "copy, option": ("COPY users TO '/nowhere/x' (FORMAT '§')", "22023", 'COPY format "***" not recognized'),
    "parameter": ("SET work_mem = '§'", "22023", 'invalid value for parameter "work_mem": "***"'),
    "parameter, unquoted": ("SET work_mem = §", "22023", 'invalid value for parameter "work_mem": "***"'),
    "parameter, double quotes": ('SET DateStyle = "§"', "22023", 'invalid value for parameter "DateStyle": "***"'),
    "parameter, by function": ("SELECT set_config('work_mem', '§', false)", "22023", "invalid value for parameter "),
    "parameter, unknown": (
        "SET no_such_setting = '§'",
        "42704",
        'unrecognized configuration parameter "no_such_setting"',
    ),
    "parameter, of a database": ("ALTER SYSTEM SET shared_buffers = '§'", "2", ""),
    "parameter of one's own": (
        "SET app.key = '§'; SELECT current_setting('app.key')::int",
        "22P02",
        'invalid input syntax for type integer: "***"',
    ),
    "role by set_config": ("SELECT set_config('role', '§', false)", "22023", ""),
    "session authorization": ("SET SESSION AUTHORIZATION '§'", "22023", ""),
    # Rows, which appear in DETAIL
    "check": (
        "INSERT INTO users VALUES (1, '§', 'm', -1)",
        "23514",
        'new row for relation "users" violates check constraint "users_age_check"',
    ),
    "unique": (
        "INSERT INTO users VALUES (7, 'a', '§'), (8, 'b', '§')",
        "22001",
        "value too long",
    ),
    "primary key": (
        "INSERT INTO users VALUES (1, '§'), (1, '§')",
        "23505",
        'duplicate key value violates unique constraint "users_pkey"',
    ),
    "not null": (
        "INSERT INTO users VALUES (1, NULL, '§')",
        "2",
        "",
    ),
    "foreign key": (
        "INSERT INTO notes VALUES (1, 2, '§')",
        "23503",
        'insert or update on table "notes" violates foreign key constraint "notes_author_fkey"',
    ),
    "partition": ("INSERT INTO parted VALUES (1, '§')", "23514", 'no partition of relation "parted" found for row'),
    "domain": ("SELECT '§'::short", "23514", 'value for domain short violates check constraint "short_check"'),
    "unique index on old rows": (
        "CREATE TEMP TABLE t AS SELECT '§' AS c FROM generate_series(1, 2); CREATE UNIQUE INDEX t_c ON t (c)",
        "23505",
        'could not create unique index "t_c"',
    ),
    "cast of a column": (
        "CREATE TEMP TABLE t AS SELECT '§' AS c; ALTER TABLE t ALTER c TYPE int USING c::int",
        "22P02",
        'invalid input syntax for type integer: "***"',
    ),
    # Names
    "column": ('SELECT "§"', "42703", 'column "***" does not exist'),
    "column, unquoted": ("UPDATE users SET name = §", "42703", 'column "***" does not exist'),
    "column of a table": ('SELECT users."§" FROM users', "42703", "column *** does not exist"),
    "column, password": ('UPDATE users SET name = "password=§"', "42703", 'column "***" does not exist'),
    "relation by regclass": ("SELECT '§'::regclass", "42P01", 'relation "***" does not exist'),
    "type by regtype": ("SELECT '§'::regtype", "42704", 'type "***" does not exist'),
    "function by regproc": ("SELECT '§'::regproc", "42883", 'function "***" does not exist'),
    "configuration by regconfig": ("SELECT to_tsvector('§', 'x')", "42704", "text search configuration "),
    "escape string by regclass": ("SELECT E'\\x61§'::regclass", "42P01", 'relation "***" does not exist'),
    "name, too long": (f'SELECT 1 AS "§{"x" * 70}", 1/0', "22012", "division by zero"),
    "name, malformed": ("SELECT '§..'::regclass", "42602", "invalid name syntax"),
    "function with a literal": ("SELECT no_such('§')", "42883", "function no_such(unknown) does not exist"),
    "operator with a literal": ("SELECT '§' <~~> 'x'", "42883", "operator does not exist: unknown <~~> unknown"),
    "ungrouped": (
        "SELECT name, '§' FROM users GROUP BY id + 1",
        "42803",
        'column "users.name" must appear in the GROUP BY clause',
    ),
    "prepared statement": ("EXECUTE no_plan('§')", "26000", 'prepared statement "no_plan" does not exist'),
    "prepare, cast": (
        "PREPARE p(int) AS SELECT $1; EXECUTE p('§')",
        "22P02",
        'invalid input syntax for type integer: "***"',
    ),
    "cursor": ("SELECT '§'; FETCH no_cursor", "34000", 'cursor "no_cursor" does not exist'),
    "notify": ("SELECT pg_notify('', '§')", "22023", "channel name cannot be empty"),
    "notify, channel": ("NOTIFY 'chan', '§'", "42601", 'syntax error at or near "***"'),
    "database, option": ("CREATE DATABASE d TEMPLATE '§'", "", ""),
    "database, locale": (
        "CREATE DATABASE d LC_COLLATE '§' TEMPLATE template0",
        "",
        "",
    ),
    "extension, version": ("CREATE EXTENSION plpgsql VERSION '§'", "42710", 'extension "plpgsql" already exists'),
    "missing extension": (
        "CREATE EXTENSION no_extension VERSION '§'",
        "0A000",
        'extension "no_extension" is not available',
    ),
    "comment": ("COMMENT ON TABLE no_table IS '§'", "42P01", 'relation "no_table" does not exist'),
    "default": ("ALTER TABLE users ALTER age SET DEFAULT '§'", "22P02", 'invalid input syntax for type integer: "***"'),
    "language": ("CREATE FUNCTION f() RETURNS int LANGUAGE '§' AS ''", "42704", 'language "***" does not exist'),
    "library": ("CREATE FUNCTION f() RETURNS int LANGUAGE c AS '§'", "58P01", 'could not access file "***"'),
    # Code in strings
    "sql function": (
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT '§' $$",
        "42P13",
        "return type mismatch in function declared to return integer",
    ),
    "sql function, quoted": (
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT ''§'' FROM'",
        "42601",
        "syntax error at end of input",
    ),
    "sql function, unterminated": (
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT '§ $$",
        "42601",
        "unterminated quoted string at or near ",
    ),
    "sql function, called": ("SELECT to_number_of('§')", "22P02", 'invalid input syntax for type integer: "***"'),
    "plpgsql, unterminated": ("DO $$ BEGIN PERFORM '§; END $$", "42601", "unterminated quoted string"),
    "plpgsql, no statement": ("DO $$ BEGIN '§'; END $$", "42601", 'syntax error at or near "***"'),
    "plpgsql, variable": ('DO $$ BEGIN "§" := 1; END $$', "42601", '"***" is not a known variable'),
    "plpgsql, execute": (
        "DO $$ BEGIN EXECUTE 'CREATE ROLE x PASSWORD ''§'' nonsense'; END $$",
        "42601",
        'unrecognized role option "***"',
    ),
    "plpgsql, execute unterminated": (
        "DO $$ BEGIN EXECUTE 'SELECT ''§'; END $$",
        "42601",
        'unterminated quoted string at or near "***"',
    ),
    "plpgsql, execute regclass": (
        "DO $$ BEGIN EXECUTE 'SELECT ''§''::regclass'; END $$",
        "42P01",
        'relation "***" does not exist',
    ),
    "plpgsql, format": (
        "DO $$ BEGIN EXECUTE format('SELECT %L::int', '§'); END $$",
        "22P02",
        'invalid input syntax for type integer: "***"',
    ),
    "plpgsql, quoted": ("DO 'BEGIN PERFORM ''§''::int; END'", "22P02", 'invalid input syntax for type integer: "***"'),
    "plpgsql, assignment": (
        "DO $$ DECLARE n int := '§'; BEGIN END $$",
        "22P02",
        'invalid input syntax for type integer: "***"',
    ),
    "plpgsql, strict": (
        "DO $$ DECLARE n text; BEGIN SELECT name INTO STRICT n FROM users WHERE name = '§'; END $$",
        "P0002",
        "query returned no rows",
    ),
    "raise, detail": ("DO $$ BEGIN RAISE EXCEPTION 'stopped' USING DETAIL = '§'; END $$", "P0001", "stopped"),
    "raise, passing on": (
        "SELECT passes_on('SELECT ''§''::int')",
        "P0001",
        'passed on: invalid input syntax for type integer: "***"',
    ),
    "raise, passing on a password": (
        "SELECT passes_on($$CREATE ROLE x PASSWORD '§$$)",
        "P0001",
        "passed on: unterminated quoted string at or near ",
    ),
    "raise, password": (
        "DO $$ BEGIN RAISE EXCEPTION 'no PASSWORD ''§'' here'; END $$",
        "P0001",
        "no PASSWORD '***' here",
    ),
    "raise, hint": (
        "DO $$ BEGIN RAISE EXCEPTION 'stopped' USING HINT = 'set password=§ first'; END $$",
        "P0001",
        "stopped",
    ),
    "raise, connection string": (
        "DO $$ BEGIN RAISE EXCEPTION 'at %', 'postgres://me:§@db'; END $$",
        "P0001",
        "at postgres://me:***@db",
    ),
    "rethrown": (
        "DO $$ BEGIN PERFORM '§'::int; EXCEPTION WHEN OTHERS THEN RAISE; END $$",
        "22P02",
        'invalid input syntax for type integer: "***"',
    ),
    # Notices, followed by a failure
    "notice, truncated name": (f'CREATE TEMP TABLE "§{"y" * 70}" (); SELECT 1/0', "22012", "division by zero"),
    "notice of a password": (
        "DO $$ BEGIN RAISE NOTICE 'made with PASSWORD = ''§'''; END $$; SELECT 1/0",
        "22012",
        "division by zero",
    ),
    "notice, passing on": (
        "DO $$ BEGIN PERFORM '§'::int; EXCEPTION WHEN OTHERS THEN RAISE WARNING 'no: %', SQLERRM; END $$; SELECT 1/0",
        "22012",
        "division by zero",
    ),
    "notice of a deprecated setting": ("SELECT to_number('§', '§'), 1/0", "22", ""),
    # Tokens of syntax errors
    "token behind password, equals": ("ALTER ROLE x PASSWORD = §", "42601", 'syntax error at or near "="'),
    "token behind a slip of password": ("CREATE ROLE x PASWORD §", "42601", 'unrecognized role option "pasword"'),
    "token behind identified by": ("CREATE USER x IDENTIFIED BY §", "42601", 'unrecognized role option "identified"'),
    "token behind password in a block": (
        "DO $$ BEGIN ALTER ROLE x PASSWORD §; END $$",
        "42601",
        'syntax error at or near "***"',
    ),
    "token, executed": (
        "DO $$ BEGIN EXECUTE 'ALTER ROLE x PASSWORD §'; END $$",
        "42601",
        'syntax error at or near "***"',
    ),
    "token, no opening quote": (
        "INSERT INTO users VALUES (1, a §', 'b', 'c)",
        "42601",
        'syntax error at or near "***"',
    ),
    "token, no closing quote": (
        "INSERT INTO users VALUES (1, 'a, '§', 'b, 'c')",
        "42601",
        'syntax error at or near "***"',
    ),
    "token, no quotes": ("INSERT INTO users VALUES (1, correct §)", "42601", 'syntax error at or near "***"'),
    "token, comment without quotes": ("COMMENT ON TABLE users IS §", "42601", 'syntax error at or near "***"'),
    "token, connection string without quotes": (
        "CREATE SUBSCRIPTION s CONNECTION postgresql://me:§@127.0.0.1/app PUBLICATION p",
        "42601",
        'syntax error at or near "***"',
    ),
    "token, option without quotes": (
        "CREATE USER MAPPING FOR postgres SERVER s OPTIONS (api_key §)",
        "42601",
        'syntax error at or near "***"',
    ),
    "token, psql variable": ("SELECT :§; SELECT 1", "42601", 'syntax error at or near ":"'),
    "token, dollar quote without its end": ("SELECT $$a$$ b §$$, $$b$$", "42601", 'syntax error at or near "***"'),
    "token, word of sql behind password": ("ALTER ROLE x PASSWORD begin §", "42601", 'syntax error at or near "***"'),
    "token, word of sql before a quote": (
        "INSERT INTO users VALUES (1, 'a, 'select §', 'b, 'c')",
        "42601",
        'syntax error at or near "***"',
    ),
    "token, code in a string by regrole": ("SELECT '\"select §\"'::regrole", "42704", 'role "***" does not exist'),
    # Unterminated quotes, rejected before anything is sent
    "string never closed": ("CREATE ROLE x PASSWORD '§", "", "the quoted string that opens here is never closed"),
    "dollar quote never closed": (
        "CREATE ROLE x PASSWORD $x$§",
        "",
        "the dollar-quoted string that opens here is never closed",
    ),
    "name never closed": ('CREATE ROLE x PASSWORD "§', "", "the quoted identifier that opens here is never closed"),
    "comment never closed": ("SELECT 1 /* §", "", "the comment that opens here is never closed"),
    "backslash": ("\\password §", "", "backslash outside quotes"),
    "copy from stdin": ("COPY users FROM STDIN;\n§", "", "COPY ... FROM STDIN"),
    "transaction": ("COMMIT AND CHAIN; SELECT '§'", "", "COMMIT AND CHAIN: "),
    "nul": ("SELECT '§\0'", "", "a NUL character"),
}

# Text that the log must show in full, because the user needs it to fix the error.
WHOLE: dict[str, tuple[str, str]] = {
    "no relation": ("SELECT * FROM user_list", 'relation "user_list" does not exist'),
    "no relation, with a schema": ("SELECT * FROM public.user_list", 'relation "public.user_list" does not exist'),
    "no relation, quoted": ('SELECT * FROM "User list"', 'relation "User list" does not exist'),
    "no relation, in a function": (
        "DO $$ BEGIN UPDATE user_list SET name = 'x'; END $$",
        'relation "user_list" does not exist',
    ),
    "no relation, executed": ("DO $$ BEGIN EXECUTE 'TABLE user_list'; END $$", 'relation "user_list" does not exist'),
    "no relation, named in a string too": (
        "SELECT * FROM user_list WHERE name = 'user_list'",
        'relation "user_list" does not exist',
    ),
    "relation exists": ("CREATE TABLE users ()", 'relation "users" already exists'),
    "primary key": (
        "INSERT INTO users VALUES (1, 'n'), (1, 'm')",
        'duplicate key value violates unique constraint "users_pkey"',
    ),
    "key, named in a string": (
        "INSERT INTO users VALUES (1, 'users_pkey'), (1, 'users_pkey')",
        'duplicate key value violates unique constraint "users_pkey"',
    ),
    "check": (
        "INSERT INTO users VALUES (1, 'n', 'm', -1)",
        'new row for relation "users" violates check constraint "users_age_check"',
    ),
    "not null": (
        "INSERT INTO users VALUES (1, NULL)",
        'null value in column "name" of relation "users" violates not-null constraint',
    ),
    "foreign key": (
        "INSERT INTO notes VALUES (1, 2)",
        'insert or update on table "notes" violates foreign key constraint "notes_author_fkey"',
    ),
    "still referenced": (
        "DROP TABLE users",
        "cannot drop table users because other objects depend on it",
    ),
    "no schema": ("CREATE TABLE app.t ()", 'schema "app" does not exist'),
    "permission": ("SET ROLE pg_monitor; CREATE SCHEMA app", "permission denied for database "),
    "permission, table": ("SET ROLE pg_monitor; SELECT * FROM users", "permission denied for table users"),
    "no role": ("GRANT SELECT ON users TO app_reader", 'role "app_reader" does not exist'),
    "no function": ("SELECT no_such(1)", "function no_such(integer) does not exist"),
    "no type": ("CREATE TABLE t (m moods)", 'type "moods" does not exist'),
    "column exists": ("ALTER TABLE users ADD age int", 'column "age" of relation "users" already exists'),
    "wrong type": (
        "ALTER TABLE users ALTER name TYPE int",
        'column "name" cannot be cast automatically to type integer',
    ),
    "expression": (
        "INSERT INTO users VALUES (1, 'value', 'type', true)",
        'column "age" is of type integer but expression is of type boolean',
    ),
    "ambiguous": ("SELECT id FROM users, notes", 'column reference "id" is ambiguous'),
    "no extension": ("CREATE EXTENSION no_extension", 'extension "no_extension" is not available'),
    "division": ("SELECT 1 / 0", "division by zero"),
    "too long": ("INSERT INTO users VALUES (1, 'n', '0123456789')", "value too long for type character varying(9)"),
    "parameter": ("SET no_such_setting = 1", 'unrecognized configuration parameter "no_such_setting"'),
    "syntax": ("SELECT (1;", 'syntax error at or near ";"'),
    "syntax, end": ("SELECT 1 FROM", 'syntax error at or near ";"'),
    "syntax, keyword with a slip": ("SELECT * FORM users", 'syntax error at or near "FORM"'),
    "syntax, first word": ("SELEC 1", 'syntax error at or near "SELEC"'),
    "syntax, kind of object": ("CREATE TABEL users ()", 'syntax error at or near "TABEL"'),
    "syntax, verb": ("CRAETE TABLE users ()", 'syntax error at or near "CRAETE"'),
    "syntax, keyword as a name": ("CREATE TABLE t (user text)", 'syntax error at or near "user"'),
    "syntax, no comma": ("CREATE TABLE t (name text email text)", 'syntax error at or near "email"'),
    "syntax, other dialect": ("CREATE TABLE t (id int AUTO_INCREMENT)", 'syntax error at or near "AUTO_INCREMENT"'),
    "syntax, in a block": ("DO $$ BEGIN DELETE FORM users; END $$", 'syntax error at or near "FORM"'),
    "syntax, with a password elsewhere": (
        "CREATE TABLE t (password text NOT NULL, at date DEFUALT now()); ALTER ROLE x PASSWORD 'hunter2'",
        'syntax error at or near "DEFUALT"',
    ),
    "syntax, role option": ("CREATE ROLE x NOLOGN", 'unrecognized role option "nologn"'),
    "server's words as strings, division": ("SELECT CASE WHEN 1 = 2 THEN 'zero' END, 1 / 0", "division by zero"),
    "server's words as strings, syntax": ("SELECT 'error'; SELEC 1", 'syntax error at or near "SELEC"'),
    "server's words as strings, relation": (
        "SELECT 'exist', 'relation'; SELECT * FROM nope",
        'relation "nope" does not exist',
    ),
    "server's words as a password": ("ALTER ROLE postgres PASSWORD 'zero'; SELECT 1 / 0", "division by zero"),
    "raised": (
        """DO $$ BEGIN RAISE EXCEPTION 'the "legacy" rows of % are still there', 'users'; END $$""",
        'the "legacy" rows of users are still there',
    ),
    "raised with a code": (
        "DO $$ BEGIN RAISE unique_violation USING MESSAGE = 'two of \"a\", why?'; END $$",
        'two of "a", why?',
    ),
    "asserted": ("DO $$ BEGIN ASSERT false, 'no \"rows\" here'; END $$", 'no "rows" here'),
}
LETTERS = "QZJKVqzjkv"


def secret_of(case: str) -> str:
    letters = random.Random(case)  # noqa: S311  the same in every process
    return "".join(letters.choices(LETTERS, k=16))


def pieces(secret: str) -> set[str]:
    """Return every substring of four letters in lower case, and the way that its bytes would be shown."""
    small = secret.lower()
    return {small[at : at + 4] for at in range(len(small) - 3)} | {small.encode().hex(), secret.encode().hex()}


SECRETS = {case: secret_of(case) for case in STATEMENTS}
PIECES = frozenset().union(*map(pieces, SECRETS.values()))


def leaks(text: str) -> set[str]:
    return {text[max(match.start() - 60, 0) : match.end() + 30] for match in _ANY_PIECE.finditer(text.lower())}


_ANY_PIECE = re.compile("|".join(sorted(PIECES, key=len, reverse=True)))


def write_all(directory: MigrationsDir, *, head: str = "") -> None:
    for number, (case, (sql, _, _)) in enumerate(STATEMENTS.items()):
        directory.write(f"{number:03}.sql", head + sql.replace("§", SECRETS[case]))


@pytest.fixture(scope="module")
def staged(server: PostgresServer) -> Iterator[Database]:
    with fresh_database(server) as fresh:
        fresh.admin_execute(SETUP)
        yield fresh


@pytest.fixture(scope="module", params=["in a transaction", "no transaction"])
def written(
    request: pytest.FixtureRequest, staged: Database, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, str]:
    """Run all files; return the program's log and termination message."""
    directory = tmp_path_factory.mktemp("disclosure")
    files = MigrationsDir(directory / "migrations")
    write_all(files, head="-- migrate:no-transaction\n" if request.param == "no transaction" else "")
    message = directory / "termination-log"
    variables = {"MIGRATIONS_DIR": str(files), "MIGRATE_TERMINATION_LOG": str(message), "MIGRATE_LOG_LEVEL": "debug"}
    program = Program({"DATABASE_URL": staged.server.dsn(staged.name), **variables}, directory / "processes")
    return program.run(), message.read_text()


def test_the_table_is_long() -> None:
    assert len(STATEMENTS) >= 60
    assert len(set(SECRETS.values())) == len(STATEMENTS)


def test_no_output_contains_a_secret(written: tuple[Run, str]) -> None:
    run, message = written
    assert (run.exit_code, run.report["failed"]) == (1, len(STATEMENTS))
    assert leaks(run.stdout) == set()
    assert leaks(message) == set()


@pytest.mark.parametrize("case", STATEMENTS)
def test_a_secret_is_masked_but_the_rest_of_the_error_is_not(written: tuple[Run, str], case: str) -> None:
    _, sqlstate, text = STATEMENTS[case]
    name = f"{list(STATEMENTS).index(case):03}.sql"
    (event,) = [event for event in written[0].named("migration.failed") if event["migration"] == name]
    assert (event.get("sqlstate") or "").startswith(sqlstate), event
    assert text.rstrip() in event["error"], event
    assert leaks(json.dumps(event, ensure_ascii=False)) == set()


def test_the_library_shows_no_secret(staged: Database, tmp_path: Path) -> None:
    files = MigrationsDir(tmp_path / "migrations")
    write_all(files)
    with create_db(staged.server.dsn(staged.name)) as db:
        result = run_migrations(db, files.path)
    assert len(result.errors) == len(STATEMENTS)
    assert leaks(repr(result)) == set()


def test_the_text_log_shows_no_secret(staged: Database, tmp_path: Path) -> None:
    files = MigrationsDir(tmp_path / "migrations")
    write_all(files)
    variables = {"MIGRATIONS_DIR": str(files), "MIGRATE_LOG_FORMAT": "text"}
    program = Program({"DATABASE_URL": staged.server.dsn(staged.name), **variables}, tmp_path / "processes")
    finished = program.run(as_json=False)
    assert len(re.findall(r"error   Failed: \d+\.sql:", finished.stdout)) == len(STATEMENTS)
    assert leaks(finished.stdout) == set()


@pytest.mark.parametrize("command", ["status", "check"])
def test_status_and_check_show_no_secret(
    run: Callable[..., Run], migrations_dir: MigrationsDir, database: Database, command: str
) -> None:
    write_all(migrations_dir)
    migrations_dir.write("000.sql", "SELECT 1")
    assert run(MIGRATE_ON_ERROR="stop").report["applied"] == 1
    migrations_dir.write("000.sql", f"SELECT '{SECRETS['integer']}'")  # changed after it was applied
    database.execute("INSERT INTO _migrations (name) VALUES ('gone.sql')")
    written = run(command)
    assert written.exit_code in {0, 10}
    assert leaks(written.stdout) == set()


def test_a_failed_statement_of_the_program_is_redacted_in_the_same_way(database: Database) -> None:
    with database.connect() as conn, pytest.raises(psycopg.Error) as caught:
        conn.execute("SELECT 'hunter2'::int")
    assert str(classify_statement_error(caught.value)) == (
        'Postgres rejected an internal statement: invalid input syntax for type integer: "***" (SQLSTATE 22P02).'
    )


# Text that must be shown


@pytest.fixture(scope="module")
def whole(staged: Database, tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("whole")
    files = MigrationsDir(directory / "migrations")
    for number, (sql, _) in enumerate(WHOLE.values()):
        files.write(f"{number:03}.sql", sql)
    variables = {"DATABASE_URL": staged.server.dsn(staged.name), "MIGRATIONS_DIR": str(files)}
    return Program(variables, directory / "processes").run()


@pytest.mark.parametrize("case", WHOLE)
def test_helpful_text_is_shown_in_full(whole: Run, case: str) -> None:
    name = f"{list(WHOLE).index(case):03}.sql"
    (event,) = [event for event in whole.named("migration.failed") if event["migration"] == name]
    assert event["error"].startswith(WHOLE[case][1]), event
    assert "***" not in event["error"]


NOTICES = [
    ("CREATE TABLE IF NOT EXISTS users ()", "NOTICE", 'relation "users" already exists, skipping'),
    ("DROP TABLE IF EXISTS legacy", "NOTICE", 'table "legacy" does not exist, skipping'),
    ("DO $$ BEGIN RAISE WARNING '3 rows of \"%\"', 'users'; END $$", "WARNING", '3 rows of "users"'),
    ("DO $$ BEGIN RAISE INFO 'PASSWORD \"open sesame\"'; END $$", "INFO", 'PASSWORD "***"'),
    (f'SELECT 1 AS "{"hunter2" * 10}"', "NOTICE", 'identifier "***"'),  # from the parser, before anything runs
]


def test_a_notice_is_redacted_in_the_same_way(
    run: Callable[..., Run], migrations_dir: MigrationsDir, database: Database
) -> None:
    database.execute("CREATE TABLE users ()")
    for number, (sql, _, _) in enumerate(NOTICES):
        migrations_dir.write(f"{number}.sql", sql)
    shown = [(event["severity"], event["message"]) for event in run().named("postgres.notice")]
    sources = [f"{number}.sql" for number in range(4)] + ["Postgres"]
    assert sorted(shown) == sorted(
        (severity, f"{severity} from {source}: {text}")
        for source, (_, severity, text) in zip(sources, NOTICES, strict=True)
    )


def test_a_hint_names_existing_objects(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE paints (colour text); SELECT color FROM paints WHERE colour = 'x'")
    (event,) = run().named("migration.failed")
    assert event["hint"] == 'Perhaps you meant to reference the column "paints.colour".'
    assert (event["error"], event["line"], event["column"]) == ('column "***" does not exist', 1, 43)


def test_a_message_of_a_megabyte_is_cut(run: Callable[..., Run], migrations_dir: MigrationsDir, tmp_path: Path) -> None:
    migrations_dir.write("001.sql", "DO $$ BEGIN RAISE EXCEPTION '%', repeat('ab\n', 400000); END $$")
    migrations_dir.write("002.sql", "DO $$ BEGIN RAISE NOTICE '%', repeat('c', 1000000); END $$")
    message = tmp_path / "message"
    finished = run(MIGRATE_TERMINATION_LOG=str(message))
    (failed,), (notice,) = finished.named("migration.failed"), finished.named("postgres.notice")
    assert failed["error"].endswith("… (1198000 more characters)")
    assert len(failed["error"]) < 2100
    assert notice["message"].endswith("ccc… (998000 more characters)")
    assert message.stat().st_size <= 4096


def test_any_bytes_are_shown_on_one_line(server: PostgresServer, tmp_path: Path) -> None:
    """An SQL_ASCII database accepts any bytes and returns them unchanged."""
    with fresh_database(server) as database:
        database.admin_execute(
            f"CREATE DATABASE {database.name}_ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        )
        try:
            _raise_any_bytes(server.dsn(f"{database.name}_ascii"), tmp_path)
        finally:
            database.admin_execute(f"DROP DATABASE {database.name}_ascii WITH (FORCE)")


def _raise_any_bytes(dsn: str, tmp_path: Path) -> None:
    files = MigrationsDir(tmp_path / "migrations")
    raised = r"convert_from('\x01201b5b33316d20e280a8200a2009207f20656e64', 'SQL_ASCII')"
    files.write("001.sql", f"DO $$ BEGIN RAISE NOTICE '%', {raised}; RAISE EXCEPTION '%', {raised}; END $$")
    files.write("002.sql", r"DO $$ BEGIN RAISE EXCEPTION '%', convert_from('\xff', 'SQL_ASCII'); END $$")
    message = tmp_path / "message"
    variables = {"MIGRATIONS_DIR": str(files), "MIGRATE_TERMINATION_LOG": str(message)}
    run = Program({"DATABASE_URL": dsn, **variables}, tmp_path / "processes").run()
    failed, invalid = run.named("migration.failed")
    assert invalid["error"] == 'invalid byte sequence for encoding "UTF8": 0xff'  # the server refuses to send it
    for event in (failed, *run.named("postgres.notice")):
        assert event["message"].count("end") == 1, event
        assert re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028]", event["message"]) == []
    assert len(message.read_text().splitlines()) == 2
    text = Program({"DATABASE_URL": dsn, **variables}, tmp_path / "text").run(MIGRATE_LOG_FORMAT="text", as_json=False)
    assert "\x1b" not in text.stdout
