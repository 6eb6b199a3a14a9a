"""The NumPy reference itself, held against transformers. Heavy: `make test-parity`."""

import numpy as np
import pytest
import reference
import tiny

pytestmark = pytest.mark.parity

IDS = np.random.default_rng(7).integers(5, tiny.VOCAB, 90).tolist()


@pytest.mark.parametrize("family", tiny.CONFIGS)
@pytest.mark.filterwarnings("ignore")  # transformers' own
def test_reference_equals_transformers(family, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    spec = tiny.Tiny(family)
    folder = tiny.write(tmp_path / family, spec)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        expected = model.float()(torch.tensor([IDS])).logits[0].numpy()
    # transformers decides LongRoPE's factors by the length of the input, not by the context.
    found = reference.forward(spec.config, tiny.random_tensors(spec.config), IDS, context=len(IDS))
    assert np.abs(found - expected).max() < 1e-3
