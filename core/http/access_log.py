"""The access log: one JSON line a request on stderr, encoded cheaply and written in batches off the hot path."""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

FLUSH_SECONDS = 0.2
FLUSH_LINES = 512
PIECE = 4096  # bytes: PIPE_BUF


class _Line(msgspec.Struct, omit_defaults=True):
    time: float  # seconds since the epoch, UTC
    service: str
    request_id: str
    method: str
    path: str
    status: int
    outcome: str
    ms: float
    key_id: str | None = None
    worker: str | None = None  # the last that was asked
    waited_ms: float | None = None  # of those, in a queue for a place at a worker
    waited_for: str | None = None


class AccessLog:
    """Holds at most FLUSH_LINES lines for at most FLUSH_SECONDS. No query strings: they may hold secrets."""

    def __init__(self, service: str, write: Callable[[str], object] | None = None) -> None:
        self._service = service
        self._write = write or _to_stderr
        self._lines: list[bytes] = []
        self._encode = msgspec.json.Encoder().encode
        self._timer: asyncio.TimerHandle | None = None

    def add(self, scope: Mapping[str, Any], status: int, outcome: str, seconds: float) -> None:
        """A request that has ended. Of its scope: request_id and, where they are known, key_id, worker, waited (in
        seconds) and waited_for."""
        line = _Line(
            *(round(time.time(), 3), self._service, scope["request_id"], scope["method"], scope["path"], status),
            *(outcome, round(seconds * 1e3, 2), scope.get("key_id"), scope.get("worker")),
        )
        if "waited" in scope:
            line.waited_ms, line.waited_for = round(scope["waited"] * 1e3, 2), scope["waited_for"]
        self._lines.append(self._encode(line))
        if len(self._lines) >= FLUSH_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        if lines:
            self._write((b"\n".join(lines) + b"\n").decode())


def _to_stderr(text: str) -> None:
    """In pieces that a pipe takes whole: lines of several processes do not mix."""
    data, at = text.encode(), 0
    while at < len(data):
        end = data.rfind(b"\n", at, at + PIECE) + 1 or data.index(b"\n", at) + 1
        sys.stderr.write(data[at:end].decode())
        sys.stderr.flush()
        at = end
