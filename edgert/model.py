"""Model: a bundle opened on a device; prompts in, chunks of text out. What `edgert.load` returns."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, SupportsInt, TypeAlias, TypedDict, Unpack

from edgert import devices
from edgert.answer import Chunk, Reply, Stopwatch, join
from edgert.bundle import CHAT_TEMPLATE, Bundle, open_bundle
from edgert.engine import memory
from edgert.engine.decoder import Logits
from edgert.engine.loading import start
from edgert.errors import DeviceError, EdgertWarning, Overtaken, PromptTooLong, UsageError
from edgert.home import find_bundle
from edgert.machine.tuning import tuned_profile
from edgert.text.prompt import PromptEncoder
from edgert.text.sampler import Sampler, Sampling
from edgert.text.stops import StopMatcher, check_stops
from edgert.text.template import ChatTemplate, Message
from edgert.text.tokenizer import TokenStream, open_tokenizer

# A user's question, a conversation, or exact token ids that no template touches.
Prompt: TypeAlias = str | Sequence[Message] | Sequence[int]


class Options(TypedDict, total=False):
    """Keyword arguments of `stream` and `generate`; what is left out is the model's own default."""

    max_tokens: int | None
    stop: Sequence[str]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    logprobs: int | None
    seed: int | None


@dataclass(frozen=True)
class Request:
    """How one answer is made. `max_tokens` None: as many as the context holds."""

    max_tokens: int | None
    stop: Sequence[str]
    sampling: Sampling

    def __post_init__(self) -> None:
        if self.max_tokens is not None and not (isinstance(self.max_tokens, int) and self.max_tokens >= 1):
            raise UsageError(f"max_tokens must be a whole number of at least 1, not {self.max_tokens!r}")
        check_stops(self.stop)


