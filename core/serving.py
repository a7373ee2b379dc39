"""A service on a port: the listening socket, and uvicorn as every service runs it."""

import gc
import socket
import sys

import uvicorn

from core.http_protocol import HttpProtocol
from core.service import ASGIApp
from core.settings import Settings


YOUNG_OBJECTS = 10_000  # that are made between two collections of the youngest


class _Server(uvicorn.Server):
    """When it has started, what is there (modules, settings, schemas) is left out of the garbage collector's count: a
    full collection of it stops the loop for a tenth of a second, and finds nothing."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. A port that is taken ends the process with a sentence, not a traceback."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as exc:
        sock.close()
        sys.exit(f"Cannot listen on {host}:{port}: {exc.strerror}. Choose another with PORT and HOST.")
    sock.listen(2048)
    return sock


def server_config(app: ASGIApp, http: type[HttpProtocol] = HttpProtocol, stop_seconds: int = 10) -> uvicorn.Config:
    """uvicorn as every service runs it."""
    return uvicorn.Config(
        app,
        http=http,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=stop_seconds,
    )


def serve(app: ASGIApp, settings: Settings) -> None:
    """Run until SIGINT or SIGTERM: no new connections, STOP_SECONDS for what runs, then stop."""
    sock = bind(settings.host, settings.port)
    _Server(server_config(app, stop_seconds=settings.stop_seconds)).run(sockets=[sock])


async def serve_on(app: ASGIApp, sock: socket.socket, stop_seconds: int = 10) -> None:
    """The same on a loop that already runs, for a service that must start something else first."""
    await _Server(server_config(app, stop_seconds=stop_seconds)).serve(sockets=[sock])
