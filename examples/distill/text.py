"""Text to distill on, without a download: the teacher talking to itself, and prose that every Python has."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from importlib.metadata import distributions
from itertools import count
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import numpy.typing as npt

import edgert
from edgert.saving import save_text

Tokens = npt.NDArray[np.int64]

HELD_OUT = ("types", "execmodel", "exceptions")  # topics of `help()` that nothing is trained on
QUESTION_TOKENS, ANSWER_TOKENS = 80, 160
CONTEXT = 512  # tokens of a conversation, the system prompt included
AT_ONCE = 16  # conversations that advance together


@dataclass(frozen=True)
class Text:
    """Token ids, (tokens,) each: what to train on, and what only to measure on."""

    name: str
    train: Tokens
    held_out: Tokens

    def window(self, rng: np.random.Generator, size: int) -> Tokens:
        """So many neighbouring tokens from anywhere in the training part, (size,)."""
        start = rng.integers(max(1, len(self.train) - size + 1))
        return self.train[start : start + size]


def held_back(name: str, documents: list[list[int]]) -> Text:
    """Every eighth document is measured on, the others are trained on."""
    train = [token for number, ids in enumerate(documents) if number % 8 for token in ids]
    held_out = [token for ids in documents[::8] for token in ids]
    return Text(name, np.array(train, np.int64), np.array(held_out, np.int64))


def prose(encode: Callable[[str], list[int]]) -> Text:
    """Python's manual as `help()` has it, and what the installed packages say of themselves."""
    pages = [text for name, text in sorted(topics.items()) if name not in HELD_OUT]
    pages += sorted({str(package.metadata.json.get("description", "")) for package in distributions()})
    train, held_out = "\n\n".join(pages), "\n\n".join(topics[name] for name in HELD_OUT)
    return Text("prose", np.array(encode(train), np.int64), np.array(encode(held_out), np.int64))


@dataclass
class SelfTalk:
    """A teacher that asks itself: after the opening of a user's turn, a chat model writes a question.

    The method is Magpie's (Xu et al., 2024). Conversations are token ids, kept in `path`.
    """

    model: edgert.Model
    path: Path
    seconds: float = 0.0  # spent so far
    conversations: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path.exists():
            kept = json.loads(self.path.read_text("utf-8"))
            self.seconds, self.conversations = kept["seconds"], kept["conversations"]

    def go_on(self, seconds: float) -> Iterator[float]:
        """Talk until so many seconds are spent, those of earlier runs included; yields how many are."""
        begun, seeds = time.monotonic() - self.seconds, count(len(self.conversations))
        opening = self._opening()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            pending = {pool.submit(self._converse, opening, next(seeds)) for _ in range(AT_ONCE)}
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                self.conversations += [future.result() for future in done]
                self.seconds = time.monotonic() - begun
                if self.seconds < seconds:
                    pending |= {pool.submit(self._converse, opening, next(seeds)) for _ in done}
                self._save()
                yield self.seconds

    def _opening(self) -> list[int]:
        """All of a prompt that comes before the user's words."""
        rendered = [self.model.tokens_of([{"role": "user", "content": word}]) for word in ("yes", "no")]
        same = next(i for i, (one, other) in enumerate(zip(*rendered, strict=False)) if one != other)
        return rendered[0][:same]

    def _converse(self, opening: list[int], seed: int) -> list[int]:
        asked = self.model.generate(
            opening, max_tokens=QUESTION_TOKENS, temperature=1.0, top_p=0.95, seed=seed
        )
        if asked.finish_reason != "stop" or not asked.text.strip():  # cut off: good to learn from as it is
            return [*opening, *asked.token_ids]
        question = self.model.tokens_of([{"role": "user", "content": asked.text.strip()}])
        answer = self.model.generate(
            question, max_tokens=ANSWER_TOKENS, temperature=0.8, top_p=0.95, seed=seed
        )
        ends = self.model.bundle.manifest.generation.eos_token_ids[: answer.finish_reason == "stop"]
        return [*question, *answer.token_ids, *ends]

    def _save(self) -> None:
        save_text(self.path, json.dumps({"seconds": self.seconds, "conversations": self.conversations}))
