"""Running: a server on a port, from its first line to its last answer."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import click
import uvicorn
from starlette.types import ASGIApp

from edgert.errors import UsageError


@dataclass(frozen=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in ("127.0.0.1", "::1", "localhost")

    @property
    def names(self) -> tuple[str, ...]:
        """What clients of this machine call it, see `Guard`."""
        return ("127.0.0.1", "[::1]", "localhost")

    def bind(self) -> socket.socket:
        """Listen, before anything is loaded. Raises UsageError if the port is taken, the host not here."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family, backlog=128)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(
                f"can't listen at {self.host}, port {self.port}: {reason}; choose another with --port"
            ) from error


class Server(uvicorn.Server):
    """uvicorn's, which says when it waits for answers. A second Ctrl-C ends at once, as it does there."""

    def handle_exit(self, sig: int, frame: object) -> None:
        """The first signal lets answers end; the second doesn't."""
        if not self.should_exit:
            click.echo("edgert: stopping; answers under way may end, Ctrl-C again cuts them", err=True)
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


def run(app: ASGIApp, listening: socket.socket, grace_s: float) -> None:
    """Serve until a signal comes; answers that take longer than `grace_s` after it are cut."""
    # No logs of uvicorn's: they have addresses with what was asked for in them, and `Log` has its own.
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=max(1, round(grace_s)),
        server_header=False,
    )
    try:
        Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        return  # uvicorn raises the signal again once all is closed
