"""A server under clients that ask, leave and err for minutes: is each answer whole, and as it is alone?

    python benchmarks/soak.py BUNDLE [--minutes 10] [--clients 8]

Prints what was asked and how it ended, and the server's memory and open files over the time (Linux).
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from prose import prose
from servers import Server, edgert_server

QUESTIONS, TOKENS, SAMPLE_S = 40, 32, 5.0
CONTEXT = 512
BAD: tuple[dict[str, Any], ...] = (
    {"temperature": "hot"},
    {"model": "another"},
    {"messages": []},
    {"n": 3},
    {"temprature": 1},
    {"messages": [{"role": "user", "content": "fox " * 4 * CONTEXT}]},
)


@dataclass(frozen=True)
class State:
    """Of the server's process: seconds since the beginning, bytes of its own, open files, threads."""

    at: float
    anonymous: int
    files: int
    threads: int


@dataclass
class Soak:
    """What the clients found. `expected`: the answer to each question alone."""

    server: Server
    expected: dict[str, str]
    ends: Counter[str] = field(default_factory=Counter)
    states: list[State] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def client(self, seed: int) -> None:
        """Ask at random until it is over."""
        draw = random.Random(seed)
        acts: list[Callable[[random.Random], str]] = [self._ask, self._ask, self._leave, self._err]
        while not self.over.is_set():
            self.ends[draw.choice(acts)(draw)] += 1

    def watch(self, began: float) -> None:
        """Note the state of the process now and then."""
        while not self.over.wait(SAMPLE_S):
            self.states.append(state(self.server.process_id, began))

    def _ask(self, draw: random.Random) -> str:
        question = draw.choice(list(self.expected))
        said = self.server.text(question, TOKENS)
        return "equal to the answer alone" if said == self.expected[question] else "other than alone"

    def _leave(self, draw: random.Random) -> str:
        self.server.leave(draw.choice(list(self.expected)), TOKENS, draw.randrange(TOKENS // 2))
        return "left by its client"

    def _err(self, draw: random.Random) -> str:
        bad = draw.choice(BAD)
        status = self.server.status({"messages": [{"role": "user", "content": "Hi"}], **bad})
        return "refused" if status in (400, 404) else f"bad, and answered with {status}"


def state(process_id: int, began: float) -> State:
    """As Linux tells it."""
    process = Path("/proc", str(process_id))
    found = dict(re.findall(r"^(\w+):\s+(\d+)", (process / "status").read_text(), re.MULTILINE))
    files = len(list((process / "fd").iterdir()))
    return State(time.perf_counter() - began, int(found["RssAnon"]) * 1024, files, int(found["Threads"]))


@click.command
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--clients", default=8, show_default=True)
def main(bundle: Path, minutes: float, clients: int) -> None:
    """Measure and print."""
    words = prose().split()
    asked = [" ".join(words[17 * number :][: 5 + number]) for number in range(QUESTIONS)]
    with edgert_server(bundle, clients, CONTEXT, "--log", "off") as server:
        soak = Soak(server, {question: server.text(question, TOKENS) for question in asked})
        began = time.perf_counter()
        threads = [threading.Thread(target=soak.client, args=(seed,)) for seed in range(clients)]
        threads.append(threading.Thread(target=soak.watch, args=(began,)))
        for thread in threads:
            thread.start()
        time.sleep(60 * minutes)
        soak.over.set()
        for thread in threads:
            thread.join()
    print(table(soak))


def table(soak: Soak) -> str:
    """How requests ended, and the process at the beginning, in the middle and at the end."""
    lines = ["| how it ended | requests |", "|---|---|"]
    lines += [f"| {end} | {count} |" for end, count in soak.ends.most_common()]
    lines += ["", "| after, s | memory of its own, MB | open files | threads |", "|---|---|---|---|"]
    several = soak.states[:: max(1, len(soak.states) // 8)]
    for one in several:
        lines.append(f"| {one.at:.0f} | {one.anonymous / 1e6:.1f} | {one.files} | {one.threads} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
