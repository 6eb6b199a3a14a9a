"""Conversation: what was said, in turns, over a KV cache that it finds again: `Model.conversation`."""

from __future__ import annotations

import json
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, Unpack

from edgert.answering.acting import Acting, result_of
from edgert.answering.answer import Ended
from edgert.answering.overflow import Overflow, check, left_out
from edgert.answering.request import Options, Request
from edgert.answering.session import New, Row, Session
from edgert.answering.stream import AsyncStream, Reading, Stream, Turn
from edgert.errors import ConversationWarning, UsageError
from edgert.saving import save_text
from edgert.text.calls import ToolCall
from edgert.text.template import Message, check_messages

# A message's text, or the parts of it that OpenAI's clients send.
Content: TypeAlias = str | Sequence[Mapping[str, Any]]
AnyReading = TypeVar("AnyReading", bound=Reading)
# How an answer ended: its text, its calls, and what hands out the last chunk, see `Answer`.
Ending: TypeAlias = tuple[str | None, tuple[ToolCall, ...], Callable[[], None]]
Opening: TypeAlias = Callable[[Iterable[Message], Request, object | None, Ended], AnyReading]


class RowsOf(Protocol):
    """What the cache holds."""

    def of(self, owner: object) -> Row | None: ...


class Answerer(Protocol):
    """What a conversation needs of a model."""

    def request(self, **options: Unpack[Options]) -> Request: ...

    def open_stream(
        self, prompt: Iterable[Message], request: Request, owner: object | None, ended: Ended
    ) -> Stream: ...

    def open_astream(
        self, prompt: Iterable[Message], request: Request, owner: object | None, ended: Ended
    ) -> AsyncStream: ...

    @property
    def rows(self) -> RowsOf: ...

    @property
    def context(self) -> int: ...

    def prompt_length(self, prompt: Iterable[Message], request: Request) -> int: ...


