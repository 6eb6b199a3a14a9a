"""A batch, so many lines at a time against one at a time, on the same prompts.

    python benchmarks/batch.py BUNDLE [--conversations 8] [--rounds 5]

In a round both take their turn, and each begins a job anew: reading prompts, the journal and the output are
part of the time. Loading is not.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import click

from edgert.batch import Job, Local, Setup, Tally
from edgert.model import Model

LINES, TOKENS = 16, 32  # of a job, and of each answer


def tokens_per_s(setup: Setup, model: Model) -> float:
    """Of a whole job."""
    never_end = dict.fromkeys(model.bundle.manifest.generation.eos_token_ids, -1e6)
    options = {"max_tokens": TOKENS, "temperature": 0.0, "logit_bias": never_end}
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder, "prompts.txt")
        prompts.write_text("".join(f"Tell me fact {number} about the sea.\n" for number in range(LINES)))
        job = Job.read(prompts, Path(folder, "answers.jsonl"), setup, options)
        tally = Tally(len(job.lines))
        job.run(Local(model), tally)
        return tally.tokens_per_s


@click.command
@click.argument("bundle")
@click.option("--conversations", default=8, show_default=True, help="How many lines at a time.")
@click.option("--rounds", default=5, show_default=True)
def main(bundle: str, conversations: int, rounds: int) -> None:
    """Measure and print medians and the range of ratios."""
    setups = [Setup(bundle, context=1024, conversations=count) for count in (1, conversations)]
    models = [setup.open() for setup in setups]
    speeds = [[tokens_per_s(*each) for each in zip(setups, models, strict=True)] for _ in range(rounds)]
    one, several = (statistics.median(column) for column in zip(*speeds, strict=True))
    ratios = sorted(pair[1] / pair[0] for pair in speeds)
    print(f"one at a time: {one:.0f} tokens/s; {conversations}: {several:.0f} tokens/s")
    print(f"times one: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
