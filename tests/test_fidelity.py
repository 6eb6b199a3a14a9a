"""The figures of the passport, on distributions whose divergence is known."""

import numpy as np
import pytest

from edgert.engine.fidelity import Tally, diverge

HALF, SKEWED = [0.5, 0.5], [0.75, 0.25]


def logits(*rows):
    return np.log(np.array(rows, np.float32)) + np.float32(3)  # any constant: only differences count


def test_kl_is_of_the_reference_against_the_model():
    found = diverge(logits(SKEWED), logits(HALF), np.array([0]))
    assert found.kl[0] == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5), rel=1e-5)


def test_a_model_equals_itself():
    rows = logits(*([SKEWED] * 70))
    found = diverge(rows, rows, np.zeros(70, int))
    assert found.kl.max() == 0 and found.agrees.all() and len(found.kl) == 70


def test_summary():
    tally = Tally()
    tally.add(diverge(logits(SKEWED, SKEWED), logits([0.8, 0.2], [0.2, 0.8]), np.array([0, 0])))
    tally.add(diverge(logits(SKEWED, SKEWED), logits(SKEWED, SKEWED), np.array([1, 0])))
    found = tally.fidelity
    assert found.tokens == 4 and found.top1 == 0.75
    assert found.perplexity == pytest.approx((0.8 * 0.2 * 0.25 * 0.75) ** -0.25, rel=1e-5)
    assert found.reference_perplexity == pytest.approx((0.75**3 * 0.25) ** -0.25, rel=1e-5)
    assert found.p99_kl <= 0.75 * np.log(0.75 / 0.2) + 0.25 * np.log(0.25 / 0.8) + 1e-6


def test_the_figures_are_those_of_float64():
    draw = np.random.default_rng(1)
    reference = (3 * draw.standard_normal((9, 500))).astype(np.float32)
    logits = reference + draw.standard_normal(reference.shape).astype(np.float32) / 8
    following = draw.integers(0, 500, 9)
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in map(np.float64, (reference, logits)))
    found = diverge(reference, logits, following)
    assert found.kl == pytest.approx((np.exp(p) * (p - q)).sum(-1), abs=1e-7)
    assert found.nll == pytest.approx(-q[range(9), following], abs=1e-6)
    assert found.reference_nll == pytest.approx(-p[range(9), following], abs=1e-6)
    assert np.array_equal(found.agrees, p.argmax(-1) == q.argmax(-1))
