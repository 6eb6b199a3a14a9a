"""Questions typed with prompt_toolkit: several lines, Tab, and history that stays."""

import stat
import sys

import pytest

from edgert import home

pytest.importorskip("prompt_toolkit")

from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from edgert.chat.commands import TAKE_FILES
from edgert.chat.editing import EditedInput, Names

COMMANDS = ("help", "set", "save", "system", "file")


@pytest.fixture
def keys():
    """What `EditedInput` reads from these keys, once for each Enter that asks."""

    def read(typed, count=1):
        with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
            pipe.send_text(typed)
            reading = EditedInput(COMMANDS)
            return [reading.read(">>> ") for _ in range(count)]

    return read


@pytest.mark.parametrize(
    ("typed", "question"),
    [
        ("the fox\r", "the fox"),
        ("\x1b[200~one\ntwo\nthree\x1b[201~\r", "one\ntwo\nthree"),
        ("one\x1b\rtwo\r", "one\ntwo"),
        ("one\\\rtwo\r", "one\ntwo"),
        ('"""one\rtwo"""\r', "one\ntwo"),
        ("/se\t\x01\x0bfox\r", "fox"),
        ("/he\t\r", "/help"),
        ("/set temp\t 0.6\r", "/set temperature 0.6"),
    ],
)
def test_what_is_typed(keys, typed, question):
    assert keys(typed) == [question]


def test_questions_are_kept_for_the_next_run(keys):
    keys("first\rsecond\r", count=2)
    assert keys("\x10\x10\r") == ["first"]
    path = home.state_folder() / "history"
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_history_that_cannot_be_written_says_so(keys, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGERT_STATE", str(tmp_path / "file"))
    assert keys("the fox\r") == ["the fox"]
    assert "warning: questions are not kept: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("/s", ["/set", "/save", "/system"]),
        ("/set top", ["top_k", "top_p"]),
        ("why is", []),
        ("set", []),
        ("/set top_k 1", []),
    ],
)
def test_tab_offers(typed, offered):
    found = Names(COMMANDS).get_completions(Document(typed), CompleteEvent())
    assert sorted(completion.text for completion in found) == sorted(offered)


@pytest.mark.parametrize("command", TAKE_FILES)
def test_tab_offers_files(command, tmp_path):
    (tmp_path / "notes.txt").touch()
    found = list(Names(COMMANDS).get_completions(Document(f"{command} {tmp_path}/no"), CompleteEvent()))
    assert [completion.text for completion in found] == ["tes.txt"]
