"""Where a bundle may be written, what is replaced, and what is left after an end before the end."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest
import tiny

from edgert import CheckpointError, UsageError, open_bundle
from edgert.export import ExportOptions
from edgert.export import export as measured_export

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")


def export(source, folder, progress=None, **options):
    """Without the measurement at the end."""
    return measured_export(source, folder, ExportOptions(verify=False, calibrate=False, **options), progress)


def never(*_):
    raise AssertionError("work was begun")


@posix
def test_a_link_to_a_bundle_stays_and_its_target_is_replaced(checkpoints, tmp_path):
    target, link = tmp_path / "disk" / "b", tmp_path / "link"
    export(checkpoints("llama"), target)
    link.symlink_to(target)
    with pytest.raises(UsageError, match="link exists already"):
        export(checkpoints("qwen2"), link, progress=never)
    assert export(checkpoints("qwen2"), link, force=True).manifest.name == "link"
    assert link.is_symlink() and open_bundle(target).manifest.model.family == "qwen2"
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_dir()) == ["b", "disk", "link"]


@posix
def test_a_link_to_nothing_gets_its_target(checkpoints, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk" / "b")
    export(checkpoints("llama"), link)
    assert link.is_symlink() and open_bundle(tmp_path / "disk" / "b").folder.exists()


@posix
def test_a_link_to_itself_is_refused_at_once(checkpoints, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(link)
    with pytest.raises(UsageError, match="link"):
        export(checkpoints("llama"), link, progress=never)


def test_the_current_folder_is_named_by_its_own_name(checkpoints, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UsageError, match=r"^\. exists already"):
        export(checkpoints("llama"), tmp_path.__class__("."), progress=never)
    assert export(checkpoints("llama"), tmp_path.__class__("../b")).manifest.name == "b"


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", "._model.onnx"])
def test_what_file_managers_leave_does_not_bar_the_way(checkpoints, tmp_path, name):
    folder = tmp_path / "b"
    export(checkpoints("llama"), folder)
    (folder / name).write_bytes(b"icons")
    export(checkpoints("qwen2"), folder, force=True)
    assert open_bundle(folder).manifest.model.family == "qwen2" and not (folder / name).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf8_is_refused_at_once(checkpoints, tmp_path):
    for folder in (tmp_path / os.fsdecode(b"b\xff"), tmp_path / os.fsdecode(b"\xff") / "b"):
        with pytest.raises(UsageError, match=r"\\udcff.* is not valid UTF-8"):
            export(checkpoints("llama"), folder, progress=never)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_nor_is_a_checkpoint_of_such_a_name_begun(tmp_path):
    source = tiny.write(tmp_path / "c").rename(tmp_path / os.fsdecode(b"c\xff"))
    with pytest.raises(CheckpointError, match=r"\\udcff.* is not valid UTF-8"):
        export(source, tmp_path / "b", progress=never)


def test_a_folder_that_cannot_be_written_is_named_as_typed(checkpoints, tmp_path, monkeypatch):
    def refuse(prefix, dir):
        raise PermissionError(13, "Permission denied", f"{dir}/{prefix}x1y2")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(UsageError) as refused:
        export(checkpoints("llama"), tmp_path / "b", progress=never)
    assert str(refused.value) == f"can't write {tmp_path / 'b'}: Permission denied in {tmp_path}"


def test_a_full_disk_is_named_by_the_destination(checkpoints, tmp_path):
    def fill(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(UsageError, match=r"^can't write .*b: No space left on device in "):
        export(checkpoints("llama"), tmp_path / "b", progress=fill)
    assert not list(tmp_path.iterdir())


ENDLESS = """
import sys, time
from pathlib import Path
from edgert.export import ExportOptions, export

def wait(*_):
    print("begun", flush=True)
    time.sleep(60)

export(Path(sys.argv[1]), Path(sys.argv[2]), ExportOptions(verify=False, calibrate=False), wait)
"""


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_an_export_that_is_told_to_end_leaves_nothing(checkpoints, tmp_path, name):
    command = [sys.executable, "-c", ENDLESS, str(checkpoints("llama")), str(tmp_path / "b")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        assert [path.name.startswith(".b.") for path in tmp_path.iterdir()] == [True]
        process.send_signal(getattr(signal, name))
        assert process.wait(30) == 128 + getattr(signal, name)
    assert not list(tmp_path.iterdir())


@posix
def test_handlers_of_the_program_around_are_left_alone(checkpoints, tmp_path):
    def mine(*_):
        """Somebody else's."""

    found = []
    before = signal.signal(signal.SIGTERM, mine)
    try:
        look = lambda *_: found.append(signal.getsignal(signal.SIGTERM))  # noqa: E731
        export(tiny.write(tmp_path / "c"), tmp_path / "b", progress=look)
        assert set(found) == {mine} and signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
