"""Profiles at work: detection from what systems say, bundles for several devices, the graph that is run."""

import dataclasses
import warnings

import numpy as np
import pytest

import edgert
from edgert import devices
from edgert.bundle import open_bundle
from edgert.devices.hardware import from_linux, memory_available, memory_total
from edgert.engine.loading import choose_graph
from edgert.export import ExportOptions, export
from edgert.export.forms import Blocks
from edgert.export.rows import Rows, joined

CORTEX_A72 = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU part\t: 0xd08
"""
CORTEX_A76 = CORTEX_A72.replace("cpuid", "cpuid asimdrdm lrcpc dcpop asimddp").replace("0xd08", "0xd0b")
XEON = "model name\t: Intel(R) Xeon(R)\nflags\t\t: fpu sse2 avx avx2 avx512_vnni\n"


@pytest.mark.parametrize(
    ("architecture", "cpuinfo", "model", "name", "reason"),
    [
        ("arm64", CORTEX_A76, "Raspberry Pi 5 Model B Rev 1.0\0", "raspberry-pi-5", "the board calls itself"),
        ("arm64", CORTEX_A72, "Raspberry Pi 4 Model B Rev 1.4\0", "raspberry-pi-4", "the board calls itself"),
        ("arm64", CORTEX_A72, "Raspberry Pi Zero 2 W Rev 1.0", "raspberry-pi-zero-2-w", "the board calls"),
        (
            "arm64",
            CORTEX_A76 + "Model\t\t: Raspberry Pi 5 Model B Rev 1.0\n",
            "",
            "raspberry-pi-5",
            "calls itself",
        ),
        ("arm64", CORTEX_A72, "Some Board", "raspberry-pi-4", "Cortex-A72 has no dotprod"),
        ("arm64", CORTEX_A76, "", "laptop-cpu", "Cortex-A76 has dotprod"),
        ("x86_64", XEON, "", "laptop-cpu", "Xeon(R) has avx2"),
        ("x86_64", XEON.replace("avx2", ""), "", "laptop-cpu", "lacks avx2: expect slow kernels"),
    ],
)
def test_machines_get_their_profile_and_the_reason(architecture, cpuinfo, model, name, reason):
    found = devices.choose(from_linux(architecture, cpuinfo, model))
    assert found.profile.name == name
    assert reason in found.reason


def test_memory_is_what_the_machine_has():
    assert 0 < memory_available() <= memory_total()


@pytest.fixture(scope="module")
def both(checkpoints, tmp_path_factory):
    """One bundle for GPUs, laptops and the Raspberry Pi 4."""
    folder = tmp_path_factory.mktemp("both") / "b"
    wanted = ("integrated-gpu", "raspberry-pi-4", "laptop-cpu")
    return export(checkpoints("qwen2"), folder, ExportOptions(devices=wanted, verify=False))


def test_devices_that_read_alike_share_a_graph(both):
    graphs = both.manifest.graphs
    assert {name: (facts.form, facts.devices) for name, facts in graphs.items()} == {
        "model.onnx": ("blocks8", ("integrated-gpu",)),
        "model-rows8.onnx": ("rows8", ("raspberry-pi-4", "laptop-cpu")),
    }
    assert both.manifest.devices == ("integrated-gpu", "raspberry-pi-4", "laptop-cpu")


def test_graphs_share_the_weights(both, checkpoints, tmp_path):
    """Two graphs take a float a block more than one, not the weights twice."""
    alone = export(
        checkpoints("qwen2"), tmp_path / "b", ExportOptions(devices=("raspberry-pi-4",), verify=False)
    )
    weights, more = (bundle.manifest.files["model.onnx.data"].size for bundle in (alone, both))
    assert weights < more < 1.3 * weights  # tiny matrices, padded to pages


@pytest.mark.parametrize(
    "order",
    [("laptop-cpu", "raspberry-pi-4", "integrated-gpu"), ("integrated-gpu", "raspberry-pi-4", "laptop-cpu")],
)
def test_each_device_runs_its_own_graph(checkpoints, tmp_path, order):
    """Whatever order they were named in at export."""
    bundle = export(checkpoints("llama"), tmp_path / "b", ExportOptions(devices=order, verify=False))
    for name in order:
        graph = choose_graph(bundle, devices.load(name), None)
        assert name in bundle.manifest.graphs[graph].devices


def test_blocks_that_are_asked_for_are_those_of_all(checkpoints, tmp_path):
    options = ExportOptions(devices=("laptop-cpu", "integrated-gpu"), block_size=32, verify=False)
    bundle = export(checkpoints("llama"), tmp_path / "b", options)
    assert bundle.manifest.graphs["model.onnx"].devices == ("laptop-cpu", "integrated-gpu")
    assert set(bundle.manifest.quantization.block_size.values()) == {32}


def test_4_bit_graphs_that_are_the_same_are_one(checkpoints, tmp_path):
    options = ExportOptions(quant="int4", devices=("laptop-cpu", "raspberry-pi-4"), verify=False)
    with pytest.warns(edgert.EdgertWarning, match="int4 on raspberry-pi-4"):
        bundle = export(checkpoints("llama"), tmp_path / "b", options)
    assert list(bundle.manifest.graphs) == ["model.onnx"]


def test_both_readings_of_the_weights_predict_the_same(both, tmp_path):
    tokens, other = list(range(20)), tmp_path / "mine.toml"
    other.write_text('extends = "laptop-cpu"\nname = "mine"\n[slower]\nrows8 = 2.0\n')
    blocks, rows = (
        edgert.load(both.folder, device=name).logits(tokens) for name in (str(other), "raspberry-pi-4")
    )
    assert (
        blocks - rows
    ).std() < 0.025 * blocks.std()  # 8-bit activations; the largest of 6,400 is 4 times that
    assert not np.array_equal(blocks, rows)


def test_devices_that_can_not_share_are_refused(checkpoints, tmp_path):
    """4 bits in blocks can't be read as the 8-bit rows that a mixed bundle has on a Raspberry Pi 4, say."""
    other = tmp_path / "mine.toml"
    text = devices.resources.files("edgert.devices").joinpath("raspberry-pi-4.toml").read_text("utf-8")
    other.write_text(text.replace('"raspberry-pi-4"', '"mine"'))
    assert edgert.devices.load(str(other)).source == str(other)
    with pytest.raises(ValueError, match="weights stored as rows8 can't be read as blocks4, too"):
        joined(Rows(), Blocks(4, 64, 4))


