"""The parts of a trial: files with countable effects, a path to the server, and faults at numbered messages."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

CUTS = ("cut_before", "cut_after", "cut_client", "cut_line", "terminate", "restart")  # the run must survive these
SIGNALS = ("sigterm", "sigint", "freeze_sigterm")
KILLS = ("kill_before", "kill_after")
OTHERS = ("rival", "waiter", "foreign")  # another session that applies the same files or tries to
FAULTS = (*CUTS, *SIGNALS, *KILLS, *OTHERS)
# Only on the paths below. In a crash, the standby is promoted immediately or later. In a switchover, the standby is
# promoted after a regular shutdown of the primary, which first sends everything to the standby.
FAILOVERS = ("crash", "crash_unnoticed", "crash_promote_later", "switchover")
# Only on the path below. A message is delayed, so that the server ends idle sessions and transactions.
STALLS = ("stall",)
TIMEOUTS_PATH = "timeouts"
# A connection string with both hosts; one address that moves to the standby; both hosts, and COMMIT waits for the
# standby.
FAILOVER_PATHS = ("hosts", "moved", "synchronous")

# Without a key, so that repeated effects are counted.
EFFECTS = "CREATE TABLE effects (migration text, statement int, place bigint GENERATED ALWAYS AS IDENTITY)"
OLD_CHECKSUM = "old"
OLD_NAME = "9"  # the start of a renamed file's old name
_EFFECT = "INSERT INTO effects (migration, statement) VALUES ('{name}', {number});\n"
_FILES = {
    "plain": "{1}",
    "ddl": "CREATE TABLE t_{stem} (id int PRIMARY KEY, n int);\n{1}CREATE INDEX ON t_{stem} (n);\n{2}",
    "rows": "SELECT g, repeat('x', 20) FROM generate_series(1, 40) AS g;\n{1}",
    "notice": "DO $$BEGIN RAISE NOTICE 'half way'; END$$;\n{1}DO $$BEGIN RAISE WARNING 'nearly'; END$$;\n",
    "notices": "{1}DO $$BEGIN FOR n IN 1..200 LOOP RAISE NOTICE 'this is number %', n; END LOOP; END$$;\n",
    "slow": "{1}SELECT pg_sleep(0.02);\n{2}",
    "settings": "SET search_path = public, pg_temp;\nCREATE TEMP TABLE left_over (n int);\n"
    "{1}SET statement_timeout = 0;\n",
    "big": "{1}SELECT length('" + "x" * 1_100_000 + "');\n{2}SELECT length('" + "y" * 1_100_000 + "');\n{3}",
    "sleeping": "{1}SELECT pg_sleep(0.2);\n{2}",
    "repeatable": "-- migrate:repeatable\n{1}SELECT pg_sleep(0.01);\n{2}",
    # These have a row from before the run: of the file itself, of an old version, and under an old name.
    "known": "{1}",
    "changed": "-- migrate:repeatable\n{1}SELECT pg_sleep(0.01);\n{2}",
    "renamed": "{1}{2}",
    "failing": "{1}SELECT 1 / 0;\n{2}",
    "overdue": "{1}SELECT pg_sleep(1.4);\n{2}",  # on the path with timeouts
    # Such a file must be safe to run twice; the effects show how often it was run.
    "no-transaction": "-- migrate:no-transaction\n{1}DROP INDEX CONCURRENTLY IF EXISTS i_{stem};\n"
    "CREATE INDEX CONCURRENTLY i_{stem} ON effects (statement);\n{2}",
    "outside": "-- migrate:no-transaction\n{1}VACUUM effects;\n{2}{3}",
}


@dataclass(frozen=True, slots=True)
class File:
    """A migration of the given kind, and the effects that exist once it is applied."""

    name: str
    kind: str

    @property
    def effects(self) -> tuple[int, ...]:
        return tuple(number for number in (1, 2, 3) if f"{{{number}}}" in _FILES[self.kind])

    @property
    def fails(self) -> bool:
        return self.kind in {"failing", "overdue"}

    @property
    def repeatable(self) -> bool:
        return self.kind in {"repeatable", "changed"}

    @property
    def earlier(self) -> str:
        """SQL that simulates an earlier run of the file, of its old version, or of the file under its old name."""
        name, checksum = self.name, sha256(self.sql.encode()).hexdigest()
        row = "INSERT INTO _migrations (name, checksum) VALUES ('{}', '{}');\n"
        effects = "".join(_EFFECT.format(name=name, number=number) for number in self.effects)
        return {
            "known": row.format(name, checksum) + effects,
            "changed": row.format(name, OLD_CHECKSUM),
            "renamed": row.format(OLD_NAME + name, checksum) + effects,
        }.get(self.kind, "")

    @property
    def transactional(self) -> bool:
        return not _FILES[self.kind].startswith("-- migrate:no-transaction")

    @property
    def sql(self) -> str:
        text = _FILES[self.kind].replace("{stem}", self.name.removesuffix(".sql"))
        for number in self.effects:
            text = text.replace(f"{{{number}}}", _EFFECT.format(name=self.name, number=number))
        return text


@dataclass(frozen=True, slots=True)
class Plan:
    """One trial. Its text, `path/kinds/fault@message,...`, is enough to repeat it."""

    path: str
    kinds: tuple[str, ...]
    faults: tuple[tuple[str, int], ...] = ()
    fresh: bool = False  # a new process instead of a fork, to check that both behave alike

    def __str__(self) -> str:
        faults = ",".join(f"{kind}@{number}" for kind, number in self.faults)
        return f"{self.path}/{','.join(self.kinds)}/{faults}" + ("/fresh" if self.fresh else "")

    @classmethod
    def parse(cls, text: str) -> Plan:
        path, kinds, faults, *rest = text.split("/")
        due = [fault.split("@") for fault in faults.split(",") if fault]
        return cls(path, tuple(kinds.split(",")), tuple((kind, int(number)) for kind, number in due), rest == ["fresh"])

    @property
    def files(self) -> list[File]:
        """The files, sorted by name."""
        return [File(f"{number:03}.sql", kind) for number, kind in enumerate(self.kinds, 1)]

    @property
    def known(self) -> list[str]:
        """The names of the files that were applied before the run, possibly under another name."""
        return [file.name for file in self.files if file.kind in {"known", "renamed"}]

    @property
    def order(self) -> list[str]:
        """The names in the order in which the files are applied: repeatable files come last."""
        return [file.name for file in sorted(self.files, key=lambda file: (file.repeatable, file.name))]


@dataclass(frozen=True, slots=True)
class Length:
    """The number of messages of a run on one path: until it is logged in, without files, and per file."""

    login: int
    base: int
    per_file: int

    def of(self, files: int) -> int:
        return self.base + self.per_file * files


@dataclass(frozen=True, slots=True)
class Focus:
    """The choices for drawing trials; an empty choice means all. Every trial contains a file of the kind `special`."""

    paths: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    special: str = ""


_WIDE = Focus()
_PATHS = {"direct": 40, "tls": 20, "session": 15, "transaction": 25}
_COMMON = {"plain": 4, "ddl": 2, "rows": 1, "notice": 1, "settings": 1}
_SPECIAL = {"failing": 0.2, "big": 0.04, "no-transaction": 0.2, "outside": 0.1, "sleeping": 0.03}
_FAILOVER_PATHS = {"hosts": 4, "moved": 4, "synchronous": 2}
_FAILOVER_KINDS = {"slow": 5, "plain": 3, "ddl": 2, "notice": 1, "settings": 1}
_FAILOVER_SPECIAL = {"no-transaction": 0.35, "outside": 0.2, "repeatable": 0.3, "failing": 0.1, "big": 0.08}
_FAILOVER_SPECIAL |= {"known": 0.25, "changed": 0.25, "renamed": 0.2}
_AFTER_FAILOVER = ("cut_before", "cut_after", "cut_client", "terminate", "restart")
_FAULTS = {
    "cut_line": 6,
    "restart": 2,
    "freeze_sigterm": 1,
    "sigint": 5,
    "rival": 8,
    "waiter": 6,
    "foreign": 8,
}  # all other faults have the weight 12


def draw(rng: random.Random, lengths: Mapping[str, Length], focus: Focus = _WIDE, *, fresh: bool = False) -> Plan:
    """Draw a trial: usually one fault after the login, occasionally one before the login, or two after it."""
    paths = [path for path in focus.paths or _PATHS if path in lengths] or ["direct"]  # PgBouncer may be missing
    path = rng.choices(paths, [_PATHS[path] for path in paths])[0]
    kinds = _draw_kinds(rng, path, focus)
    length = lengths[path]
    in_login = rng.random() < 0.12
    first = rng.randint(1, length.login) if in_login else rng.randint(length.login + 1, length.of(len(kinds)))
    faults = [(_draw_fault(rng, focus), first)]
    if rng.random() < 0.3:
        faults.append((_draw_fault(rng, focus), first + rng.randint(1, 60)))
    return Plan(path, kinds, tuple(faults), fresh)


def draw_failover(rng: random.Random, length: Length, focus: Focus = _WIDE) -> Plan:
    """Draw a trial with one failover; in most trials, replication stops earlier, so that commits are lost.

    `length` is the number of messages in a run, which is the same on every path.
    """
    paths = focus.paths or FAILOVER_PATHS
    path = rng.choices(paths, [_FAILOVER_PATHS[path] for path in paths])[0]
    (count,) = rng.choices((3, 10, 30), (3, 4, 2))
    kinds = rng.choices(list(_FAILOVER_KINDS), list(_FAILOVER_KINDS.values()), k=count)
    for kind, share in _FAILOVER_SPECIAL.items():
        if rng.random() < share:
            kinds[rng.randrange(count)] = kind
    number = rng.randint(length.login + 1, length.of(count)) if rng.random() < 0.95 else rng.randint(2, length.login)
    faults = [(rng.choice(focus.faults or FAILOVERS), number)]
    if path != "synchronous" and rng.random() < 0.75:  # on that path, COMMIT would wait forever
        faults.append(("detach", rng.randint(max(number - 40 * rng.randint(1, 6), 1), number - 1)))
    if rng.random() < 0.35:
        faults.append((rng.choice(_AFTER_FAILOVER), number + rng.randint(1, 120)))
    return Plan(path, tuple(kinds), tuple(faults))


def _draw_kinds(rng: random.Random, path: str, focus: Focus) -> tuple[str, ...]:
    (count,) = rng.choices((1, 3, 10), (4, 4, 2))
    kinds = rng.choices(list(_COMMON), list(_COMMON.values()), k=count)
    for kind, share in _SPECIAL.items():
        if path == "transaction" and not File("", kind).transactional:  # transaction mode rejects such a file
            continue
        if kind == focus.special or rng.random() < share:
            kinds[rng.randrange(count)] = kind
    return tuple(kinds)


def _draw_fault(rng: random.Random, focus: Focus) -> str:
    faults = focus.faults or FAULTS
    return rng.choices(faults, [_FAULTS.get(kind, 12) for kind in faults])[0]
