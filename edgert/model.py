"""Model: a bundle opened on a device; prompts in, chunks of text out. What `edgert.load` returns."""

from __future__ import annotations

import queue
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsInt, TypeAlias, Unpack, cast

from edgert import devices, shelf
from edgert.answering.answer import Answer, Asked, Ended, Score, ignore
from edgert.answering.budget import CLOSING
from edgert.answering.conversation import Conversation
from edgert.answering.forms import Forms
from edgert.answering.guesser import open_guesser
from edgert.answering.overflow import Overflow
from edgert.answering.reply import Reply
from edgert.answering.request import Options, Request, request, usual_sampling
from edgert.answering.rows import Rows
from edgert.answering.session import Session
from edgert.answering.stream import AsyncStream, Stream, Woken, wait_for
from edgert.bundle import Bundle, open_bundle
from edgert.engine import loading, memory
from edgert.engine.adapters import NO_ADAPTER, read_adapter
from edgert.engine.decoder import Logits
from edgert.engine.engine import Engine
from edgert.engine.graph_session import OrtValue
from edgert.engine.sequence import Sequence
from edgert.engine.worker import Worker
from edgert.errors import DeviceError, EdgertWarning, PromptTooLong, UsageError
from edgert.home import find_bundle
from edgert.machine.tuning import tuned_profile
from edgert.text.prompt import PromptEncoder
from edgert.text.sampler import Sampler
from edgert.text.template import Message, open_template
from edgert.text.thinking import Thinking, opening
from edgert.text.tokenizer import WINDOW, TokenStream, open_tokenizer

# Token ids of a prompt, a stream for the text after them, and what tells a thought apart there.
Asking: TypeAlias = tuple[list[int], TokenStream, Thinking]
# A user's question, a conversation, or exact token ids that no template touches.
Prompt: TypeAlias = str | Iterable[Message] | Iterable[int]