def test_a_device_that_wants_8_bit_keys_gets_a_graph(checkpoints, tmp_path):
    """The Zero 2 W caches in 8 bits, a laptop that opens the same bundle exactly."""
    options = ExportOptions(devices=("raspberry-pi-zero-2-w", "laptop-cpu"), verify=False)
    export(checkpoints("llama"), tmp_path / "b", options)
    assert edgert.load(tmp_path / "b", device="raspberry-pi-zero-2-w").kv == "int8"
    assert edgert.load(tmp_path / "b", device="laptop-cpu").kv == "fp32"


def test_a_bundle_for_another_device_warns_once_and_runs(checkpoints, tmp_path):
    export(checkpoints("llama"), tmp_path / "b", ExportOptions(block_size=64, verify=False))
    with pytest.warns(edgert.EdgertWarning, match="13 times as long .* --device raspberry-pi-4") as caught:
        model = edgert.load(tmp_path / "b", device="raspberry-pi-4")
    assert len(caught) == 1
    assert model.generate([1, 2, 3], max_tokens=3).token_ids


def test_a_bundle_for_its_own_device_does_not_warn(both):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edgert.load(both.folder, device="raspberry-pi-4")


def test_the_quickest_graph_is_picked(both):
    bundle = open_bundle(both.folder)
    assert bundle.graph(slower={"blocks8": 9.0}) == "model-rows8.onnx"
    assert bundle.graph(slower={"rows8": 9.0}) == bundle.graph() == "model.onnx"


def test_a_profile_says_what_a_form_costs():
    profile = dataclasses.replace(devices.load("laptop-cpu"), slower={"fp32": 3.0})
    assert (profile.cost("fp32"), profile.cost("blocks8")) == (3.0, 1.0)


def test_an_export_that_will_be_slow_warns(checkpoints, tmp_path):
    options = ExportOptions(quant="int4", devices=("raspberry-pi-4",), verify=False)
    with pytest.warns(edgert.EdgertWarning, match="int4 on raspberry-pi-4: a token will take about 10 times"):
        export(checkpoints("llama"), tmp_path / "b", options)
