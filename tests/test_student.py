"""The real SmolLM2: answers, fidelity of its int8 bundle, and an end to end chat."""

import asyncio
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import fidelity
import pytest
from prose import prose

import edgert
from edgert.export import catalog

pytestmark = pytest.mark.student


def test_int8_keeps_the_distribution(student, student_fp32):
    found = fidelity.measure(edgert.load(student), edgert.load(student_fp32), prose(), windows=16)
    print(f"\n{found}")
    assert 0 < found.mean_kl <= 0.0036
    assert found.top1 >= 0.965


def test_the_student_knows_paris(student):
    answer = edgert.load(student).generate(
        "What is the capital of France? Answer in one sentence.", max_tokens=40
    )
    assert answer.text == "The capital of France is Paris."
    assert answer.finish_reason == "stop"


def test_a_bare_question_does_not_loop(student):
    """It holds a near tie in fp32, which rounding may decide either way."""
    model = edgert.load(student)
    penalty = catalog.find("smollm2-135m-instruct").repetition_penalty  # older bundles lack it
    answer = model.generate("What is the capital of France?", max_tokens=256, repetition_penalty=penalty)
    assert answer.finish_reason == "stop" and "Paris" in answer.text


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


EIGHT = (
    "What is the capital of France? Answer in one sentence.",
    "Why is the sky blue?",
    "Name three countries that border Switzerland, as a list.",
    "Write a haiku about rain.",
    "What is 2 + 2?",
    "Who wrote Hamlet?",
    "Explain gravity to a child.",
    "Translate good morning into German.",
)


def test_eight_at_once_say_what_each_says_alone(student):
    """From threads and from asyncio: the same tokens with the same log-probabilities, bit for bit."""
    greedy = {"temperature": 0.0, "max_tokens": 24, "logprobs": 1}
    with edgert.load(student, context=512) as model:
        alone = [model.generate(question, fresh=True, **greedy).tokens for question in EIGHT]
        with ThreadPoolExecutor(8) as pool:
            replies = pool.map(lambda question: model.generate(question, **greedy), EIGHT)
            assert [reply.tokens for reply in replies] == alone

        async def everybody():
            return await asyncio.gather(*(model.agenerate(question, **greedy) for question in EIGHT))

        assert [reply.tokens for reply in asyncio.run(everybody())] == alone


def test_a_long_prefill_is_left_within_a_chunk(student):
    with edgert.load(student) as model:
        prompt = (model.tokenizer.encode("The quick brown fox jumps over the lazy dog. ") * 250)[:2000]
        model.generate(prompt[:100], max_tokens=1)
        stream = model.stream(prompt)
        time.sleep(0.2)
        stream.stop()
        assert stream.reply.finish_reason == "cancelled"
        held = len(model._worker.engine.decoder.slots[0])
        assert held < 2000 and (held - 100) % model.profile.prefill_chunk == 0  # whole chunks only
