from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from predeploy.log.setup import open_log
from predeploy.log.throttle import LogThrottle
from predeploy.redaction.scrubber import Scrubber

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("restored_logging")
log = logging.getLogger("predeploy.some_module")


@pytest.fixture
def _far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use a time zone other than UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "IST-05:30")
        time.tzset()
        yield
    time.tzset()


def logged(stream: io.StringIO) -> list[dict[str, Any]]:
    assert stream.getvalue().endswith("\n")
    return [json.loads(line) for line in stream.getvalue().removesuffix("\n").split("\n")]


class Exploding:
    def __str__(self) -> str:
        raise RuntimeError("no text for hunter2")


class FullDisk(io.StringIO):
    def write(self, _text: str, /) -> int:
        raise OSError(28, "No space left on device", "hunter2")


def caught(text: str) -> ValueError:
    """Return an error with a traceback."""
    with pytest.raises(ValueError) as info:  # noqa: PT011  the text is the caller's
        _fail(text)
    return info.value


def _fail(text: str) -> None:
    raise ValueError(text)


# Lines


def test_a_line_is_one_json_object_with_its_fields_in_order() -> None:
    stream = io.StringIO()
    open_log(stream=stream)
    log.warning("Hello %s", "world", extra={"event": "some.thing", "migration": "001.sql", "duration_ms": 1.5})
    [line] = logged(stream)
    timestamp = line.pop("timestamp")
    assert list(line.items()) == [
        ("level", "warning"),
        ("message", "Hello world"),
        ("event", "some.thing"),
        ("migration", "001.sql"),
        ("duration_ms", 1.5),
    ]
    assert abs(datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds() < 60


@pytest.mark.parametrize(
    ("created", "timestamp"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_800_000_000.0, "2027-01-15T08:00:00.000Z"),
        (1_800_000_000.25, "2027-01-15T08:00:00.250Z"),
        (1_800_000_000.9999, "2027-01-15T08:00:00.999Z"),
    ],
)
@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.usefixtures("_far_from_greenwich")
def test_a_timestamp_is_utc_with_milliseconds(style: str, created: float, timestamp: str) -> None:
    stream = io.StringIO()
    open_log(style=style, stream=stream)
    log.handle(logging.makeLogRecord({"created": created, "msg": "x", "levelno": 20, "levelname": "INFO"}))
    assert timestamp in stream.getvalue()


def test_a_line_without_an_event_gets_a_default_event() -> None:
    stream = io.StringIO()
    open_log(stream=stream)
    log.info("x")
    assert logged(stream)[0]["event"] == "log"


@pytest.mark.parametrize("value", [0, 1, -1, 2**63, 0.5, True, False, None, [], {}, [1, [2.5, None]], {"a": {"b": 1}}])
def test_values_keep_their_json_types(value: object) -> None:
    stream = io.StringIO()
    open_log(stream=stream).add_secrets(["12345678", "9223372036854775808", "True", "None"])
    log.info("x", extra={"value": value})
    [line] = logged(stream)
    assert line["value"] == value
    assert type(line["value"]) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "two\nlines",
        "\r\n",
        'a "quote" and a \\',
        "tab\tand \x1b[31m escape",
        "Grüße 🐘 你好",
        "\u2028\u2029\x85",
        "",
        "%s %d %",
    ],
)
def test_any_text_is_written_on_one_line(text: str) -> None:
    stream = io.StringIO()
    open_log(stream=stream)
    log.info("%s", text, extra={"field": text, "nested": {"list": [text]}})
    [line] = logged(stream)
    assert (line["message"], line["field"], line["nested"]) == (text, text, {"list": [text]})


def test_non_ascii_text_is_not_escaped() -> None:
    stream = io.StringIO()
    open_log(stream=stream)
    log.info("Grüße 🐘")
    assert "Grüße 🐘" in stream.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8:strict", "utf-16"])
def test_no_line_is_lost_because_of_the_terminals_encoding(encoding: str) -> None:
    source = (
        "import logging; from predeploy.log.setup import open_log; open_log(style='json');"
        "logging.getLogger('predeploy').info('Grüße 🐘 \\udcff')"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, env=environment, capture_output=True, check=True, timeout=60
    )
    assert json.loads(done.stdout.decode("utf-8"))["message"] == "Grüße 🐘 \udcff"
    assert done.stderr == b""


def test_each_line_is_flushed_at_once() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as end, os.fdopen(writer, "w") as stream:
        open_log(stream=stream)
        log.info("x")
        assert json.loads(end.readline())["message"] == "x"


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_lines_below_the_level_are_not_written(level: str, written: list[str]) -> None:
    stream = io.StringIO()
    open_log(level=level, stream=stream)
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("x")
    assert [line["level"] for line in logged(stream)] == written


def test_opening_the_log_again_replaces_the_first_log() -> None:
    first, second = io.StringIO(), io.StringIO()
    open_log(stream=first)
    open_log(stream=second)
    log.info("x")
    assert first.getvalue() == ""
    assert len(logged(second)) == 1


