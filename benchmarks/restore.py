"""A session that goes on in another process: restoring its keys and values against reading its text again.

python benchmarks/restore.py [BUNDLE] [--tokens 2000] [--rounds 5]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import click

import edgert
from edgert.home import DEFAULT_MODEL

TEXT = "The quick brown fox jumps over the lazy dog. "


@click.command
@click.argument("bundle", default=DEFAULT_MODEL)
@click.option("--tokens", default=2000, show_default=True, help="Of the question that is kept.")
@click.option("--rounds", default=5, show_default=True)
def main(bundle: str, tokens: int, rounds: int) -> None:
    """Print medians of both, and how much lies on disk."""
    with edgert.load(bundle, context=tokens + 200) as model, tempfile.TemporaryDirectory() as root:
        folder, question = Path(root) / "session", TEXT
        while len(model.tokens_of(question)) < tokens:
            question += TEXT
        reply = model.conversation(session=folder, max_tokens=8).send(question).reply
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        restoring, prefill = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            chat = model.conversation(session=folder, max_tokens=8)
            restoring.append(time.perf_counter() - began)
            assert chat.turns[-1]["content"] == reply.text
            prefill.append(model.generate(question, max_tokens=1, fresh=True).timings.prefill_s)
    restored, read = statistics.median(restoring), statistics.median(prefill)
    count = reply.timings.prompt_tokens
    click.echo(f"{count} tokens, {size:.0f} MB: restored in {restored:.2f} s, read in {read:.2f} s")
    click.echo(f"restoring takes {restored / read:.1%} of reading")


if __name__ == "__main__":
    main()
