"""Sample: the text that bundles are calibrated and measured on, cut into windows of tokens.

Even windows calibrate, odd ones measure, so that nothing is judged by what it was tuned on.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import tokenizers

from edgert.errors import UsageError

from .checkpoint import Checkpoint, Tokens

WINDOW = 256  # tokens; each window starts from an empty cache
MOST = 32  # windows of either kind: 8,192 tokens


@dataclass(frozen=True)
class Sample:
    """Windows of tokens (windows, WINDOW), and for those that measure the token after each position."""

    name: str
    calibrating: Tokens
    measuring: Tokens
    following: Tokens


def read_sample(checkpoint: Checkpoint, path: Path | None, context: int = WINDOW) -> Sample:
    """The built-in sample, or a user's own text, in the checkpoint's tokens; no window exceeds `context`.

    Raises UsageError.
    """
    name = "the built-in sample" if path is None else path.name
    tokenizer = tokenizers.Tokenizer.from_str(checkpoint.tokenizer.tokenizer)
    tokenizer.no_truncation()  # trainers leave such settings in the file
    tokenizer.no_padding()
    ids = tokenizer.encode(_text(path), add_special_tokens=False).ids
    first = checkpoint.generation.bos_token_id if checkpoint.generation.add_bos else None
    step = min(WINDOW, context) - (first is not None)
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
    after = np.array(ids[1 : windows * step + 1], np.int64).reshape(windows, step)
    if first is not None:  # each window starts as the model's texts do; what follows that token is known, too
        after = np.concatenate([here[:, :1], after], axis=1)
        here = np.concatenate([np.full((windows, 1), first), here], axis=1)
    return Sample(name, here[::2][:MOST], here[1::2][:MOST], after[1::2][:MOST])


def _text(path: Path | None) -> str:
    if path is None:
        return resources.files(__package__ or "").joinpath("sample.txt").read_text("utf-8")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text") from error
