"""LoRAs beside their base: chosen, they answer as merged ones do; without one, the base answers."""

import json
import re
from dataclasses import replace

import lora
import numpy as np
import pytest
import tiny
from click.testing import CliRunner

import edgert
from edgert import load
from edgert.bundle import AdapterFacts, open_bundle
from edgert.bundle.manifest import parse_manifest
from edgert.cli import main
from edgert.engine.prepared import Prepared
from edgert.export import ExportOptions, export, previews
from edgert.export.checkpoint.adapter import merged, open_adapter
from edgert.export.checkpoint.basis import rotated, turns
from edgert.export.checkpoint.source import open_checkpoint
from edgert.export.matrix import matrices
from edgert.export.separate import SeparateAdapter

IDS = np.random.default_rng(7).integers(5, tiny.VOCAB, 50).tolist()


def modules(base):
    return [name.removesuffix(".weight") for name in base if name.endswith("_proj.weight")]


def adapter(folder, family="llama", seed=1, kinds=""):
    """An adapter of all matrices, or of some; ranks differ."""
    base = tiny.random_tensors(tiny.Tiny(family).config)
    chosen = [name for name in modules(base) if not kinds or name.rpartition(".")[2] in kinds.split()]
    case = lora.uniform(chosen, 2.0 * 4 / (3 + seed), 3 + seed, r=3 + seed)
    case = replace(case, seed=seed, config={**case.config, "target_modules": kinds.split() or "all-linear"})
    return lora.write(folder, case, base)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, checkpoints):
    """A rotated int8 bundle with two adapters."""
    root = tmp_path_factory.mktemp("separate")
    folders = {"law": adapter(root / "law"), "med_2": adapter(root / "med", seed=2, kinds="q_proj down_proj")}
    options = ExportOptions(separate_adapters=folders, verify=False, kv="int8")
    export(checkpoints("llama"), root / "bundle", options)
    return root / "bundle", folders


@pytest.mark.parametrize("family", ["llama", "llama-biased", "qwen3", "phi3", "smollm3", "granite", "gemma3"])
def test_separate_equals_merged_in_fp32(family, checkpoints, tmp_path):
    folders = {"a": adapter(tmp_path / "a", family), "b": adapter(tmp_path / "b", family, seed=2)}
    options = ExportOptions(quant="fp32", separate_adapters=folders)
    export(checkpoints(family), tmp_path / "separate", options)
    export(checkpoints(family), tmp_path / "base", ExportOptions(quant="fp32"))
    model = load(tmp_path / "separate", context=64)
    base = load(tmp_path / "base", context=64).logits(IDS)
    assert np.abs(model.logits(IDS) - base).max() < 1e-5
    for name, folder in folders.items():
        place = tmp_path / f"merged-{name}"
        export(checkpoints(family), place, ExportOptions(quant="fp32", adapters=(folder,)))
        model.use(name)
        assert np.abs(model.logits(IDS) - load(place, context=64).logits(IDS)).max() < 1e-4
    assert np.abs(model.logits(IDS) - base).max() > 0.1
    model.use(None)
    assert np.abs(model.logits(IDS) - base).max() < 1e-5


@pytest.mark.parametrize("family", ["llama-biased", "phi3", "granite", "gemma3"])
def test_in_the_basis_of_a_rotated_base(family, checkpoints, tmp_path):
    """What is between both is int8's rounding, which differs with the weights."""
    folder = adapter(tmp_path / "lora", family)
    for name, options in {
        "separate": ExportOptions(separate_adapters={"law": folder}, verify=False),
        "merged": ExportOptions(adapters=(folder,), verify=False),
    }.items():
        export(checkpoints(family), tmp_path / name, options)
    model = load(tmp_path / "separate", context=64)
    base, wanted = model.logits(IDS), load(tmp_path / "merged", context=64).logits(IDS)
    model.use("law")
    assert np.abs(model.logits(IDS) - wanted).mean() < 0.2 * np.abs(base - wanted).mean()


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "granite", "gemma3", "olmo2"])
def test_what_is_added_is_what_merging_adds_to_the_rotated_matrix(family, checkpoints, tmp_path):
    base, folder = open_checkpoint(checkpoints(family)), adapter(tmp_path / "lora", family)
    before = matrices(rotated(base, 32))
    after = matrices(rotated(merged(base, [folder]), 32))
    inputs = SeparateAdapter("law", open_adapter(folder, base), turns(base, 32)).inputs(before)
    assert len(inputs) == 2 * 5 * base.spec.num_layers
    for name in before:
        if name.layer is not None:
            added = (inputs[f"{name}.lora_a"] @ inputs[f"{name}.lora_b"]).T
            assert np.abs(before[name].read() + added - after[name].read()).max() < 1e-5, name


