"""Every test of the program checks its output for secrets and its stderr; here, that check itself is tested."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.program import Program

if TYPE_CHECKING:
    from pathlib import Path

DSN = "postgresql://someone:hunter%2F2%40there@db.internal/app"


def program(tmp_path: Path, source: str) -> Program:
    entrypoint = tmp_path / "stand_in.py"
    entrypoint.write_text(f"import json, os, signal, sys, time\n{source}\n")
    return Program({"DATABASE_URL": DSN}, tmp_path / "processes", entrypoint=entrypoint)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(
    ("dsn", "printed"),
    [
        (DSN, DSN),
        (DSN, "hunter/2@there"),
        (DSN, "hunter%2F2%40there"),
        (DSN, "hunter/2%40there"),
        ("host=db.internal user=someone password='hunter 2'", "hunter 2"),
        ("mysql://someone:hunter2@db.internal/app", "hunter2"),
        ("postgresql://someone:hun/ter2@db.internal/app", "hun/ter2"),
    ],
)
def test_a_printed_secret_fails_the_test(tmp_path: Path, dsn: str, printed: str, stream: str) -> None:
    leaky = program(tmp_path, f"print(json.dumps({{'message': {printed!r}}}), file=sys.{stream})")
    with pytest.raises(AssertionError, match="a secret was printed"):
        leaky.run(DATABASE_URL=dsn)


def test_a_secret_printed_by_an_unfinished_process_fails_the_test(tmp_path: Path) -> None:
    leaky = program(tmp_path, "print('{\"event\": \"up\"}', os.environ['DATABASE_URL'], flush=True); time.sleep(9)")
    process = leaky.start()
    with pytest.raises(ValueError, match="Extra data"):
        process.wait_for("up")
    with pytest.raises(AssertionError, match="a secret was printed"):
        leaky.close()
    assert not process.running


def test_anything_on_stderr_fails_the_test(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        program(tmp_path, "print('oops', file=sys.stderr)").run()


def test_a_log_line_that_is_not_json_fails_the_test(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        program(tmp_path, "print('hello')").run()


def test_each_event_is_returned_once_and_in_order(tmp_path: Path) -> None:
    source = """
for number in range(3):
    print(json.dumps({"event": "step", "number": number}), flush=True)
signal.pause()
"""
    process = program(tmp_path, source).start()
    assert [process.wait_for("step")["number"] for _ in range(3)] == [0, 1, 2]
    process.terminate()
    run = process.finish()
    assert run.exit_code == 143
    assert [event["number"] for event in run.named("step")] == [0, 1, 2]


def test_the_program_does_not_inherit_the_tests_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGPASSWORD", "MIGRATE_RETRIES", "PYTHONDONTWRITEBYTECODE", "DATABASE_URL_FILE"):
        monkeypatch.setenv(name, "1")
    run = program(tmp_path, "print(json.dumps(dict.fromkeys(os.environ)))").run(DATABASE_URL=None)
    names = {name for name in run.events[0] if not name.startswith(("COVERAGE_", "LC_"))}
    assert names == {"PATH", "HOME", "LANG"}
