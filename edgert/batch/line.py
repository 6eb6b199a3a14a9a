"""Line: one prompt of the file, with an id and options of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from edgert.answering.request import Options, request
from edgert.batch import openai
from edgert.errors import UsageError
from edgert.suggestion import did_you_mean
from edgert.text import prompts
from edgert.text.grammar import FORMS
from edgert.text.prompts import Question
from edgert.text.sampler import Sampling

Id: TypeAlias = str | int

# What else a line of our own may hold. Results have no place for log-probabilities and for calls of tools.
OWN_KEYS = ("id", "prompt", "messages")
UNTOLD = ("logprobs", "tools", "tool_choice")
OPTIONS = tuple(name for name in Options.__annotations__ if name not in UNTOLD)


@dataclass(frozen=True)
class Line:
    """One prompt. `number` is its line in the file, from 1; `id` is that, too, where the line has none.

    `options` are those of all lines with the line's own over them. `openai`: whether it came in the format of
    OpenAI's batches, so that its result goes out in it.
    """

    number: int
    id: Id
    prompt: Question
    options: Mapping[str, Any]
    openai: bool = False


def parse(text: str, source: str, usual: Mapping[str, Any]) -> list[Line]:
    """All lines of a file: OpenAI's batch lines, JSON lines of our own, or one prompt per line.

    It is JSON if the first line begins with '{'. `usual`: options of lines that don't say otherwise. Raises
    UsageError naming `source` and the line, also for options that can't be and for ids that come twice.
    """
    numbered = prompts.numbered(text, source)
    if not numbered[0][1].startswith("{"):
        return [Line(number, number, line, usual) for number, line in numbered]
    lines = [_read(number, line, f"{source}, line {number}", usual) for number, line in numbered]
    _check_ids(lines, source)
    return lines


def _read(number: int, text: str, where: str, usual: Mapping[str, Any]) -> Line:
    entry = prompts.entry(text, where)
    try:
        if openai.is_request(entry):
            asked = openai.read(entry)
            _check_keys(asked.options, OPTIONS)
            options = _over(usual, asked.options)
            return Line(
                number, asked.custom_id, prompts.messages(asked.messages, where), options, openai=True
            )
        _check_keys(entry, (*OWN_KEYS, *OPTIONS))
        own = {name: value for name, value in entry.items() if name in OPTIONS}
        return Line(number, _id(entry, number), prompts.question(entry, where), _over(usual, own))
    except UsageError as error:
        told = str(error).removeprefix(f"{where}: ")
        raise UsageError(f"{where}: {told}") from error


def _check_keys(found: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in found:
        if name not in known:
            raise UsageError(f"unknown key '{name}'{did_you_mean(name, known) or _listed(known)}")


def _listed(known: Sequence[str]) -> str:
    return f" (known: {', '.join(known)})"


def _id(entry: Mapping[str, Any], number: int) -> Id:
    found = entry.get("id", number)
    if not isinstance(found, str | int) or isinstance(found, bool):
        raise UsageError(f'"id" must be a text or a whole number, not {found!r}')
    return found


def _over(usual: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A line's options over the usual ones; null is not given. An answer has one form: the line's, if any."""
    given = {name: value for name, value in own.items() if value is not None}
    if isinstance(bias := given.get("logit_bias"), dict):
        given["logit_bias"] = _by_token(bias)
    dropped = FORMS if any(form in given for form in FORMS) else ()
    options = {name: value for name, value in usual.items() if name not in dropped} | given
    request(Sampling(), options)
    return options


def _by_token(bias: Mapping[str, Any]) -> dict[int, Any]:
    try:
        return {int(token): value for token, value in bias.items()}
    except ValueError as error:
        raise UsageError(f"logit_bias must map token ids to numbers, not {dict(bias)!r}") from error


def _check_ids(lines: Sequence[Line], source: str) -> None:
    """Results are found by their ids, so each stands for one line."""
    seen: dict[Id, int] = {}
    for line in lines:
        if (first := seen.setdefault(line.id, line.number)) != line.number:
            raise UsageError(f"{source}, line {line.number}: line {first} has the same id, {line.id!r}")
