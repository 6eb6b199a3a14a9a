"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from edgert.bundle.graph_io import KV_KINDS

if TYPE_CHECKING:
    from edgert.answering.request import Options

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
        click.option("--force", is_flag=True, help="Load even what memory does not suffice for."),
    ):
        command = option(command)
    return command


def kv_option(command: Command) -> Command:
    """Which of a bundle's caches to use."""
    option = click.option(
        "--kv",
        type=click.Choice(list(KV_KINDS)),
        help="How keys and values are cached; the default is the bundle's.",
    )
    return option(command)


class Bytes(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """A size such as 900MB or 1.2GB, in bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?", str(value))
        if found is None:
            self.fail(f"{value!r} is no size: write it as 900MB or 1.2GB", param, ctx)
        return int(float(found[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[found[2]])


def quant_options(command: Command) -> Command:
    """How `export` stores weights, and how it makes sure of them."""
    for option in reversed(
        (
            click.option(
                "--quant",
                type=click.Choice(["int8", "int4", "mixed", "fp32"]),
                default="int8",
                show_default=True,
                help="int8 keeps the answers; int4 halves size and time a token; mixed spends --target-size "
                "or --max-kl where it matters most.",
            ),
            click.option(
                "--block-size",
                type=click.Choice(["16", "32", "64", "128", "256"]),
                callback=lambda _ctx, _param, value: value and int(value),
                help="Weights a scale: 16 is the most accurate, the default the device's best compromise.",
            ),
            click.option("--target-size", type=Bytes(), help="What the matrices may take, as in 1.2GB."),
            click.option(
                "--kv",
                type=click.Choice(list(KV_KINDS)),
                help="int8 caches keys and values in a quarter of the memory; the default is the device's.",
            ),
            click.option(
                "--max-kl", type=float, help="Fail above this mean KL divergence from fp32, in nats a token."
            ),
            click.option(
                "--calibration",
                type=click.Path(path_type=Path, exists=True, dir_okay=False),
                help="Text like what the student will read, to calibrate and measure on.",
            ),
            click.option(
                "--calibrate/--no-calibrate",
                default=True,
                help="Round weights by what they multiply on that text.",
            ),
            click.option(
                "--verify/--no-verify",
                default=True,
                help="Measure the bundle against fp32; without both, an export takes seconds.",
            ),
        )
    ):
        command = option(command)
    return command


def given(sampling: dict[str, Any]) -> Options:
    """Only the options that were given."""
    return cast("Options", {name: value for name, value in sampling.items() if value not in (None, ())})
