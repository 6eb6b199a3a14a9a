"""Checkpoints that also read images: their language model is exported, and a line says what is left out."""

import json

import numpy as np
import pytest
import tiny

import edgert
from edgert.errors import CheckpointError
from edgert.export import ExportOptions, export
from edgert.export.checkpoint.families import spec_from_config
from edgert.export.checkpoint.language import language_config
from edgert.export.checkpoint.source import open_checkpoint

IDS = np.random.default_rng(7).integers(5, tiny.VOCAB, 90).tolist()
LEFT_OUT = r"its vision part \(2 tensors\) is left out"
AS_ON_THE_HUB = ("language_model.", "")
AS_IN_MEMORY = ("model.language_model.", "model.")


def with_vision(folder, prefix, vision, **changes):
    """The tiny Gemma 3 inside a model that reads images."""
    config = tiny.Tiny("gemma3").config
    tensors = tiny.random_tensors(config)
    tiny.write(folder)
    whole = {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": config,
        "vision_config": {"model_type": "siglip_vision_model"},
        "eos_token_id": [1, 2],
    }
    (folder / "config.json").write_text(json.dumps({**whole, **changes}))
    inner = {
        prefix + (name.removeprefix("model.") if vision else name): tensor for name, tensor in tensors.items()
    }
    parts = ("vision_tower.post_layernorm.weight", "multi_modal_projector.mm_soft_emb_norm.weight")
    tiny.save_tensors(folder, {**inner, **{vision + part: np.ones(8, np.float32) for part in parts}})
    return folder


@pytest.mark.parametrize(("prefix", "vision"), [AS_ON_THE_HUB, AS_IN_MEMORY])
def test_the_language_model_is_the_one_alone(prefix, vision, bundles, tmp_path):
    source = with_vision(tmp_path / "whole", prefix, vision)
    with pytest.warns(edgert.EdgertWarning, match=LEFT_OUT):
        export(source, tmp_path / "bundle", ExportOptions(quant="fp32"))
    with edgert.load(tmp_path / "bundle") as found, edgert.load(bundles("gemma3", "fp32")) as alone:
        assert (found.logits(IDS) == alone.logits(IDS)).all()
        assert found.bundle.manifest.generation.eos_token_ids == (1, 2)


def test_what_a_text_config_leaves_out_is_as_in_transformers():
    """The config of Gemma 3 4B says no more than this."""
    said = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    spec = spec_from_config(language_config({"model_type": "gemma3", "text_config": said}))
    assert (spec.num_heads, spec.num_kv_heads, spec.head_dim) == (8, 4, 256)
    assert (spec.vocab_size, spec.max_context, spec.tied_embeddings) == (262208, 131072, True)
    assert spec.windows[:6] == (1024,) * 5 + (None,)


def test_without_a_text_config_there_is_a_line(tmp_path):
    source = with_vision(tmp_path / "whole", *AS_ON_THE_HUB, text_config=None)
    with pytest.raises(CheckpointError, match=r"config.json: text_config must be an object, not None"):
        open_checkpoint(source)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # transformers' own
def test_it_computes_what_transformers_does(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    text = {name: value for name, value in tiny.Tiny("gemma3").config.items() if name != "model_type"}
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1)
    torch.manual_seed(3)
    whole = transformers.Gemma3ForConditionalGeneration(config).float().eval()
    tiny.write(tmp_path / "whole")
    whole.save_pretrained(tmp_path / "whole")
    with torch.no_grad():
        expected = whole(torch.tensor([IDS])).logits[0].numpy()
    export(tmp_path / "whole", tmp_path / "bundle", ExportOptions(quant="fp32"))
    with edgert.load(tmp_path / "bundle") as model:
        assert np.abs(model.logits(IDS) - expected).max() < 1e-3
