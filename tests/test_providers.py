"""Providers: the CPU's is always there; for every other it is said why not, and what to do."""

import sys

import pytest

import edgert
from edgert import DeviceError, devices
from edgert.engine import providers
from edgert.engine.providers import PLUGINS, Plugin, why_not
from edgert.installation import how_to_add

FAKE = Plugin("FakeExecutionProvider", "fake", "cpu", ("fp32",))


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A plugin that nobody has; its package can be made in the folder."""
    monkeypatch.setitem(PLUGINS, FAKE.name, FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("onnxruntime_ep_fake", None)


def test_the_cpu_is_always_there():
    assert why_not(providers.CPU) is None


def test_one_that_nobody_has():
    assert why_not("QNNExecutionProvider") == "this onnxruntime lacks it, and no package is known that has it"


def test_a_package_that_is_not_installed(fake):
    command = how_to_add("fake")
    assert why_not(FAKE.name) == f"the package onnxruntime-ep-fake isn't installed: {command}"


def test_a_package_that_does_not_exist_here(fake, monkeypatch):
    here = Plugin(FAKE.name, "fake", "cpu", ("fp32",), (("Windows", "AMD64"),))
    monkeypatch.setitem(PLUGINS, FAKE.name, here)
    monkeypatch.setattr(providers.platform, "system", lambda: "Linux")
    monkeypatch.setattr(providers.platform, "machine", lambda: "aarch64")
    expected = "the package onnxruntime-ep-fake exists for Windows on AMD64 only, this is Linux on aarch64"
    assert why_not(FAKE.name) == expected


def test_a_package_of_another_onnxruntime(fake):
    (fake / "onnxruntime_ep_fake.py").write_text("def get_library_path():\n    return '/nowhere.so'\n")
    reason = why_not(FAKE.name)
    assert reason is not None and reason.startswith(
        "the package onnxruntime-ep-fake doesn't fit onnxruntime 1."
    )
    assert "/nowhere.so" in reason


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a Vulkan loader to install")
def test_a_missing_vulkan_loader(fake, monkeypatch):
    (fake / "onnxruntime_ep_fake.py").write_text("")
    monkeypatch.setitem(PLUGINS, FAKE.name, Plugin(FAKE.name, "fake", "webgpu", ("fp32",)))
    monkeypatch.setattr(providers, "VULKAN", "libnone.so.1")
    reason = why_not(FAKE.name)
    assert reason is not None and reason.startswith("the Vulkan loader libnone.so.1 is missing")
    assert "apt install libvulkan1 mesa-vulkan-drivers" in reason


def test_a_plugin_without_a_device(fake, monkeypatch):
    monkeypatch.setattr(providers, "_register", lambda plugin: None)
    expected = "onnxruntime sees no device that it could use; --device laptop-cpu does without"
    assert why_not(FAKE.name) == expected


def test_a_session_names_the_device_and_the_reason(fake, bundles, tmp_path):
    toml = (devices.resources.files("edgert.devices") / "laptop-cpu.toml").read_text("utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(toml.replace(providers.CPU, FAKE.name))
    with pytest.raises(DeviceError, match="device 'laptop-cpu' needs FakeExecutionProvider: the package"):
        edgert.load(bundles(), device=str(path))


def test_options_of_a_provider_are_texts(tmp_path):
    toml = (devices.resources.files("edgert.devices") / "laptop-cpu.toml").read_text("utf-8")
    path = tmp_path / "mine.toml"
    table = '[provider]\nname = "CPUExecutionProvider"\n'
    path.write_text(toml.replace(table, f'{table}[provider.options]\ndepth = "3"\n'))
    assert devices.load(str(path)).provider.options == {"depth": "3"}
    path.write_text(toml.replace(table, f"{table}[provider.options]\ndepth = 3\n"))
    with pytest.raises(DeviceError, match=r"provider.options.depth must be a text in quotes, not 3"):
        devices.load(str(path))
