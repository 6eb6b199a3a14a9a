"""The passport: what an export measures of itself, on text it was not tuned on, and what it refuses."""

import dataclasses
import json
from importlib import resources

import numpy as np
import pytest
import tiny
import tokenizers
from click.testing import CliRunner
from tokenizers import processors

import edgert
from edgert import FidelityError, UsageError, open_bundle
from edgert.cli import main
from edgert.engine.fidelity import Tally, diverge
from edgert.export import ExportOptions, export, job
from edgert.export.checkpoint import basis
from edgert.export.checkpoint.source import open_checkpoint
from edgert.export.sample import WINDOW_TOKENS, read_sample


@pytest.fixture(scope="module")
def measured(checkpoints, tmp_path_factory):
    """An int8 bundle with both caches, measured."""
    folder = tmp_path_factory.mktemp("measured") / "b"
    return export(checkpoints("llama"), folder, ExportOptions(kv="int8"))


def test_figures_are_those_of_the_bundle_against_an_fp32_one(measured, bundles, checkpoints):
    sample = read_sample(open_checkpoint(checkpoints("llama")), None)
    reference = edgert.load(bundles("llama", "fp32"))
    for graph in measured.manifest.graphs.values():
        model, tally = edgert.load(measured.folder, kv=graph.kv), Tally()
        for ids, following in zip(sample.measuring.tolist(), sample.following, strict=True):
            tally.add(diverge(reference.logits(ids), model.logits(ids), following))
        assert graph.fidelity.mean_kl == pytest.approx(tally.fidelity.mean_kl, rel=0.01)
        assert graph.fidelity.top1 == pytest.approx(tally.fidelity.top1, abs=0.002)
        assert graph.fidelity.perplexity == pytest.approx(tally.fidelity.perplexity, rel=1e-3)
        assert graph.fidelity.tokens == 4096
        means = [part.kl.mean() for part in tally.parts]
        assert graph.fidelity.kl_error == pytest.approx(np.std(means, ddof=1) / 4, rel=0.02)


def test_both_caches_are_measured_and_told_apart(measured):
    int8, fp32 = (measured.manifest.graphs[name] for name in ("model-kv8.onnx", "model.onnx"))
    assert (int8.kv, fp32.kv) == ("int8", "fp32")
    assert 0 < fp32.fidelity.mean_kl < int8.fidelity.mean_kl < 0.01
    screen = CliRunner().invoke(main, ["info", str(measured.folder)]).stdout
    assert f"kv int8     {int8.fidelity}, on the built-in sample" in screen
    assert f"kv fp32     {fp32.fidelity}, on the built-in sample" in screen


def test_a_bundle_that_was_not_measured_says_so(bundles):
    assert "not measured (--no-verify)" in CliRunner().invoke(main, ["info", str(bundles())]).stdout
    assert open_bundle(bundles()).manifest.graphs["model.onnx"].fidelity is None


@pytest.mark.parametrize(("more", "measured"), [([], False), (["--verify"], True)])
def test_a_quick_export_calibrates_and_measures_nothing(more, measured, checkpoints, tmp_path):
    """Unless it is told to, before or after."""
    arguments = ["export", str(checkpoints("llama")), str(tmp_path / "b"), *more, "--quick"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    manifest = open_bundle(tmp_path / "b").manifest
    assert manifest.quantization.rounding == "nearest"
    assert (manifest.graphs["model.onnx"].fidelity is not None) is measured
    assert ("not measured" in done.output) is not measured


def test_what_calibrates_does_not_measure(checkpoints):
    checkpoint = open_checkpoint(checkpoints("llama"))
    defaults = dataclasses.replace(checkpoint.generation, add_bos=False)
    sample = read_sample(dataclasses.replace(checkpoint, generation=defaults), None)
    assert (sample.calibrating.shape, sample.measuring.shape) == ((32, WINDOW_TOKENS), (16, WINDOW_TOKENS))
    text = resources.files("edgert.export").joinpath("sample.txt").read_text("utf-8")
    tokenizer = tokenizers.Tokenizer.from_file(str(checkpoints("llama") / "tokenizer.json"))
    ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids)
    assert (sample.calibrating[1] == ids[2 * WINDOW_TOKENS : 3 * WINDOW_TOKENS]).all()
    windows = (len(ids) - 1) // WINDOW_TOKENS
    last = (windows - windows % 2 - 1) * WINDOW_TOKENS  # the measuring ones are spread over the whole text
    for window, start in ((0, WINDOW_TOKENS), (-1, last)):
        assert (sample.measuring[window] == ids[start : start + WINDOW_TOKENS]).all()
        assert (sample.following[window] == ids[start + 1 : start + WINDOW_TOKENS + 1]).all()
    odd = {
        tuple(ids[start : start + WINDOW_TOKENS])
        for start in range(WINDOW_TOKENS, len(ids), 2 * WINDOW_TOKENS)
    }
    assert {tuple(window) for window in sample.measuring} <= odd


