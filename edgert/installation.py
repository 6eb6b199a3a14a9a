"""How edgert was installed here, and the commands that mend or extend that installation.

Everybody imports this, so what it needs is imported where it is used.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any


def how_to_add(extra: str) -> str:
    """What to do to get an extra: edgert is on no index, so pip needs the place it was installed from."""
    source = _direct_url()
    if where := _place(source, extra):
        editable = "-e " if source.get("dir_info", {}).get("editable") else ""
        return f"pip install {editable}{_quoted(where)}"
    return f"install edgert again with its [{extra}] extra, as README.md says"


def why_incomplete() -> str:
    """Why parts of edgert can't be imported: its folders are put together by an installation."""
    root = Path(__file__).parents[1]
    if not (root / "pyproject.toml").is_file():
        return f"edgert in {root} is incomplete: install it again, as README.md says"
    command = f"pip install -e {_quoted(str(root))}"
    return (
        f"Python found edgert's source in {root}, which works only once it is installed from there: "
        f"{command} (or start Python in another folder, if edgert is installed already)"
    )


def _direct_url() -> dict[str, Any]:
    """What pip notes of a package that came from no index (PEP 610); empty where it noted nothing.

    A build leaves metadata without it in the checkout, which Python finds first when it is started there.
    """
    from importlib import metadata

    notes = (found.read_text("direct_url.json") for found in metadata.distributions(name="edgert"))
    try:
        noted = json.loads(next(filter(None, notes), "{}"))
    except ValueError:
        return {}
    return noted if isinstance(noted, dict) else {}


def _place(source: dict[str, Any], extra: str) -> str:
    """The place and the extra as pip takes them; empty where the place is unknown or gone."""
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    url = str(source.get("url", ""))
    if vcs := source.get("vcs_info"):
        return f"edgert[{extra}] @ {vcs['vcs']}+{url}@{vcs['commit_id']}"
    if not url.startswith("file:"):
        return ""
    path = Path(url2pathname(urlsplit(url).path))
    whole = path / "pyproject.toml" if "dir_info" in source else path
    return f"{path}[{extra}]" if whole.is_file() else ""


def _quoted(argument: str) -> str:
    """For the shell that people have there."""
    return f'"{argument}"' if sys.platform == "win32" else shlex.quote(argument)
