"""Drafts by lookup change how fast an answer comes, and nothing else."""

from collections import Counter

import lora
import numpy as np
import pytest
import tiny
from click.testing import CliRunner

import edgert
from edgert import devices
from edgert.answering.answer import Answer, Asked
from edgert.answering.budget import parse_budget
from edgert.answering.drafting import HEAD_START, MAY_LOSE, Drafting
from edgert.answering.request import Request
from edgert.chat.notices import stats
from edgert.cli import main
from edgert.engine.engine import Engine
from edgert.engine.pace import KEPT, STALE, WIDTHS, Pace
from edgert.engine.sequence import Sequence
from edgert.engine.slots import Slot
from edgert.errors import UsageError
from edgert.export import ExportOptions, export
from edgert.text import lookup
from edgert.text.lookup import Found, Lookup
from edgert.text.sampler import Sampler, Sampling
from edgert.text.thinking import Thinking

VOCAB, ROOM, END = 8, 4096, 7


class Words:
    """Text of tokens: a letter each."""

    def push(self, token):
        return chr(ord("a") + token)

    def flush(self):
        return ""


class Table:
    """A decoder and its runner: logits depend on the last token. A run over n tokens takes `costs(n)`."""

    joins, capacity, chunk = False, ROOM, 512

    def __init__(self, logits, costs=lambda tokens: 1.0):
        self.logits = logits
        self.slots = [Slot()]
        self.runner = self
        self.runs = []
        self.now = 0.0
        self._costs = costs

    def clock(self):
        return self.now

    def decode(self, slots, tokens):
        return [self.extend(slots[0], tokens)[0]]

    def extend(self, slot, tokens, wanted=1, *, stop=None):
        assert len(slot) + len(tokens) <= self.capacity
        slot.tokens += tokens
        self.runs.append(len(tokens))
        self.now += self._costs(len(tokens))
        return self.logits[list(tokens)][len(tokens) - wanted :]


def answer(table, prompt=(0, 1), limit=200, *, draft="lookup", closing=(), thinking=None, **options):
    """All of an answer by an engine over a table; after each step the row holds what was said."""
    sampling = Sampling(temperature=options.pop("temperature", 0.0), seed=options.pop("seed", None))
    request = Request(draft=draft, sampling=sampling, **options)
    asked = Asked(list(prompt), Words(), thinking or Thinking(thinks=False), limit, [END], closing)
    made = Answer(asked, request, Sampler(sampling, VOCAB), lambda: None)
    engine = Engine(table, clock=table.clock)
    sequence = Sequence(list(prompt), made)
    engine.add(sequence)
    while not engine.idle:
        made.was_read(len(made.items))
        engine.step()
        assert made.over.is_set() or sequence.row.tokens == sequence.tokens[: len(sequence.row)]
    *chunks, last = made.items
    return [chunk.token.id for chunk in chunks], last


def circle(length=5):
    """Greedy answers go round and round."""
    logits = np.zeros((VOCAB, VOCAB), np.float32)
    for token in range(length):
        logits[token, (token + 1) % length] = 5
    return logits


def test_what_followed_before_is_found():
    known = Lookup([5, 1, 2, 3, 4, 9, 2, 3])
    assert known.find() == Found(size=2, follows=4)
    assert known.after(4, 3) == [4, 9, 2]
    known.push(4)
    assert known.find() == Found(size=3, follows=5)
    known.push(0)
    assert known.find() is None


def test_a_loop_is_drafted_on_and_on():
    known = Lookup([1, 2, 3, 1, 2, 3, 1, 2])
    assert known.after(known.find().follows, 7) == [3, 1, 2, 3, 1, 2, 3]


def test_the_oldest_places_are_forgotten(monkeypatch):
    monkeypatch.setattr(lookup, "MOST_KNOWN", 40)
    known = Lookup(range(1000))
    assert len(known._follows) == 40
    for token in (997, 998, 5, 6):
        known.push(token)
    assert known.find() is None
    for token in (997, 998):
        known.push(token)
    assert known.after(known.find().follows, 1) == [5]


@pytest.mark.parametrize("limit", [1, 2, 3, 17, 64])
def test_greedy_tokens_and_ends_are_those_of_plain_decoding(limit):
    drafted = Table(circle())
    tokens, last = answer(drafted, limit=limit)
    assert (tokens, last.finish_reason) == ([(2 + i) % 5 for i in range(limit)], "length")
    if limit == 64:
        assert len(drafted.runs) < limit / 2
        assert last.timings.accepted_tokens > limit / 2
        assert last.timings.drafted_tokens >= last.timings.accepted_tokens
    assert answer(Table(circle()), limit=limit, draft="off")[0] == tokens


