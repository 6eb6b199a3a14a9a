"""How often a student only repeats itself, and how often it is right, under several ways to choose tokens.

python benchmarks/loops.py BUNDLE [--tokens 256] [--seeds 2]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import edgert

# Bare questions, as people type them, each with a word that a right answer has.
QUESTIONS = {
    "What is the capital of France?": "paris",
    "What is the capital of Japan?": "tokyo",
    "What is the capital of Italy?": "rome",
    "Who wrote Hamlet?": "shakespeare",
    "Who painted the Mona Lisa?": "leonardo",
    "What is 2 + 2?": "4",
    "How many days are in a week?": "seven|7",
    "How many legs does a spider have?": "eight|8",
    "What is the largest planet in the solar system?": "jupiter",
    "Which planet is closest to the sun?": "mercury",
    "What gas do plants take in?": "carbon dioxide",
    "What do bees make?": "honey",
    "Why is the sky blue?": "scatter",
    "What is H2O?": "water",
    "What is the opposite of hot?": "cold",
    "At what temperature does water boil?": "100|212",
    "What is the longest river in Africa?": "nile",
    "In which country is Berlin?": "germany",
    "What color is a banana?": "yellow",
    "What is photosynthesis?": "light",
}
TEMPERATURES = (0.0, 0.2, 0.6)
TOP_P = 0.9  # where there is chance at all
PENALTIES = (1.0, 1.1, 1.2)
AT_ONCE = 8


@dataclass(frozen=True)
class Outcome:
    """How one answer went."""

    loops: bool
    cut: bool
    right: bool


@dataclass(frozen=True)
class Setting:
    """How tokens are chosen."""

    temperature: float
    penalty: float

    def seeds(self, count: int) -> Iterable[int]:
        """Without chance, one answer is all there is."""
        return range(count if self.temperature else 1)


def outcome(model: edgert.Model, question: str, setting: Setting, seed: int, tokens: int) -> Outcome:
    """Ask once."""
    reply = model.generate(
        question,
        max_tokens=tokens,
        stop_loops=True,
        temperature=setting.temperature,
        top_p=TOP_P if setting.temperature else 1.0,
        repetition_penalty=setting.penalty,
        seed=seed,
    )
    said = reply.text.lower()
    right = any(word in said for word in QUESTIONS[question].split("|"))
    return Outcome(reply.finish_reason == "loop", reply.finish_reason == "length", right)


def measure(model: edgert.Model, setting: Setting, seeds: int, tokens: int) -> list[Outcome]:
    """All questions, with each seed."""
    asked = itertools.product(QUESTIONS, setting.seeds(seeds))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda one: outcome(model, one[0], setting, one[1], tokens), asked))


def main() -> None:
    """Print a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--tokens", type=int, default=256, help="longest answer")
    parser.add_argument("--seeds", type=int, default=2, help="answers to each question where there is chance")
    given = parser.parse_args()
    print("| temperature | repetition penalty | loops | cut | right | answers |\n|---|---|---|---|---|---|")
    with edgert.load(given.bundle, conversations=AT_ONCE) as model:
        for temperature, penalty in itertools.product(TEMPERATURES, PENALTIES):
            found = measure(model, Setting(temperature, penalty), given.seeds, given.tokens)
            shares = [
                sum(hits) / len(found)
                for hits in zip(*((o.loops, o.cut, o.right) for o in found), strict=True)
            ]
            figures = " | ".join(f"{share:.0%}" for share in shares)
            print(f"| {temperature} | {penalty} | {figures} | {len(found)} |", flush=True)


if __name__ == "__main__":
    main()
