from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from predeploy.errors import ConfigurationError, DatabaseUrlMissing
from predeploy.settings import Settings, load_settings, termination_log
from predeploy.sql.table_name import DEFAULT_TABLE, TableName

if TYPE_CHECKING:
    from pathlib import Path

DSN = "postgresql://someone:hunter2@db.internal/app"
DEFAULT_DIR = "/program/migrations"
DURATIONS = (
    "MIGRATE_WAIT_TIMEOUT",
    "MIGRATE_LOCK_WAIT_TIMEOUT",
    "MIGRATE_LOCK_TIMEOUT",
    "MIGRATE_STATEMENT_TIMEOUT",
    "MIGRATE_WATCH_AFTER",
)


def load(**variables: str) -> Settings:
    return load_settings({"DATABASE_URL": DSN, **variables}, default_dir=DEFAULT_DIR)


def attribute(variable: str) -> str:
    return {"MIGRATIONS_DIR": "migrations_dir"}.get(variable, variable.removeprefix("MIGRATE_").lower())


def test_only_the_connection_string_is_required() -> None:
    assert load() == Settings(
        database_url=DSN,
        migrations_dir=DEFAULT_DIR,
        wait_timeout=60,
        lock_wait_timeout=300,
        lock_timeout=0,
        statement_timeout=0,
        retries=5,
        watch_after=5,
        on_error="continue",
        foreign_history="stop",
        require_files=False,
        numeric_order=False,
        strict=frozenset(),
        table=DEFAULT_TABLE,
        log_level="info",
        log_format="auto",
        direct_url="",
        unknown=(),
    )


@pytest.mark.parametrize("variable", DURATIONS)
def test_every_duration_is_parsed_and_an_error_names_the_variable(variable: str) -> None:
    assert getattr(load(**{variable: "5m"}), attribute(variable)) == 300
    with pytest.raises(ConfigurationError, match=f"^Invalid {variable}: expected a duration "):
        load(**{variable: "soon"})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("30", 30),
        ("1.5", 1.5),
        ("007", 7),
        ("500ms", 0.5),
        ("0.5ms", 0.0005),
        ("30s", 30),
        ("1.5s", 1.5),
        ("5m", 300),
        ("1h", 3600),
        ("0.5h", 1800),
        (" 30 ", 30),
        ("2147483", 2_147_483),
    ],
)
def test_a_duration_is_in_seconds_or_has_a_unit(text: str, seconds: float) -> None:
    assert load(MIGRATE_WAIT_TIMEOUT=text).wait_timeout == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "-1",
        "+1",
        "inf",
        "nan",
        "1e3",
        "1_000",
        "1,5",
        ".5",
        "1.",
        "0x10",
        "٣٠",
        "²",
        "30 s",
        "30S",
        "30sec",
        "5min",
        "1h30m",
        "1d",
        "ms",
        "soon",
        "true",
        " ",
        "2147484",
        "597h",
        "9" * 400,
        "9" * 5000,
        "30\n40",
        "30\0",
    ],
)
def test_a_bad_duration_is_an_error_that_names_the_variable_and_not_its_value(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(MIGRATE_WAIT_TIMEOUT=text)
    assert str(caught.value) == ("Invalid MIGRATE_WAIT_TIMEOUT: expected a duration such as 60, 500ms, 30s, 5m or 1h.")


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("5", 5), (" 7 ", 7), ("9999", 9999)])
def test_retries_is_an_integer(text: str, count: int) -> None:
    assert load(MIGRATE_RETRIES=text).retries == count


@pytest.mark.parametrize("text", ["0", "-1", "+1", "05", "1.5", "1e3", "10000", "٣", "inf", "many", " ", "9" * 5000])
def test_a_bad_count_is_an_error_that_names_the_variable_and_not_its_value(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(MIGRATE_RETRIES=text)
    assert str(caught.value) == "Invalid MIGRATE_RETRIES: expected a whole number from 1 to 9999."


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("MIGRATE_ON_ERROR", ("continue", "stop")),
        ("MIGRATE_FOREIGN_HISTORY", ("stop", "ignore")),
        ("MIGRATE_LOG_LEVEL", ("info", "debug", "warning", "error")),
        ("MIGRATE_LOG_FORMAT", ("auto", "json", "text")),
    ],
)
def test_a_choice_accepts_only_the_listed_values(variable: str, words: tuple[str, ...]) -> None:
    for word in words:
        for written in (word, word.upper(), f" {word.title()}\n"):
            assert getattr(load(**{variable: written}), attribute(variable)) == word
    for wrong in ("hunter2", "true", "0", " ", words[0][:-1], f"{words[0]} {words[1]}"):
        with pytest.raises(ConfigurationError) as caught:
            load(**{variable: wrong})
        assert str(caught.value) == f"Invalid {variable}: expected one of {', '.join(words)}."


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        *[(word, True) for word in ("true", "TRUE", "1", "yes", "on", " true ")],
        *[(word, False) for word in ("false", "False", "0", "no", "off")],
    ],
)
def test_a_boolean_has_the_usual_spellings(text: str, truth: bool) -> None:
    assert load(MIGRATE_REQUIRE_FILES=text).require_files is truth


