"""The same tiny checkpoints by both roads. Heavy: `make test-optimum`."""

import numpy as np
import pytest
import tiny

import edgert
from edgert.export import ExportOptions, export

pytestmark = [pytest.mark.optimum, pytest.mark.filterwarnings("ignore")]  # torch's and transformers' own

IDS = np.random.default_rng(7).integers(5, tiny.VOCAB, 60).tolist()


def answer(model):
    return model.generate(IDS, max_tokens=24, temperature=0.0).token_ids


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_both_roads_lead_to_the_same_answers(family, checkpoints, tmp_path):
    roads = ("direct", "optimum")
    for via in roads:
        export(checkpoints(family), tmp_path / via, ExportOptions(quant="fp32", via=via))
    direct, optimum = (edgert.load(tmp_path / via, context=128) for via in roads)
    assert np.abs(direct.logits(IDS) - optimum.logits(IDS)).max() < 1e-3
    assert answer(direct) == answer(optimum) and len(answer(direct)) > 1
    export(checkpoints(family), tmp_path / "int8", ExportOptions(via="optimum", verify=False))
    int8 = edgert.load(tmp_path / "int8", context=128)
    assert np.abs(int8.logits(IDS) - direct.logits(IDS)).mean() < 0.1 * np.abs(direct.logits(IDS)).mean()
    assert answer(int8)
