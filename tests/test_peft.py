"""Adapters that PEFT itself made: merged at export as PEFT merges them. Heavy: `make test-parity`."""

import numpy as np
import pytest
import tiny

from edgert import load
from edgert.export import ExportOptions, export

pytestmark = pytest.mark.parity

IDS = np.random.default_rng(7).integers(5, tiny.VOCAB, 90).tolist()
Q0 = "model.layers.0.self_attn.q_proj"
CASES = {
    "names": {"target_modules": ["q_proj", "v_proj"]},
    "expression": {"target_modules": r".*\.[12]\.mlp\.(up|down)_proj"},
    "all-linear": {"target_modules": "all-linear", "exclude_modules": ["o_proj", Q0]},
    "some-layers": {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [0, 2]},
    "one-layer": {"target_modules": ["q_proj"], "layers_to_transform": 1, "layers_pattern": "layers"},
    "rank-stabilized": {"target_modules": ["o_proj"], "use_rslora": True},
    "fan-in": {"target_modules": ["q_proj", "up_proj"], "fan_in_fan_out": True},
    "patterns": {
        "target_modules": ["q_proj", "k_proj", "up_proj"],
        "rank_pattern": {f"^{Q0}": 2, r"layers\.\d.self_attn..*": 6, "q_proj": 3, "q_pro": 7},
        "alpha_pattern": {"up_proj": 3, f"^{Q0}$": 5, "self_attn.k_proj": 9, "layers.1.mlp": 99},
    },
}


@pytest.mark.filterwarnings("ignore")  # PEFT's own, and those of transformers
@pytest.mark.parametrize(
    ("family", "case"),
    [*(("llama", case) for case in CASES), ("phi3", "all-linear"), ("qwen3", "all-linear")],
)
def test_merged_equals_peft(family, case, checkpoints, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    base = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoints(family), attn_implementation="eager", dtype=torch.float32
    )
    config = peft.LoraConfig(r=4, lora_alpha=10, init_lora_weights=False, **CASES[case])
    torch.manual_seed(0)
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "lora")
    base = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoints(family), attn_implementation="eager", dtype=torch.float32
    )
    merged = peft.PeftModel.from_pretrained(base, tmp_path / "lora").merge_and_unload()
    with torch.no_grad():
        expected = merged(torch.tensor([IDS])).logits[0].numpy()
    options = ExportOptions(quant="fp32", adapters=(tmp_path / "lora",))
    export(checkpoints(family), tmp_path / "bundle", options)
    found = load(tmp_path / "bundle").logits(IDS)
    assert np.abs(found - expected).max() < 1e-4
