"""Doctor and the golden prompts: what is damaged, missing or wrong is found; wrong providers are not used."""

import dataclasses
import errno
import io
import json
import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

import edgert
from edgert import devices
from edgert.bundle import open_bundle
from edgert.cli import main
from edgert.engine import golden, loading, prepared, promises, providers
from edgert.export import ExportOptions, export
from edgert.machine import doctor, heat

SHIPPED = devices.resources.files("edgert.devices").joinpath("laptop-cpu.toml").read_text("utf-8")


@pytest.fixture(scope="module")
def measured(checkpoints, tmp_path_factory):
    """A tiny bundle with golden prompts."""
    folder = tmp_path_factory.mktemp("golden") / "b"
    return export(checkpoints("llama"), folder, ExportOptions())


@pytest.fixture
def bundle(measured, tmp_path):
    """A copy of it, to be damaged."""
    return open_bundle(shutil.copytree(measured.folder, tmp_path / "b"))


def findings(bundle, profile=None):
    return {finding.subject: finding for finding in doctor.examine(bundle, profile)}


def bad(bundle, profile=None):
    return {name: found.text for name, found in findings(bundle, profile).items() if found.verdict == "bad"}


def test_a_sound_bundle_on_a_sound_machine(bundle):
    assert bad(bundle) == {}
    assert "KL 0.0" in findings(bundle)["self-test on CPUExecutionProvider"].text


def test_golden_prompts_travel_in_the_bundle(measured):
    found = golden.read(measured)
    assert len(found) == len(golden.TEXTS) + 1
    assert max(len(one.tokens) for one in found) == golden.LONGEST_TEXT
    assert all(len(one.positions) == len(one.ids) for one in found)
    assert "golden.json" in measured.manifest.files


def test_one_flipped_weight_byte_is_found(bundle):
    path = bundle.path("model.onnx.data")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)
    assert "another SHA-256" in bad(bundle)["files"]
    result = CliRunner().invoke(main, ["doctor", str(bundle.folder)])
    assert result.exit_code == 1 and "BAD   files" in result.stdout


@pytest.mark.parametrize("name", ["model.onnx.data", "golden.json", "edgert.json"])
def test_a_file_that_cannot_be_read_is_a_finding(bundle, name, monkeypatch):
    """As JSON, too, and with everything else that was found."""
    path = bundle.path(name)
    unreadable(path, monkeypatch)
    result = CliRunner().invoke(main, ["doctor", str(bundle.folder), "--json"])
    found = {one["subject"]: one for one in json.loads(result.stdout)}
    assert result.exit_code == 1 and found["machine"]["verdict"] == "ok"
    assert found["files"] == {
        "subject": "files",
        "verdict": "bad",
        "text": f"{path}: can't be read: Permission denied",
    }
    assert (
        f"{path}: can't be read: Permission denied"
        in CliRunner().invoke(main, ["doctor", str(bundle.folder)]).stdout
    )


def unreadable(path, monkeypatch):
    """To everybody: tests may run as root, whom modes don't stop."""
    real = io.open

    def opened(file, *arguments, **more):
        if str(file) == str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return real(file, *arguments, **more)

    monkeypatch.setattr(io, "open", opened)


def test_findings_are_printed_before_what_fails(bundle, monkeypatch):
    def broken():
        raise edgert.DeviceError("no heat")

    monkeypatch.setattr(heat, "measure", broken)
    result = CliRunner().invoke(main, ["doctor", str(bundle.folder), "--json"])
    assert result.exit_code == 5 and result.stderr == "edgert: no heat\n"
    assert json.loads(result.stdout)[0]["subject"] == "machine"


