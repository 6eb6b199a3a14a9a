"""Prepared copies: the same answers; rebuilt when machine or weights change, never used when wrong."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import edgert
from edgert import devices
from edgert.bundle import open_bundle
from edgert.cli import main
from edgert.engine import machine_note
from edgert.engine.prepared import Prepared


@pytest.fixture
def bundle(bundles, tmp_path):
    """A copy of a tiny bundle, to be changed."""
    return open_bundle(shutil.copytree(bundles(), tmp_path / "b"))


@pytest.fixture
def copy(bundle):
    made = Prepared(bundle, bundle.graph())
    made.make()
    return made


def test_answers_are_the_same_bit_for_bit(bundle, bundles, copy):
    ours, original = edgert.load(bundle.folder), edgert.load(bundles())
    assert np.array_equal(ours.logits(range(40)), original.logits(range(40)))
    assert (
        ours.generate([1, 2, 3], max_tokens=20).token_ids
        == original.generate([1, 2, 3], max_tokens=20).token_ids
    )


def test_the_copy_is_what_runs(bundle, copy, monkeypatch):
    """Without the bundle's own weights there is nothing else to run."""
    bundle.path("model.onnx.data").write_bytes(bytes(bundle.manifest.files["model.onnx.data"].size))
    assert edgert.load(bundle.folder).generate([1, 2, 3], max_tokens=3).token_ids


@pytest.mark.parametrize("field", ["weights", "onnxruntime", "processor"])
def test_a_stale_copy_is_rebuilt_and_never_used(bundle, copy, field):
    note = json.loads(copy.note.path.read_text())
    note["of"][field] = "another"
    copy.note.path.write_text(json.dumps(note))
    copy.data.write_bytes(b"nonsense")
    assert not copy.usable and f"of another {field} (another, here" in copy.outdated()
    with pytest.warns(edgert.EdgertWarning, match=f"is made again: it is of another {field}"):
        edgert.load(bundle.folder)
    assert copy.usable


def test_a_stale_copy_that_can_not_be_rebuilt_is_left_alone(bundle, copy, monkeypatch):
    note = json.loads(copy.note.path.read_text())
    note["of"]["onnxruntime"] = "another"
    copy.note.path.write_text(json.dumps(note))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000))
    with (
        pytest.warns(edgert.EdgertWarning, match="is made again"),
        pytest.warns(edgert.EdgertWarning, match="0 are free: starting without the prepared copy"),
    ):
        assert edgert.load(bundle.folder).generate([1, 2], max_tokens=2).token_ids


def test_packing_is_refused_where_memory_is_short(bundle, monkeypatch):
    monkeypatch.setattr(devices, "memory_available", lambda: 1 << 20)
    with pytest.raises(edgert.DoesNotFit, match="packing .* needs"):
        Prepared(bundle, bundle.graph()).make()


def test_what_a_killed_run_left_is_swept(bundle):
    left = bundle.path("machine") / ".packing-x"
    left.mkdir(parents=True)
    Prepared(bundle, bundle.graph()).make()
    assert not left.exists()


def test_no_advice_removes_the_only_weights(bundle, copy):
    copy.replace_original()
    copy.path.write_bytes(b"x" * copy.path.stat().st_size)
    with pytest.raises(
        edgert.BundleError, match="if this stays so, export or pull the bundle again"
    ) as error:
        edgert.load(bundle.folder)
    assert "edgert prepare" not in str(error.value)


def test_a_copy_cut_short_is_noticed(bundle, copy):
    copy.data.write_bytes(copy.data.read_bytes()[:-1])
    assert copy.outdated() == "its files are missing or cut short"


def test_a_copy_that_computes_something_else_is_not_kept(bundle, monkeypatch):
    def damaged(bundle, graph, target):
        real(bundle, graph, target)
        data = target.with_name(f"{target.name}.data")
        content = bytearray(data.read_bytes())
        content[: len(content) // 4] = bytes(len(content) // 4)  # norms, tables
        data.write_bytes(content)

    from edgert.engine import prepared

    real = prepared.pack
    monkeypatch.setattr(prepared, "pack", damaged)
    copy = Prepared(bundle, bundle.graph())
    with pytest.raises(edgert.BundleError, match="computes something else; it was not kept"):
        copy.make()
    assert not copy.exists and [path.name for path in copy.path.parent.iterdir()] == [".packing.lock"]


def test_too_little_disk_is_said_with_numbers(bundle, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000))
    with pytest.raises(edgert.BundleError, match="preparing needs 1 MB on disk, 0 are free"):
        Prepared(bundle, bundle.graph()).make()


