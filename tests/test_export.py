"""What lands in a bundle, and what happens to a bundle when an export fails."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import tiny

from edgert import BundleError, CheckpointError, UsageError, open_bundle
from edgert.bundle import DATA
from edgert.errors import EdgertWarning
from edgert.export import ExportOptions, calibration
from edgert.export import export as measured_export
from edgert.export.forms import Blocks


def export(source, folder, progress=None, **options):
    """Without the measurement at the end, which test_passport.py looks at."""
    return measured_export(source, folder, ExportOptions(verify=False, **options), progress)


def test_every_file_is_listed_with_its_size_and_hash(bundles):
    bundle = open_bundle(bundles())
    on_disk = {path.name for path in bundle.folder.iterdir()} - {"edgert.json"}
    assert set(bundle.manifest.files) == on_disk
    for name, facts in bundle.manifest.files.items():
        data = bundle.path(name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (facts.size, facts.sha256)
    bundle.check_hashes()


def test_manifest_holds_the_facts(bundles):
    manifest = open_bundle(bundles("qwen2")).manifest
    assert (manifest.model.family, manifest.model.num_kv_heads, manifest.model.tied_embeddings) == (
        "qwen2",
        2,
        False,
    )
    assert manifest.model.parameters == sum(
        int(np.prod(shape)) for shape in tiny.shapes(tiny.Tiny("qwen2").config).values()
    )
    assert (manifest.quantization.scheme, manifest.quantization.block_size) == ("int8", {})
    assert manifest.devices == ("laptop-cpu",)
    assert manifest.generation.eos_token_ids == (1,)


def test_one_flipped_byte_is_noticed(bundles, tmp_path):
    export_copy(bundles(), tmp_path / "b")
    path = tmp_path / "b" / "model.onnx.data"
    data = bytearray(path.read_bytes())
    data[1234] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="model.onnx.data: damaged"):
        open_bundle(tmp_path / "b").check_hashes()


def export_copy(bundle, folder):
    import shutil

    shutil.copytree(bundle, folder)


def test_a_truncated_file_is_noticed_when_opened(bundles, tmp_path):
    export_copy(bundles(), tmp_path / "b")
    path = tmp_path / "b" / "model.onnx.data"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match="model.onnx.data: .* bytes instead of"):
        open_bundle(tmp_path / "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "edgert.json: not a valid manifest"),
        ("[" * 100_000, "edgert.json: not a valid manifest"),
        ("{}", "edgert.json: format_version: missing; export or pull it again"),
        ('{"format_version": 99}', r"edgert.json: bundle format 99, edgert \S+ reads 3 and 4: update edgert"),
    ],
)
def test_a_foreign_manifest_is_refused(bundles, tmp_path, text, message):
    export_copy(bundles(), tmp_path / "b")
    (tmp_path / "b" / "edgert.json").write_text(text)
    with pytest.raises(BundleError, match=message):
        open_bundle(tmp_path / "b")


def test_a_manifest_cannot_name_files_outside_the_bundle(bundles, tmp_path):
    export_copy(bundles(), tmp_path / "b")
    path = tmp_path / "b" / "edgert.json"
    path.write_text(path.read_text().replace('"tokenizer.json"', '"../tokenizer.json"'))
    with pytest.raises(BundleError, match="leaves the bundle"):
        open_bundle(tmp_path / "b")


def initializers(bundle, graph):
    model = ir.load(bundle / graph)
    return {name: value.const_value for name, value in model.graph.initializers.items()}


@pytest.mark.parametrize("quant", ["int8", "fp32"])
def test_tied_tables_are_stored_once(bundles, quant):
    tensors = initializers(bundles("llama", quant), "model.onnx")
    tables = {n: t for n, t in tensors.items() if n.startswith("embedding.")}
    piece = "codes" if quant == "int8" else "weights"
    table, matrix = tables[f"embedding.table.{piece}"], tables[f"embedding.matrix.{piece}"]
    assert (table.offset, table.length) == (matrix.offset, matrix.length)


def test_untied_tables_are_both_stored(bundles):
    tensors = initializers(bundles("qwen2"), "model.onnx")
    assert tensors["embedding.table.codes"].offset != tensors["head.matrix.codes"].offset


def test_both_graphs_share_all_weights(bundles):
    ours, genai = (initializers(bundles(), graph) for graph in ("model.onnx", "genai.onnx"))
    external = {n: (t.offset, t.length) for n, t in ours.items() if isinstance(t, ir.ExternalTensor)}
    assert external == {n: (t.offset, t.length) for n, t in genai.items() if isinstance(t, ir.ExternalTensor)}
    assert all(offset % 4096 == 0 for offset, _ in external.values())


def test_int8_codes_are_within_half_a_step():
    rows = np.random.default_rng(0).normal(size=(7, 64)).astype(np.float32)
    rows[3] = 0
    codes, scales = Blocks(8, 32, 4).encode(rows, None)
    decoded = (codes.reshape(7, 2, 32).astype(np.float32) - 128) * scales[..., None]
    assert (np.abs(decoded.reshape(7, 64) - rows) <= np.repeat(scales, 32, axis=1) * 0.5001).all()
    assert codes.min() >= 1 and (codes[3] == 128).all()


@pytest.mark.parametrize(("columns", "size"), [(576, 64), (96, 32), (48, 16)])
def test_blocks_shrink_until_they_fill_a_row(columns, size):
    assert Blocks(8, 64, 4).fitted(columns).block_size == size


def test_an_existing_bundle_is_kept_unless_forced(checkpoints, tmp_path):
    folder = tmp_path / "b"
    export(checkpoints("llama"), folder)
    before = (folder / "edgert.json").read_text()
    with pytest.raises(UsageError, match="exists already.*--force"):
        export(checkpoints("qwen2"), folder)
    assert (folder / "edgert.json").read_text() == before
    export(checkpoints("qwen2"), folder, force=True)
    assert open_bundle(folder).manifest.model.family == "qwen2"


def test_force_never_removes_a_folder_that_is_not_a_bundle(checkpoints, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is not a bundle"):
        export(checkpoints("llama"), tmp_path / "thesis", force=True)
    assert (tmp_path / "thesis" / "chapter.txt").exists()


def test_a_failed_export_leaves_the_old_bundle_and_no_rubbish(checkpoints, tmp_path):
    folder = tmp_path / "b"
    export(checkpoints("llama"), folder)
    source = tiny.write(tmp_path / "odd", tiny.Tiny(overrides={"intermediate_size": 100}))
    with pytest.raises(CheckpointError, match="'layers.0.down': 100 columns are not a multiple of 16"):
        export(source, folder, quant="int4", force=True)
    assert open_bundle(folder).manifest.name == "b"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "odd"]


def test_an_interrupt_while_replacing_keeps_one_of_the_two(checkpoints, tmp_path, monkeypatch):
    folder = tmp_path / "b"
    export(checkpoints("llama"), folder)
    rename, calls = Path.rename, []

    def interrupted(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(checkpoints("qwen2"), folder, force=True)
    assert open_bundle(folder).manifest.model.family == "llama"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_folder_that_appears_meanwhile_is_not_replaced(checkpoints, tmp_path):
    folder = tmp_path / "b"

    def appear(_phase, _done, _total):
        folder.mkdir(exist_ok=True)
        (folder / "precious.txt").write_text("mine")

    with pytest.raises(UsageError, match="exists already"):
        export(checkpoints("llama"), folder, progress=appear)
    assert (folder / "precious.txt").read_text() == "mine"


def test_force_spares_a_bundle_that_holds_something_else(checkpoints, tmp_path):
    folder = tmp_path / "b"
    export(checkpoints("llama"), folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds 'notes.txt'"):
        export(checkpoints("llama"), folder, force=True)


def test_a_source_is_never_replaced_by_its_own_bundle(tmp_path):
    source = tiny.write(tmp_path / "student")
    for folder in (source, tmp_path):
        with pytest.raises(UsageError, match="lies inside"):
            export(source, folder, force=True)


def damaged(folder, layer, value):
    """A checkpoint with one weight of a layer's down replaced."""
    source, tensors = tiny.write(folder), tiny.random_tensors(tiny.Tiny().config)
    tensors[f"model.layers.{layer}.mlp.down_proj.weight"][3, 5] = value
    tiny.save_tensors(source, tensors)
    return source


