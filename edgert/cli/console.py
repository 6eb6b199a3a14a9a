"""The console: errors in one line, prompts from standard input, progress, UTF-8 wherever the output goes."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import click

from edgert.errors import EdgertError, EdgertWarning, UsageError


class Group(click.Group):
    """Turns edgert's own errors into one line and their exit code, in this one place."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgertError as error:
            click.echo(f"edgert: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            raise  # whoever read the output has left: click ends quietly
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            click.echo(f"edgert: {place}{error.strerror or error}", err=True)
            ctx.exit(EdgertError.exit_code)


def warn_in_a_line() -> None:
    """edgert's own warnings as one line on standard error, each once."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, EdgertWarning):
            click.echo(f"edgert: warning: {message}", err=True)
        else:
            usual(message, category, *place, **more)

    usual, warnings.showwarning = warnings.showwarning, show
    warnings.simplefilter("always", EdgertWarning)


def speak_utf8() -> None:
    """Windows' code pages lack most of what models say: pipes get UTF-8, terminals a substitute."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")


def on_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def read_stdin() -> str:
    """The piped prompt. Raises UsageError if there is none, or if it is not UTF-8."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8").strip() if sys.stdin else ""
    except UnicodeDecodeError as error:
        raise UsageError("the piped prompt is not UTF-8 text") from error
    if not text:
        raise UsageError("the piped prompt is empty")
    return text


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, hidden where that is no terminal. Yields what is told (done, total)."""
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=1, label=label, file=sys.stderr, hidden=hidden) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield progress


@contextmanager
def phase_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each phase of the work, one below the other. Yields what is told (phase, done, total)."""
    hidden = not sys.stderr.isatty()
    with ExitStack() as shown:
        bar: Any = None

        def progress(phase: str, done: int, total: int) -> None:
            nonlocal bar
            if bar is None or phase != bar.label or done < bar.pos:  # click's bars can't start again
                shown.close()
                made = click.progressbar(length=total, label=phase, file=sys.stderr, hidden=hidden)
                bar = shown.enter_context(made)
            bar.length = total
            bar.update(done - bar.pos)

        yield progress
