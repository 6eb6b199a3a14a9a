"""Answer: logits to chunks of text. Score: logits as they are. What sequences of the engine are for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgert.answering.reply import Chunk, FinishReason, Stopwatch
from edgert.answering.request import Request
from edgert.engine.decoder import Logits
from edgert.text.loops import LoopDetector
from edgert.text.sampler import History, Sampler
from edgert.text.stops import StopMatcher
from edgert.text.tokenizer import TokenStream

MOST_UNREAD = 32  # chunks that may lie unread: a reader that stops reading stops the work

Delivery = Callable[[Chunk | BaseException], None]
Ended = Callable[[str | None], None]


def ignore(text: str | None) -> None:
    """For those who needn't know how an answer ended."""


@dataclass(frozen=True)
class Asked:
    """Token ids to answer, the stream that makes text of the answer, the most tokens it may have, and those
    that end it.
    """

    tokens: Sequence[int]
    text: TokenStream
    limit: int
    ends: Sequence[int]


class Answer:
    """Samples, turns tokens to text and ends the answer: a consumer of logits, called by one thread.

    `deliver` gets each chunk, the last one once the row is given back; or the error that ended it. `ended` is
    called before that with all of the text: None after an error, or if it was cancelled before a token.
    """

    every = False

    def __init__(
        self,
        asked: Asked,
        request: Request,
        sampler: Sampler,
        deliver: Delivery,
        ended: Ended = ignore,
    ) -> None:
        self._asked = asked
        self._sampler = sampler
        self._deliver = deliver
        self._ended = ended
        self._history = History(asked.tokens)
        self._stops = StopMatcher(request.stop)
        self._loops = LoopDetector() if request.stop_loops else None
        self._watch = Stopwatch(len(asked.tokens))
        self._shown: list[str] = []
        self._reason: FinishReason | None = None
        self._delivered = self._read = 0

    @property
    def ready(self) -> bool:
        """Whether the reader keeps up."""
        return self._delivered - self._read < MOST_UNREAD

    def was_read(self) -> bool:
        """The reader has taken a chunk; whether the work had stopped for it."""
        self._read += 1
        return self._delivered - self._read == MOST_UNREAD - 1

    def start(self, cached_tokens: int) -> None:
        """The prompt is being read."""
        self._watch.start(cached_tokens)

    def take(self, logits: Logits) -> Sequence[int]:
        """Sample after logits (1, vocab): the token that goes on, none at the end."""
        token = self._sampler.choose(logits[-1], self._history)
        self._watch.tick()
        if token.id in self._asked.ends:
            self._reason = "stop"
            return ()
        self._history.accept(token.id)
        text = self._stops.push(self._asked.text.push(token.id))
        self._show(Chunk(text, token, self._watch.timings(len(self._history.answer))))
        self._reason = self._why_it_ends(token.id)
        return () if self._reason else (token.id,)

    def end(self, error: BaseException | None, cancelled: bool) -> None:
        """The last chunk, or the error."""
        if error is not None:
            self._ended(None)
            self._deliver(error)
            return
        timings = self._watch.timings(len(self._history.answer))
        last = Chunk(self._rest(), None, timings, self._reason or "cancelled")
        self._ended("".join([*self._shown, last.text]) if self._shown or self._reason else None)
        self._deliver(last)

    def _rest(self) -> str:
        """Text that was held back and that nothing follows."""
        return "" if self._stops.matched else self._stops.push(self._asked.text.flush()) + self._stops.flush()

    def _show(self, chunk: Chunk) -> None:
        self._shown.append(chunk.text)
        self._delivered += 1
        self._deliver(chunk)

    def _why_it_ends(self, token: int) -> FinishReason | None:
        if self._stops.matched:
            return "stop"
        if self._loops is not None and self._loops.push(token):
            return "loop"
        return "length" if len(self._history.answer) >= self._asked.limit else None


class Score:
    """Collects the logits after every token of a text, (tokens, vocab); `done` is called at the end."""

    every = True
    ready = True

    def __init__(self, tokens: int, vocab: int, done: Callable[[BaseException | None, bool], None]) -> None:
        self.logits: Logits = np.empty((tokens, vocab), np.float32)
        self._filled = 0
        self._done = done

    def start(self, cached_tokens: int) -> None:
        """Nothing is cached: the sequence is fresh."""

    def take(self, logits: Logits) -> Sequence[int]:
        """The next rows."""
        self.logits[self._filled : self._filled + len(logits)] = logits
        self._filled += len(logits)
        return ()

    def end(self, error: BaseException | None, cancelled: bool) -> None:
        """All rows are there, unless there is an error or it was cancelled."""
        self._done(error, cancelled)
