"""A bench as a plot: milliseconds per token by depth, a straight line through them, peers where measured."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from edgert.bench.figures import Bench, Curve
from edgert.errors import MissingExtra, UsageError
from edgert.saving import save_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")


def check(path: Path) -> None:
    """Whether a plot can be saved there, before anything is measured. Raises UsageError, MissingExtra."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"can't save a plot to {path}: its name must end in {' or '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise UsageError(f"can't save to {path}: there is no folder {path.parent}; make it first")
    _canvas()


def save(bench: Bench, path: Path) -> None:
    """Draw a bench that has a curve, write it aside and rename it. Raises UsageError, MissingExtra."""
    if bench.curve is None:
        raise UsageError("nothing to plot: the bench was made without a curve")
    figure = _canvas()
    _draw(figure, bench, bench.curve)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:].lower(), dpi=150)
    save_bytes(path, drawn.getvalue())


def _canvas() -> Figure:
    """Without pyplot, which would look for a screen."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("a plot", "plot") from error
    return Figure(figsize=(8, 5), layout="constrained")


def _draw(figure: Figure, bench: Bench, curve: Curve) -> None:
    axes = figure.add_subplot()
    depths = [point.depth for point in curve.points]
    axes.plot(depths, [point.milliseconds for point in curve.points], "o", color="C0", label=bench.bundle)
    line = [curve.start + curve.slope * depth / 1000 for depth in depths]
    label = f"{curve.start:.2f} ms + {curve.slope:.3f} ms per 1,000 tokens, R² {curve.r2:.3f}"
    axes.plot(depths, line, "-", color="C0", alpha=0.6, label=label)
    for number, peer in enumerate(bench.against, 1):
        at = [found.depth for found in peer.depths]
        times = [1000 / found.decode.median for found in peer.depths]
        name = f"{peer.name} {Path(peer.path).name}"
        axes.plot(at, times, "s--", color=f"C{number}", label=name)
    axes.set_xlabel("depth: tokens in the context before")
    axes.set_ylabel("milliseconds per token")
    axes.set_title(f"{bench.bundle} on {bench.device}, {bench.threads} threads")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
