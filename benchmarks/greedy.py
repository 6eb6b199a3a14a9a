"""Greedy answers of bundles, as JSON: run here and, by userland.py, on an emulated board.

python greedy.py DEVICE TOKENS PROMPT BUNDLE ...     # the prompt in JSON: a question, or token ids
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import edgert

# Token ids that every vocabulary has.
SOME_IDS = [260, 282, 284, 253, 288, 277, 291, 270]


@dataclass(frozen=True)
class Step:
    """A greedy token, its log-probability, how far ahead of the next best it was, seconds since the last."""

    token: int
    logprob: float
    lead: float
    seconds: float


def answer(bundle: Path, device: str, count: int, prompt: str | list[int]) -> list[Step]:
    """At most `count` tokens after a prompt; the answer's end comes earlier."""
    model = edgert.load(bundle, device=device, context=128)
    steps, before = [], time.perf_counter()
    for chunk in model.stream(prompt, max_tokens=count, temperature=0.0, logprobs=2):
        if chunk.token is not None and chunk.token.logprob is not None:
            (_, best), (_, second) = chunk.token.top_logprobs
            now = time.perf_counter()
            steps.append(Step(chunk.token.id, chunk.token.logprob, best - second, now - before))
            before = now
    return steps


def main(device: str, count: str, prompt: str, *bundles: str) -> None:
    """Print a list with one answer a bundle, a list of steps."""
    answers = [answer(Path(bundle), device, int(count), json.loads(prompt)) for bundle in bundles]
    print(json.dumps([[asdict(step) for step in steps] for steps in answers]))


if __name__ == "__main__":
    main(*sys.argv[1:])
