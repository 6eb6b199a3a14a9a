"""Folders that don't fit their config are refused in one line that names what and where."""

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file

from edgert.errors import CheckpointError
from edgert.export.checkpoint.source import open_checkpoint


@pytest.fixture
def folder(tmp_path):
    return tiny.write(tmp_path / "checkpoint")


def rewrite(folder, change):
    tensors = tiny.random_tensors(tiny.Tiny().config)
    change(tensors)
    tiny.save_tensors(folder, tensors)


def edit(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_missing_tensor_is_named(folder):
    rewrite(folder, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(CheckpointError, match=r"'model.layers.1.mlp.up_proj.weight' \[96, 64\] is missing"):
        open_checkpoint(folder)


def test_extra_tensor_is_named(folder):
    rewrite(folder, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(64, np.float32)}))
    with pytest.raises(
        CheckpointError, match=r"'model.layers.0.self_attn.q_proj.bias' has no place in a llama model"
    ):
        open_checkpoint(folder)


def test_unknown_tensor_is_named(folder):
    rewrite(folder, lambda t: t.update({"model.layers.0.router.weight": np.zeros((2, 2), np.float32)}))
    with pytest.raises(CheckpointError, match=r"model.layers.0.router.weight"):
        open_checkpoint(folder)


def test_wrong_shape_is_named(folder):
    rewrite(folder, lambda t: t.update({"model.norm.weight": np.ones(65, np.float32)}))
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' is \[65\], its config asks for \[64\]"):
        open_checkpoint(folder)


def test_old_rotary_buffers_are_ignored(folder):
    rewrite(
        folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)})
    )
    open_checkpoint(folder)


def test_tied_model_may_store_its_head_again(folder):
    rewrite(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"]}))
    assert open_checkpoint(folder).spec.tied_embeddings


def test_tied_model_with_another_head_is_refused(folder):
    rewrite(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] * 2}))
    with pytest.raises(CheckpointError, match="set tie_word_embeddings to false"):
        open_checkpoint(folder)


def test_untied_config_without_a_head_is_refused(folder):
    edit(folder, "config.json", tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match="'lm_head.weight'.*missing"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"hidden_activation": "gelu"}, "hidden_activation 'gelu'"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is not supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, "already quantized .gptq."),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, "rope scaling 'dynamic'"),
        ({"num_key_value_heads": 3}, "4 attention heads"),
        ({"num_hidden_layers": 0}, "num_layers must be positive"),
    ],
)
def test_unsupported_config_is_named(folder, changes, message):
    edit(folder, "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_gemma3_windows_every_layer_but_the_sixth(tmp_path):
    """Where its config names no kinds of layers."""
    spec = tiny.Tiny("gemma3", overrides={"layer_types": None})
    found = open_checkpoint(tiny.write(tmp_path / "c", spec)).spec
    assert found.windows == (24,) * 5 + (None, 24)
    assert [found.layer_rope(layer).theta for layer in (0, 5)] == [500.0, 100000.0]


def test_missing_post_norm_is_named_as_its_file_has_it(tmp_path):
    spec = tiny.Tiny("gemma3")
    folder, tensors = tiny.write(tmp_path / "c", spec), tiny.random_tensors(spec.config)
    del tensors["model.layers.1.pre_feedforward_layernorm.weight"]
    tiny.save_tensors(folder, tensors)
    with pytest.raises(CheckpointError, match=r"'model.layers.1.pre_feedforward_layernorm.weight'.*missing"):
        open_checkpoint(folder)


def test_missing_field_is_named(folder):
    config = tiny.Tiny().config
    del config["intermediate_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="config.json: 'intermediate_size' is missing"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        open_checkpoint(folder)


def test_missing_shard_is_named(tmp_path):
    folder = tiny.write(tmp_path / "sharded", tiny.Tiny(shards=2))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="shard 'model-00002-of-00002.safetensors' is missing"):
        open_checkpoint(folder)


def test_truncated_weights_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="model.safetensors"):
        open_checkpoint(folder)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled"):
        open_checkpoint(folder)


def test_every_end_of_every_file_is_collected(tmp_path):
    spec = tiny.Tiny(
        overrides={"eos_token_id": 7}, generation={"eos_token_id": [9, 7], "do_sample": True, "top_p": 0.9}
    )
    generation = open_checkpoint(tiny.write(tmp_path / "c", spec)).generation
    assert generation.eos_token_ids == (9, 7, 1)  # generation_config, config, tokenizer's eos_token
    assert (generation.temperature, generation.top_p, generation.bos_token_id) == (1.0, 0.9, 0)


def test_defaults_are_greedy_unless_the_model_says_do_sample(folder):
    assert open_checkpoint(folder).generation.temperature == 0.0


