"""From the bundle that a command was given to a model; the default student is offered where it is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import click

from edgert import home
from edgert.cli import console
from edgert.cli.pull import pull_bundle
from edgert.errors import BundleError, UsageError
from edgert.suggestion import closest

if TYPE_CHECKING:
    from edgert.answering.request import Options
    from edgert.bundle import Bundle
    from edgert.model import Model
    from edgert.settings import Settings


def find_bundle(name: str | None) -> Path:
    """The folder of the bundle that was named, or of the default student. It may not be a bundle.

    Raises UsageError if the default student is missing, BundleError for a known student that was not pulled
    and for a name that is almost another.
    """
    if name is None:
        return default_bundle()
    folder = home.find_bundle(name)
    if not folder.exists():
        _help_to_find(name)
    return folder


def open_bundle(name: str | None) -> Bundle:
    """The bundle that was named, or the default student. Raises BundleError, UsageError."""
    from edgert import bundle

    return bundle.open_bundle(find_bundle(name))


def load_model(
    bundle: str | None,
    device: str | None,
    context: int | None,
    kv: str | None = None,
    *,
    threads: int | None = None,
    force: bool = False,
    adapter: str | None = None,
    draft: str | None = None,
) -> Model:
    """The model in a bundle, or the default student if none was named; what was not given is as the user's
    settings say. `draft`: as --draft has it, of which only a bundle matters here. Raises what `edgert.load`
    raises.
    """
    from edgert.model import load

    folder, own = find_bundle(bundle), own_settings(bundle)
    device, context, threads = device or own.device, context or own.context, threads or own.threads
    model = load(
        folder,
        device,
        context,
        kv,
        threads=threads,
        conversations=1,
        force=force,
        draft=drafting_bundle(draft),
    )
    if adapter is not None:
        model.use(adapter)
    return model


def drafting_bundle(draft: str | None) -> str | None:
    """The bundle that --draft names; None if it names a way of guessing. Raises UsageError."""
    from edgert.answering.request import Draft

    ways = get_args(Draft)
    if draft is None or draft in ways:
        return None
    if not home.find_bundle(draft).exists():
        raise UsageError(f"--draft '{draft}': that is neither {', '.join(ways)} nor a bundle")
    return draft


def own_settings(bundle: str | None) -> Settings:
    """What the user's config.toml sets for a bundle, or for the default student. Raises UsageError."""
    from edgert import settings

    return settings.read().of(home.bundle_name(bundle or home.DEFAULT_MODEL))


def answering(bundle: str | None, sampling: dict[str, Any]) -> Options:
    """The options that were given, over what the user's settings say for the bundle. Raises UsageError."""
    given = {name: value for name, value in sampling.items() if value not in (None, ())}
    if drafting_bundle(given.get("draft")):
        del given["draft"]
    return cast("Options", {**own_settings(bundle).answering, **given})


def default_bundle() -> Path:
    """The default student; if it is missing, say so and offer to get it."""
    folder = home.bundle_folder(home.DEFAULT_MODEL)
    if folder.exists():
        return folder
    click.echo(f"The default student, {home.DEFAULT_MODEL}, is not in {home.home()} yet.", err=True)
    if not console.on_terminal():
        raise UsageError(f"get it with: edgert pull {home.DEFAULT_MODEL}")
    if not click.confirm("Get it now (93 MB download, 149 MB bundle)?", default=True, err=True):
        raise UsageError("nothing to chat with: name a bundle, as in: edgert chat BUNDLE")
    return pull_bundle(home.DEFAULT_MODEL)


def _help_to_find(name: str) -> None:
    """Raises BundleError if it is the name of a known student, or almost that of a bundle that is there."""
    from edgert.export import catalog

    students = [entry.name for entry in catalog.CATALOG]
    if name in students:
        raise BundleError(f"{name} is not in {home.home()} yet; get it with: edgert pull {name}")
    there = bundle_names(name)
    if best := closest(name, [*there, *students]):
        known = "" if best in there else f" get it with: edgert pull {best}"
        raise BundleError(f"{name}: no such bundle; did you mean {best}?{known}")


def bundle_names(beside: str) -> list[str]:
    """What a bundle can be called by here: those in the home, and folders beside the path that was given."""
    from edgert import shelf
    from edgert.bundle import MANIFEST

    typed = beside.rstrip("/\\")
    start = typed[: len(typed) - len(Path(typed).name)]
    near = (path for path in Path(start).glob("*/") if (path / MANIFEST).is_file())
    return [*(kept.name for kept in shelf.bundles()), *(f"{start}{path.name}" for path in near)]
