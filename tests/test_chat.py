"""The chat at the terminal, driven by typed lines."""

import base64
import io
import json
import os
import subprocess
import sys

import pytest

import edgert
from edgert.chat import input as typing
from edgert.chat import notices
from edgert.chat.commands import HELP
from edgert.chat.terminal import Chat


@pytest.fixture
def typed(monkeypatch, model, capsys):
    """Run a chat over typed lines; an exception among them is raised at the prompt. Returns the screen."""

    def run(*lines, options=None, system=None):
        script = iter([*lines, EOFError()])

        def read(_prompt):
            line = next(script)
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", read)
        session = Chat(model, options or {"max_tokens": 6}, system)
        session.loop()
        screen = capsys.readouterr()
        return session, screen.out, screen.err

    return run


def turns(session):
    return [turn["role"] for turn in session._conversation.turns]


def test_an_answer_is_streamed_and_remembered(typed, model):
    session, out, _ = typed("the fox")
    assert model.generate("the fox", max_tokens=6).text in out
    assert turns(session) == ["user", "assistant"]


def test_the_first_line_says_what_runs(typed):
    _, out, _ = typed()
    assert out.startswith("llama-int8 · int8 · laptop-cpu, ")
    assert "context 256 · /help lists the commands" in out


def test_clear_forgets(typed):
    session, out, _ = typed("the fox", "/clear")
    assert turns(session) == [] and "forgotten" in out


def test_retry_asks_again(typed):
    session, _, _ = typed("the fox", "/set temperature 1.5", "/retry")
    assert turns(session) == ["user", "assistant"]


def test_a_cut_answer_says_so(typed):
    assert typed("the fox")[2] == "(cut off after 6 tokens, as asked)\n"
    endless = {"max_tokens": None, "repetition_penalty": 2.0}  # or it would be stopped for its loop
    assert "(cut off: the context of 256 tokens is full" in typed("the fox", options=endless)[2]


def test_retry_without_a_question(typed):
    assert typed("/retry")[2] == "there is no question yet\n"


def test_system_starts_over(typed):
    session, out, _ = typed("the fox", "/system Be brief.", "/system")
    assert session._conversation.messages == [{"role": "system", "content": "Be brief."}]
    assert out.endswith("Be brief.\n\n")


def test_set_changes_and_lists(typed):
    _, out, _ = typed("/set temperature 0.5", "/set stop ['fox']", "/set")
    assert "temperature is 0.5 from the next answer on." in out
    assert "stop ['fox']" in out and "max_tokens 6" in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set temperature hot", "temperature must be a number between 0 and 100, not 'hot'"),
        ("/set temprature 1", "unknown setting 'temprature'; did you mean temperature?"),
        ("/retyr", "unknown command '/retyr'; did you mean /retry? /help lists them"),
        ("/set temperature -1", "temperature must be a number between"),
        ("/set beams 2", "unknown setting 'beams'; /set lists them"),
        ("/set top_k 'x'", "top_k must be a whole number"),
        ("/dance", "unknown command '/dance'"),
        ("/save", "/save needs a file name"),
        ("/file nowhere.txt", "/file: can't read nowhere.txt: No such file"),
        ("/copy", "/copy: there is no answer yet"),
        ("/load nowhere.json", "can't load nowhere.json"),
        ("/save /nowhere/at/all.json", "can't save to"),
    ],
)
def test_mistakes_are_one_line_and_the_chat_goes_on(typed, line, message):
    session, _, err = typed(line, "the fox")
    lines = [line for line in err.splitlines() if not line.startswith("(cut off")]
    assert len(lines) == 1 and message in lines[0]
    assert turns(session) == ["user", "assistant"]


def test_save_and_load(typed, tmp_path):
    path = tmp_path / "talk.json"
    session, _, _ = typed("/system Be brief.", "the fox", f"/save {path}")
    loaded, out, _ = typed(f"/load {path}")
    assert loaded._conversation.messages == session._conversation.messages
    assert "> the fox" in out
    assert json.loads(path.read_text())["messages"][0]["role"] == "system"
    assert [p.name for p in tmp_path.iterdir()] == ["talk.json"]


def test_a_file_that_is_no_conversation(typed, tmp_path):
    (tmp_path / "x.json").write_text('{"messages": [{"role": "user"}]}')
    assert "is not a saved conversation" in typed(f"/load {tmp_path / 'x.json'}")[2]


