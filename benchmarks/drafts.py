"""Drafts by lookup against plain decoding: speed, tokens that came true, and where greedy answers part.

    python benchmarks/drafts.py BUNDLE [--tokens 128] [--rounds 3] [--kind repeats|chat] [--kv int8]
                                   [--draft SMALL]

Two kinds of prompt: those that quote, edit, summarise or continue code and text of Python's own library, and
free chat. Plain and drafted answers take turns, prompt by prompt; the ratio of a prompt is the median over
rounds. Where answers part, it names how far apart the two likeliest tokens were, in nats.
"""

from __future__ import annotations

import inspect
import statistics
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import click
from prose import prose

import edgert
from edgert.answering.reply import Reply
from edgert.answering.request import Draft

CODE: tuple[Callable[..., object] | type, ...] = (
    textwrap.fill,
    textwrap.shorten,
    textwrap.dedent,
    textwrap.indent,
    statistics.correlation,
    statistics.linear_regression,
    inspect.getdoc,
    statistics.quantiles,
    inspect.unwrap,
    inspect.cleandoc,
    statistics.fmean,
    statistics.harmonic_mean,
)
CODE_TASKS = (
    "Repeat this code exactly.",
    "Rename the first argument to `given` and write the whole function again.",
)
TEXT_TASKS = (
    "Quote this text word for word.",
    "Correct the spelling in this text and write all of it again.",
    "Summarise this text in its own words, quoting its sentences.",
    "Continue this text in the same style.",
)
PASSAGE = 900  # characters of a text, or of code
CHAT = (
    "Why is the sky blue?",
    "Write a poem about the sea.",
    "Tell me a story about a fox and a clockmaker.",
    "What should I cook for two friends tonight?",
    "Explain in simple words how a bicycle stays upright.",
    "What are good habits for learning a language?",
    "Who was Marie Curie?",
    "Write a short letter to a landlord about a broken heater.",
    "How do vaccines work?",
    "Give me ideas for a birthday present for my grandfather.",
    "What is the difference between weather and climate?",
    "Describe a market in the early morning.",
    "Why do cats purr?",
    "How can I sleep better?",
    "What does an economist do all day?",
    "Write a dialogue between a lighthouse and a ship.",
    "What is photosynthesis?",
    "How did the Romans build roads?",
    "Plan a weekend in a small town by a lake.",
    "What makes a good teacher?",
    "Explain what a hash table is.",
    "Why do leaves change colour in autumn?",
)


@dataclass(frozen=True)
class Outcome:
    """One prompt: how many times as fast drafts were, their tokens, and where answers part (-1: nowhere)."""

    title: str
    ratio: float
    tokens: int
    drafted: int
    accepted: int
    parted: int
    margin: float


def repeating() -> list[str]:
    """Prompts whose answers have much of the prompt."""
    sources = [inspect.getsource(part)[:PASSAGE] for part in CODE]
    code = [f"{CODE_TASKS[i % 2]}\n\n```python\n{source}\n```" for i, source in enumerate(sources)]
    whole = prose()
    passages = [whole[i * 4000 :][:PASSAGE] for i in range(12)]
    return code + [f"{TEXT_TASKS[i % 4]}\n\n{passage}" for i, passage in enumerate(passages)]


def measure(model: edgert.Model, prompt: str, tokens: int, rounds: int) -> Outcome:
    """Plain and drafted answers to a prompt, in turn; which is first alternates."""

    def answer(draft: Draft, tokens: int = tokens) -> Reply:
        return model.generate(
            prompt,
            max_tokens=tokens,
            draft=draft,
            temperature=0.0,
            repetition_penalty=1.0,
            logprobs=2,
            logit_bias=dict.fromkeys(model.bundle.manifest.generation.eos_token_ids, -1e6),
        )

    ratios, plain, drafted = [], answer("off", 4), answer("lookup", 4)  # reads the prompt
    for number in range(rounds):
        for guessing in (False, True)[:: 1 if number % 2 else -1]:
            if guessing:
                drafted = answer("lookup")
            else:
                plain = answer("off")
        ratios.append(drafted.timings.decode_tokens_per_s / plain.timings.decode_tokens_per_s)
    pairs = enumerate(zip(plain.tokens, drafted.tokens, strict=True))
    parted = next((place for place, (ours, theirs) in pairs if ours.id != theirs.id), -1)
    (_, best), (_, second) = plain.tokens[parted].top_logprobs
    found = drafted.timings
    counts = found.answer_tokens, found.drafted_tokens, found.accepted_tokens
    return Outcome(" ".join(prompt.split())[:48], statistics.median(ratios), *counts, parted, best - second)


@click.command
@click.argument("bundle")
@click.option("--tokens", default=128, show_default=True, help="Of each answer.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--kv", help="Format of the cache; the bundle's own if it isn't given.")
@click.option("--draft", help="A smaller student that guesses, too.")
@click.option("--kind", type=click.Choice(["repeats", "chat"]), help="One kind of prompt only.")
def main(bundle: str, tokens: int, rounds: int, kind: str | None, kv: str | None, draft: str | None) -> None:
    """Measure and print a table for each kind."""
    model = edgert.load(bundle, context=1024, kv=kv, conversations=1, draft=draft)
    for name, prompts in (("repeats", repeating()), ("chat", CHAT)):
        if kind in (None, name):
            show(name, [measure(model, prompt, tokens, rounds) for prompt in prompts])


def show(kind: str, outcomes: list[Outcome]) -> None:
    """A table of one kind, and what it comes to."""
    print(f"\n{kind}\n\n| prompt | times plain | drafted | came true | parts at token | margin, nats |")
    print("|---|---|---|---|---|---|")
    for one in outcomes:
        parts = f"{one.parted} | {one.margin:.3f}" if one.parted >= 0 else "nowhere | "
        title = one.title.replace("|", " ")
        print(f"| {title} | {one.ratio:.2f} | {one.drafted} | {one.accepted} | {parts} |")
    ratios, parted = [one.ratio for one in outcomes], [one for one in outcomes if one.parted >= 0]
    spread = f"median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
    margin = max((one.margin for one in parted), default=0.0)
    print(f"{len(outcomes)} prompts, times plain: {spread}; {len(parted)} part, at {margin:.3f} nats at most")


if __name__ == "__main__":
    main()
