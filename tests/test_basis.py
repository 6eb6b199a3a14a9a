"""A rotated checkpoint computes what the original does; layer by layer as well as whole."""

import numpy as np
import pytest
import reference
import tiny

from edgert.bundle import open_bundle
from edgert.export.checkpoint.basis import rotated
from edgert.export.checkpoint.source import open_checkpoint
from edgert.export.layerwise import Layerwise
from edgert.export.rotation import hadamard, random_rotation

IDS = np.random.default_rng(7).integers(5, tiny.VOCAB, 90)


def logits(checkpoint):
    layers = Layerwise(checkpoint, len(IDS))
    hidden = layers.embed(IDS[None])
    for layer in range(checkpoint.spec.num_layers):
        hidden = layers.run(layer, layers.weights(layer), hidden)
    return layers.logits(layers.final(hidden))


@pytest.mark.parametrize("down_block", [None, 0, 32])
@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_layer_by_layer_in_any_basis_equals_the_reference(family, down_block, checkpoints):
    config = tiny.Tiny(family).config
    checkpoint = open_checkpoint(checkpoints(family))
    if down_block is not None:
        checkpoint = rotated(checkpoint, down_block)
    expected = reference.forward(config, tiny.random_tensors(config), IDS.tolist(), len(IDS))
    assert np.abs(expected).max() > 1
    assert np.abs(logits(checkpoint) - expected).max() < 1e-3


@pytest.mark.parametrize(("family", "block"), [("gemma3", 64), ("olmo2", 64), ("llama", 0)])
def test_streams_that_norms_tie_to_their_basis_are_rotated_when_they_are_read(family, block, checkpoints):
    turned = rotated(open_checkpoint(checkpoints(family)))
    turn = turned.spec.read_turn
    assert (turn.size if turn else 0) == block
    assert turned.spec.head_mix == (family == "llama")


@pytest.mark.parametrize(("family", "table"), [("gemma3", "embedding"), ("olmo2", "head")])
def test_their_heads_read_rotated_blocks(family, table, checkpoints):
    """Also where the table is tied: what is looked up is turned back."""
    checkpoint = open_checkpoint(checkpoints(family))
    turned = rotated(checkpoint).tensors[f"{table}.weight"].rows(0, 8)
    assert np.abs(turned @ hadamard(64) - checkpoint.tensors[f"{table}.weight"].rows(0, 8)).max() < 1e-5


def test_their_int8_bundles_rotate_the_input_of_down_too(bundles):
    """In blocks of a power of two that divides the intermediate size, 96."""
    assert open_bundle(bundles("gemma3")).manifest.quantization.hadamard == 32
    assert open_bundle(bundles("llama", "int4")).manifest.quantization.hadamard == 32


@pytest.mark.parametrize("size", [1, 7, 64, 576, 896, 1536, 4096])
def test_rotations_are_orthogonal(size):
    rotation = random_rotation(size)
    matrix = rotation.right(np.eye(size, dtype=np.float32)[: min(size, 64)])
    assert np.abs(matrix @ matrix.T - np.eye(len(matrix))).max() < 1e-5
    x = np.random.default_rng(0).normal(size=(size, 3))  # in float64: both round otherwise in float32
    assert np.abs(rotation.left(x) - rotation.right(x.T).T).max() < 1e-6


def test_a_rotation_spreads_an_outlier():
    x = np.zeros((1, 576), np.float32)
    x[0, 100] = 24
    assert np.abs(random_rotation(576).right(x)).max() < 4


def test_hadamard_is_its_own_inverse():
    assert np.abs(hadamard(64) @ hadamard(64) - np.eye(64)).max() < 1e-6


def test_rows_of_a_turned_tensor_come_in_any_order(checkpoints):
    checkpoint = rotated(open_checkpoint(checkpoints("llama-biased")), 32)
    for name, tensor in checkpoint.tensors.items():
        whole = tensor.rows(0, tensor.shape[0])
        start, stop = tensor.shape[0] // 3, tensor.shape[0] // 2
        assert np.abs(tensor.rows(start, stop) - whole[start:stop]).max() < 1e-5, name
