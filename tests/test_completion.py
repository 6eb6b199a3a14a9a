"""What a shell is told when somebody presses Tab, and the scripts that ask."""

import os
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from edgert.cli import COMMANDS, main
from edgert.cli.completion import POWERSHELL, VARIABLE


def completed(line, shell="bash"):
    """What edgert answers for the end of a line."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), VARIABLE: f"{shell}_complete"}
    return CliRunner().invoke(main, [], prog_name="edgert", env=words).stdout.splitlines()


@pytest.fixture
def kept(bundles, home):
    shutil.copytree(bundles(), home / "bundles" / "mine")
    (home / "checkpoints" / "miner").mkdir(parents=True)


def test_commands_and_options():
    assert completed("edgert ") == [f"plain,{name}" for name in COMMANDS]
    assert completed("edgert co") == ["plain,compare", "plain,config", "plain,completion"]
    assert "plain,--max-tokens" in completed("edgert chat --max")


@pytest.mark.parametrize(
    "command", ["chat", "generate", "info", "fit", "bench", "compare x", "tune", "doctor"]
)
def test_bundles_or_folders(kept, command):
    assert completed(f"edgert {command} mi") == ["dir,mi", "plain,mine"]
    assert completed(f"edgert {command} ./mi") == ["dir,./mi"]


def test_students_and_what_is_kept(kept):
    assert completed("edgert rm mi") == ["plain,mine", "plain,miner"]
    assert completed("edgert pull qwen3-0") == ["plain,qwen3-0.6b"]


@pytest.mark.parametrize("command", ["chat", "export a b", "pull", "fit x", "tune", "doctor"])
def test_devices_or_files(command):
    assert completed(f"edgert {command} --device lap") == ["file,lap", "plain,laptop-cpu"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_each_shell_has_a_script_that_asks_edgert(shell):
    script = CliRunner().invoke(main, ["completion", shell]).stdout
    assert VARIABLE in script and "edgert" in script


def test_a_shell_that_is_not_known():
    result = CliRunner().invoke(main, ["completion", "tcsh"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1) and "powershell" in result.stderr


def test_powershell_asks_as_bash_does():
    """Its words come with slashes, for those of a POSIX shell would lose backslashes."""
    assert f"$env:{VARIABLE} = 'bash_complete'" in POWERSHELL
    assert "-replace '\\\\', '/'" in POWERSHELL and POWERSHELL.count("{") == POWERSHELL.count("}")


TYPED = """
eval "$(edgert completion bash)"
COMP_WORDS=(edgert info mi); COMP_CWORD=2; COMPREPLY=()
_edgert_completion edgert 2>/dev/null; echo "${COMPREPLY[@]}"
complete -p edgert
"""


@pytest.mark.skipif(not shutil.which("bash") or sys.platform == "win32", reason="bash")
def test_bash_itself(kept, tmp_path):
    (tmp_path / "edgert").write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "from edgert.cli import main; '
        'main(prog_name=\'edgert\')" "$@"\n'
    )
    (tmp_path / "edgert").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", TYPED],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["mine", "complete -o nosort -F _edgert_completion edgert"]


def test_keys_of_the_settings():
    assert completed("edgert config set top") == ["plain,top_k", "plain,top_p"]
    assert completed("edgert config ") == ["plain,get", "plain,set", "plain,unset"]
