"""Options: what Ollama calls the settings of an answer, and what they are here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edgert.errors import UsageError

OURS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
# How a model is loaded, which the command line says here; and details of samplers that edgert hasn't.
WITHOUT_EFFECT = (
    "numa",
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mmap",
    "use_mlock",
    "embedding_only",
    "num_thread",
    "num_keep",
    "repeat_last_n",
    "penalize_newline",
    "mirostat_tau",
    "mirostat_eta",
)
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
PART = r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h|)"  # of a time, as Go writes it
OFF = {"mirostat": 0, "tfs_z": 1, "typical_p": 1}  # samplers that edgert hasn't; off, they do nothing


def read(options: Mapping[str, Any]) -> dict[str, Any]:
    """Ours, not checked yet. Raises UsageError for what is unknown, or has no equal here."""
    given = {name: value for name, value in options.items() if value is not None}
    read = {OURS[name]: value for name, value in given.items() if name in OURS}
    if read.get("seed") == -1:  # their default: another answer each time
        del read["seed"]
    if (most := given.get("num_predict", -1)) not in (-1, -2):  # which are: as many as there is room for
        read["max_tokens"] = most
    for name, value in given.items():
        if name in OFF and value != OFF[name]:
            raise UsageError(f"options.{name}: edgert has no such sampler; leave it out")
        if not (name in OURS or name in WITHOUT_EFFECT or name in OFF or name == "num_predict"):
            raise UsageError(f"options.{name}: no such option is known here")
    return read


def form(given: object) -> dict[str, Any]:
    """Ours for their `format`. Raises UsageError."""
    if given in (None, ""):
        return {}
    if given == "json":
        return {"json_schema": {"type": "object"}}
    if isinstance(given, Mapping):
        return {"json_schema": given}
    raise UsageError(f'format must be "json" or a JSON schema, not {given!r}')


def seconds(keep_alive: float | str | None) -> float | None:
    """Of how long a model stays loaded: a number, or "1h30m"; negative is for ever. Raises UsageError."""
    if keep_alive is None:
        return None
    text = str(keep_alive).strip()
    text, forever = text.removeprefix("-"), text.startswith("-")
    parts = re.findall(PART, text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f'keep_alive must be seconds, or a time like "5m" or "1h30m", not {keep_alive!r}')
    return float("inf") if forever else sum(float(number) * UNITS[unit] for number, unit in parts)
