from __future__ import annotations

import builtins
import hashlib
import importlib
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from predeploy.errors import ConfigurationError
from predeploy.migrations import directory
from predeploy.migrations.chunks import MAX_MESSAGE_CHARS
from predeploy.migrations.directory import MAX_KEPT_BYTES, read_migrations
from predeploy.migrations.large_file import _BLOCK_BYTES
from predeploy.migrations.migration import Migration, MigrationFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.migrations_dir import MigrationsDir

ROOT = Path(__file__).parents[2]
SQL = "CREATE TABLE a (id int);\n"
NOT_UTF8 = "invalid UTF-8; save the file as UTF-8"


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode().replace(b"\r\n", b"\n")).hexdigest()


def read_one(migrations_dir: MigrationsDir, content: str | bytes) -> Migration:
    migrations_dir.write("001.sql", content)
    [migration] = read_migrations(migrations_dir.path).migrations
    assert migration.name == "001.sql"
    return migration


def names(directory: Path) -> list[str]:
    return [migration.name for migration in read_migrations(directory).migrations]


# The directory


def test_a_migration_has_the_name_text_and_checksum_of_its_file(migrations_dir: MigrationsDir) -> None:
    assert read_one(migrations_dir, SQL) == Migration("001.sql", SQL, sha256_of(SQL), problem=None)


@pytest.mark.parametrize("missing", ["missing", "missing/below", "dangling"])
def test_a_missing_directory_counts_as_empty(tmp_path: Path, missing: str) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    assert read_migrations(tmp_path / missing) == MigrationFiles(found=False)


def test_an_empty_directory_has_no_files(tmp_path: Path) -> None:
    assert read_migrations(tmp_path) == MigrationFiles()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("file", "Not a directory"),
        ("file/below", "Not a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("x" * 5000, "File name too long"),
    ],
    ids=["a file", "below a file", "a loop", "too long"],
)
def test_a_directory_that_cannot_be_listed_is_an_error(tmp_path: Path, path: str, why: str) -> None:
    (tmp_path / "file").write_text(SQL)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigurationError) as caught:
        read_migrations(tmp_path / path)
    assert str(caught.value) == f"Cannot list the migrations directory: {why}."


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A directory that other users can reach, unlike pytest's temporary directories."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        (Path(directory) / "migrations").mkdir()
        yield Path(directory) / "migrations"
        (Path(directory) / "migrations").chmod(0o755)


@pytest.mark.parametrize(
    ("directory_mode", "file_mode", "outcome"),
    [
        (0o555, 0o444, "None"),
        (0o555, 0o000, "the file cannot be read: Permission denied"),
        (0o555, 0o333, "the file cannot be read: Permission denied"),
        (0o444, 0o444, "the file cannot be read: Permission denied"),
        (0o333, 0o444, "Cannot list the migrations directory: Permission denied."),
        (0o111, 0o444, "Cannot list the migrations directory: Permission denied."),
        (0o000, 0o444, "Cannot list the migrations directory: Permission denied."),
    ],
)
def test_missing_permissions_are_reported(public_dir: Path, directory_mode: int, file_mode: int, outcome: str) -> None:
    (public_dir / "001.sql").write_text(SQL)
    (public_dir / "001.sql").chmod(file_mode)
    public_dir.chmod(directory_mode)
    assert _outcome_without_privilege(public_dir) == outcome


def _outcome_without_privilege(directory: Path) -> str:
    """Read the directory in a process that is not root, because root ignores file modes."""
    source = """
import os, sys
from pathlib import Path
from predeploy.errors import ConfigurationError
from predeploy.migrations.directory import read_migrations
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    print(*(migration.problem for migration in read_migrations(Path(sys.argv[1])).migrations))
except ConfigurationError as error:
    print(error)
"""
    command = [sys.executable, "-c", source, str(directory)]
    done = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.removesuffix("\n")


# Which files are migrations, and their order


