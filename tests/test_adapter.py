"""LoRAs merged at export: the same as merged by hand, for every switch; what can't be merged is named."""

import json
import math
from dataclasses import replace

import lora
import numpy as np
import pytest
import reference
import test_gguf
import tiny
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from edgert import load
from edgert.bundle import open_bundle
from edgert.cli import main
from edgert.errors import CheckpointError, UsageError
from edgert.export import ExportOptions, export
from edgert.export.checkpoint.adapter import merged
from edgert.export.checkpoint.source import open_checkpoint

IDS = np.random.default_rng(7).integers(5, tiny.VOCAB, 50).tolist()
BASE = tiny.random_tensors(tiny.Tiny().config)
ATTENTION = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in range(3) for name in "qv"]
LAYERS = [
    f"model.layers.{layer}.{name}_proj"
    for layer in range(3)
    for name in (*(f"self_attn.{kind}" for kind in "qkvo"), "mlp.gate", "mlp.up", "mlp.down")
]
FIRST, *OTHERS = ATTENTION

CASES = {
    "names": lora.uniform(ATTENTION, 2.0),
    "whole-names": lora.uniform([FIRST], 2.0, target_modules=[FIRST]),
    "expression": lora.uniform(
        [f"model.layers.{n}.mlp.up_proj" for n in (0, 2)],
        2.0,
        target_modules=r"model\.layers\.[02]\.mlp\.up_proj",
    ),
    "all-linear": lora.uniform(LAYERS, 2.0, target_modules="all-linear"),
    "excluded": lora.uniform(OTHERS, 2.0, exclude_modules=[FIRST]),
    "some-layers": lora.uniform(ATTENTION[2:4], 2.0, layers_to_transform=[1]),
    "one-layer": lora.uniform(ATTENTION[:2], 2.0, layers_to_transform=0),
    "rank-stabilized": lora.uniform(ATTENTION, 8 / math.sqrt(4), use_rslora=True),
    "square-and-fan-in": lora.uniform(ATTENTION, 2.0, fan_in_fan_out=True),
    "fractional-alpha": lora.uniform(ATTENTION, 0.625, lora_alpha=2.5),
    "float16": replace(lora.uniform(ATTENTION, 2.0), dtype=np.float16),
    "patterns": lora.Lora(
        {module: 2 if module == FIRST else 6 if "v_proj" in module else 4 for module in ATTENTION},
        {module: 4.0 if module == FIRST else 0.5 if "v_proj" in module else 2.0 for module in ATTENTION},
        {
            "rank_pattern": {"^model.layers.0.self_attn.q_proj": 2, "v_proj": 6},
            "alpha_pattern": {"v_proj": 3},
        },
    ),
    "first-pattern-wins": lora.uniform(
        ATTENTION, 2.0, alpha_pattern={r"layers\.\d.self_attn..*": 8, "q_proj": 99}
    ),
    "half-names-match-nothing": lora.uniform(ATTENTION, 2.0, alpha_pattern={"proj": 99, "q_pro": 99}),
}


def stored(checkpoint):
    return {name: tensor.rows(0, tensor.shape[0]) for name, tensor in checkpoint.tensors.items()}


def expected(tmp_path, tensors, family="llama"):
    """What a checkpoint of these tensors holds."""
    folder = tiny.write(tmp_path / "by-hand", tiny.Tiny(family))
    tiny.save_tensors(folder, tensors)
    return stored(open_checkpoint(folder))


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert np.abs(found[name] - array).max() < 1e-5, name


@pytest.mark.parametrize("case", CASES)
def test_merged_as_by_hand(case, checkpoints, tmp_path):
    adapter = lora.write(tmp_path / "lora", CASES[case], BASE)
    found = stored(merged(open_checkpoint(checkpoints("llama")), [adapter]))
    assert_same(found, expected(tmp_path, lora.merge(BASE, CASES[case])))
    moved = max(np.abs(found[name] - array).max() for name, array in expected(tmp_path, BASE).items())
    assert moved > 0.01


