"""Optimum's usual road: export to ONNX, then dynamic int8, in a virtual environment of its own."""

from __future__ import annotations

import os
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import peers

from edgert import home
from edgert.fidelity import Logits

VERSION = "0.1.0"
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
    peers.run(command_line(), "export", "onnx", "--model", checkpoint, "--dtype", "fp32", folder)
    return folder / "model.onnx"


def int8(graph: Path, folder: Path) -> Path:
    """Its dynamic quantization for AVX-512 VNNI: one scale a matrix, activations measured at run time."""
    quantize = (command_line(), "onnxruntime", "quantize", "--avx512_vnni")
    peers.run(*quantize, "--onnx_model", graph.parent, "--output", folder)
    return folder / "model_quantized.onnx"


@dataclass(frozen=True)
class Scorer:
    """A graph that Optimum exported, with its cache left empty."""

    session: ort.InferenceSession

    def logits(self, ids: Sequence[int]) -> Logits:
        """Logits after every token, (tokens, vocab)."""
        row = np.array([ids], np.int64)
        known = {
            "input_ids": row,
            "attention_mask": np.ones_like(row),
            "position_ids": np.arange(len(ids), dtype=np.int64)[None],
        }
        inputs = {node.name: known.get(node.name, _empty(node)) for node in self.session.get_inputs()}
        logits: Logits = self.session.run(["logits"], inputs)[0][0]
        return logits


def _empty(node: ort.NodeArg) -> Logits:
    """No past: (1, heads, 0, head_dim)."""
    _, heads, _, head_dim = node.shape if len(node.shape) == 4 else (1, 1, 1, 1)
    return np.zeros((1, heads, 0, head_dim), np.float32)