def test_files_are_sorted_by_the_code_points_of_their_names(migrations_dir: MigrationsDir) -> None:
    in_order = [
        " 1.sql",
        "!.sql",
        "'quoted'.sql",
        "-1.sql",
        "0.sql",
        "001 first.sql",
        "001.sql",
        "001_a.sql",
        "10.sql",
        "2.sql",
        "A.sql",
        "B.sql",
        "_.sql",
        "a\nb.sql",
        'a"b.sql',
        "a.sql",
        "a.sql.sql",
        "b.sql",
        "ß.sql",
        "é.sql",
        "你.sql",
        "\ue000.sql",
        "\uff21.sql",
        "🐘.sql",  # sorts after U+E000 and U+FF21 by code point, but before them in UTF-16
    ]
    for name in reversed(in_order):
        migrations_dir.write(name, SQL)
    assert names(migrations_dir.path) == in_order == sorted(in_order)


def test_the_order_of_the_listing_does_not_matter(
    migrations_dir: MigrationsDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        migrations_dir.write(f"{number:03}.sql", SQL)

    listdir = os.listdir
    monkeypatch.setattr("predeploy.migrations.directory.os.listdir", lambda path: sorted(listdir(path), reverse=True))
    assert names(migrations_dir.path) == [f"{number:03}.sql" for number in range(20)]


def test_other_files_and_dot_files_are_ignored(migrations_dir: MigrationsDir) -> None:
    for name in ("README.md", "001.sql.bak", "001.sql~", "001sql", "sql", "x.sqlx"):
        migrations_dir.write(name, SQL)
    for name in (".sql", ".hidden.sql", "..sql", "._001.sql", ".SQL", ".x.SQL"):
        migrations_dir.write(name, SQL)
    (migrations_dir.path / "..data").mkdir()
    (migrations_dir.path / "..data/migration.sql").write_text(SQL)
    assert read_migrations(migrations_dir.path) == MigrationFiles()


def test_a_name_in_another_unicode_form_is_the_same_name(migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("e\u0301.sql", SQL)
    assert names(migrations_dir.path) == ["é.sql"]
    assert read_migrations(migrations_dir.path).migrations[0].sql == SQL
    migrations_dir.write("é.sql", SQL)
    problems = [migration.problem for migration in read_migrations(migrations_dir.path).migrations]
    assert sorted(map(str, problems)) == [
        "None",
        "another file has the same name in another Unicode normal form; remove one of them",
    ]


def test_each_file_of_a_configmap_volume_is_found_once(tmp_path: Path) -> None:
    data = tmp_path / "..2024_05_01_12_00_00.1234567890"
    data.mkdir()
    (tmp_path / "..data").symlink_to(data.name)
    for name in ("001.sql", "002.sql"):
        (data / name).write_text(f"-- {name}\n")
        (tmp_path / name).symlink_to(f"..data/{name}")
    migrations = read_migrations(tmp_path).migrations
    assert [(m.name, m.sql, m.problem) for m in migrations] == [
        ("001.sql", "-- 001.sql\n", None),
        ("002.sql", "-- 002.sql\n", None),
    ]


def test_a_name_that_is_not_utf_8_is_a_problem_with_that_file(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/001_\xff\xe9.sql")).write_text(SQL)
    (tmp_path / "002.sql").write_text(SQL)
    bad, good = read_migrations(tmp_path).migrations
    assert bad == Migration("001_\\udcff\\udce9.sql", problem="the file name is not valid UTF-8; rename the file")
    assert (good.name, good.problem) == ("002.sql", None)


# Reading


@pytest.mark.parametrize(
    ("content", "sql"),
    [
        (b"", ""),
        (b"\n\n", "\n\n"),
        (b"-- only a comment", "-- only a comment"),
        (b"SELECT 'Gr\xc3\xbc\xc3\x9fe \xf0\x9f\x90\x98';", "SELECT 'Grüße 🐘';"),
        (b"\xef\xbb\xbfSELECT 1;", "SELECT 1;"),
        (b"\xef\xbb\xbf\xef\xbb\xbfSELECT 1;", "\ufeffSELECT 1;"),
        (b"\xef\xbb\xbf", ""),
        (b"SELECT 1;\r\nSELECT 2;\r\n", "SELECT 1;\r\nSELECT 2;\r\n"),
        (b"SELECT '\0';", "SELECT '\0';"),
    ],
    ids=["empty", "blank", "comment", "unicode", "bom", "two boms", "only a bom", "crlf", "nul"],
)
def test_the_text_is_the_file_without_a_byte_order_mark(
    migrations_dir: MigrationsDir, content: bytes, sql: str
) -> None:
    migration = read_one(migrations_dir, content)
    assert (migration.sql, migration.problem) == (sql, None)
    assert migration.checksum


@pytest.mark.parametrize(
    ("content", "same"),
    [
        (b"a\nb\n", True),
        (b"a\r\nb\r\n", True),
        (b"a\r\nb\n", True),
        (b"\xef\xbb\xbfa\nb\n", True),
        (b"\xef\xbb\xbfa\r\nb\r\n", True),
        (b"a\nb", False),
        (b"a\rb\r", False),
        (b"a\nb\n\n", False),
        (b"a\nB\n", False),
        (b" a\nb\n", False),
        (b"a\r\r\nb\n", False),
    ],
    ids=repr,
)
def test_a_checksum_ignores_line_endings_and_the_byte_order_mark_but_no_other_change(
    migrations_dir: MigrationsDir, content: bytes, same: bool
) -> None:
    assert (read_one(migrations_dir, content).checksum == hashlib.sha256(b"a\nb\n").hexdigest()) is same


@pytest.mark.parametrize("missing", [[], ["_sha2"], ["_sha2", "_sha256"]], ids=["none", "one", "both"])
def test_the_checksum_does_not_depend_on_the_interpreters_modules(
    migrations_dir: MigrationsDir, missing: list[str]
) -> None:
    """Python before 3.12 has no `_sha2`, later versions have no `_sha256`, and an interpreter may lack both."""
    import_module = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name in missing:
            raise ImportError(name)
        return import_module(name, *rest)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(builtins, "__import__", refuse)
            importlib.reload(directory)
        migrations_dir.write("001.sql", SQL)
        [migration] = directory.read_migrations(migrations_dir.path).migrations
        assert migration.checksum == sha256_of(SQL)
    finally:
        importlib.reload(directory)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"\xff", 1),
        (b"SELECT 1;\nSELECT 'caf\xe9';\n", 2),
        (b"a\r\nb\r\nc\xff\n\xff", 3),
        (b"a\n\xed\xa0\x80", 2),
        (b"a\n\n\xf0\x9f\x90", 3),
        (b"a\xc0\x80", 1),
        ("SELECT 1;".encode("utf-16"), 1),
        (b"\xef\xbb\xbf\n\xe4", 2),
    ],
    ids=["nothing else", "Latin-1", "the first of two", "a surrogate", "cut off", "overlong", "UTF-16", "after a bom"],
)
def test_a_file_that_is_not_utf_8_is_reported_with_its_first_bad_line(
    migrations_dir: MigrationsDir, content: bytes, line: int
) -> None:
    migration = read_one(migrations_dir, content)
    assert (migration.problem, migration.problem_line) == (NOT_UTF8, line)
    assert (migration.sql, bool(migration.checksum)) == ("", True)


