"""A real server on loopback, for tests."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn

from edgert.serve.app import Policy, application
from edgert.serve.desk import Desk
from edgert.serve.models import Models, Served
from edgert.serve.record import Note

ASK = [{"role": "user", "content": "the quick brown fox"}]


@contextmanager
def serving(
    *served: Served,
    queue: int = 16,
    keep_alive_s: float = 300.0,
    policy: Policy | None = None,
    notes: Sequence[Note] = (),
) -> Iterator[tuple[str, Desk]]:
    """The address of a server in a thread of its own."""
    desk = Desk(Models(served, keep_alive_s), queue)
    config = uvicorn.Config(
        application(desk, policy, notes), port=0, log_level="warning", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    started = threading.Event()
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]

    async def run() -> None:
        serve = asyncio.ensure_future(server.serve())
        while not server.started and not serve.done():
            await asyncio.sleep(0.01)
        started.set()
        await serve

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    started.wait()
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", desk
    finally:
        server.should_exit = True
        thread.join()
