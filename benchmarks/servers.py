"""Servers to be measured: each a process of its own, asked by OpenAI's chat API."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import peers

from edgert import devices
from edgert.bundle import open_bundle

START_S, ANSWER_S = 120.0, 600.0  # the longest that a start and an answer may take


@dataclass(frozen=True)
class Asked:
    """One answer: seconds from the request to its first piece and to its end, and tokens."""

    first_s: float
    whole_s: float
    prompt_tokens: int
    answer_tokens: int


class Server:
    """A server that listens. `never_end`: ids of tokens that no answer may have: all are equally long."""

    def __init__(self, name: str, port: int, process_id: int, never_end: tuple[int, ...]) -> None:
        self.name, self.process_id = name, process_id
        # A connection per question: llama.cpp's server may close an idle one while it is asked again.
        fresh = httpx2.Limits(max_keepalive_connections=0)
        self._client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=ANSWER_S, limits=fresh)
        self._bias = {str(token): -100 for token in never_end}

    def ask(self, question: str, tokens: int) -> Asked:
        """One answer of so many tokens, streamed."""
        body = self._body(question, tokens)
        began, first = time.perf_counter(), 0.0
        with self._client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                raise SystemExit(f"{self.name}: {answer.read().decode()}")
            usage: Mapping[str, int] = {}
            for piece in _pieces(answer.iter_lines()):
                first = first or (time.perf_counter() - began if _says(piece) else 0.0)
                usage = piece.get("usage") or usage
        whole = time.perf_counter() - began
        return Asked(first or whole, whole, usage["prompt_tokens"], usage["completion_tokens"])

    def text(self, question: str, tokens: int) -> str:
        """What an answer says."""
        answer = self._client.post("/v1/chat/completions", json=self._body(question, tokens, stream=False))
        return str(answer.json()["choices"][0]["message"]["content"])

    def leave(self, question: str, tokens: int, after: int) -> None:
        """Ask, and go away after so many pieces."""
        body = self._body(question, tokens)
        with self._client.stream("POST", "/v1/chat/completions", json=body) as answer:
            for _, _ in zip(range(after), _pieces(answer.iter_lines()), strict=False):
                pass

    def status(self, body: Mapping[str, Any]) -> int:
        """Of the response to a request that may be wrong."""
        return self._client.post("/v1/chat/completions", json=body).status_code

    def together(self, questions: list[list[str]], tokens: int) -> float:
        """Tokens per second of as many clients as there are lists; each asks its questions one by one."""

        def client(mine: list[str]) -> int:
            return sum(self.ask(question, tokens).answer_tokens for question in mine)

        began = time.perf_counter()
        with ThreadPoolExecutor(len(questions)) as pool:
            total = sum(pool.map(client, questions))
        return total / (time.perf_counter() - began)

    def beside(self, long: str, short: str, after_s: float) -> tuple[Asked, Asked]:
        """A long prompt, and a short question of another client that comes so much later."""
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(self.ask, long, 1)
            threading.Event().wait(after_s)
            short_asked = self.ask(short, 8)
            return reading.result(), short_asked

    def _body(self, question: str, tokens: int, *, stream: bool = True) -> dict[str, Any]:
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": tokens,
            "temperature": 0.0,
            "logit_bias": self._bias,
        }
        return {**body, "stream": True, "stream_options": {"include_usage": True}} if stream else body


@contextmanager
def edgert_server(bundle: Path, conversations: int, context: int, *options: str) -> Iterator[Server]:
    """`edgert serve` of one bundle."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "edgert",
        "serve",
        bundle,
        "--port",
        port,
        "--conversations",
        conversations,
    ]
    command += ["--context", context, *options]
    with _running("edgert", command, port, _ends(bundle)) as server:
        server.name = bundle.name
        server.ask("Hello", 1)  # loads it
        yield server


@contextmanager
def llama_server(model: Path, bundle: Path, conversations: int, context: int) -> Iterator[Server]:
    """llama.cpp's, with as many slots, and as many threads as edgert takes; the bundle tells the ends."""
    port, threads = free_port(), devices.physical_threads().count
    command = [peers.llama_cpp() / "llama-server", "-m", model, "--port", port, "--parallel", conversations]
    command += ["--ctx-size", conversations * context, "--threads", threads, "--threads-batch", threads]
    with _running("llama.cpp", command, port, _ends(bundle)) as server:
        server.ask("Hello", 1)
        yield server


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def _running(name: str, command: list[Any], port: int, ends: tuple[int, ...]) -> Iterator[Server]:
    """The process, once it says that it is well; stopped at the end. What it wrote is shown if it dies."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
        try:
            wait_for(process, port)
            yield Server(name, port, process.pid, ends)
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read()[-2000:])
            raise
        finally:
            process.terminate()
            process.wait(30)


def wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    """Until a server says that it is well."""
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("the server did not start")


def _ends(bundle: Path) -> tuple[int, ...]:
    return tuple(open_bundle(bundle).manifest.generation.eos_token_ids)


def _pieces(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON of server-sent events."""
    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def _says(piece: dict[str, Any]) -> bool:
    """Whether a piece has text: the first tells the role only."""
    deltas = (choice["delta"] for choice in piece["choices"])
    return any(delta.get("content") or delta.get("reasoning_content") for delta in deltas)
