"""Settings that `/set` changes: their names, and what users type for their values."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from edgert.answering.request import SWITCHES, Options, Request
from edgert.errors import UsageError
from edgert.suggestion import did_you_mean

NAMES = tuple(Options.__annotations__)
WORDS = {"on": True, "true": True, "off": False, "false": False}  # of switches
SWITCHED = (*SWITCHES, "thinking")


def values(request: Request) -> Mapping[str, Any]:
    """What each setting is, of those that are often changed."""
    return {
        "max_tokens": request.max_tokens,
        "stop": list(request.stop),
        "stop_loops": request.stop_loops,
        "thinking": request.thinking,
        "thinking_budget": request.thinking_budget,
        "draft": request.draft,
        **vars(request.sampling),
    }


def check_name(name: str) -> None:
    """Raises UsageError for a setting that there isn't."""
    if name not in NAMES:
        meant = did_you_mean(name, NAMES) or "; /set lists them"
        raise UsageError(f"unknown setting '{name}'{meant}")


def value(name: str, typed: str) -> object:
    """What was typed: a Python literal, such as 0.6, ['END'] or {5: -1}, or else the text itself. Whether it
    can be is for the request to say.
    """
    if name in SWITCHED and typed.lower() in WORDS:
        return WORDS[typed.lower()]
    if typed.lower() == "none":
        return None
    try:
        return ast.literal_eval(typed)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return typed