def test_windows_begin_with_the_token_that_texts_begin_with(checkpoints):
    checkpoint = open_checkpoint(checkpoints("llama"))
    defaults = dataclasses.replace(checkpoint.generation, add_bos=True, bos_token_id=7)
    sample = read_sample(dataclasses.replace(checkpoint, generation=defaults), None)
    assert (sample.measuring[:, 0] == 7).all() and sample.measuring.shape == (16, WINDOW_TOKENS)
    assert (sample.measuring[:, 1:] == sample.following[:, :-1]).all()


@pytest.fixture
def llama3(tmp_path):
    """As Llama 3 does it: tokenizer.json has a post-processor that adds BOS, the config says nothing."""
    source = tiny.write(tmp_path / "c")
    tokenizer = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 0)]),
        ]
    )
    tokenizer.save(str(source / "tokenizer.json"))
    config = json.loads((source / "tokenizer_config.json").read_text())
    del config["add_bos_token"]
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    return source


def test_windows_begin_with_what_the_post_processor_adds(llama3, checkpoints, tmp_path):
    """The same tokens and the same figures as for a checkpoint that asks for BOS in its config."""
    ours, theirs = (read_sample(open_checkpoint(source), None) for source in (llama3, checkpoints("llama")))
    assert not open_checkpoint(llama3).generation.add_bos
    for part in ("calibrating", "measuring", "following"):
        assert np.array_equal(getattr(ours, part), getattr(theirs, part))
    bundles = [
        export(source, tmp_path / f"{source.name}-bundle") for source in (llama3, checkpoints("llama"))
    ]
    first, second = (bundle.manifest.graphs["model.onnx"].fidelity for bundle in bundles)
    assert first == second and bundles[0].text("golden.json") == bundles[1].text("golden.json")


def test_a_text_of_ones_own(checkpoints, tmp_path):
    text = tmp_path / "mine.txt"
    text.write_text("the quick brown fox jumps over the lazy dog, one two three 123. " * 60)
    bundle = export(checkpoints("llama"), tmp_path / "b", ExportOptions(calibration=text))
    assert bundle.manifest.sample == "mine.txt"
    assert 256 <= bundle.manifest.graphs["model.onnx"].fidelity.tokens < 4096


def test_texts_that_cannot_serve_are_refused(checkpoints, tmp_path):
    text = tmp_path / "mine.txt"
    text.write_text("too short")
    with pytest.raises(UsageError, match=r"mine.txt has \d+ tokens, at least 511 are needed"):
        export(checkpoints("llama"), tmp_path / "b", ExportOptions(calibration=text))
    text.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="mine.txt: not UTF-8 text"):
        export(checkpoints("llama"), tmp_path / "b", ExportOptions(calibration=text))
    assert not (tmp_path / "b").exists()


def test_above_max_kl_an_export_fails_and_names_the_costliest_layers(tmp_path):
    """Only layer 1 and the table do anything here."""
    source = tiny.write(tmp_path / "c")
    tensors = tiny.random_tensors(tiny.Tiny().config)
    for layer in (0, 2):
        for name in ("mlp.down_proj", "self_attn.o_proj"):
            tensors[f"model.layers.{layer}.{name}.weight"] *= 0
    tiny.save_tensors(source, tensors)
    options = ["--quant", "int4", "--max-kl", "0.001", "--block-size", "64"]
    failed = CliRunner().invoke(main, ["export", str(source), str(tmp_path / "b"), *options])
    assert failed.exit_code == FidelityError.exit_code and failed.stderr.count("\n") == 1
    said, named = failed.stderr.split("; rounded to nearest and alone, the costliest are: ")
    assert said.endswith("is above --max-kl 0.001")
    first, second, third = named.split(". More bits, a smaller")[0].split(", ")
    assert {first[:7], second[:7]} == {"layer 1", "embeddi"} and third.endswith(" 0.0000")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_below_max_kl_it_does_not(checkpoints, tmp_path):
    bundle = export(checkpoints("llama"), tmp_path / "b", ExportOptions(max_kl=0.01))
    assert 0 < bundle.manifest.graphs["model.onnx"].fidelity.mean_kl < 0.01


