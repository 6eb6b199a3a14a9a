"""Sessions: another process goes on where the last one stopped, whatever happened to the files in between."""

import hashlib
import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

import edgert
from edgert.answering.session import LOCK, TEXT, New, Session
from edgert.chat import sessions
from edgert.cli import main
from edgert.export import ExportOptions, export
from edgert.file_lock import file_lock
from edgert.saving import save_text

ASKED = ("the quick brown fox", "jumps over", "the lazy dog", "again")
OPTIONS = {"max_tokens": 8, "temperature": 0.0}


def talk(chat, questions):
    return [
        (reply.token_ids, reply.timings.cached_tokens) for reply in (chat.send(q).reply for q in questions)
    ]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "talk"


@pytest.fixture
def whole(bundles):
    """What a process says that never stops."""
    with edgert.load(bundles()) as model:
        return talk(model.conversation(**OPTIONS), ASKED)


def test_another_process_says_the_same_and_reads_nothing_again(bundles, folder, whole):
    for number, question in enumerate(ASKED):
        with edgert.load(bundles()) as model:
            chat = model.conversation(session=folder, **OPTIONS)
            assert talk(chat, [question]) == [whole[number]]
            assert len(chat.turns) == 2 * number + 2
    pieces = Session(folder).cache.pieces
    assert len(pieces) == len(ASKED) and {path.name for path in folder.iterdir()} == {
        TEXT,
        LOCK,
        *(piece.file for piece in pieces),
    }


def test_int8_keys_and_values_are_kept_as_they_are(checkpoints, folder, tmp_path):
    bundle = tmp_path / "b"
    export(checkpoints("llama"), bundle, ExportOptions(kv="int8", verify=False))
    with edgert.load(bundle) as model:
        first = talk(model.conversation(**OPTIONS), ASKED)
        kept = model.conversation(session=folder, **OPTIONS)
        talk(kept, ASKED[:2])
    facts = edgert.open_bundle(bundle).manifest.model
    size = 2 * facts.num_layers * facts.num_kv_heads * facts.head_dim
    cache = Session(folder).cache
    for piece in cache.pieces:
        assert (folder / piece.file).stat().st_size == size * piece.tokens
    with edgert.load(bundle) as model:
        assert talk(model.conversation(session=folder, **OPTIONS), ASKED[2:]) == first[2:]


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (damage, r"kv-1.bin is damaged \(another checksum\)"),
        (lambda path: path.write_bytes(b""), "kv-1.bin is damaged"),
        (lambda path: path.unlink(), "kv-1.bin is damaged"),
    ],
)
def test_damaged_keys_and_values_are_computed_again(bundles, folder, whole, harm, said):
    with edgert.load(bundles()) as model:
        talk(model.conversation(session=folder, **OPTIONS), ASKED[:2])
    harm(folder / "kv-1.bin")
    with edgert.load(bundles()) as model:
        with pytest.warns(edgert.EdgertWarning, match=f"{said}.*: its text is read again"):
            chat = model.conversation(session=folder, **OPTIONS)
        (tokens, cached), *_ = talk(chat, ASKED[2:3])
        assert tokens == whole[2][0] and cached == 0


def test_a_damaged_table_of_the_cache_leaves_the_text(bundles, folder, whole):
    with edgert.load(bundles()) as model:
        talk(model.conversation(session=folder, **OPTIONS), ASKED[:2])
    damaged = (folder / TEXT).read_bytes().replace(b'"kv-1.bin"', b'"kv-1.bi\xff,')
    (folder / TEXT).write_bytes(damaged)
    with edgert.load(bundles()) as model:
        with pytest.warns(edgert.EdgertWarning, match="of its keys and values is damaged: its text is read"):
            chat = model.conversation(session=folder, **OPTIONS)
        assert (folder / TEXT).read_bytes() == damaged and (folder / "kv-1.bin").exists()
        (tokens, cached), *_ = talk(chat, ASKED[2:3])
        assert tokens == whole[2][0] and cached == 0
    assert len(Session(folder).messages) == 6 and not (folder / "kv-1.bin").exists()


