"""Guesser: a smaller student that says, token by token, how a text may go on.

Speculative decoding (Leviathan et al. 2022, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318) with the
likeliest token at each place. llama.cpp's `--model-draft` guesses so, too.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from edgert.bundle import Bundle, ModelFacts, open_bundle
from edgert.devices import DeviceProfile
from edgert.engine import loading
from edgert.engine.decoder import Decoder
from edgert.engine.slots import common_prefix
from edgert.errors import UsageError
from edgert.home import find_bundle
from edgert.text.tokenizer import Tokenizer, open_tokenizer

ALIKE = 0.95  # of its tokens must be the other student's, or its guesses are words of another language
RECENT = 9  # drafts, whose median time counts


class Guesser:
    """One for all answers of a model, in the thread that computes: its cache has one row, which follows the
    text that is asked for. Only tokens below `vocab` are guessed.
    """

    def __init__(self, decoder: Decoder, vocab: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._decoder = decoder
        self._vocab = vocab
        self._clock = clock
        self._seconds: deque[float] = deque(maxlen=RECENT)

    @property
    def seconds(self) -> float | None:
        """For each token of a draft; None until one was made that had no long text to read before."""
        return median(self._seconds) if self._seconds else None

    def guess(self, tokens: Sequence[int], count: int) -> list[int]:
        """What may follow a text: at most `count` tokens, fewer where the cache is full."""
        count = min(count, self._decoder.capacity - len(tokens))
        if count < 1:
            return []
        began, slot, guessed = self._clock(), self._decoder.slots[0], list[int]()
        slot.rewind(min(common_prefix(slot.tokens, tokens), len(tokens) - 1))
        unread = tokens[len(slot) :]
        logits = self._decoder.extend(slot, list(unread))[0]
        while True:
            guessed.append(int(logits[: self._vocab].argmax()))
            if len(guessed) == count:
                break
            logits = self._decoder.decode([slot], guessed[-1:])[0]
        if len(unread) <= count + 1:
            self._seconds.append((self._clock() - began) / count)
        return guessed


def open_drafting(name: str | Path, tokenizer: Tokenizer) -> Bundle:
    """A bundle that can guess for a student with this tokenizer. Raises UsageError, BundleError."""
    bundle = open_bundle(find_bundle(str(name)))
    theirs, ours = open_tokenizer(bundle).vocabulary, tokenizer.vocabulary
    alike = len(theirs.items() & ours.items()) / len(theirs)
    if alike < ALIKE:
        raise UsageError(
            f"{bundle.folder} can't draft: only {alike:.0%} of its tokens are those of the student that it "
            "guesses for; take a smaller one of the same family"
        )
    return bundle


def open_guesser(
    name: str | Path,
    tokenizer: Tokenizer,
    model: ModelFacts,
    profile: DeviceProfile,
    context: int | None,
    *,
    force: bool = False,
) -> Guesser:
    """A bundle that guesses for a student with this tokenizer, on the same device, with as long a context.

    To be opened before that one, which takes the memory that is left. Raises UsageError for a student with
    other tokens, and what `loading.load` raises.
    """
    bundle = open_drafting(name, tokenizer)
    wanted = min(profile.context, model.context) if context is None else context
    length = min(wanted, bundle.manifest.model.context)
    return Guesser(loading.load(bundle, profile, length, force=force, in_turn=True).decoder, model.vocab_size)
