"""Tuning: the quickest way wins if clearly; what can't be used loses; the winner is used from then on."""

import json
import shutil

import pytest
from click.testing import CliRunner

import edgert
from edgert import devices
from edgert.bundle import open_bundle
from edgert.cli import main
from edgert.machine import tuning
from edgert.machine.tuning import Trial, Tuning


@pytest.fixture
def bundle(bundles, tmp_path):
    return open_bundle(shutil.copytree(bundles(), tmp_path / "b"))


def silent(_done, _total):
    pass


def speeds(monkeypatch, decode):
    """Trials as fast as `decode` says of a profile, prefill best with chunks of 128."""

    def measured(_bundle, profile):
        prefill = 300.0 if profile.prefill_chunk == 128 else 200.0
        return Trial(profile.name, profile.threads, profile.prefill_chunk, decode(profile), prefill)

    monkeypatch.setattr(tuning, "try_out", measured)


def test_really_measured(bundle):
    found = tuning.tune(bundle, [devices.detect().profile], silent)
    assert all(trial.decode > 0 and trial.prefill > 0 for trial in found.trials)
    assert found.winner in found.trials
    assert Tuning.read(bundle) == found


def test_the_quickest_threads_and_chunk_win(bundle, monkeypatch):
    monkeypatch.setattr(tuning, "thread_counts", lambda _profile: [4, 3, 2])
    speeds(monkeypatch, lambda profile: {4: 10.0, 3: 12.0, 2: 9.0}[profile.threads])
    found = tuning.tune(bundle, [devices.detect().profile], silent)
    assert (found.winner.threads, found.winner.prefill_chunk) == (3, 128)
    model = edgert.load(bundle.folder)
    assert (model.threads, model.profile.prefill_chunk) == (3, 128)


def test_noise_does_not_win(bundle, monkeypatch):
    monkeypatch.setattr(tuning, "thread_counts", lambda _profile: [4, 3])
    speeds(monkeypatch, lambda profile: {4: 10.0, 3: 10.2}[profile.threads])
    assert tuning.tune(bundle, [devices.detect().profile], silent).winner.threads == 4


def test_a_slower_gpu_is_not_used_and_the_user_told(bundle, monkeypatch):
    speeds(monkeypatch, lambda profile: 6.2 if profile.name == "integrated-gpu" else 10.0)
    found = tuning.tune(bundle, [devices.load("laptop-cpu"), devices.load("integrated-gpu")], silent)
    assert found.winner.device == "laptop-cpu"
    assert "integrated-gpu 38% slower than laptop-cpu here; using laptop-cpu" in found.verdict
    screen = CliRunner().invoke(main, ["devices", str(bundle.folder)]).stdout
    assert "integrated-gpu 38% slower than laptop-cpu here; using laptop-cpu" in screen


def test_a_device_that_can_not_be_used_loses(bundle, tmp_path):
    text = devices.resources.files("edgert.devices").joinpath("laptop-cpu.toml").read_text("utf-8")
    path = tmp_path / "npu.toml"
    path.write_text(
        text.replace('"laptop-cpu"', '"npu"').replace("CPUExecutionProvider", "NPUExecutionProvider")
    )
    found = tuning.tune(bundle, [devices.detect().profile, devices.load(str(path))], silent)
    assert f"{path} can't be used: device 'npu' needs NPUExecutionProvider" in found.verdict


def test_what_was_measured_on_another_machine_is_forgotten(bundle, monkeypatch):
    tuning.tune(bundle, [devices.detect().profile], silent)
    monkeypatch.setattr("edgert.engine.machine_note.ort.__version__", "9.9.9")
    assert Tuning.read(bundle) is None
    assert "not tuned yet" in CliRunner().invoke(main, ["devices", str(bundle.folder)]).stdout


@pytest.mark.parametrize("chunk", [0, -1, "64", None, [], 1 << 40])
def test_what_no_tuning_has_written_is_not_believed(bundle, monkeypatch, chunk):
    speeds(monkeypatch, lambda _profile: 10.0)
    tuning.tune(bundle, [devices.detect().profile], silent)
    path = bundle.path("machine/tuned.json")
    note = json.loads(path.read_text("utf-8"))
    assert Tuning.read(bundle) is not None
    for table in (note | {"winner": note["winner"] | {"prefill_chunk": chunk}}, note | {"of": chunk}, chunk):
        path.write_text(json.dumps(table), "utf-8")
        assert Tuning.read(bundle) is None
    path.write_text("[" * 100_000, "utf-8")
    assert edgert.load(bundle.folder).profile == devices.detect().profile


def test_a_profile_of_ones_own_can_win(bundle, monkeypatch, tmp_path):
    text = devices.resources.files("edgert.devices").joinpath("laptop-cpu.toml").read_text("utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('"laptop-cpu"', '"mine"').replace('threads = "physical"', "threads = 1"))

    def measured(_bundle, profile):
        speed = 20.0 if profile.name == "mine" else 10.0
        return Trial(profile.source, profile.threads, profile.prefill_chunk, speed, speed)

    monkeypatch.setattr(tuning, "try_out", measured)
    tuning.tune(bundle, [devices.detect().profile, devices.load(str(path))], silent)
    assert edgert.load(bundle.folder).profile.name == "mine"
    path.unlink()
    with pytest.warns(edgert.EdgertWarning, match="unknown device .* using laptop-cpu; `edgert tune`"):
        assert edgert.load(bundle.folder).profile.name == "laptop-cpu"


def test_where_cores_are_not_known_onnxruntimes_choice_is_tried_first(monkeypatch):
    monkeypatch.setattr(devices, "physical_threads", lambda: devices.Threads(0, "unknown"))
    monkeypatch.setattr(devices, "processors", lambda: 8)
    assert tuning.thread_counts(devices.load("laptop-cpu")) == [0, 7, 4, 8]


def test_nothing_that_works_is_an_error(bundle, monkeypatch):
    monkeypatch.setattr(tuning, "try_out", lambda _b, p: Trial(p.source, 1, 64, failure="answers wrong here"))
    with pytest.raises(edgert.DeviceError, match="nothing to choose from: laptop-cpu answers wrong here"):
        tuning.tune(bundle, [devices.load("laptop-cpu")], silent)
    assert Tuning.read(bundle) is None


def test_a_device_asked_for_overrides_it(bundle, monkeypatch):
    monkeypatch.setattr(tuning, "thread_counts", lambda _profile: [1])
    tuning.tune(bundle, [devices.detect().profile], silent)
    assert edgert.load(bundle.folder, device="laptop-cpu").threads == devices.physical_threads().count


def test_the_command_shows_figures_and_the_winner(bundle):
    result = CliRunner().invoke(main, ["tune", str(bundle.folder), "--device", "laptop-cpu"])
    assert result.exit_code == 0, result.output
    assert "* laptop-cpu" in result.stdout and "tokens/s" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("using laptop-cpu")
