"""Answers of a given form: what it costs per token that only some tokens are allowed.

    python benchmarks/forms.py BUNDLE [--answers 20] [--count 1000]

A vocabulary of 152,000 tokens, as R1's distills and Qwen have, is the expensive case: export_r1.py makes such
a bundle. Each answer is replayed token by token over the model's own logits, with the mask and without. A
decode step of the model is measured for comparison. `--count` makes so many answers afterwards, and counts
those that validate.
"""

from __future__ import annotations

import re
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import click
import jsonschema
import numpy as np

import edgert
from edgert.engine.decoder import Logits
from edgert.text.grammar import Constraint, Grammar, Grammars, read_grammar
from edgert.text.sampler import History, Sampler, Sampling

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "pets": {"type": "array", "items": {"enum": ["cat", "dog", "fish"]}, "maxItems": 3},
        "rating": {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[A-F][+-]?$"}]},
    },
    "required": ["name", "age", "pets", "rating"],
    "additionalProperties": False,
}
PLATE = r"[A-Z]{1,3}-[0-9]{2,4}( E)?"
LONGEST = 160  # tokens of an answer
PROMPT = "Tell me about one person."


@dataclass
class Costs:
    """Seconds per token: to choose one with the form (mask, choice, step of the grammar) and without."""

    bound: list[float] = field(default_factory=list)
    free: list[float] = field(default_factory=list)


def chosen(sampler: Sampler, constraint: Constraint, logits: Logits, history: History) -> int:
    """As an answer chooses."""
    if sampler.greedy or constraint.loose:
        token = sampler.choose(logits, history).id
        if constraint.permits(token):
            return token
    return sampler.choose(logits, history, constraint.allowed()).id


def replay(grammars: Grammars, grammar: Grammar, rows: Logits, temperature: float, seed: int) -> Costs:
    """One answer, over logits (n, vocab) in turn."""
    vocab = rows.shape[1]
    sampler = Sampler(Sampling(temperature=temperature, seed=seed), vocab)
    constraint, history, costs = grammars.start(grammar), History(), Costs()
    for number in range(LONGEST):
        logits = rows[(number + 7 * seed) % len(rows)]
        start = time.perf_counter()
        sampler.choose(logits, history)
        between = time.perf_counter()
        token = chosen(sampler, constraint, logits, history)
        constraint.accept(token)
        over = constraint.finished
        costs.free.append(between - start)
        costs.bound.append(time.perf_counter() - between)
        history.accept(token)
        if over:
            break
    return costs


def step_seconds(model: edgert.Model) -> float:
    """Of a decode step without any form, sampling included: the median of a few answers."""
    never_end = dict.fromkeys(model.bundle.manifest.generation.eos_token_ids, -1e6)
    speeds = []
    for _ in range(3):
        reply = model.generate(PROMPT, max_tokens=24, temperature=0.0, logit_bias=never_end)
        speeds.append(reply.timings.decode_tokens_per_s)
    return 1 / statistics.median(speeds)


def valid(model: edgert.Model, count: int) -> tuple[int, int]:
    """Of so many answers at temperature 1 under the schema, and a fifth as many under a regular expression:
    how many validate.
    """
    validator = jsonschema.Draft202012Validator(SCHEMA)

    def by_schema(seed: int) -> bool:
        reply = model.generate(PROMPT, json_schema=SCHEMA, temperature=1.0, seed=seed, thinking=thinking)
        return reply.finish_reason == "stop" and bool(validator.is_valid(reply.json()))

    def by_regex(seed: int) -> bool:
        reply = model.generate(PROMPT, regex=PLATE, temperature=1.0, seed=seed, thinking=thinking)
        return reply.finish_reason == "stop" and re.fullmatch(PLATE, reply.text) is not None

    thinking = False if model.template and model.template.thinks else None
    with ThreadPoolExecutor(model.conversations) as pool:
        return sum(pool.map(by_schema, range(count))), sum(pool.map(by_regex, range(count // 5)))


@click.command
@click.argument("bundle")
@click.option("--answers", default=20, show_default=True, help="Replayed at each temperature.")
@click.option("--count", default=0, show_default=True, help="Answers to make and to validate.")
def main(bundle: str, answers: int, count: int) -> None:
    """Measure and print a table."""
    model = edgert.load(bundle, context=1024)
    vocab = model.bundle.manifest.model.vocab_size
    grammar = read_grammar({"json_schema": SCHEMA})
    assert grammar is not None
    grammars = Grammars(model.tokenizer, vocab, model.bundle.manifest.generation.eos_token_ids)
    start = time.perf_counter()
    grammars.start(grammar)
    first = time.perf_counter() - start
    grammars.start(grammar)
    again = time.perf_counter() - start - first
    print(f"{model}\nvocabulary of {vocab}: first answer {first:.2f} s, the next {again * 1e6:.0f} µs")
    step = step_seconds(model)
    rows = model.logits(model.tokenizer.encode(PROMPT * 8)[:48])
    print(f"a decode step: {step * 1e3:.1f} ms\n")
    print("| temperature | µs per token with the form | without | more: mean | median | share of a step |")
    print("|---|---|---|---|---|---|")
    for temperature in (0.0, 1.0):
        found = [replay(grammars, grammar, rows, temperature, seed) for seed in range(answers)]
        bound, free = (np.concatenate([getattr(c, name) for c in found]) * 1e6 for name in ("bound", "free"))
        extra = bound - free
        print(
            f"| {temperature:g} | {bound.mean():.0f} | {free.mean():.0f} | {extra.mean():.0f} "
            f"| {np.median(extra):.0f} | {extra.mean() / step / 1e6:.2%} |"
        )
    if count:
        by_schema, by_regex = valid(model, count)
        print(f"\nvalid: {by_schema} of {count} by the schema, {by_regex} of {count // 5} by the expression")


if __name__ == "__main__":
    main()
