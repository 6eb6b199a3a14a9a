"""Job: a file of prompts to a file of answers, each line once, however often it is begun again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from edgert.batch.journal import Binding, Files, Journal, open_journal
from edgert.batch.line import Line, parse
from edgert.batch.result import Result
from edgert.batch.setup import Setup, identity
from edgert.bundle import open_bundle
from edgert.errors import UsageError
from edgert.home import find_bundle
from edgert.saving import save_lines
from edgert.text import prompts


class Answering(Protocol):
    """What answers lines: a model here, or workers of a cluster."""

    def answer(self, lines: Sequence[Line], take: Callable[[Result], None]) -> None:
        """Give each line's result to `take`, in any order. Raises what stops all of them."""


@dataclass
class Tally:
    """How far a run is. `before`: lines that earlier runs answered; the other counts are of this run."""

    lines: int
    before: int = 0
    done: int = 0
    failed: int = 0
    tokens: int = 0
    begun: float = field(default_factory=time.perf_counter)

    def add(self, result: Result) -> None:
        self.done += 1
        self.failed += result.error is not None
        self.tokens += result.answer_tokens

    @property
    def left(self) -> int:
        """How many lines this run has to answer in all."""
        return self.lines - self.before

    @property
    def seconds(self) -> float:
        """Since this run began to answer."""
        return time.perf_counter() - self.begun

    @property
    def tokens_per_s(self) -> float:
        """Tokens of finished answers per second."""
        return self.tokens / self.seconds


def nothing(tally: Tally) -> None:
    """For callers who needn't know how far a run is."""


@dataclass(frozen=True)
class Job:
    """A file of prompts, read and checked; where the answers go; and what they depend on."""

    lines: tuple[Line, ...]
    files: Files
    binding: Binding
    model: str  # the bundle's name, for OpenAI's results

    @classmethod
    def read(cls, source: Path, out: Path, setup: Setup, options: Mapping[str, Any] | None = None) -> Self:
        """Check all that can be before anything is computed. `options`: of lines that don't say otherwise.

        Raises UsageError naming file and line, and for an output that is there already; BundleError; OSError.
        """
        content = source.read_bytes()
        lines = parse(prompts.decoded(content, source), str(source), options or {})
        bundle = open_bundle(find_bundle(setup.folder))
        answers = {**(options or {}), "adapter": setup.adapter, "context": setup.context, "kv": setup.kv}
        given = {name: value for name, value in answers.items() if value is not None}
        binding = Binding(
            hashlib.sha256(content).hexdigest(), identity(bundle), json.dumps(given, sort_keys=True)
        )
        files = Files(out)
        job = cls(tuple(lines), files, binding, bundle.manifest.name)
        if not files.journal.exists():
            job._check_free()
        if not out.parent.is_dir():
            raise UsageError(f"can't save to {out}: there is no folder {out.parent}; make it first")
        return job

    def run(self, answering: Answering, tally: Tally, show: Callable[[Tally], None] = nothing) -> int:
        """Answer what has no answer yet, then write the output. Returns how many lines have an error.

        What was answered is kept if this is interrupted or raises; the next run goes on there. `tally` is
        counted along, and shown after every line. Raises UsageError, OSError, and what `answering` raises.
        """
        with open_journal(self.files, self.binding) as journal:
            left = [line for line in self.lines if line.number not in journal]
            tally.before, tally.begun = len(self.lines) - len(left), time.perf_counter()

            def take(result: Result) -> None:
                journal.add(result)
                tally.add(result)
                show(tally)

            if left:
                self._check_free()
                show(tally)
                answering.answer(left, take)
            failed = self._write(journal)
        self.files.journal.unlink()
        self.files.lock.unlink(missing_ok=True)
        return failed

    def _check_free(self) -> None:
        if self.files.out.exists():
            raise UsageError(f"{self.files.out} is there already: remove it, or give another file")

    def _write(self, journal: Journal) -> int:
        """The output, in the order of the prompts. Returns how many lines have an error."""
        failed = 0

        def rows() -> Iterator[str]:
            nonlocal failed
            for line, result in zip(
                self.lines, journal.results(line.number for line in self.lines), strict=True
            ):
                failed += result.error is not None
                yield json.dumps(result.row(line, self.model), ensure_ascii=False)

        save_lines(self.files.out, rows())
        return failed
