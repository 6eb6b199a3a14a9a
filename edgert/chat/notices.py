"""Notices: lines about an answer for people, on standard error, apart from the answer itself."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from textwrap import TextWrapper

import click

from edgert.answering.overflow import Overflow
from edgert.answering.reply import Reply, Timings
from edgert.text.sampler import Sampling

FREER = 0.6  # the temperature at which DeepSeek's model card finds that R1 students stop repeating themselves
PENALTY = 1.1  # a small one: larger ones change facts and spelling, too

NEARLY_FULL = 0.8  # of the context, from where on a notice says so

Named = Callable[[str, float], str]  # how a setting is changed where the notice is read


def as_flag(name: str, value: float) -> str:
    """On the command line."""
    return f"--{name.replace('_', '-')} {value}"


def as_command(name: str, value: float) -> str:
    """In the chat."""
    return f"/set {name} {value}"


def cut_notice(reply: Reply, context: int, sampling: Sampling, named: Named) -> str:
    """Why an answer stopped before its end; empty if it did not."""
    timings = reply.timings
    if reply.finish_reason == "loop":
        return f"(stopped: it only repeats itself; {_way_out(sampling, named)})"
    if reply.finish_reason != "length":
        return ""
    cut = "cut off while still thinking" if reply.thinking and not reply.text else "cut off"
    if timings.prompt_tokens + timings.answer_tokens >= context:
        return f"({cut}: the context of {context} tokens is full; --context makes it larger)"
    return f"({cut} after {timings.answer_tokens} tokens, as asked)"


def _way_out(sampling: Sampling, named: Named) -> str:
    """What may help against a loop and is not in use already."""
    if sampling.temperature < FREER:
        return f"try {named('temperature', FREER)}, or ask otherwise"
    if sampling.repetition_penalty < PENALTY:
        return f"try {named('repetition_penalty', PENALTY)}, or ask otherwise"
    return "ask otherwise"


def nearly_full(before: int, now: int, context: int, overflow: Overflow) -> str:
    """Once so much of a context is in use, and wasn't before the last answer; empty otherwise."""
    if not before < NEARLY_FULL * context <= now:
        return ""
    used = f"{100 * now // context} % of the context of {context} tokens is in use"
    then = "questions are refused soon" if overflow == "error" else "soon the oldest turns are left out"
    return f"({used}: {then}; /clear starts over)"


def stats(timings: Timings) -> str:
    """How fast an answer came."""
    first = f"the first after {timings.time_to_first_token_s:.2f} s"
    reused = f"{timings.cached_tokens} of {timings.prompt_tokens} prompt tokens reused"
    line = f"{timings.decode_tokens_per_s:.1f} tokens per second, {first}; {reused}"
    if not timings.drafted_tokens:
        return line
    return f"{line}; {timings.accepted_tokens} of {timings.drafted_tokens} drafted tokens came true"


def show(notice: str) -> None:
    """A notice, if there is one, dimmed where that can be."""
    if notice:
        notice = wrapped(notice, sys.stderr)
        click.echo(click.style(notice, dim=True) if has_colors(sys.stderr) else notice, err=True)


def wrapped(text: str, stream: object, indent: str = "") -> str:
    """Lines that a terminal would break within words, broken between them; `indent` goes before the rest."""
    if not getattr(stream, "isatty", bool)():
        return text
    width = shutil.get_terminal_size().columns
    fill = TextWrapper(width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False).fill
    return "\n".join(map(fill, text.split("\n")))


def has_colors(stream: object) -> bool:
    """Whether a stream shows colours and dimmed text, and is meant to (no-color.org)."""
    terminal = getattr(stream, "isatty", bool)()
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
