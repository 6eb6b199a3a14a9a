"""Where checkpoints and bundles live: the user's cache folder, or EDGERT_HOME; and the settings."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

DEFAULT_MODEL = "smollm2-135m-instruct"
BUNDLES, CHECKPOINTS = "bundles", "checkpoints"  # folders of the home
SLASH = "--"  # in a folder's name, for that of org/name: no repository of the hub has it


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


def state_folder() -> Path:
    """Where what a user typed is kept, or EDGERT_STATE; it may not exist yet."""
    override = os.environ.get("EDGERT_STATE")
    if override:
        return Path(override).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "edgert"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "edgert"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "edgert"


def _config_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def is_hub_name(name: str) -> bool:
    """Whether it is written as a repository of the Hugging Face hub: org/name, or org/name@revision."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@\w[\w.-]*)?", name) is not None


def checkpoint_folder(name: str) -> Path:
    return home() / CHECKPOINTS / name.replace("/", SLASH)


def bundle_folder(name: str) -> Path:
    return home() / BUNDLES / name.replace("/", SLASH)


def kept_name(folder_name: str) -> str:
    """The name that a folder of the home stands for."""
    return folder_name.replace(SLASH, "/", 1)


def find_bundle(name_or_path: str) -> Path:
    """A bundle given by path, or by the name it was pulled under."""
    path = Path(name_or_path)
    is_name = path.name == name_or_path or is_hub_name(name_or_path)
    pulled = bundle_folder(name_or_path) if is_name else path
    return pulled if pulled.is_dir() and not path.is_dir() else path


def bundle_name(name_or_path: str) -> str:
    """What a bundle is called in `edgert list`, or its folder's name; nothing has to be there."""
    path = find_bundle(name_or_path)
    if path.parent == home() / BUNDLES:
        return kept_name(path.name)
    if is_hub_name(name_or_path) and not path.is_dir():
        return name_or_path
    return Path(os.path.abspath(path)).name