class Model:
    """A loaded model with one KV cache, so one answer at a time."""

    def __init__(
        self,
        bundle: Bundle,
        profile: devices.DeviceProfile,
        context: int | None = None,
        kv: str | None = None,
        *,
        force: bool = False,
    ) -> None:
        with ThreadPoolExecutor(1) as pool:  # a Qwen's tokenizer takes a third of the time that weights do
            reading = pool.submit(open_tokenizer, bundle)
            engine = start(bundle, profile, context, kv, force=force)
            self.tokenizer = reading.result()
        self.bundle = bundle
        self.profile = engine.profile
        self.context = engine.decoder.cache.capacity
        self.kv = bundle.manifest.graphs[engine.graph].kv
        self.threads = engine.threads
        self.template = _open_template(bundle)
        self._prompts = PromptEncoder(self.tokenizer, self.template) if self.template else None
        self.sampling = _default_sampling(bundle)
        self._decoder = engine.decoder
        memory.give_back()
        self._streams = 0
        self._lock = threading.Lock()

    def stream(self, prompt: Prompt, **options: Unpack[Options]) -> Iterator[Chunk]:
        """Answer a prompt chunk by chunk; leaving the iteration stops the work.

        A str is a user's question and goes through the chat template, as a list of messages does; token
        ids are taken as they are. Raises PromptTooLong, UsageError, and Overtaken when an older stream is
        continued.
        """
        request = self.request(**options)
        tokens = self.tokens_of(prompt)
        room = self.context - len(tokens)
        if room < 1:
            raise PromptTooLong(len(tokens), self.context)
        sampler = Sampler(request.sampling, tokens, self.bundle.manifest.model.vocab_size)
        limit = min(room, request.max_tokens or room)
        text = self.tokenizer.stream() if self._is_conversation(prompt) else self.tokenizer.stream(tokens)
        return self._answer(tokens, sampler, text, StopMatcher(request.stop), limit=limit)

    def generate(self, prompt: Prompt, **options: Unpack[Options]) -> Reply:
        """The whole answer at once; the same arguments and errors as `stream`."""
        return join(self.stream(prompt, **options))

    def logits(self, token_ids: Sequence[int]) -> Logits:
        """Logits after every token, float32 (len(token_ids), vocab). Raises PromptTooLong."""
        tokens = self._checked_ids(token_ids)
        with self._lock:
            self._streams += 1
            return self._decoder.logits(tokens)

    def tokens_of(self, prompt: Prompt, *, special_tokens: bool = False) -> list[int]:
        """Token ids of a prompt as `stream` feeds them. Raises UsageError.

        `special_tokens`: what a message spells may be a special token; `stream` takes it for ordinary text.
        """
        if isinstance(prompt, bytes) or not isinstance(prompt, Iterable):
            raise UsageError(f"a prompt is a str, messages or token ids, not {type(prompt).__name__}")
        if isinstance(prompt, str):
            if self.template is None:
                return self._checked_ids(self.tokenizer.encode(prompt))
            prompt = [{"role": "user", "content": prompt}]
        ids = [item for item in prompt if isinstance(item, Integral)]
        messages = [item for item in prompt if isinstance(item, Mapping)]
        if len(ids) == len(prompt):
            return self._checked_ids(ids)
        if len(messages) != len(prompt):
            raise UsageError("a prompt in a list is all messages or all token ids")
        if self._prompts is None:
            raise UsageError("this bundle has no chat template: give a str to continue, or token ids")
        return self._checked_ids(self._prompts.encode(messages, special_tokens=special_tokens))

    def _answer(
        self, prompt: list[int], sampler: Sampler, text: TokenStream, stops: StopMatcher, *, limit: int
    ) -> Iterator[Chunk]:
        """The decode loop: prefill the prompt, then sample, show and decode until something ends it."""
        ends, length = self.bundle.manifest.generation.eos_token_ids, 0
        with (
            self._lock
        ):  # taking over and prefilling are one step: an older stream then finds itself overtaken
            stream = self._streams = self._streams + 1
            if sampler.reproducible:
                self._decoder.forget()
            watch = Stopwatch(len(prompt), self._decoder.reusable(prompt))
            token = sampler.sample(self._decoder.prefill(prompt))
        while True:
            if token.id in ends:
                yield Chunk(stops.push(text.flush()) + stops.flush(), None, watch.tick(length), "stop")
                return
            length += 1
            timings = watch.tick(length)
            yield Chunk(stops.push(text.push(token.id)), token, timings)
            if stops.matched or length == limit:
                rest = "" if stops.matched else stops.push(text.flush()) + stops.flush()
                yield Chunk(rest, None, timings, "stop" if stops.matched else "length")
                return
            with self._lock:
                if stream != self._streams:
                    raise Overtaken
                token = sampler.sample(self._decoder.decode(token.id))

    def request(self, **options: Unpack[Options]) -> Request:
        """The options over the model's own defaults. Raises UsageError for unknown or impossible ones."""
        unknown = sorted(options.keys() - Options.__annotations__.keys())
        if unknown:
            raise UsageError(f"unknown option '{unknown[0]}' (known: {', '.join(Options.__annotations__)})")
        overrides: dict[str, Any] = dict(options)
        limit, stop = overrides.pop("max_tokens", None), overrides.pop("stop", ())
        try:
            return Request(limit, stop, replace(self.sampling, **overrides))
        except TypeError as error:
            raise UsageError(f"an option has the wrong type: {error}") from error

    def _checked_ids(self, ids: Iterable[SupportsInt]) -> list[int]:
        vocab = self.bundle.manifest.model.vocab_size
        checked = [int(token) for token in ids]
        if not checked:
            raise UsageError("the prompt is empty")
        for token in checked:
            if not 0 <= token < vocab:
                raise UsageError(f"token {token} is outside the model's vocabulary of {vocab}")
        return checked

    def _is_conversation(self, prompt: Prompt) -> bool:
        """Whether the chat template renders it; otherwise it is text to go on with."""
        return self.template is not None and (isinstance(prompt, str) or not isinstance(prompt[0], Integral))


def load(
    path: str | Path,
    device: str | None = None,
    context: int | None = None,
    kv: str | None = None,
    *,
    force: bool = False,
) -> Model:
    """Open a bundle, by folder or by the name it was pulled under.

    `device`: a profile name or a path to a profile's TOML; None takes what `edgert tune` found, or detects.
    `context`: tokens of KV cache; None is the profile's default. `kv`: "int8" or "fp32" keys and values;
    None is the bundle's own.
    `force`: load what memory does not suffice for. Raises BundleError, DeviceError, DoesNotFit, UsageError.
    """
    bundle = open_bundle(find_bundle(str(path)))
    if device:
        return Model(bundle, devices.load(device), context, kv, force=force)
    try:
        return Model(bundle, tuned_profile(bundle), context, kv, force=force)
    except DeviceError as error:  # what was tuned for is gone since
        usual = devices.detect().profile
        warnings.warn(
            f"{error}: using {usual.name}; `edgert tune` measures again", EdgertWarning, stacklevel=2
        )
        return Model(bundle, usual, context, kv, force=force)


def _open_template(bundle: Bundle) -> ChatTemplate | None:
    source = bundle.text(CHAT_TEMPLATE)
    if source is None:
        return None
    defaults = bundle.manifest.generation
    return ChatTemplate(source, bos_token=defaults.bos_token, eos_token=defaults.eos_token)


def _default_sampling(bundle: Bundle) -> Sampling:
    own = bundle.manifest.generation
    return Sampling(own.temperature, own.top_k, own.top_p, own.min_p, own.repetition_penalty)
