"""Records: dataclasses read from JSON. What a value may be stands at its field, and nowhere else.

A field's type is int, float, str, bool, another record, `X | None`, tuple[X, ...] or Mapping[str, X]; any X
may be Annotated with the rules below. Fields with a default may be missing; fields that a later edgert adds
are left alone.
"""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Annotated, Any, Protocol, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Record = TypeVar("Record")
SIMPLE: Mapping[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
SHOWN = 60  # characters of a bad value


class Invalid(ValueError):
    """A value that its field can't hold. The text begins with the path to it: `model.num_layers: …`."""

    def __init__(self, path: Iterable[str], reason: str) -> None:
        super().__init__(": ".join(filter(None, [".".join(path), reason])))


class Rule(Protocol):
    """What a value must be besides its type."""

    def complaint(self, value: Any) -> str:
        """Why the value breaks the rule, to be read after it: "is below 1"; empty if it doesn't."""


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`, both included."""

    low: float
    high: float

    def complaint(self, value: float) -> str:
        if value < self.low:
            return f"is below {self.low}"
        return f"is above {self.high}" if value > self.high else ""


@dataclass(frozen=True)
class OneOf:
    """One of a few texts."""

    choices: Collection[str]

    def complaint(self, value: str) -> str:
        return "" if value in self.choices else f"is none of {', '.join(self.choices)}"


@dataclass(frozen=True)
class Matching:
    """A text of a form, which `what` describes."""

    pattern: str
    what: str

    def complaint(self, value: str) -> str:
        return "" if re.fullmatch(self.pattern, value) else f"is not {self.what}"


@dataclass(frozen=True)
class NotEmpty:
    """At least one entry."""

    def complaint(self, value: Collection[Any]) -> str:
        return "" if value else "is empty"


def read_record(kind: type[Record], table: object, path: tuple[str, ...] = ()) -> Record:
    """A record of a parsed JSON object; `path` is where that stands. Raises Invalid."""
    if not isinstance(table, dict):
        raise Invalid(path, f"{_shown(table)} is not a table")
    found = {}
    for name, (hint, required) in _fields(cast(Any, kind)).items():  # mypy doubts that types hash
        if name in table:
            found[name] = _value(hint, table[name], (*path, name))
        elif required:
            raise Invalid((*path, name), "missing")
    return kind(**found)


@cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Type of each field, and whether it must be there."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: (hints[field.name], field.default is MISSING and field.default_factory is MISSING)
        for field in fields(kind)
    }


def _value(hint: Any, value: object, path: tuple[str, ...]) -> Any:
    """A JSON value as its field wants it. Raises Invalid."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return _ruled(inner[0], inner[1:], value, path)
    if kind in (Union, types.UnionType):
        (other,) = (part for part in inner if part is not types.NoneType)
        return None if value is None else _value(other, value, path)
    if kind is tuple:
        if not isinstance(value, list):
            raise Invalid(path, f"{_shown(value)} is not a list")
        return tuple(_value(inner[0], entry, (*path, str(index))) for index, entry in enumerate(value))
    if kind is not None:  # a mapping
        if not isinstance(value, dict):
            raise Invalid(path, f"{_shown(value)} is not a table")
        places = {key: (*path, key if key.isprintable() else _shown(key)) for key in value}
        return {_value(inner[0], key, at): _value(inner[1], value[key], at) for key, at in places.items()}
    if hint in SIMPLE:
        return _simple(hint, value, path)
    return read_record(hint, value, path)


def _ruled(hint: Any, rules: Iterable[Rule], value: object, path: tuple[str, ...]) -> Any:
    found = _value(hint, value, path)
    for rule in rules:
        if complaint := rule.complaint(found):
            raise Invalid(path, f"{_shown(value)} {complaint}")
    return found


def _simple(kind: type, value: object, path: tuple[str, ...]) -> Any:
    """true is no number in JSON, a whole number is a number, and NaN is neither."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits = whole if kind is int else isinstance(value, kind) or (kind is float and whole)
    if not fits:
        raise Invalid(path, f"{_shown(value)} is not {SIMPLE[kind]}")
    if kind is not float:
        return value
    try:
        number = float(value)  # type: ignore[arg-type]  # an int or a float
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Invalid(path, f"{_shown(value)} is not a finite number")
    return number


def _shown(value: object) -> str:
    """As JSON writes it, in ASCII, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
