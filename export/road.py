"""Road: which way a checkpoint becomes a bundle. Direct, for families whose graph edgert builds itself, or by
Optimum's graph, for others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from edgert.bundle import Manifest
from edgert.devices import DeviceProfile

from . import ExportOptions, Progress, Via
from .checkpoint import source as sources
from .checkpoint.families import FAMILIES
from .checkpoint.json_file import read_json
from .checkpoint.language import WITH_VISION
from .job import open_job


class Road(Protocol):
    """An export whose checkpoint is open."""

    def run(self, aside: Path) -> Manifest:
        """Write the bundle into `aside`. Raises ValueError, CheckpointError, FidelityError, MissingExtra,
        UsageError.
        """
        ...

    def preview(self) -> Manifest:
        """The manifest that the bundle would have; no weights are read. Raises UsageError."""
        ...


# Options, devices and the bundle's name give an export of the checkpoint that is open.
Opener = Callable[[ExportOptions, tuple[DeviceProfile, ...], str, Progress], Road]


def open_road(source: Path, via: Via) -> Opener:
    """Open a checkpoint for the road that `via` says, for any number of exports. Raises as `export`."""
    if via == "optimum" or (via == "auto" and needs_optimum(source)):
        from .optimum_road.job import open_optimum_job
        from .optimum_road.student import open_student

        return partial(open_optimum_job, open_student(source))
    return partial(open_job, sources.open_checkpoint(source))


def needs_optimum(source: Path) -> bool:
    """Whether it is a folder of a family that the direct road doesn't know; damaged ones it tells best."""
    if not (source / "config.json").is_file():
        return False
    family = read_json(source / "config.json").get("model_type")
    return isinstance(family, str) and family not in {*FAMILIES, *WITH_VISION}
