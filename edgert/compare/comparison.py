"""Comparison: the answers of two bundles to the same prompts, and how far apart they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from edgert.answering.reply import FinishReason
from edgert.text.final import equal_finals
from edgert.text.prompts import Question, title

# How two final answers compare. "undecided": an answer was cut off; "missing": one ended without a final one.
Verdict: TypeAlias = Literal["equal", "different", "undecided", "missing"]
VERDICTS: dict[Verdict, str] = {  # "final answers …"
    "equal": "are equal",
    "different": "differ",
    "undecided": "are undecided: cut off",
    "missing": "are missing: ended while still thinking",
}


@dataclass(frozen=True)
class Side:
    """One of the two bundles; `size` in bytes."""

    name: str
    folder: str
    quantization: str
    size: int

    def __str__(self) -> str:
        return f"{self.folder} ({self.quantization}, {self.size / 1e6:.0f} MB)"


@dataclass(frozen=True)
class Answer:
    """An answer, with a piece of text and a probability (0 to 1) for each of its tokens.

    Pieces are empty where a character was incomplete. `final` is what the answer comes to (see
    `final_answer`), None if it was cut, or ended, while still thinking.
    """

    text: str
    token_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    probabilities: tuple[float, ...]
    finish_reason: FinishReason
    final: str | None


@dataclass(frozen=True)
class Choice:
    """A token that one of the two took (id None: the end) and how probable it held it, 0 to 1."""

    token_id: int | None
    text: str
    probability: float

    def __str__(self) -> str:
        if self.token_id is None:
            return "the end"
        return f"'{self.text}'".replace("\n", "\\n") if self.text else f"token {self.token_id}"


@dataclass(frozen=True)
class Fork:
    """Where two answers part: the `index` first tokens are equal, then each takes its own.

    `alternative`: how probable the reference held the bundle's token. Near its own choice's, the two were
    nearly tied; near 0, the bundle is mistaken.
    """

    index: int
    bundle: Choice
    reference: Choice
    alternative: float


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt.

    `kl`, KL(reference ‖ bundle) in nats, and `agrees`, whether both think the same token the likeliest,
    have an entry for each token of the reference's answer, and one for its end if it was not cut.
    """

    prompt: Question
    same_prompt: bool  # whether the prompt is the same tokens in both bundles
    bundle: Answer
    reference: Answer
    fork: Fork | None
    kl: tuple[float, ...]
    agrees: tuple[bool, ...]

    @property
    def title(self) -> str:
        return title(self.prompt)

    @property
    def identical(self) -> bool:
        return self.fork is None

    @property
    def cut(self) -> bool:
        """Whether one of the two was cut off."""
        return "length" in (self.reference.finish_reason, self.bundle.finish_reason)

    @property
    def finals(self) -> Verdict:
        """Whether the final answers are equal; one that was cut off might still come to anything."""
        if self.cut:
            return "undecided"
        if self.bundle.final is None or self.reference.final is None:
            return "missing"
        return "equal" if equal_finals(self.bundle.final, self.reference.final) else "different"

    @property
    def mean_kl(self) -> float:
        return sum(self.kl) / len(self.kl)

    @property
    def worst(self) -> int:
        """The index with the largest KL."""
        return max(range(len(self.kl)), key=self.kl.__getitem__)

    @property
    def top1(self) -> float:
        return sum(self.agrees) / len(self.agrees)


@dataclass(frozen=True)
class Summary:
    """Counts of prompts, and means over every token of the reference's answers.

    `equal_finals` and the like count final answers by `Verdict`; `cut` counts prompts with an answer that was
    cut off. `other_prompts`: the bundles' templates or
    tokenizers made other tokens of the prompt. `mean_fork`: equal tokens before the first difference, over
    the prompts whose answers differ; None if none does.
    """

    prompts: int
    identical: int
    equal_finals: int
    different_finals: int
    undecided_finals: int
    missing_finals: int
    cut: int
    other_prompts: int
    mean_fork: float | None
    mean_kl: float
    top1: float


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns."""

    bundle: Side
    reference: Side
    max_tokens: int
    pairs: tuple[Pair, ...]

    @property
    def summary(self) -> Summary:
        forks = [pair.fork.index for pair in self.pairs if pair.fork]
        kl = [value for pair in self.pairs for value in pair.kl]
        agrees = [value for pair in self.pairs for value in pair.agrees]
        verdicts = Counter(pair.finals for pair in self.pairs)
        return Summary(
            prompts=len(self.pairs),
            identical=sum(pair.identical for pair in self.pairs),
            equal_finals=verdicts["equal"],
            different_finals=verdicts["different"],
            undecided_finals=verdicts["undecided"],
            missing_finals=verdicts["missing"],
            cut=sum(pair.cut for pair in self.pairs),
            other_prompts=sum(not pair.same_prompt for pair in self.pairs),
            mean_fork=sum(forks) / len(forks) if forks else None,
            mean_kl=sum(kl) / len(kl),
            top1=sum(agrees) / len(agrees),
        )

    def table(self) -> dict[str, Any]:
        """Everything as JSON can hold it, what follows from it included."""
        return {"summary": asdict(self.summary), **asdict(self), "pairs": [_row(pair) for pair in self.pairs]}


def _row(pair: Pair) -> dict[str, Any]:
    figures = ("identical", "finals", "mean_kl", "worst", "top1")
    return asdict(pair) | {name: getattr(pair, name) for name in figures}
