"""The manifest: what is written can be read; older formats stay readable; no bad value gets past the door."""

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner

import edgert
from edgert import BundleError, devices, open_bundle
from edgert.bundle import manifest as manifests
from edgert.bundle.manifest import parse_manifest
from edgert.cli import main
from edgert.engine import golden, loading
from edgert.export import ExportOptions, export

FORMAT_3 = Path(__file__).parent / "data" / "format-3.tar.xz"  # as edgert last wrote it


@pytest.fixture
def format_3(tmp_path):
    shutil.unpack_archive(FORMAT_3, tmp_path, filter="data")
    return tmp_path / "format-3"


@pytest.fixture
def measured(format_3):
    """A small bundle with every part of a manifest filled in, and its manifest as a table of format 4."""
    path = format_3 / "edgert.json"
    table = json.loads(path.read_text("utf-8"))
    table |= {"format_version": 4, "requires": []}
    table["origin"] |= {"adapters": [], "revision": None}
    for graph in table["graphs"].values():
        graph |= {"cache": "shared", "attention_biases": 0, "unsigned": ""}
        graph["fidelity"] |= {"kl_error": 0.0}
    table["quantization"] |= {"spread": False, "columns_first": False}
    table["adapters"] = {}
    path.write_text(json.dumps(table), "utf-8")
    return format_3, table


def write(folder, table):
    (folder / "edgert.json").write_text(json.dumps(table), "utf-8")


def changed(table, path, value):
    """A copy with another value at a path; DELETED removes it."""
    table = copy.deepcopy(table)
    place = table
    for key in path[:-1]:
        place = place[key]
    if value is DELETED:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return table


DELETED = object()


def test_format_3_still_opens_and_answers_the_same(format_3):
    bundle = open_bundle(format_3)
    bundle.check_hashes()
    assert (bundle.manifest.format_version, bundle.manifest.requires) == (3, ())
    loaded = loading.load_graph(bundle, devices.load("laptop-cpu"), bundle.graph(), 64)
    assert golden.replay(loaded.decoder, golden.read(bundle)) <= golden.limit(bundle)
    assert edgert.load(format_3).generate("the quick fox", max_tokens=4).token_ids


@pytest.mark.parametrize(("version", "remedy"), [(2, "export it again"), (5, "update edgert")])
def test_other_formats_are_refused_in_a_line(measured, version, remedy):
    folder, table = measured
    write(folder, {"format_version": version, "name": table["name"]})
    result = CliRunner().invoke(main, ["info", str(folder)])
    line = f"bundle format {version}, edgert {edgert.__version__} reads 3 and 4: {remedy}"
    assert result.exit_code == 4 and result.stderr == f"edgert: {folder / 'edgert.json'}: {line}\n"


def test_what_a_bundle_requires_is_named_before_anything_else_is_read(measured, monkeypatch):
    folder, table = measured
    write(folder, {**table, "requires": ["telepathy"], "graphs": "another way to write them"})
    wanted = f"this bundle needs 'telepathy', which edgert {edgert.__version__} does not know: update edgert"
    with pytest.raises(BundleError, match=wanted):
        open_bundle(folder)
    write(folder, {**table, "requires": ["telepathy"]})
    monkeypatch.setattr(manifests, "FEATURES", frozenset({"telepathy"}))
    assert open_bundle(folder).manifest.requires == ("telepathy",)


def test_a_cache_that_grows_is_required_by_name(measured):
    """An older edgert must refuse such a bundle instead of feeding it what its graph doesn't have."""
    folder, table = measured
    table["graphs"]["model.onnx"]["cache"] = "growing"
    write(folder, table)
    with pytest.raises(BundleError, match=r"graphs\.model\.onnx\.cache: growing without 'growing-cache'"):
        open_bundle(folder)
    write(folder, {**table, "requires": ["growing-cache"]})
    assert open_bundle(folder).manifest.graphs["model.onnx"].cache == "growing"


def test_what_is_written_is_what_is_read(measured):
    folder, table = measured
    manifest = open_bundle(folder).manifest
    assert json.loads(manifest.to_json()) == table
    assert parse_manifest(manifest.to_json()) == manifest


def test_fields_of_a_later_edgert_are_left_alone(measured):
    folder, table = measured
    expected = open_bundle(folder).manifest
    write(folder, changed({**table, "later": 1}, ("graphs", "model.onnx", "later"), [2]))
    assert open_bundle(folder).manifest == expected


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("graphs", "model.onnx", "kv"), "fp99", 'graphs.model.onnx.kv: "fp99" is none of fp32, int8'),
        (("graphs", "model.onnx", "form"), 8, "graphs.model.onnx.form: 8 is not a text"),
        (("generation", "eos_token_ids"), ["a"], 'generation.eos_token_ids.0: "a" is not a whole number'),
        (("quantization", "block_size", "qkv"), 0, "quantization.block_size.qkv: 0 is below 1"),
        (("model", "num_kv_heads"), 3, "model.num_kv_heads: 3 does not divide 2 heads"),
        (("model", "num_layers"), True, "model.num_layers: true is not a whole number"),
        (("model", "vocab_size"), DELETED, "model.vocab_size: missing"),
        (("generation", "bos_token_id"), 320, "generation.bos_token_id: 320 is not among 320 tokens"),
        (("generation", "top_p"), math.nan, "generation.top_p: NaN is not a finite number"),
        (("graphs", "model.onnx", "fidelity", "top1"), 10**400, "graphs.model.onnx.fidelity.top1: 10000"),
        (("files", "model.onnx", "sha256"), "ab", 'files.model.onnx.sha256: "ab" is not a SHA-256'),
        (("files", "model.onnx.data"), DELETED, "files.model.onnx.data: missing"),
        (("graphs",), {}, "graphs: {} is empty"),
        (("model",), [1], "model: [1] is not a table"),
        (("devices",), "laptop-cpu", 'devices: "laptop-cpu" is not a list'),
    ],
)
def test_a_bad_value_is_named_with_its_path(measured, path, value, message):
    folder, table = measured
    write(folder, changed(table, path, value))
    with pytest.raises(BundleError) as error:
        open_bundle(folder)
    assert str(error.value).startswith(f"{folder / 'edgert.json'}: {message}")
    assert str(error.value).endswith("; export or pull it again") and "\n" not in str(error.value)


