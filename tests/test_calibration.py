"""Calibration: factors for the matrices that are narrow enough, whatever order they are asked for in."""

import numpy as np
import pytest
import tiny

from edgert.export.calibration import Calibration
from edgert.export.checkpoint.source import open_checkpoint
from edgert.export.matrix import EMBEDDING, MatrixName, matrices

TOKENS = np.random.default_rng(3).integers(5, tiny.VOCAB, (2, 64))


@pytest.mark.parametrize(
    ("columns", "kinds"),
    [(96, {"qkv", "o", "gate", "up", "down", "head"}), (64, {"qkv", "o", "gate", "up", "head"}), (0, set())],
)
def test_wide_matrices_do_without(checkpoints, columns, kinds):
    """down has 96 columns here, everything else 64."""
    checkpoint = open_checkpoint(checkpoints("qwen2"))
    calibration = Calibration(checkpoint, TOKENS, columns)
    assert {
        name.kind for name in matrices(checkpoint) if calibration.compute_factor(name) is not None
    } == kinds
    assert len(calibration.compute_kv_scales()) == checkpoint.spec.num_layers


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_the_order_of_the_questions_does_not_matter(checkpoints, family):
    """Among them a tied table, which is the head and needs all layers, but comes first."""
    checkpoint = open_checkpoint(checkpoints(family))
    names = list(matrices(checkpoint))
    forth, back = (Calibration(checkpoint, TOKENS, 96) for _ in range(2))
    factors = {name: forth.compute_factor(name) for name in names}
    scales = back.compute_kv_scales()
    for name in reversed(names):
        found = back.compute_factor(name)
        assert (found is None) == (factors[name] is None) == (name == EMBEDDING and family == "qwen2")
        assert found is None or np.array_equal(found, factors[name])
    for first, second in zip(scales, forth.compute_kv_scales(), strict=True):
        assert np.array_equal(first.keys, second.keys) and np.array_equal(first.values, second.values)


@pytest.mark.parametrize("text", ["layers.3.qkv", "embedding", "head"])
def test_names_of_matrices_are_read_as_they_are_written(text):
    assert str(MatrixName.parse(text)) == text


@pytest.mark.parametrize("text", ["", "layers.x.qkv", "layers.3.qkv.weight", "blk.3.qkv"])
def test_what_names_no_matrix_is_refused(text):
    with pytest.raises(ValueError, match="is not the name of a matrix"):
        MatrixName.parse(text)
