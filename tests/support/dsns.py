"""Connection strings of every kind, each with the password that its author intended, even if libpq reads another.

No four consecutive letters of a password occur in ordinary output, so every match is a leak. All
strings that libpq accepts name loopback or a directory without a socket; the tests check this again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from urllib.parse import quote

LETTERS = "QZJKVXqzjkvx"
SIGNS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ \t\nü€🐘"
COMMON = ("postgres", "event", "failed", "info", "port", "host", "local", "migrate", "crashed", "unreachable", "true")
SHORT = ("a", "1", "me", "db", "x'y", "%", "/", "***"[:2], "p w")


@dataclass(frozen=True)
class Case:
    """A connection string with its `variables` and `files`; `{dir}` in any of them stands for the files' directory."""

    dsn: str
    password: str
    variables: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def letters(seed: object) -> str:
    return "".join(random.Random(str(seed)).choices(LETTERS, k=6))  # noqa: S311  the same in every process


def encoded(text: str) -> str:
    return quote(text, safe="")


def quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _with_signs() -> dict[str, Case]:
    """Return a case for each way to write each special character."""
    found = {}
    for sign in SIGNS:
        first, second = letters(sign), letters(sign * 2)
        name = ascii(sign)
        password = f"{first}{sign}{second}"
        found[f"{name}, encoded"] = Case(f"postgresql://me:{encoded(password)}@127.0.0.1:1/app", password)
        found[f"{name}, as it is"] = Case(f"postgresql://me:{password}@127.0.0.1:1/app", password)
        small = encoded(password).lower()
        found[f"{name} in a query"] = Case(f"postgresql://127.0.0.1:1/app?password={encoded(password)}", password)
        found[f"{name} in a query, as it is"] = Case(f"postgresql://127.0.0.1:1/app?password={password}", password)
        found[f"{name} in small hex"] = Case(f"postgresql://me:{small}@127.0.0.1:1/app", password.lower())
        found[f"{name} quoted"] = Case(f"host=127.0.0.1 port=1 password={quoted(password)}", password)
        found[f"{name} bare"] = Case(f"host=127.0.0.1 port=1 password={password}", password)
        found[f"{name} escaped"] = Case(f"host=127.0.0.1 port=1 password={first}\\{sign}{second}", password)
        found[f"{name} in the user"] = Case(f"postgresql://us{sign}er:{first}@127.0.0.1:1/app", first)
    return found


SHAPES = """\
postgres://me:{}@127.0.0.1:1
postgres://me:{}@127.0.0.1:1/
postgresql://:{}@127.0.0.1:1/app
postgresql://me:{}@localhost:1/app
postgresql://me:{}@[::1]:1/app
postgresql://me:{}@127.0.0.1:1,127.0.0.1:2/app
postgresql://me:{}@127.0.0.1:1,[::1]:2,localhost:3/app?target_session_attrs=primary
postgresql://me:{}@127.0.0.1:1,127.0.0.1:2/app?load_balance_hosts=random
postgresql://me:{}@/app?host=/nowhere
postgresql://me:{}@%2Fnowhere/app
postgresql://me:{}@/app?hostaddr=127.0.0.1&port=1
postgresql://me:{}@127.0.0.1:1/app?sslmode=disable
postgresql://me:{}@127.0.0.1:1/app?sslmode=verify-full&sslrootcert=/nowhere/ca
postgresql://me:{}@127.0.0.1:1/app?application_name=x&connect_timeout=2
postgresql://me:{}@127.0.0.1:1/app?options=-c%20work_mem%3D1MB
postgresql://127.0.0.1:1/app?user=me&password={}
postgresql://127.0.0.1:1?password={}&sslmode=disable
postgresql://127.0.0.1:1/app?sslkey=/nowhere&sslpassword={}
postgresql://me:{}@127.0.0.1:1/app?password={}
postgresql:///app?host=127.0.0.1&port=1&password={}
host=127.0.0.1 port=1 user=me password={}
  host = 127.0.0.1  port = 1  password = {}  dbname=app
password={} host=127.0.0.1,127.0.0.1 port=1,2
host=localhost hostaddr=127.0.0.1 port=1 password={}
host=/nowhere user=me password={}
host=::1 port=1 password={} sslmode=disable
host=127.0.0.1 port=1 sslpassword={} sslkey=/nowhere
host=127.0.0.1 port=1 password=first password={}
host=127.0.0.1 port=1 passfile=/nowhere password={}
host=127.0.0.1 port=1 scram_client_key={}
host=127.0.0.1 port=1 oauth_client_secret={}
"""

