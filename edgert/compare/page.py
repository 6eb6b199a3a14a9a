"""A comparison as one HTML file that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2

from edgert.compare.comparison import VERDICTS, Answer, Comparison, Pair
from edgert.saving import save_text

TEMPLATE = "page.html"


@dataclass(frozen=True)
class Parts:
    """An answer's text around the token where it parts from the other: `mark` is that token's text."""

    before: str
    mark: str
    after: str


@dataclass(frozen=True)
class Bar:
    """The KL at one token of the reference's answer; `height` in percent of the scale's."""

    token: str
    kl: float
    height: float
    agrees: bool


@dataclass(frozen=True)
class Scale:
    """What all charts of a page share: the KL of a full height, in nats, and the bars of a full width."""

    kl: float
    bars: int


def save(comparison: Comparison, path: Path) -> None:
    """Write the page aside and rename it. Raises UsageError naming the path."""
    save_text(path, render(comparison))


def render(comparison: Comparison) -> str:
    """The page's HTML; whatever prompts and answers hold is text in it."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = resources.files("edgert.compare").joinpath(TEMPLATE).read_text("utf-8")
    template = environment.from_string(source)
    return template.render(
        comparison=comparison,
        summary=comparison.summary,
        verdicts=VERDICTS,
        scale=scale(comparison),
        parts=parts,
        bars=bars,
    )


def scale(comparison: Comparison) -> Scale:
    """The largest KL and the longest answer of all, so that charts can be compared by eye."""
    largest = max(max(pair.kl) for pair in comparison.pairs)
    return Scale(largest or 1.0, max(len(pair.kl) for pair in comparison.pairs))


def parts(answer: Answer, index: int | None) -> Parts:
    """The text before, of, and after token `index`; all of it before if the answers don't part."""
    if index is None:
        return Parts(answer.text, "", "")
    # A token that ends inside a character has no text of its own: the mark reaches to the next that has.
    end = next((i for i in range(index, len(answer.pieces)) if answer.pieces[i]), index) + 1
    before, mark, after = (
        "".join(piece) for piece in (answer.pieces[:index], answer.pieces[index:end], answer.pieces[end:])
    )
    return Parts(before, mark, after)


def bars(pair: Pair, scale: Scale) -> list[Bar]:
    """One per token of the reference's answer, and one for its end if it was not cut."""
    tokens = [*pair.reference.pieces, "the end"]
    return [
        Bar(token, kl, 100 * kl / scale.kl, agrees)
        for token, kl, agrees in zip(tokens, pair.kl, pair.agrees, strict=False)
    ]
