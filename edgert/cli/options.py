"""Options that several commands share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import click

from edgert.bundle.graph_io import KV_KINDS
from edgert.cli import completing
from edgert.errors import UsageError

if TYPE_CHECKING:
    from edgert.chat.printing import Shown

Command = TypeVar("Command", bound=Callable[..., Any])


def setting(name: str, **more: Any) -> Callable[[Command], Command]:
    """An option that a variable can set, too: EDGERT_TOP_K for --top-k."""
    variable = name.removeprefix("--").partition("/")[0].replace("-", "_").upper()
    return click.option(name, envvar=f"EDGERT_{variable}", **more)


def sampling_options(command: Command) -> Command:
    """Options of `chat` and `generate`; what isn't given stays the model's own default."""
    for option in reversed(
        (
            setting(
                "--max-tokens",
                type=click.IntRange(1),
                help="Longest answer, in tokens. Default: what the context holds.",
            ),
            click.option(
                "--thinking-budget",
                metavar="TOKENS|SECONDS",
                help="Close a thought that is longer than this, such as 512 (tokens) or 20s, so that an "
                "answer follows.",
            ),
            setting(
                "--temperature",
                type=float,
                help="How freely tokens are chosen. 0 always takes the likeliest; 0.6 suits R1 students.",
            ),
            setting(
                "--top-p",
                type=float,
                help="Choose among the likeliest tokens that together have this probability; 1 is off.",
            ),
            setting(
                "--top-k",
                type=int,
                help="Choose among this many of the likeliest tokens; 0 is off.",
            ),
            setting(
                "--min-p",
                type=float,
                help="Leave out tokens less likely than this fraction of the likeliest; 0 is off.",
            ),
            setting(
                "--repetition-penalty",
                type=float,
                help="Above 1, tokens that have occurred become less likely; 1 is off.",
            ),
            setting(
                "--seed",
                type=int,
                help="A number that fixes chance: the same seed gives the same answer.",
            ),
            click.option(
                "--stop", multiple=True, help="End the answer before this text. May be given more than once."
            ),
            setting(
                "--stop-loops/--no-stop-loops",
                default=None,
                help="End an answer that only repeats itself. Default: chat does, generate doesn't.",
            ),
        )
    ):
        command = option(command)
    return command


def model_options(command: Command) -> Command:
    """How to load a bundle."""
    for option in reversed(
        (
            setting(
                "--device",
                shell_complete=completing.devices,
                help="Kind of machine, one that `edgert devices` lists or a .toml file. Default: detected.",
            ),
            setting(
                "--context",
                type=click.IntRange(1),
                help="Most tokens (pieces of words) of prompt and answer together. Default: what suits the "
                "device.",
            ),
            setting(
                "--threads",
                type=click.IntRange(1),
                help="How many processors compute. Default: what `edgert tune` found, or suits the device.",
            ),
            click.option(
                "--force", is_flag=True, help="Load the bundle even if it needs more memory than is free."
            ),
        )
    ):
        command = option(command)
    return command


def form_options(command: Command) -> Command:
    """The form that an answer must have."""
    for option in reversed(
        (
            click.option(
                "--json-schema",
                type=click.File("rb"),
                help="The answer is JSON by the schema in this file. Needs the [json] extra, as do the next "
                "two.",
            ),
            click.option("--regex", help="The answer is a text that this regular expression describes."),
            click.option(
                "--grammar",
                type=click.File("rb"),
                help="The answer is a text that the grammar in this file describes, written in Lark.",
            ),
        )
    ):
        command = option(command)
    return command


def form(json_schema: IO[bytes] | None, regex: str | None, grammar: IO[bytes] | None) -> dict[str, Any]:
    """The options of an answer that these stand for. Raises UsageError for files that can't be read."""
    given = {
        "json_schema": json_schema and _read("--json-schema", json_schema, json.loads),
        "regex": regex,
        "grammar": grammar and _read("--grammar", grammar, str),
    }
    return {name: value for name, value in given.items() if value is not None}


def _read(option: str, file: IO[bytes], parse: Callable[[str], Any]) -> Any:
    try:
        return parse(file.read().decode("utf-8-sig"))
    except ValueError as error:
        raise UsageError(f"{option}: {file.name} can't be read: {error}") from error


def thinking_option(command: Command) -> Command:
    """Whether a student thinks, and whether that is shown."""
    option = click.option(
        "--thinking",
        type=click.Choice(["show", "hide", "off"]),
        help="For students that think first: show prints the thought, hide prints the answer only, off "
        "answers without a thought. Default: show on a terminal, hide where the output is piped.",
    )
    return option(command)


def stats_option(command: Command) -> Command:
    """Whether to tell how fast an answer came."""
    option = click.option(
        "--stats",
        is_flag=True,
        help="After an answer, print tokens per second, the time to the first token, and how much of the "
        "prompt was reused.",
    )
    return option(command)