def paths(table, path=()):
    """Every place in a table, branches as well as leaves."""
    entries = table.items() if isinstance(table, dict) else enumerate(table)
    for key, value in entries:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from paths(value, (*path, key))


HOSTILE = [
    *(None, "a", "", "\x00", -1, 0, 1, 0.5, True, [], {}, ["a"], {"a": 1}),
    *(10**400, 2**62, 1e300, DELETED),
]


def test_whatever_stands_in_a_manifest_it_is_a_bundle_or_a_bundle_error(measured):
    """A bundle means that all that is told from a manifest can be told."""
    folder, table = measured
    profile, opened, refused = devices.load("laptop-cpu"), 0, []
    for path in paths(table):
        for value in HOSTILE:
            write(folder, changed(table, path, value))
            try:
                bundle = open_bundle(folder)
            except BundleError as error:
                refused.append(str(error).removeprefix(str(folder)))
                continue
            opened += 1
            graph = bundle.graph()
            assert loading.plan(bundle, profile, graph, 64, devices.here()).peak > 0, path
            assert bundle.manifest.fidelity_lines() and parse_manifest(bundle.manifest.to_json()), path
            result = CliRunner().invoke(main, ["info", str(folder)])
            assert result.exit_code == 0, (path, value, result.exception)
    assert opened > 100 and len(refused) > 1000
    assert all("\n" not in text and len(text) < 300 for text in refused)


@pytest.mark.parametrize(
    "name",
    ["/etc/x", "../x", "a/../x", "./x", "a//x", "C:x", "C:/x", "a\\x", "", ".", "a/", "x\n", "\ud800", "x. ",
     "machine/x", "Machine", "x" * 300],
)  # fmt: skip
def test_a_file_name_stays_in_the_bundle_on_every_system(measured, name):
    folder, table = measured
    table["files"][name] = table["files"].pop("golden.json")
    write(folder, table)
    with pytest.raises(BundleError, match=r"edgert.json: files\..* (leaves the bundle|is )"):
        open_bundle(folder)


def test_files_may_lie_in_folders(measured):
    folder, table = measured
    (folder / "adapters").mkdir()
    (folder / "golden.json").rename(folder / "adapters" / "x.bin")
    table["files"]["adapters/x.bin"] = table["files"].pop("golden.json")
    write(folder, table)
    bundle = open_bundle(folder)
    bundle.check_hashes()
    (folder / "adapters" / "x.bin").unlink()
    with pytest.raises(BundleError, match=r"x\.bin: missing from the bundle"):
        open_bundle(folder)


def test_a_folder_may_be_a_text(bundles):
    assert open_bundle(str(bundles())).manifest == open_bundle(bundles()).manifest


def test_a_bundle_with_folders_can_be_replaced(measured, checkpoints):
    folder, table = measured
    (folder / "adapters").mkdir()
    (folder / "golden.json").rename(folder / "adapters" / "x.bin")
    table["files"]["adapters/x.bin"] = table["files"].pop("golden.json")
    write(folder, table)
    (folder / "adapters" / "mine.txt").write_text("years of work")
    options = ExportOptions(verify=False, calibrate=False, force=True)
    with pytest.raises(edgert.UsageError, match="holds 'adapters/mine.txt'"):
        export(checkpoints("llama"), folder, options)
    (folder / "adapters" / "mine.txt").unlink()
    export(checkpoints("llama"), folder, options)
    assert open_bundle(folder).manifest.format_version == 4


def test_an_export_writes_nothing_that_no_reader_accepts(tmp_path):
    source = tiny.write(
        tmp_path / "c", tiny.Tiny(generation={"do_sample": True, "temperature": 0.7, "top_p": 1.5})
    )
    with pytest.raises(edgert.CheckpointError, match=r"c: generation\.top_p: 1.5 is above 1"):
        export(source, tmp_path / "b", ExportOptions(verify=False, calibrate=False))
    assert not (tmp_path / "b").exists()


def test_a_graph_is_named_only_if_it_is_there(bundles):
    manifest = open_bundle(bundles()).manifest
    without = {name: facts for name, facts in manifest.files.items() if name != "model.onnx"}
    with pytest.raises(ValueError, match=r"files\.model\.onnx: missing"):
        parse_manifest(replace(manifest, files=without).to_json())
