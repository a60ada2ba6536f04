from __future__ import annotations

import io
import json
import logging
import re
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predeploy.log.setup import open_log
from predeploy.migrations.migration import MigrationError, MigrationResult
from predeploy.report import Report

pytestmark = pytest.mark.usefixtures("restored_logging")


class Log(io.StringIO):
    """A stream of JSON lines."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def stream() -> Log:
    """The stream that receives the log during the test."""
    return Log()


@pytest.fixture
def report(stream: Log, tmp_path: Path) -> Report:
    """A new report with a path for its termination message."""
    return begin(stream, tmp_path)


def begin(stream: Log, tmp_path: Path) -> Report:
    begun = Report(time.monotonic(), open_log(stream=stream))
    begun.termination_log = str(tmp_path / "termination-log")
    return begun


def message_of(report: Report) -> tuple[str, dict[str, Any]]:
    """Return the two lines of the termination message."""
    assert report.termination_log
    content = Path(report.termination_log).read_bytes()
    assert len(content) <= 4096
    sentence, summary = content.decode("utf-8").split("\n")
    parsed: dict[str, Any] = json.loads(summary)
    return sentence, parsed


# The last line


@pytest.mark.parametrize(
    ("exit_code", "outcome"),
    [
        (0, "succeeded"),
        (1, "failed"),
        (2, "misconfigured"),
        (3, "unreachable"),
        (4, "locked"),
        (5, "refused"),
        (6, "connection_lost"),
        (10, "pending"),
        (70, "crashed"),
        (130, "interrupted"),
        (143, "interrupted"),
    ],
)
def test_the_last_line_the_message_and_the_exit_code_agree(
    report: Report, stream: Log, exit_code: int, outcome: str
) -> None:
    report.set_outcome(exit_code, "What happened.")
    assert report.write() == exit_code
    [line] = stream.lines
    assert line["event"] == "run.finished"
    assert line["message"] == "What happened."
    assert (line["outcome"], line["exit_code"]) == (outcome, exit_code)
    assert line["level"] == ("info" if exit_code == 0 else "error")
    sentence, summary = message_of(report)
    assert sentence == "What happened."
    assert summary == {key: line[key] for key in summary}
    assert set(line) - set(summary) == {"timestamp", "level", "message", "event"}


def test_the_summary_counts_files_and_time(stream: Log) -> None:
    report = Report(time.monotonic() - 2.5, open_log(stream=stream))
    report.result.applied += ["1.sql", "2.sql", "3.sql"]
    report.result.skipped += ["0.sql"]
    report.result.errors += [MigrationError("4.sql", "x"), MigrationError("5.sql", "y")]
    report.set_outcome(1)
    report.write()
    [line] = stream.lines
    assert (line["applied"], line["skipped"], line["failed"]) == (3, 1, 2)
    assert 2500 <= line["duration_ms"] < 60_000
    assert round(line["duration_ms"], 1) == line["duration_ms"]


def test_extra_fields_are_on_the_last_line_and_in_the_message(report: Report, stream: Log) -> None:
    report.set_outcome(2, "x", code="STORAGE_CONFIGURATION")
    report.write()
    assert stream.lines[0]["code"] == message_of(report)[1]["code"] == "STORAGE_CONFIGURATION"


def test_the_last_outcome_set_is_reported(report: Report, stream: Log) -> None:
    report.set_outcome(0, "Done.", pending=0)
    report.set_outcome(143, "Interrupted by SIGTERM")
    assert report.write() == 143
    assert stream.lines[0]["message"] == "Interrupted by SIGTERM"
    assert "pending" not in stream.lines[0]


def test_only_the_first_write_has_an_effect(report: Report, stream: Log) -> None:
    assert report.termination_log
    report.set_outcome(0, "Done.")
    assert report.write() == 0
    Path(report.termination_log).unlink()
    report.set_outcome(143, "Interrupted by SIGTERM")
    assert report.write() == 0  # a second write changes nothing
    assert [line["message"] for line in stream.lines] == ["Done."]
    assert not Path(report.termination_log).exists()


def test_only_one_of_several_threads_writes(report: Report, stream: Log) -> None:
    report.set_outcome(0, "Done.")
    gate = threading.Barrier(8)

    def write() -> None:
        gate.wait()
        report.write()

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stream.lines) == 1


def test_a_run_without_an_outcome_is_reported_as_crashed(report: Report, stream: Log) -> None:
    assert report.write() == 70
    assert stream.lines[0]["outcome"] == "crashed"
    assert stream.lines[0]["message"]


def test_the_report_contains_the_result_of_the_run(report: Report, stream: Log) -> None:
    result = MigrationResult(applied=["1.sql"])
    report.follow(result, lambda: None)
    result.applied.append("2.sql")
    report.set_outcome(0)
    report.write()
    assert (stream.lines[0]["applied"], stream.lines[0]["message"]) == (2, "Applied 2 migrations")


@pytest.mark.parametrize("running", [("2.sql", "; it was rolled back"), None])
def test_a_signal_is_reported_with_the_interrupted_migration(
    report: Report, stream: Log, running: tuple[str, str] | None
) -> None:
    report.follow(MigrationResult(applied=["1.sql"]), lambda: running)
    report.set_interrupted(143, "SIGTERM")
    assert report.write() == 143
    [line] = stream.lines
    ended = "Interrupted by SIGTERM" + (" while applying 2.sql; it was rolled back" if running else "")
    assert (line["message"], line["outcome"], line["applied"]) == (ended, "interrupted", 1)
    assert line.get("migration") == message_of(report)[1].get("migration") == (running[0] if running else None)


# The sentence


@pytest.mark.parametrize(
    ("applied", "skipped", "failed", "not_run", "sentence"),
    [
        (0, 0, 0, 0, "No migrations found"),
        (0, 3, 0, 0, "No pending migrations (3 already applied)"),
        (1, 0, 0, 0, "Applied 1 migration"),
        (2, 1, 0, 0, "Applied 2 migrations; 1 was already applied"),
        (2, 3, 0, 0, "Applied 2 migrations; 3 were already applied"),
        (2, 3, 1, 0, "1 failed (f0.sql), 2 applied, 3 skipped"),
        (0, 0, 2, 4, "2 failed (f0.sql, f1.sql), 0 applied, 0 skipped, 4 not run"),
        (0, 0, 10, 0, f"10 failed ({', '.join(f'f{n}.sql' for n in range(10))}), 0 applied, 0 skipped"),
        (0, 0, 11, 0, f"11 failed ({', '.join(f'f{n}.sql' for n in range(10))}, ...), 0 applied, 0 skipped"),
    ],
)
def test_the_default_message_is_a_sentence_about_the_files(
    report: Report, stream: Log, applied: int, skipped: int, failed: int, not_run: int, sentence: str
) -> None:
    report.result.applied += [f"a{n}.sql" for n in range(applied)]
    report.result.skipped += [f"s{n}.sql" for n in range(skipped)]
    report.result.errors += [MigrationError(f"f{n}.sql", "x") for n in range(failed)]
    report.result.not_run += [f"n{n}.sql" for n in range(not_run)]
    report.set_outcome(1 if failed else 0)
    report.write()
    assert stream.lines[0]["message"] == sentence
    shown, _, failures = message_of(report)[0].partition(": ")
    if failed:
        assert shown == re.sub(r" \(.*\)", "", sentence)
        assert failures == "; ".join(f"f{n}.sql: x" for n in range(failed))
    else:
        assert message_of(report)[0] == sentence


# The termination message


@pytest.mark.parametrize("sign", ["x", "ü", "€", "🐘", "\udcff", '"', "\\"], ids=ascii)
@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_a_huge_message_is_cut_between_characters(stream: Log, tmp_path: Path, sign: str, shift: int) -> None:
    report = begin(stream, tmp_path)  # not in a fixture: xdist cannot transfer lone surrogates in captured logs
    message = "-" * shift + sign * 10_000
    report.set_outcome(1, message)
    report.write()
    sentence, summary = message_of(report)
    shown = message.encode(errors="backslashreplace").decode()
    assert sentence.endswith("…")
    assert shown.startswith(sentence[:-1])
    assert report.termination_log
    assert Path(report.termination_log).stat().st_size > 4096 - len(sign.encode(errors="backslashreplace"))
    assert summary["exit_code"] == 1
    assert stream.lines[0]["message"] == message  # the log line is not cut


def test_a_message_that_fits_is_not_cut(report: Report) -> None:
    seen = set()
    for length in range(3900, 4080):
        fresh = Report(time.monotonic(), report.scrubber)
        fresh.termination_log = report.termination_log
        fresh.set_outcome(1, "x" * length)
        fresh.write()
        sentence, summary = message_of(fresh)
        room = 4096 - 1 - len(json.dumps(summary))
        assert sentence == ("x" * length if length <= room else "x" * (room - 3) + "…")
        seen.add(length <= room)
    assert seen == {True, False}


def test_the_termination_message_has_no_control_characters(report: Report) -> None:
    report.result.errors.append(MigrationError("\x1b[2J\x07.sql", "a\x00b\x9b31m\u2028c\u202ed\x7f"))
    report.set_outcome(1)
    report.write()
    assert message_of(report)[0] == "1 failed, 0 applied, 0 skipped: [2J .sql: a b 31m c d"
    assert report.termination_log
    assert re.findall(rb"[\x00-\x09\x0b-\x1f\x7f]", Path(report.termination_log).read_bytes()) == []


def test_the_termination_message_contains_the_first_failures_with_their_errors(report: Report, stream: Log) -> None:
    report.result.applied += ["1.sql"]
    report.result.errors += [
        MigrationError("2.sql", "no such table (SQLSTATE 42P01, line 37, column 12)", "42P01", 37),
        MigrationError("3.sql", "the file cannot be read: Permission denied"),
    ]
    report.set_outcome(1)
    report.write()
    sentence, summary = message_of(report)
    assert sentence == (
        "2 failed, 1 applied, 0 skipped: 2.sql: no such table (SQLSTATE 42P01, line 37, column 12); "
        "3.sql: the file cannot be read: Permission denied"
    )
    assert summary["first_failure"] == {"migration": "2.sql", "sqlstate": "42P01", "line": 37}
    assert stream.lines[0]["first_failure"] == summary["first_failure"]


def test_a_signal_does_not_hide_earlier_failures(report: Report) -> None:
    report.result.errors.append(MigrationError("2.sql", "no such table"))
    report.set_interrupted(143, "SIGTERM")
    report.write()
    assert message_of(report)[0] == "Interrupted by SIGTERM. Earlier failures: 2.sql: no such table"


def test_a_long_error_leaves_room_for_its_position_and_the_next_file(report: Report) -> None:
    for name in ("1.sql", "2.sql"):
        error = f"{'long ' * 500}(SQLSTATE P0001, line 5)"
        report.result.errors.append(MigrationError(name, error, "P0001", 5))
    report.set_outcome(1)
    report.write()
    sentence, _ = message_of(report)
    assert sentence.count("… (SQLSTATE P0001, line 5)") == 2


def test_fields_that_are_too_long_are_omitted_and_not_cut(report: Report, stream: Log) -> None:
    report.set_outcome(4, "x" * 5000, holder={"application_name": "🐘" * 1000}, pid=12)
    report.write()
    sentence, summary = message_of(report)
    assert len(sentence) > 1000
    assert "holder" not in summary
    assert (summary["pid"], summary["exit_code"], summary["outcome"]) == (12, 4, "locked")
    assert stream.lines[0]["holder"] == {"application_name": "🐘" * 1000}


SECRETS = ("hunter2", "two words", 'q"uo\\te', "Grüße🐘", "a\nline", "(SQLSTATE")
TEXTS = st.text(st.characters() | st.sampled_from("\x00\n\x1b🐘\udcff"), max_size=40)
LONG = st.builds(lambda text, times: text * times, TEXTS, st.sampled_from([1, 20, 30_000]))
WITH_SECRETS = st.lists(LONG | st.sampled_from(SECRETS), max_size=4).map("".join)
FAILURES = st.builds(MigrationError, WITH_SECRETS, WITH_SECRETS, st.none() | WITH_SECRETS, st.none() | st.integers(1))


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(
    failures=st.lists(FAILURES, max_size=5),
    times=st.sampled_from([1, 2000]),
    message=st.none() | WITH_SECRETS,
    fields=st.dictionaries(st.sampled_from(["code", "holder", "more"]), WITH_SECRETS | st.lists(WITH_SECRETS)),
)
def test_any_message_is_complete_short_and_without_secrets(
    stream: Log,
    tmp_path_factory: pytest.TempPathFactory,
    failures: list[MigrationError],
    times: int,
    message: str | None,
    fields: dict[str, Any],
) -> None:
    report = Report(time.monotonic(), open_log(stream=stream))
    report.scrubber.add_secrets(SECRETS)
    logging.getLogger("predeploy").handlers.clear()  # this test does not check the log
    report.termination_log = str(tmp_path_factory.getbasetemp() / "message-of-any-kind")
    report.result.errors += failures * times
    report.set_outcome(1, message, **fields)
    report.write()
    sentence, summary = message_of(report)
    assert (summary["failed"], summary["exit_code"]) == (len(failures) * times, 1)
    assert not any(secret in sentence or " ".join(secret.split()) in sentence for secret in SECRETS)
    assert not any(secret in text for secret in SECRETS for text in texts_in(summary))
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", sentence)


def texts_in(value: object) -> list[str]:
    """Return every string in a JSON value except the keys."""
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for item in items for text in texts_in(item)]


@pytest.mark.parametrize("message", ["two\nlines", "a\r\nb", "tab\tand \x0b", "{}\n{}", '\n{"exit_code": 0}'])
def test_the_first_line_is_one_line(report: Report, stream: Log, message: str) -> None:
    report.set_outcome(1, message)
    report.write()
    sentence, summary = message_of(report)
    assert sentence == " ".join(message.split())
    assert summary["exit_code"] == 1
    assert stream.lines[0]["message"] == message


def test_secrets_are_masked_before_the_message_is_cut(report: Report, stream: Log) -> None:
    report.scrubber.add_secrets(["hunter2-" * 20])
    report.set_outcome(1, "hunter2-" * 20 + "x" * 3700 + "hunter2-" * 20, code="hunter2-" * 20)
    report.write()
    assert report.termination_log
    assert "hunter" not in Path(report.termination_log).read_text() + stream.getvalue()
    assert message_of(report)[1]["code"] == "***"


@pytest.mark.parametrize(
    ("secret", "text"), [("two words", "two\nwords"), ("two\nlines", "two\nlines"), ("a\x01b c", "a\x01b c")]
)
def test_a_secret_is_masked_before_and_after_white_space_is_normalised(report: Report, secret: str, text: str) -> None:
    report.scrubber.add_secrets([secret])
    report.set_outcome(1, f"<{text}>")
    report.write()
    assert message_of(report)[0] == "<***>"


def test_the_message_replaces_an_earlier_one(report: Report) -> None:
    assert report.termination_log
    Path(report.termination_log).write_text("old " * 5000)
    report.set_outcome(0, "Done.")
    report.write()
    assert message_of(report)[0] == "Done."


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("missing/log", "No such file or directory"),
        ("", "Is a directory"),
        ("file/log", "Not a directory"),
        ("full", "No space left on device"),
    ],
)
def test_a_message_that_cannot_be_written_causes_a_warning(
    report: Report, stream: Log, tmp_path: Path, path: str, why: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").symlink_to("/dev/full")
    report.termination_log = str(tmp_path / path)
    report.set_outcome(0, "Done.")
    assert report.write() == 0
    warning, last = stream.lines
    assert (warning["event"], warning["level"]) == ("report.unwritten", "warning")
    assert warning["message"] == f"Could not write the termination message: {why}"
    assert (last["event"], last["message"]) == ("run.finished", "Done.")


def test_no_message_is_written_without_a_path(report: Report, stream: Log, tmp_path: Path) -> None:
    report.termination_log = None
    report.set_outcome(0, "Done.")
    assert report.write() == 0
    assert len(stream.lines) == 1
    assert list(tmp_path.iterdir()) == []


# An internal error


def crashed(error: Exception) -> Exception:
    """Return the error with a traceback."""
    with pytest.raises(type(error)) as caught:
        _raise(error)
    return caught.value


def _raise(error: Exception) -> None:
    raise error


def test_an_internal_error_is_logged_with_its_traceback_and_exits_with_70(report: Report, stream: Log) -> None:
    report.set_crashed(crashed(KeyError("some key")))
    assert report.write() == 70
    crash, last = stream.lines
    assert (crash["event"], crash["level"]) == ("run.crashed", "error")
    assert crash["message"] == "Internal error: KeyError: 'some key'"
    assert crash["traceback"][-1].endswith(" _raise")
    assert "test_report.py:" in crash["traceback"][-1]
    assert last["outcome"] == "crashed"
    assert last["message"] == (
        "Internal error: KeyError: 'some key'. This is a bug in pg-predeploy; please report it with the traceback above"
    )


def test_an_internal_error_is_logged_without_secrets(report: Report, stream: Log) -> None:
    report.scrubber.add_secrets(["hunter2"])
    report.set_crashed(crashed(ValueError("hunter2 and more")))
    report.write()
    assert "hunter2" not in stream.getvalue() + message_of(report)[0]
    assert stream.lines[0]["message"] == "Internal error: ValueError: *** and more"


@pytest.mark.parametrize("error", [psycopg.OperationalError, psycopg.errors.UniqueViolation, psycopg.ProgrammingError])
def test_the_text_of_a_database_error_is_not_logged(report: Report, stream: Log, error: type[psycopg.Error]) -> None:
    report.set_crashed(crashed(error("Key (ssn)=(078-05-1120) already exists")))
    report.write()
    assert "078" not in stream.getvalue() + message_of(report)[0]
    assert stream.lines[0]["message"] == f"Internal error: {error.__name__}"