@pytest.mark.parametrize("family", ["phi3", "qwen3", "granite", "gemma3"])
def test_fused_matrices_and_other_heads(family, checkpoints, tmp_path):
    base = tiny.random_tensors(tiny.Tiny(family).config)
    modules = [name.removesuffix(".weight") for name in base if "_proj" in name]
    case = lora.uniform(modules, 2.0, target_modules=sorted({name.rpartition(".")[2] for name in modules}))
    adapter = lora.write(tmp_path / "lora", case, base)
    found = stored(merged(open_checkpoint(checkpoints(family)), [adapter]))
    assert_same(found, expected(tmp_path, lora.merge(base, case), family))


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
def test_gguf_bases_go_by_the_same_names(family, tmp_path):
    config = tiny.Tiny(family).config
    base = tiny.random_tensors(config)
    modules = [name.removesuffix(".weight") for name in base if "_proj" in name]
    case = lora.uniform(modules, 2.0, target_modules="all-linear")
    adapter = lora.write(tmp_path / "lora", case, base)
    path = test_gguf.write(tmp_path / "model.gguf", config, base)
    assert_same(
        stored(merged(open_checkpoint(path), [adapter])), expected(tmp_path, lora.merge(base, case), family)
    )


def test_rows_come_in_any_order(checkpoints, tmp_path):
    adapter = lora.write(tmp_path / "lora", CASES["all-linear"], BASE)
    for name, tensor in merged(open_checkpoint(checkpoints("llama")), [adapter]).tensors.items():
        whole, start, stop = tensor.rows(0, tensor.shape[0]), tensor.shape[0] // 3, tensor.shape[0] // 2
        assert np.abs(tensor.rows(start, stop) - whole[start:stop]).max() < 1e-6, name


def test_the_bundle_predicts_what_the_merged_model_does(checkpoints, tmp_path):
    """Two adapters, one after the other, on other matrices; in fp32, and rotated in 8 bits."""
    loras = CASES["names"], replace(CASES["all-linear"], seed=2)
    folders = tuple(lora.write(tmp_path / f"lora-{n}", case, BASE) for n, case in enumerate(loras))
    wanted = reference.forward(tiny.Tiny().config, lora.merge(BASE, *loras), IDS)
    for quant, bound in (("fp32", 1e-4), ("int8", 0.5)):
        options = ExportOptions(quant=quant, adapters=folders, verify=False)
        export(checkpoints("llama"), tmp_path / quant, options)
        assert np.abs(load(tmp_path / quant, context=64).logits(IDS) - wanted).max() < bound
    assert np.abs(reference.forward(tiny.Tiny().config, BASE, IDS) - wanted).max() > 2


def test_the_passport_measures_against_the_merged_model(checkpoints, tmp_path):
    """Against the base, an adapter this strong would show as a loss."""
    strong = lora.uniform(LAYERS, 20.0, target_modules="all-linear", lora_alpha=80)
    adapter = lora.write(tmp_path / "lora", strong, BASE)
    text = tmp_path / "sample.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 400)
    options = ExportOptions(adapters=(adapter,), calibration=text)
    manifest = export(checkpoints("llama"), tmp_path / "bundle", options).manifest
    assert manifest.graphs["model.onnx"].fidelity.mean_kl < 0.05


def test_the_origin_names_the_adapters(checkpoints, tmp_path):
    folders = [lora.write(tmp_path / name, CASES["names"], BASE) for name in ("law", "chat")]
    arguments = [f"--adapter={folder}" for folder in folders]
    bundle = str(tmp_path / "bundle")
    made = CliRunner().invoke(
        main, ["export", str(checkpoints("llama")), bundle, "--quant=fp32", "--no-verify", *arguments]
    )
    assert made.exit_code == 0, made.output
    assert open_bundle(tmp_path / "bundle").manifest.origin.adapters == ("law", "chat")
    assert "llama + law + chat, licence" in CliRunner().invoke(main, ["info", bundle]).output