def test_whatever_is_damaged_after_the_messages_leaves_them(folder):
    messages = [{"role": "user", "content": "hello \u2028"}]
    Session(folder).save(messages, New())
    good = (folder / TEXT).read_bytes()
    for place in range(good.index(b"\n"), len(good)):
        for value in (good[place] ^ 1, 0, 10, 255):
            (folder / TEXT).write_bytes(good[:place] + bytes([value]) + good[place + 1 :])
            assert Session(folder).messages == messages
    (folder / TEXT).write_bytes(good[: good.index(b"\n")])
    assert Session(folder).messages == messages and Session(folder).cache is None


def test_a_session_of_the_first_format_is_read(folder):
    folder.mkdir()
    kept = {"messages": [{"role": "user", "content": "fox"}], "cache": {"of": "", "tokens": [], "pieces": []}}
    checksum = hashlib.blake2b(json.dumps(kept).encode()).hexdigest()
    (folder / TEXT).write_text(json.dumps({"format": 1, "blake2b": checksum, **kept}))
    assert Session(folder).messages == kept["messages"] and Session(folder).cache.tokens == ()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_only_the_owner_reads_a_session(model, folder):
    talk(model.conversation(session=folder, **OPTIONS), ASKED[:1])
    names = [TEXT, *(path.name for path in folder.glob("kv-*.bin"))]
    assert len(names) == 2 and {(folder / name).stat().st_mode & 0o777 for name in names} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(sys.platform == "win32", reason="Windows flushes no folders")
def test_a_new_name_is_flushed_with_its_folder(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(stat.S_ISDIR(os.fstat(file).st_mode)))
    save_text(tmp_path / "a", "text")
    assert flushed == [False, True]


def test_two_that_save_wait_for_each_other(folder):
    session, letting_go = Session(folder), threading.Event()
    folder.mkdir()

    def hold():
        with file_lock(folder / LOCK, list):
            held.set()
            letting_go.wait(20)

    held, holder = threading.Event(), threading.Thread(target=hold)
    holder.start()
    held.wait(20)
    threading.Timer(0.3, letting_go.set).start()
    with pytest.warns(edgert.EdgertWarning, match="another process is saving .*: this turn is saved when"):
        session.save([{"role": "user", "content": "fox"}], New())
    holder.join()
    assert letting_go.is_set() and len(Session(folder).messages) == 1


def test_another_bundle_reads_the_text_again(bundles, folder):
    with edgert.load(bundles()) as model:
        talk(model.conversation(session=folder, **OPTIONS), ASKED[:1])
    with (
        edgert.load(bundles(quant="fp32")) as model,
        pytest.warns(edgert.EdgertWarning, match="made by another bundle, or another form of it"),
    ):
        chat = model.conversation(session=folder, **OPTIONS)
    assert [turn["role"] for turn in chat.turns] == ["user", "assistant"]


@pytest.mark.parametrize("text", ["", "{", '{"format": 9, "messages": [], "cache": {}}', '{"format": 1}'])
def test_a_text_that_cannot_be_read_is_refused_and_stays(bundles, folder, text):
    folder.mkdir()
    (folder / TEXT).write_text(text)
    with edgert.load(bundles()) as model, pytest.raises(edgert.UsageError, match="can't be read"):
        model.conversation(session=folder)
    assert (folder / TEXT).read_text() == text


def test_what_was_taken_back_is_not_kept(bundles, folder, model):
    chat = model.conversation(session=folder, **OPTIONS)
    talk(chat, ASKED[:2])
    chat.take_back()
    chat.send("something else").reply  # noqa: B018 - waits
    assert [turn["content"] for turn in Session(folder).messages if turn["role"] == "user"] == [
        ASKED[0],
        "something else",
    ]
    chat.clear()
    assert Session(folder).messages == [] and {path.name for path in folder.iterdir()} == {TEXT, LOCK}


def test_a_turn_that_cannot_be_saved_is_told(model, tmp_path):
    (tmp_path / "file").write_text("")
    chat = model.conversation(session=tmp_path / "file" / "talk", **OPTIONS)
    chat.send("the fox").reply  # noqa: B018 - waits
    with pytest.raises(edgert.UsageError, match="can't keep the session"):
        chat.send("jumps")
    assert len(chat.turns) == 2