def draft_option(command: Command) -> Command:
    """Whether tokens are guessed."""
    option = setting(
        "--draft",
        metavar="auto|lookup|off|BUNDLE",
        help="lookup guesses tokens from what stood in the prompt or the answer before, and computes several "
        "at once where that is quicker. BUNDLE is a smaller student of the same family, which guesses, too. "
        "Mostly rounding then depends on timing: where two tokens are almost equally likely, the same seed "
        "may give the other one. Default: auto, which guesses where the answer stays the same (--kv int8 on "
        "x86).",
    )
    return option(command)


def switched(thinking: str | None) -> tuple[bool | None, Shown | None]:
    """The option that --thinking stands for, and what is shown."""
    return (False, "hide") if thinking == "off" else (None, cast("Shown | None", thinking))


def kv_option(command: Command) -> Command:
    """Which of a bundle's caches to use."""
    option = click.option(
        "--kv",
        type=click.Choice(list(KV_KINDS)),
        help="Format of the cache, in which the model keeps what it has read. Default: the bundle's own.",
    )
    return option(command)


def adapter_option(command: Command) -> Command:
    """Which of a bundle's adapters to use."""
    option = click.option(
        "--adapter",
        help="Answer with this adapter, a LoRA that lies in the bundle; `edgert info` lists them.",
    )
    return option(command)


class Adapters(click.ParamType):  # type: ignore[type-arg]  # as Bytes
    """A name and the folder of an adapter."""

    name = "name=folder"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        name, equals, folder = str(value).partition("=")
        if not equals:
            self.fail(f"{value!r} is no adapter: write it as law=./my-lora", param, ctx)
        return name, Path(folder)


def by_name(
    _ctx: click.Context, _param: click.Parameter, given: tuple[tuple[str, Path], ...]
) -> dict[str, Path]:
    """Pairs as a table. Raises UsageError for a name that comes twice."""
    found = dict(given)
    if len(found) < len(given):
        raise UsageError("--adapter-separate: two adapters have one name")
    return found


class Bytes(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """A size such as 900MB or 1.2GB, in bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?", str(value))
        if found is None:
            self.fail(f"{value!r} is no size: write it as 900MB or 1.2GB", param, ctx)
        return int(float(found[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[found[2]])


def _quick(ctx: click.Context, _param: click.Parameter, given: bool) -> None:
    """Other defaults of two options, which come later."""
    if given:
        ctx.default_map = {**(ctx.default_map or {}), "calibrate": False, "verify": False}


quick_option = click.option(
    "--quick",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_quick,
    help="The same as --no-calibrate --no-verify: takes seconds, but loses more, and nobody knows how much; "
    "`edgert info` says that it was not measured.",
)


def quant_options(command: Command) -> Command:
    """How `export` stores weights, and how it makes sure of them."""
    for option in reversed(
        (
            click.option(
                "--quant",
                type=click.Choice(["int8", "int4", "mixed", "fp32"]),
                default="int8",
                show_default=True,
                help="How weights are stored. int8 keeps the answers. int4 halves size and time per token, "
                "but changes answers more. mixed chooses between both, matrix by matrix, within "
                "--target-size or --max-kl. fp32 changes nothing.",
            ),
            click.option(
                "--block-size",
                type=click.Choice(["16", "32", "64", "128", "256"]),
                callback=lambda _ctx, _param, value: value and int(value),
                help="Weights that share one scale, the factor that stored numbers are multiplied by. 16 is "
                "the most accurate. Default: what the device is quickest with; for int8 that is "
                "one scale per row of a matrix.",
            ),
            click.option(
                "--target-size",
                type=Bytes(),
                help="For mixed: space that all weight matrices may take, such as 1.2GB.",
            ),
            click.option(
                "--kv",
                type=click.Choice(list(KV_KINDS)),
                help="Format of the cache, in which the model keeps what it has read. int8 takes a quarter "
                "of the memory. Default: what suits the device.",
            ),
            click.option(
                "--max-kl",
                type=float,
                help="Fail if the mean KL divergence from the original is higher, in nats per token.",
            ),
            click.option(
                "--calibration",
                type=click.Path(path_type=Path, exists=True, dir_okay=False),
                help="Text like what the student will read, to round the weights by and to measure on. "
                "Default: a text that edgert brings.",
            ),
            click.option(
                "--calibrate/--no-calibrate",
                default=True,
                help="Round the weights so that results on that text change least (default), or each to the "
                "nearest.",
            ),
            click.option(
                "--verify/--no-verify",
                default=True,
                help="Measure the bundle against the original (default), or not.",
            ),
            quick_option,
        )
    ):
        command = option(command)
    return command