def test_damaged_weights_fail_the_self_test_too(bundle):
    """Codes of a third of the file inverted: the model says something else."""
    path = bundle.path("model.onnx.data")
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    content[: len(content) // 3] ^= 0xFF
    path.write_bytes(content.tobytes())
    assert "self-test on CPUExecutionProvider" in bad(bundle)


def test_too_little_memory_is_found(bundle, monkeypatch):
    monkeypatch.setattr(devices, "memory_available", lambda: 50_000_000)
    monkeypatch.setattr(promises, "promised", lambda: 0)  # other tests' models are open in this process
    assert "50 MB are free: no context is short enough" in bad(bundle)["memory"]


def test_a_missing_vulkan_loader_is_found(bundle, monkeypatch):
    """Also where the plugin isn't installed: the package is said to be there."""
    monkeypatch.setattr(providers.importlib.util, "find_spec", lambda name: name.endswith("webgpu") or None)
    monkeypatch.setattr(providers, "_loads", lambda library: False)
    monkeypatch.setattr(providers, "_devices", lambda plugin: [])
    monkeypatch.setattr(providers.sys, "platform", "linux")
    providers._register.cache_clear()
    found = bad(bundle, devices.load("integrated-gpu"))
    assert "the Vulkan loader libvulkan.so.1 is missing: install" in found["WebGpuExecutionProvider"]
    assert "libvulkan.so.1 is missing" in found["self-test on WebGpuExecutionProvider"]


class Broken:
    """A session that gives every second logit the wrong sign, as a faulty kernel might."""

    def __init__(self, session):
        self._session = session

    def __getattr__(self, name):
        return getattr(self._session, name)

    def run_with_iobinding(self, binding, options):
        self._session.run_with_iobinding(binding, options)
        binding.get_outputs()[0].numpy()[..., ::2] *= -1


def honest_run(self, binding, options):
    self._session.run_with_iobinding(binding, options)


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A device whose provider computes something else."""
    path = tmp_path / "broken.toml"
    path.write_text(
        SHIPPED.replace('"laptop-cpu"', '"broken"').replace("CPUExecutionProvider", "BrokenProvider")
    )
    real = providers.open_session

    def opened(model, options, provider):
        if provider.name != "BrokenProvider":
            return real(model, options, provider)
        return Broken(real(model, options, dataclasses.replace(provider, name=providers.CPU)))

    monkeypatch.setattr(providers, "open_session", opened)
    return str(path)


def test_a_provider_that_answers_wrong_is_not_used(bundle, broken):
    honest = edgert.load(bundle.folder).generate([1, 2, 3], max_tokens=8).token_ids
    with pytest.warns(
        edgert.EdgertWarning, match=r"BrokenProvider answers wrong here \(KL .*: using the CPU"
    ):
        model = edgert.load(bundle.folder, device=broken)
    assert model.profile.name == devices.detect().profile.name
    assert model.generate([1, 2, 3], max_tokens=8).token_ids == honest


def test_the_verdict_is_remembered(bundle, broken, monkeypatch):
    with pytest.warns(edgert.EdgertWarning):
        edgert.load(bundle.folder, device=broken)
    monkeypatch.setattr(golden, "replay", lambda *_: pytest.fail("replayed again"))
    with pytest.warns(edgert.EdgertWarning, match="using the CPU"):
        edgert.load(bundle.folder, device=broken)


@pytest.mark.parametrize("kl", ["none", None, [], float("nan")])
def test_a_verdict_that_is_no_number_is_measured_again(bundle, broken, kl):
    with pytest.warns(edgert.EdgertWarning):
        edgert.load(bundle.folder, device=broken)
    (path,) = bundle.path("machine").glob("checked-*.json")
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"kl": kl}), "utf-8")
    with pytest.warns(edgert.EdgertWarning, match="answers wrong here"):
        edgert.load(bundle.folder, device=broken)
    assert json.loads(path.read_text("utf-8"))["kl"] > 0


def test_doctor_checks_again_and_corrects_the_verdict(bundle, broken, monkeypatch):
    """The driver was repaired: after doctor has looked, the provider is used."""
    with pytest.warns(edgert.EdgertWarning):
        edgert.load(bundle.folder, device=broken)
    monkeypatch.setattr(Broken, "run_with_iobinding", honest_run)
    with pytest.warns(edgert.EdgertWarning, match="using the CPU"):
        edgert.load(bundle.folder, device=broken)
    assert bad(bundle, devices.load(broken)) == {}
    assert edgert.load(bundle.folder, device=broken).profile.name == "broken"


def test_a_provider_that_fails_is_not_used(bundle, broken, monkeypatch):
    def fail(self, binding, options):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(Broken, "run_with_iobinding", fail)
    with pytest.warns(edgert.EdgertWarning, match="BrokenProvider fails: no kernel: using the CPU"):
        assert edgert.load(bundle.folder, device=broken).profile.provider.name == providers.CPU


def test_a_bundle_that_can_not_be_written_to_is_checked_each_time(bundle, broken, monkeypatch):
    monkeypatch.setattr(Broken, "run_with_iobinding", honest_run)
    bundle.path("machine").write_text("in the way")
    with pytest.warns(edgert.EdgertWarning, match="not remembered for the next time"):
        assert edgert.load(bundle.folder, device=broken).profile.name == "broken"


def test_a_short_context_is_checked_on_what_fits(bundle, broken, monkeypatch):
    monkeypatch.setattr(Broken, "run_with_iobinding", honest_run)
    assert edgert.load(bundle.folder, device=broken, context=16).context == 16


def test_a_machine_that_lacks_what_kernels_need_is_told(bundle):
    found = findings(bundle, devices.load("raspberry-pi-4"))["device raspberry-pi-4"]
    here = devices.here().architecture
    assert found.verdict == ("ok" if here == "arm64" else "note")


def test_a_damaged_prepared_copy_is_found(bundle):
    copy = prepared.Prepared(bundle, bundle.graph())
    copy.make()
    assert findings(bundle)["prepared copy"].text == "fits this machine, has its SHA-256"
    content = bytearray(copy.data.read_bytes())
    content[len(content) // 3] ^= 1
    copy.data.write_bytes(content)
    assert "damaged (another SHA-256)" in bad(bundle)["prepared copy"]


def test_a_bundle_that_is_none_is_a_finding(tmp_path):
    result = CliRunner().invoke(main, ["doctor", str(tmp_path)])
    assert result.exit_code == 1 and "BAD   files" in result.stdout and "machine" in result.stdout


def test_doctor_says_that_it_answers_wrong(bundle, broken):
    text = bad(bundle, devices.load(broken))["self-test on BrokenProvider"]
    assert "answers wrong" in text and "the CPU is used instead" in text


def test_without_golden_prompts_a_provider_is_used_and_the_user_told(bundles, broken, tmp_path):
    folder = shutil.copytree(bundles(), tmp_path / "c")
    with pytest.warns(edgert.EdgertWarning, match="is not checked: .* no golden prompts"):
        assert edgert.load(folder, device=broken).profile.name == "broken"


def test_no_numbers_are_wrong_numbers(measured):
    loaded = loading.load(measured, devices.detect().profile)

    class Mute:
        """A decoder whose logits are not numbers."""

        def __getattr__(self, name):
            return getattr(loaded.decoder, name)

        def score(self, tokens):
            return np.full((len(tokens), 512), np.nan, np.float32)

    assert golden.replay(Mute(), golden.read(measured)) == float("inf")


def test_damaged_golden_prompts_are_named(bundle):
    bundle.path("golden.json").write_text("[{}]")
    with pytest.raises(edgert.BundleError, match="golden.json: not valid"):
        golden.read(bundle)


def test_findings_as_json(bundle):
    result = CliRunner().invoke(main, ["doctor", str(bundle.folder), "--json"])
    subjects = [finding["subject"] for finding in json.loads(result.stdout)]
    assert subjects[:3] == ["machine", "detected", "device laptop-cpu"] and "files" in subjects


def test_the_machine_alone(monkeypatch):
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0 and "MB are free" in result.stdout


def test_heat_of_sensors_and_firmware(tmp_path, monkeypatch):
    for number, text in enumerate(("47300\n", "81200\n", "asleep")):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "temp").write_text(text)
    firmware = tmp_path / "vcgencmd"
    firmware.write_text("#!/bin/sh\necho throttled=0x50004\n")
    firmware.chmod(0o755)
    monkeypatch.setattr(heat, "ZONES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = heat.measure()
    assert found.celsius == 81.2 and found.slows
    assert str(found) == "81 °C, throttled now, under-voltage since boot, throttled since boot"


def test_no_sensors_are_no_heat(tmp_path, monkeypatch):
    monkeypatch.setattr(heat, "ZONES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert str(heat.measure()) == "no sensor is shown" and not heat.measure().slows
