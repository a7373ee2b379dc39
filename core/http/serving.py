"""A service on a port: the listening socket, and uvicorn as every service runs it."""

import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from core.http.protocol import HttpProtocol
from core.http.shell import Shell
from core.settings import Settings

Started = Callable[[], Awaitable[None]]

FAILED = 70  # the exit status where a background task has ended; EX_SOFTWARE of sysexits.h
FAILED_GRACE_SECONDS = 3  # then, for the requests that run
FAILED_SECONDS = 10.0  # and for everything; a process that has not ended by then is ended without a farewell
YOUNG_OBJECTS = 10_000  # that are made between two collections of the youngest


class Server(uvicorn.Server):
    """uvicorn's, which tells the service that it will stop, and goes on for `delay` seconds before it does.

    SIGINT (a person at the keyboard) and a second signal stop it without the delay. So does the end of a background
    task of the service: what the task keeps up is not kept up any more, and whoever started the process starts it anew.

    When it has started, what is there (modules, settings, schemas) is left out of the garbage collector's count: a full
    collection of it stops the loop for a tenth of a second, and finds nothing.
    """

    def __init__(self, config: uvicorn.Config, service: Shell, delay: float, started: Started | None = None) -> None:
        """`started` is awaited once it listens."""
        super().__init__(config)
        self._started = started
        self._service = service
        self._delay = delay
        self._stop_since: float | None = None  # on the monotonic clock
        service.watchers.on_failure(self._fail)

    @property
    def exit_status(self) -> int:
        """Of the process, once the server has stopped."""
        return FAILED if self._service.watchers.failed is not None else 0

    def _fail(self) -> None:
        if not self.should_exit:
            self.end_by_force_after(FAILED_SECONDS)
        self.should_exit, self._delay = True, 0.0
        self.config.timeout_graceful_shutdown = FAILED_GRACE_SECONDS

    def end_by_force_after(self, seconds: float) -> None:
        """A lifespan whose tasks are gone may wait for them for ever."""
        timer = threading.Timer(seconds, os._exit, (FAILED,))
        timer.daemon = True
        timer.start()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._started is not None:
            await self._started()
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGINT or self.should_exit:
            self._delay = 0.0
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Whether the time has come; asked ten times a second."""
        if not await super().on_tick(counter):
            return False
        self._service.stop()
        now = time.monotonic()
        self._stop_since = now if self._stop_since is None else self._stop_since
        return now >= self._stop_since + self._delay


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket. A port that is taken ends the process with a sentence, not a traceback. `shared`: others
    listen on the port too; this one does not yet. What is left of the connections of a process before is no hindrance,
    as long as that one said so too."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
    except OSError as exc:
        sock.close()
        sys.exit(f"Cannot listen on {host}:{port}: {exc.strerror}. Choose another with PORT and HOST.")
    if not shared:
        sock.listen(2048)
    return sock


def server_config(app: ASGIApp, http: type[HttpProtocol] = HttpProtocol, stop_seconds: int = 10) -> uvicorn.Config:
    """uvicorn as every service runs it."""
    return uvicorn.Config(
        app,
        http=cast(type[HttpProtocol], http.of_a_server()),
        ws="none",
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


def serve(app: Shell, settings: Settings) -> None:
    """Run until SIGINT or SIGTERM: STOP_DELAY_SECONDS as if not ready, then no new connections, STOP_SECONDS for what
    runs, then stop. Ends the process with FAILED where a background task has ended."""
    sock = bind(settings.host, settings.port)
    server = _server(app, settings)
    server.run(sockets=[sock])
    if server.exit_status:
        sys.exit(server.exit_status)


async def serve_on(app: Shell, sock: socket.socket, settings: Settings, started: Started | None = None) -> int:
    """The same on a loop that already runs, for a service that must start something else first. Returns the exit
    status."""
    server = _server(app, settings, started)
    await server.serve(sockets=[sock])
    return server.exit_status


def _server(app: Shell, settings: Settings, started: Started | None = None) -> Server:
    return Server(server_config(app, stop_seconds=settings.stop_seconds), app, settings.stop_delay_seconds, started)
