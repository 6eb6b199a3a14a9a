"""Settings: what a user, or who looks after many machines, wants instead of a bundle's own defaults.

config.toml in the user's config folder has keys for all bundles, and tables `[bundles.NAME]` for single ones.
Only the command line reads it: what `edgert.load` does depends on its arguments alone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from edgert import devices, home
from edgert.bundle.record import Between, Invalid, read_record
from edgert.errors import DeviceError, UsageError
from edgert.saving import save_text
from edgert.suggestion import did_you_mean
from edgert.toml_text import Value, literal, with_key

BUNDLES = "bundles"  # the table of tables
LOADING = ("device", "context", "threads")  # how to load a bundle
OTHERS = (*LOADING, "kept_chats")  # all but how to answer
Tokens: TypeAlias = Annotated[int, Between(1, 1 << 24)]
Share: TypeAlias = Annotated[float, Between(0, 1)]


@dataclass(frozen=True)
class Settings:
    """What is set, None where nothing is: options of `edgert chat`, under the names of Python."""

    device: str | None = None
    context: Tokens | None = None
    threads: Annotated[int, Between(1, 1 << 16)] | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Between(0, 100)] | None = None
    top_k: Annotated[int, Between(0, 1 << 31)] | None = None
    top_p: Share | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Between(0.01, 100)] | None = None
    stop_loops: bool | None = None
    kept_chats: Annotated[int, Between(1, 1 << 16)] | None = None  # of those without a name

    @property
    def values(self) -> dict[str, Any]:
        """What is set, by key."""
        every = {key: getattr(self, key) for key in KEYS}
        return {key: value for key, value in every.items() if value is not None}

    @property
    def answering(self) -> dict[str, Any]:
        """What is set of how to answer."""
        return {key: value for key, value in self.values.items() if key not in OTHERS}

    def __str__(self) -> str:
        return ", ".join(f"{key} {literal(value)}" for key, value in self.values.items())


KEYS = tuple(key.name for key in fields(Settings))


@dataclass(frozen=True)
class Config:
    """config.toml as it was read; empty if there is none."""

    path: Path
    text: str = ""
    everywhere: Settings = Settings()
    bundles: Mapping[str, Settings] = field(default_factory=dict)

    def of(self, bundle: str) -> Settings:
        """What holds for the bundle of that name: its own table's values over those for all."""
        return replace(self.everywhere, **self.bundles.get(bundle, Settings()).values)

    def with_value(self, key: str, value: Value | None, bundle: str | None) -> Config:
        """With a key set, or unset for None, for one bundle or for all. Comments stay. Raises UsageError."""
        table = () if bundle is None else (BUNDLES, bundle)
        try:
            text = with_key(self.text, table, key, value)
        except ValueError as error:
            raise UsageError(f"{self.path}: {error}: change it there yourself") from error
        return parse(text, self.path)

    def save(self) -> None:
        """Write the file where it is, or where a link leads. Raises UsageError naming it."""
        place = self.path.resolve()
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"can't make {place.parent}: {error.strerror}") from error
        save_text(place, self.text)


def read() -> Config:
    """The user's config.toml. Raises UsageError naming the file, the key and what is allowed."""
    path = home.config_file()
    try:
        return parse(path.read_text("utf-8-sig"), path)  # old editors on Windows begin with a mark
    except FileNotFoundError:
        return Config(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: can't be read: {error}") from error


def parse(text: str, path: Path) -> Config:
    """Read and check the text of a config.toml. Raises UsageError."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    try:
        single = table.pop(BUNDLES, {})
        if not isinstance(single, dict):
            raise Invalid((BUNDLES,), "holds tables, as in [bundles.NAME]")
        found = {name: _settings(of, (BUNDLES, name)) for name, of in single.items()}
        return Config(path, text, _settings(table), found)
    except Invalid as error:
        raise UsageError(f"{path}: {error}") from error


def value_of(key: str, text: str) -> Value:
    """A value as somebody types it. Raises UsageError saying what is allowed."""
    try:
        typed = text if key == "device" else tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        typed = text
    try:
        value: Value = _settings({key: typed}).values[key]
    except Invalid as error:
        raise UsageError(str(error)) from error
    return value


def _settings(table: object, path: tuple[str, ...] = ()) -> Settings:
    """Raises Invalid."""
    if isinstance(table, dict) and (unknown := sorted(table.keys() - set(KEYS))):
        meant = did_you_mean(unknown[0], KEYS) or ":"
        raise Invalid((*path, unknown[0]), f"no such key{meant} there are {', '.join(KEYS)}")
    found = read_record(Settings, table, path)
    if found.device is not None:
        try:
            devices.load(found.device)
        except DeviceError as error:
            raise Invalid((*path, "device"), str(error)) from error
    return found
