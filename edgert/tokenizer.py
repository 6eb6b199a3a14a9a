"""Tokenizer: text to token ids with the model's own tokenizer.json, and back as a stream."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers
from tokenizers.decoders import DecodeStream

from edgert.bundle import TOKENIZER, Bundle
from edgert.errors import BundleError


class Tokenizer:
    """The bundle's tokenizer. `add_bos`: raw text starts with the BOS token even if the JSON says nothing."""

    def __init__(self, source: str, bos_token_id: int | None = None, add_bos: bool = False) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_str(source)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._bos = bos_token_id if add_bos else None

    def encode(self, text: str) -> list[int]:
        """Ids of raw text to be continued, with the BOS token if the model was trained with one."""
        ids: list[int] = self._tokenizer.encode(text).ids
        if self._bos is not None and ids[:1] != [self._bos]:
            ids.insert(0, self._bos)
        return ids

    def encode_rendered(self, prompt: str) -> list[int]:
        """Ids of a prompt that a chat template has rendered: it spells its special tokens itself."""
        ids: list[int] = self._tokenizer.encode(prompt, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def text_of(self, token: int | None) -> str:
        """A token's text, special or not, for templates that spell it out; empty for None."""
        text: str | None = None if token is None else self._tokenizer.id_to_token(token)
        return text or ""

    def stream(self) -> TokenStream:
        return TokenStream(self._tokenizer)


class TokenStream:
    """Text of tokens as they arrive: only whole characters, no special tokens."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, token: int) -> str:
        """The text that became certain with this token; empty while a character is incomplete."""
        text: str | None = self._stream.step(self._tokenizer, token)
        return text or ""


def open_tokenizer(bundle: Bundle) -> Tokenizer:
    """The tokenizer of a bundle. Raises BundleError."""
    source = bundle.text(TOKENIZER)
    if source is None:
        raise BundleError(f"{bundle.path(TOKENIZER)}: missing from the bundle; export it again")
    defaults = bundle.manifest.generation
    try:
        return Tokenizer(source, defaults.bos_token_id, defaults.add_bos)
    except Exception as error:
        raise BundleError(f"{bundle.path(TOKENIZER)}: not a tokenizer: {error}") from error