# Strings that libpq rejects or misreads, or that are meant for another program.
BROKEN = """\
postgresql://me:{}%@127.0.0.1/app
postgresql://me:{}%4@127.0.0.1/app
postgresql://me:{}%zz@127.0.0.1/app
postgresql://me:{}%00@127.0.0.1/app
postgresql://me:%00{}@127.0.0.1/app
postgresql://me:{}%c3@127.0.0.1:1/app
postgresql://me:{}@[::1/app
postgresql://me:{}@[]/app
postgresql://me:{}@[::1]x/app
postgresql://me:{}@127.0.0.1:1/app?password
postgresql://me:{}@127.0.0.1:1/app?{}
postgresql://me:{}@127.0.0.1:1/app?{}=1
postgresql://me:{}@127.0.0.1:1/app?schema=public
postgresql://me:{}@127.0.0.1:1/app?sslmode={}
postgresql://me:{}@127.0.0.1:1/app?connect_timeout={}
postgresql://me:{}@127.0.0.1:1/app?target_session_attrs={}
postgresql://127.0.0.1:1/app?password={}=x
postgresql://127.0.0.1:1/app?password={}&x
postgresql://127.0.0.1:1/app?password={}%
postgresql://127.0.0.1:1/app?Password={}
postgresql://127.0.0.1:{}/app
postgresql://127.0.0.1:1,127.0.0.1:{}/app
postgresql://127.0.0.1:-1/{}@x
postgresql://me:{}
postgresql://me:{}/app
postgresql://me:{}:1/app
postgresql://me:{}/app@127.0.0.1
postgresql://me:{}%40127.0.0.1/app
postgresql://me%3A{}/app
postgresql://me%3A{}%40127.0.0.1/app
postgresql://me%3A{}/db@127.0.0.1
postgresql://me:1/{}@127.0.0.1:1/app
postgresql://me:1?{}@127.0.0.1:1/app
postgresql://me:1?host={}@127.0.0.1:1/app
postgresql://me:1?sslmode={}@127.0.0.1:1/app
postgresql://me:@{}@127.0.0.1:1/app
postgresql://me:x@{}@127.0.0.1:1/app
postgresql://me:x@y:{}@127.0.0.1:1/app
postgresql:///me:{}@127.0.0.1:1/app
postgresql:////me:{}@127.0.0.1:1/app
postgresql:///app?host=me:{}@127.0.0.1
postgresql:///app?host=me:{}
postgresql:///app?dbname=postgres://me:{}@127.0.0.1/app
mysql://me:{}@127.0.0.1/app
postgresql+psycopg://me:{}@127.0.0.1/app
postgresql+asyncpg://me:{}@127.0.0.1/app?ssl=true
jdbc:postgresql://127.0.0.1/app?user=me&password={}
POSTGRESQL://me:{}@127.0.0.1/app
://me:{}@127.0.0.1/app
"postgresql://me:{}@127.0.0.1/app"
'postgresql://me:{}@127.0.0.1/app'
postgresql:/me:{}@127.0.0.1/app
postgresql:me:{}@127.0.0.1/app
//me:{}@127.0.0.1/app
me:{}@127.0.0.1/app
me%3A{}/db@127.0.0.1
DATABASE_URL=postgresql://me:{}@127.0.0.1/app
psql postgresql://me:{}@127.0.0.1/app
host=127.0.0.1 port=1 password={} x
host=127.0.0.1 port=1 password='{}
host=127.0.0.1 port=1 password='{}\\'
host=127.0.0.1 port=1 password {}
host=127.0.0.1 port=1 {}
host=127.0.0.1 port=1 {}=x
host=127.0.0.1 port=1 pasword={}
host=127.0.0.1 port={}
host=127.0.0.1 port=1,{}
host=127.0.0.1:{}
host=127.0.0.1/{}
host=me:{}
host=me:{}@127.0.0.1
hostaddr=me:{}@127.0.0.1
hostaddr=me:{}
dbname=postgresql://me:{}@127.0.0.1/app
Host=127.0.0.1;Password={}
Server=127.0.0.1;User Id=me;Password={};
={}
{}
service=no-such password={}
"""


def _from_elsewhere() -> dict[str, Case]:
    host = "host=127.0.0.1\nport=1\n"
    service = {"services": f"[app]\n{host}password={{}}\n[key]\n{host}sslpassword={{}}\n"}
    passfile = {"passfile": "127.0.0.1:1:*:*:{}\n"}
    named = {"PGSERVICEFILE": "{dir}/services"}
    found = {
        "service": Case("service=app", "", named, service),
        "service in a URI": Case("postgresql://me@/app?service=app", "", named, service),
        "service with sslpassword": Case("service=key", "", named, service),
        "service of the environment": Case("dbname=app", "", {**named, "PGSERVICE": "app"}, service),
        "service that leaks": Case("service=bad", "", named, {"services": "[bad]\nhost=me:{}@127.0.0.1\n"}),
        "service with a typo": Case("service=bad", "", named, {"services": "[bad]\npasword={}\n"}),
        "service at home": Case("service=app", "", {"HOME": "{dir}"}, {".pg_service.conf": service["services"]}),
        "passfile": Case("host=127.0.0.1 port=1 passfile={dir}/passfile", "", {}, passfile),
        "passfile in a URI": Case("postgresql://me@127.0.0.1:1/app?passfile={dir}/passfile", "", {}, passfile),
        "passfile of the environment": Case("host=127.0.0.1 port=1", "", {"PGPASSFILE": "{dir}/passfile"}, passfile),
        "passfile at home": Case("host=127.0.0.1 port=1", "", {"HOME": "{dir}"}, {".pgpass": passfile["passfile"]}),
        "passfile of many hosts": Case("host=/nowhere,127.0.0.1 port=1 passfile={dir}/passfile", "", {}, passfile),
        "variable": Case("host=127.0.0.1 port=1", "", {"PGPASSWORD": "{}"}),
        "variable for the host": Case("port=1", "", {"PGHOST": "me:{}@127.0.0.1"}),
        "variable for the host, encoded": Case("port=1", "", {"PGHOST": "me:{}"}),
        "variable for the port": Case("host=127.0.0.1", "", {"PGPORT": "{}"}),
    }
    filled = {}
    for name, case in found.items():
        password = letters(name) + letters(name * 2)
        fill = {key: value.replace("{}", password) for key, value in case.variables.items()}
        files = {key: value.replace("{}", password) for key, value in case.files.items()}
        filled[name] = Case(case.dsn, password, fill, files)
    return filled


def _from_lines(lines: str) -> dict[str, Case]:
    found = {}
    for line in lines.splitlines():
        password = letters(line) + letters(line * 2)
        found[line] = Case(line.replace("{}", password), password)
    return found


CASES = {**_from_lines(SHAPES), **_from_lines(BROKEN), **_from_elsewhere(), **_with_signs()}
