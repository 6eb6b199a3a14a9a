"""A smaller student that drafts: what it guesses, when it is asked, and that answers stay what they are."""

import json
from types import SimpleNamespace

import httpx2
import pytest
from click.testing import CliRunner
from serving import ASK, serving

import edgert
from edgert import devices
from edgert.answering.drafting import Drafting
from edgert.answering.guesser import Guesser, open_guesser
from edgert.batch.setup import Setup
from edgert.bundle import open_bundle
from edgert.cli import main
from edgert.engine import memory, promises
from edgert.engine.loading import load
from edgert.engine.pace import Pace
from edgert.errors import UsageError
from edgert.export import ExportOptions, export
from edgert.serve.models import Models, Served

TEXT = [3, 4, 5, 9, 8, 7]


@pytest.fixture(scope="module")
def loaded(bundles):
    return load(open_bundle(bundles("llama", "fp32")), devices.detect().profile, 64)


def greedy(loaded, tokens, count):
    slot = loaded.decoder.afresh()
    logits, found = loaded.decoder.extend(slot, tokens)[0], []
    for _ in range(count):
        found.append(int(logits.argmax()))
        logits = loaded.decoder.extend(slot, found[-1:])[0]
    return found


def test_it_guesses_what_its_student_would_say_of_any_text_in_turn(loaded):
    guesser = Guesser(loaded.decoder, vocab=10**6)
    for text in (TEXT, [*TEXT, 20], TEXT[:2], [30, 31, 32], TEXT):
        found = guesser.guess(text, 5)
        assert len(found) == 5
        held = loaded.decoder.slots[0].tokens.copy()
        assert held == [*text, *found[:-1]]
        assert found == greedy(loaded, text, 5)


def test_only_tokens_that_the_other_student_has_are_guessed(loaded):
    assert max(Guesser(loaded.decoder, vocab=50).guess(TEXT, 8)) < 50


def test_it_ends_where_its_cache_does(loaded):
    guesser = Guesser(loaded.decoder, vocab=10**6)
    assert len(guesser.guess([5] * 61, 8)) == 3 and guesser.guess([5] * 64, 8) == []
    assert guesser.guess([5] * 300, 8) == []


def test_the_time_of_a_guess_leaves_out_long_texts(loaded):
    now = iter(range(100))
    guesser = Guesser(loaded.decoder, vocab=10**6, clock=lambda: float(next(now)))
    guesser.guess(list(range(20, 50)), 4)
    assert guesser.seconds is None
    guesser.guess([*range(20, 50), 6], 4)
    assert guesser.seconds == 0.25


class Oracle:
    """Guesses that always come true, each at so many seconds."""

    def __init__(self, seconds):
        self.seconds, self.asked = seconds, 0

    def guess(self, tokens, count):
        self.asked += 1
        return [1] * count


@pytest.mark.parametrize(("seconds", "asked"), [(0.1, True), (1.0, False)])
def test_it_is_asked_where_that_pays(seconds, asked):
    pace, oracle = Pace(), Oracle(seconds)
    drafting = Drafting([5, 6, 7], oracle)
    assert drafting.draft(pace, 100) == []  # how long one token takes isn't known yet
    pace.note(1, 1.0)
    assert bool(drafting.draft(pace, 100)) is bool(oracle.asked) is asked


def test_what_costs_too_much_is_given_up():
    pace, oracle = Pace(), Oracle(0.1)
    pace.note(1, 1.0)
    drafting = Drafting([5, 6, 7], oracle)
    for _ in range(500):
        if drafting.draft(pace, 100):
            drafting.learn(0)
        drafting.push(3)
    assert oracle.asked < 30


