"""Sampling: what students that think get where their source doesn't say how answers are drawn."""

from __future__ import annotations

from dataclasses import replace

from edgert.bundle import GenerationDefaults
from edgert.text.thinking import ANSWERING, THINKING

from . import TokenizerFiles

# DeepSeek's model card of R1: without chance, such models repeat themselves endlessly.
TEMPERATURE, TOP_P = 0.6, 0.95


def thinks(files: TokenizerFiles) -> bool:
    """Whether the chat template or the vocabulary has the marks that thinking is put between."""
    template = files.chat_template or ""
    return any(mark in template or f'"{mark}"' in files.tokenizer for mark in (THINKING, ANSWERING))


def drawn(
    defaults: GenerationDefaults, files: TokenizerFiles, *, names_temperature: bool
) -> GenerationDefaults:
    """The same, or with what DeepSeek recommends if a student thinks and its source names no temperature.

    A top_p of the source's own stays.
    """
    if names_temperature or not thinks(files):
        return defaults
    top_p = TOP_P if defaults.top_p == 1.0 else defaults.top_p
    return replace(defaults, temperature=TEMPERATURE, top_p=top_p)
