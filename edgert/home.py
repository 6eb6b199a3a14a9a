"""Where checkpoints and bundles live: the user's cache folder, or EDGERT_HOME; and the settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path

DEFAULT_MODEL = "smollm2-135m-instruct"
BUNDLES, CHECKPOINTS = "bundles", "checkpoints"  # folders of the home


def home() -> Path:
    """The folder, by the conventions of each system (those of platformdirs); it may not exist yet."""
    override = os.environ.get("EDGERT_HOME")
    if override:
        return Path(override).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "edgert" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edgert"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgert"


def config_file() -> Path:
    """The user's settings, where each system has such files, or EDGERT_CONFIG; it may not exist yet."""
    override = os.environ.get("EDGERT_CONFIG")
    if override:
        return Path(override).expanduser()
    return _config_folder() / "edgert" / "config.toml"


def _config_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def checkpoint_folder(name: str) -> Path:
    return home() / CHECKPOINTS / name


def bundle_folder(name: str) -> Path:
    return home() / BUNDLES / name


def find_bundle(name_or_path: str) -> Path:
    """A bundle given by path, or by the name it was pulled under."""
    path = Path(name_or_path)
    pulled = bundle_folder(name_or_path) if path.name == name_or_path else path
    return pulled if pulled.is_dir() and not path.is_dir() else path


def bundle_name(name_or_path: str) -> str:
    """What a bundle is called in `edgert list`, or its folder's name; nothing has to be there."""
    return Path(os.path.abspath(name_or_path)).name
