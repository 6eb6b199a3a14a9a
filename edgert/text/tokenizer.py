"""Tokenizer: text to token ids with the model's own tokenizer.json, and back as a stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TypeAlias

import tokenizers

from edgert.bundle import TOKENIZER, Bundle
from edgert.errors import BundleError, UsageError
from edgert.text.detokenizer import REPLACEMENT, Detokenizer, WholeCharacters
from edgert.text.thinking import TAGS

EncodeBatch: TypeAlias = Callable[..., list[tokenizers.Encoding]]

WINDOW = 8  # tokens that a text may depend on: the bytes of two characters


class Tokenizer:
    """The bundle's tokenizer. `add_bos`: raw text starts with the BOS token even if the JSON says nothing."""

    def __init__(self, source: str, bos_token_id: int | None = None, add_bos: bool = False) -> None:
        self._tokenizer = _with_spoken_tags(tokenizers.Tokenizer.from_str(source))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._detokenizer = Detokenizer(self._tokenizer)
        self._bos = bos_token_id if add_bos else None

    @property
    def vocabulary(self) -> dict[str, int]:
        """Ids of all tokens, those added to the model's own included."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return vocabulary

    @property
    def added_tokens(self) -> dict[int, str]:
        """Texts of the tokens that were added to the model's own, by id: they are found in any text."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {token: about.content for token, about in added.items()}

    def knows(self, token: str) -> bool:
        """Whether this text is a token of the vocabulary."""
        return self.token_of(token) is not None

    def token_of(self, text: str) -> int | None:
        """The id of the token that is this text; None if none is."""
        token: int | None = self._tokenizer.token_to_id(text)
        return token

    def to_json(self) -> str:
        """The content of a tokenizer.json."""
        source: str = self._tokenizer.to_str()
        return source

    def encode(self, text: str) -> list[int]:
        """Ids of raw text to be continued, with the BOS token if the model was trained with one."""
        ids = self._ids(text, True)
        if self._bos is not None and ids[:1] != [self._bos]:
            ids.insert(0, self._bos)
        return ids

    def encode_rendered(self, prompt: str) -> list[int]:
        """Ids of a prompt that a chat template has rendered: it spells its special tokens itself."""
        return self._ids(prompt, False)

    def encode_spans(self, prompt: str) -> list[tuple[int, tuple[int, int]]]:
        """As `encode_rendered`, each id with the first character of its text and the one after its last."""
        encoding = self._encode(self._tokenizer.encode_batch, prompt, False)
        return list(zip(encoding.ids, encoding.offsets, strict=True))

    def _ids(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(self._encode(self._tokenizer.encode_batch_fast, text, add_special_tokens).ids)

    def _encode(self, encode_batch: EncodeBatch, text: str, add_special_tokens: bool) -> tokenizers.Encoding:
        """As a batch of one: `encode` would keep every other thread of Python waiting (tokenizers 0.23)."""
        try:
            return encode_batch([text], add_special_tokens=add_special_tokens)[0]
        except TypeError as error:  # lone surrogates: bytes that never were UTF-8
            raise UsageError("the prompt is not valid Unicode text") from error

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens; bytes that are no character become U+FFFD."""
        return self._detokenizer.decode(ids)

    def spell(self, ids: Sequence[int]) -> str:
        """Text of ids with their special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def stream(self, prompt: Sequence[int] = ()) -> TokenStream:
        """Decode an answer as it comes; one that goes on with the text of `prompt` keeps its first space."""
        return TokenStream(self._detokenizer, prompt)


class TokenStream:
    """Text of tokens as they arrive: only whole characters, no special tokens.

    All that `push` and at last `flush` return is together what `Tokenizer.decode` makes of all tokens. As
    in vLLM (`detokenize_incrementally`) and text-generation-inference (`decode_token`), a window of the last
    tokens is decoded anew with each that arrives, since its text depends on those before it.
    """

    def __init__(self, detokenizer: Detokenizer, prompt: Sequence[int] = ()) -> None:
        self._detokenizer = detokenizer
        self._whole = WholeCharacters(detokenizer.bytes)
        self._window: list[list[int]] = []  # tokens, byte tokens together where they are one character
        # A few tokens are enough to know what precedes; none if they end inside a character.
        before = prompt[-WINDOW:]
        if not detokenizer.decode(before).endswith(REPLACEMENT):
            for token in before:
                self._take(token)
        self._shown = len(self._text())  # characters of the window's text

    def push(self, token: int) -> str:
        """The text that became certain with this token; empty while a character is incomplete."""
        if not self._take(token):
            return ""
        text = self._text()
        held = text.endswith(REPLACEMENT)  # it may be the beginning of a character
        piece = text[self._shown : len(text) - held]
        if len(self._window) >= 2 * WINDOW:
            del self._window[:-WINDOW]
            text = self._text()
        self._shown = len(text) - held
        return piece

    def flush(self) -> str:
        """What was held back, now that nothing follows: U+FFFD for an incomplete character."""
        self._window.append(self._whole.flush())
        text, shown = self._text(), self._shown
        self._shown = len(text)
        return text[shown:]

    def _take(self, token: int) -> bool:
        """Whether the window's text may have grown."""
        parts = self._whole.push(token) if self._detokenizer.speaks(token) else []
        if parts:
            self._window.append(parts)
        return bool(parts)

    def _text(self) -> str:
        return self._detokenizer.text([token for parts in self._window for token in parts])


def _with_spoken_tags(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Tags around thoughts are text, even where a vocabulary calls them special and would hide them."""
    added = tokenizer.get_added_tokens_decoder().values()
    if not any(token.special and token.content in TAGS for token in added):
        return tokenizer
    table = json.loads(tokenizer.to_str())
    for token in table["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in TAGS
    return tokenizers.Tokenizer.from_str(json.dumps(table))


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
