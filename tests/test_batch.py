"""A file of prompts to a file of answers: formats, order, errors per line, kills, and who may go on."""

import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from edgert.batch import Job, Local, Setup
from edgert.batch.job import Tally
from edgert.batch.journal import Binding, Files, open_journal
from edgert.batch.line import parse
from edgert.batch.result import Result
from edgert.cli import console, main
from edgert.errors import EdgertError, UsageError

SAYS_HI = [{"role": "user", "content": "the quick brown fox"}]


def openai(custom_id="a", **body):
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "any", "messages": SAYS_HI, **body},
    }


def written(path, *entries):
    lines = (entry if isinstance(entry, str) else json.dumps(entry) for entry in entries)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def batch(bundles, tmp_path):
    """The command on a file of these lines; the result and where the output is."""

    def run(*entries, options=("--max-tokens", "8"), name="out.jsonl"):
        prompts, out = written(tmp_path / "prompts.jsonl", *entries), tmp_path / name
        command = ["batch", str(prompts), str(out), "--bundle", str(bundles()), *options]
        return CliRunner().invoke(main, command), out

    return run


def test_answers_come_in_the_order_of_the_prompts_and_are_those_of_the_model(batch, model):
    prompts = [" ".join(["one two three four"] * count) for count in (9, 1, 5, 2, 7, 3, 8, 4, 6, 10, 12, 11)]
    result, out = batch(*prompts)
    assert result.exit_code == 0, result.output
    found = rows(out)
    assert [row["id"] for row in found] == list(range(1, 13))
    for row, prompt in zip(found, prompts, strict=True):
        reply = model.generate(prompt, max_tokens=8)
        assert row["text"] == reply.text and row["answer_tokens"] == len(reply.tokens)
        assert row["finish_reason"] == reply.finish_reason
    assert f"{out}: 12 lines; " in result.stderr and [path.name for path in out.parent.glob("*out*")] == [
        "out.jsonl"
    ]


def test_openai_s_lines_get_openai_s_results(batch, model):
    ours = {"id": "mine", "prompt": "one two three", "max_tokens": 3}
    result, out = batch(
        openai("first", max_completion_tokens=5), ours, openai("last", temperature=0, n=1, stream=False)
    )
    assert result.exit_code == 0, result.output
    first, mine, last = rows(out)
    assert first["custom_id"] == "first" and first["error"] is None and last["custom_id"] == "last"
    assert first["response"]["status_code"] == 200
    body = first["response"]["body"]
    reply = model.generate(SAYS_HI, max_tokens=5)
    assert body["choices"][0]["message"] == {"role": "assistant", "content": reply.text}
    assert body["choices"][0]["finish_reason"] == reply.finish_reason
    assert body["usage"]["completion_tokens"] == len(reply.tokens) and body["object"] == "chat.completion"
    assert mine["id"] == "mine" and mine["answer_tokens"] <= 3


@pytest.mark.parametrize("in_their_format", [False, True])
def test_a_line_that_can_t_be_answered_has_an_error_in_its_place(batch, in_their_format):
    long = "one " * 5000
    bad = openai("bad", messages=[{"role": "user", "content": long}]) if in_their_format else {"prompt": long}
    result, out = batch({"prompt": "one"}, bad, {"prompt": "two"})
    assert result.exit_code == 12 and "1 of 3 lines have an error in place of an answer" in result.stderr
    first, failed, last = rows(out)
    assert "text" in first and "text" in last
    told = failed["error"]["message"] if in_their_format else failed["error"]
    assert "tokens, the context holds" in told and "a larger context" in told


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("{", "not JSON"),
        ({"prompt": "one", "max_token": 3}, "unknown key 'max_token'; did you mean max_tokens?"),
        ({"prompt": "one", "max_tokens": 0}, "max_tokens must be a whole number of at least 1, not 0"),
        ({"prompt": "one", "temperature": "hot"}, "temperature"),
        ({"prompt": "one", "logit_bias": {"x": 1}}, "logit_bias must map token ids to numbers"),
        ({"prompt": "one", "id": ["x"]}, '"id" must be a text or a whole number'),
        ({"prompt": "one", "id": "same"}, "line 1 has the same id, 'same'"),
        ({"prompt": "one", "messages": SAYS_HI}, "one of the two"),
        ({"messages": [{"role": "king", "content": "x"}]}, "message 1 must have a 'role'"),
        (openai("x", n=2), '"n" can only be 1 in a batch, not 2'),
        (openai("x", stream=True), '"stream" can only be False'),
        (openai("x", tools=[]), "unknown key 'tools'"),
        (openai("x", response_format={"type": "xml"}), '"response_format" must be of type'),
        (openai(""), '"custom_id" must be a text that is not empty'),
        (openai("x") | {"url": "/v1/embeddings"}, "is answered, not to '/v1/embeddings'"),
        ({"custom_id": "x", "body": {}}, '"body" must be a table with "messages"'),
        (openai("x", messages=[]), "at least one message"),
    ],
)
def test_what_is_wrong_in_a_line_is_told_with_its_place_before_anything_is_computed(batch, entry, told):
    result, out = batch({"id": "same", "prompt": "one"}, "", entry)
    assert result.exit_code == 2 and "prompts.jsonl, line 3: " in result.stderr and told in result.stderr
    assert result.stderr.count("line 3") == 1 and not out.exists()
    assert not Files(out).journal.exists()


