from __future__ import annotations

import inspect
import re

import pytest

from predeploy import __version__, commands, settings
from predeploy.cli import COMMANDS, CommandLine, parse
from predeploy.errors import EXIT_CODES, ConfigurationError


def test_the_command_line_lists_exactly_the_commands() -> None:
    assert list(COMMANDS) == list(commands.COMMANDS)


WITHOUT_ARGUMENTS = [command for command in COMMANDS if command != "baseline"]
CHOICE = {"through": None, "tool": None, "dry_run": False}


@pytest.mark.parametrize(
    ("arguments", "command"),
    [([], "migrate"), *[(command.split(), command) for command in WITHOUT_ARGUMENTS], (["--", "status"], "status")],
)
def test_each_command_is_parsed_and_migrate_is_the_default(
    arguments: list[str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parse(arguments) == CommandLine(command)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["--json"], "migrate"),
        *[([*command.split(), "--json"], command) for command in WITHOUT_ARGUMENTS],
        (["--json", "check"], "check"),
    ],
)
def test_every_command_has_the_json_option(arguments: list[str], command: str) -> None:
    assert parse(arguments) == CommandLine(command, json=True)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ("--all", {}),
        ("--through 003.sql --dry-run", {"through": "003.sql", "dry_run": True}),
        ("--from goose", {"tool": "goose"}),
        ("--through=", {"through": ""}),
    ],
)
def test_baseline_has_one_choice(arguments: str, options: dict[str, str]) -> None:
    assert parse(["baseline", *arguments.split()]) == CommandLine("baseline", options=CHOICE | options)


@pytest.mark.parametrize(
    "arguments", ["", "--dry-run", "--all --from auto", "--through a --from b", "--through a --all"]
)
def test_baseline_without_exactly_one_choice_is_an_error(arguments: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^Choose exactly one: baseline --through NAME, "):
        parse(["baseline", *arguments.split()])


@pytest.mark.parametrize("arguments", [["--version"], ["status", "--version"]])
def test_version_prints_one_line_and_runs_no_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(arguments) is None
    assert capsys.readouterr() == (f"pg-predeploy {__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["check", "--help"]])
def test_help_lists_commands_options_and_exit_codes_and_runs_no_command(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert parse(arguments) is None
    shown = capsys.readouterr()
    assert shown.err == ""
    for word in (*COMMANDS, "128+n", "DATABASE_URL_FILE", "500ms", "--json ", "--rehearse ", "--version"):
        assert word in shown.out
    exit_codes = shown.out.partition("exit codes:\n")[2].splitlines()
    expected = {str(code): known.meaning for code, known in EXIT_CODES.items()}
    assert dict(line.split(maxsplit=1) for line in exit_codes) == expected | {"128+n": "interrupted by signal n"}


def test_help_names_every_variable(capsys: pytest.CaptureFixture[str]) -> None:
    names = set(re.findall(r'"((?:DATABASE|MIGRATE|MIGRATIONS)(?:_[A-Z]+)+)"', inspect.getsource(settings)))
    names -= {name for name in names if "UNPOOLED" in name}  # variables of other programs
    assert len(names) == 18
    parse(["--help"])
    shown = capsys.readouterr().out
    assert [name for name in names if f" {name} " not in shown] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["migrat"],
        [""],
        ["migrate", "now"],
        ["status", "check"],
        ["--dry-run"],
        ["--all"],
        ["status", "--from", "hunter2"],
        ["migrate", "--through", "hunter2"],
        ["baseline", "hunter2", "--all"],
        ["baseline", "--all", "--rehearse"],
        ["baseline", "--from"],
        ["--rehearse"],
        ["check", "--rehearse"],
        ["plan --rehearse", "--json"],
        ["plan", "--rehears"],
        ["--vers"],
        ["-v"],
        ["postgresql://someone:hunter2@db.internal/app"],
        ["--url=postgresql://someone:hunter2@db.internal/app"],
        ["migrate", "--password", "hunter2"],
        ["--version=hunter2"],
        ["--json=hunter2"],
        ["--", "hunter2"],
    ],
    ids=" ".join,
)
def test_an_invalid_argument_is_an_error_that_does_not_quote_it(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(arguments)
    assert str(caught.value) == "Unknown command or option. Run pg-predeploy --help for a list."
    assert capsys.readouterr() == ("", "")
