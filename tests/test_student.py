"""The real SmolLM2: answers, fidelity of its int8 bundle, and an end to end chat."""

import os
import subprocess
import sys

import fidelity
import pytest
from prose import prose

import edgert

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
