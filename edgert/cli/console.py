"""The console: errors in one line, prompts from standard input, progress, UTF-8 wherever the output goes."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import click

from edgert.errors import EdgertError, EdgertWarning, PromptTooLong, UsageError


class Group(click.Group):
    """Turns click's errors and edgert's own into one line and their exit code, in this one place."""

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        with _failures():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _failures():
            return super().invoke(ctx)


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise  # shows the help screen
    except click.UsageError as error:
        _fail(_of_click(error), UsageError.exit_code)
    except PromptTooLong as error:
        _fail(f"{error.facts}: shorten it, or give a larger --context", error.exit_code)
    except EdgertError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        raise  # whoever read the output has left: click ends quietly
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}", EdgertError.exit_code)


def _fail(message: str, exit_code: int) -> NoReturn:
    click.echo(f"edgert: {message}", err=True)
    raise click.exceptions.Exit(exit_code)


def _of_click(error: click.UsageError) -> str:
    """Its message in the form of ours: one line, lower case, and what to do."""
    message = " ".join(error.format_message().split()).rstrip(".")
    command = error.ctx.command_path if error.ctx else "edgert"
    mark = "" if message.endswith("?") else ";"
    return f"{message[:1].lower()}{message[1:]}{mark} see: {command} --help"


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


def occupy_standard_files() -> None:
    """Where one was closed (`2>&-`), the next file to be opened would take its place, and get what native
    code writes to it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def on_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def piped_beside() -> str:
    """What is piped in beside a prompt, without white space around it; it may be nothing. Raises UsageError
    if it is not UTF-8.
    """
    return _read().strip()


def _read() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8") if sys.stdin else ""
    except UnicodeDecodeError as error:
        raise UsageError("the piped prompt is not UTF-8 text") from error


def piped_text() -> str:
    """What is piped in, to the letter. Raises UsageError if that is nothing, or not UTF-8."""
    text = _read()
    if not text:
        raise UsageError("the piped prompt is empty")
    return text


def piped_prompt() -> str:
    """What is piped in, without white space around it. Raises UsageError if that is nothing, or not UTF-8."""
    prompt = piped_text().strip()
    if not prompt:
        raise UsageError("the piped prompt is empty")
    return prompt


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, where that is a terminal. Yields what is told (done, total)."""
    with phase_bar() as progress:
        progress(label, 0, 1)
        yield lambda done, total: progress(label, done, total)


@contextmanager
def phase_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each phase of the work, one below the other. Yields what is told (phase, done, total)."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda phase, done, total: None
        return
    with ExitStack() as shown:
        bar: Any = None

        def progress(phase: str, done: int, total: int) -> None:
            nonlocal bar
            if bar is None or phase != bar.label or done < bar.pos:  # click's bars can't start again
                shown.close()
                made = click.progressbar(length=total, label=phase, file=sys.stderr)
                bar = shown.enter_context(made)
            bar.length = total
            bar.update(done - bar.pos)

        yield progress


@contextmanager
def line_bar(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar for lines of a file, with the time left. Yields what is told (done, total, what else to show)."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda done, total, more: None
        return
    with ExitStack() as shown:
        bar: Any = None

        def progress(done: int, total: int, more: str) -> None:
            nonlocal bar
            if bar is None:
                how: Any = {"label": label, "show_pos": True, "item_show_func": lambda item: item or ""}
                bar = shown.enter_context(click.progressbar(length=total, file=sys.stderr, **how))
            bar.update(done - bar.pos, more)

        yield progress
