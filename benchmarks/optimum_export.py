"""Optimum's usual road: export to ONNX, then dynamic int8, in a virtual environment of its own."""

from __future__ import annotations

import os
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import peers

from edgert import devices, home
from edgert.engine.fidelity import Logits

if TYPE_CHECKING:
    import onnxruntime as ort

VERSION = "0.1.0"
PAST = "past_key_values"
# PyTorch first: by itself Optimum would bring another one, with gigabytes of CUDA.
PACKAGES = ("torch==2.13.0", f"optimum-onnx[onnxruntime]=={VERSION} transformers==4.57.6")


def command_line() -> Path:
    """optimum-cli, installed on first use (minutes)."""
    root = home.home() / "benchmarks" / f"optimum-onnx-{VERSION}"
    scripts = root / ("Scripts" if os.name == "nt" else "bin")
    if not (root / "installed").exists():
        print(f"Installing optimum-onnx {VERSION} in {root} …", file=sys.stderr)
        venv.create(root, with_pip=True)
        for packages in PACKAGES:
            peers.run(scripts / "python", "-m", "pip", "install", "-q", *packages.split())
        (root / "installed").touch()
    return scripts / "optimum-cli"


def fp32(checkpoint: Path, folder: Path) -> Path:
    """A Hugging Face folder's graph, as `optimum-cli export onnx` writes it."""
    # The task that Optimum infers for models from the hub; for folders it can't.
    options = ("--task", "text-generation-with-past", "--dtype", "fp32")
    peers.run(command_line(), "export", "onnx", "--model", checkpoint, *options, folder)
    return folder / "model.onnx"


def int8(graph: Path, folder: Path) -> Path:
    """Its dynamic quantization for AVX-512 VNNI: one scale per matrix, activations measured at run time."""
    quantize = (command_line(), "onnxruntime", "quantize", "--avx512_vnni")
    peers.run(*quantize, "--onnx_model", graph.parent, "--output", folder)
    return folder / "model_quantized.onnx"


def scorer(graph: Path, chunk: int) -> Scorer:
    """Open a graph with as many threads as the other engines take."""
    import onnxruntime as ort  # by now edgert has turned its telemetry off

    options = ort.SessionOptions()
    options.intra_op_num_threads = devices.physical_threads().count
    return Scorer(ort.InferenceSession(graph, options), chunk)


@dataclass(frozen=True)
class Scorer:
    """A graph that Optimum exported, fed `chunk` tokens per run.

    The tokens of a run share the scales of their activations, so that int8 depends on it.
    """

    session: ort.InferenceSession
    chunk: int

    def logits(self, ids: Sequence[int]) -> Logits:
        """Logits after every token, (tokens, vocab)."""
        nodes = self.session.get_inputs()
        cache = {node.name: _empty(node) for node in nodes if node.name.startswith(PAST)}
        parts = []
        for start in range(0, len(ids), self.chunk):
            positions = np.arange(start, min(start + self.chunk, len(ids)), dtype=np.int64)[None]
            inputs = {
                "input_ids": np.asarray(ids, np.int64)[positions],
                "attention_mask": np.ones((1, positions[0, -1] + 1), np.int64),
                "position_ids": positions,
            }
            found = dict(zip(self._outputs, self.session.run(None, inputs | cache), strict=True))
            parts.append(found["logits"][0])
            cache = {name: found[name.replace(PAST, "present")] for name in cache}
        return np.concatenate(parts)

    @property
    def _outputs(self) -> list[str]:
        return [node.name for node in self.session.get_outputs()]


def _empty(node: ort.NodeArg) -> Logits:
    """No past: (1, heads, 0, head_dim)."""
    _, heads, _, head_dim = node.shape
    return np.zeros((1, heads, 0, head_dim), np.float32)