class Conversation:
    """A system prompt, if any, and the turns after it. One question at a time; for one thread or task.

    Each turn computes only what is new: the chat template renders all messages, and the cache keeps the
    tokens that begin the prompt as before. An answer is remembered with its thought, as the model wrote it.
    Templates may change the past (R1's drops earlier thoughts): what follows the change is computed again.
    `timings.cached_tokens` tells how many were reused. Of more conversations than the model has room for, the
    one idle for longest loses its cache, and nothing else.

    `overflow`: what happens where the context has no room for another answer. "error" raises PromptTooLong.
    "drop-oldest-turns" leaves the oldest questions and answers out of prompts, with a warning that
    counts them, until the rest takes half the context: what is left is read again, so this is done rarely.
    "slide" leaves out no more than it must, and so more often: each time, what is left is read again.
    `left_out` counts the messages at the beginning of `turns` that prompts leave out.
    """

    def __init__(
        self,
        model: Answerer,
        system: str | None,
        messages: Iterable[Message],
        options: Options,
        *,
        session: Session | None = None,
        overflow: Overflow = "error",
    ) -> None:
        check(overflow)
        self.system = system
        self.options = options
        self.overflow = overflow
        self.left_out = 0
        self.session = session
        self._unsaved: UsageError | None = None
        self.turns: list[Turn] = []
        self._model = model
        self._ended = threading.Event()
        self._ended.set()
        self._current: weakref.ref[Reading] | None = None
        model.request(**options)  # refuses what can't be
        self.restore(messages)

    @property
    def messages(self) -> list[Message]:
        """What the chat template is given."""
        return [*self._head, *self.turns[self.left_out :]]

    @property
    def answering(self) -> bool:
        """Whether an answer is being made, or saved."""
        return not self._ended.is_set()

    @property
    def history(self) -> list[Message]:
        """All that was said, what prompts leave out included."""
        return [*self._head, *self.turns]

    @property
    def _head(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def send(self, content: Content, *, max_calls: int = 5, **options: Unpack[Options]) -> Stream:
        """Ask, and get the answer chunk by chunk; both are remembered.

        An answer that was stopped is remembered as far as it came, one that ended as a loop up to where it
        began to repeat itself. A question that failed, or was stopped before the first token, is forgotten.
        `options` override the conversation's own.

        If the answer calls functions among its `tools`, they are run (by the thread that reads), and the
        stream goes on with the model's answer to what they return, until one calls nothing or would make more
        than `max_calls`. The last chunk of each such answer has the calls; `reply` is the last answer.
        Raises PromptTooLong, UsageError; also while an earlier answer is still being made, and once if the
        last turn could not be saved to the session.
        """
        return self._send([{"role": "user", "content": content}], max_calls, options)

    def asend(self, content: Content, *, max_calls: int = 5, **options: Unpack[Options]) -> AsyncStream:
        """The same for a task of asyncio: `async for chunk in conversation.asend(...)`.

        After an answer that was left, it waits until that has ended: a step of the engine at most. Functions
        are run by another thread.
        """
        return self._asend([{"role": "user", "content": content}], max_calls, options)

    def send_results(
        self, results: Mapping[str, str], *, max_calls: int = 5, **options: Unpack[Options]
    ) -> Stream:
        """Tell what the calls of the last answer returned, by their ids, and get the answer to that.

        For tools without a function, and for calls beyond `max_calls`. Raises UsageError unless there is a
        result for each call; PromptTooLong.
        """
        return self._send(self._results(results), max_calls, options)

    def asend_results(
        self, results: Mapping[str, str], *, max_calls: int = 5, **options: Unpack[Options]
    ) -> AsyncStream:
        """The same for a task of asyncio."""
        return self._asend(self._results(results), max_calls, options)

    def stop(self) -> None:
        """End the answer that is being made, if there is one. From any thread."""
        if reading := self._current and self._current():
            reading.stop()

    def clear(self) -> None:
        """Forget all turns, keep the system prompt."""
        self._wait()
        self.turns.clear()
        self.left_out = 0
        if self.session is not None:
            self.session.save(self.history, New(), self.options)

    def restore(self, messages: Iterable[Message]) -> None:
        """Go on from other messages; a system prompt at their head becomes the conversation's.

        Raises UsageError.
        """
        self._wait()
        turns = [dict(message) for message in messages]
        if turns:
            check_messages(turns)
        if turns and turns[0]["role"] == "system":
            self.system = turns.pop(0)["content"]
        self.turns, self.left_out = turns, 0

    def take_back(self) -> Content:
        """Remove the last question and all after it, and return it. Raises UsageError if there is none."""
        self._wait()
        for i in range(len(self.turns) - 1, -1, -1):
            if self.turns[i]["role"] == "user":
                question: Content = self.turns[i]["content"]
                del self.turns[i:]
                self.left_out = min(self.left_out, i)
                return question
        raise UsageError("there is no question yet")

    def save(self, path: str | Path) -> None:
        """Write the messages as JSON. Raises UsageError."""
        self._wait()
        save_text(Path(path), json.dumps({"messages": self.history}, indent=2, ensure_ascii=False) + "\n")

    def load(self, path: str | Path) -> None:
        """Go on from messages that were saved. Where they can't be read, it raises UsageError and changes
        nothing.
        """
        self._wait()
        try:
            messages = json.loads(Path(path).read_text("utf-8"))["messages"]
            if messages:
                check_messages(messages)
        except OSError as error:
            raise UsageError(f"can't load {path}: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is not a saved conversation: {error}") from error
        self.system = None
        self.restore(messages)

    def __repr__(self) -> str:
        system = f", system {self.system!r}" if self.system else ""
        return f"<edgert.Conversation: {len(self.turns)} messages{system}>"

    def _send(self, asked: list[Turn], max_calls: int, options: Options) -> Stream:
        request, ended = self._ask(asked, options)
        acting = self._acting(request, max_calls, ended)

        def answer_to(results: list[Turn]) -> Stream:
            return self._open(self._model.open_stream, *self._ask(results, _going_on(options)))

        return self._open(self._model.open_stream, request, ended).then(acting.results, answer_to)

    def _asend(self, asked: list[Turn], max_calls: int, options: Options) -> AsyncStream:
        request, ended = self._ask(asked, options)
        acting = self._acting(request, max_calls, ended)

        def answer_to(results: list[Turn]) -> AsyncStream:
            return self._open(self._model.open_astream, *self._ask(results, _going_on(options)))

        return self._open(self._model.open_astream, request, ended).then(acting.results, answer_to)

    def _acting(self, request: Request, max_calls: int, ended: Ended) -> Acting:
        try:
            return Acting(request.tools, max_calls)
        except UsageError:
            ended(None, (), _nothing)
            raise

    def _open(self, open_reading: Opening[AnyReading], request: Request, ended: Ended) -> AnyReading:
        try:
            self._make_room(request)
            reading = open_reading(self.messages, request, self, ended)
        except BaseException:
            ended(None, (), _nothing)
            raise
        self._current = weakref.ref(reading)
        return reading

    def _results(self, results: Mapping[str, str]) -> list[Turn]:
        self._wait()
        calls = self.turns[-1].get("tool_calls", ()) if self.turns else ()
        known = [call["id"] for call in calls]
        if set(known) != set(results) or not known:
            wanted = ", ".join(known) or "none: the last answer calls nothing"
            raise UsageError(f"results are wanted for these calls: {wanted}; not for {', '.join(results)}")
        names = {call["id"]: call["function"]["name"] for call in calls}
        return [result_of(call, names[call], results[call]) for call in known]

    def _ask(self, asked: list[Turn], options: Options) -> tuple[Request, Ended]:
        """The request, and what is to be called when its answer has ended."""
        self._wait()
        unsaved, self._unsaved = self._unsaved, None
        if unsaved is not None:
            raise unsaved
        merged: Options = {**self.options, **options}
        request = self._model.request(**merged)
        self.turns += asked
        self._ended = ended = threading.Event()
        return request, lambda *how: self._answered(asked, merged, ended, how)

    def _make_room(self, request: Request) -> None:
        """Leave the oldest turns out of the prompt, if an answer has no room and that is the policy."""

        def tokens(number: int) -> int:
            return self._model.prompt_length([*self._head, *self.turns[number:]], request)

        context = self._model.context
        room = (context, request.max_tokens)
        number = left_out(self.overflow, self.turns, self.left_out, room, tokens)
        if number > self.left_out:
            self.left_out = number
            full = f"the context of {context} tokens is full"  # the count grows: no two lines are the same
            warnings.warn(
                f"{full}: prompts leave out the oldest {number} messages", ConversationWarning, stacklevel=4
            )

    def _answered(self, asked: list[Turn], its: Options, ended: threading.Event, how: Ending) -> None:
        """Called by the thread that computes. A question that was taken away meanwhile gets no answer."""
        text, calls, finish = how
        there = any(turn is asked[-1] for turn in self.turns)
        if text is None:
            self.turns = [turn for turn in self.turns if not any(turn is one for one in asked)]
            self.left_out = min(self.left_out, len(self.turns))
        elif there:
            said: Turn = {"role": "assistant", "content": text}
            if calls:
                said["tool_calls"] = [call.to_json() for call in calls]
            self.turns.append(said)
            if self.session is not None:
                self._keep(self.session, its, ended, finish)
                return
        ended.set()
        finish()

    def _keep(
        self, session: Session, its: Options, ended: threading.Event, finish: Callable[[], None]
    ) -> None:
        """Save before the reader sees the end, by another thread: other answers don't wait for the disk.

        What goes wrong is raised at the next question.
        """
        new, history, options = session.copied(self._model.rows.of(self)), self.history, {**self.options}

        def save() -> None:
            try:
                session.save(history, new, options, its)
            except UsageError as error:
                self._unsaved = error
            finally:
                ended.set()
                finish()

        threading.Thread(target=save, name="edgert-save").start()

    def _wait(self) -> None:
        """Until the work of an answer that nobody reads any more has ended: a step at most."""
        reading = self._current() if self._current else None
        if not self._ended.is_set() and reading is not None and not reading.stopped:
            raise UsageError(
                "this conversation is still answering: read its stream to the end, or call stop()"
            )
        self._ended.wait()


def _nothing() -> None:
    """There is no reader to tell of an end."""


def _going_on(options: Options) -> Options:
    """Options of an answer to what calls returned: it need not call again."""
    return {**options, "tool_choice": "auto"}