def test_replacing_keeps_the_bundle_working(bundle, copy):
    before = edgert.load(bundle.folder).generate([1, 2, 3], max_tokens=9).token_ids
    copy.replace_original()
    assert not bundle.path("model.onnx.data").exists() and not bundle.path("genai.onnx").exists()
    assert edgert.load(bundle.folder).generate([1, 2, 3], max_tokens=9).token_ids == before
    open_bundle(bundle.folder).check_hashes()


def test_a_stale_copy_without_the_original_is_an_error(bundle, copy, monkeypatch):
    copy.replace_original()
    monkeypatch.setattr(machine_note.ort, "__version__", "9.9.9")
    with pytest.raises(edgert.BundleError, match=r"another onnxruntime .*--replace: export or pull it again"):
        edgert.load(bundle.folder)
    result = CliRunner().invoke(main, ["doctor", str(bundle.folder)])
    assert result.exit_code == 1 and "BAD   prepared copy" in result.stdout


def test_a_damaged_bundle_is_not_prepared(bundle):
    path = bundle.path("model.onnx.data")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(edgert.BundleError, match="another SHA-256"):
        Prepared(bundle, bundle.graph()).make()


def test_the_original_is_not_removed_without_a_copy(bundle):
    with pytest.raises(edgert.BundleError, match="prepare it before"):
        Prepared(bundle, bundle.graph()).replace_original()


def test_the_original_is_not_removed_for_a_damaged_copy(bundle, copy):
    copy.data.write_bytes(copy.data.read_bytes()[:-1] + b"x")
    with pytest.raises(
        edgert.BundleError, match=r"damaged .*; remove .*machine and run `edgert prepare` again"
    ):
        copy.replace_original()
    assert bundle.path("model.onnx.data").exists() and open_bundle(bundle.folder).replaced == ()


def test_the_command_says_what_it_takes(bundle):
    first = CliRunner().invoke(main, ["prepare", str(bundle.folder)])
    assert first.exit_code == 0, first.output
    assert "MB on disk …" in first.stderr and "computes the same bit for bit" in first.stdout
    again = CliRunner().invoke(main, ["prepare", str(bundle.folder), "--replace"])
    assert "prepared already" in again.stdout and "that the copy holds, too" in again.stdout
    assert (
        CliRunner()
        .invoke(main, ["generate", str(bundle.folder), "-p", "the fox", "--max-tokens", "2"])
        .exit_code
        == 0
    )


SLOW = """
import sys, time
from pathlib import Path
from edgert.bundle import open_bundle
from edgert.engine import prepared

def slow(bundle, graph, target):
    real(bundle, graph, target)
    print("packed", flush=True)
    time.sleep(2)

real, prepared.pack = prepared.pack, slow
bundle = open_bundle(Path(sys.argv[1]))
prepared.Prepared(bundle, bundle.graph()).make()
"""


