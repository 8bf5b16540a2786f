"""docs/ml-test-score.md names 28 tests and only commands that exist."""

from __future__ import annotations

import importlib.util
import re

import pytest
import typer.main

from tests.conftest import ROOT
from zaphod import cli

_ROW = re.compile(r"^\| (\d) \| ([^|]+) \| ([^|]+) \| ([^|]*)\|$", re.MULTILINE)
ROWS = _ROW.findall((ROOT / "docs/ml-test-score.md").read_text())
COMMANDS = sorted({cell.strip().strip("`") for *_, cell in ROWS if cell.strip()})


def test_there_are_seven_tests_in_each_of_four_parts() -> None:
    """Numbered as in the paper."""
    assert [int(number) for number, *_ in ROWS] == [1, 2, 3, 4, 5, 6, 7] * 4


def test_each_has_a_command_or_says_that_it_is_not_offered() -> None:
    """Never both, never neither."""
    for number, name, what, command in ROWS:
        assert what.startswith("not offered") == (not command.strip()), (number, name)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_exists(command: str) -> None:
    """With the subcommands and the options that the page shows."""
    first, *rest = command.split()
    match first:
        case "zaphod":
            found = typer.main.get_command(cli.app)
            while rest and rest[0] in getattr(found, "commands", {}):
                found = found.commands[rest.pop(0)]
            assert not hasattr(found, "commands"), f"{command} is not a whole command"
            known = {name for parameter in found.params for name in parameter.opts}
            assert {word for word in rest if word.startswith("--")} <= known
            required = [one for one in found.params if one.required]
            assert len(rest) >= sum(1 + one.opts[0].startswith("--") for one in required), required
        case "pytest":
            assert (ROOT / rest[0]).is_file()
        case _:
            assert command.startswith("python -m ")
            assert importlib.util.find_spec(f"{rest[1]}.__main__")