@pytest.mark.parametrize("stop", ["bcdeab" * 3 + "b", "eabcdeabcdeabcde", "abc"])
def test_a_stop_string_ends_an_answer_within_a_draft(stop):
    plain, drafted = (answer(Table(circle()), stop=(stop,), draft=draft) for draft in ("off", "lookup"))
    assert drafted[0] == plain[0]
    assert drafted[1].finish_reason == plain[1].finish_reason


def test_a_loop_ends_within_a_draft():
    plain, drafted = (answer(Table(circle()), stop_loops=True, draft=draft) for draft in ("off", "lookup"))
    assert (drafted[0], drafted[1].finish_reason) == (plain[0], "loop")


def test_a_thought_is_closed_within_a_draft():
    def thinks(draft, tokens):
        thinking = Thinking("<think>")
        return answer(
            Table(circle()),
            thinking_budget=parse_budget(tokens),
            thinking=thinking,
            closing=[5, 6, 0, 1],
            draft=draft,
        )[0]

    for tokens in range(20, 30):
        assert thinks("lookup", tokens) == thinks("off", tokens)
        assert thinks("off", tokens)[tokens : tokens + 4] == [5, 6, 0, 1]


@pytest.mark.parametrize("seed", range(12))
def test_with_a_seed_even_sampled_answers_are_those_of_plain_decoding(seed):
    logits = np.random.default_rng(seed).normal(size=(VOCAB, VOCAB), scale=2).astype(np.float32)
    plain, drafted = (
        answer(Table(logits), temperature=0.9, seed=seed, draft=draft) for draft in ("off", "lookup")
    )
    assert drafted[0] == plain[0]


def test_sampled_tokens_have_the_distribution_of_the_model():
    """Chi-square over what follows each token, in answers of which much was drafted."""
    logits = np.random.default_rng(5).normal(size=(VOCAB, VOCAB), scale=2).astype(np.float32)
    logits[:, END] = -np.inf
    seen, accepted = Counter(), 0
    for seed in range(40):
        tokens, last = answer(Table(logits), temperature=1.0, seed=seed)
        accepted += last.timings.accepted_tokens
        seen.update(zip([1, *tokens], tokens, strict=False))
    assert accepted > 40 * 200 / 4
    statistic = freedom = 0.0
    for before in range(VOCAB - 1):
        weights = np.exp(logits[before])
        expected = weights / weights.sum() * sum(seen[before, after] for after in range(VOCAB))
        often = expected >= 5
        found = np.array([seen[before, after] for after in range(VOCAB)])
        statistic += ((found - expected)[often] ** 2 / expected[often]).sum()
        freedom += often.sum() - 1
    # Wilson and Hilferty: the cube root of chi-square over its freedom is nearly normal; 3.1 is p = 0.001.
    spread = 2 / (9 * freedom)
    assert (statistic / freedom) ** (1 / 3) < 1 - spread + 3.1 * spread**0.5


def test_drafts_that_lose_are_given_up():
    """What was drafted never comes true, and several tokens take many times as long as one."""
    logits = np.random.default_rng(2).normal(size=(VOCAB, VOCAB)).astype(np.float32)
    logits[:, END] = -np.inf

    def seconds(draft):
        table = Table(logits, costs=lambda tokens: 1.0 if tokens <= 1 else 3.0 * tokens)
        answer(table, limit=400, temperature=3.0, seed=1, draft=draft)
        return table.now, sum(run > 1 for run in table.runs[1:])

    (plain, _), (drafted, tries) = seconds("off"), seconds("lookup")
    assert tries >= 1
    assert drafted <= plain * (1 + MAY_LOSE) + HEAD_START * MAY_LOSE + 3.0 * max(WIDTHS)
    assert tries < 20


def test_where_guesses_fail_they_stop_and_come_again_later():
    pace, drafting = Pace(), Drafting([1, 2, 3, 4] * 3)
    tried = []
    for step in range(600):
        if drafting.draft(pace, 100):
            drafting.learn(0)
            tried.append(step)
        drafting.push([1, 2, 3, 4][step % 4])
    assert tried[0] == 0
    assert len(tried) < 12


def test_drafts_are_as_long_as_pays():
    pace, drafting = Pace(), Drafting([1, 2, 3, 4] * 8)
    for width in WIDTHS:
        pace.note(1, 1.0)
        pace.note(width, 1.1 if width <= 4 else 50.0)
    assert len(drafting.draft(pace, 100)) == 3
    assert len(drafting.draft(pace, 2)) == 1
    assert not drafting.draft(pace, 0)


