"""An answer on the screen: where the thought goes, on a terminal and elsewhere."""

import io
import json

import pytest
from click.testing import CliRunner

import edgert
from edgert.answering.reply import Stopwatch
from edgert.chat.printing import NOTE, Printer
from edgert.chat.terminal import Chat
from edgert.cli import main
from edgert.text.sampler import SampledToken, Sampler

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
PARTS = (("thinking", ""), ("thinking", "Hm."), ("thinking", " 2?"), ("answer", ""), ("answer", "It is 4."))
THOUGHT = "<think>\nHm. 2?\n</think>\n\nIt is 4."


@pytest.fixture
def screen(monkeypatch):
    """What a printer puts on a terminal, or into a file."""

    def printed(parts, thinking=None, terminal=True, color=True):
        out = io.StringIO()
        out.isatty = lambda: terminal
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", out)
            patch.setenv("NO_COLOR", "" if color else "1")
            printer = Printer(thinking)
            for channel, text in parts:
                printer.show(edgert.Chunk(text, None, Stopwatch(1).timings(0), channel=channel))
            printer.end()
        return out.getvalue()

    return printed


def test_a_terminal_gets_the_thought_dimmed(screen):
    expected = f"{DIM}Hm.{PLAIN}{DIM} 2?{PLAIN}\n\nIt is 4.\n"
    assert screen(PARTS) == screen(PARTS, "show") == expected


def test_without_colour_it_gets_the_tags(screen):
    assert screen(PARTS, color=False) == f"{THOUGHT}\n"


def test_pipes_get_the_answer_alone_unless_asked_otherwise(screen):
    assert screen(PARTS, terminal=False) == screen(PARTS, "hide", terminal=False) == "It is 4.\n"
    assert screen(PARTS, "show", terminal=False) == f"{THOUGHT}\n"


def test_a_hidden_thought_leaves_a_note_while_it_lasts(screen):
    erased = "\r" + " " * len(NOTE) + "\r"
    assert screen(PARTS, "hide", color=False) == f"{NOTE}{erased}It is 4.\n"
    assert screen(PARTS[:2], "hide", color=False) == f"{NOTE}{erased}\n"


def test_an_empty_thought_is_nothing(screen):
    parts = [("thinking", ""), ("answer", "It is 4.")]
    assert screen(parts) == screen(parts, "show", terminal=False) == "It is 4.\n"


def test_a_thought_that_was_cut_stays_open(screen):
    assert screen(PARTS[:3], "show", terminal=False) == "<think>\nHm. 2?\n"


def test_an_ordinary_answer(screen):
    assert screen([("answer", "It"), ("answer", " is 4.")]) == "It is 4.\n"


def test_a_chat_with_a_student_that_thinks(r1, monkeypatch, capsys, tmp_path):
    told = [*r1.tokenizer.encode_rendered(THOUGHT), 151643]
    monkeypatch.setattr(Sampler, "choose", lambda *_: SampledToken(told.pop(0)))
    lines = iter(["What is 2 + 2?", f"/save {tmp_path / 'talk.json'}", "/set thinking_budget '20s'", "/set"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines, "/exit"))
    Chat(r1, {}, thinking="show").loop()
    out = capsys.readouterr().out
    assert THOUGHT in out and "thinking_budget 20s" in out
    other = Chat(r1, {})
    other._commands.load(str(tmp_path / "talk.json"))
    assert capsys.readouterr().out == "> What is 2 + 2?\nIt is 4.\n"
    assert other._conversation.turns[-1]["content"] == THOUGHT


@pytest.mark.parametrize(
    ("flags", "written", "shown"),
    [
        ([], THOUGHT, "It is 4.\n"),
        (["--thinking", "show"], THOUGHT, f"{THOUGHT}\n"),
        (["--thinking", "off"], "It is 4.", "It is 4.\n"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_the_command_line(r1, monkeypatch, command, flags, written, shown):
    told = [*r1.tokenizer.encode_rendered(written), 151643]
    monkeypatch.setattr(Sampler, "choose", lambda *_: SampledToken(told.pop(0)))
    given = ["-p", "-"] if command == "generate" else []
    done = CliRunner().invoke(main, [command, str(r1.bundle.folder), *given, *flags], input="What is 2 + 2?")
    assert (done.stdout, done.exit_code) == (shown, 0)


def test_json_has_both_parts(r1, monkeypatch):
    told = [*r1.tokenizer.encode_rendered(THOUGHT), 151643]
    monkeypatch.setattr(Sampler, "choose", lambda *_: SampledToken(told.pop(0)))
    command = ["generate", str(r1.bundle.folder), "-p", "2 + 2?", "--json", "--thinking-budget", "20s"]
    table = json.loads(CliRunner().invoke(main, command).stdout)
    assert (table["thinking"], table["text"]) == ("Hm. 2?", "It is 4.")
    assert 0 < table["thinking_tokens"] < len(table["token_ids"])
