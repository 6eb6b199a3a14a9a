"""Beside: what a Hugging Face folder holds besides weights: tokenizer, chat template, defaults, licence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgert.bundle import GenerationDefaults, Origin
from edgert.errors import CheckpointError
from edgert.export.pulled import Pulled, read_pulled

from . import TokenizerFiles
from .json_file import optional_json, parse_json, read_text, well_formed
from .sampling import thinks

CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class Beside:
    """What a folder says besides its weights; the fields are those of Checkpoint."""

    tokenizer: TokenizerFiles
    generation: GenerationDefaults
    names_temperature: bool
    origin: Origin


def read_beside(folder: Path, config: Mapping[str, Any]) -> Beside:
    """Tokenizer, defaults and origin of a folder whose config.json is `config`. Raises CheckpointError."""
    tokenizer = _tokenizer_files(folder)
    generation = optional_json(folder / "generation_config.json")
    return Beside(
        tokenizer=tokenizer,
        generation=_generation(config, generation, tokenizer),
        names_temperature=_names_temperature(generation),
        origin=_origin(folder, config),
    )


def _tokenizer_files(folder: Path) -> TokenizerFiles:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise CheckpointError(
            f"{path}: missing; write it with transformers' AutoTokenizer(..., use_fast=True).save_pretrained"
        )
    config = optional_json(folder / CONFIG)
    text = read_text(path)
    parse_json(path, text)
    return TokenizerFiles(text, config, chat_template(folder, config))


def chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Jinja source of a folder's chat template: of its own file, or in its tokenizer_config.json `config`.

    Raises CheckpointError.
    """
    template = folder / "chat_template.jinja"
    if template.exists():
        return read_text(template)
    source = config.get("chat_template")
    if isinstance(source, list):  # several named templates; "default" is the chat one
        with well_formed(folder / CONFIG):
            source = next((entry["template"] for entry in source if entry.get("name") == "default"), None)
    if source is not None and not isinstance(source, str):
        raise CheckpointError(f"{folder / CONFIG}: chat_template must be a text, not {source!r}")
    return source


def with_special_tokens(defaults: GenerationDefaults, files: TokenizerFiles) -> GenerationDefaults:
    """The same with the tokens that tokenizer_config.json names; its end is one end more."""
    bos = token_text(files.config, "bos_token")
    end = token_text(files.config, "eos_token")
    ends = (*defaults.eos_token_ids, token_id(files.tokenizer, end))
    return replace(
        defaults,
        eos_token_ids=tuple(dict.fromkeys(token for token in ends if token is not None)),
        # The tokenizer's own id: config.json of the R1 distills names the end of sentence here.
        bos_token_id=token_id(files.tokenizer, bos),
        bos_token=bos or "",
        eos_token=end or "",
        add_bos=bool(files.config.get("add_bos_token", False)) and bos is not None,
    )


def token_text(config: Mapping[str, Any], key: str) -> str | None:
    """A special token's text in tokenizer_config.json: a string, or an object with `content`.

    Raises ValueError.
    """
    value = config.get(key)
    text = value.get("content") if isinstance(value, dict) else value
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{key} must be a text, not {text!r}")
    return text


def token_id(tokenizer: str, text: str | None) -> int | None:
    """Id of a special token in tokenizer.json."""
    if text is None:
        return None
    added = json.loads(tokenizer).get("added_tokens", [])
    return next((int(entry["id"]) for entry in added if entry["content"] == text), None)


def _generation(
    config: Mapping[str, Any], generation: Mapping[str, Any], files: TokenizerFiles
) -> GenerationDefaults:
    """Sampling defaults and every id that ends an answer, wherever the checkpoint names one."""
    eos: list[int] = []
    for found in (generation.get("eos_token_id"), config.get("eos_token_id")):
        eos += found if isinstance(found, list) else [] if found is None else [found]
    sampled = _is_sampled(generation, files)
    defaults = GenerationDefaults(
        eos_token_ids=tuple(int(token) for token in eos),
        temperature=float(generation.get("temperature") or 1.0) if sampled else 0.0,
        top_k=max(0, int(generation.get("top_k") or 0)) if sampled else 0,  # -1 is off in vLLM
        top_p=float(generation.get("top_p") or 1.0) if sampled else 1.0,
        min_p=float(generation.get("min_p") or 0.0) if sampled else 0.0,
        repetition_penalty=float(generation.get("repetition_penalty") or 1.0),
    )
    return with_special_tokens(defaults, files)


def _is_sampled(generation: Mapping[str, Any], files: TokenizerFiles) -> bool:
    """transformers draws only if it is told to; a thinking model's temperature is meant in any case."""
    meant = generation.get("temperature") is not None and thinks(files)
    return bool(generation.get("do_sample", meant))


def _names_temperature(generation: Mapping[str, Any]) -> bool:
    """A temperature, or that answers are greedy."""
    return generation.get("temperature") is not None or generation.get("do_sample") is False


def _origin(folder: Path, config: Mapping[str, Any]) -> Origin:
    """Repository and commit of what was pulled from the hub; else what the folder calls itself."""
    pulled = read_pulled(folder) or Pulled()
    return Origin(pulled.source or _source_name(config, folder), _license(folder), revision=pulled.revision)


def _source_name(config: Mapping[str, Any], folder: Path) -> str:
    return str(config.get("_name_or_path") or folder.resolve().name)


def _license(folder: Path) -> str | None:
    """The `license:` line of the model card's front matter, if there is one."""
    card = folder / "README.md"
    if not card.exists():
        return None
    head = card.read_text("utf-8", errors="replace")[:4096]
    match = re.match(r"---\n.*?^license:\s*(\S+)", head, re.DOTALL | re.MULTILINE)
    return match[1] if match else None