class Model:
    """A loaded model. Any number of threads and tasks may ask it at once: all that answer advance together.

    `conversations` of them at a time; the others wait for their turn. Use it as a context manager, or `close`
    it, to give its memory back at once.
    """

    def __init__(
        self,
        bundle: Bundle,
        profile: devices.DeviceProfile,
        context: int | None = None,
        kv: str | None = None,
        *,
        conversations: int | None = None,
        force: bool = False,
        draft: str | Path | None = None,
    ) -> None:
        with ThreadPoolExecutor(1) as pool:  # a Qwen's tokenizer takes a third of the time that weights do
            reading, facts = pool.submit(open_tokenizer, bundle), bundle.manifest.model
            self._guesser = (
                open_guesser(draft, reading.result(), facts, profile, context, force=force) if draft else None
            )
            loaded = loading.load(
                bundle, profile, context, kv, conversations=conversations, force=force, in_turn=bool(draft)
            )
            self.tokenizer = reading.result()
        self.bundle, self.profile = bundle, loaded.profile
        self.context, self.conversations = loaded.decoder.capacity, len(loaded.decoder.slots)
        self.kv, self._vocab = bundle.manifest.graphs[loaded.graph].kv, facts.vocab_size
        self.threads, self._drafts = loaded.threads, loaded.alike or bool(draft)
        self.template = open_template(bundle, self.tokenizer)
        self._prompts = PromptEncoder(self.tokenizer, self.template) if self.template else None
        self.sampling = usual_sampling(own := bundle.manifest.generation)
        self._forms = Forms(self.tokenizer, self.template, self._vocab, own.eos_token_ids)
        self._worker = Worker(Engine(loaded.decoder))
        self.rows = Rows(self._worker, bundle, loaded.graph)
        self.adapter: str | None = None
        self._adapters: dict[str, Mapping[str, OrtValue]] = {}
        memory.give_back()

    def stream(self, prompt: Prompt, **options: Unpack[Options]) -> Stream:
        """Answer a prompt chunk by chunk. For any thread.

        A str is a user's question and goes through the chat template, as messages do; token ids are taken as
        they are. Raises PromptTooLong, UsageError.
        """
        return self.open_stream(prompt, self.request(**options))

    def astream(self, prompt: Prompt, **options: Unpack[Options]) -> AsyncStream:
        """The same for a task of asyncio: `async for chunk in model.astream(...)`. Leaving the loop, or
        cancelling the task, stops the work. To be called in a running event loop.
        """
        return self.open_astream(prompt, self.request(**options))

    def generate(self, prompt: Prompt, **options: Unpack[Options]) -> Reply:
        """The whole answer at once, from any thread; the same arguments and errors as `stream`."""
        with self.stream(prompt, **options) as stream:
            return stream.reply

    async def agenerate(self, prompt: Prompt, **options: Unpack[Options]) -> Reply:
        """The whole answer at once, for a task of asyncio; the same arguments and errors as `stream`."""
        async with self.astream(prompt, **options) as stream:
            return await stream.reply()

    def logits(self, token_ids: Iterable[SupportsInt]) -> Logits:
        """Logits after every token, float32 (tokens, vocab). For any thread; answers go on meanwhile.

        Raises PromptTooLong, UsageError.
        """
        tokens = self._checked_ids(token_ids)
        if len(tokens) > self.context:
            raise PromptTooLong(len(tokens), self.context)
        outcome: queue.SimpleQueue[tuple[BaseException | None, bool]] = queue.SimpleQueue()
        score = Score(len(tokens), self._vocab, lambda *ended: outcome.put(ended))
        sequence = Sequence(tokens, score, fresh=True)
        try:
            self._worker.submit(sequence)
            error, cancelled = wait_for(outcome)
        except BaseException:
            self._worker.cancel(sequence)
            raise
        if cancelled:
            raise UsageError("the model was closed")
        if error is not None:
            raise error
        return score.logits

    def tokens_of(
        self, prompt: Prompt, *, special_tokens: bool = False, thinking: bool | None = None
    ) -> list[int]:
        """Token ids of a prompt as `stream` feeds them. Raises UsageError.

        `special_tokens`: what a message spells may be a special token, see `Request`; `thinking`: as there.
        """
        return self._read(prompt, Request(special_tokens=special_tokens, thinking=thinking))[0]

    def prompt_length(self, prompt: Prompt, request: Request) -> int:
        """Tokens of a prompt as a checked request feeds it. Raises UsageError."""
        return len(self._read(prompt, request)[0])

    def request(self, **options: Unpack[Options]) -> Request:
        """The options over the model's own defaults. Raises UsageError for unknown or impossible ones."""
        found = request(self.sampling, dict(options))
        return replace(found, draft="lookup") if found.draft == "auto" and self._drafts else found

    def conversation(
        self,
        system: str | None = None,
        messages: Iterable[Message] = (),
        *,
        session: str | Path | None = None,
        overflow: Overflow = "error",
        **options: Unpack[Options],
    ) -> Conversation:
        """A conversation that remembers what was said. `messages`: those of an earlier one, to go on with.

        `session`: a folder where it is kept, after every turn, and from which another process goes on with
        it, without reading again what the same bundle has read. One that is there has its messages, and the
        system prompt and options not given here. `overflow`: see `Conversation`. Raises UsageError.
        """
        kept = Session(Path(session)) if session is not None else None
        if kept is None or not kept.messages:
            return Conversation(self, system, messages, options, session=kept, overflow=overflow)
        if messages:
            raise UsageError(f"{kept.folder} has messages already: leave out others")
        merged = cast(Options, {**kept.options, **options})
        conversation = Conversation(self, None, kept.messages, merged, session=kept, overflow=overflow)
        conversation.system = system or conversation.system
        self.rows.fill(conversation, kept)
        return conversation

    def use(self, adapter: str | None) -> None:
        """Answer with an adapter of the bundle from now on, or with the base alone for None.

        Takes milliseconds; what conversations have cached is computed again. Raises UsageError for unknown
        names, and while something is being answered.
        """
        if adapter is not None and adapter not in self._adapters:
            self._adapters[adapter] = read_adapter(self.bundle, adapter)
        values = NO_ADAPTER if adapter is None else self._adapters[adapter]

        def switch(engine: Engine) -> None:
            engine.decoder.use(values)
            self.adapter = self.rows.adapter = adapter

        if not self._worker.do_while_idle(switch):
            raise UsageError("something is being answered: choose an adapter before or after that")

    def close(self) -> None:
        """End all answers, as cancelled, and let go of graph and caches. Nothing can be asked after that."""
        self._worker.close()
        self._guesser = None
        memory.give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        name, scheme = self.bundle.manifest.name, self.bundle.manifest.quantization.scheme
        state = "" if self._worker.engine else ", closed"
        return (
            f"<edgert.Model {name}: {scheme}, {self.profile.name}, context {self.context}, "
            f"{self.conversations} conversations at once{state}>"
        )

    def open_stream(
        self, prompt: Prompt, request: Request, owner: object | None = None, ended: Ended = ignore
    ) -> Stream:
        """`stream` with a checked request. `owner` gets the KV cache of its last request again, unless others
        needed it; `ended` is called when the answer ends, see `Answer`.
        """
        woken: queue.SimpleQueue[None] = queue.SimpleQueue()
        sequence, answer = self._prepare(prompt, request, lambda: woken.put(None), owner, ended)
        stream = Stream(self._worker, sequence, answer, woken)  # first: dropped, it cancels the sequence
        self._worker.submit(sequence)
        return stream

    def open_astream(
        self, prompt: Prompt, request: Request, owner: object | None = None, ended: Ended = ignore
    ) -> AsyncStream:
        """`astream` with a checked request; see `open_stream`. From any thread, which a long prompt takes."""
        woken = Woken()
        sequence, answer = self._prepare(prompt, request, woken.wake, owner, ended)
        stream = AsyncStream(self._worker, sequence, answer, woken)
        self._worker.submit(sequence)
        return stream

    def _prepare(
        self, prompt: Prompt, request: Request, wake: Callable[[], None], owner: object | None, ended: Ended
    ) -> tuple[Sequence, Answer]:
        tokens, text, thinking = self._read(prompt, request)
        room = self.context - len(tokens)
        if room < 1:
            raise PromptTooLong(len(tokens), self.context)
        limit = min(room, request.max_tokens or room)
        ends = self.bundle.manifest.generation.eos_token_ids
        closing = self.tokenizer.encode_rendered(CLOSING) if request.thinking_budget else ()
        constraint, read_calls = self._forms.constraint(request, thinking), self._forms.read_calls(request)
        asked = Asked(tokens, text, thinking, limit, ends, closing, constraint, read_calls, self._guesser)
        answer = Answer(asked, request, Sampler(request.sampling, self._vocab), wake, ended)
        return Sequence(tokens, answer, owner, fresh=request.fresh), answer

    def _read(self, prompt: Prompt, request: Request) -> Asking:
        """A conversation's answer begins afresh; an answer to token ids goes on with their text."""
        if isinstance(prompt, str) and self.template is not None:
            prompt = [{"role": "user", "content": prompt}]
        if isinstance(prompt, str):
            return self._as_it_is(self.tokenizer.encode(prompt), request)
        if isinstance(prompt, bytes) or not isinstance(prompt, Iterable):
            raise UsageError(f"a prompt is a str, messages or token ids, not {type(prompt).__name__}")
        items = list(prompt)
        numbers = [item for item in items if isinstance(item, Integral)]
        if len(numbers) == len(items):
            return self._as_it_is(numbers, request)
        return self._rendered(items, request)

    def _as_it_is(self, ids: Iterable[SupportsInt], request: Request) -> Asking:
        if request.tools:
            raise UsageError(
                "tools are for prompts that a chat template makes, not for raw text or token ids"
            )
        if request.thinking is not None or request.thinking_budget:
            raise UsageError(
                "thinking is for prompts that a chat template makes, not for raw text or token ids"
            )
        tokens = self._checked_ids(ids)
        return tokens, self.tokenizer.stream(tokens), Thinking(thinks=False)

    def _rendered(self, messages: list[Any], request: Request) -> Asking:
        if not all(isinstance(message, Mapping) for message in messages):
            raise UsageError("a prompt in a list is all messages or all token ids")
        if self.template is None or self._prompts is None:
            raise UsageError("this bundle has no chat template: give a str to continue, or token ids")
        ids = self._prompts.encode(
            messages,
            special_tokens=request.special_tokens,
            thinking=request.thinking,
            tools=request.tools,
        )
        tokens = self._checked_ids(ids)
        opened = opening(self.tokenizer.decode(tokens[-WINDOW:])) if self.template.thinks else ""
        return tokens, self.tokenizer.stream(), Thinking(opened, thinks=self.template.thinks)

    def _checked_ids(self, ids: Iterable[SupportsInt]) -> list[int]:
        checked = [int(token) for token in ids]
        if not checked:
            raise UsageError("the prompt is empty")
        for token in checked:
            if not 0 <= token < self._vocab:
                raise UsageError(f"token {token} is outside the model's vocabulary of {self._vocab}")
        return checked