@pytest.fixture
def another(bundle):
    """Another process that is in the midst of preparing the bundle."""
    command = [sys.executable, "-c", SLOW, str(bundle.folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "packed\n"
    yield process
    process.kill()
    process.communicate()


def test_two_processes_prepare_the_same_bundle_at_once(bundle, another):
    command = [sys.executable, "-m", "edgert", "prepare", str(bundle.folder)]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (another.wait(), second.returncode) == (0, 0), second.stderr
    assert "warning: " in second.stderr and "another process prepares this bundle: waiting" in second.stderr
    copy = Prepared(bundle, bundle.graph())
    assert copy.usable and not copy.damaged()
    assert not list(copy.path.parent.glob(".packing-*"))


def test_a_process_that_was_killed_keeps_nobody_waiting(bundle, another):
    another.kill()
    another.wait()
    Prepared(bundle, bundle.graph()).make()
    assert not list(bundle.path("machine").glob(".packing-*"))


def test_where_files_can_not_be_locked_nobody_elses_work_is_swept(bundle, monkeypatch):
    from edgert import file_lock

    def no_locks(_descriptor):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(file_lock, "_try_to_lock", no_locks)
    fresh, old = (bundle.path("machine") / f".packing-{name}" for name in ("fresh", "old"))
    for left in (fresh, old):
        left.mkdir(parents=True)
    os.utime(old, (1e9, 1e9))
    copy = Prepared(bundle, bundle.graph())
    copy.make()
    assert copy.usable and fresh.exists() and not old.exists()


def replaced(bundle, names):
    path = bundle.path("machine/replaced.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(names if isinstance(names, str) else json.dumps(names))


def test_files_that_are_there_are_compared_whatever_a_list_says(bundle, copy):
    replaced(bundle, ["model.onnx.data", "genai.onnx", "tokenizer.json"])
    path = bundle.path("tokenizer.json")
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(edgert.BundleError, match=r"tokenizer.json: damaged"):
        open_bundle(bundle.folder).check_hashes()


def test_only_weights_and_graphs_may_be_missing(bundle, copy):
    replaced(bundle, ["model.onnx.data", "genai.onnx", "tokenizer.json"])
    bundle.path("genai.onnx").unlink()
    assert open_bundle(bundle.folder).replaced == ("genai.onnx",)
    bundle.path("tokenizer.json").unlink()
    with pytest.raises(edgert.BundleError, match=r"tokenizer.json: missing from the bundle"):
        open_bundle(bundle.folder)


def test_nothing_may_be_missing_where_the_copy_is_gone(bundle, copy):
    copy.replace_original()
    copy.data.unlink()
    with pytest.raises(edgert.BundleError, match=r"model.onnx.data: missing from the bundle"):
        open_bundle(bundle.folder)


def test_weights_may_be_missing_only_where_the_copy_is_known(bundle, copy):
    copy.replace_original()
    copy.note.path.unlink()
    with pytest.raises(edgert.BundleError, match=r"the prepared copy is of no use, its note is missing"):
        edgert.load(bundle.folder)


@pytest.mark.parametrize("names", ["{", "{}", "[[", "3", '"model.onnx.data"'])
def test_a_damaged_list_is_a_bundle_error(bundle, names):
    replaced(bundle, names)
    with pytest.raises(
        edgert.BundleError, match=r"replaced.json: damaged .*; export or pull the bundle again"
    ):
        open_bundle(bundle.folder)


@pytest.mark.parametrize("names", [[], [None, {}, ["model.onnx.data"]], ["../x", "model.onnx"]])
def test_a_strange_list_exempts_nothing(bundle, copy, names):
    replaced(bundle, names)
    assert open_bundle(bundle.folder).replaced == ()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "files: [] is not a table"),
        ({"model.onnx": {"size": "1"}}, "files.model.onnx.size: "),
        ({"model.onnx": {"size": 1, "sha256": 3}}, "files.model.onnx.sha256: 3 is not a text"),
        ({}, "its files are missing or cut short"),
    ],
)
def test_a_note_that_is_no_note_is_outdated(bundle, copy, files, reason):
    note = json.loads(copy.note.path.read_text())
    copy.note.path.write_text(json.dumps({**note, "files": files}))
    assert reason in copy.outdated()
    with pytest.warns(edgert.EdgertWarning, match="made again"):
        edgert.load(bundle.folder)
    assert copy.usable


def test_info_tells_bundle_and_copy_apart(bundle, copy):
    screen = CliRunner().invoke(main, ["info", str(bundle.folder), "--verify"]).stdout
    size = sum(path.stat().st_size for path in copy.path.parent.glob("model.onnx*"))
    assert copy.size == size
    assert f"{size / 1e6:.0f} MB more in machine/ for model.onnx, made on this machine" in screen
    assert f"hashes      all {len(bundle.manifest.files) + 2} match" in screen
    copy.data.write_bytes(copy.data.read_bytes()[:-1] + b"x")
    found = CliRunner().invoke(main, ["info", str(bundle.folder), "--verify"])
    assert found.exit_code == 4 and "model.onnx.data: damaged (another SHA-256); remove" in found.stderr
    copy.data.unlink()
    screen = CliRunner().invoke(main, ["info", str(bundle.folder)]).stdout
    assert "for model.onnx, not usable: its files are missing or cut short" in screen


def test_a_replacement_that_was_cut_short_can_be_finished(bundle, copy, monkeypatch):
    unlink = type(copy.path).unlink

    def killed(self, **how):
        if self.name == "genai.onnx":
            raise KeyboardInterrupt
        unlink(self, **how)

    monkeypatch.setattr(type(copy.path), "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        copy.replace_original()
    monkeypatch.undo()
    assert edgert.load(bundle.folder).generate([1, 2], max_tokens=2).token_ids
    copy.replace_original()
    gone = ("model.onnx.data", "genai.onnx", "model-unsigned.onnx")
    assert open_bundle(bundle.folder).replaced == gone
