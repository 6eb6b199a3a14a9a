"""Ways to attend, node by node: python benchmarks/attention.py [--threads 2] [--depths 8,512,2048]

Microseconds of one layer's attention on random keys and values, for the shapes of a few students: reading a
chunk of 256 tokens by GroupQueryAttention, with flash attention and with all scores kept; and one token by
everything that ONNX Runtime has for it. Many layers in a row with caches of their own, so that no processor's
cache holds one until it is read again.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgert.engine import attention
from edgert.engine.providers import ort

CAPACITY = 4096  # tokens that a cache has room for
CHUNK = 256
LAYERS, RUNS = 12, 15
MICROSOFT = "com.microsoft"
MEMORY = 25e9  # bytes per second: about what the machine of docs/performance.md reads
COLUMNS = (
    "shape",
    "depth",
    f"{CHUNK} tokens: flash",
    "scores kept",
    "one token: flash",
    "scores kept",
    "8-bit cache",
    "Attention",
    "products",
    "only reading at 25 GB/s",
)
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Shape:
    """A student's attention: heads, those of keys and values, channels of each."""

    name: str
    heads: int
    kv_heads: int
    size: int


SHAPES = (
    Shape("SmolLM2-135M", 9, 3, 64),
    Shape("R1-Distill-Qwen-1.5B", 12, 2, 128),
    Shape("Qwen3-1.7B", 16, 8, 128),
    Shape("Llama-8B", 32, 8, 128),
)


@dataclass
class Graph:
    """Nodes over inputs whose values are at hand; `written`: outputs that lie where an input does."""

    tape: ir.tape.Tape = field(default_factory=ir.tape.Tape)
    inputs: dict[str, tuple[ir.Value, Array]] = field(default_factory=dict)
    outputs: list[ir.Value] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)

    def input(self, name: str, array: Array) -> ir.Value:
        value = ir.Value(
            name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=ir.Shape(array.shape)
        )
        self.inputs[name] = value, array
        return value

    def microseconds(self, threads: int, *, keep_scores: bool = False) -> float:
        """Of a layer, the median of some runs."""
        inputs = [value for value, _ in self.inputs.values()]
        graph = ir.Graph(
            inputs,
            self.outputs,
            nodes=self.tape.nodes,
            initializers=self.tape.initializers,
            opset_imports={"": 24, MICROSOFT: 1},
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        with attention.chosen(keep_scores=keep_scores):
            model = ir.to_proto(ir.Model(graph, ir_version=11)).SerializeToString()
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        binding, alive = session.io_binding(), {}
        for name, (_, array) in self.inputs.items():
            alive[name] = ort.OrtValue.ortvalue_from_numpy(array)
            binding.bind_ortvalue_input(name, alive[name])
        for output in self.outputs:
            if source := self.written.get(str(output.name)):
                binding.bind_ortvalue_output(output.name, alive[source])
            else:
                binding.bind_output(output.name)
        return statistics.median(_times(lambda: session.run_with_iobinding(binding))) / LAYERS * 1e6


def _times(run: Callable[[], object]) -> Iterable[float]:
    """Seconds of runs, without those that warm up."""
    for number in range(RUNS + 3):
        start = time.perf_counter()
        run()
        if number >= 3:
            yield time.perf_counter() - start


def normal(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def grouped(shape: Shape, tokens: int, depth: int, *, eight_bits: bool = False) -> Graph:
    """GroupQueryAttention, appending `tokens` to a cache that holds `depth`."""
    graph = Graph()
    qkv = graph.input("qkv", normal(1, tokens, (shape.heads + 2 * shape.kv_heads) * shape.size))
    last = graph.input("last", np.array([depth + tokens - 1], np.int32))
    total = graph.input("total", np.array(depth + tokens, np.int32))
    angles = [graph.input(name, normal(CAPACITY, shape.size // 2)) for name in ("cos", "sin")]
    attributes: dict[str, Any] = {"num_heads": shape.heads, "kv_num_heads": shape.kv_heads, "do_rotary": 1}
    scales: list[ir.Value | None] = []
    if eight_bits:
        scale = graph.tape.initializer(
            ir.tensor(np.full((shape.kv_heads, 1, shape.size), 0.03, np.float32), name="s")
        )
        attributes |= {"kv_cache_bit_width": 8, "k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
        scales = [None, None, None, scale, scale]
    for layer in range(LAYERS):
        cache = normal(1, shape.kv_heads, CAPACITY, shape.size)
        stored: Array = (cache * 30).astype(np.int8) if eight_bits else cache
        past = [graph.input(f"past.{layer}.{part}", stored.copy()) for part in "kv"]
        inputs: list[ir.Value | None] = [qkv, None, None, *past, last, total, *angles, *scales]
        made = graph.tape.op_multi_out(
            "GroupQueryAttention", inputs, attributes, num_outputs=3, domain=MICROSOFT
        )
        for index, value in enumerate(made):
            value.name = f"out.{layer}.{index}"
        graph.outputs += made
        graph.written |= {f"out.{layer}.{i + 1}": str(value.name) for i, value in enumerate(past)}
    return graph


def standard(shape: Shape, depth: int) -> Graph:
    """ONNX's own Attention over keys and values that lie there without room for more: nothing is appended."""
    graph, group = Graph(), shape.heads // shape.kv_heads
    query = graph.input("q", normal(1, shape.kv_heads, group, shape.size))
    for layer in range(LAYERS):
        keys, values = (
            graph.input(f"{part}.{layer}", normal(1, shape.kv_heads, depth, shape.size)) for part in "kv"
        )
        graph.outputs.append(graph.tape.op("Attention", [query, keys, values]))
    return _named(graph)


def products(shape: Shape, depth: int) -> Graph:
    """Plain products, a matrix for all heads that share keys; nothing is appended either."""
    graph, group = Graph(), shape.heads // shape.kv_heads
    query = graph.input("q", normal(shape.kv_heads, group, shape.size))
    for layer in range(LAYERS):
        keys, values = (
            graph.input(f"{part}.{layer}", normal(shape.kv_heads, depth, shape.size)) for part in "kv"
        )
        scores = graph.tape.op("FusedMatMul", [query, keys], {"transB": 1, "alpha": 0.1}, domain=MICROSOFT)
        graph.outputs.append(
            graph.tape.op("MatMul", [graph.tape.op("Softmax", [scores], {"axis": -1}), values])
        )
    return _named(graph)


def _named(graph: Graph) -> Graph:
    for index, value in enumerate(graph.outputs):
        value.name = f"out.{index}"
        value.type = ir.TensorType(ir.DataType.FLOAT)
    return graph


@click.command()
@click.option("--threads", default=2, show_default=True)
@click.option("--depths", default="8,512,2048", show_default=True, help="Tokens that the cache holds before.")
def main(threads: int, depths: str) -> None:
    """Measure each way for each shape and depth, in microseconds per layer."""
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for shape in SHAPES:
        for depth in map(int, depths.split(",")):
            found = [
                grouped(shape, tokens, depth).microseconds(threads, keep_scores=keep)
                for tokens in (CHUNK, 1)
                for keep in (False, True)
            ]
            found.append(grouped(shape, 1, depth, eight_bits=True).microseconds(threads))
            found += [make(shape, depth).microseconds(threads) for make in (standard, products)]
            found.append(8 * shape.kv_heads * depth * shape.size / MEMORY * 1e6)
            print(
                f"| {shape.name} | {depth} | " + " | ".join(f"{value:,.0f}" for value in found) + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
