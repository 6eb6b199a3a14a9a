"""AdapterTexts: tokenizer, chat template and special tokens that an adapter may bring beside its weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import tokenizers

from edgert.bundle import GenerationDefaults
from edgert.errors import CheckpointError, EdgertWarning

from . import TokenizerFiles
from .beside import CONFIG, chat_template, token_id, token_text, with_special_tokens
from .json_file import optional_json, read_text, well_formed
from .lora_config import REMEDY
from .source import Readable, check_tokenizer

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class AdapterTexts:
    """A base's texts with an adapter's own in place of them; `own` names those that differ."""

    folder: Path
    tokenizer: TokenizerFiles
    generation: GenerationDefaults
    own: tuple[str, ...]

    def say_used(self) -> None:
        """Of an adapter that is merged."""
        if self.own:
            what, verb = " and ".join(self.own), "is" if len(self.own) == 1 else "are"
            self._say(f"its own {what} {verb} used instead of the base's")

    def say_left(self) -> None:
        """Of one that stays beside its base."""
        if self.own:
            what, verb = " and ".join(self.own), "differs" if len(self.own) == 1 else "differ"
            self._say(
                f"its own {what} {verb} from the base's, which it is used with, too: "
                "--adapter merges it with its own"
            )

    def _say(self, text: str) -> None:
        warnings.warn(f"{self.folder}: {text}", EdgertWarning, stacklevel=4)


def read_texts(folder: Path, base: Readable, vocab_size: int) -> AdapterTexts:
    """What PEFT's trainers save beside an adapter; the base's where they saved nothing.

    Raises CheckpointError if it is malformed, or its vocabulary is not the base's.
    """
    config = optional_json(folder / CONFIG)
    before = base.tokenizer
    files = TokenizerFiles(
        _tokenizer(folder, before),
        {**before.config, **config},
        chat_template(folder, config) or before.chat_template,
    )
    with well_formed(folder / CONFIG):
        generation = with_special_tokens(base.generation, files) if config else base.generation
    if files.tokenizer == before.tokenizer:
        generation = replace(generation, add_bos=base.generation.add_bos)
    differs = {
        "chat template": files.chat_template != before.chat_template,
        "tokenizer": files.tokenizer != before.tokenizer,
        "special tokens": generation != base.generation,
    }
    own = tuple(name for name, different in differs.items() if different)
    texts = AdapterTexts(folder, files, generation, own)
    check_tokenizer(texts, vocab_size, folder)
    _check_end(folder, files)
    return texts


def _tokenizer(folder: Path, base: TokenizerFiles) -> str:
    """The adapter's own tokenizer.json; the base's if there is none, or if both do the same."""
    path = folder / TOKENIZER
    if not path.exists():
        return base.tokenizer
    text = read_text(path)
    own, known = _loaded(path, text), _loaded(path, base.tokenizer)
    if own.to_str() == known.to_str():
        return base.tokenizer
    _check_vocabulary(path, own, known)
    return text


def _loaded(path: Path, text: str) -> tokenizers.Tokenizer:
    """Without what a trainer left on, lengths to cut and to fill up to."""
    try:
        found = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # what tokenizers raises has no type of its own
        raise CheckpointError(f"{path}: can't be loaded: {error}") from error
    found.no_truncation()
    found.no_padding()
    return found


def _check_vocabulary(path: Path, own: tokenizers.Tokenizer, base: tokenizers.Tokenizer) -> None:
    """Every token is one of the base's, under its id; a GGUF file may have more, names for unused rows."""
    known = base.get_vocab(with_added_tokens=True)
    for token, number in sorted(own.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1]):
        if token not in known:
            raise CheckpointError(
                f"{path}: token '{token}' (id {number}) is not in the base's vocabulary: {REMEDY}; "
                "or remove the file, and the base's is used"
            )
        if known[token] != number:
            raise CheckpointError(
                f"{path}: token '{token}' has id {number}, the base's tokenizer gives it {known[token]}: "
                "is it an adapter for another model?"
            )


def _check_end(folder: Path, files: TokenizerFiles) -> None:
    """The token that ends its answers is one that the model can give."""
    end = token_text(files.config, "eos_token")
    if end and token_id(files.tokenizer, end) is None:
        vocabulary = _loaded(folder / TOKENIZER, files.tokenizer).get_vocab(with_added_tokens=True)
        if end not in vocabulary:
            raise CheckpointError(
                f"{folder / CONFIG}: eos_token '{end}' is not in the base's vocabulary: {REMEDY}"
            )