def refusal(checkpoints, folder):
    with pytest.raises(CheckpointError) as error:
        merged(open_checkpoint(checkpoints("llama")), [folder])
    assert str(error.value).startswith(str(folder)) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported"),
        ({"peft_type": None}, "peft_type None"),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"use_something_new": True}, "use_something_new is not supported"),
        ({"lora_bias": True}, "lora_bias is not supported"),
        ({"bias": "lora_only"}, "bias 'lora_only' is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is not supported"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is not supported"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication is not supported"),
        ({"init_lora_weights": "pissa_niter_16"}, "'pissa_niter_16' is not supported: it changes the base"),
        ({"target_modules": ["q_proj", "v_proj", "embed_tokens"]}, "it adapts 'model.embed_tokens'"),
        ({"target_modules": ".*"}, "it adapts 'model.embed_tokens'"),
        ({"target_modules": ["lm_head"]}, "it adapts 'lm_head'"),
        ({"target_modules": ["c_attn"]}, "target_modules matches nothing"),
        ({"target_modules": "q_proj("}, r"is no regular expression"),
        ({"rank_pattern": {"[": 3}}, "is no regular expression"),
        ({"target_modules": None}, "target_modules: missing"),
        ({"target_modules": ["q_proj"]}, "target_modules does not name its module"),
        ({"target_modules": ["q_proj", "v_proj", "k_proj"]}, "k_proj.lora_A.weight' [4, 64] is missing"),
        ({"r": 0}, "r: 0 is below 1"),
        ({"r": 8}, "is [4, 64], the base model and rank 8 ask for [8, 64]"),
        ({"lora_alpha": "much"}, 'lora_alpha: "much" is not a number'),
    ],
)
def test_configs_that_cannot_be_merged_are_named(changes, named, checkpoints, tmp_path):
    case = replace(CASES["names"], config=changes)
    assert named in refusal(checkpoints, lora.write(tmp_path / "lora", case, BASE))


def renamed(old, new):
    return lambda tensors: {key.replace(old, new): array for key, array in tensors.items()}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: dict(list(t.items())[1:]), "lora_A.weight' [4, 64] is missing"),
        (renamed("layers.2.", "layers.3."), "layers.3.self_attn.q_proj.lora_A.weight': has no place"),
        (renamed("base_model.model.", ""), "has no place in the base model"),
        (renamed("layers.2.self_attn.q_proj.lora_B", "layers.2.self_attn.q_proj.lora_magnitude"), "no place"),
        (lambda t: t | {"base_model.model.model.embed_tokens.weight": np.zeros((320, 64), np.float32)},
         "embed_tokens.weight': only matrices of layers"),
        (lambda t: t | {"base_model.model.lm_head.lora_A.weight": np.zeros((4, 64), np.float32)},
         "lm_head.lora_A.weight': only matrices of layers"),
        (lambda t: {key: np.pad(array, ((0, 0), (0, 1))) for key, array in t.items()}, "is [4, 65], the"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(change, named, checkpoints, tmp_path):
    folder = lora.write(tmp_path / "lora", CASES["names"], BASE)
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)
    assert named in refusal(checkpoints, folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_missing_files_are_named(name, checkpoints, tmp_path):
    folder = lora.write(tmp_path / "lora", CASES["names"], BASE)
    (folder / name).unlink()
    assert f"{folder / name}: missing" in refusal(checkpoints, folder)


def test_pickled_and_broken_weights_are_refused(checkpoints, tmp_path):
    folder = lora.write(tmp_path / "lora", CASES["names"], BASE)
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert str(path) in refusal(checkpoints, folder)
    path.rename(folder / "adapter_model.bin")
    assert "pickled" in refusal(checkpoints, folder)


def test_an_adapter_inside_the_destination_is_not_overwritten(checkpoints, tmp_path):
    folder = lora.write(tmp_path / "bundle" / "lora", CASES["names"], BASE)
    with pytest.raises(UsageError, match="lora lies inside .*bundle"):
        export(checkpoints("llama"), tmp_path / "bundle", ExportOptions(adapters=(folder,), force=True))
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4
