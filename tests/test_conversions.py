"""The benchmarks hand a checkpoint to the peers in their own formats: it must be the same model there."""

import llama_folder
import llama_gguf
import numpy as np
import peer_bench
import peer_fidelity
import pytest
import tiny

from edgert import load
from edgert.export import ExportOptions, export
from edgert.export.checkpoint.source import open_checkpoint

IDS = np.random.default_rng(5).integers(5, tiny.VOCAB, 40).tolist()


def model(source, folder):
    export(source, folder, ExportOptions(quant="fp32"))
    return load(folder, context=64)


@pytest.mark.parametrize("family", ["llama", "llama3", "llama-biased"])
def test_a_gguf_is_the_folder_it_was_made_from(family, checkpoints, tmp_path):
    folder = checkpoints(family)
    llama_gguf.write(open_checkpoint(folder), tmp_path / "model.gguf", " ".join(tiny.TEXT))
    made, original = model(tmp_path / "model.gguf", tmp_path / "a"), model(folder, tmp_path / "b")
    assert np.abs(made.logits(IDS) - original.logits(IDS)).max() < 1e-4
    assert made.tokenizer.encode(tiny.TEXT[0]) == original.tokenizer.encode(tiny.TEXT[0])


def test_a_folder_is_the_gguf_it_was_made_from(checkpoints, tmp_path):
    llama_gguf.write(open_checkpoint(checkpoints("llama")), tmp_path / "model.gguf", tiny.TEXT[0])
    folder = llama_folder.write(open_checkpoint(tmp_path / "model.gguf"), tmp_path / "folder")
    made, original = model(folder, tmp_path / "a"), model(tmp_path / "model.gguf", tmp_path / "b")
    assert np.abs(made.logits(IDS) - original.logits(IDS)).max() < 1e-4
    assert made.tokenizer.encode(tiny.TEXT[0]) == original.tokenizer.encode(tiny.TEXT[0])


def test_what_gguf_cannot_say_is_refused(checkpoints, tmp_path):
    with pytest.raises(SystemExit, match="qwen3"):
        llama_gguf.write(open_checkpoint(checkpoints("qwen3")), tmp_path / "model.gguf", tiny.TEXT[0])


def test_the_comparison_tells_what_the_checkpoint_was_stored_in():
    """Types that the checkpoint had already lose next to nothing when they are measured."""
    stored, references = {"Q8_0": 0.75, "F32": 0.25}, {"llama.cpp": 14.1, "edgert": 14.1}
    results = peer_bench.Results(stored, 4, 256, 510, True, references, [])
    assert "- the checkpoint: Q8_0 75 %, F32 25 %; " in peer_fidelity.table(results)
