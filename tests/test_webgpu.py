"""WebGPU gives the answers of the CPU. On SwiftShader, Vulkan in software inside Debian's chromium.

`make test-webgpu` installs what it needs. The student takes minutes: pytest -m "webgpu and student".
"""

import ctypes
import importlib.util
import json
import os
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import tiny

import edgert
from edgert import DeviceError, devices, open_bundle
from edgert.devices import Provider
from edgert.engine import providers
from edgert.engine.graph_session import GraphSession
from edgert.engine.providers import ort
from edgert.export import ExportOptions, export
from edgert.model import Model

GPU = "WebGpuExecutionProvider"
ICD = os.environ.get("VK_ICD_FILENAMES", "/usr/lib/chromium/vk_swiftshader_icd.json")
IDS = np.random.default_rng(7).integers(5, tiny.VOCAB, 90).tolist()
PROFILE = devices.load("integrated-gpu")
TOML = resources.files("edgert.devices").joinpath("integrated-gpu.toml").read_text("utf-8")
# From 32 rows on, attention takes a kernel for subgroups of 8 and more, as GPUs have. SwiftShader's have 4,
# for which the kernel is wrong: chunks are shorter here.
CHUNK = 16
GRAPHS = [("llama", "int8"), ("llama", "int4"), ("qwen2-window", "int8"), ("qwen3", "int8")]


def missing():
    """What SwiftShader lacks here, None if it can run."""
    if importlib.util.find_spec("onnxruntime_ep_webgpu") is None:
        return "onnxruntime-ep-webgpu is not installed (make test-webgpu)"
    if not Path(ICD).is_file():
        return f"no SwiftShader at {ICD} (make test-webgpu)"
    try:
        ctypes.CDLL(providers.VULKAN)
    except OSError:
        return f"no {providers.VULKAN} (make test-webgpu)"
    return None


MISSING = missing()
pytestmark = [pytest.mark.webgpu, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]
if not MISSING:  # read when the plugin is registered, so before any test
    os.environ |= {"VK_ICD_FILENAMES": ICD, "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1"}


def distance(found, wanted):
    """Root mean square of the difference, in times of what is wanted."""
    return np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean())


def on_gpu(folder, chunk=CHUNK):
    return Model(open_bundle(folder), replace(PROFILE, prefill_chunk=chunk), context=128)


def tokens(model, prompt, count=6):
    return [chunk.token.id for chunk in model.stream(prompt, max_tokens=count) if chunk.token]


@pytest.fixture(scope="module")
def exact(checkpoints, tmp_path_factory):
    """Bundles whose products keep activations in fp32, so that both devices compute the same."""
    root = tmp_path_factory.mktemp("exact")
    profile = root / "exact.toml"
    profile.write_text(TOML.replace("accuracy_level = 4", "accuracy_level = 1"))

    def bundle(family="llama", quant="int8", kv="fp32"):
        folder = root / f"{family}-{quant}-{kv}"
        if not folder.exists():
            options = ExportOptions(quant=quant, kv=kv, devices=(str(profile),))
            export(checkpoints(family), folder, options)
        return folder

    return bundle


@pytest.fixture(scope="module")
def gpu(exact):
    return on_gpu(exact())


@pytest.mark.parametrize(("family", "quant"), GRAPHS)
def test_the_answers_are_the_cpus(exact, family, quant):
    ours, theirs = on_gpu(exact(family, quant)), edgert.load(exact(family, quant), context=128)
    assert tokens(ours, IDS[:40]) == tokens(theirs, IDS[:40])
    assert distance(ours.logits(IDS), theirs.logits(IDS)) < 1e-5


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_integer_products_are_close(quant, tmp_path):
    """As exported, and wide enough for WebGPU's integer products: activations are rounded on both."""
    wide = tiny.Tiny("llama", overrides={"hidden_size": 128, "intermediate_size": 256})
    options = ExportOptions(quant=quant, devices=("integrated-gpu",))
    folder = export(tiny.write(tmp_path / "c", wide), tmp_path / "b", options).folder
    assert 1e-4 < distance(on_gpu(folder).logits(IDS), edgert.load(folder).logits(IDS)) < 0.05


def test_it_was_checked_before_it_was_used(exact, gpu):
    """Its answers to the golden prompts are noted for the next start."""
    note = json.loads(next((exact() / "machine").glob(f"checked-{GPU}-*.json")).read_text("utf-8"))
    assert 0 <= note["kl"] < 0.01


def test_a_gpu_that_answers_wrong_is_found_and_not_used(exact):
    """SwiftShader does with the profile's own chunks, and one golden prompt is long enough to show it."""
    with pytest.warns(edgert.EdgertWarning, match=f"{GPU} answers wrong here .* using the CPU"):
        model = edgert.load(exact("qwen2-window"), device="integrated-gpu")
    assert model.profile.provider.name == providers.CPU