def test_costs_are_medians_and_a_slow_width_is_tried_again():
    pace = Pace()
    guessed = pace.cost(8)
    pace.note(8, 9.0)  # nothing to compare with yet
    assert pace.cost(8) == guessed
    pace.note(1, 1.0)
    for seconds in (2.0, 2.2, 90.0, 2.1, 2.0):
        pace.note(8, seconds)
    assert pace.cost(8) == 2.1
    for _ in range(STALE * KEPT):
        pace.note(1, 1.0)
    assert pace.cost(8) == guessed


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
def test_a_model_says_the_same_with_drafts(bundles, family):
    """Kernels for several tokens round otherwise: where answers part, two tokens were nearly as likely."""
    with edgert.load(bundles(family, "fp32"), context=256) as model:
        never = dict.fromkeys(model.bundle.manifest.generation.eos_token_ids, -1e6)
        accepted = 0
        for prompt in ([3, 4, 5], [9, 8, 7, 6], [20, 30, 40]):
            options = {"max_tokens": 120, "temperature": 0.0, "logprobs": 2, "logit_bias": never}
            plain = model.generate(prompt, **options)
            drafted = model.generate(prompt, draft="lookup", **options)
            accepted += drafted.timings.accepted_tokens
            assert drafted.timings.answer_tokens == 120
            for ours, theirs in zip(plain.tokens, drafted.tokens, strict=True):
                if ours.id != theirs.id:
                    (_, best), (_, second) = ours.top_logprobs
                    assert best - second < 1e-3
                    break
        assert accepted > 0


@pytest.fixture(scope="module")
def eight(checkpoints, tmp_path_factory):
    """A bundle whose tokens are computed alike, alone and with others of their row."""
    folder = tmp_path_factory.mktemp("eight") / "b"
    return export(checkpoints("llama"), folder, ExportOptions(kv="int8", verify=False)).folder


@pytest.mark.skipif(devices.here().architecture != "x86_64", reason="not so on Arm")
@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 0.1, "seed": 3}])
def test_with_8_bit_keys_drafts_change_no_bit_and_are_made_unasked(eight, options):
    with edgert.load(eight, context=256) as model:
        assert model.request().draft == "lookup" and model.request(draft="off").draft == "off"
        never = dict.fromkeys(model.bundle.manifest.generation.eos_token_ids, -1e6)
        options = {**options, "max_tokens": 120, "logprobs": 2, "logit_bias": never}
        accepted = 0
        for prompt in ([3, 4, 5] * 4, [9, 8, 7, 6] * 3, [*range(20, 90), 20, 21, 22]):
            drafted = model.generate(prompt, **options)
            assert drafted.tokens == model.generate(prompt, draft="off", **options).tokens
            accepted += drafted.timings.accepted_tokens
        assert accepted > 0


def test_otherwise_they_are_made_on_request_only(bundles):
    with edgert.load(bundles(), context=64) as model:
        assert model.request().draft == "auto"
        assert model.generate([3, 4, 5] * 8, max_tokens=30).timings.drafted_tokens == 0


def test_beside_adapters_too(checkpoints, tmp_path):
    """Their products are of fp32, which are rounded otherwise for one token than for several."""
    base = tiny.random_tensors(tiny.Tiny().config)
    modules = [name.removesuffix(".weight") for name in base if name.endswith("_proj.weight")]
    every = lora.uniform(modules, 2.0, target_modules="all-linear")
    folder = lora.write(tmp_path / "law", every, base)
    options = ExportOptions(kv="int8", separate_adapters={"law": folder}, verify=False)
    with edgert.load(export(checkpoints("llama"), tmp_path / "b", options).folder, context=64) as model:
        assert model.request().draft == "auto"


def test_an_unknown_kind_of_draft_is_refused(model):
    with pytest.raises(UsageError, match="draft must be 'auto', 'lookup' or 'off', not 'magic'"):
        model.generate("hello", draft="magic")


def test_generate_tells_what_came_true(bundles):
    command = ["generate", str(bundles()), "--raw", "-p", "one two three one two three", "--max-tokens", "40"]
    done = CliRunner().invoke(main, [*command, "--draft", "lookup", "--json"])
    assert done.exit_code == 0, done.output
    assert '"accepted_tokens"' in done.output


def test_the_stats_tell_of_drafts():
    _, last = answer(Table(circle()), limit=64)
    drafted, accepted = last.timings.drafted_tokens, last.timings.accepted_tokens
    assert stats(last.timings).endswith(f"; {accepted} of {drafted} drafted tokens came true")
    _, last = answer(Table(circle()), limit=64, draft="off")
    assert "drafted" not in stats(last.timings)
