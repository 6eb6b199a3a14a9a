"""Sample: the text that bundles are calibrated and measured on, cut into windows of tokens.

Even windows calibrate, odd ones measure, so that nothing is judged by what it was tuned on.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from edgert.errors import UsageError
from edgert.text.tokenizer import Tokenizer

from .checkpoint import Tokens
from .checkpoint.source import Readable

WINDOW_TOKENS = 256  # each window starts from an empty cache
CALIBRATING, MEASURING = 32, 16  # windows at most: 8,192 and 4,096 tokens


@dataclass(frozen=True)
class Sample:
    """Windows (windows, WINDOW_TOKENS) of tokens; for those that measure, the token after each position."""

    name: str
    calibrating: Tokens
    measuring: Tokens
    following: Tokens


def read_sample(checkpoint: Readable, path: Path | None, context: int = WINDOW_TOKENS) -> Sample:
    """The built-in sample, or a user's own text, in the checkpoint's tokens; no window exceeds `context`.

    Raises UsageError.
    """
    name = "the built-in sample" if path is None else path.name
    opening, ids = _encoded(checkpoint, _text(path))
    step = min(WINDOW_TOKENS, context) - len(opening)
    if step < 1:
        raise UsageError(
            f"a context of {context} is too short to measure in: pass --no-verify --no-calibrate"
        )
    windows = (len(ids) - 1) // step
    if windows < 2:
        needed = 2 * step + 1
        raise UsageError(
            f"{name} has {len(ids)} tokens, at least {needed} are needed to calibrate and measure"
        )
    here = np.array(ids[: windows * step], np.int64).reshape(windows, step)
    last = np.array(ids[step : windows * step + 1 : step], np.int64)[:, None]  # what follows each window
    here = np.concatenate([np.full((windows, len(opening)), opening, np.int64), here], axis=1)
    after = np.concatenate([here[:, 1:], last], axis=1)
    odd = np.arange(1, windows, 2)
    measuring = odd[np.linspace(0, len(odd) - 1, min(MEASURING, len(odd))).astype(int)]  # of the whole text
    return Sample(name, here[::2][:CALIBRATING], here[measuring], after[measuring])


def _encoded(checkpoint: Readable, text: str) -> tuple[list[int], list[int]]:
    """The tokens that the runtime starts every text with (BOS, if any), and those of this text."""
    defaults = checkpoint.generation
    tokenizer = Tokenizer(checkpoint.tokenizer.tokenizer, defaults.bos_token_id, defaults.add_bos)
    whole, letter = tokenizer.encode("a"), tokenizer.encode_rendered("a")
    start = next(i for i in range(len(whole) + 1) if whole[i : i + len(letter)] == letter)
    return whole[:start], tokenizer.encode_rendered(text)


def _text(path: Path | None) -> str:
    if path is None:
        return resources.files(__package__ or "").joinpath("sample.txt").read_text("utf-8")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text") from error