def test_what_was_cached_is_forgotten(exported):
    bundle, _ = exported
    with load(bundle, context=64) as model:
        model.use("law")
        fresh = model.generate(IDS, max_tokens=8).token_ids
    with load(bundle, context=64) as model:
        base = model.generate(IDS, max_tokens=8).token_ids
        model.use("law")
        assert model.generate(IDS, max_tokens=8).token_ids == fresh != base
        model.use(None)
        assert model.generate(IDS, max_tokens=8).token_ids == base


def test_a_conversation_goes_on_with_another_adapter(exported):
    bundle, _ = exported
    with load(bundle, context=256) as model:
        conversation = model.conversation(max_tokens=8)
        assert conversation.send("the quick").reply.token_ids
        model.use("law")
        second = conversation.send("brown fox").reply
        assert second.timings.cached_tokens == 0


def test_no_other_is_chosen_while_something_is_answered(exported):
    bundle, _ = exported
    with load(bundle, context=256) as model:
        stream = model.stream(IDS, max_tokens=200)
        next(iter(stream))
        with pytest.raises(edgert.UsageError, match="something is being answered"):
            model.use("law")
        assert model.adapter is None
        stream.close()
        model.use("law")
        assert model.adapter == "law"
    with pytest.raises(edgert.UsageError, match="the model is closed"):
        model.use(None)


def test_unknown_names_are_refused_with_those_there_are(exported, bundles):
    with pytest.raises(edgert.UsageError, match="no adapter 'x'; it has law, med_2"):
        load(exported[0], context=64).use("x")
    with pytest.raises(edgert.UsageError, match="no adapter 'x'; it has none"):
        load(bundles(), context=64).use("x")


def test_a_damaged_file_is_named(exported, tmp_path):
    bundle, _ = exported
    path = bundle / "adapters" / "law.onnx_adapter"
    kept = path.read_bytes()
    path.write_bytes(b"x" * len(kept))
    try:
        with pytest.raises(edgert.BundleError, match="law.onnx_adapter: damaged"):
            load(bundle, context=64).use("law")
    finally:
        path.write_bytes(kept)


def test_a_prepared_copy_takes_them_too(exported):
    bundle, _ = exported
    with load(bundle, context=64, kv="fp32") as model:
        model.use("law")
        wanted = model.logits(IDS)
    copy = Prepared(open_bundle(bundle), "model.onnx")
    copy.make()
    assert copy.usable
    with load(bundle, context=64, kv="fp32") as model:
        model.use("law")
        assert np.array_equal(model.logits(IDS), wanted)


def test_memory_plans_count_them(exported, bundles):
    """All of them: who switches has read them all, and keeps them."""
    bundle, _ = exported
    told = [
        json.loads(CliRunner().invoke(main, ["fit", str(folder), "--json", "--kv=fp32"]).stdout)[0]
        for folder in (bundle, bundles())
    ]
    size = sum(path.stat().st_size for path in (bundle / "adapters").iterdir())
    assert [plan["adapters"] for plan in told] == [size, 0]
    assert told[0]["total"] - told[1]["total"] == size
    lines = CliRunner().invoke(main, ["fit", str(bundle)]).output
    assert re.search(r"\n  adapters +0 MB   all of them", lines)


def test_the_manifest_says_what_there_is(exported, checkpoints):
    bundle, folders = exported
    manifest = open_bundle(bundle).manifest
    assert manifest.requires == ("adapters",)
    assert {name: facts.file for name, facts in manifest.adapters.items()} == {
        "law": "adapters/law.onnx_adapter",
        "med_2": "adapters/med_2.onnx_adapter",
    }
    told = CliRunner().invoke(main, ["info", str(bundle), "--verify"]).output
    assert "adapter     law, from law\n" in told and "adapter     med_2, from med\n" in told
    assert "            with law: not measured (--no-verify)\n" in told
    options = ExportOptions(separate_adapters=folders, verify=False, kv="int8")
    assert previews(checkpoints("llama"), [options])[0].adapters == manifest.adapters


