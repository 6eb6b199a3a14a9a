"""What is kept on the disk: listed, used, removed."""

import json
import os
import shutil
import sys
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

import edgert
from edgert import shelf
from edgert.cli import main


def run(*arguments, input=None):
    return CliRunner().invoke(main, [str(a) for a in arguments], input=input)


@pytest.fixture
def kept(bundles, home):
    """A bundle in the home, the checkpoint that it was made of, and half a download."""
    shutil.copytree(bundles(), home / "bundles" / "mine")
    for name in ("mine", ".other.partial"):
        (home / "checkpoints" / name).mkdir(parents=True)
        (home / "checkpoints" / name / "model.safetensors").write_bytes(b"x" * 3_000_000)
    (home / "bundles" / ".mine.at-work").mkdir()
    return home


def test_list_names_what_is_there(kept):
    bundle, checkpoint, part, total = run("list").stdout.splitlines()
    assert bundle.split() == ["mine", *bundle.split()[1:3], "int8", "not", "measured", "not", "used", "yet"]
    assert checkpoint.split() == ["mine", "3", "MB", "checkpoint"]
    assert part.split()[:3] == ["other", "3", "MB"] and "part of a checkpoint" in part
    assert total.startswith("total") and total.endswith(f"in {kept}")


def test_list_as_json(kept):
    table = json.loads(run("list", "--json").stdout)
    (bundle,), (checkpoint, part) = table["bundles"], table["checkpoints"]
    assert (bundle["name"], bundle["quantization"], bundle["last_used"]) == ("mine", "int8", None)
    assert bundle["size"] == sum(path.stat().st_size for path in (kept / "bundles" / "mine").rglob("*"))
    assert (checkpoint["whole"], part["whole"], part["name"]) == (True, False, "other")


def test_without_anything_list_says_how_to_get_it(home):
    assert run("list").stdout == f"Nothing is in {home} yet; get a student with: edgert pull\n"


def test_a_damaged_bundle_is_listed_and_can_be_removed(kept):
    (kept / "bundles" / "mine" / "edgert.json").write_text("{")
    assert "export or pull it again" in run("list").stdout
    assert "damaged" in json.loads(run("list", "--json").stdout)["bundles"][0]
    assert run("rm", "mine", "--yes").exit_code == 0 and not (kept / "bundles" / "mine").exists()


def test_loading_notes_the_use(kept):
    with edgert.load("mine"):
        pass
    (bundle,) = shelf.bundles()
    assert datetime.now(UTC) - bundle.last_used < timedelta(minutes=1)
    os.utime(bundle.folder / shelf.USED, (0, 0))
    with edgert.load(bundle.folder):
        pass
    assert bundle.last_used.year > 1970
    assert f"used {bundle.last_used.astimezone():%Y-%m-%d}" in run("list").stdout


def test_bundles_elsewhere_get_no_note(bundles, home):
    with edgert.load(bundles()):
        pass
    assert not (bundles() / shelf.USED).exists()


def test_a_use_that_can_not_be_noted_is_none_the_worse(kept):
    """As on a read-only disk: here a file is where the folder would be."""
    (kept / "bundles" / "mine" / "machine").write_text("")
    shelf.note_use(kept / "bundles" / "mine")
    assert shelf.bundles()[0].last_used is None


def test_rm_removes_bundle_and_checkpoint(kept):
    result = run("rm", "mine", "--yes")
    assert result.exit_code == 0 and result.stdout.count("removed") == 2
    assert [path.name for path in (kept / "bundles").iterdir()] == [".mine.at-work"]
    assert [path.name for path in (kept / "checkpoints").iterdir()] == [".other.partial"]
    assert run("rm", "other", "--yes").exit_code == 0 and not list((kept / "checkpoints").iterdir())


@pytest.mark.parametrize(("only", "stays"), [("checkpoint", "bundles"), ("bundle", "checkpoints")])
def test_rm_can_leave_one_of_both(kept, only, stays):
    assert run("rm", "mine", "--only", only, "--yes").exit_code == 0
    assert (kept / stays / "mine").exists()
    assert (kept / "bundles" / "mine").exists() + (kept / "checkpoints" / "mine").exists() == 1
    again = run("rm", "mine", "--only", only, "--yes")
    assert again.exit_code == 2 and f"no {only} 'mine' in {kept}" in again.stderr


@pytest.mark.parametrize("name", ["nope", "..", ".", "", "../bundles/mine", ".mine.at-work"])
def test_rm_takes_names_of_the_list_only(kept, name):
    result = run("rm", "mine", name, "--yes")
    assert result.exit_code == 2 and "`edgert list` shows" in result.stderr
    assert (kept / "bundles" / "mine").exists()


def test_rm_asks_first(kept, monkeypatch):
    result = run("rm", "mine")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1) and "--yes" in result.stderr
    monkeypatch.setattr("edgert.cli.console.on_terminal", lambda: True)
    result = run("rm", "mine", input="n\n")
    assert result.exit_code == 2 and result.stderr.endswith("edgert: nothing was removed\n")
    assert str(kept / "bundles" / "mine") in result.stderr and (kept / "bundles" / "mine").exists()
    assert run("rm", "mine", input="y\n").exit_code == 0 and not (kept / "bundles" / "mine").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_rm_leaves_what_a_link_leads_to(kept, bundles):
    (kept / "bundles" / "linked").symlink_to(bundles())
    assert run("rm", "linked", "--yes").exit_code == 0
    assert (bundles() / "edgert.json").exists() and not (kept / "bundles" / "linked").is_symlink()


def test_what_can_not_be_removed_stays_whole(kept, monkeypatch):
    monkeypatch.setattr(
        "pathlib.Path.rename", lambda *_: (_ for _ in ()).throw(PermissionError(13, "in use"))
    )
    result = run("rm", "mine", "--yes", "--only", "bundle")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1) and "in use" in result.stderr
    assert (kept / "bundles" / "mine" / "edgert.json").exists()


def test_an_almost_right_name_of_a_bundle_is_answered_with_the_right_one(
    kept, bundles, tmp_path, monkeypatch
):
    """Of those in the home, and of folders beside."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bundles(), tmp_path / "my-bundle")
    assert run("info", "miine").stderr == "edgert: miine: no such bundle; did you mean mine?\n"
    for typed, meant in [("my-bundel", "my-bundle"), ("./my-bundel/", "./my-bundle")]:
        assert run("info", typed).stderr == f"edgert: {typed}: no such bundle; did you mean {meant}?\n"
    assert run("rm", "miine", "--yes").stderr == (
        f"edgert: no student 'miine' in {kept}; did you mean mine?\n"
    )
