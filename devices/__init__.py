"""Device profiles: what is known about the hardware, one TOML per device, each value with its reason.

The exporter asks a profile for the form of the graph, the runtime for threads, provider and context.
Nothing else in edgert knows anything about hardware.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from . import table
from .hardware import Hardware, Threads, here, memory_available, physical_threads, processors
from .profile import BLOCK_SIZES, CPU, MATRICES, DeviceProfile, MatMulForm, Memory, Provider, profile_of

__all__ = [
    "BLOCK_SIZES",
    "CPU",
    "DEFAULT",
    "MATRICES",
    "Detection",
    "DeviceProfile",
    "Hardware",
    "MatMulForm",
    "Memory",
    "Provider",
    "Threads",
    "choose",
    "detect",
    "here",
    "load",
    "memory_available",
    "names",
    "physical_threads",
    "processors",
]

DEFAULT = "laptop-cpu"
WITHOUT_DOTPROD = "raspberry-pi-4"


@dataclass(frozen=True)
class Detection:
    """The profile chosen for a machine and the reason, in words."""

    profile: DeviceProfile
    hardware: Hardware
    reason: str


def names() -> list[str]:
    """Names of the profiles that ship with edgert."""
    return table.names(resources.files(__name__))


def load(name: str) -> DeviceProfile:
    """Read a profile by name, or a user's own TOML file by path. Raises DeviceError."""
    return profile_of(*table.read(name, resources.files(__name__)))


def detect() -> Detection:
    """Choose the profile for this machine. Never a GPU: one may be slower, which `edgert tune` measures."""
    found = choose(here())
    return Detection(found.profile, found.hardware, f"{found.reason}; {physical_threads().reason}")


def choose(hardware: Hardware) -> Detection:
    """By the board's own name, else by what the processor can do."""
    for profile in map(load, names()):
        if any(board in hardware.board for board in profile.boards):
            return Detection(profile, hardware, f"the board calls itself {hardware.board}")
    usual = load(DEFAULT)
    if usual.suits(hardware):
        features = " and ".join(usual.processor[hardware.architecture])
        return Detection(usual, hardware, f"{hardware.processor} has {features}")
    if hardware.architecture == "arm64":
        reason = f"{hardware.processor} has no dotprod, nor has a Raspberry Pi 4"
        return Detection(load(WITHOUT_DOTPROD), hardware, reason)
    needed = ", ".join(usual.processor.get(hardware.architecture, ("a known architecture",)))
    reason = f"the default, although {hardware.processor} lacks {needed}: expect slow kernels"
    return Detection(usual, hardware, reason)
