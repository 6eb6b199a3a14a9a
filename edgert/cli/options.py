"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from edgert.model import Options

Command = TypeVar("Command", bound=Callable[..., Any])


def sampling_options(command: Command) -> Command:
    """Options of `chat` and `generate`; what isn't given stays the model's own default."""
    for option in reversed(
        (
            click.option(
                "--max-tokens", type=click.IntRange(1), help="Longest answer; the default fills the context."
            ),
            click.option(
                "--temperature",
                type=float,
                help="0 always takes the likeliest token; 0.6 suits R1 students.",
            ),
            click.option(
                "--top-p", type=float, help="Draw from the likeliest tokens that reach this probability."
            ),
            click.option("--top-k", type=int, help="Draw from the K likeliest tokens; 0 is off."),
            click.option(
                "--min-p", type=float, help="Drop tokens less likely than this fraction of the likeliest."
            ),
            click.option("--repetition-penalty", type=float, help="Above 1 discourages tokens already seen."),
            click.option("--seed", type=int, help="The same seed gives the same answer."),
            click.option("--stop", multiple=True, help="End the answer before this text; may be repeated."),
        )
    ):
        command = option(command)
    return command


def model_options(command: Command) -> Command:
    """How to load a bundle."""
    for option in (
        click.option(
            "--context", type=click.IntRange(1), help="Tokens of KV cache; the default is the device's."
        ),
        click.option("--device", help="Device profile, by name or as a .toml file; the default is detected."),
    ):
        command = option(command)
    return command


def given(sampling: dict[str, Any]) -> Options:
    """Only the options that were given."""
    return cast("Options", {name: value for name, value in sampling.items() if value not in (None, ())})