def test_weights_that_are_not_finite_are_named(tmp_path):
    source = damaged(tmp_path / "c", layer=1, value=np.nan)
    with pytest.raises(CheckpointError, match=r"matrix 'layers.1.down' holds weights that are not finite"):
        export(source, tmp_path / "b")


def test_the_first_matrix_that_is_not_finite_is_named_though_later_ones_are_calibrated_before(
    tmp_path, monkeypatch
):
    """Some LAPACKs refuse NaN, which spreads to the layers after it."""
    factor = np.linalg.cholesky

    def strict(matrix):
        if not np.isfinite(matrix).all():
            raise np.linalg.LinAlgError("not finite")
        return factor(matrix)

    monkeypatch.setattr(np.linalg, "cholesky", strict)
    source = damaged(tmp_path / "c", layer=0, value=np.inf)
    with pytest.raises(CheckpointError, match=r"matrix 'layers.0.down' holds weights that are not finite"):
        export(source, tmp_path / "b")


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_wide_matrices_are_calibrated_alone_and_to_the_same_end(quant, checkpoints, tmp_path, monkeypatch):
    usual = export(checkpoints("llama"), tmp_path / "a", quant=quant)
    monkeypatch.setattr(calibration, "WIDE", 64)  # down has 96 columns
    alone = export(checkpoints("llama"), tmp_path / "b", quant=quant)
    assert alone.path(DATA).read_bytes() == usual.path(DATA).read_bytes()


