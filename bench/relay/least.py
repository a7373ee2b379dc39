"""The least that relays in Python: raw ASGI and aiohttp, without keys, limits, timeouts, retries, logs or metrics.

It is the floor of this machine's Python. `python -m bench.relay.least PORT UPSTREAM_URL`
"""

import sys
from collections.abc import Awaitable, Callable

import aiohttp
import uvicorn
from starlette.types import Message

_session: list[aiohttp.ClientSession] = []


async def relay(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if not _session:
        _session.append(aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=0)))
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    kept = {k.decode(): v.decode() for k, v in scope["headers"] if k not in (b"host", b"content-length")}
    async with _session[0].post(sys.argv[2] + scope["path"], headers=kept, data=body) as answer:
        headers = [pair for pair in answer.raw_headers if pair[0].lower() != b"transfer-encoding"]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        async for chunk in answer.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    uvicorn.run(relay, port=int(sys.argv[1]), access_log=False, log_level="warning", lifespan="off")