@pytest.mark.skipif(devices.here().architecture != "x86_64", reason="not so on Arm")
@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 0.1, "seed": 3}])
def test_answers_stay_what_they_are(bundles, checkpoints, tmp_path, options):
    eight = export(checkpoints("llama"), tmp_path / "b", ExportOptions(kv="int8", verify=False)).folder
    with edgert.load(eight, context=256, draft=bundles()) as model:
        never = dict.fromkeys(model.bundle.manifest.generation.eos_token_ids, -1e6)
        options = {**options, "max_tokens": 100, "logprobs": 2, "logit_bias": never}
        accepted = 0
        for prompt in (TEXT, [20, 30, 40], list(range(50, 90))):
            drafted = model.generate(prompt, **options)
            assert drafted.tokens == model.generate(prompt, draft="off", **options).tokens
            accepted += drafted.timings.accepted_tokens
        assert accepted > 0


def test_a_student_with_other_tokens_is_refused(bundles, loaded):
    other = SimpleNamespace(vocabulary={f"word {number}": number for number in range(100)})
    with pytest.raises(UsageError, match=r"can't draft: only 0% of its tokens are those"):
        open_guesser(bundles(), other, open_bundle(bundles()).manifest.model, loaded.profile, 64)


def test_on_the_command_line(bundles):
    command = ["generate", str(bundles()), "-p", "fox", "--max-tokens", "60", "--json", "--draft"]
    done = CliRunner().invoke(main, [*command, str(bundles("llama", "fp32"))])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["drafted_tokens"] > 0
    done = CliRunner().invoke(main, [*command, "lokup"])
    assert done.exit_code and "'lokup': that is neither auto, lookup, off nor a bundle" in done.output


def test_a_server_drafts_and_tells_what_came_true(bundles):
    setup = Setup(str(bundles()), draft=str(bundles("llama", "fp32")))
    with serving(Served("big", open_bundle(bundles()), setup)) as (url, _):
        body = {"messages": ASK, "temperature": 0, "max_tokens": 60}
        told = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
    details = told["usage"]["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] > 0 <= details["rejected_prediction_tokens"]


def test_a_server_takes_what_the_command_line_says(bundles, monkeypatch):
    served, small = [], str(bundles("llama", "fp32"))
    monkeypatch.setattr(
        "edgert.serve.models.Models", lambda *given: served.extend(given[0]) or Models(*given)
    )
    monkeypatch.setattr("edgert.cli.serve._listen", lambda *_, **__: None)
    for draft in (small, "off"):
        done = CliRunner().invoke(main, ["serve", str(bundles()), "--draft", draft])
        assert done.exit_code == 0, done.output
    assert [(one.setup.draft, one.options.get("draft")) for one in served] == [(small, None), (None, "off")]
    monkeypatch.setattr("edgert.answering.guesser.ALIKE", 1.1)  # as if its tokens were others
    done = CliRunner().invoke(main, ["serve", str(bundles()), "--draft", small])
    assert done.exit_code == 2 and "can't draft" in done.stderr


def test_a_student_that_drafts_takes_its_memory_first(bundles, monkeypatch):
    """What is left is for conversations."""
    folder = bundles()
    bundle = open_bundle(folder)
    wanted = memory.plan(
        bundle.manifest, bundle.manifest.graphs[bundle.graph()], devices.detect().profile, 256
    )
    others, promised = promises.promised(), promises.promised  # by models of other tests
    monkeypatch.setattr(promises, "promised", lambda: promised() - others)
    for room, conversations in ((0, 1), (2, 3)):
        free = wanted.needed + (1 + room) * wanted.kv  # as if the drafting one took no more than its cache
        monkeypatch.setattr(devices, "memory_available", lambda free=free: free)
        with edgert.load(folder, context=256, draft=folder) as model:
            assert model.conversations == conversations


def test_force_is_for_the_student_that_drafts_too(bundles, monkeypatch):
    monkeypatch.setattr(devices, "memory_available", lambda: 0)
    with pytest.raises(edgert.DoesNotFit):
        edgert.load(bundles(), context=64, draft=bundles())
    with edgert.load(bundles(), context=64, draft=bundles(), force=True) as model:
        assert model.generate([1], max_tokens=1).token_ids