def test_the_passport_has_a_line_for_each(checkpoints, tmp_path):
    """Against the merged original: against the base, an adapter this strong would show as a loss."""
    text = tmp_path / "sample.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 400)
    folders = {"law": adapter(tmp_path / "law"), "med": adapter(tmp_path / "med", seed=2, kinds="q_proj")}
    options = ExportOptions(separate_adapters=folders, calibration=text, max_kl=0.5)
    bundle = tmp_path / "bundle"
    manifest = export(checkpoints("llama"), bundle, options).manifest
    found = {name: facts.fidelity for name, facts in manifest.adapters.items()}
    base = manifest.graphs["model.onnx"].fidelity
    assert 0 < found["law"].mean_kl < 0.05 and 0 < found["med"].mean_kl < 0.05
    assert len({base.reference_perplexity, *(one.reference_perplexity for one in found.values())}) == 3
    told = CliRunner().invoke(main, ["info", str(bundle)]).output
    assert f"            with law: {found['law']}, on sample.txt\n" in told
    merged_one = ExportOptions(adapters=(folders["law"],), calibration=text)
    wanted = export(checkpoints("llama"), tmp_path / "merged", merged_one).manifest.graphs["model.onnx"]
    assert np.isclose(found["law"].reference_perplexity, wanted.fidelity.reference_perplexity, rtol=1e-4)


def test_an_adapter_above_the_bound_fails_the_export(checkpoints, tmp_path):
    """It says which: the base alone keeps to the bound."""
    text = tmp_path / "sample.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 400)
    folder = adapter(tmp_path / "law")
    export(checkpoints("llama"), tmp_path / "base", ExportOptions(calibration=text))
    base = open_bundle(tmp_path / "base").manifest.graphs["model.onnx"].fidelity.mean_kl
    options = ExportOptions(separate_adapters={"law": folder}, calibration=text)
    law = export(checkpoints("llama"), tmp_path / "law-bundle", options).manifest.adapters["law"].fidelity
    bound = (base + law.mean_kl) / 2
    assert law.mean_kl > base
    with pytest.raises(edgert.FidelityError, match="with law: mean KL"):
        export(checkpoints("llama"), tmp_path / "failed", replace(options, max_kl=bound))


def test_from_the_command_line(checkpoints, tmp_path):
    folder, bundle = adapter(tmp_path / "lora"), str(tmp_path / "bundle")
    run = CliRunner().invoke
    made = run(
        main,
        [
            *("export", str(checkpoints("llama")), bundle, "--quant=fp32"),
            f"--adapter-separate=law={folder}",
            "--json",
        ],
    )
    assert json.loads(made.stdout)["adapters"]["law"]["source"] == "lora"
    answers = [
        run(main, [*("generate", bundle, "-p", "the fox", "--max-tokens=8"), *extra])
        for extra in ([], ["--adapter=law"])
    ]
    assert [answer.exit_code for answer in answers] == [0, 0]
    assert answers[0].stdout != answers[1].stdout
    assert run(main, ["chat", bundle, "--adapter=law"], input="the fox").exit_code == 0
    wrong = run(main, ["chat", bundle, "--adapter=x"], input="the fox")
    assert wrong.exit_code == 2 and "no adapter 'x'; it has law" in wrong.output


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"requires": ()}, "adapters: without 'adapters' among what is required"),
        ({"adapters": {"x": AdapterFacts("adapters/x.onnx_adapter", "x")}}, r"x\.onnx_adapter: missing"),
        ({"adapters": {"a/b": AdapterFacts("model.onnx", "x")}}, "is not letters, digits"),
    ],
)
def test_manifests_that_do_not_add_up_are_refused(changes, named, exported):
    manifest = open_bundle(exported[0]).manifest
    with pytest.raises(ValueError, match=named):
        parse_manifest(replace(manifest, **changes).to_json())


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--adapter-separate=law"], "write it as law=./my-lora"),
        (["--adapter-separate=a/b=x"], "'a/b' is no name for an adapter"),
        (["--adapter-separate=law=x", "--adapter-separate=law=y"], "two adapters have one name"),
        (["--adapter-separate=law=missing"], "adapter_config.json: missing"),
    ],
)
def test_wrong_options_are_named(given, named, checkpoints, tmp_path):
    done = CliRunner().invoke(main, ["export", str(checkpoints("llama")), str(tmp_path / "b"), *given])
    assert done.exit_code != 0 and named in done.output and "Traceback" not in done.output
