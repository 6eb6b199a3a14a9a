"""`edgert serve` against llama.cpp's server: several clients, and a short question beside a long prompt.

    python benchmarks/serving.py BUNDLE MODEL.gguf [--counts 1,2,4,8] [--rounds 3]

Both servers run from the beginning, and take turns. Each client asks two questions, one after the other; no
prompt is asked twice. Speeds count the tokens of answers over the whole time, reading prompts included.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path

import click
from prose import prose
from servers import Asked, Server, edgert_server, llama_server

PROMPT, LONG, TOKENS = 32, 2000, 128  # words of a question, tokens of a long prompt, tokens of an answer
QUESTIONS = 2  # of each client
HEADROOM = 300  # of the context, for the template and an answer
AFTER_S = 0.3  # the short question comes while the long prompt is being read


class Questions:
    """Texts that differ from their first word on: no cache of a server helps."""

    def __init__(self) -> None:
        self._words = prose().split()
        self._count = 0

    def next(self, words: int) -> str:
        """So many words."""
        self._count += 1
        start = self._count * 37 % (len(self._words) - words)
        return f"{self._count}. Tell me more: " + " ".join(self._words[start : start + words])


@click.command
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option("--counts", default="1,2,4,8", show_default=True, help="How many clients at once.")
@click.option("--words", default=PROMPT, show_default=True, help="Of each question.")
@click.option("--tokens", default=TOKENS, show_default=True, help="Of each answer.")
@click.option("--rounds", default=3, show_default=True)
def main(bundle: Path, model: Path, counts: str, words: int, tokens: int, rounds: int) -> None:
    """Measure and print two tables; MODEL is what llama.cpp serves, the same weights in Q8_0."""
    numbers, questions = [int(count) for count in counts.split(",")], Questions()
    with ExitStack() as stack:
        context = LONG + HEADROOM
        servers = (
            stack.enter_context(edgert_server(bundle, max(numbers), context)),
            stack.enter_context(llama_server(model, bundle, max(numbers), context)),
        )
        size = (words, tokens)
        speeds = [[together(server, numbers, questions, size) for server in servers] for _ in range(rounds)]
        print(throughput(numbers, speeds))
        print(first_tokens(servers, rounds, questions))


def together(server: Server, numbers: list[int], questions: Questions, size: tuple[int, int]) -> list[float]:
    """Tokens per second by the number of clients; `size`: words of a question, tokens of an answer."""
    words, tokens = size

    def asked(count: int) -> list[list[str]]:
        return [[questions.next(words) for _ in range(QUESTIONS)] for _ in range(count)]

    return [server.together(asked(count), tokens) for count in numbers]


def throughput(numbers: list[int], speeds: list[list[list[float]]]) -> str:
    """A table; `speeds` by round, server and number of clients."""
    lines = [
        "| clients | edgert, tokens/s | times one | llama.cpp | edgert over llama.cpp |",
        "|---|---|---|---|---|",
    ]
    for index, count in enumerate(numbers):
        ours, theirs = ([row[which][index] for row in speeds] for which in (0, 1))
        more = spread([row[0][index] / row[0][0] for row in speeds])
        over = spread([a / b for a, b in zip(ours, theirs, strict=True)])
        lines.append(
            f"| {count} | {statistics.median(ours):.0f} | {more} | {statistics.median(theirs):.0f} | {over} |"
        )
    return "\n".join(lines)


def first_tokens(servers: tuple[Server, ...], rounds: int, questions: Questions) -> str:
    """A table of how long a short question waits alone, and beside a prompt of 2,000 tokens."""
    lines = [
        "| server | alone, s | beside a long prompt, s | of the reading of that prompt |",
        "|---|---|---|---|",
    ]
    rows: dict[str, list[tuple[float, float, float]]] = {server.name: [] for server in servers}
    for _ in range(rounds):
        for server in servers:
            alone = server.ask(questions.next(4), 8)
            reading = server.ask(long_prompt(questions), 1)
            _, beside = server.beside(long_prompt(questions), questions.next(4), AFTER_S)
            rows[server.name].append((alone.first_s, beside.first_s, per_token(reading)))
    for name, found in rows.items():
        alone_s, beside_s, token_s = (statistics.median(column) for column in zip(*found, strict=True))
        lines.append(f"| {name} | {alone_s:.2f} | {beside_s:.2f} | {beside_s / token_s:.0f} tokens |")
    return "\n".join(lines)


def long_prompt(questions: Questions) -> str:
    """About 2,000 tokens: prose has about four of them for three words."""
    return questions.next(LONG * 3 // 4)


def per_token(reading: Asked) -> float:
    """Seconds that each token of a prompt takes."""
    return reading.first_s / reading.prompt_tokens


def spread(ratios: list[float]) -> str:
    """The median and the range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
