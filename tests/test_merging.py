"""LoRAs of families that Optimum traces: merged in a copy of the folder, by the shapes of what is stored."""

import json

import lora
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from edgert.errors import CheckpointError, EdgertWarning
from edgert.export import ExportOptions, export
from edgert.export.optimum_road.merging import with_adapters, write_merged
from edgert.export.optimum_road.student import open_student

CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_embd": 8,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 64,
    "vocab_size": tiny.VOCAB,
    "eos_token_id": 1,
}
MODULES = {"attn.c_attn": (24, 8), "attn.c_proj": (8, 8), "mlp.c_fc": (32, 8)}  # rows, columns
RNG = np.random.default_rng(3)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def base(folder, prefix="transformer."):
    """Of GPT-2's kind: matrices lie turned; older files leave the prefix out."""
    tiny.write(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    weights = {f"{prefix}h.0.{name}.weight": array(*shape[::-1]) for name, shape in MODULES.items()}
    weights |= {
        f"{prefix}wte.weight": array(tiny.VOCAB, 8),
        f"{prefix}h.0.attn.masked_bias": np.float32(-1e4),
    }
    save_file({name: np.asarray(values) for name, values in weights.items()}, folder / "model.safetensors")
    return folder


def factors():
    found = {}
    for name, (rows, columns) in MODULES.items():
        found[f"base_model.model.transformer.h.0.{name}.lora_A.weight"] = array(4, columns)
        found[f"base_model.model.transformer.h.0.{name}.lora_B.weight"] = array(rows, 4)
    return found


def adapter(folder, tensors, **config):
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    usual = {**lora.DEFAULTS, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
    (folder / "adapter_config.json").write_text(json.dumps({**usual, **config}), "utf-8")
    return folder


@pytest.mark.parametrize("prefix", ["transformer.", ""])
@pytest.mark.parametrize("conv1d", [True, False])
def test_matrices_that_lie_turned(prefix, conv1d, tmp_path):
    """Square ones by what PEFT notes, others by their shapes."""
    source, tensors = base(tmp_path / "base", prefix), factors()
    folder = adapter(tmp_path / "law", tensors, fan_in_fan_out=conv1d)
    before = load_file(source / "model.safetensors")
    found = load_file(write_merged(source, [folder], tmp_path / "merged") / "model.safetensors")
    for name in MODULES:
        a, b = (tensors[f"base_model.model.transformer.h.0.{name}.lora_{side}.weight"] for side in "AB")
        added = 2.0 * (b @ a)
        turned = conv1d or name != "attn.c_proj"
        key = f"{prefix}h.0.{name}.weight"
        assert np.abs(found[key] - before[key] - (added.T if turned else added)).max() < 1e-5, name
    assert np.array_equal(found[f"{prefix}wte.weight"], before[f"{prefix}wte.weight"])
    beside = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "tokenizer.json"} < beside


def test_the_student_names_its_adapters_and_takes_their_template(tmp_path):
    folder = adapter(tmp_path / "law", factors())
    (folder / "chat_template.jinja").write_text("{{ messages }}", "utf-8")
    with pytest.warns(EdgertWarning, match="law: its own chat template is used"):
        student = with_adapters(open_student(base(tmp_path / "base")), [folder])
    assert student.origin.adapters == ("law",)
    assert student.tokenizer.chat_template == "{{ messages }}"


def renamed(old, new):
    return {key.replace(old, new): values for key, values in factors().items()}


@pytest.mark.parametrize(
    ("tensors", "config", "named"),
    [
        (renamed("h.0", "h.1"), {}, "'transformer.h.1.attn.c_attn' has no place in the base model"),
        (renamed("h.0.attn.c_attn", "wte"), {}, "wte.lora_A.weight': only matrices of layers"),
        (renamed("lora_A", "lora_embedding_A"), {}, "lora_embedding_A.weight': only matrices of layers"),
        (renamed("c_attn.lora_B", "c_fcs.lora_B"), {}, "c_attn.lora_B.weight' is missing"),
        (factors(), {"r": 8}, "lora_A.weight' is [4, 8], its rank is 8"),
        (renamed("attn.c_attn", "mlp.c_fcx") | {}, {}, "'transformer.h.0.mlp.c_fcx' has no place"),
        (factors(), {"use_dora": True}, "use_dora is not supported"),
    ],
)
def test_adapters_that_do_not_fit_are_named(tensors, config, named, tmp_path):
    folder = adapter(tmp_path / "law", tensors, **config)
    with pytest.raises(CheckpointError) as error:
        write_merged(base(tmp_path / "base"), [folder], tmp_path / "merged")
    assert named in str(error.value) and str(error.value).startswith(str(folder))


def test_another_shape_is_named(tmp_path):
    tensors = {k: v[:5] if k.endswith("c_attn.lora_B.weight") else v for k, v in factors().items()}
    with pytest.raises(CheckpointError, match=r"adds \[5, 8\] to .*c_attn.weight' \[8, 24\]"):
        write_merged(base(tmp_path / "base"), [adapter(tmp_path / "law", tensors)], tmp_path / "merged")


@pytest.mark.optimum
@pytest.mark.filterwarnings("ignore")  # PEFT's own, and those of torch and transformers
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("GPT2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}),
        ("OPT", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 96,
                 "word_embed_proj_dim": 64, "max_position_embeddings": 256}),
        ("GPTNeoX", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                     "intermediate_size": 96, "max_position_embeddings": 256}),
    ],
)  # fmt: skip
def test_the_bundle_predicts_what_peft_merges(name, sizes, tmp_path):
    import edgert

    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(vocab_size=tiny.VOCAB, eos_token_id=1, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    tiny.write(tmp_path / "base")
    (tmp_path / "base" / "config.json").unlink()
    model.save_pretrained(tmp_path / "base")
    wanted = peft.LoraConfig(
        r=4, lora_alpha=40, init_lora_weights=False, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    tuned = peft.get_peft_model(model, wanted).eval()
    tuned.save_pretrained(tmp_path / "law")
    ids = np.random.default_rng(7).integers(5, tiny.VOCAB, 60).tolist()
    with torch.no_grad():
        expected = tuned.merge_and_unload()(torch.tensor([ids])).logits[0].numpy()
    options = ExportOptions(quant="fp32", via="optimum")
    export(tmp_path / "base", tmp_path / "plain", options)
    with edgert.load(tmp_path / "plain", context=128) as plain:
        assert np.abs(plain.logits(ids) - expected).max() > 0.1
    options = ExportOptions(quant="fp32", via="optimum", adapters=(tmp_path / "law",))
    export(tmp_path / "base", tmp_path / "bundle", options)
    with edgert.load(tmp_path / "bundle", context=128) as found:
        assert np.abs(found.logits(ids) - expected).max() < 1e-3
