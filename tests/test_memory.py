"""Memory plans: predictions against what processes really take, refusals, and `edgert fit`."""

import dataclasses
import gc
import json
import re
import subprocess
import sys

import control_group
import pytest
from click.testing import CliRunner

import edgert
from edgert import devices
from edgert.bundle import open_bundle
from edgert.bundle.graph_io import CACHES
from edgert.cli import main
from edgert.engine import memory, promises
from edgert.engine.prepared import Prepared

# Loads a bundle, fills its context, prints the most that was ever resident.
FILL = """
import re, sys, edgert
model = edgert.load(sys.argv[1], device=sys.argv[2], context=int(sys.argv[3]))
model.generate([token % 1000 for token in range(int(sys.argv[3]) - 4)], max_tokens=2)
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Other tests' models are open in this process."""
    monkeypatch.setattr(promises, "promised", lambda: 0)


def peak(folder, device, context):
    command = [sys.executable, "-W", "ignore", "-c", FILL, str(folder), device, str(context)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * 1024


def predicted(folder, device, context, **options):
    manifest = open_bundle(folder).manifest
    profile = devices.load(device)
    graph = manifest.graphs[open_bundle(folder).graph(None, profile.kv, profile.slower)]
    return memory.plan(manifest, graph, profile, context, machine=devices.here(), **options).peak


@linux
@pytest.mark.student
@pytest.mark.parametrize("context", [128, 2048])
def test_the_prediction_is_near_the_measured_peak(student, context):
    assert predicted(student, "laptop-cpu", context) == pytest.approx(
        peak(student, "laptop-cpu", context), rel=0.15
    )


@linux
@pytest.mark.student
def test_and_so_it_is_for_other_forms(student, tmp_path):
    """Blocks of 4 bits with 8-bit keys and values, and a prepared copy of them. The student is rows."""
    from edgert.export import ExportOptions, export

    checkpoint = next((student.parent.parent / "checkpoints" / student.name).glob("*.gguf"))
    folder = tmp_path / "int4"
    export(checkpoint, folder, ExportOptions(quant="int4", kv="int8", calibrate=False, verify=False))
    measured = peak(folder, "laptop-cpu", 1024)
    assert predicted(folder, "laptop-cpu", 1024) == pytest.approx(measured, rel=0.15)
    bundle = open_bundle(folder)
    Prepared(bundle, bundle.graph()).make()
    measured = peak(folder, "laptop-cpu", 1024)
    assert predicted(folder, "laptop-cpu", 1024, prepared=True) == pytest.approx(measured, rel=0.15)


def plan(context=1000):
    return memory.MemoryPlan(
        context, 1, 100, 500, kv_per_token=2, scratch=10, packing=60, reading=640, mapped=False
    )


def test_what_a_plan_adds_up():
    assert (plan().kv, plan().total, plan().peak, plan(10).peak) == (2000, 2610, 2610, 1300)
    assert plan().longest_context(710, 4096) == 50
    assert plan().longest_context(10**9, 4096) == 4096
    assert plan().longest_context(600, 4096) == 0
    assert plan(10).needed == 660 and plan().needed == plan().total
    assert plan().longest_context(659, 4096) == 0  # not even loading fits


def test_a_further_conversation_costs_its_keys_and_values_and_nothing_else():
    one = plan()
    two = dataclasses.replace(one, conversations=2)
    assert two.kv == 2 * one.kv and two.total - one.total == one.kv
    assert two.longest_context(one.total, 4096) == 500
    assert one.further_conversations(one.needed + 3 * one.kv + 1) == 3
    assert one.further_conversations(one.needed - 1) == 0


def test_a_cache_that_grows_is_copied(bundles):
    """Measured at 1,024 and 2,048 tokens: predicted without copies, it was a quarter and two fifths less."""
    manifest, profile = open_bundle(bundles()).manifest, devices.load("laptop-cpu")
    facts = next(iter(manifest.graphs.values()))
    shared, growing = (
        memory.plan(manifest, dataclasses.replace(facts, cache=cache), profile, 100) for cache in CACHES
    )
    assert growing.kv == memory.GROWING_COPIES * shared.kv and growing.weights == shared.weights


def test_a_bias_of_attention_grows_with_the_context_not_with_conversations(bundles):
    """onnxruntime took 139 MiB more for 16 heads, 256 tokens and a context of 8,192: 128 are counted."""
    manifest, profile = open_bundle(bundles()).manifest, devices.load("laptop-cpu")
    facts = dataclasses.replace(next(iter(manifest.graphs.values())), attention_biases=1)
    one, two = (memory.plan(manifest, facts, profile, 100, conversations) for conversations in (1, 2))
    plain = memory.plan(manifest, next(iter(manifest.graphs.values())), profile, 100)
    bias = 4 * manifest.model.num_heads * profile.prefill_chunk * 100
    assert one.scores == two.scores == plain.scores + bias
    assert one.total - plain.total == bias
    assert one.longest_context(one.needed, 4096) == 100
    assert one.further_conversations(one.needed + one.kv) == 1


def test_as_many_conversations_as_memory_has_room_for(bundles, monkeypatch):
    bundle = open_bundle(bundles())
    wanted = memory.plan(
        bundle.manifest, bundle.manifest.graphs[bundle.graph()], devices.detect().profile, 256
    )
    for room, conversations in ((0, 1), (2, 3), (50, 8)):
        monkeypatch.setattr(devices, "memory_available", lambda room=room: wanted.needed + room * wanted.kv)
        assert edgert.load(bundle.folder, context=256).conversations == conversations
    monkeypatch.setattr(devices, "memory_available", lambda: wanted.needed + wanted.kv)
    with pytest.raises(edgert.DoesNotFit, match="for 60 conversations of 256 tokens"):
        edgert.load(bundle.folder, context=256, conversations=60)


def test_what_does_not_fit_is_refused_with_the_ways_out(bundles, monkeypatch):
    monkeypatch.setattr(devices, "memory_available", lambda: 120 << 20)
    monkeypatch.setattr(memory, "RUNTIME", 119 << 20)
    with pytest.raises(edgert.DoesNotFit) as refused:
        edgert.load(bundles(), context=64)
    numbers = r"needs 1\d\d MB \(weights 0 MB, keys and values 0 MB for 64 tokens, .* and 126 MB are free"
    assert re.search(numbers, str(refused.value))
    assert all(way in str(refused.value) for way in ("context", "--quant", "--force"))
    assert edgert.load(bundles(), context=64, force=True).generate([1], max_tokens=1).token_ids


def test_a_shorter_context_is_named_and_fits(bundles, monkeypatch):
    """What the message names loads; one token more does not."""
    enough = predicted(bundles(), "laptop-cpu", 100)
    monkeypatch.setattr(devices, "memory_available", lambda: enough)
    with pytest.raises(edgert.DoesNotFit) as refused:
        edgert.load(bundles(), context=200)
    named = int(re.search(r"--context (\d+) fits", str(refused.value))[1])
    assert edgert.load(bundles(), context=named).context == named == 100
    with pytest.raises(edgert.DoesNotFit):
        edgert.load(bundles(), context=named + 1)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of address space are POSIX")
def test_memory_left_is_that_of_the_control_group(monkeypatch, tmp_path):
    """As inside a container: the group's limit counts, and pages it has only read make room."""
    from edgert.devices import hardware

    group = tmp_path / "memory" / "mine"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("1000000000\n")
    (group / "memory.current").write_text("700000000\n")
    (group / "memory.stat").write_text("anon 200000000\ninactive_file 400000000\nactive_file 50000000\n")
    real = hardware._text
    files = {"/proc/self/cgroup": "0::/mine\n"}
    monkeypatch.setattr(
        hardware,
        "_text",
        lambda path: (
            files.get(str(path)) or real(str(path).replace("/sys/fs/cgroup", str(tmp_path / "memory")))
        ),
    )
    assert devices.hardware.memory_available() == 1000000000 - 250000000
    assert devices.hardware.memory_total() == 1000000000


def fit(*arguments):
    result = CliRunner().invoke(main, ["fit", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_fit_shows_bundles_on_every_board(bundles):
    screen = fit(bundles(), "--device", "raspberry-pi-4", "--device", "raspberry-pi-zero-2-w")
    assert "of 2,048 MiB" in screen and "of 8,192 MiB" in screen and "of 512 MiB" in screen
    assert "fits, up to a context of" in screen


def test_fit_counts_conversations(bundles):
    one, four = (json.loads(fit(bundles(), "--json", "--conversations", str(count)))[0] for count in (1, 4))
    assert four["kv"] == 4 * one["kv"] and four["total"] - one["total"] == 3 * one["kv"]
    assert "for each of 4 conversations" in fit(bundles(), "--conversations", "4")


def test_fit_of_a_checkpoint_is_fit_of_its_bundle(checkpoints, bundles):
    ours, theirs = (json.loads(fit(source, "--json"))[0] for source in (checkpoints("llama"), bundles()))
    for name in ("weights", "kv", "runtime", "scratch", "total", "peak"):
        assert ours[name] == theirs[name]


def test_fit_reads_no_weights(checkpoints, tmp_path):
    """Headers say all: the data of the tensors may be missing."""
    import shutil

    folder = shutil.copytree(checkpoints("llama"), tmp_path / "c")
    before = fit(folder, "--device", "raspberry-pi-5", "--json")
    path = next(folder.glob("*.safetensors"))
    size = path.stat().st_size
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    path.write_bytes(path.read_bytes()[:header] + bytes(size - header))
    assert fit(folder, "--device", "raspberry-pi-5", "--json") == before


def test_fit_opens_a_checkpoint_once_for_all_devices(checkpoints, monkeypatch):
    """Reading the header of a large GGUF file takes seconds."""
    from edgert.export.checkpoint import source

    calls, opening = [], source.open_checkpoint
    monkeypatch.setattr(source, "open_checkpoint", lambda path: calls.append(path) or opening(path))
    assert len(json.loads(fit(checkpoints("llama"), "--device", "all", "--json"))) == len(devices.names())
    assert len(calls) == 1


def test_fit_names_what_is_too_much(checkpoints, monkeypatch):
    monkeypatch.setattr(memory, "RUNTIME", 10**9)
    assert "does not fit: " in fit(checkpoints("llama"), "--device", "raspberry-pi-zero-2-w")


@linux
@pytest.mark.student
def test_loads_under_a_limit(student):
    """Within 1 GiB the student answers, within 200 MiB it is refused in one line rather than killed."""
    if reason := control_group.why_not():
        pytest.skip(reason)
    command = [sys.executable, "-m", "edgert", "generate", str(student), "-p", "Hello", "--max-tokens", "2"]
    assert control_group.run(command, 1 << 30).returncode == 0
    refused = control_group.run(command, 200 << 20)
    assert refused.returncode == edgert.DoesNotFit.exit_code
    assert re.fullmatch(r"edgert: .* needs \d+ MB .*--force loads it all the same\n", refused.stderr)


def test_an_open_model_keeps_the_memory_that_it_was_promised(bundles, monkeypatch):
    monkeypatch.undo()
    before = promises.promised()
    with edgert.load(bundles(), context=200, conversations=3) as model:
        facts = model.bundle.manifest.model
        each = 2 * facts.num_layers * facts.num_kv_heads * facts.head_dim * 4
        assert promises.promised() - before == each * 3 * 200
        held = model.generate("the fox", max_tokens=5).timings
        left = each * (3 * 200 - held.prompt_tokens - held.answer_tokens)
        assert left <= promises.promised() - before < left + 2 * each
        monkeypatch.setattr(devices, "memory_available", lambda: promises.promised() + (1 << 20))
        with pytest.raises(edgert.DoesNotFit, match="free beside .* that open models may still take"):
            edgert.load(bundles())
        monkeypatch.undo()
    del model
    gc.collect()
    assert promises.promised() == before
