"""Road: which way a checkpoint becomes a bundle. Direct, for families whose graph edgert builds itself, or by
Optimum's graph, for others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edgert.bundle import Manifest
from edgert.devices import DeviceProfile

from . import ExportOptions, Progress
from .checkpoint.families import FAMILIES
from .checkpoint.json_file import read_json
from .checkpoint.language import WITH_VISION
from .checkpoint.source import open_checkpoint
from .job import open_job


class Road(Protocol):
    """An export whose checkpoint is open."""

    def run(self, aside: Path) -> Manifest:
        """Write the bundle into `aside`. Raises ValueError, CheckpointError, FidelityError, UsageError."""
        ...


def open_road(
    source: Path, options: ExportOptions, profiles: tuple[DeviceProfile, ...], name: str, progress: Progress
) -> Road:
    """Open a checkpoint for the road that `options.via` says. Raises as `export`."""
    if options.via == "optimum" or (options.via == "auto" and needs_optimum(source)):
        from .optimum_road.job import open_optimum_job

        return open_optimum_job(source, options, profiles, name, progress)
    return open_job(open_checkpoint(source), options, profiles, name, progress)


def needs_optimum(source: Path) -> bool:
    """Whether it is a folder of a family that the direct road doesn't know; damaged ones it tells best."""
    if not (source / "config.json").is_file():
        return False
    family = read_json(source / "config.json").get("model_type")
    return isinstance(family, str) and family not in {*FAMILIES, *WITH_VISION}