def test_a_line_s_own_options_come_before_those_of_all():
    text = '{"prompt": "a", "seed": 7, "max_tokens": null, "logit_bias": {"5": -1}}\n{"prompt": "b"}'
    own, usual = parse(text, "p", {"seed": 1, "max_tokens": 9})
    assert own.options == {"seed": 7, "max_tokens": 9, "logit_bias": {5: -1}}
    assert usual.options == {"seed": 1, "max_tokens": 9} and (own.id, usual.id) == (1, 2)


def test_a_line_has_one_form_its_own():
    pytest.importorskip("llguidance")
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    (line,) = parse(json.dumps(openai(response_format=form)), "p", {"regex": "x+"})
    assert line.options == {"json_schema": {"type": "integer"}}


def test_results_that_unicode_can_t_encode_stay_json(batch):
    result, out = batch(r'{"id": "\ud83d", "prompt": "one"}')
    assert result.exit_code == 0, result.output
    assert rows(out)[0]["id"] == "\ud83d"


def test_an_output_that_is_there_is_never_overwritten(batch):
    assert batch("one")[0].exit_code == 0
    result, out = batch("one")
    assert (
        result.exit_code == 2 and f"{out} is there already: remove it, or give another file" in result.stderr
    )


def test_an_output_without_a_folder_is_refused_before_the_bundle_is_loaded(batch):
    result, _ = batch("one", name="none/out.jsonl")
    assert result.exit_code == 2 and "there is no folder" in result.stderr


class Failing(Local):
    """Answers some lines, then fails as an engine would."""

    def answer(self, lines, take):
        super().answer(lines[: len(lines) // 2], take)
        raise EdgertError("the machine is on fire")


@pytest.fixture
def half(bundles, model, tmp_path):
    """A job of which half is done, and how to read it again."""
    prompts = written(tmp_path / "prompts.txt", *(f"one two {word}" for word in "abcdefgh"))
    out = tmp_path / "out.jsonl"

    def read(bundle="llama", **options):
        return Job.read(prompts, out, Setup(str(bundles(bundle))), {"max_tokens": 4, **options})

    with pytest.raises(EdgertError, match="on fire"):
        read().run(Failing(model), Tally(8))
    assert not out.exists()
    return read


def test_a_run_goes_on_where_another_stopped(half, model):
    job, tally = half(), Tally(8)
    assert job.run(Local(model), tally) == 0
    assert (tally.before, tally.done) == (4, 4)
    assert [row["id"] for row in rows(job.files.out)] == list(range(1, 9))
    assert not job.files.journal.exists() and not job.files.lock.exists()


def test_what_a_kill_cut_off_is_cut_away_and_answered_again(half, model):
    job, tally = half(), Tally(8)
    whole = job.files.journal.read_bytes()
    job.files.journal.write_bytes(whole[:-9])
    job.run(Local(model), tally)
    assert (tally.before, tally.done) == (3, 5) and len(rows(job.files.out)) == 8


def test_what_a_power_failure_left_is_answered_again(half, model):
    job, tally = half(), Tally(8)
    header, first, *others = job.files.journal.read_bytes().splitlines(keepends=True)
    job.files.journal.write_bytes(header + first + bytes(len(others[0])) + b"".join(others[1:]))
    job.run(Local(model), tally)
    assert (tally.before, tally.done) == (1, 7) and len(rows(job.files.out)) == 8


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 3}, 'with other options, {"max_tokens": 4}'),
        ({"bundle": "qwen2"}, "of another bundle"),
    ],
)
def test_answers_of_another_bundle_or_with_other_options_are_not_gone_on_with(half, model, change, told):
    job = half(**change)
    with pytest.raises(
        UsageError, match="To go on, give what was given then; to begin anew, remove it"
    ) as error:
        job.run(Local(model), Tally(8))
    assert told in str(error.value) and job.files.journal.exists()


def test_answers_to_a_file_that_has_changed_are_not_gone_on_with(half, model, tmp_path):
    written(tmp_path / "prompts.txt", *"abcdefgh")
    with pytest.raises(UsageError, match="to other prompts: the file has changed since"):
        half().run(Local(model), Tally(8))


