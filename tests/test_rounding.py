"""Rounding and storage forms: codes on their grid, calibrated errors, operators that read what was stored."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgert.engine.graph_session import session_options
from edgert.export import hessian
from edgert.export.forms import Blocks, Float32, Weights, stored
from edgert.export.hessian import Hessian, inverse_factor
from edgert.export.layer import MICROSOFT
from edgert.export.rounding import gptq, nearest
from edgert.export.rows import Rows

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(48, 192)).astype(np.float32)
MATRIX[3] = 0
FORMS = [Blocks(8, 32, 4), Blocks(4, 32, 4), Blocks(4, 64, 4), Rows(), Rows(columns_first=True), Float32()]


def correlated(tokens=600, columns=192):
    mixing = RNG.normal(size=(columns, columns)) * np.linspace(0.02, 2, columns)[:, None]
    return (RNG.normal(size=(tokens, columns)) @ mixing).astype(np.float32)


@pytest.mark.parametrize(("bits", "block"), [(8, 32), (4, 16), (4, 64)])
def test_nearest_codes_are_within_half_a_step_unless_clipped(bits, block):
    rounded = nearest(MATRIX, block, bits)
    steps = np.repeat(rounded.grid.scales, block, axis=1)
    inside = (rounded.codes > 0) & (rounded.codes < 2**bits - 1)
    assert (np.abs(rounded.values() - MATRIX)[inside] <= steps[inside] * 0.5001).all()
    assert inside.mean() > 0.8 and not rounded.values()[3].any()


def test_searched_ranges_beat_the_whole_range():
    whole = MATRIX.reshape(48, -1, 32)
    low, high = np.minimum(whole.min(-1), 0), np.maximum(whole.max(-1), 0)
    scale = np.maximum((high - low) / 15, 1e-9)[..., None]
    zero = np.round(-low[..., None] / scale)
    plain = (np.clip(np.round(whole / scale + zero), 0, 15) - zero) * scale
    assert ((nearest(MATRIX, 32, 4).values() - MATRIX) ** 2).sum() < 0.95 * ((plain - whole) ** 2).sum()


@pytest.mark.parametrize("bits", [4, 8])
def test_calibrated_products_lose_less_than_half(bits):
    x, fresh = np.split(correlated(), 2)  # judged on rows it wasn't calibrated on
    factor = inverse_factor(x.T @ x)
    lost = [
        ((fresh @ (r.values() - MATRIX).T) ** 2).mean()
        for r in (nearest(MATRIX, 32, bits), gptq(MATRIX, 32, bits, factor))
    ]
    assert lost[1] < 0.5 * lost[0]


@pytest.mark.parametrize("size", [1, 100, 300])
def test_the_factor_is_that_of_the_inverse(size):
    x = RNG.normal(size=(size + 50, size)).astype(np.float32)
    factor = inverse_factor(x.T @ x, damping=0.0)
    assert not np.tril(factor, -1).any()
    assert np.abs(factor.T @ factor @ (x.T @ x) - np.eye(size)).max() < 2e-2


def test_a_sum_in_parts_is_the_sum(monkeypatch):
    """Of its upper triangle; the rest is neither made nor read."""
    monkeypatch.setattr(hessian, "TILE", 16)
    x = RNG.normal(size=(200, 50)).astype(np.float32)
    sums = Hessian(50)
    for part in [*sums.adding(x[:80]), *sums.adding(x[80:])]:
        part()
    assert np.abs(np.triu(sums.sums) - np.triu(x.T @ x)).max() < 1e-3
    assert np.array_equal(sums.sums[40:, :10], np.zeros((10, 10)))
    assert np.abs(inverse_factor(sums.sums) - inverse_factor(x.T @ x)).max() < 1e-4


def test_columns_that_are_almost_the_same_have_a_factor():
    """Damped by a thousandth of what calibration does, float32 still tells them apart."""
    common, own = RNG.normal(size=(300, 1)), RNG.normal(size=(300, 256))
    x = (common + 1e-5 * own).astype(np.float32)
    factor = inverse_factor(x.T @ x, damping=1e-5)
    assert np.isfinite(factor).all() and (np.diag(factor) > 0).all()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_decoding_gives_back_what_was_stored(form):
    decoded = form.decode(form.encode(MATRIX, None))
    assert np.abs(decoded - MATRIX).max() < {4: 0.5, 8: 0.03, 32: 1e-9}[form.bits]
    assert not decoded[3].any()


def session(form, use, bias):
    """A graph that multiplies by, or looks up in, MATRIX as the form stores it."""
    tape, pieces = ir.tape.Tape(), form.pieces(MATRIX.shape, use)
    arrays = [array.reshape(piece.shape) for array, piece in zip(stored(form, MATRIX), pieces, strict=True)]
    values = tuple(tape.initializer(ir.tensor(a, name=p.name)) for a, p in zip(arrays, pieces, strict=True))
    weights = Weights("w", MATRIX.shape, values)
    table = use == "table"
    x = ir.Value(
        name="x",
        type=ir.TensorType(ir.DataType.INT64 if table else ir.DataType.FLOAT),
        shape=ir.Shape([1, "n"] if table else [1, "n", 192]),
    )
    added = None if bias is None else tape.initializer(ir.tensor(bias, name="bias"))
    y = form.look_up(tape, x, weights) if table else form.multiply(tape, x, weights, added)
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    opsets = {"": 21, MICROSOFT: 1}
    graph = ir.Graph(
        [x], [y], nodes=tape.nodes, initializers=tape.initializers, opset_imports=opsets, name="g"
    )
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    return ort.InferenceSession(model, session_options(threads=1, spin=False))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_operators_multiply_by_what_is_stored(form, rows, biased):
    x = RNG.normal(size=(1, rows, 192)).astype(np.float32)
    bias = RNG.normal(size=48).astype(np.float32) if biased else None
    found = session(form, "matrix", bias).run(None, {"x": x})[0]
    expected = x @ form.decode(form.encode(MATRIX, None)).T + (0 if bias is None else bias)
    error = np.sqrt(((found - expected) ** 2).mean()) / np.sqrt((expected**2).mean())
    assert error < (1e-6 if form.bits == 32 else 0.012)  # 8-bit activations


@pytest.mark.parametrize(
    "form", [form for form in FORMS if not getattr(form, "columns_first", False)], ids=str
)
def test_operators_look_up_what_is_stored(form):
    ids = np.array([[5, 3, 47, 0]])
    found = session(form, "table", None).run(None, {"x": ids})[0]
    assert np.abs(found[0] - form.decode(form.encode(MATRIX, None))[ids[0]]).max() < 1e-6


def test_rows_that_come_in_chunks_are_turned_whole():
    codes = np.arange(600 * 5, dtype=np.int16).reshape(5, 600)
    found = np.concatenate(list(Rows(columns_first=True).arranged([codes[:2], codes[2:]])))
    assert (found == codes.T).all()


def test_a_scale_a_token_shields_tokens_from_each_other():
    """One scale for all of them, as DynamicQuantizeLinear takes, would round the small row to nothing."""
    small = RNG.normal(size=(1, 1, 192)).astype(np.float32)
    both = np.concatenate([small, small * 5000], axis=1)
    multiply = session(Rows(), "matrix", None)
    alone, beside = (multiply.run(None, {"x": x})[0][0, 0] for x in (small, both))
    assert np.abs(alone - beside).max() < 1e-5 and np.abs(alone).max() > 1


def test_a_row_of_zeros_gives_zeros():
    """Its largest value is 0, by which it is divided."""
    some = RNG.normal(size=(1, 1, 192)).astype(np.float32)
    both = np.concatenate([np.zeros_like(some), some], axis=1)
    found = session(Rows(), "matrix", None).run(None, {"x": both})[0]
    assert not found[0, 0].any() and np.isfinite(found).all() and found[0, 1].any()