@pytest.mark.timeout(10)  # opening the FIFO may block
def test_a_file_that_cannot_be_read_is_a_problem_with_that_file(tmp_path: Path) -> None:
    (tmp_path / "1_dangling.sql").symlink_to("nowhere")
    (tmp_path / "2_loop.sql").symlink_to("2_loop.sql")
    (tmp_path / "3_directory.sql").mkdir()
    os.mkfifo(tmp_path / "4_fifo.sql")
    (tmp_path / "5_device.sql").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "6_socket.sql"))
        (tmp_path / "7_good.sql").write_text(SQL)
        migrations = read_migrations(tmp_path).migrations
    assert [(m.name, m.problem) for m in migrations] == [
        ("1_dangling.sql", "the file cannot be read: No such file or directory"),
        ("2_loop.sql", "the file cannot be read: Too many levels of symbolic links"),
        ("3_directory.sql", "the file cannot be read: Is a directory"),
        ("4_fifo.sql", "the file cannot be read: Not a regular file"),
        ("5_device.sql", "the file cannot be read: Not a regular file"),
        ("6_socket.sql", "the file cannot be read: No such device or address"),
        ("7_good.sql", None),
    ]
    assert [m.checksum is None for m in migrations] == [True] * 6 + [False]


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
@pytest.mark.timeout(10)  # opening the FIFO may block
def test_no_file_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "1.sql").write_text(SQL)
    (tmp_path / "2.sql").mkdir()
    os.mkfifo(tmp_path / "3.sql")
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    read_migrations(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == len(before)  # noqa: PTH208


def test_a_file_that_disappears_after_the_listing_is_a_problem_with_that_file(
    migrations_dir: MigrationsDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("001.sql", "002.sql", "003.sql"):
        migrations_dir.write(name, SQL)
    listdir = os.listdir

    def list_and_remove(path: Path) -> list[str]:
        found = listdir(path)
        Path(path, "002.sql").unlink()
        return found

    monkeypatch.setattr("predeploy.migrations.directory.os.listdir", list_and_remove)
    problems = [m.problem for m in read_migrations(migrations_dir.path).migrations]
    assert problems == [None, "the file cannot be read: No such file or directory", None]


def test_an_error_while_reading_is_a_problem_with_that_file(
    migrations_dir: MigrationsDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_file: int, _size: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("predeploy.migrations.directory.os.read", fail)
    assert read_one(migrations_dir, SQL).problem == "the file cannot be read: Input/output error"


# Big files

LINE = "SELECT 'Grüße';\r\n"


def long(begin: str = "", end: str = "") -> str:
    return begin + LINE * (MAX_KEPT_BYTES // len(LINE.encode()) + 1) + end


def test_the_text_of_a_big_file_is_not_kept_in_memory(migrations_dir: MigrationsDir) -> None:
    text = long("\ufeff")
    path = str(migrations_dir.path / "001.sql")
    migration = read_one(migrations_dir, text)
    assert migration == Migration("001.sql", checksum=sha256_of(text[1:]), path=path)
    assert (migration.is_large, migration.transactional) == (True, True)


def test_line_endings_match_editors_in_big_and_small_files(migrations_dir: MigrationsDir) -> None:
    begin = "\ufeffone\r\ntwo\n\nfour\rfive\u2028\x0c\n"
    expected = ["one\r\n", "two\n", "\n", "four\r", "five\u2028\x0c\n"]
    assert list(read_one(migrations_dir, begin).lines()) == expected
    assert list(read_one(migrations_dir, begin + "six").lines()) == [*expected, "six"]
    assert list(read_one(migrations_dir, "").lines()) == []
    big = read_one(migrations_dir, long(begin))
    lines = list(big.lines())
    assert big.is_large
    assert lines[:5] == expected
    assert set(lines[5:]) == {LINE}


def test_the_chunks_of_big_and_small_files_add_up_to_the_text(migrations_dir: MigrationsDir) -> None:
    for text in ("", SQL, "SELECT 1;\n" * 200_000, long("\ufeffSELECT 1;\n")):
        chunks = list(read_one(migrations_dir, text).chunks())
        assert "".join(chunk.text for chunk in chunks) == text.removeprefix("\ufeff")
        assert (len(chunks) > 1) == (len(text) > MAX_MESSAGE_CHARS)


def test_a_file_just_below_the_limit_is_kept_in_memory(migrations_dir: MigrationsDir) -> None:
    migration = read_one(migrations_dir, "x" * MAX_KEPT_BYTES)
    assert (len(migration.sql), migration.path) == (MAX_KEPT_BYTES, None)


@pytest.mark.parametrize(
    "begin",
    [
        "-- migrate:no-transaction\n",
        f"-- {'x' * 2_000_000}\n-- migrate:no-transaction\n",
        f"/* {'x' * 2_000_000} */\n-- migrate:no-transaction\n",
        " " * (_BLOCK_BYTES - 1) + "-- migrate:no-transaction\n",
    ],
    ids=["a directive", "a long comment", "a long block comment", "cut in the middle"],
)
def test_a_big_no_transaction_file_is_kept_in_memory(migrations_dir: MigrationsDir, begin: str) -> None:
    text = long(begin)
    migration = read_one(migrations_dir, text)
    assert (migration.sql == text, migration.transactional, migration.path) == (True, False, None)


def test_a_big_file_whose_directive_is_invalid_is_not_kept_in_memory(migrations_dir: MigrationsDir) -> None:
    migration = read_one(migrations_dir, long("-- migrate:no-transaction please\n"))
    assert (migration.sql, migration.transactional) == ("", True)


def test_a_big_file_that_is_not_utf_8_is_reported_with_its_first_bad_line(migrations_dir: MigrationsDir) -> None:
    content = long().encode() + b"\xff\n" + long().encode() + b"\xff"
    migration = read_one(migrations_dir, content)
    line = content.partition(bytes([255]))[0].count(bytes([10])) + 1
    assert (migration.problem, migration.problem_line) == (NOT_UTF8, line)
    assert migration.checksum == hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()
    assert (migration.sql, migration.path) == ("", None)


# Directives

DIRECTIVES = [
    "-- migrate:no-transaction",
    "--migrate:no-transaction",
    "--   migrate:no-transaction",
    "-- MIGRATE:NO-TRANSACTION",
    "-- migrate:no-transaction \t ",
    "-- no-transaction",
    "-- +goose NO TRANSACTION",
    "-- +goose no transaction",
    "-- +goose  NO  TRANSACTION",
    "-- migrate:up transaction:false",
    "-- migrate:up transaction: false",
    "-- migrate:up foo:bar transaction:false",
    "---- tern: disable-tx ----",
    "-- postgres-migrations disable-transaction",
    "-- Postgres-Migrations Disable-Transaction",
    "-- atlas:txmode none",
    "--! no-transaction",
    "-- +migrate Up notransaction",
]


@pytest.mark.parametrize(
    "template",
    [
        "{}",
        "{}\nSELECT 1;\n",
        "{}\r\nSELECT 1;\r\n",
        "{}\rSELECT 1;\r",
        "\ufeff{}\nSELECT 1;\n",
        "\n\n  \t{}\nSELECT 1;\n",
        "-- a comment\n{}\nSELECT 1;\n",
        "-- a comment\r\n\r\n{}\r\nSELECT 1;\r\n",
        "-- a comment\r{}\rSELECT 1;\r",
        "/* a\n * header; */\n{}\nSELECT 1;\n",
        "/* a header */ {}\nSELECT 1;\n",
        "-- it's\n{}\n-- more\n/* and more */\nSELECT 1;\n",
    ],
    ids=repr,
)
def test_a_directive_before_the_first_statement_turns_the_transaction_off(
    migrations_dir: MigrationsDir, template: str
) -> None:
    sql = template.format(DIRECTIVES[0])
    migration = read_one(migrations_dir, sql)
    assert migration.transactional is False
    assert migration.sql == sql.removeprefix("\ufeff")


@pytest.mark.parametrize(
    "template",
    [
        "SELECT 1;\n{}\n",
        "SELECT 1; {}\n",
        "-- a comment\rSELECT 1;\n{}\n",
        ";\n{}\n",
        "SELECT\n{}\n1;\n",
        "SELECT '\n{}\n';",
        "/* {} */\nSELECT 1;\n",
        "/*\n{}\n*/\nSELECT 1;\n",
        "/* never closed\n{}\n",
    ],
    ids=repr,
)
def test_a_directive_anywhere_else_is_ignored(migrations_dir: MigrationsDir, template: str) -> None:
    assert read_one(migrations_dir, template.format(DIRECTIVES[0])).transactional is True


@pytest.mark.parametrize("directive", DIRECTIVES)
def test_a_directive_must_be_a_whole_line(migrations_dir: MigrationsDir, directive: str) -> None:
    assert read_one(migrations_dir, f"{directive}\nSELECT 1;\n").transactional is False
    for prose in (f"-- {directive}", f"--{directive}", f"-- use {directive}", f"{directive} please", f"{directive};"):
        assert read_one(migrations_dir, f"{prose}\nSELECT 1;\n").transactional is True, prose


@pytest.mark.parametrize(
    "comment",
    [
        "-- migrate:transaction",
        "-- migrate:no-transactions",
        "-- migrate:no_transaction",
        "-- migrate: no-transaction",
        "-- migrate:up",
        "-- migrate:up transaction:true",
        "-- migrate:down transaction:false",
        "-- migrate:upwards transaction:false",
        "-- +goose Up",
        "-- +goose NOTRANSACTION",
        "-- goose NO TRANSACTION",
        "-- tern: disable-tx",
        "-- atlas:txmode file",
        "-- +migrate Down notransaction",
        "-- +migrate Up",
        "# migrate:no-transaction",
        "- migrate:no-transaction",
    ],
)
def test_text_that_only_resembles_a_directive_is_ignored(migrations_dir: MigrationsDir, comment: str) -> None:
    assert read_one(migrations_dir, f"{comment}\nSELECT 1;\n").transactional is True
