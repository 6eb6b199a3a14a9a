"""Decoder: tokens in, logits out. `prefill` reads a prompt, `decode` adds a token, `verify` adds a few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgert.bundle import ModelFacts
from edgert.engine.graph_session import Binding, GraphSession, share, zeros
from edgert.engine.kv_cache import KVCache
from edgert.errors import PromptTooLong

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Several:
    """Buffers of a pass over a few tokens, made and bound once: (1, count), (1, count, vocab)."""

    tokens: npt.NDArray[np.int64]
    logits: Logits
    binding: Binding


class Decoder:
    """Runs the graph over a KV cache. Every buffer of the decode step is made and bound once."""

    def __init__(
        self, session: GraphSession, facts: ModelFacts, context: int, chunk: int, kv: str = "fp32"
    ) -> None:
        self.cache = KVCache(facts, context, kv, session.buffer)
        self._session = session
        self._chunk = chunk
        self._vocab = facts.vocab_size
        self._token = zeros((1, 1), np.int64)
        self._seqlens_k = zeros((1,), np.int32)
        self._total = zeros((), np.int32)
        self._wanted = zeros((1,), np.int64)
        self._logits: Logits = zeros((1, 1, facts.vocab_size), np.float32)
        self._lengths = {
            "seqlens_k": share(self._seqlens_k),
            "total_sequence_length": share(self._total),
        }
        last = {"logits_positions": share(self._wanted)}
        outputs = {"logits": share(self._logits), **self.cache.present}
        inputs = {**self._lengths, **last, **self.cache.past}
        self._step = session.bind({"input_ids": share(self._token), **inputs}, outputs)
        self._chunked = session.bind(inputs, outputs)
        self._several: dict[int, Several] = {}

    def reusable(self, tokens: Sequence[int]) -> int:
        """How many tokens a prefill will find in the cache; never the last, whose logits are wanted."""
        return min(self.cache.common_prefix(tokens), len(tokens) - 1)

    def forget(self) -> None:
        """Empty the cache. What a prefill computes then depends on the prompt alone: the int8 kernels round
        differently for one row and for many, so a reused prefix can tip the balance between two tokens.
        """
        self.cache.rewind(0)

    def prefill(self, tokens: Sequence[int]) -> Logits:
        """Bring the cache to exactly `tokens`, reusing what it holds of them; logits of the last, (vocab,).

        The array is the decoder's own and is overwritten by the next step. Raises PromptTooLong.
        """
        if not tokens:
            raise ValueError("a prompt needs at least one token")
        self._check_fits(len(tokens))
        self.cache.rewind(self.reusable(tokens))
        for chunk in self._chunks(tokens[len(self.cache) :]):
            self._wanted[0] = len(chunk) - 1
            self._chunked.read("input_ids", share(np.array([chunk], np.int64)))
            self._run(self._chunked, chunk)
        return self._last()

    def decode(self, token: int) -> Logits:
        """Append one token; logits after it, (vocab,), in the decoder's own buffer. Raises PromptTooLong."""
        self._check_fits(len(self.cache) + 1)
        self._token[0, 0] = token
        self._wanted[0] = 0
        self._run(self._step, [token])
        return self._last()

    def verify(self, tokens: Sequence[int]) -> Logits:
        """Append a few tokens in one pass; logits after each, (len(tokens), vocab), in the decoder's own
        buffer for as many tokens. Raises PromptTooLong.
        """
        self._check_fits(len(self.cache) + len(tokens))
        count = len(tokens)
        if count not in self._several:
            self._several[count] = self._bind_several(count)
        several = self._several[count]
        several.tokens[0] = tokens
        self._run(several.binding, list(tokens))
        return several.logits.reshape(count, self._vocab)

    def logits(self, tokens: Sequence[int]) -> Logits:
        """Logits after every token, (len(tokens), vocab), from an empty cache. Raises PromptTooLong."""
        self._check_fits(len(tokens))
        self.forget()
        everything: Logits = np.empty((1, len(tokens), self._vocab), np.float32)
        for chunk in self._chunks(tokens):
            start = len(self.cache)
            inputs = {
                "input_ids": share(np.array([chunk], np.int64)),
                "logits_positions": share(np.arange(len(chunk), dtype=np.int64)),
            }
            outputs = {"logits": share(everything[:, start : start + len(chunk)]), **self.cache.present}
            binding = self._session.bind({**inputs, **self._lengths, **self.cache.past}, outputs)
            self._run(binding, chunk)
        return everything.reshape(len(tokens), self._vocab)

    def _bind_several(self, count: int) -> Several:
        tokens = zeros((1, count), np.int64)
        logits: Logits = zeros((1, count, self._vocab), np.float32)
        inputs = {
            "input_ids": share(tokens),
            "logits_positions": share(np.arange(count, dtype=np.int64)),
        }
        outputs = {"logits": share(logits), **self.cache.present}
        binding = self._session.bind({**inputs, **self._lengths, **self.cache.past}, outputs)
        return Several(tokens, logits, binding)

    def _last(self) -> Logits:
        return self._logits.reshape(self._vocab)

    def _check_fits(self, length: int) -> None:
        if length > self.cache.capacity:
            raise PromptTooLong(length, self.cache.capacity)

    def _chunks(self, tokens: Sequence[int]) -> Iterator[list[int]]:
        for start in range(0, len(tokens), self._chunk):
            yield list(tokens[start : start + self._chunk])

    def _run(self, binding: Binding, tokens: list[int]) -> None:
        """Tell the graph how long the sequence is with the tokens, run it, and only then note them:
        after an interrupt the cache claims nothing that isn't in it.
        """
        length = len(self.cache) + len(tokens)
        self._seqlens_k[0] = length - 1
        self._total[...] = length
        self._session.run(binding)
        self.cache.tokens += tokens
