"""Bench: what is measured is what is said, and peers do the same work; no test depends on time."""

import json
import math
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from click.testing import CliRunner

import edgert
from edgert import devices
from edgert.bench import bandwidth, energy, footprint, peers
from edgert.bench import measure as bench
from edgert.bench import plot as bench_plot
from edgert.bench.figures import Point, figure
from edgert.bench.footprint import Footprint, Opening, Resident
from edgert.bench.measure import Wanted, fitted, measure
from edgert.bench.pace import Course, Runner, course, text_tokens
from edgert.bench.weights import step_bytes
from edgert.bundle import open_bundle
from edgert.cli import main
from edgert.engine import memory
from edgert.engine.slots import Slot
from edgert.export import ExportOptions, export
from edgert.installation import how_to_add
from edgert.text.tokenizer import open_tokenizer

posix = pytest.mark.skipif(sys.platform == "win32", reason="starts a script by its first line")

# What llama-bench prints of what it was asked for: twice as fast with flash attention, but not at depth 0.
LLAMA = """
import json, os, sys
def asked(name):
    return sys.argv[sys.argv.index(name) + 1]
with open(os.environ["ASKED"], "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
tests = []
for depth in map(int, asked("-d").split(",") if "-d" in sys.argv else ["0"]):
    for flash in asked("-fa").split(","):
        speed = 100.0 - depth / 10 + (50 if (flash == "1") == (depth > 0) else 0)
        tests.append({"n_depth": depth, "flash_attn": int(flash), "avg_ts": speed})
print(json.dumps(tests))
"""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A gigabyte is read for real only outside tests."""
    monkeypatch.setattr(bandwidth, "BUFFER", 1 << 20)


@pytest.fixture
def quick(monkeypatch):
    """No process is started to load in."""
    found = Footprint(0.5, Resident(3_000_000, 2_000_000, 5_000_000))
    monkeypatch.setattr(footprint, "measure", lambda _opening, _prompt: found)


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Makes a program on the PATH from Python source."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin") + os.pathsep + os.environ["PATH"])

    def make(name, source):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\n{source}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make


@pytest.fixture
def llama(script, tmp_path, monkeypatch):
    """A fake llama-bench; the arguments it was started with."""
    monkeypatch.delenv("LLAMA_BENCH", raising=False)
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    script("llama-bench", LLAMA)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    return lambda: (tmp_path / "asked").read_text().splitlines()


def opening(folder, **changes):
    return replace(Opening(str(folder), None, None, None, force=False), **changes)


def silent(_done, _total):
    pass


def run(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def parameters(family):
    return {name: math.prod(shape) for name, shape in tiny.shapes(tiny.Tiny(family).config).items()}


def test_a_step_reads_every_matrix_once_as_it_is_stored(checkpoints, tmp_path):
    """By hand: codes of a byte; a float32 scale and a zero per row; and what rotates the input of down."""
    q, k, o, mlp = 64 * 64, 32 * 64, 64 * 64, 96 * 64
    layer = q + 2 * k + o + 3 * mlp + 5 * (64 + 2 * 32 + 64 + 2 * 96 + 64)
    head = 320 * 64 + 5 * 320
    norms, mixing, angles, turns = 7 * 64 * 4, 64 * 64 * 4, 2 * 8 * 4, 4 * (32 * 32 + 3 * 3)
    export(checkpoints("llama"), tmp_path / "b", ExportOptions(devices=("laptop-cpu",), verify=False))
    wanted = 3 * layer + head + norms + mixing + angles + turns
    assert 0 <= step_bytes(open_bundle(tmp_path / "b"), "model.onnx") - wanted < 256  # shapes


@pytest.mark.parametrize(("family", "unread"), [("smollm3", 0), ("qwen2", 319 * 64)])
def test_an_untied_embedding_is_a_row_and_a_tied_one_the_head(bundles, family, unread):
    bundle = open_bundle(bundles(family, "fp32"))
    assert bundle.manifest.model.tied_embeddings == (not unread)
    angles = 2 * 8 * 4
    wanted = 4 * (sum(parameters(family).values()) - unread) + angles
    assert step_bytes(bundle, "model.onnx") == wanted


def test_a_graph_that_is_none_is_said(bundles, tmp_path):
    bundle = replace(open_bundle(bundles()), folder=tmp_path)
    whole = open_bundle(bundles()).path("model.onnx").read_bytes()
    for content in (b"\x3a\xff\xff\x03cut", whole[: len(whole) // 2], b"\xff" * 9):
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(edgert.BundleError, match=r"model\.onnx: not a graph"):
            step_bytes(bundle, "model.onnx")


def test_depths_beyond_the_context_are_left_out():
    assert course((2048, 0, 512, 0), 544) == (Course(512, (0, 512), 32), (2048,))
    assert course((0, 512), 543)[1] == (512,)
    assert course((0,), 10) == (Course(10, (0,), 5), ())


class Recorder:
    """A decoder that notes how long the row was before each step, and how many tokens it read."""

    def __init__(self):
        self.slots, self.before, self.read = [Slot()], [], []

    def afresh(self):
        self.slots[0].rewind(0)
        return self.slots[0]

    def extend(self, slot, tokens):
        slot.tokens += tokens
        self.read.append(len(tokens))
        return np.zeros((1, tiny.VOCAB), np.float32)

    def decode(self, slots, tokens):
        self.before.append(len(slots[0]))
        slots[0].tokens += tokens


class Rising:
    """A meter that gives 64 joules per measurement."""

    def start(self):
        pass

    def stop(self):
        return 64.0


def test_steps_are_decoded_at_their_depths_and_the_prompt_is_read_whole(bundles):
    tokenizer = open_tokenizer(open_bundle(bundles()))
    decoder = Recorder()
    runner = Runner(decoder, text_tokens(tokenizer, 200), tokenizer, tiny.VOCAB, Rising())
    runner.step_seconds(5, 2)
    decoder.before, decoder.read = [], []
    lap = runner.lap(Course(20, (0, 10, 100), 4))
    assert decoder.read[0] == 20
    warm_up, *measured = decoder.before[-5:]
    assert decoder.before[:8] == [100, 101, 102, 103, 10, 11, 12, 13]
    assert (warm_up, measured) == (0, [0, 1, 2, 3])
    assert lap.joules == {0: 16.0, 10: 16.0, 100: 16.0}
    assert list(lap.speeds.decode) == [0, 10, 100]


def test_what_is_measured(bundles, quick, monkeypatch):
    monkeypatch.setattr(energy, "find", lambda: energy.Found(Rising()))
    told = []
    wanted = Wanted((0, 100), runs=3, curve=True)
    found = measure(opening(bundles()), wanted, lambda done, total: told.append((done, total)))
    assert (found.prompt, found.context, found.skipped, found.no_energy) == (256, 256, (), "")
    assert found.load == figure([0.5] * 3) and found.memory.peak.median == 5_000_000
    shallow, deep = found.depths
    per_token = memory.kv_per_token(open_bundle(bundles()).manifest.model, "fp32")
    assert per_token == 2 * 3 * 2 * 16 * 4
    assert deep.step_bytes - shallow.step_bytes == 100 * per_token
    weights = step_bytes(open_bundle(bundles()), found.graph)
    assert shallow.step_bytes == weights + 16 * per_token  # halfway through 32 steps
    for at in found.depths:
        for speed, reached, share, wall in zip(
            at.decode.rounds, at.reached.rounds, at.share.rounds, found.bandwidth.rounds, strict=True
        ):
            assert reached == pytest.approx(speed * at.step_bytes / 1e9)
            assert share == pytest.approx(reached / wall)
        assert at.joules == figure([2.0] * 3)
    assert len(found.curve.points) == 12 and found.curve.points[-1].depth <= 256
    assert told[-1] == (3 * 2 + 12, 3 * 2 + 12)


def test_medians_and_ranges():
    assert figure([3.0, 1.0, 2.0, 9.0]) == bench.Figure(2.5, 1.0, 9.0, (3.0, 1.0, 2.0, 9.0))


def test_the_line_through_points():
    straight = fitted([Point(depth, 5 + 2 * depth / 1000) for depth in (0, 100, 900, 4000)])
    assert (straight.start, straight.slope, straight.r2) == pytest.approx((5, 2, 1))
    flat = fitted([Point(0, 1), Point(1000, 3), Point(2000, 1)])
    assert (flat.start, flat.slope, flat.r2) == pytest.approx((5 / 3, 0, 0))


def test_loading_is_done_in_a_process_of_its_own(bundles):
    found = footprint.measure(opening(bundles(), context=64), [1, 2, 3] * 40)
    assert found.load > 0
    assert (found.resident is None) == (sys.platform != "linux")
    if found.resident:
        assert found.resident.peak >= found.resident.anonymous > found.resident.files // 10 > 0
    with pytest.raises(edgert.EdgertError, match="in a process of its own: unknown device 'toaster'"):
        footprint.measure(opening(bundles(), device="toaster"), [1, 2])


def test_memory_that_is_not_told_is_none(monkeypatch, tmp_path, bundles):
    monkeypatch.setattr(footprint, "STATUS", tmp_path / "status")
    assert footprint.resident() is None
    (tmp_path / "status").write_text("VmHWM:\t  300 kB\nRssAnon:\t  100 kB\nRssFile:\t   20 kB\n")
    assert footprint.resident() == Resident(102_400, 20_480, 307_200)
    monkeypatch.setattr(footprint, "measure", lambda _opening, _prompt: Footprint(0.1, None))
    assert "memory              this system does not tell" in run(bundles(), "--runs", 1).stdout


def test_bandwidth_reads_all_of_a_buffer_that_fits_into_memory(monkeypatch):
    monkeypatch.setattr(bandwidth, "BUFFER", 1 << 40)
    monkeypatch.setattr(devices, "memory_available", lambda: 80_000_003)
    read = []
    wall = bandwidth.Bandwidth(3)
    assert wall.size == 10_000_000
    monkeypatch.setattr(bandwidth, "largest", lambda part: read.append(part.nbytes))
    assert wall.measure() > 0
    assert len(read) == 3 * (bandwidth.PASSES + 1)
    assert sum(read[-3:]) == wall.size


def zone(folder, number, name, used, reach=1_000_000_000):
    place = folder / f"intel-rapl:{number}"
    place.mkdir(parents=True, exist_ok=True)
    for file, content in (("name", name), ("energy_uj", used), ("max_energy_range_uj", reach)):
        (place / file).write_text(f"{content}\n")
    return place


def test_energy_is_that_of_packages_and_their_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    zone(tmp_path, "0", "package-0", 5_000_000)
    zone(tmp_path, "0:0", "core", 1_000_000)
    zone(tmp_path, "0:1", "dram", 2_000_000)
    zone(tmp_path, "1", "psys", 1_000_000)
    zone(tmp_path, "2", "package-1", 999_000_000)
    meter = energy.find().meter
    meter.start()
    zone(tmp_path, "0", "package-0", 8_000_000)
    zone(tmp_path, "0:0", "core", 9_000_000)
    zone(tmp_path, "0:1", "dram", 2_500_000)
    zone(tmp_path, "1", "psys", 9_000_000)
    zone(tmp_path, "2", "package-1", 500_000)  # it began again
    assert meter.stop() == pytest.approx(3 + 0.5 + 1.5)
    meter.start()
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.stop() is None


def test_energy_that_is_not_told_has_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert energy.find() == energy.Found(None, "this machine does not tell its energy")
    hidden = zone(tmp_path, "0", "package-0", 1) / "energy_uj"
    hidden.unlink()
    hidden.mkdir()  # root may read everything else
    assert energy.find().reason == "this machine tells its energy to its administrator only"


@posix
def test_a_raspberry_pi_5_tells_the_power_of_its_rails(tmp_path, script, monkeypatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    script(
        "vcgencmd",
        "print(''' VDD_CORE_A current(7)=2.00000000A\\n DDR_VDD2_A current(5)=0.50000000A\\n'''"
        "''' VDD_CORE_V volt(15)=0.80000000V\\n DDR_VDD2_V volt(13)=1.20000000V\\n EXT5V_V volt(24)=5.1V''')",
    )
    meter = energy.find().meter
    ticks = iter([10.0, 14.0])
    monkeypatch.setattr(energy.time, "perf_counter", lambda: next(ticks))
    meter.start()
    assert meter.stop() == pytest.approx((2 * 0.8 + 0.5 * 1.2) * 4)
    script("vcgencmd", "print('error=1 error_msg=\"Command not registered\"')")
    assert energy.find().meter is None


@posix
def test_llama_cpp_does_the_same_work_and_its_better_way_counts(bundles, quick, llama, tmp_path):
    rival = peers.parse(f"llama.cpp={tmp_path / 'model.gguf'}")
    found = measure(opening(bundles()), Wanted((0, 100), runs=2, rivals=(rival,)), silent)
    (peer,) = found.against
    assert [at.decode.rounds for at in peer.depths] == [(150.0, 150.0), (140.0, 140.0)]
    assert peer.prefill.median == 150.0
    ours = found.depths[1].decode.rounds
    assert peer.depths[1].ratio.rounds == pytest.approx(tuple(speed / 140 for speed in ours))
    prompt, depths = (line.split() for line in llama()[:2])
    assert len(llama()) == 4
    for line in (prompt, depths):
        assert line[line.index("-t") + 1] == str(found.threads)
        assert "-dev none" in " ".join(line) and "-r 1 -o json" in " ".join(line)
    assert " ".join(prompt).endswith("-p 256 -n 0")
    assert " ".join(depths).endswith("-p 0 -n 32 -d 0,100")


@posix
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import sys; sys.exit('error: failed to load model')", "failed: error: failed to load model"),
        ("print('no json')", "printed something else than its JSON"),
        ("print('[]')", "did not measure at a depth of 0"),
        ("print('[{}]')", "printed something else than its JSON: 'avg_ts'"),
    ],
)
def test_a_peer_that_fails_is_one_line(bundles, quick, script, llama, tmp_path, source, said):
    script("llama-bench", source)
    result = run(bundles(), "--runs", 1, "--against", f"llama.cpp={tmp_path / 'model.gguf'}")
    assert result.exit_code == 1 and said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_another_bundle_takes_turns(bundles, quick):
    rival = f"edgert={bundles('llama', 'fp32')}"
    result = run(bundles(), "--runs", 2, "--depths", "0,64", "--against", rival, "--json")
    (peer,) = json.loads(result.stdout)["against"]
    assert peer["name"] == "edgert" and [at["depth"] for at in peer["depths"]] == [0, 64]
    assert len(peer["prefill_ratio"]["rounds"]) == len(peer["depths"][1]["ratio"]["rounds"]) == 2


def test_another_bundle_must_hold_as_much(bundles, checkpoints, quick, tmp_path):
    export(checkpoints("llama"), tmp_path / "b", ExportOptions(quant="fp32", max_context=64, verify=False))
    result = run(bundles(), "--runs", 1, "--against", f"edgert={tmp_path / 'b'}")
    assert result.exit_code == 2 and "holds 64 tokens only: compare with --context 64" in result.stderr


@pytest.mark.parametrize("rival", ["vllm=model", "llama.cpp", "llama.cpp=", "=x"])
def test_an_unknown_peer_names_the_known_ones(bundles, rival):
    result = run(bundles(), "--against", rival)
    assert result.exit_code == 2
    assert "write NAME=PATH, where NAME is one of llama.cpp, edgert" in result.stderr


def test_without_llama_bench_it_is_said_where_to_get_it(bundles, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LLAMA_BENCH", raising=False)
    result = run(bundles(), "--against", "llama.cpp=model.gguf")
    assert result.exit_code == 2 and "llama-bench is not on the PATH: it comes with" in result.stderr
    monkeypatch.setenv("LLAMA_BENCH", str(tmp_path / "gone"))
    result = run(bundles(), "--against", "llama.cpp=model.gguf")
    assert result.exit_code == 2 and f"LLAMA_BENCH={tmp_path / 'gone'} is no program" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@posix
def test_a_gguf_that_is_not_there_is_said_before_anything_is_measured(bundles, llama):
    result = run(bundles(), "--against", "llama.cpp=gone.gguf")
    assert result.exit_code == 2 and "there is no file gone.gguf" in result.stderr


def test_the_screen(bundles, quick, monkeypatch, tmp_path):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run(bundles(), "--runs", 2)
    assert result.exit_code == 0, result.output
    title, blank, *lines = result.stdout.splitlines()
    assert title.endswith("context 256; 2 rounds, median (lowest to highest)") and not blank
    assert [line[:20].strip() for line in lines] == [
        "load",
        "prefill",
        "first token",
        "decode at 0",
        "decode at 512",
        "decode at 2048",
        "this machine reads",
        "choosing a token",
        "memory",
        "energy",
    ]
    assert "0.50 s        (0.50 to 0.50)" in lines[0] and lines[1].endswith("256 tokens")
    assert lines[3].endswith("% of what it reads")
    assert "not measured: needs 544 tokens, the context holds 256" in lines[4]
    assert lines[8].endswith("3 MB of its own, 2 MB of files, peak 5 MB")
    assert lines[9].endswith("this machine does not tell its energy")
    assert result.stderr == ""


def test_json_has_every_round(bundles, quick):
    table = json.loads(run(bundles(), "--runs", 3, "--depths", "0,4000", "--json").stdout)
    assert len(table["prefill"]["rounds"]) == len(table["depths"][0]["share"]["rounds"]) == 3
    assert table["skipped"] == [4000] and table["against"] == [] and table["curve"] is None
    assert table["prefill"]["lowest"] <= table["prefill"]["median"] <= table["prefill"]["highest"]


@pytest.mark.parametrize("depths", ["-1", "a", "1,,2", ""])
def test_depths_that_are_no_numbers(bundles, depths):
    result = run(bundles(), "--depths", depths)
    assert result.exit_code == 2 and "is no list of depths: write it as 0,512,2048" in result.stderr


def test_no_depth_that_fits_is_an_error(bundles, quick):
    result = run(bundles(), "--depths", "5000")
    assert result.exit_code == 2 and "no depth fits into a context of 256 tokens" in result.stderr


@pytest.mark.parametrize(
    ("name", "begins"), [("p.png", b"\x89PNG\r\n"), ("p.svg", b"<?xml"), ("P.PNG", b"\x89PNG")]
)
def test_a_plot_is_drawn(bundles, quick, tmp_path, name, begins):
    pytest.importorskip("matplotlib")
    against = f"edgert={bundles('llama', 'fp32')}"
    result = run(bundles(), "--runs", 1, "--plot", tmp_path / name, "--against", against, "--depths", "0,50")
    assert result.exit_code == 0, result.output
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert "per 1,000 tokens" in result.stdout and str(tmp_path / name) in result.stdout.splitlines()[-1]


@pytest.mark.parametrize("stopped", ["replace", "savefig"])
def test_an_interrupted_plot_leaves_nothing_and_the_older_one_as_it_was(
    bundles, quick, tmp_path, monkeypatch, stopped
):
    matplotlib = pytest.importorskip("matplotlib.figure")
    found = measure(opening(bundles()), Wanted((0,), runs=1, curve=True), silent)
    (tmp_path / "p.png").write_bytes(b"older")

    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    where = Path if stopped == "replace" else matplotlib.Figure
    monkeypatch.setattr(where, stopped, interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench_plot.save(found, tmp_path / "p.png")
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]
    assert (tmp_path / "p.png").read_bytes() == b"older"


def test_what_keeps_a_plot_from_being_saved_is_said_first(bundles, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "measure", lambda *_arguments: pytest.fail("measured"))
    result = run(bundles(), "--plot", tmp_path / "p.pdf")
    assert result.exit_code == 2 and "must end in .png or .svg" in result.stderr
    result = run(bundles(), "--plot", tmp_path / "gone" / "p.png")
    assert result.exit_code == 2 and "there is no folder" in result.stderr
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run(bundles(), "--plot", tmp_path / "p.png")
    assert result.exit_code == 3
    assert result.stderr == f"edgert: a plot needs the [plot] extra: {how_to_add('plot')}\n"


def test_matplotlib_is_not_imported_without_a_plot(bundles, quick, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(bundles(), "--runs", 1, "--depths", "0").exit_code == 0
