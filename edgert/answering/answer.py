"""Answer: logits to chunks of text. Score: logits as they are. What sequences of the engine are for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgert.answering.drafting import Drafting
from edgert.answering.guesser import Guesser
from edgert.answering.reply import Chunk, FinishReason, Stopwatch, Timings, join
from edgert.answering.request import Request
from edgert.engine.decoder import Logits
from edgert.engine.pace import Pace
from edgert.engine.slots import common_prefix
from edgert.text.calls import ToolCall
from edgert.text.grammar import Constraint
from edgert.text.loops import LoopDetector
from edgert.text.sampler import History, SampledToken, Sampler
from edgert.text.stops import StopMatcher
from edgert.text.thinking import Channel, Thinking
from edgert.text.tokenizer import TokenStream

MOST_UNREAD = 32  # chunks that may lie unread: a reader that stops reading stops the work

Ended = Callable[[str | None, tuple[ToolCall, ...], Callable[[], None]], None]
ReadCalls = Callable[[Sequence[int]], tuple[ToolCall, ...]]


def ignore(text: str | None, calls: tuple[ToolCall, ...], finish: Callable[[], None]) -> None:
    """For those who needn't know how an answer ended."""
    finish()


@dataclass(frozen=True)
class Asked:
    """Token ids to answer, the stream that makes text of the answer, what tells its thought apart, the most
    tokens it may have, those that end it, those that close a thought whose budget is spent, what holds it to
    a form, what reads calls of tools, if that form is theirs, and a smaller student that guesses, if there is
    one.
    """

    tokens: Sequence[int]
    text: TokenStream
    thinking: Thinking
    limit: int
    ends: Sequence[int]
    closing: Sequence[int] = ()
    constraint: Constraint | None = None
    read_calls: ReadCalls | None = None
    guesser: Guesser | None = None


