"""Where a checkpoint may come from: a Hugging Face folder or a GGUF file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import tokenizers

from edgert.bundle import GenerationDefaults
from edgert.errors import BundleError, CheckpointError
from edgert.text.template import ChatTemplate

from . import Checkpoint, TokenizerFiles, check_tensors, gguf, huggingface
from .json_file import well_formed
from .sampling import drawn


def open_checkpoint(source: Path) -> Checkpoint:
    """Open a checkpoint; check its tensors and tokenizer against its config. Raises CheckpointError."""
    reader = _reader(source)
    try:
        str(source.resolve()).encode("utf-8")
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{str(source)!r} is not valid UTF-8: rename it") from error
    with well_formed(source):
        checkpoint = reader(source)
    check_tensors(checkpoint, source)
    check_tokenizer(checkpoint, checkpoint.spec.vocab_size, source)
    generation = drawn(
        checkpoint.generation, checkpoint.tokenizer, names_temperature=checkpoint.names_temperature
    )
    return replace(checkpoint, generation=generation)


def _reader(source: Path) -> Callable[[Path], Checkpoint]:
    if source.is_dir():
        return huggingface.open_folder
    if source.is_file() and source.suffix.lower() == ".gguf":
        return gguf.open_file
    if source.exists():
        raise CheckpointError(f"{source}: expected a Hugging Face folder or a .gguf file")
    raise CheckpointError(f"{source}: no such file or folder")


class Readable(Protocol):
    """What has a tokenizer and says which tokens begin and end a text: a Checkpoint, and others."""

    @property
    def tokenizer(self) -> TokenizerFiles: ...

    @property
    def generation(self) -> GenerationDefaults: ...


def check_tokenizer(checkpoint: Readable, vocab_size: int, source: Path) -> None:
    """Tokenizer and chat template load, and the model has an embedding for every token they can make.

    Raises CheckpointError.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_str(checkpoint.tokenizer.tokenizer)
    except Exception as error:
        raise CheckpointError(f"{source}: tokenizer.json can't be loaded: {error}") from error
    if checkpoint.tokenizer.chat_template is not None:
        try:
            ChatTemplate(checkpoint.tokenizer.chat_template)
        except BundleError as error:
            raise CheckpointError(f"{source}: {error}") from error
    for token in checkpoint.generation.eos_token_ids:
        if not 0 <= token < vocab_size:
            raise CheckpointError(f"{source}: eos_token_id {token} is outside the vocabulary")
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise CheckpointError(f"{source}: tokenizer.json has no tokens")
    last = max(vocabulary, key=vocabulary.__getitem__)
    if vocabulary[last] >= vocab_size:
        raise CheckpointError(
            f"{source}: token '{last}' has id {vocabulary[last]}, the model's vocabulary ends before "
            f"{vocab_size}: resize the embeddings or drop the token"
        )