def test_a_file_that_is_no_journal_is_left_alone(half, model):
    job = half()
    job.files.journal.write_text("my notes\nof the year\n")
    with pytest.raises(UsageError, match="is no file of edgert batch"):
        job.run(Local(model), Tally(8))
    assert job.files.journal.read_text() == "my notes\nof the year\n"


def test_an_output_that_came_meanwhile_is_left_alone(half, model):
    job = half()
    job.files.out.write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        half().run(Local(model), Tally(8))
    assert job.files.out.read_text() == "mine"


def test_a_run_that_was_killed_before_it_removed_the_journal_only_does_that(half, model):
    job = half()
    kept = job.files.journal.read_bytes()
    job.run(Local(model), Tally(8))
    answers = rows(job.files.out)
    lines = [json.dumps({"number": row["id"], "created": 0, "text": row["text"]}) for row in answers]
    job.files.journal.write_bytes(
        kept.splitlines(keepends=True)[0] + "".join(f"{x}\n" for x in lines).encode()
    )
    tally = Tally(8)
    half().run(Local(model), tally)
    assert tally.done == 0 and [row["text"] for row in rows(job.files.out)] == [x["text"] for x in answers]
    assert not job.files.journal.exists()


BINDING = Binding("p", "b", "{}")


def test_the_first_result_of_a_line_counts(tmp_path):
    with open_journal(Files(tmp_path / "out"), BINDING) as journal:
        for text in ("first", "second"):
            journal.add(Result(3, 0, text))
        journal.add(Result(1, 0, "other"))
        assert [result.text for result in journal.results([1, 3])] == ["other", "first"]
    with open_journal(Files(tmp_path / "out"), BINDING) as again:
        assert len(again) == 2 and 3 in again and 2 not in again


def test_one_process_writes_an_output_at_a_time(tmp_path):
    with open_journal(Files(tmp_path / "out"), BINDING):
        with pytest.raises(UsageError, match="another process is writing"):
            with open_journal(Files(tmp_path / "out"), BINDING):
                pass


def test_a_terminal_gets_a_bar_with_speed_and_time_left(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    clock = itertools.count(step=2)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    with console.line_bar("Answering") as progress:
        progress(0, 10, "")
        progress(3, 10, "42 tokens/s")
        progress(5, 10, "43 tokens/s")
    shown = screen.getvalue()
    assert "Answering" in shown and "5/10" in shown and "43 tokens/s" in shown
    assert re.search("00:00:[0-9]{2}", shown)  # left


KILLS = int(os.environ.get("EDGERT_KILLS", "5"))
LINES = 40 * KILLS


def begun(bundle, prompts, out):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "edgert", "batch", str(prompts), str(out), "--bundle", str(bundle)]
    return subprocess.Popen([*command, "--max-tokens", "20"], stderr=subprocess.PIPE, text=True)


def whole_lines(path):
    return path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""


def test_killed_at_random_moments_nothing_is_lost_and_nothing_answered_twice(bundles, model, tmp_path):
    chance = random.Random(5)
    prompts = written(tmp_path / "p.txt", *(f"one two three {number}" for number in range(LINES)))
    out, kept, cut = tmp_path / "out.jsonl", b"", 0
    for _ in range(KILLS):
        process = begun(bundles(), prompts, out)
        answered = kept.count(b"\n") + chance.randrange(1, LINES // KILLS // 2)
        while process.poll() is None and whole_lines(Files(out).journal).count(b"\n") < answered:
            time.sleep(0.001)  # counted in answers: a fast machine is cut in the middle, too
        time.sleep(chance.random() * 0.01)
        process.kill()
        process.communicate()
        now = whole_lines(Files(out).journal)
        assert now.startswith(kept) or out.exists()  # what was answered stays as it was
        kept, cut = now, cut + (not out.exists())
    assert cut > KILLS // 2  # the others came too late
    last = begun(bundles(), prompts, out) if not out.exists() else None
    assert last is None or (last.communicate()[1] and last.returncode == 0)
    texts = [row["text"] for row in rows(out)]
    assert texts == [model.generate(f"one two three {n}", max_tokens=20).text for n in range(LINES)]


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C can't be sent to one process there")
def test_ctrl_c_says_how_to_go_on(bundles, tmp_path):
    prompts = written(tmp_path / "p.txt", *(f"one two three {number}" for number in range(3000)))
    out = tmp_path / "out.jsonl"
    ours = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's job in the background ignores it
    try:
        process = begun(bundles(), prompts, out)
    finally:
        signal.signal(signal.SIGINT, ours)
    while whole_lines(Files(out).journal).count(b"\n") < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=20)[1]
    assert process.returncode == 130 and not out.exists()
    assert f"of 3000 answers are kept in {out}.partial; the same command goes on" in told
