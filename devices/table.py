"""Tables of profiles: a TOML by name or path, laid over that of the profile it extends."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeAlias

from edgert.errors import DeviceError
from edgert.suggestion import did_you_mean

Table: TypeAlias = dict[str, Any]

# Tables that are one value: another profile's architectures, or another provider's options, don't join them.
WHOLE = ("processor", "provider")
DEFAULT = "default"  # in block_size: of every matrix that has no entry of its own


@dataclass(frozen=True)
class Source:
    """A TOML text, `name` as users and errors call it, and the folder in which it looks for others."""

    text: str
    name: str
    folder: Path


def names(shipped: Traversable) -> list[str]:
    """Names of the profiles in the folder that ships with edgert."""
    return sorted(
        entry.name.removesuffix(".toml") for entry in shipped.iterdir() if entry.name.endswith(".toml")
    )


def read(name: str, shipped: Traversable) -> tuple[Table, str]:
    """A profile's table, complete, and what to find it by again. Raises DeviceError."""
    source = find(name, shipped, Path())
    if source is None:
        raise DeviceError(
            f"unknown device '{name}'{did_you_mean(name, names(shipped)) or ':'} {_choices(shipped)}"
        )
    return _complete(source, shipped, ()), source.name


def find(name: str, shipped: Traversable, folder: Path) -> Source | None:
    """By name, or a user's own file by its path from `folder`; None if there is none. Raises DeviceError."""
    if name in names(shipped):
        return Source(shipped.joinpath(f"{name}.toml").read_text("utf-8"), name, folder)
    path = folder / name
    if path.suffix != ".toml" or not path.is_file():
        return None
    try:
        return Source(path.read_text("utf-8"), str(path.resolve()), path.resolve().parent)
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceError(f"{path}: {error}") from error


def _complete(source: Source, shipped: Traversable, children: Sequence[str]) -> Table:
    """The table of a source over those that it extends; `children` are the profiles that led here."""
    chain = [*children, source.name]
    if source.name in children:
        raise DeviceError(f"{children[0]}: its profiles extend each other: {' -> '.join(chain)}")
    try:
        table = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        raise DeviceError(f"{source.name}: not valid TOML: {error}") from error
    if "extends" not in table:
        return table
    extended = table.pop("extends")
    parent = find(extended, shipped, source.folder) if isinstance(extended, str) else None
    if parent is None:
        raise DeviceError(f"{source.name}: extends {extended!r}, which is unknown: {_choices(shipped)}")
    inherited = _complete(parent, shipped, chain)
    inherited.pop("name", None)  # each has its own
    return laid_over(inherited, table)


def laid_over(below: Table, above: Table) -> Table:
    """`below` with the values of `above`, table by table."""
    both = dict(below)
    for key, value in above.items():
        under = both.get(key)
        # A default is for all matrices: exceptions from another are exceptions no more.
        whole = key in WHOLE or not isinstance(value, dict) or DEFAULT in value
        both[key] = laid_over(under, value) if isinstance(under, dict) and not whole else value
    return both


def _choices(shipped: Traversable) -> str:
    return f"choose one of {', '.join(names(shipped))}, or give a .toml file"
