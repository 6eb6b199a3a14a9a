"""Likelihoods of tokens, as OpenAI's APIs tell them."""

from __future__ import annotations

from typing import Any

from edgert.text.detokenizer import REPLACEMENT
from edgert.text.sampler import SampledToken
from edgert.text.tokenizer import Tokenizer


def entry(token: SampledToken, tokenizer: Tokenizer) -> dict[str, Any]:
    """A token of the answer, and the best of what else it might have been."""
    others = [_spelled(other, logprob, tokenizer) for other, logprob in token.top_logprobs]
    return {**_spelled(token.id, token.logprob, tokenizer), "top_logprobs": others}


def _spelled(token: int, logprob: float | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """`bytes` is null where a token is only a part of a character."""
    text = tokenizer.spell([token])
    known = None if REPLACEMENT in text else list(text.encode())
    return {"token": text, "logprob": logprob, "bytes": known}