def test_a_session_has_its_own_messages(model, folder):
    talk(model.conversation(session=folder, **OPTIONS), ASKED[:1])
    with pytest.raises(edgert.UsageError, match="has messages already"):
        model.conversation(messages=[{"role": "user", "content": "x"}], session=folder)
    assert model.conversation("Be brief.", session=folder).messages[0]["content"] == "Be brief."
    assert len(Session(folder).messages) == 2


def test_a_changed_text_is_never_taken_for_what_was_said(folder):
    Session(folder).save([{"role": "user", "content": "hello \udc80"}], New())
    good = (folder / TEXT).read_bytes()
    said = Session(folder).messages
    for place in range(len(good)):
        (folder / TEXT).write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        try:
            assert Session(folder).messages == said
        except edgert.UsageError as error:
            assert "can't be read" in str(error)  # noqa: PT017 - white space may change


def test_options_are_kept_and_what_is_given_wins(model, folder):
    def look(far: bool) -> str:
        """Look."""
        return "x"

    chat = model.conversation(session=folder, logit_bias={5: 1.0}, seed=3, stop=("x", "y"), **OPTIONS)
    talk(chat, ASKED[:1])
    kept = model.conversation(session=folder, temperature=0.5).options
    assert kept == {
        "logit_bias": {5: 1.0},
        "seed": 3,
        "stop": ["x", "y"],
        "max_tokens": 8,
        "temperature": 0.5,
    }
    assert Session(folder).how.answers == {1: {**kept, "temperature": 0.0}}
    Session(folder).save([], New(), {"tools": [look], "top_k": 3})
    assert Session(folder).options == {"top_k": 3}


def test_each_answer_has_the_options_that_it_was_made_with(model, folder):
    chat = model.conversation(session=folder, max_tokens=3)
    talk(chat, ASKED[:2])
    chat.send(ASKED[2], top_k=2).reply  # noqa: B018 - waits
    assert Session(folder).options == {"max_tokens": 3}
    assert Session(folder).how.answers[5] == {"max_tokens": 3, "top_k": 2}
    chat.restore(chat.history[:2])
    chat.send(ASKED[3], temperature=0.5).reply  # noqa: B018 - waits
    answers = Session(folder).how.answers
    assert answers == {1: {"max_tokens": 3}, 3: {"max_tokens": 3, "temperature": 0.5}}


def test_damaged_options_leave_the_text(model, folder):
    talk(model.conversation(session=folder, max_tokens=3, top_k=3), ASKED[:1])
    content = (folder / TEXT).read_text()
    (folder / TEXT).write_text(content.replace('"top_k": 3', '"top_k": 4'))
    session = Session(folder)
    assert session.how is None and not session.options and session.cache.tokens
    assert len(session.messages) == 2
    with pytest.warns(edgert.EdgertWarning, match="options of its answers are damaged: the usual ones hold"):
        assert not model.conversation(session=folder).options


def test_others_answer_while_a_turn_is_saved(bundles, folder, monkeypatch):
    saving, go_on = threading.Event(), threading.Event()
    save = Session.save

    def slow(*arguments):
        saving.set()
        assert go_on.wait(10)
        save(*arguments)

    monkeypatch.setattr(Session, "save", slow)
    with edgert.load(bundles(), conversations=2) as model:
        stream = model.conversation(session=folder, **OPTIONS).send("the fox")
        assert saving.wait(10)
        assert len(model.generate("dog", **OPTIONS).tokens) == 8
        assert not (folder / TEXT).exists()
        go_on.set()
        assert stream.reply.finish_reason and (folder / TEXT).exists()


def test_turns_of_another_process_are_not_written_over(folder):
    one, other = Session(folder), Session(folder)
    one.save([{"role": "user", "content": "first"}], New())
    with pytest.raises(edgert.UsageError, match="another process has gone on"):
        other.save([{"role": "user", "content": "second"}], New())
    assert Session(folder).messages == [{"role": "user", "content": "first"}]


def test_what_a_killed_process_was_writing_is_removed(folder):
    folder.mkdir()
    for name in (".session.json.123", ".kv-7.bin.123", ".mine"):
        (folder / name).write_text("half")
    Session(folder).save([], New())
    assert {path.name for path in folder.iterdir()} == {TEXT, LOCK, ".mine"}