THINKING = "{% for m in messages %}{{ m['content'] }}{% endfor %}<think>"


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({}, (0.6, 0.95)),
        ({"do_sample": True}, (0.6, 0.95)),
        ({"do_sample": True, "top_p": 0.9}, (0.6, 0.9)),
        ({"do_sample": True, "temperature": 0.8}, (0.8, 1.0)),
        ({"temperature": 0.8, "top_p": 0.9}, (0.8, 0.9)),
        ({"do_sample": False}, (0.0, 1.0)),
    ],
)
def test_thinking_students_that_name_no_temperature_get_the_recommended_one(tmp_path, generation, expected):
    folder = tiny.write(tmp_path / "c", tiny.Tiny(generation=generation))
    (folder / "chat_template.jinja").write_text(THINKING)
    found = open_checkpoint(folder).generation
    assert (found.temperature, found.top_p) == expected


def test_the_vocabulary_shows_thinking_too(folder):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|system|>", "</think>"))
    assert open_checkpoint(folder).generation.temperature == 0.6


def test_template_file_wins_over_the_config(folder):
    (folder / "chat_template.jinja").write_text("from the file")
    assert open_checkpoint(folder).tokenizer.chat_template == "from the file"


def test_licence_is_read_from_the_model_card(folder):
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# A student\n")
    assert open_checkpoint(folder).origin.license == "mit"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", "{"),
        ("generation_config.json", '{"eos_token_id": "x"}'),
        ("generation_config.json", '{"eos_token_id": 99999}'),
        ("chat_template.jinja", "{% for %}"),
        ("tokenizer_config.json", '{"chat_template": 5}'),
        ("tokenizer_config.json", '{"eos_token": 5}'),
        ("model.safetensors.index.json", '{"weight_map": []}'),
        ("config.json", json.dumps({**tiny.Tiny().config, "num_attention_heads": 0})),
        ("config.json", json.dumps({**tiny.Tiny().config, "hidden_size": "64"})),
        ("config.json", json.dumps({**tiny.Tiny().config, "rope_scaling": "x"})),
        ("config.json", json.dumps({**tiny.Tiny().config, "quantization_config": "fp8"})),
        ("config.json", json.dumps({**tiny.Tiny().config, "layer_types": []})),
    ],
)
def test_malformed_files_are_one_line(folder, name, text):
    if "layer_types" in text:  # too few of them
        text = text.replace('"llama"', '"mistral"').replace("[]", '["full_attention"]')
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(folder)
    assert str(error.value).startswith(str(folder)) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_broken_json_is_named_with_its_line(folder, name):
    (folder / name).write_text('{\n  "model_type": "llama",\n  "hidden_size": 64,,\n}\n')
    with pytest.raises(CheckpointError, match=f"{name}, line 3: not valid JSON"):
        open_checkpoint(folder)


def test_a_token_without_an_embedding_is_named(folder):
    """The usual mistake of a fine-tune: tokens added, embeddings not resized."""
    path = folder / "tokenizer.json"
    table = json.loads(path.read_text())
    extra = {**table["added_tokens"][0], "id": tiny.VOCAB, "content": "<|new|>"}
    path.write_text(json.dumps({**table, "added_tokens": [*table["added_tokens"], extra]}))
    with pytest.raises(CheckpointError, match=r"token '<|new|>' has id 320"):
        open_checkpoint(folder)


def test_templates_spell_the_tokenizers_own_end(tmp_path):
    spec = tiny.Tiny(generation={"eos_token_id": [3, 1]})
    generation = open_checkpoint(tiny.write(tmp_path / "c", spec)).generation
    assert (generation.bos_token, generation.eos_token) == ("<|bos|>", "<|end|>")


@pytest.mark.parametrize(
    ("family", "changes", "windows"),
    [
        ("llama", {"sliding_window": 16}, (None,) * 3),
        ("smollm3", {"sliding_window": 16, "use_sliding_window": True}, (None, 16, None)),
        ("qwen3", {"use_sliding_window": True, "max_window_layers": 1}, (None, 4096, 4096)),
        ("mistral", {"sliding_window": None}, (None,) * 3),
    ],
)
def test_windows_are_those_of_transformers(tmp_path, family, changes, windows):
    folder = tiny.write(tmp_path / "c", tiny.Tiny(family, overrides=changes))
    assert open_checkpoint(folder).spec.windows == windows


def test_bfloat16_needs_nothing_else_imported(tmp_path):
    save_file({"w": np.ones((2, 3), ml_dtypes.bfloat16)}, tmp_path / "model.safetensors")
    script = """
import sys; from pathlib import Path
from edgert.export.checkpoint.huggingface import SafetensorsTensor
print(SafetensorsTensor(Path(sys.argv[1]), "w", (2, 3)).rows(0, 2).sum())
"""
    command = [sys.executable, "-c", script, str(tmp_path / "model.safetensors")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "6.0\n"