# Text


@pytest.mark.parametrize(("style", "as_text"), [("auto", True), ("text", True), ("json", False)])
def test_auto_means_text_on_a_terminal(style: str, as_text: bool) -> None:
    control, terminal = os.openpty()
    with os.fdopen(control, "rb") as end, os.fdopen(terminal, "w") as stream:
        open_log(style=style, stream=stream)
        log.info("Hello")
        line = end.readline().decode()
    assert line.startswith("{") is not as_text
    assert "Hello" in line


@pytest.mark.parametrize(("style", "as_text"), [("auto", False), ("text", True), ("json", False)])
def test_auto_means_json_in_a_pipe_or_a_file(tmp_path: Path, style: str, as_text: bool) -> None:
    with (tmp_path / "log").open("w") as stream:
        open_log(style=style, stream=stream)
        log.info("Hello")
    assert (tmp_path / "log").read_text().startswith("{") is not as_text


def test_the_log_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    open_log()
    log.info("Hello")
    shown = capsys.readouterr()
    assert json.loads(shown.out)["message"] == "Hello"
    assert shown.err == ""


# Silence


@pytest.mark.parametrize("name", ["psycopg", "psycopg.pool", "tenacity", "root", "predeployed", None])
def test_other_loggers_write_nothing(name: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    open_log(level="debug", stream=stream)
    root = logging.getLogger()
    handlers, root.handlers[:] = root.handlers[:], []  # pytest's handlers
    try:
        logging.getLogger(name).critical("hunter2")
    finally:
        root.handlers[:] = handlers
    assert stream.getvalue() == ""
    assert capfd.readouterr() == ("", "")


def test_other_handlers_receive_no_records_of_the_program() -> None:
    stream, other = io.StringIO(), io.StringIO()
    open_log(stream=stream).add_secrets(["hunter2"])
    root, handler = logging.getLogger(), logging.StreamHandler(other)
    root.addHandler(handler)
    try:
        log.error("hunter2")
    finally:
        root.removeHandler(handler)
    assert len(logged(stream)) == 1
    assert other.getvalue() == ""


def test_python_warnings_are_not_printed() -> None:
    source = (
        "import warnings; from predeploy.log.setup import open_log; open_log(level='debug');"
        "warnings.warn('hunter2', ResourceWarning)"
    )
    command = [sys.executable, "-W", "always", "-c", source]
    done = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize(
    ("message", "arguments"), [("%d", ("hunter2",)), ("%s %s", ("hunter2",)), ("%s", (Exploding(),))]
)
@pytest.mark.parametrize("style", ["json", "text"])
def test_an_error_in_the_logging_module_writes_nothing(
    style: str, message: str, arguments: tuple[object, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    open_log(style=style, stream=stream)
    log.info(message, *arguments)
    assert stream.getvalue() == ""
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_does_not_stop_the_program(capfd: pytest.CaptureFixture[str]) -> None:
    stream = FullDisk()
    open_log(stream=stream)
    log.info("hunter2")
    assert capfd.readouterr() == ("", "")


# Secrets


@pytest.mark.parametrize(
    ("secrets", "text", "scrubbed"),
    [
        ([], "hunter2", "hunter2"),
        (["hunter2"], "hunter2", "***"),
        (["hunter2"], "a hunter2, and hunter2hunter2", "a ***, and ******"),
        (["hunter2"], "Hunter2 hunter 2", "Hunter2 hunter 2"),
        (["hunt", "hunter2", "hunter"], "hunter2 hunter hunt", "*** *** ***"),
        (["abcd"], "abcd", "***"),
        (["abc", "", "a"], "abc a", "abc a"),
        (["12345"], "12345", "***"),
        (["p*ss+[w]ord\\1"], "p*ss+[w]ord\\1", "***"),
        (["üü€€"], "üü€€", "***"),
        (["two\nlines"], "two\nlines", "***"),
    ],
)
def test_secrets_of_four_characters_or_more_are_masked(secrets: list[str], text: str, scrubbed: str) -> None:
    scrubber = Scrubber()
    scrubber.add_secrets(secrets)
    assert scrubber.scrub(text) == scrubbed


def test_a_secret_inside_another_leaves_no_part_of_the_longer_one() -> None:
    scrubber = Scrubber()
    scrubber.add_secrets(["word"])
    scrubber.add_secrets(["password-with-word-in-it", "with-word"])
    scrubber.add_secrets(["passw"])
    assert scrubber.scrub("<password-with-word-in-it>") == "<***>"


def test_adding_secrets_keeps_the_earlier_ones() -> None:
    scrubber = Scrubber()
    scrubber.add_secrets(["first-secret"])
    scrubber.add_secrets(["second-secret"])
    assert scrubber.scrub("first-secret second-secret") == "*** ***"


@pytest.mark.parametrize(
    ("value", "scrubbed"),
    [
        ({"a": "hunter2", "b": {"c": ["hunter2", ("x", "hunter2")]}}, {"a": "***", "b": {"c": ["***", ["x", "***"]]}}),
        ([b"hunter2"], ["b'***'"]),
        ({"hunter2"}, "{'***'}"),
        (Path("/run/hunter2"), "/run/***"),
        (ValueError("hunter2"), "***"),
        (2, 2),
        (True, True),
        (1.5, 1.5),
        (None, None),
    ],
    ids=repr,
)
def test_secrets_are_masked_at_any_depth_and_in_any_object_type(value: object, scrubbed: object) -> None:
    scrubber = Scrubber()
    scrubber.add_secrets(["hunter2"])
    assert scrubber.scrub(value) == scrubbed


def test_no_part_of_a_line_contains_a_secret() -> None:
    secret = 'hun"ter\\2/ü\n!'
    stream = io.StringIO()
    open_log(stream=stream).add_secrets([secret])
    error = caught(f"cause {secret}")
    extra = {"dsn": secret, "list": [secret], "nested": {"deep": [{"er": secret}]}, "object": error}
    log.error("message %s", secret, exc_info=error, extra=extra)
    assert "hun" not in stream.getvalue()
    assert stream.getvalue().count("***") == 6


def test_a_traceback_is_part_of_the_line_and_its_secrets_are_masked() -> None:
    stream = io.StringIO()
    open_log(stream=stream).add_secrets(["hunter2"])
    log.error("Failed", exc_info=caught("it was hunter2"))
    [line] = logged(stream)
    assert line["exc_info"].startswith("Traceback")
    assert line["exc_info"].endswith("ValueError: it was ***")


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ('a"b\\c', 'a"b\\c'),
        ('a"b\\c', json.dumps('a"b\\c')),
        ('a"b\\c', json.dumps(json.dumps('a"b\\c'))),
        ('a"b\\c', repr(json.dumps('a"b\\c') + "'")),
        ("it's me", repr("it's me" + '"')),
    ],
)
def test_a_secret_is_masked_at_any_level_of_quoting(secret: str, text: str, style: str) -> None:
    stream = io.StringIO()
    open_log(style=style, stream=stream).add_secrets([secret])
    log.error("%s", text)
    assert "***" in stream.getvalue()
    assert re.findall(r"a\\*\"b|it\\*'s", stream.getvalue()) == []


@pytest.mark.parametrize("password", ["succeeded", "pending", "refused", "NOTICE"])
def test_a_password_that_equals_a_constant_of_the_log_does_not_mask_the_constant(password: str) -> None:
    stream = io.StringIO()
    open_log(stream=stream).add_secrets([password])
    constants = dict.fromkeys(("outcome", "state", "reason", "severity"), password)
    log.info(password, extra=constants)
    [line] = logged(stream)
    assert {key: line[key] for key in ("message", *constants)} == {"message": "***", **constants}


@pytest.mark.parametrize("password", ["postgres", "run.finished", "info", "2027", "migration"])
def test_a_password_that_is_a_common_word_leaves_the_constants_alone(password: str) -> None:
    stream = io.StringIO()
    open_log(stream=stream).add_secrets([password])
    event = {"postgres": "postgres.ready", "migration": "migration.applied"}.get(password, "run.finished")
    log.handle(
        logging.makeLogRecord(
            {"created": 1_800_000_000.0, "msg": password, "levelno": 20, "levelname": "INFO", "event": event}
        )
    )
    assert logged(stream) == [
        {"timestamp": "2027-01-15T08:00:00.000Z", "level": "info", "message": "***", "event": event}
    ]


# Throttle


def test_a_wait_is_logged_when_it_changes_and_otherwise_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("predeploy.log.throttle.time.monotonic", lambda: now)
    throttle = LogThrottle(10.0)
    logged_at = []
    for at, subject in [
        (1000.0, "dns"),  # the first
        (1000.0, "dns"),
        (1009.9, "dns"),
        (1010.0, "dns"),  # ten seconds later
        (1015.0, "refused"),  # another reason
        (1020.0, "refused"),
        (1024.9, "refused"),
        (1025.0, "refused"),  # ten seconds after that
        (1026.0, "dns"),  # another change
        (1030.0, None),  # None is a subject too
        (1031.0, None),
    ]:
        now = at
        if throttle.should_log(subject):
            logged_at.append(at)
    assert logged_at == [1000.0, 1010.0, 1015.0, 1025.0, 1026.0, 1030.0]


def test_the_first_subject_is_logged_even_if_it_is_none() -> None:
    throttle = LogThrottle(10.0)
    assert throttle.should_log(None)
    assert not throttle.should_log(None)


def test_a_doubling_interval_starts_again_when_the_subject_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("predeploy.log.throttle.time.monotonic", lambda: now)
    throttle = LogThrottle(10.0, 60.0)
    logged_at = []
    for second in range(300):
        now = 1000.0 + second
        if throttle.should_log("one" if second < 215 else "another"):
            logged_at.append(second)
    assert logged_at == [0, 10, 30, 70, 130, 190, 215, 225, 245, 285]
