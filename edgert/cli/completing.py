"""Names that a shell completes: bundles, devices, students. Each is what click takes as `shell_complete`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    Completions = list[CompletionItem]


def bundles(_ctx: click.Context, _param: click.Parameter, typed: str) -> Completions:
    """Those in the home; where none begins so, folders."""
    from edgert import shelf

    return _beginning(typed, [kept.name for kept in shelf.bundles()], "dir")


def kept(_ctx: click.Context, _param: click.Parameter, typed: str) -> Completions:
    """Bundles and checkpoints in the home."""
    from edgert import shelf

    return _beginning(typed, [kept.name for kept in (*shelf.bundles(), *shelf.checkpoints())])


def sessions(_ctx: click.Context, _param: click.Parameter, typed: str) -> Completions:
    """Conversations that were kept."""
    from edgert.chat.sessions import kept

    return _beginning(typed, [session.name for session in kept()])


def devices(_ctx: click.Context, _param: click.Parameter, typed: str) -> Completions:
    """Profiles; where none begins so, files."""
    from edgert.devices import names

    return _beginning(typed, names(), "file")


def students(_ctx: click.Context, _param: click.Parameter, typed: str) -> Completions:
    """Names of the catalog."""
    from edgert.export.catalog import CATALOG

    return _beginning(typed, [entry.name for entry in CATALOG])


def keys(_ctx: click.Context, _param: click.Parameter, typed: str) -> Completions:
    """Keys of config.toml."""
    from edgert.settings import KEYS

    return _beginning(typed, KEYS)


def _beginning(typed: str, names: Iterable[str], places: str | None = None) -> Completions:
    """Those that begin with what was typed, after the leave to offer `places` where there are none."""
    from click.shell_completion import CompletionItem

    found = [CompletionItem(name) for name in dict.fromkeys(names) if name.startswith(typed)]
    return [CompletionItem(typed, type=places), *found] if places else found