def load(
    path: str | Path,
    device: str | None = None,
    context: int | None = None,
    kv: str | None = None,
    *,
    threads: int | None = None,
    conversations: int | None = None,
    force: bool = False,
    draft: str | Path | None = None,
) -> Model:
    """Open a bundle, by folder or by the name it was pulled under.

    `device`: a profile name or a path to a profile's TOML; None takes what `edgert tune` found, or detects.
    `context`: tokens of KV cache; None is the profile's default. `kv`: "int8" or "fp32" keys and values;
    None is the bundle's own.
    `threads`: how many processors compute; None is what `edgert tune` found, or the profile's number.
    `conversations`: how many answer at once; None is up to 8, as memory allows. Each takes memory as it
    grows.
    `force`: load what memory does not suffice for. `draft`: the bundle of a smaller student with the same
    tokens, which guesses what this one then checks. Raises BundleError, DeviceError, DoesNotFit, UsageError.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")
    bundle = open_bundle(find_bundle(str(path)))

    def model(profile: devices.DeviceProfile) -> Model:
        chosen = replace(profile, threads=threads) if threads else profile
        loaded = Model(bundle, chosen, context, kv, conversations=conversations, force=force, draft=draft)
        shelf.note_use(bundle.folder)
        return loaded

    if device:
        return model(devices.load(device))
    try:
        return model(tuned_profile(bundle))
    except DeviceError as error:  # what was tuned for is gone since
        usual = devices.detect().profile
        warnings.warn(
            f"{error}: using {usual.name}; `edgert tune` measures again", EdgertWarning, stacklevel=2
        )
        return model(usual)