KILLS = int(os.environ.get("EDGERT_KILLS", "6"))
KILLED = """
import sys, edgert
model = edgert.load(sys.argv[1])
chat = model.conversation(session=sys.argv[2], max_tokens=3)
for number in range(len(chat.turns) // 2, 400):
    chat.send(f"question {number}").reply
    print(number, flush=True)
    if number % 6 == 5:
        chat.restore([])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_whenever_a_process_dies_the_last_whole_turn_is_there(bundles, folder):
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(bundles()), str(folder)]
    with edgert.load(bundles()) as model:
        form = model.rows.form
    chance = random.Random(1)
    for _ in range(KILLS):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            said = [process.stdout.readline() for _ in range(2)]
            time.sleep(0.08 * chance.random())
            os.kill(process.pid, signal.SIGKILL)
            said += process.stdout.read().splitlines()
        last, kept = int(said[-1]), Session(folder)
        asked = [turn["content"] for turn in kept.messages if turn["role"] == "user"]
        assert asked[-1] in (f"question {last}", f"question {last + 1}") and len(kept.messages) % 2 == 0
        held = sum(piece.shape[2] for piece in kept.keys_and_values(form))
        assert held == len(kept.cache.tokens)
        (folder / TEXT).unlink()


def run(*arguments, **more):
    result = CliRunner().invoke(main, [*map(str, arguments)], **more)
    return result.output


def test_the_chat_keeps_what_was_said_and_goes_on(bundles):
    talks = ["chat", bundles(), "--max-tokens", "4"]
    run(*talks, "--session", "garden", input="the fox")
    run(*talks, "--continue", "--top-k", "2", input="jumps")
    assert "\n(max_tokens 4, top_k 2, stop_loops True)\n> jumps" not in run("sessions", "show", "garden")
    assert run("sessions", "show", "garden").count("(") == 2
    assert run("sessions").split()[0::20] == ["garden"] and "2 questions" in run("sessions")
    said = json.loads(run("sessions", "export", "garden"))["messages"]
    assert [turn["content"] for turn in said[::2]] == ["the fox", "jumps"]
    assert run("sessions", "show", "garden").startswith("> the fox\n")
    assert "did you mean" in run("sessions", "show", "gardem")
    assert run("sessions", "rm", "garden") == "garden: removed\n"
    assert "begin one with" in run("sessions") and "no session is kept yet" in run(*talks, "--continue")


def test_a_chat_at_a_terminal_is_kept_without_a_name(bundles, monkeypatch):
    monkeypatch.setattr("edgert.cli.console.on_terminal", lambda: True)
    talks = ["chat", bundles(), "--max-tokens", "4"]
    run(*talks, "--no-save", input="the fox\n/exit\n")
    assert not sessions.kept()
    run(*talks, "--temperature", "0.5", input="the fox\n/exit\n")
    (kept,) = sessions.kept()
    assert re.fullmatch(sessions.UNNAMED_NAME, kept.name)
    assert kept.open().options["temperature"] == 0.5
    run(*talks, "--continue", "--top-k", "3", input="jumps\n/exit\n")
    (kept,) = sessions.kept()
    assert [turn["content"] for turn in kept.open().messages[::2]] == ["the fox", "jumps"]
    assert {"temperature": 0.5, "top_k": 3}.items() <= kept.open().options.items()
    run(*talks, input="/exit\n")
    assert len(sessions.kept()) == 1  # nothing was asked
    assert not run("config", "set", "kept_chats", "1").startswith("Error")
    run(*talks, input="the dog\n/exit\n")
    (kept,) = sessions.kept()
    assert kept.open().messages[0]["content"] == "the dog"


def test_only_the_last_chats_without_a_name_stay(monkeypatch):
    for name in ("mine", "chat-2026-01-01-000000", "chat-2026-01-02-000000", "chat-2026-01-03-000000-2"):
        Session(sessions.folder(name)).save([], New())
        os.utime(sessions.folder(name) / TEXT, (len(os.listdir(sessions.folder(name).parent)),) * 2)
    sessions.thin_out(3)
    assert {kept.name for kept in sessions.kept()} == {
        "mine",
        "chat-2026-01-02-000000",
        "chat-2026-01-03-000000-2",
    }


def test_names_are_no_paths(bundles):
    assert "is no name of a session" in run("chat", bundles(), "--session", "../x", input="fox")
    assert "choose one" in run("chat", bundles(), "--session", "x", "--continue", input="fox")
