"""Answers at once: what they reach together, and what each further conversation takes in memory.

    python benchmarks/streams.py BUNDLE [--counts 1,2,4,8] [--rounds 5]

In a round every count takes its turn, so that a machine that slows down slows all of them. Speeds are those
of the time in which all of a count are answering. Memory is what the process holds of its own (Linux).
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import click

import edgert
from edgert.bench.footprint import resident
from edgert.bench.pace import text_tokens

DEPTH, TOKENS = 128, 64  # of each prompt, and of each answer


def together(model: edgert.Model, count: int) -> float:
    """Tokens per second of so many answers, all of them together."""
    prompt = text_tokens(model.tokenizer, DEPTH + count)
    never_end = dict.fromkeys(model.bundle.manifest.generation.eos_token_ids, -1e6)

    def times(number: int) -> list[float]:
        stream = model.stream(
            prompt[number:][:DEPTH], max_tokens=TOKENS, temperature=0.0, logit_bias=never_end
        )
        return [time.perf_counter() for chunk in stream if chunk.token]

    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(times, range(count)))
    begin, end = max(answer[0] for answer in answers), min(answer[-1] for answer in answers)
    tokens = sum(begin < moment <= end for answer in answers for moment in answer)
    return tokens / (end - begin)


@click.command
@click.argument("bundle")
@click.option("--counts", default="1,2,4,8", show_default=True, help="How many answers at once.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--context", default=1024, show_default=True, help="Tokens that each conversation can hold.")
def main(bundle: str, counts: str, rounds: int, context: int) -> None:
    """Measure and print a table."""
    numbers = [int(count) for count in counts.split(",")]
    model = edgert.load(bundle, context=context, conversations=max(numbers))
    memory = []
    for count in numbers:
        together(model, count)  # warms up, and takes the memory
        found = resident()
        memory.append(found.anonymous / 1e6 if found else 0.0)
    speeds = [[together(model, count) for count in numbers] for _ in range(rounds)]
    per_token = model.bundle.manifest.model
    kv = 8 * per_token.num_layers * per_token.num_kv_heads * per_token.head_dim * (DEPTH + TOKENS) / 1e6
    print(f"{model}\nkeys and values of {DEPTH + TOKENS} tokens in fp32: {kv:.1f} MB")
    print("| at once | tokens/s, all together | times one | MB above one |\n|---|---|---|---|")
    for index, count in enumerate(numbers):
        ratios = [speed[index] / speed[0] for speed in speeds]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        found_speed = statistics.median(speed[index] for speed in speeds)
        above = memory[index] - memory[0]
        print(f"| {count} | {found_speed:.0f} | {statistics.median(ratios):.2f} ({spread}) | {above:.1f} |")


if __name__ == "__main__":
    main()
