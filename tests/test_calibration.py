"""Calibration: factors for the matrices that are narrow enough, in the order the writer asks."""

import numpy as np
import tiny

from edgert.export.calibration import Calibration
from edgert.export.checkpoint.source import open_checkpoint
from edgert.export.matrix import matrices

TOKENS = np.random.default_rng(3).integers(5, tiny.VOCAB, (2, 64))


def test_wide_matrices_do_without(checkpoints):
    """down has 96 columns here, everything else 64."""
    checkpoint = open_checkpoint(checkpoints("qwen2"))
    for columns, expected in ((96, {"qkv", "o", "gate", "up", "down", "head"}), (0, set())):
        calibration = Calibration(checkpoint, TOKENS, columns)
        names = sorted(matrices(checkpoint), key=lambda name: not name.startswith("layers."))
        found = {name.rpartition(".")[2] for name in names if calibration.factor(name) is not None}
        assert found == expected and len(calibration.kv) == checkpoint.spec.num_layers
    calibration = Calibration(checkpoint, TOKENS, 64)
    assert calibration.factor("layers.0.qkv") is not None and calibration.factor("layers.0.down") is None
