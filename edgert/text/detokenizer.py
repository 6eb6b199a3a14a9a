"""Detokenizer: token ids to text, bytes to whole characters.

SentencePiece vocabularies spell what they lack with the tokens <0x00> to <0xFF>. tokenizers decodes a run of
them as a whole: one wrong byte, and every character of the run becomes U+FFFD, those that a stream has
already shown included. Here only what is wrong becomes U+FFFD, so text that was certain once stays as it is.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import tokenizers

REPLACEMENT = "\ufffd"


class Detokenizer:
    """What a tokenizer's ids say. `bytes`: the values of its byte tokens, if its decoder joins them."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special = {token for token, about in added.items() if about.special}
        joins = "ByteFallback()" in repr(tokenizer.decoder)
        spelled = {byte: tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)} if joins else {}
        self.bytes: dict[int, int] = {token: byte for byte, token in spelled.items() if token is not None}

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; bytes that are no character become U+FFFD, special tokens nothing."""
        if not self.bytes:
            return self.text(ids)
        whole = WholeCharacters(self.bytes)
        parts = [part for token in ids if self.speaks(token) for part in whole.push(token)]
        return self.text(parts + whole.flush())

    def speaks(self, token: int) -> bool:
        """Whether it can add to a text: it is in the vocabulary, not empty, and not a special token."""
        return token not in self._special and bool(self._tokenizer.id_to_token(token))

    def text(self, ids: Sequence[int]) -> str:
        """As tokenizers decodes it: right where byte tokens are whole characters."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


class WholeCharacters:
    """Tokens as they arrive, byte tokens only once they are whole characters."""

    def __init__(self, values: dict[int, int]) -> None:
        self._bytes = values
        self._tokens = {byte: token for token, byte in values.items()}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> list[int]:
        """The tokens that became certain with this one; those of U+FFFD stand for wrong bytes."""
        byte = self._bytes.get(token)
        if byte is None:
            return [*self.flush(), token]
        return self._spell(self._decoder.decode(bytes([byte])))

    def flush(self) -> list[int]:
        """The tokens of U+FFFD if a character is incomplete, now that nothing follows."""
        return self._spell(self._decoder.decode(b"", final=True))

    def _spell(self, text: str) -> list[int]:
        """Tokens of the bytes of a text; a vocabulary that can't spell U+FFFD drops what is wrong."""
        return [self._tokens[byte] for byte in text.encode() if byte in self._tokens]
