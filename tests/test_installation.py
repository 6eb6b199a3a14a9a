"""Installations: every hint names what works for this one; what can't work says why."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

import edgert
from edgert import MissingExtra, installation
from edgert.installation import how_to_add

ROOT = Path(__file__).parent.parent


@dataclass
class Distribution:
    note: str | None

    def read_text(self, name):
        return self.note if name == "direct_url.json" else None


@pytest.fixture
def installed(monkeypatch):
    """Makes edgert one that was installed from there."""

    def install(source):
        text = source if source is None or isinstance(source, str) else json.dumps(source)
        found = [Distribution(None), Distribution(text)]  # the first is an .egg-info in the checkout
        monkeypatch.setattr(metadata, "distributions", lambda **_: found)

    return install


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "my checkout"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    return folder


def test_from_a_checkout(installed, checkout):
    installed({"url": checkout.as_uri(), "dir_info": {}})
    assert how_to_add("webgpu") == f"pip install '{checkout}[webgpu]'"
    assert str(MissingExtra("a plot", "plot")) == (
        f"a plot needs the [plot] extra: pip install '{checkout}[plot]'"
    )


def test_from_a_checkout_that_is_edited(installed, checkout):
    installed({"url": checkout.as_uri(), "dir_info": {"editable": True}})
    assert how_to_add("hub") == f"pip install -e '{checkout}[hub]'"


def test_on_windows(installed, checkout, monkeypatch):
    """Its shells take double quotes."""
    installed({"url": checkout.as_uri(), "dir_info": {}})
    monkeypatch.setattr(installation.sys, "platform", "win32")
    assert how_to_add("hub") == f'pip install "{checkout}[hub]"'


def test_from_a_repository(installed):
    commit = {"vcs": "git", "commit_id": "0123abc"}
    installed({"url": "https://example.org/edgert.git", "vcs_info": commit})
    assert how_to_add("hub") == "pip install 'edgert[hub] @ git+https://example.org/edgert.git@0123abc'"


def test_from_a_wheel(installed, tmp_path):
    wheel = tmp_path / "edgert-0.1.0-py3-none-any.whl"
    wheel.touch()
    installed({"url": wheel.as_uri(), "archive_info": {}})
    assert how_to_add("hub") == f"pip install '{wheel}[hub]'"


@pytest.mark.parametrize(
    "source", [None, "{", "[]", {"url": "file:///gone", "dir_info": {}}, {"url": "https://a/b.whl"}]
)
def test_where_it_is_not_known(installed, source):
    installed(source)
    assert how_to_add("hub") == "install edgert again with its [hub] extra, as README.md says"


def test_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(metadata, "distributions", lambda **_: [])
    assert how_to_add("hub") == "install edgert again with its [hub] extra, as README.md says"


def python_in(folder, code):
    """What a Python says that has nothing installed but what lies in the folder it is started in."""
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    return done.returncode, done.stderr.strip().splitlines()[-1]


@pytest.fixture
def source(tmp_path):
    """A checkout of the repository, as far as Python looks at it."""
    for name in ("edgert", "devices", "export"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path.resolve()


@pytest.mark.parametrize("code", ["import edgert", "import edgert.cli", "from edgert import load"])
def test_a_checkout_that_is_not_installed(source, code):
    code, said = python_in(source, code)
    assert code == 1
    assert said == (
        f"ImportError: Python found edgert's source in {source}, which works only once it is installed from "
        f"there: pip install -e {source} (or start Python in another folder, if edgert is installed already)"
    )


def test_an_installation_that_lacks_a_part(source):
    (source / "pyproject.toml").unlink()
    _, said = python_in(source, "import edgert")
    assert said == f"ImportError: edgert in {source} is incomplete: install it again, as README.md says"


def test_beside_a_folder_of_its_name(tmp_path):
    """`pip install -e` finds edgert last: such a folder is taken for an empty package."""
    (tmp_path / "edgert").mkdir()
    shutil.copy(ROOT / "edgert" / "__main__.py", tmp_path / "edgert")
    done = subprocess.run(
        [sys.executable, "-S", "-m", "edgert"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    said = f"edgert: Python takes the folder {tmp_path.resolve() / 'edgert'} for the package: "
    assert done.stderr == said + "start it in another folder, or as: edgert\n"


def test_names_that_edgert_has_not():
    with pytest.raises(AttributeError, match="module 'edgert' has no attribute 'laod'"):
        edgert.laod  # noqa: B018
