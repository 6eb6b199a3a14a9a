"""Clipboard: text that the terminal is asked to copy, which needs no tool and works over SSH."""

from __future__ import annotations

import base64
import sys

import click

from edgert.errors import UsageError


def copy(text: str) -> None:
    """By xterm's control sequence OSC 52; terminals may ignore it. Raises UsageError without a terminal."""
    if not sys.stdout.isatty():
        raise UsageError("/copy needs a terminal")
    click.echo(f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\x07", nl=False)
