"""Bits by measured sensitivity: what storing a matrix costs, and how a budget is spent."""

import numpy as np
import onnx_ir as ir
import pytest

from edgert import EdgertWarning, UsageError, devices
from edgert.export import ExportOptions, export
from edgert.export.checkpoint.basis import rotated
from edgert.export.checkpoint.source import open_checkpoint
from edgert.export.matrix import MatrixName, matrices
from edgert.export.mixed import Choices
from edgert.export.recipe import int4, int8
from edgert.export.sensitivity import by_layer, by_matrix, costs

PROFILE = devices.load("laptop-cpu")
O_1, DOWN_2 = MatrixName(1, "o"), MatrixName(2, "down")
TOKENS = np.random.default_rng(3).integers(5, 320, (2, 64))


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def checkpoint(request, checkpoints):
    return rotated(open_checkpoint(checkpoints(request.param)), 32)


def silent(_done, _total):
    pass


def test_every_matrix_costs_something_and_4_bits_more_than_8(checkpoint):
    names = list(matrices(checkpoint))
    four, eight = (
        costs(checkpoint, recipe, by_matrix(names), TOKENS, silent)
        for recipe in (int4(PROFILE), int8(PROFILE))
    )
    assert set(four) == set(eight) == set(names)
    assert all(four[name] > 2 * eight[name] > 0 for name in names)


def test_a_layer_costs_more_than_any_of_its_matrices(checkpoint):
    names = list(matrices(checkpoint))
    recipe = int4(PROFILE)
    alone, together = (costs(checkpoint, recipe, by(names), TOKENS, silent) for by in (by_matrix, by_layer))
    assert set(together) == {
        "layer 0",
        "layer 1",
        "layer 2",
        *(name.kind for name in names if name.layer is None),
    }
    for layer in range(3):
        own = [cost for name, cost in alone.items() if name.layer == layer]
        assert max(own) < together[f"layer {layer}"] < 3 * sum(own)


def test_a_budget_goes_where_it_saves_most(checkpoint):
    named = matrices(checkpoint)
    prices = dict.fromkeys(named, 0.001) | {O_1: 5.0, DOWN_2: 1.0}
    choices = Choices(int4(PROFILE), named, prices)
    least = choices.recipe.bytes(named)
    assert choices.order[:2] == [O_1, DOWN_2]
    assert not choices.within(least).exceptions
    chosen = choices.within(least + 5000)
    assert next(iter(chosen.exceptions)) == O_1 and chosen.bytes(named) <= least + 5000
    everything = choices.within(10 * least)
    assert set(everything.exceptions) == set(named)
    with pytest.raises(UsageError, match="is not reachable: 4 bits everywhere take"):
        choices.within(least - 1)


def test_a_bound_takes_no_more_than_it_needs(checkpoint):
    named = matrices(checkpoint)
    prices = dict.fromkeys(named, 0.001) | {O_1: 5.0}
    chosen = Choices(int4(PROFILE), named, prices).below(0.5)
    assert list(chosen.exceptions) == [O_1]


def test_mixed_keeps_to_its_size(checkpoints, tmp_path):
    checkpoint = open_checkpoint(checkpoints("llama"))
    named = matrices(checkpoint)
    low, high = (recipe(PROFILE).bytes(named) for recipe in (int4, int8))
    target = (low + high) // 2
    kept = {}
    for size in (low, target):
        options = ExportOptions(quant="mixed", target_size=size)
        bundle = export(checkpoints("llama"), tmp_path / f"b{size}", options)
        quantization = bundle.manifest.quantization
        assert quantization.scheme == "mixed"
        assert quantization.bits_per_weight * sum(m.size for m in named.values()) / 8 <= size * 1.001
        assert (quantization.exceptions == {}) == (size == low)
        kept[size] = bundle.manifest.graphs["model.onnx"].fidelity.mean_kl
    assert kept[target] < kept[low]


def test_mixed_keeps_to_its_bound(checkpoints, tmp_path):
    whole = export(checkpoints("llama"), tmp_path / "int4", ExportOptions(quant="int4"))
    bound = whole.manifest.graphs["model.onnx"].fidelity.mean_kl / 2
    bundle = export(checkpoints("llama"), tmp_path / "b", ExportOptions(quant="mixed", max_kl=bound))
    assert bundle.manifest.graphs["model.onnx"].fidelity.mean_kl <= bound
    assert (
        0
        < len(bundle.manifest.quantization.exceptions)
        < len(matrices(open_checkpoint(checkpoints("llama"))))
    )


def test_mixed_keeps_to_its_size_without_calibration_and_measurement(checkpoints, tmp_path):
    options = ExportOptions(quant="mixed", target_size=10**9, calibrate=False, verify=False)
    bundle = export(checkpoints("llama"), tmp_path / "b", options)
    assert len(bundle.manifest.quantization.exceptions) == len(
        matrices(open_checkpoint(checkpoints("llama")))
    )


def test_where_blocks_have_no_8_bit_kernel_mixed_takes_rows(checkpoints, tmp_path):
    options = ExportOptions(quant="mixed", devices=("raspberry-pi-4",), target_size=10**9, verify=False)
    with pytest.warns(EdgertWarning, match="mixed on raspberry-pi-4"):
        bundle = export(checkpoints("llama"), tmp_path / "b", options)
    kinds = {node.op_type for node in ir.load(bundle.path("model.onnx")).graph}
    assert "QGemm" in kinds and "MatMulNBits" not in kinds