class Answer:
    """Samples, turns tokens to text and ends the answer: a consumer of logits, called by one thread.

    `items` are the chunks so far; the last comes once the row is given back, or the error that ended it. They
    stay there, so that a reader who is interrupted loses nothing. `wake` tells the reader of each. `ended` is
    called before the last with all of the text (None after an error, or if it was cancelled before a token),
    the calls of tools, and what hands out the last: it is called once, by any thread, at once or later.
    """

    every = False

    def __init__(
        self,
        asked: Asked,
        request: Request,
        sampler: Sampler,
        wake: Callable[[], None],
        ended: Ended = ignore,
    ) -> None:
        self._asked = asked
        self._sampler = sampler
        self._wake = wake
        self._ended = ended
        self._history = History(asked.tokens)
        self._budget = request.thinking_budget
        self._stops = StopMatcher(request.stop)
        self._loops = LoopDetector() if request.stop_loops else None
        self._drafting = Drafting(asked.tokens, asked.guesser) if request.draft == "lookup" else None
        self._draft: list[int] = []
        self._watch = Stopwatch(len(asked.tokens))
        self._reason: FinishReason | None = None
        self._calling: list[int] = []  # tokens that call tools
        self.items: list[Chunk | BaseException] = []
        self.over = threading.Event()
        self._read = 0

    @property
    def ready(self) -> bool:
        """Whether the reader keeps up."""
        return len(self.items) - self._read < MOST_UNREAD

    def was_read(self, count: int) -> bool:
        """The reader has taken so many chunks; whether the work may have stopped for it."""
        self._read = count
        return len(self.items) - count == MOST_UNREAD - 1

    def start(self, cached_tokens: int) -> None:
        """The prompt is being read."""
        self._watch.start(cached_tokens)

    def draft(self, pace: Pace) -> Sequence[int]:
        """Tokens that may come next; see `Drafting`."""
        if self._drafting is None:
            return ()
        most = self._asked.limit - len(self._history.answer) - 1  # a token more comes from the model
        self._draft = self._drafting.draft(pace, most)
        return self._draft

    def take(self, logits: Logits) -> Sequence[int]:
        """Sample after logits (1 + draft, vocab), row by row as long as what was drafted is drawn: the tokens
        that go on; none at the end.

        Every token is drawn as it would be without a draft, with the random number of its position, so drafts
        change no distribution: this is rejection sampling (arXiv:2211.17192) of a draft that is certain.
        """
        draft, self._draft = self._draft, []
        going: list[int] = []
        for row, guess in zip(logits, [*draft, None], strict=True):
            said = self._advance(row)
            going += said
            if self._reason or said != [guess]:
                break
        if self._drafting and draft:
            true = common_prefix(going, draft)
            self._drafting.learn(true)
            self._watch.draft(len(draft), true)
        return () if self._reason else going

    def _advance(self, logits: Logits) -> list[int]:
        """Sample a token after logits (vocab,) and say it, with those that close a thought; what goes on."""
        token = self._choose(logits)
        self._watch.tick()
        if token.id in self._asked.ends:
            self._reason = "stop"
            return []
        going = []
        for said in self._closed(token):
            self._say(said)
            going.append(said.id)
            if self._reason:
                break
        return going

    def _choose(self, logits: Logits) -> SampledToken:
        """The next token after logits (vocab,). The likeliest mostly fits the form, which is quickly told."""
        constraint = self._asked.constraint
        if constraint is None or constraint.loose or self._sampler.greedy:
            token = self._sampler.choose(logits, self._history)
            if constraint is None or constraint.permits(token.id):
                return token
        return self._sampler.choose(logits, self._history, constraint.allowed())

    def _closed(self, token: SampledToken) -> Iterator[SampledToken]:
        """A token; once it is said and has spent the thought's budget, those that close the thought."""
        yield token
        thinks = self._asked.thinking.channel == "thinking"
        if self._budget and thinks and self._budget.spent(self._timings()):
            yield from map(SampledToken, self._asked.closing)

    def _say(self, token: SampledToken) -> None:
        """A token of the answer becomes a chunk."""
        self._history.accept(token.id)
        if self._drafting:
            self._drafting.push(token.id)
        constraint = self._asked.constraint
        if constraint:
            constraint.accept(token.id)
        if self._asked.read_calls and constraint and constraint.begun:
            self._calling.append(token.id)
            channel, text = self._shown("")
        else:
            channel, text = self._shown(self._asked.text.push(token.id))
        if channel == "thinking":
            self._watch.think()
        self.items.append(Chunk(text, token, self._timings(), channel=channel))
        self._wake()
        self._reason = self._why_it_ends(token.id)

    def _timings(self) -> Timings:
        return self._watch.timings(len(self._history.answer))

    def _shown(self, text: str) -> tuple[Channel, str]:
        """The channel, and what can be shown there. Stop strings end the answer, not the thought."""
        channel, text = self._asked.thinking.push(text)
        return channel, self._stops.push(text) if channel == "answer" else text

    def end(self, error: BaseException | None, cancelled: bool) -> None:
        """The last chunk, or the error."""
        begun = self._reason or self.items
        channel, text = self._rest()
        read = self._asked.read_calls
        calls = read(self._calling) if read and self._calling else ()
        last = Chunk(text, None, self._timings(), self._reason or "cancelled", channel, calls)

        def finish() -> None:
            self.items.append(error or last)
            self.over.set()
            with contextlib.suppress(RuntimeError):  # a loop that is closed needs no waking
                self._wake()

        try:
            self._ended(self._whole(last) if begun and error is None else None, calls, finish)
        except BaseException:
            finish()
            raise

    def _rest(self) -> tuple[Channel, str]:
        """Text that was held back and that nothing follows."""
        if self._stops.matched:
            return "answer", ""
        _, text = self._shown(self._asked.text.flush())
        channel, held = self._asked.thinking.flush()
        if channel == "thinking":
            return channel, text + held
        return channel, text + self._stops.push(held) + self._stops.flush()

    def _whole(self, last: Chunk) -> str:
        """All text, as the next prompt will repeat it: with the thought and its tags.

        Of a loop, only the phrase's first time, or the next answer would take it up again.
        """
        chunks = [item for item in self.items if isinstance(item, Chunk)]
        if self._reason == "loop" and self._loops and self._asked.thinking.channel == "answer":
            chunks = chunks[: len(chunks) - self._loops.repeated]
            last = replace(last, text="")
        return self._asked.thinking.whole(join([*chunks, last]).text)

    def _why_it_ends(self, token: int) -> FinishReason | None:
        constraint = self._asked.constraint
        if self._stops.matched or (constraint and constraint.finished):
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

    def draft(self, pace: Pace) -> Sequence[int]:
        """A text that is scored goes on with nothing."""
        return ()

    def take(self, logits: Logits) -> Sequence[int]:
        """The next rows."""
        self.logits[self._filled : self._filled + len(logits)] = logits
        self._filled += len(logits)
        return ()

    def end(self, error: BaseException | None, cancelled: bool) -> None:
        """All rows are there, unless there is an error or it was cancelled."""
        self._done(error, cancelled)
