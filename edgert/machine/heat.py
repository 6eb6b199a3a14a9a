"""Heat: what Linux and the Raspberry Pi's firmware tell of temperatures and throttling."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ZONES = Path("/sys/class/thermal")
HOT_CELSIUS = 80  # °C: Raspberry Pis start to slow down here, laptops soon after

# Bits of `vcgencmd get_throttled`, from the Raspberry Pi documentation.
THROTTLED = {
    0: "under-voltage now",
    1: "frequency capped now",
    2: "throttled now",
    3: "soft temperature limit now",
    16: "under-voltage since boot",
    17: "frequency capped since boot",
    18: "throttled since boot",
    19: "soft temperature limit since boot",
}


@dataclass(frozen=True)
class Heat:
    """The hottest sensor in °C, None where the system shows none, and what the firmware complains of."""

    celsius: float | None
    complaints: tuple[str, ...]

    @property
    def slows(self) -> bool:
        """Whether it makes the machine slower at this moment."""
        return (self.celsius or 0) >= HOT_CELSIUS or any(text.endswith("now") for text in self.complaints)

    def __str__(self) -> str:
        shown = "no sensor is shown" if self.celsius is None else f"{self.celsius:.0f} °C"
        return ", ".join([shown, *self.complaints])


def measure() -> Heat:
    """Of this machine, now."""
    found = [_celsius(zone) for zone in sorted(ZONES.glob("thermal_zone*/temp"))]
    known = [celsius for celsius in found if celsius is not None]
    return Heat(max(known, default=None), _complaints())


def _celsius(zone: Path) -> float | None:
    """A zone may be there and not readable, or sleep."""
    try:
        return int(zone.read_text("ascii")) / 1000
    except (OSError, ValueError):
        return None


def _complaints() -> tuple[str, ...]:
    """What a Raspberry Pi's firmware says: `throttled=0x50000`."""
    command = shutil.which("vcgencmd")
    if command is None:
        return ()
    query = [command, "get_throttled"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=5)
        bits = int(done.stdout.strip().partition("=")[2], 16)
    except (ValueError, OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(text for bit, text in THROTTLED.items() if bits >> bit & 1)
