"""Tokenizer: text to token ids with the model's own tokenizer.json, and back as a stream."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers
from tokenizers.decoders import DecodeStream

from edgert.bundle import TOKENIZER, Bundle
from edgert.errors import BundleError, UsageError


class Tokenizer:
    """The bundle's tokenizer. `add_bos`: raw text starts with the BOS token even if the JSON says nothing."""

    def __init__(self, source: str, bos_token_id: int | None = None, add_bos: bool = False) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_str(source)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._bos = bos_token_id if add_bos else None

    @property
    def vocabulary(self) -> dict[str, int]:
        """Ids of all tokens, those added to the model's own included."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return vocabulary

    def encode(self, text: str) -> list[int]:
        """Ids of raw text to be continued, with the BOS token if the model was trained with one."""
        ids = self._encode(text, True)
        if self._bos is not None and ids[:1] != [self._bos]:
            ids.insert(0, self._bos)
        return ids

    def encode_rendered(self, prompt: str) -> list[int]:
        """Ids of a prompt that a chat template has rendered: it spells its special tokens itself."""
        return self._encode(prompt, False)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        except TypeError as error:  # lone surrogates: bytes that never were UTF-8
            raise UsageError("the prompt is not valid Unicode text") from error
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def stream(self, prompt: Sequence[int] = ()) -> TokenStream:
        """Decode an answer as it comes; one that goes on with the text of `prompt` keeps its first space."""
        return TokenStream(self._tokenizer, prompt)


class TokenStream:
    """Text of tokens as they arrive: only whole characters, no special tokens."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # A few tokens are enough to know what precedes; none if they end inside a character.
        before = list(prompt[-8:])
        whole = not tokenizer.decode(before, skip_special_tokens=True).endswith("\ufffd")
        self._stream = DecodeStream(ids=before if whole else [], skip_special_tokens=True)

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
