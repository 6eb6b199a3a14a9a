"""Chatting opens no socket: the kernel kills the process that tries."""

import os
import platform
import signal
import subprocess
import sys

import pytest

SOCKET = {"x86_64": (41, 0xC000003E), "aarch64": (198, 0xC00000B7)}

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in SOCKET, reason="seccomp filters are Linux's"
)

# A seccomp filter for this process and its threads: socket(2) kills, everything else passes.
FILTER = """
import ctypes, struct, sys
number, architecture = int(sys.argv[1]), int(sys.argv[2])
code = [
    (0x20, 0, 0, 4), (0x15, 1, 0, architecture), (0x06, 0, 0, 0x7FFF0000),
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x80000000), (0x06, 0, 0, 0x7FFF0000),
]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code), ctypes.addressof(program)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, header) == 0, ctypes.get_errno()
"""
CHAT = """
import edgert
from edgert.chat.terminal import Chat
model = edgert.load(sys.argv[3])
Chat(model, {"max_tokens": 30}).answer("the quick brown fox")
"""
PHONE_HOME = "import socket; socket.socket()"


def run(code, *arguments):
    number, architecture = SOCKET[platform.machine()]
    command = [sys.executable, "-c", FILTER + code, str(number), str(architecture), *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_filter_kills_who_opens_a_socket():
    assert run(PHONE_HOME).returncode == -signal.SIGSYS


def test_chatting_opens_no_socket(bundles):
    done = run(CHAT, bundles())
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 3