def test_a_basis_gone_wrong_would_be_seen(checkpoints, tmp_path, monkeypatch):
    """The reference is the checkpoint as it came, not as it is stored."""

    def wrong(checkpoint, hadamard, *, spread):
        turned = basis.rotated(checkpoint, hadamard, spread=spread)
        turned.tensors["layers.1.o.weight"] = checkpoint.tensors["layers.1.o.weight"]
        return turned

    monkeypatch.setattr(job, "rotated", wrong)
    bundle = export(checkpoints("llama"), tmp_path / "b")
    assert bundle.manifest.graphs["model.onnx"].fidelity.mean_kl > 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quant": "mixed"}, "mixed needs a bound"),
        ({"target_size": 10}, "--target-size is for --quant mixed, not int8"),
        ({"max_kl": 0.0}, "--max-kl must be above 0"),
        ({"max_kl": 0.1, "verify": False}, "--max-kl needs the measurement"),
    ],
)
def test_options_that_make_no_sense_together(options, message):
    with pytest.raises(UsageError, match=message):
        ExportOptions(**options)


@pytest.mark.parametrize(("text", "size"), [("1.2GB", 1_200_000_000), ("900MB", 900_000_000), ("5000", 5000)])
def test_sizes(text, size, checkpoints, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("edgert.export.export", lambda *given: seen.append(given[2]) or 1 / 0)
    command = [
        "export",
        str(checkpoints("llama")),
        str(tmp_path / "b"),
        "--quant",
        "mixed",
        "--target-size",
        text,
    ]
    CliRunner().invoke(main, command)
    assert seen[0].target_size == size
    refused = CliRunner().invoke(main, [*command[:-1], "huge"])
    assert refused.exit_code == 2 and "write it as 900MB or 1.2GB" in refused.stderr


def test_the_manifest_has_every_figure(measured):
    graphs = json.loads((measured.folder / "edgert.json").read_text())["graphs"]
    assert set(graphs["model.onnx"]["fidelity"]) == {
        "tokens",
        "mean_kl",
        "p99_kl",
        "top1",
        "perplexity",
        "reference_perplexity",
        "kl_error",
    }


@pytest.mark.parametrize("context", [40, 100])
def test_a_short_context_is_measured_in_short_windows(checkpoints, tmp_path, context):
    bundle = export(checkpoints("llama"), tmp_path / "b", ExportOptions(max_context=context, kv="int8"))
    assert bundle.manifest.graphs["model.onnx"].fidelity.tokens == 16 * context


def test_truncation_that_a_trainer_left_in_the_tokenizer_is_ignored(checkpoints, tmp_path):
    source = tiny.write(tmp_path / "c")
    tokenizer = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.enable_truncation(400)
    tokenizer.save(str(source / "tokenizer.json"))
    assert read_sample(open_checkpoint(source), None).measuring.shape == (16, WINDOW_TOKENS)


def test_block_sizes_that_cannot_be_had_are_refused(checkpoints, tmp_path):
    with pytest.raises(UsageError, match="--block-size must be 16, 32, 64, 128 or 256, not 48"):
        ExportOptions(block_size=48)
    options = ExportOptions(devices=("raspberry-pi-4",), block_size=32)
    with pytest.raises(UsageError, match="on raspberry-pi-4 8 bits have one scale per row"):
        export(checkpoints("llama"), tmp_path / "b", options)


def test_longrope_is_measured_with_the_factors_of_the_bundle(checkpoints, tmp_path):
    """256 is beyond the original context: the long factors apply, to the reference as well."""
    options = ExportOptions(max_context=256, quant="int8", block_size=16)
    bundle = export(checkpoints("phi3-longrope"), tmp_path / "b", options)
    assert bundle.manifest.graphs["model.onnx"].fidelity.mean_kl < 0.005


def test_a_hadamard_that_does_not_divide_becomes_the_largest_that_does(tmp_path):
    source = tiny.write(tmp_path / "c", tiny.Tiny(overrides={"intermediate_size": 48}))
    bundle = export(source, tmp_path / "b", ExportOptions(quant="int4", verify=False))
    quantization = bundle.manifest.quantization
    assert quantization.hadamard == 16 and quantization.block_size["down"] == 16
