"""Tracing: Optimum turns a checkpoint into an fp32 ONNX graph, in a process of its own.

That process imports torch and transformers, and its memory is gone with it. It runs no code of the
checkpoint's and reaches no network.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

from edgert.errors import CheckpointError, EdgertWarning
from edgert.export.checkpoint.json_file import read_json

TASK = "text-generation-with-past"
TRACED = "model.onnx"

# Measured by benchmarks/tracing.py: what is imported; then the fp32 weights, four times where the graph fits
# into one protobuf, else twice. Seconds of one processor.
IMPORTED, PROTOBUF = 700_000_000, 2 << 30  # bytes
START_SECONDS, SECONDS_PER_WEIGHT = 19, 5.5e-8


def trace(source: Path, target: Path) -> Path:
    """Write the graph with past keys and values into `target`; its path. Raises CheckpointError."""
    command = [sys.executable, "-m", __name__, str(source), str(target)]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        command,
        check=False,
        env={**os.environ, **offline},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    graph = target / TRACED
    if done.returncode or not graph.is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit {done.returncode}"]
        raise CheckpointError(f"{source}: Optimum can't trace it: {said[-1].strip()}")
    return graph


def warn_of_cost(weights: int) -> None:
    """Tell what tracing so many weights takes, before it begins."""
    gigabytes, minutes = _memory(weights) / 1e9, _seconds(weights) / 60
    took = f"{minutes:.0f} minutes" if minutes >= 2 else f"{_seconds(weights):.0f} seconds"
    warnings.warn(
        f"via optimum: tracing takes about {gigabytes:.1f} GB of memory and {took}",
        EdgertWarning,
        stacklevel=2,
    )


def _memory(weights: int) -> int:
    size = 4 * weights
    return IMPORTED + size * (4 if size < PROTOBUF else 2)


def _seconds(weights: int) -> float:
    return START_SECONDS + weights * SECONDS_PER_WEIGHT


def main() -> None:
    """Trace argv[1] into the folder argv[2]; what goes wrong is the last line on standard error."""
    from optimum.exporters.onnx import onnx_export_from_model
    from optimum.exporters.tasks import TasksManager

    source, target = sys.argv[1:]
    model = TasksManager.get_model_from_task(
        TASK,
        source,
        framework="pt",
        torch_dtype="float32",
        local_files_only=True,
        trust_remote_code=False,
        **_attention(Path(source)),
    )
    model.config.use_cache = True
    onnx_export_from_model(model, target, task=TASK, device="cpu", do_validation=False, no_post_process=True)


def _attention(source: Path) -> dict[str, str]:
    """Transformers' eager attention for soft caps of scores, which PyTorch's own leaves out silently."""
    capped = read_json(source / "config.json").get("attn_logit_softcapping")
    return {"attn_implementation": "eager"} if capped else {}


if __name__ == "__main__":
    main()