@pytest.mark.parametrize("text", ["hunter2", "2", "t", "y", "si", " "])
def test_a_bad_boolean_is_an_error_that_names_the_variable_and_not_its_value(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(MIGRATE_REQUIRE_FILES=text)
    assert str(caught.value) == "Invalid MIGRATE_REQUIRE_FILES: expected true or false."


def test_the_directory_is_used_unchanged() -> None:
    assert load(MIGRATIONS_DIR="some dir/ü").migrations_dir == "some dir/ü"


def test_an_empty_variable_counts_as_unset() -> None:
    names = (
        *DURATIONS,
        "MIGRATE_RETRIES",
        "MIGRATE_ON_ERROR",
        "MIGRATE_REQUIRE_FILES",
        "MIGRATE_LOG_LEVEL",
        "MIGRATE_LOG_FORMAT",
        "MIGRATE_TERMINATION_LOG",
        "MIGRATIONS_DIR",
        "DATABASE_URL_FILE",
    )
    assert load(**dict.fromkeys(names, "")) == load()


def test_unknown_names_are_listed_in_order_and_are_not_an_error() -> None:
    known = {"MIGRATE_TERMINATION_LOG": "/tmp/x", "MIGRATE_RETRIES": "2"}  # noqa: S108  never opened
    others = {
        "MIGRATE_SERVICE_HOST": "10.0.0.1",
        "MIGRATE_PORT": "",
        "MIGRATE_COMMIT": "run",
        "MIGRATE_retries": "x",
        "MIGRATION": "1",
        "PATH": "/",
    }
    assert load(**known, **others).unknown == (
        "MIGRATE_COMMIT",
        "MIGRATE_PORT",
        "MIGRATE_SERVICE_HOST",
        "MIGRATE_retries",
    )


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"DATABASE_URL": ""},
        {"DATABASE_URL": " \t\n"},
        {"DATABASE_URL": "", "DATABASE_URL_FILE": ""},
        {"database_url": DSN},
    ],
)
def test_a_missing_connection_string_has_its_own_error(environ: dict[str, str]) -> None:
    with pytest.raises(DatabaseUrlMissing, match=r"^DATABASE_URL environment variable is required\.$"):
        load_settings(environ, default_dir=DEFAULT_DIR)


def test_white_space_around_the_connection_string_is_ignored() -> None:
    assert load(DATABASE_URL=f" {DSN}\n").database_url == DSN


def test_the_connection_string_is_not_in_the_repr() -> None:
    shown = repr(load())
    assert "migrations_dir" in shown
    assert "hunter2" not in shown
    assert "db.internal" not in shown


@pytest.mark.parametrize(
    "content",
    [
        DSN.encode(),
        f"{DSN}\n".encode(),
        f"{DSN}\r\n".encode(),
        f"\n {DSN} \n\n".encode(),
        b"\xef\xbb\xbf" + DSN.encode(),
    ],
    ids=["bare", "newline", "crlf", "blank lines", "byte order mark"],
)
def test_the_connection_string_is_read_from_a_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "url").write_bytes(content)
    settings = load_settings({"DATABASE_URL_FILE": str(tmp_path / "url"), "DATABASE_URL": ""}, default_dir=DEFAULT_DIR)
    assert settings.database_url == DSN


def test_a_file_may_be_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, DSN.encode())
    os.close(writer)
    try:
        assert load_settings({"DATABASE_URL_FILE": f"/dev/fd/{reader}"}, default_dir=DEFAULT_DIR).database_url == DSN
    finally:
        os.close(reader)


