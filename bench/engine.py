"""A stand-in engine that costs next to nothing: `python -m bench.engine PORT`.

It answers any POST with one fixed chat completion, or, where the body asks for a stream, with fixed events, each
written by itself, and with its usage in each where that is asked for. Anything else is answered 200 with an empty
object, so that whoever probes it finds it healthy.
"""

import asyncio
import sys
from collections.abc import Iterator
from typing import cast

import uvloop

from bench.traffic import GAP_SECONDS, PACED_MODEL, completion, events


def _whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


_JSON, _HEALTHY = _whole(completion()), _whole(b"{}")
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def _writes(*, usage: bool) -> tuple[bytes, ...]:
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in events(usage=usage)]
    return (_HEAD, *chunks, b"0\r\n\r\n")


_WRITES = {usage: _writes(usage=usage) for usage in (False, True)}
_PACED = b'"%b"' % PACED_MODEL.encode()


class Engine(asyncio.Protocol):
    """One connection. Requests on it come one after the other, as from any HTTP/1.1 pool."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck typing only

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank or not _is_whole(head, body):
            return
        self._received = b""
        if not head.startswith(b"POST"):
            self._transport.write(_HEALTHY)
        elif b'"stream":true' in body.replace(b" ", b""):
            self._write_next(
                iter(_WRITES[b'"continuous_usage_stats":true' in body]), GAP_SECONDS if _PACED in body else 0.0
            )
        else:
            self._transport.write(_JSON)

    def _write_next(self, rest: Iterator[bytes], gap: float) -> None:
        """One write a turn of the loop, so that each leaves by itself."""
        data = next(rest, None)
        if data is None or self._transport.is_closing():
            return
        self._transport.write(data)
        if gap:
            self._loop.call_later(gap, self._write_next, rest, gap)
        else:
            self._loop.call_soon(self._write_next, rest, gap)


def _is_whole(head: bytes, body: bytes) -> bool:
    lowered = head.lower()
    if b"transfer-encoding: chunked" in lowered:
        return body.endswith(b"0\r\n\r\n")
    _, _, length = lowered.partition(b"content-length:")
    return len(body) >= int(length.split(b"\r\n", 1)[0] or 0)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
