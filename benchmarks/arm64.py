"""Which graph form on which Arm core: SmolLM2 under qemu, one thread; only the ratios mean something.

python benchmarks/arm64.py     # two minutes; the student is pulled and exported first
"""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import click
import greedy
from userland import PI_4, PI_5, ZERO_2_W, Board, Userland, unavailable

from edgert import home
from edgert.export import ExportOptions, Quant, catalog, export, pull


@dataclass(frozen=True)
class Case:
    """A bundle with some options of an export, run on a board; `steps` after the prompt are timed."""

    options: str
    board: Board
    steps: int = 12

    @property
    def export(self) -> ExportOptions:
        """Without calibration and measurement: neither changes how long a token takes."""
        scheme, block_size = FORMS[self.options]
        return ExportOptions(scheme, block_size=block_size, calibrate=False, verify=False)


FORMS: dict[str, tuple[Quant, int | None]] = {
    "int8 --block-size 64": ("int8", 64),
    "int8": ("int8", None),
    "int4": ("int4", None),
}
BASE = Case("int8 --block-size 64", PI_5)
CASES = (
    BASE,
    Case("int8", PI_5),
    Case("int8", PI_4),
    Case("int8", ZERO_2_W),
    Case("int8 --block-size 64", PI_4, 3),
)
INT4 = (Case("int4", PI_5), Case("int4", PI_4, 3))


def seconds(arm: Userland, case: Case, folder: Path, rounds: int) -> float:
    """A token's seconds: the median over steps and rounds."""
    bundle = folder / case.options.replace(" ", "")
    if not bundle.exists():
        export(_checkpoint(), bundle, case.export)
    command: list[str | Path] = [Path(greedy.__file__), _one_thread(folder), str(case.steps + 1)]
    command.append(json.dumps(greedy.SOME_IDS))
    answers = json.loads(arm.python(case.board, *command, *[bundle] * rounds))
    return statistics.median(float(step["seconds"]) for answer in answers for step in answer[1:])


def _checkpoint() -> Path:
    name = home.DEFAULT_MODEL
    return pull.pull(catalog.find(name), home.checkpoint_folder(name))


def _one_thread(folder: Path) -> Path:
    """A profile that computes with one thread: emulated cores share the real ones."""
    path = folder / "one-thread.toml"
    shipped = resources.files("edgert.devices").joinpath("laptop-cpu.toml").read_text("utf-8")
    path.write_text(shipped.replace('threads = "physical"', "threads = 1"), "utf-8")
    return path


@click.command()
@click.option("--rounds", default=1, show_default=True, help="Answers a bundle.")
@click.option("--int4", is_flag=True, help="4 bits, too.")
def main(rounds: int, int4: bool) -> None:
    """Print seconds per token and their ratio to 8-bit blocks on a core with dot products."""
    reason = unavailable()
    if reason:
        raise click.ClickException(f"arm64 {reason}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        arm = Userland(folder)
        base = seconds(arm, BASE, folder, rounds)
        click.echo("| export | on | seconds per token | ratio |\n|---|---|---|---|")
        for case in CASES + (INT4 if int4 else ()):
            taken = base if case is BASE else seconds(arm, case, folder, rounds)
            board = f"{case.board.name} ({case.board.core})"
            click.echo(f"| --quant {case.options} | {board} | {taken:.3f} | {taken / base:.2f} |")


if __name__ == "__main__":
    main()