def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(typed, model, monkeypatch):
    real, goes_well = edgert.Stream.__next__, iter([True, False])

    def interrupted(self):
        if next(goes_well, True):
            return real(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(edgert.Stream, "__next__", interrupted)
    session, out, _ = typed("the fox", "/exit")
    assert "(stopped)" in out and turns(session) == ["user", "assistant"]


def test_ctrl_c_at_the_prompt_and_ctrl_d(typed):
    _, out, _ = typed(KeyboardInterrupt(), "/help")
    assert "Ctrl-D or /exit leaves" in out and "/retry" in out


def test_a_question_of_several_lines(typed):
    session, _, _ = typed('"""the quick', 'brown fox"""')
    assert session._conversation.turns[0]["content"] == "the quick\nbrown fox"


def test_a_question_too_long_is_taken_back(typed):
    session, _, err = typed("fox " * 400)
    assert "the context holds 256: shorten it, start over with /clear" in err and turns(session) == []


def test_exit_leaves(typed):
    session, _, _ = typed("/exit", "never asked")
    assert turns(session) == []


def test_help_lists_every_command(model):
    assert all(f"/{name}" in HELP for name in Chat(model, {})._commands.names)


def test_a_line_that_goes_on(typed):
    session, _, _ = typed("the quick\\", "brown\\", "fox")
    assert session._conversation.turns[0]["content"] == "the quick\nbrown\nfox"


def test_lines_that_were_pasted_are_one_question(monkeypatch):
    """Where readline can't tell: the next line is there at once."""
    lines, there = iter(["one", "two", "three"]), iter([True, True, False])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(lines))
    reading = typing.PlainInput()
    monkeypatch.setattr(reading, "_pasted", lambda: next(there))
    assert reading.read(">>> ") == "one\ntwo\nthree"


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal as POSIX has it")
@pytest.mark.parametrize("marked", [True, False])
def test_a_paste_into_a_terminal(marked):
    """With a terminal's marks around it, and to a readline that doesn't know them."""
    import pty

    program = f"""
from edgert.chat.input import PlainInput
typed = PlainInput()
typed._marks_pastes = {marked}
print("ready", repr(typed.read(">>> ")))
"""
    paste = b"one\ntwo\nthree" if not marked else b"\x1b[200~one\ntwo\nthree\x1b[201~"
    master, slave = pty.openpty()
    try:
        done = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm"},
        )
        screen = b""
        while b">>> " not in screen:
            screen += os.read(master, 1000)
        os.write(master, paste + b"\n")
        assert done.wait(20) == 0
        screen += os.read(master, 10000)
    finally:
        os.close(master)
        os.close(slave)
    assert rb"ready 'one\ntwo\nthree'" in screen


def test_several_lines_that_begin_with_a_slash_are_a_question(typed):
    session, _, _ = typed('"""/usr/bin', '/etc"""')
    assert session._conversation.turns[0]["content"] == "/usr/bin\n/etc"


def test_words_for_switches_and_bare_text(typed):
    _, out, err = typed("/set stop_loops off", "/set stop END", "/set max_tokens none", "/set", "/set stop")
    assert err == "" and "stop_loops False" in out and "max_tokens None" in out
    assert out.count("stop ['END']") == 2


def test_stats(model, capsys):
    chat = Chat(model, {"max_tokens": 6}, stats=True)
    chat.answer("the fox")
    timings = chat.answer("the dog")
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{timings.decode_tokens_per_s:.1f} tokens per second" in last
    assert last.endswith(f"{timings.cached_tokens} of {timings.prompt_tokens} prompt tokens reused")
    assert timings.cached_tokens > 0


def test_a_context_that_is_nearly_full_is_said_once(bundles, capsys):
    with edgert.load(bundles(), context=100) as small:
        chat, said = Chat(small, {"max_tokens": 4}), []
        while not said or said[-1][0] < 90:
            timings = chat.answer("fox")
            used = timings.prompt_tokens + timings.answer_tokens
            said.append((used, "/clear starts over" in capsys.readouterr().err))
    first = next(used for used, _ in said if used >= 80)
    assert [used for used, told in said if told] == [first]
    assert "questions are refused soon" in notices.nearly_full(0, 85, 100, "error")


def test_a_file_goes_before_the_next_question(typed, tmp_path):
    (tmp_path / "notes.txt").write_text("a lazy dog\n")
    session, out, _ = typed(f"/file {tmp_path / 'notes.txt'}", "the fox", "the cow")
    asked = [turn["content"] for turn in session._conversation.turns[::2]]
    assert asked == ["a lazy dog\n\nthe fox", "the cow"]
    assert "notes.txt goes before the next question (10 characters)." in out


def test_a_file_stays_until_a_question_is_answered(typed, tmp_path):
    (tmp_path / "notes.txt").write_text("a lazy dog")
    session, _, err = typed(f"/file {tmp_path / 'notes.txt'}", "fox " * 400, "the fox")
    assert "the context holds" in err
    assert session._conversation.turns[0]["content"] == "a lazy dog\n\nthe fox"


def test_edit_asks_what_the_editor_saved(typed, monkeypatch):
    monkeypatch.setattr("click.edit", lambda text, extension: f"{text} fox\n")
    session, out, _ = typed("/edit the")
    assert session._conversation.turns[0]["content"] == "the fox" and "the fox\n" in out
    monkeypatch.setattr("click.edit", lambda text, extension: None)
    assert typed("/edit")[2] == "/edit: nothing was saved, so nothing is asked\n"


def test_copy_asks_the_terminal(model, monkeypatch, capsys):
    chat = Chat(model, {"max_tokens": 6})
    chat.answer("the fox")
    capsys.readouterr()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    chat._commands.run("/copy")
    answer = chat._conversation.turns[-1]["content"]
    code = base64.b64encode(answer.encode()).decode()
    assert f"\x1b]52;c;{code}\x07" in capsys.readouterr().out


def test_what_the_chat_says_wraps_between_words(monkeypatch):
    monkeypatch.setattr(notices.shutil, "get_terminal_size", lambda: os.terminal_size((40, 24)))
    out = io.StringIO()
    out.isatty = lambda: True
    assert notices.wrapped("one two " * 9, out).splitlines()[0] == "one two one two one two one two one two"
    listed = notices.wrapped(HELP, out, " " * 20).splitlines()
    assert max(map(len, listed)) <= 40 and "                    conversation" in listed
    assert notices.wrapped("one two " * 9, io.BytesIO()) == "one two " * 9