@pytest.mark.parametrize("dsn", [DSN, " "])
def test_url_and_file_together_are_an_error(tmp_path: Path, dsn: str) -> None:
    (tmp_path / "url").write_text(DSN)
    with pytest.raises(ConfigurationError) as caught:
        load(DATABASE_URL=dsn, DATABASE_URL_FILE=str(tmp_path / "url"))
    assert str(caught.value) == "DATABASE_URL and DATABASE_URL_FILE are both set. Remove one."


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (DSN.encode("utf-16"), "cannot be read: not a text file"),
        (b"postgresql://someone:hunter2\xff@db.internal/app", "cannot be read: not a text file"),
    ],
    ids=["nothing", "blank", "only a byte order mark", "UTF-16", "Latin-1"],
)
def test_a_file_without_a_connection_string_is_an_error_and_its_contents_are_not_quoted(
    tmp_path: Path, content: bytes, why: str
) -> None:
    (tmp_path / "url").write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load(DATABASE_URL="", DATABASE_URL_FILE=str(tmp_path / "url"))
    assert str(caught.value) == f"The file named by DATABASE_URL_FILE {why}."
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("{dir}/missing", "No such file or directory"),
        ("{dir}", "Is a directory"),
        (DSN, "No such file or directory"),
        (DSN + "x" * 5000, "File name too long"),
        ("{dir}\0hunter2", "not a text file"),
    ],
    ids=["missing", "a directory", "the connection string itself", "a long one", "NUL"],
)
def test_a_file_that_cannot_be_read_is_an_error_that_does_not_name_it(tmp_path: Path, named: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(DATABASE_URL="", DATABASE_URL_FILE=named.format(dir=tmp_path))
    assert str(caught.value) == f"The file named by DATABASE_URL_FILE cannot be read: {why}."
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("variable", [*DURATIONS, "MIGRATE_RETRIES", "MIGRATE_ON_ERROR", "MIGRATE_REQUIRE_FILES"])
def test_a_connection_string_in_the_wrong_variable_is_not_shown(variable: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^Invalid {variable}: ") as caught:
        load(**{variable: DSN})
    assert "hunter2" not in str(caught.value)


def test_the_termination_log_is_the_file_that_the_variable_names(tmp_path: Path) -> None:
    assert termination_log({"MIGRATE_TERMINATION_LOG": str(tmp_path / "log")}) == str(tmp_path / "log")


@pytest.mark.parametrize("environ", [{}, {"MIGRATE_TERMINATION_LOG": ""}])
@pytest.mark.parametrize("there", [True, False])
def test_the_termination_log_defaults_to_the_kubernetes_path_if_it_exists(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], there: bool
) -> None:
    monkeypatch.setattr("os.path.exists", lambda path: there and path == "/dev/termination-log")
    assert termination_log(environ) == ("/dev/termination-log" if there else None)


@pytest.mark.parametrize(
    "variable", ["DATABASE_UNPOOLED_URL", "DATABASE_URL_UNPOOLED", "DIRECT_DATABASE_URL", "DIRECT_URL"]
)
def test_a_direct_connection_string_is_recognised_by_its_variable(variable: str) -> None:
    assert load(**{variable: "postgres://someone:hunter2@direct/app"}).direct_url == variable
    assert load(**{variable: ""}).direct_url == ""


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("", set()),
        ("changed", {"changed"}),
        ("changed,missing", {"changed", "missing"}),
        (" Late, renamed ", {"late", "renamed"}),
        ("all", {"changed", "missing", "late", "misordered", "renamed", "ignored"}),
    ],
)
def test_strict_is_a_list_of_kinds(text: str, kinds: set[str]) -> None:
    assert load(MIGRATE_STRICT=text).strict == kinds


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MIGRATE_STRICT", "changes"),
        ("MIGRATE_STRICT", "all,late"),
        ("MIGRATE_ORDER", "number"),
        ("MIGRATE_TABLE", "a.b.c"),
        ("MIGRATE_TABLE", "my table"),
    ],
)
def test_an_unknown_value_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"Invalid {name}: expected") as caught:
        load(**{name: value})
    assert value not in str(caught.value)


def test_the_table_and_the_order_are_read() -> None:
    assert load(MIGRATE_TABLE='app."My Table"').table == TableName("My Table", "app")
    assert load(MIGRATE_ORDER="numeric").numeric_order


def test_migration_settings_are_read_in_lower_case_and_are_known() -> None:
    found = load(MIGRATE_SET_REGION="eu", MIGRATE_SET__a1=" it's ", MIGRATE_SET_EMPTY="", MIGRATE_SETS="x")
    assert found.migration_settings == (("_a1", " it's "), ("region", "eu"))
    assert found.unknown == ("MIGRATE_SETS",)
    assert "it's" not in repr(found)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"MIGRATE_SET_": "hunter2"}, "letters, digits and underscores"),
        ({"MIGRATE_SET_1A": "hunter2"}, "letters, digits and underscores"),
        ({"MIGRATE_SET_A-B": "hunter2"}, "letters, digits and underscores"),
        ({"MIGRATE_SET_É": "hunter2"}, "letters, digits and underscores"),
        ({"MIGRATE_SET_" + "A" * 64: "hunter2"}, "letters, digits and underscores"),
        ({"MIGRATE_SET_A": "hunter2", "MIGRATE_SET_a": "hunter2"}, "MIGRATE_SET_a: another variable differs"),
        ({"MIGRATE_SET_A": "hunter2\udcff"}, "MIGRATE_SET_A: the value is not valid UTF-8"),
    ],
)
def test_an_invalid_migration_setting_is_named_without_its_value(variables: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        load(**variables)
    assert "hunter2" not in str(caught.value)
