"""The real SmolLM2: answers, fidelity of its int8 bundle, and an end to end chat."""

import os
import subprocess
import sys

import numpy as np
import pytest

import edgert

pytestmark = pytest.mark.student

WINDOW = 256


def prose() -> str:
    """English technical prose that every Python carries: the language reference behind `help('types')`."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in ("objects", "types", "naming", "execmodel", "exceptions"))


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def divergence(student, student_fp32):
    """KL(fp32 ‖ int8) and top-1 agreement of 8,192 tokens in windows of 256."""
    quantized, exact = edgert.load(student), edgert.load(student_fp32)
    ids = quantized.tokenizer.encode(prose())[: 32 * WINDOW]
    assert len(ids) == 32 * WINDOW
    kl, agree = [], []
    for start in range(0, len(ids), WINDOW):
        p, q = (log_softmax(m.logits(ids[start : start + WINDOW])) for m in (exact, quantized))
        kl.append((np.exp(p) * (p - q)).sum(-1))
        agree.append(p.argmax(-1) == q.argmax(-1))
    return np.concatenate(kl), np.concatenate(agree)


def test_int8_keeps_the_distribution(divergence):
    kl, agree = divergence
    print(f"\nmean KL {kl.mean():.4f}, 99th percentile {np.quantile(kl, 0.99):.4f}, top-1 {agree.mean():.2%}")
    assert 0 < kl.mean() <= 0.006
    assert agree.mean() >= 0.955


def test_the_student_knows_paris(student):
    answer = edgert.load(student).generate(
        "What is the capital of France? Answer in one sentence.", max_tokens=40
    )
    assert answer.text == "The capital of France is Paris."
    assert answer.finish_reason == "stop"


def test_a_piped_question_is_answered(student):
    done = subprocess.run(
        [sys.executable, "-m", "edgert", "chat", str(student), "--max-tokens", "30"],
        input="What is the capital of France? Answer in one sentence.\n",
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "The capital of France is Paris.\n", "")
