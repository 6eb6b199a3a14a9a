"""Report: what a pass found in a graph, what it changed, and what it left alone and why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field

from edgert.bundle import Bundle

PASSES = "passes.json"  # in the bundle


@dataclass
class Report:
    """One pass over a graph: its name, what it changed, and what it left alone, each with the reason."""

    name: str
    matched: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def leave(self, what: str, why: str) -> None:
        """Note something that stays as Optimum wrote it."""
        self.left[what] = why

    def lines(self) -> Iterator[str]:
        """For people: the count of what matched, then reasons with one example each."""
        yield f"{self.name}: {len(self.matched)} changed, {len(self.left)} left alone"
        for why in dict.fromkeys(self.left.values()):
            named = [what for what, reason in self.left.items() if reason == why]
            more = f" and {len(named) - 1} more" if len(named) > 1 else ""
            yield f"  {named[0]}{more}: {why}"


def to_json(reports: Iterable[Report]) -> str:
    return json.dumps([asdict(report) for report in reports], indent=2) + "\n"


def read_reports(bundle: Bundle) -> list[Report]:
    """Those of a bundle, none if it came by the direct road."""
    return [Report(**table) for table in json.loads(bundle.text(PASSES) or "[]")]
