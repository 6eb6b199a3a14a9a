"""Language: the language model of a checkpoint that also reads images; what reads images is left out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgert.errors import EdgertWarning

from . import StoredTensor

# By `model_type`: what a `text_config` implies when it is silent (the defaults of its transformers class).
WITH_VISION: Mapping[str, Mapping[str, Any]] = {
    "gemma3": {
        "model_type": "gemma3_text",
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
    }
}
OF_THE_WHOLE = ("tie_word_embeddings", "quantization_config")  # said beside `text_config`, or in it
# What names begin with, and what of it is left where the language model is alone: as the hub has them, and
# as transformers has them in memory.
PREFIXES = {"language_model.": "", "model.language_model.": "model."}
VISION = ("vision_tower.", "multi_modal_projector.")


def language_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What config.json says of the language model: all of it, or its `text_config`. Raises ValueError."""
    implied = WITH_VISION.get(str(config.get("model_type")))
    if implied is None:
        return config
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise ValueError(f"text_config must be an object, not {text!r}")
    return {**implied, **{name: config[name] for name in OF_THE_WHOLE if name in config}, **text}


def without_vision(tensors: Mapping[str, StoredTensor], folder: Path) -> dict[str, StoredTensor]:
    """The language model's tensors under the names that it has alone. Warns of what is left out."""
    kept = {
        _alone(key): tensor
        for key, tensor in tensors.items()
        if not key.removeprefix("model.").startswith(VISION)
    }
    left_out = len(tensors) - len(kept)
    text = f"{folder}: its vision part ({left_out} tensors) is left out: bundles read text only"
    warnings.warn(text, EdgertWarning, stacklevel=4)
    return kept


def _alone(key: str) -> str:
    for prefix, left in PREFIXES.items():
        if key.startswith(prefix):
            return left + key.removeprefix(prefix)
    return key
