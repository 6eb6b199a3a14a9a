"""Sampling on distributions small enough to check by hand."""

import math

import numpy as np
import pytest

from edgert.errors import UsageError
from edgert.text.sampler import History, Sampler, Sampling, keep_min_p, keep_top_k, keep_top_p, softmax

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def draws(count=4000, logits=LOGITS, prompt=(), **settings):
    sampler = Sampler(Sampling(**{"temperature": 1.0, "seed": 1, **settings}), len(logits))
    return np.bincount(answer(sampler, History(prompt), count, logits), minlength=len(logits)) / count


def answer(sampler, history, count, logits=LOGITS):
    """An answer's tokens, where the logits are always the same."""
    for _ in range(count):
        history.accept(sampler.choose(logits, history).id)
    return history.answer


def test_temperature_zero_is_argmax():
    assert draws(10, temperature=0.0)[0] == 1.0


def test_draws_follow_the_probabilities():
    assert np.abs(draws() - [0.5, 0.3, 0.15, 0.05]).max() < 0.03


def test_temperature_sharpens():
    expected = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    assert np.abs(draws(temperature=0.5) - expected / expected.sum()).max() < 0.03


def test_top_k_keeps_k_tokens():
    assert (draws(top_k=2)[2:] == 0).all()


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    assert (draws(top_p=0.79)[2:] == 0).all()
    assert draws(top_p=0.81)[2] > 0
    assert draws(top_p=0.0001)[0] == 1.0


def test_min_p_drops_what_is_far_below_the_best():
    assert (draws(min_p=0.4)[2:] == 0).all()
    assert draws(min_p=0.2)[2] > 0


@pytest.mark.parametrize("spread", [0.01, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("p", [0.01, 0.5, 0.9, 0.9999])
def test_top_p_equals_a_full_sort(spread, p):
    """However flat, and however many candidates that takes."""
    logits = np.random.default_rng(0).normal(size=20000).astype(np.float32) * np.float32(spread)
    logits[100:200] = logits[7]  # ties
    probabilities = softmax(logits)
    order = np.argsort(-probabilities, kind="stable")
    expected = order[: np.searchsorted(np.cumsum(probabilities[order], dtype=np.float64), p) + 1]
    kept = keep_top_p(probabilities, p)
    assert abs(len(kept) - len(expected)) <= 1 and len(set(kept) ^ set(expected)) <= 1


def test_filters_keep_everything_when_off():
    assert (
        len(keep_top_k(LOGITS, 0))
        == len(keep_top_p(LOGITS, 1.0))
        == len(keep_min_p(softmax(LOGITS), 0.0))
        == 4
    )


def test_same_seed_draws_the_same():
    assert (draws(50, seed=3) == draws(50, seed=3)).all()


def test_logit_bias_moves_the_choice():
    assert draws(10, temperature=0.0, logit_bias={3: 100.0})[3] == 1.0


def test_repetition_penalty_counts_the_prompt():
    logits = np.array([2.0, 1.5, -1.0], np.float32)
    assert draws(1, logits, prompt=[0], temperature=0.0, repetition_penalty=2.0)[1] == 1.0


def test_repetition_penalty_lowers_negative_logits_too():
    logits = np.array([-1.0, -1.5], np.float32)
    assert draws(1, logits, prompt=[0], temperature=0.0, repetition_penalty=2.0)[1] == 1.0


def test_presence_and_frequency_count_the_answer_only():
    logits = np.array([1.0, 0.9, 0.5], np.float32)
    sampler = Sampler(Sampling(presence_penalty=0.3), 3)
    # Once each, then the order is restored.
    assert answer(sampler, History([0, 0, 0]), 4, logits) == [0, 1, 0, 0]
    sampler = Sampler(Sampling(frequency_penalty=0.3), 3)
    assert answer(sampler, History(), 6, logits) == [0, 1, 0, 1, 2, 0]


@pytest.mark.parametrize(
    "settings", [{"temperature": 1.0}, {"frequency_penalty": 0.3}, {"repetition_penalty": 1.4}]
)
def test_a_token_that_is_taken_back_leaves_no_trace(settings):
    """What a draft proposed and the model rejects: the answer goes on as if it had never been there."""
    sampler = Sampler(Sampling(seed=4, **settings), 4)
    plain = answer(sampler, History([3]), 12)
    history = History([3])
    answer(sampler, history, 5)
    for token in (3, 3, 1):
        history.accept(token)
    history.take_back(3)
    assert answer(sampler, history, 7) == plain


def test_choosing_changes_nothing():
    sampler, history = Sampler(Sampling(temperature=1.0, seed=2), 4), History([1])
    assert len({sampler.choose(LOGITS, history).id for _ in range(20)}) == 1
    assert history.answer == [] and history.seen == {1}


def test_only_allowed_tokens_are_chosen():
    allowed = np.array([False, False, True, True])
    for temperature in (0.0, 1.0):
        sampler = Sampler(Sampling(temperature=temperature, seed=1, logprobs=0), 4)
        history = History()
        found = []
        for _ in range(50):
            found.append(sampler.choose(LOGITS, history, allowed))
            history.accept(found[-1].id)
        assert {token.id for token in found} == ({2} if temperature == 0 else {2, 3})
        assert found[0].logprob == pytest.approx(float(LOGITS[found[0].id]), abs=1e-5)  # the model's own


def test_without_a_seed_answers_differ():
    assert len({tuple(answer(Sampler(Sampling(temperature=1.0), 4), History(), 30)) for _ in range(3)}) == 3


def test_tiny_temperatures_are_argmax():
    assert draws(10, temperature=1e-40)[0] == 1.0
    assert draws(10, temperature=np.float32(0.001))[0] == 1.0


def test_logits_are_left_as_they_are():
    before = LOGITS.copy()
    draws(5, prompt=[0], repetition_penalty=1.3, presence_penalty=1.0, logit_bias={1: 2.0})
    assert (before == LOGITS).all()


def test_logprobs_are_those_of_the_model():
    token = Sampler(Sampling(logprobs=2, logit_bias={2: 50.0}), 4).choose(LOGITS, History())
    assert token.id == 2
    assert token.logprob == pytest.approx(math.log(0.15), abs=1e-5)
    assert [i for i, _ in token.top_logprobs] == [0, 1]
    assert token.top_logprobs[0][1] == pytest.approx(math.log(0.5), abs=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1},
        {"top_p": -0.1},
        {"top_p": 1.1},
        {"min_p": 2},
        {"top_k": -1},
        {"repetition_penalty": 0},
        {"presence_penalty": 3},
        {"logprobs": -1},
        {"top_k": 2.5},
        {"seed": "x"},
        {"temperature": None},
        {"logit_bias": 5},
        {"logit_bias": {5: "x"}},
        {"logit_bias": {5: float("nan")}},
        {"temperature": float("nan")},
    ],
)
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        Sampling(**bad)


def test_bias_outside_the_vocabulary_is_refused():
    with pytest.raises(UsageError, match="token 9 is outside"):
        Sampler(Sampling(logit_bias={9: 1.0}), 4)
