"""Callers of two orchestrators, as behind a load balancer: a request goes to one that says it is ready, on a connection
of its own, and to the other one only where nobody listens or the answer is a 503. Everything else that goes wrong is a
lost request."""

import asyncio
import base64
import itertools
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp

from bench.harness import status
from tests.endurance.pods import MODEL, SIZE, Pods

T = TypeVar("T")

CHECK_SECONDS, PAUSE_SECONDS, PATIENCE_SECONDS = 0.5, 0.1, 90.0
WORDS, STREAMED_WORDS = 10, 120
JOB_SECONDS, LOOK_SECONDS = 1.0, 0.5
PNG = b"\x89PNG"
CHAT = "/v1/chat/completions"


class Lost(Exception):
    """A request was not answered as it should be; the message says how."""


@dataclass
class Tally:
    """What callers saw, by kind of request."""

    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    elsewhere: Counter[str] = field(default_factory=Counter)  # asked of the other one, by why
    lost: list[str] = field(default_factory=list)
    running: Counter[str] = field(default_factory=Counter)
    jobs: dict[str, str] = field(default_factory=dict)  # the id of a job by that of its request


class Callers:
    """The load: so many of each kind at once, until told to stop; what began is seen to its end."""

    def __init__(self, http: aiohttp.ClientSession, pods: Pods) -> None:
        self.tally = Tally()
        self._http = http
        self._pods = pods
        self._ready: set[str] = {one.url for one in pods.orchestrators}
        self._numbers, self._turns = itertools.count(1), itertools.count()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Until `stop`, and then until the last answer is there."""
        watching = asyncio.create_task(self._watch())
        at_once = ((4, "chat", self._chat), (4, "stream", self._stream), (2, "image", self._image))
        try:
            async with asyncio.TaskGroup() as tasks:
                for count, kind, ask in at_once:
                    for _ in range(count):
                        tasks.create_task(self._again(kind, ask))
                tasks.create_task(self._jobs(tasks))
        finally:
            watching.cancel()

    def stop(self) -> None:
        self._stopping.set()

    async def _watch(self) -> None:
        """As a balancer's health check."""
        while True:
            answers = [(one.url, await status(one.port, "/readyz", seconds=2)) for one in self._pods.orchestrators]
            self._ready = {url for url, answer in answers if answer == 200}
            await asyncio.sleep(CHECK_SECONDS)

    async def _again(self, kind: str, ask: Callable[[str], Awaitable[None]]) -> None:
        while not self._stopping.is_set():
            await self._once(kind, ask)

    async def _jobs(self, tasks: asyncio.TaskGroup) -> None:
        while not self._stopping.is_set():
            tasks.create_task(self._once("job", self._job))
            await asyncio.sleep(JOB_SECONDS)

    async def _once(self, kind: str, ask: Callable[[str], Awaitable[None]]) -> None:
        name = f"{kind}-{next(self._numbers)}"
        self.tally.asked[kind] += 1
        self.tally.running[kind] += 1
        try:
            await ask(name)
            self.tally.answered[kind] += 1
        except (Lost, aiohttp.ClientError, TimeoutError, ValueError, KeyError) as exc:
            self.tally.lost.append(f"{name}: {type(exc).__name__}: {exc}")
        finally:
            self.tally.running[kind] -= 1

    async def _chat(self, name: str) -> None:
        words = _words(name, WORDS)
        answer = await self._ask(name, CHAT, _body(words), _json)
        if answer["choices"][0]["message"]["content"] != words:
            raise Lost("another answer than its own")

    async def _stream(self, name: str) -> None:
        words = _words(name, STREAMED_WORDS)
        lines = await self._ask(name, CHAT, _body(words, stream=True), _lines)
        if lines[-1:] != ["[DONE]"]:
            raise Lost(f"the stream broke after {len(lines)} events")
        deltas = (json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines[:-1])
        if "".join(deltas) != words:
            raise Lost("the stream is not whole")

    async def _image(self, name: str) -> None:
        body = {"prompt": "a red apple", "size": SIZE, "n": 1}
        answer = await self._ask(name, "/v1/images/generations", body, _json)
        if not base64.b64decode(answer["data"][0]["b64_json"]).startswith(PNG):
            raise Lost("no picture")

    async def _job(self, name: str) -> None:
        body = {"message": "A red apple on a table.", "background": True, "seed": 1, "size": SIZE}
        accepted = await self._ask(name, "/v1/chat/1to1/imagegen", body, _json, want=202)
        job = self.tally.jobs[name] = accepted["id"]
        until = time.monotonic() + PATIENCE_SECONDS * 3
        while True:
            shown = await self._ask(name, f"/v1/jobs/{job}", None, _json)
            if shown["state"] == "completed":
                return
            if shown["state"] not in ("queued", "running") or time.monotonic() > until:
                raise Lost(f"the job is {shown['state']}: {shown.get('error')}")
            await asyncio.sleep(LOOK_SECONDS)

    async def _ask(
        self, name: str, path: str, body: Any, read: Callable[[aiohttp.ClientResponse], Awaitable[T]], want: int = 200
    ) -> T:
        """The answer, by the rule above."""
        headers = {"authorization": f"Bearer {self._pods.key}", "x-request-id": name, "idempotency-key": name}
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            for url in self._in_turn():
                asking = self._http.request("GET" if body is None else "POST", url + path, json=body, headers=headers)
                try:
                    async with asking as answer:
                        if answer.status == want:
                            return await read(answer)
                        if answer.status != 503:
                            raise Lost(f"{answer.status}: {(await answer.text())[:300]}")
                        self.tally.elsewhere["503"] += 1
                except aiohttp.ClientConnectorError:
                    self.tally.elsewhere["refused"] += 1
            await asyncio.sleep(PAUSE_SECONDS)
        raise Lost("nobody took it")

    def _in_turn(self) -> list[str]:
        """Both, the next one first; those that say they are ready before the others."""
        first = next(self._turns) % 2
        urls = [one.url for one in self._pods.orchestrators]
        return sorted([urls[first], urls[1 - first]], key=lambda url: url not in self._ready)


def _words(name: str, count: int) -> str:
    return " ".join([name, *(f"w{number}" for number in range(1, count))])


def _body(words: str, *, stream: bool = False) -> dict[str, Any]:
    messages = [{"role": "user", "content": words}]
    return {"model": MODEL, "messages": messages, "stream": stream, "max_tokens": STREAMED_WORDS}


async def _json(answer: aiohttp.ClientResponse) -> Any:
    return await answer.json()


async def _lines(answer: aiohttp.ClientResponse) -> list[str]:
    """The data of every event that came whole."""
    text = (await answer.read()).decode()
    return [event.removeprefix("data: ") for event in text.split("\n\n") if event.startswith("data: ")]