def test_progress_reaches_the_end(checkpoints, tmp_path):
    seen = []
    export(checkpoints("llama"), tmp_path / "b", progress=lambda _, done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]


def test_recommended_sampling_is_said_in_a_line(tmp_path):
    source = tiny.write(tmp_path / "c")
    (source / "chat_template.jinja").write_text("{{ messages[0]['content'] }}<think>")
    with pytest.warns(
        EdgertWarning, match=r"^b knows <think>, .* no temperature: .* 0.6 and top_p 0.95"
    ) as said:
        bundle = export(source, tmp_path / "b")
    assert len(said) == 1 and "\n" not in str(said[0].message)
    assert (bundle.manifest.generation.temperature, bundle.manifest.generation.top_p) == (0.6, 0.95)
    assert json.loads(bundle.text("genai_config.json"))["search"]["do_sample"]


def test_nothing_is_said_of_students_that_do_not_think(tmp_path):
    """Warnings are errors here."""
    source = tiny.write(tmp_path / "c", tiny.Tiny(generation={"do_sample": True, "top_p": 0.9}))
    defaults = export(source, tmp_path / "b").manifest.generation
    assert (defaults.temperature, defaults.top_p) == (1.0, 0.9)


@pytest.mark.parametrize("asked", [0, 257])
def test_context_is_bounded_by_the_model(checkpoints, tmp_path, asked):
    with pytest.raises(UsageError, match="between 1 and the model's 256"):
        export(checkpoints("llama"), tmp_path / "b", max_context=asked)


def test_max_context_bounds_the_bundle(checkpoints, tmp_path):
    bundle = export(checkpoints("llama"), tmp_path / "b", max_context=100)
    assert bundle.manifest.model.context == 100
    assert json.loads(bundle.path("genai_config.json").read_text())["model"]["context_length"] == 100


PEAK = """
import sys
from pathlib import Path
from edgert.export import ExportOptions, export
export(Path(sys.argv[1]), Path(sys.argv[2]), ExportOptions(verify=False, calibrate=sys.argv[3] == "yes"))
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("calibrate", ["no", "yes"])
def test_peak_memory_does_not_grow_with_the_model(tmp_path, calibrate):
    """Four times the weights, the same peak within a few chunks; calibration holds four layers."""
    peaks = []
    for layers in (6, 24):
        overrides = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": layers}
        source = tiny.write(tmp_path / f"c{layers}", tiny.Tiny(overrides=overrides, dtype="bfloat16"))
        command = [sys.executable, "-c", PEAK, str(source), str(tmp_path / f"b{layers}"), calibrate]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) // 1024)
    weights = (tmp_path / "c24" / "model.safetensors").stat().st_size >> 20
    assert weights > 100
    assert peaks[1] - peaks[0] < weights // 3, f"{peaks} MB at peak, {weights} MB of weights"
