"""Help screens, whole, as they are kept in tests/data/help: a change of one is seen and read."""

import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgert.cli import COMMANDS, main
from edgert.export import DEFAULT_MAX_CONTEXT

KEPT = Path(__file__).parent / "data" / "help"
UPDATE = "EDGERT_UPDATE_HELP"


def screen(*arguments):
    """As on a terminal of 80 columns."""
    result = CliRunner().invoke(main, [*arguments, "--help"], terminal_width=80)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("name", ["edgert", *COMMANDS])
def test_help_screens_are_those_that_were_read(name):
    shown, path = screen(*([] if name == "edgert" else [name])), KEPT / f"{name}.txt"
    if os.environ.get(UPDATE):
        path.write_text(shown, "utf-8", newline="\n")
    kept = path.read_text("utf-8") if path.exists() else ""
    again = f"{UPDATE}=1 python -m pytest tests/test_help.py"
    assert shown == kept, f"{path.name} is out of date. Read the new screen, then keep it with: {again}"


def test_no_screen_is_kept_of_what_is_no_command():
    assert {path.stem for path in KEPT.iterdir()} == {"edgert", *COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example(name):
    assert re.search(rf"^  (echo .* \| )?edgert {name}\b", screen(name), re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name):
    for parameter in main.get_command(None, name).params:
        assert parameter.param_type_name == "argument" or parameter.help, parameter.name


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_token_is_is_said_wherever_tokens_are_spoken_of(name):
    text = " ".join(screen(name).split())
    assert "token" not in text.replace("--max-tokens", "") or re.search(
        "pieces of words|a piece of a word", text
    )


def test_the_default_context_is_the_exporter_s():
    assert f"at most {DEFAULT_MAX_CONTEXT}" in " ".join(screen("export").split())
