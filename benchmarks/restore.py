"""A session that goes on in another process: restoring its keys and values against reading its text again.

python benchmarks/restore.py [BUNDLE] [--tokens 2000] [--rounds 5]
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

import edgert
from edgert.answering.conversation import Conversation
from edgert.home import DEFAULT_MODEL
from edgert.model import Model
from edgert.text.sampler import SampledToken

TEXT = "The quick brown fox jumps over the lazy dog. "
AGAIN = "And what does the dog do?"


@dataclass
class Kept:
    """A session as one process left it, and how that process went on."""

    folder: Path
    question: str
    tokens: int
    going_on: list[SampledToken]


@click.command
@click.argument("bundle", default=DEFAULT_MODEL)
@click.option("--tokens", default=2000, show_default=True, help="Of the question that is kept.")
@click.option("--rounds", default=5, show_default=True)
def main(bundle: str, tokens: int, rounds: int) -> None:
    """Print medians of both, how much lies on disk, and whether what follows is the same bit for bit."""
    with tempfile.TemporaryDirectory() as root:
        with edgert.load(bundle, context=tokens + 200) as model:
            kept = keep(model, Path(root), tokens)
        size = sum(path.stat().st_size for path in kept.folder.iterdir()) / 1e6
        with edgert.load(bundle, context=tokens + 200) as model:
            restored, read = times(model, kept, rounds)
            same = answer(model.conversation(session=kept.folder)) == kept.going_on
    click.echo(f"{kept.tokens} tokens, {size:.0f} MB: restored in {restored:.2f} s, read in {read:.2f} s")
    click.echo(f"restoring takes {restored / read:.1%} of reading")
    click.echo(f"tokens and log-probabilities of the next answer are {'equal' if same else 'NOT equal'}")


def keep(model: Model, root: Path, tokens: int) -> Kept:
    """A session with a long question, copied before its conversation goes on."""
    question = TEXT
    while len(model.tokens_of(question)) < tokens:
        question += TEXT
    chat = model.conversation(session=root / "going-on", max_tokens=8)
    count = chat.send(question).reply.timings.prompt_tokens
    shutil.copytree(root / "going-on", root / "kept")
    return Kept(root / "kept", question, count, answer(chat))


def answer(chat: Conversation) -> list[SampledToken]:
    """Those of the next answer, with their log-probabilities."""
    stream = chat.send(AGAIN, max_tokens=32, temperature=0.0, logprobs=5)
    return [chunk.token for chunk in stream if chunk.token]


def times(model: Model, kept: Kept, rounds: int) -> tuple[float, float]:
    """Median seconds of restoring, and of reading the same text."""
    restoring, reading = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        model.conversation(session=kept.folder)
        restoring.append(time.perf_counter() - began)
        reading.append(model.generate(kept.question, max_tokens=1, fresh=True).timings.prefill_s)
    return statistics.median(restoring), statistics.median(reading)


if __name__ == "__main__":
    main()
