from __future__ import annotations

import inspect
import re

import pytest

from predeploy import __version__, settings
from predeploy.cli import OPTIONS, parse
from predeploy.errors import ConfigurationError

COMMANDS = ["migrate", "status", "check", "plan", "plan --rehearse", "health"]


@pytest.mark.parametrize(
    ("arguments", "command"),
    [([], "migrate"), *[(command.split(), command) for command in COMMANDS], (["--", "status"], "status")],
)
def test_a_command_is_understood(arguments: list[str], command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(arguments, COMMANDS) == (command, frozenset())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["--json"], "migrate"),
        *[([*command.split(), "--json"], command) for command in COMMANDS],
        (["--json", "check"], "check"),
    ],
)
def test_every_command_has_the_option_json(arguments: list[str], command: str) -> None:
    assert parse(arguments, COMMANDS) == (command, frozenset({"json"}))


def test_an_option_of_one_command_is_refused_with_another() -> None:
    assert parse(["plan", "--rehearse", "--json"], COMMANDS) == ("plan --rehearse", frozenset({"json"}))
    with pytest.raises(ConfigurationError):
        parse(["check", "--rehearse"], COMMANDS)


@pytest.mark.parametrize("arguments", [["--version"], ["status", "--version"]])
def test_version_is_one_line_and_no_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(arguments, COMMANDS) is None
    assert capsys.readouterr() == (f"pg-predeploy {__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["check", "--help"]])
def test_help_tells_all_and_is_no_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(arguments, COMMANDS) is None
    shown = capsys.readouterr()
    assert shown.err == ""
    for word in (*COMMANDS, "128+n", "DATABASE_URL_FILE", "500ms", *(f"--{name} " for name in OPTIONS)):
        assert word in shown.out


def test_help_names_every_variable(capsys: pytest.CaptureFixture[str]) -> None:
    names = set(re.findall(r'"((?:DATABASE|MIGRATE|MIGRATIONS)(?:_[A-Z]+)+)"', inspect.getsource(settings)))
    names -= {name for name in names if "UNPOOLED" in name}  # other programs'
    assert len(names) == 15
    parse(["--help"], COMMANDS)
    shown = capsys.readouterr().out
    assert [name for name in names if f" {name} " not in shown] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["migrat"],
        ["MIGRATE"],
        [""],
        ["migrate", "now"],
        ["status", "check"],
        ["--dry-run"],
        ["--rehearse"],
        ["status", "--rehearse"],
        ["plan", "--rehears"],
        ["--vers"],
        ["--hel"],
        ["-v"],
        ["postgresql://someone:hunter2@db.internal/app"],
        ["--url=postgresql://someone:hunter2@db.internal/app"],
        ["migrate", "--password", "hunter2"],
        ["--version=hunter2"],
        ["--json=hunter2"],
        ["--js"],
        ["--", "hunter2"],
    ],
    ids=" ".join,
)
def test_anything_else_is_refused_without_being_repeated(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(arguments, COMMANDS)
    assert str(caught.value) == "Unknown command or option; pg-predeploy --help lists them."
    assert capsys.readouterr() == ("", "")
