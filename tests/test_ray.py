"""A batch on a Ray cluster of two nodes on this machine: every answer once, also if a node is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgert.cli import main

pytestmark = pytest.mark.ray
COUNT, TOKENS = 200, 160  # some fifteen seconds of work: a node is killed in its midst


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(*arguments):
    """A node in a process group of its own, which can be killed as one."""
    command = [str(Path(sys.executable).parent / "ray"), "start", *arguments, "--block", "--num-cpus=1"]
    more = ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*command, *more], env=environment, start_new_session=True, **quiet)


def kill(node):
    os.killpg(node.pid, signal.SIGKILL)
    node.wait()


def count_nodes(address):
    code = f"""
import ray
ray.init("{address}", log_to_driver=False)
print("nodes:", sum(node["Alive"] for node in ray.nodes()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return int(done.stdout.rpartition("nodes: ")[2] or 0)


@pytest.fixture
def cluster():
    """The address of two nodes, and the second of them."""
    address = f"127.0.0.1:{free_port()}"
    head = started("--head", f"--port={address.partition(':')[2]}", "--include-dashboard=false")
    nodes = [head]
    try:
        until(lambda: count_nodes(address) == 1)
        nodes.append(started(f"--address={address}"))
        until(lambda: count_nodes(address) == 2)
        yield address, nodes[1]
    finally:
        for node in nodes:
            if node.poll() is None:
                kill(node)


def until(reached, seconds=90):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.2)


def answered(path):
    return path.read_bytes().count(b"\n") - 1 if path.exists() else 0


def test_two_nodes_one_killed_every_answer_is_there_once(cluster, bundles, model, tmp_path):
    address, second = cluster
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    prompts.write_text("".join(f"one two three {number}\n" for number in range(COUNT)))
    command = [sys.executable, "-m", "edgert", "batch", str(prompts), str(out), "--bundle", str(bundles())]
    more = ["--ray", address, "--max-tokens", str(TOKENS), "--conversations", "2"]
    run = subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True)
    partial = tmp_path / "out.jsonl.partial"
    until(lambda: answered(partial) >= COUNT // 10 or run.poll() is not None)
    kill(second)
    told = run.communicate(timeout=200)[1]
    assert run.returncode == 0, told
    assert "its lines are given out again" in told, told
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == list(range(1, COUNT + 1))
    expected = [model.generate(f"one two three {number}", max_tokens=TOKENS).text for number in range(COUNT)]
    assert [row["text"] for row in rows] == expected


def test_an_address_where_no_cluster_is_is_refused_at_once(bundles, tmp_path):
    (tmp_path / "p.txt").write_text("one\n")
    command = ["batch", str(tmp_path / "p.txt"), str(tmp_path / "o"), "--bundle", str(bundles())]
    result = CliRunner().invoke(main, [*command, "--ray", f"127.0.0.1:{free_port()}"])
    assert result.exit_code == 2 and "no Ray cluster answers at 127.0.0.1:" in result.stderr