@pytest.mark.parametrize(("family", "quant"), GRAPHS)
def test_every_operator_runs_on_the_gpu(exact, family, quant):
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = providers.open_session(str(exact(family, quant) / "model.onnx"), options, Provider(GPU))
    assert {part.ep_name for part in session.get_provider_graph_assignment_info()} == {GPU}


def test_chunks_and_steps_equal_each_other(exact, gpu):
    whole = gpu.logits(IDS)
    assert distance(on_gpu(exact(), chunk=7).logits(IDS), whole) < 1e-5
    decoder = gpu._worker.engine.decoder
    slot = decoder.afresh()
    steps = [decoder.extend(slot, IDS[:80])[0], *(decoder.decode([slot], [t])[0].copy() for t in IDS[80:])]
    assert distance(np.array(steps), whole[79:]) < 1e-5


def test_a_rewound_cache_equals_a_fresh_one(gpu):
    decoder = gpu._worker.engine.decoder
    fresh = decoder.extend(decoder.afresh(), IDS[:30])
    slot = decoder.afresh()
    decoder.extend(slot, IDS[:20] + IDS[40:60])
    slot.rewind(20)
    assert distance(decoder.extend(slot, IDS[20:30]), fresh) < 1e-5


def test_a_second_turn_goes_on_from_the_first(exact, gpu):
    talk = [{"role": "user", "content": "fox"}]
    reply = gpu.generate(talk, max_tokens=5, temperature=1.0, seed=3)
    talk += [{"role": "assistant", "content": reply.text}, {"role": "user", "content": "dog"}]
    prompt = gpu.tokens_of(talk)
    assert gpu.generate(prompt, max_tokens=1).timings.cached_tokens > 0
    assert tokens(gpu, prompt) == tokens(edgert.load(exact(), context=128), prompt)


def test_keys_and_values_stay_on_the_gpu(gpu):
    """One buffer is past and present, on the device, and a step writes one row of it there."""
    decoder = gpu._worker.engine.decoder
    slot = decoder.afresh()
    decoder.extend(slot, IDS[:10])
    cache = decoder.runner.pool.view(0, 1)
    assert all(value.device_name() == "webgpu" for value in cache.values())
    before = _read(cache[0, "key"])
    decoder.decode([slot], [IDS[10]])
    outputs = decoder.runner._steps[0, 1].binding.current().get_outputs()
    assert {value.data_ptr() for value in cache.values()} <= {value.data_ptr() for value in outputs}
    changed = (_read(cache[0, "key"]) != before).any(axis=(0, 1, 3))
    assert changed.nonzero()[0].tolist() == [10]


def _read(value):
    array = np.zeros(value.shape(), np.float32)
    ort.copy_tensors([value], [ort.OrtValue.ortvalue_from_numpy(array)])
    return array


def test_8_bit_keys_are_refused(exact):
    folder = exact(kv="int8")
    with pytest.raises(DeviceError, match="'integrated-gpu' caches keys and values in fp32 only: --kv fp32"):
        GraphSession(open_bundle(folder), PROFILE, "model-kv8.onnx")
    assert on_gpu(folder).kv == "fp32"


def test_options_reach_the_provider(exact):
    for option, expected in [("low-power", None), ("none", "Invalid power preference: none")]:
        profile = replace(PROFILE, provider=Provider(GPU, {"powerPreference": option}))
        if expected is None:
            Model(open_bundle(exact()), profile, context=8)
        else:
            with pytest.raises(DeviceError, match=f"'integrated-gpu' needs {GPU}: {expected}"):
                Model(open_bundle(exact()), profile, context=8)


def test_it_is_usable_and_a_damaged_graph_is_not_its_fault(exact, tmp_path):
    assert providers.why_not(GPU) is None
    damaged = tmp_path / "model.onnx"
    damaged.write_bytes(b"no graph")
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidProtobuf):
        providers.open_session(str(damaged), ort.SessionOptions(), Provider(GPU))


@pytest.mark.student
def test_the_student_says_the_same(student, tmp_path):
    """Minutes: SwiftShader takes ten seconds per token."""
    checkpoint = next((student.parent.parent / "checkpoints" / student.name).glob("*.gguf"))
    options = ExportOptions(quant="int8", devices=("integrated-gpu",), calibrate=False, verify=False)
    folder = export(checkpoint, tmp_path / "b", options).folder
    with pytest.warns(edgert.EdgertWarning, match="no golden prompts"):
        gpu = edgert.load(folder, device="integrated-gpu", context=64)
    ids = gpu.tokenizer.encode("The capital of France is")
    assert tokens(gpu, ids, 4) == tokens(edgert.load(student), ids, 4)
