"""How long one request holds the event loop, by what its body is made of: `python -m bench.holds [MIB]`.

A real orchestrator on this process's loop, a stand-in engine in another. Beside the requests a task takes a turn of the
loop as often as it can: the longest gap between two turns, in CPU time of this process, is how long others had to wait,
whatever else the machine does. Each body is sent ROUNDS times, of which the least counts.
"""

import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.harness import Program, free_port, python, running
from core.db.embedded import embedded_postgres
from core.http.serving import YOUNG_OBJECTS
from core.json.size import MAX_VALUES
from tests.fakes.studio import studio_over

ROUNDS = 2
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


def bodies(size: int) -> Iterator[tuple[str, str, bytes]]:
    """What it is, its path, and at most `size` bytes."""

    def text(unit: str) -> str:
        return unit * ((size - 1000) // len(json.dumps(unit, ensure_ascii=False).encode()[1:-1]))

    def chat(content: object, **more: object) -> bytes:
        whole = {"model": "qwen_instruct", "messages": [{"role": "user", "content": content}], **more}
        return json.dumps(whole, ensure_ascii=False).encode()

    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + text("iVBORw0K")}}
    prose = text("The quick brown fox, it's said, jumps over the lazy dog's well-known back. ")
    yield "a picture", CHAT, chat([picture])
    yield "a picture, streamed", CHAT, chat([picture], stream=True)
    yield "prose", CHAT, chat(prose)
    yield "prose, streamed", CHAT, chat(prose, stream=True)
    yield "prose of addresses", CHAT, chat(text("an image_url <|x and chat_template; "))
    yield "Chinese", CHAT, chat(text("文字 "))
    yield "capitals with dots", CHAT, chat(text("İ"))
    yield "escapes", CHAT, chat(text('"\\\n'))
    yield "code points", CHAT, json.dumps(json.loads(chat(text("文字 ")[: size // 18]))).encode()
    yield "data: in text", CHAT, chat(text("data:x "))
    yield "openings", CHAT, chat(text("<| [ "))
    yield "escapes in an address", CHAT, chat([{"type": "image_url", "image_url": text("data:x,%61%%")}])
    yield "base64 as text", CHAT, chat(text("iVBORw0KGgo"))
    many = [{"role": "user", "content": "one"}] * (MAX_VALUES // 3 - 9)
    yield "small messages", CHAT, json.dumps({"model": "small", "messages": many}).encode()
    yield "parts", CHAT, chat([{"type": "text", "text": "one"}] * (MAX_VALUES // 3 - 9))
    tool = {"type": "function", "function": {"name": "zz", "parameters": {"type": "object", "properties": {}}}}
    yield "tools of 218 KiB", CHAT, chat("one", tools=[tool] * 2150)
    yield "tools", CHAT, chat("one", tools=[tool] * (MAX_VALUES // 8 - 9))
    yield "names", CHAT, chat("one", tools=[{f"name{at}": at for at in range(MAX_VALUES - 20)}])
    yield "numbers in messages", CHAT, chat([{"type": "text", "text": "one", "x": [1.5] * (MAX_VALUES - 20)}])
    yield "a completion's prose", COMPLETIONS, json.dumps({"model": "small", "prompt": prose}).encode()
    yield "completions", COMPLETIONS, json.dumps({"model": "small", "prompt": ["one"] * (MAX_VALUES - 9)}).encode()
    yield "token ids", COMPLETIONS, json.dumps({"model": "small", "prompt": list(range(1 << 17))}).encode()
    yield "a response's prose", RESPONSES, json.dumps({"model": "small", "input": prose}).encode()
    yield "embeddings", "/v1/embeddings", json.dumps({"model": "small", "input": prose}).encode()


class Gaps:
    """Takes a turn of the loop as often as it can; `longest` is the longest wait for one, in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        before = time.process_time()
        while True:
            await asyncio.sleep(0)
            now = time.process_time()
            self.longest = max(self.longest, now - before)
            before = now


async def held(port: int, key: str, path: str, body: bytes) -> tuple[float, int]:
    """Milliseconds, the least of all rounds; and the answer's status."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n"
    client = "import socket,sys;s=socket.create_connection(('127.0.0.1',int(sys.argv[1])));"
    client += "s.sendall(sys.stdin.buffer.read());sys.stdout.buffer.write(s.recv(99))"
    least, status = float("inf"), 0
    for _ in range(ROUNDS):
        sends = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", client, str(port)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert sends.stdin
        assert sends.stdout
        sends.stdin.write(f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode() + body)
        await sends.stdin.drain()
        gaps = Gaps()
        watching = asyncio.create_task(gaps.watch())
        sends.stdin.close()
        status = int((await sends.stdout.read()).split()[1])
        watching.cancel()
        await sends.wait()
        least = min(least, gaps.longest * 1000)
    return least, status


async def measure(size: int) -> None:
    with tempfile.TemporaryDirectory(prefix="soundstage-") as name:
        folder, port = Path(name), free_port()
        async with (
            running(Program("engine", python("bench.engine", port), folder, port=port)) as engine,
            embedded_postgres(folder / "postgres") as dsn,
            studio_over(dsn, folder / "data", policy_stale_seconds=3600) as studio,
        ):
            made = await studio.register("stand-in", engine.url)
            assert made.status_code == 200, made.text
            limits = {"requests_per_minute": 10_000}
            limited = await studio.post("/v1/keys", {"name": "limited", "scopes": ["chat"], "limits": limits})
            key = limited.json()["secret"]
            print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, bodies of {size >> 20} MiB at most")
            gc.collect()  # as a service does when it has started (core/http/serving.py)
            gc.freeze()
            gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
            for what, path, body in bodies(size):
                longest, status = await held(studio.port, key, path, body)
                print(f"{what:24}{len(body) / 2**20:7.2f} MiB{longest:9.1f} ms{status:6}", flush=True)


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1] if len(sys.argv) > 1 else 16) << 20))
