"""TOML text: one key of it changed, its comments and all other lines kept. Python's tomllib only reads."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any, TypeAlias

Value: TypeAlias = str | int | float | bool


def literal(value: Value) -> str:
    """A value as TOML writes it."""
    return json.dumps(value, ensure_ascii=False)


def with_key(text: str, table: tuple[str, ...], key: str, value: Value | None) -> str:
    """The text with `key` of a table set, or taken out for None; no name is the top of the file.

    Raises ValueError where the text is no TOML, or spreads the key or its table in other ways than a line for
    each: inline tables, dotted keys.
    """
    lines = text.splitlines()
    start, end = _section(lines, table)
    place = next((number for number in range(start, end) if _alone(lines[number]).keys() == {key}), None)
    old = [] if place is None else [lines[place]]
    new = [] if value is None else [f"{key} = {literal(value)}{''.join(map(_comment, old))}"]
    at = end if place is None else place
    if place is None and at < len(lines) and lines[at].strip():
        new = [*new, ""]  # before a table that begins the file
    lines[at : at + len(old)] = new
    changed = "".join(f"{line}\n" for line in lines)
    if tomllib.loads(changed) != _expected(text, table, key, value):
        raise ValueError(f"{key} can't be changed by line")
    return changed


def _section(lines: list[str], table: tuple[str, ...]) -> tuple[int, int]:
    """Where the lines of a table begin and end; it is added to them if it is missing."""
    heads = [number for number, line in enumerate(lines) if line.lstrip().startswith("[")]
    start = 0
    if table:
        found = next((number for number in heads if _alone(lines[number]) == _nested(table)), None)
        if found is None:
            lines += [*([""] if lines else []), f"[{'.'.join(map(_bare_or_quoted, table))}]"]
            return len(lines), len(lines)
        start = found + 1
    end = min((number for number in heads if number >= start), default=len(lines))
    said = [number for number in range(start, end) if lines[number].strip()]
    keys = [number for number in said if not lines[number].lstrip().startswith("#")]
    return start, (keys or said or [start - 1])[-1] + 1  # comments before the next table are about that


def _expected(text: str, table: tuple[str, ...], key: str, value: Value | None) -> dict[str, Any]:
    """What the changed text has to say."""
    whole = place = tomllib.loads(text)
    for name in table:
        place = place.setdefault(name, {})
    place.pop(key, None)
    if value is not None:
        place[key] = value
    return whole


def _alone(line: str) -> dict[str, Any]:
    """What a line says by itself; nothing if it is part of something longer."""
    try:
        return tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return {}


def _comment(line: str) -> str:
    """The comment at the end of a line, with a space before it; empty if there is none."""
    marks = [at for at, sign in enumerate(line) if sign == "#"]
    return next((f"  {line[at:]}" for at in marks if _alone(line[:at]) == _alone(line)), "")


def _nested(table: tuple[str, ...]) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for name in reversed(table):
        inner = {name: inner}
    return inner


def _bare_or_quoted(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else literal(name)
