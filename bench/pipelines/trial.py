"""A studio whose every process can be killed: two orchestrators, two image workers, a chat worker, a database; and
clients who ask it for pipelines, come back where they were cut off, and check what they got.
"""

import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil  # type: ignore[import-untyped,unused-ignore]

from bench.pipelines.mortal import CAPTION, EXPANDED, picture
from bench.pipelines.studio import Orchestrator, headers
from bench.relay.processes import free_port

MESSAGE = "a red apple on a table"
TOLD = ("expand", "generate", "caption")
STEPS = {
    "chat1to1": TOLD,
    "shorts": TOLD,
    "scenes": TOLD,
    "private": ("generate",),
    "imagegen": ("generate",),
    "profile": ("prompt", "generate"),
}
PATHS = {
    "chat1to1": "/v1/chat/1to1/imagegen",
    "shorts": "/v1/chat/shorts/generate",
    "scenes": "/v1/chat/scenes/generate",
    "private": "/v1/chat/private/imagegen",
    "imagegen": "/v1/imagegen",
    "profile": "/v1/profile/create",
}
WAYS = ("background", "stream", "wait")
ENDS = ("pipeline.completed", "error")
START_SECONDS, END_SECONDS = 60.0, 900.0
IMAGES = 2


@dataclass
class Program:
    """A process that is started, killed, and started again under the same port."""

    command: tuple[str, ...]
    log: Path
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(sys.executable, *self.command, stdout=log, stderr=log)

    async def end(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            await self.process.wait()


@dataclass
class Database:
    """An embedded Postgres with the process that keeps it."""

    folder: Path
    dsn: str = ""
    keeper: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.keeper = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "core.db.embedded", str(self.folder)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.keeper.stdout
        self.dsn = json.loads(await self.keeper.stdout.readline())["dsn"]

    async def end(self) -> None:
        if self.keeper is not None and self.keeper.returncode is None:
            assert self.keeper.stdin
            self.keeper.stdin.close()
            await self.keeper.wait()

    def _processes(self) -> list[Any]:
        main = psutil.Process(int((self.folder / "postmaster.pid").read_text().split()[0]))
        return [main, *main.children(recursive=True)]

    async def frozen(self, seconds: float) -> None:
        """It is there, and says nothing."""
        processes = self._processes()
        for one in processes:
            one.suspend()
        await asyncio.sleep(seconds)
        for one in reversed(processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.resume()

    async def killed(self, seconds: float) -> None:
        """It is gone, and comes back with what its disk has."""
        assert self.keeper is not None
        processes = self._processes()
        self.keeper.kill()  # first, or it would stop the one that comes after
        await self.keeper.wait()
        processes[0].kill()
        psutil.wait_procs(processes, timeout=20)
        await asyncio.sleep(seconds)
        await self.start()


@dataclass
class Trial:
    """What is running."""

    folder: Path
    database: Database
    orchestrators: list[Orchestrator]
    chat: Program
    images: list[Program]
    engines: dict[str, str]  # a name -> its address
    http: aiohttp.ClientSession
    asked: int = 0
    jobs: list["Job"] = field(default_factory=list)

    def any_url(self, rng: random.Random) -> str:
        return rng.choice(self.orchestrators).url

    @property
    def key(self) -> str:
        return self.orchestrators[0].key

    def begun(self) -> int:
        """How many requests of runs were begun so far, by all engines."""
        return sum(line.startswith(b"begun job_") for line in (self.folder / "calls.log").read_bytes().splitlines())

    def calls(self) -> dict[str, dict[str, list[float]]]:
        """Of each idempotency key: when it was begun, finished, ended before its time, at whichever engine."""
        found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for line in (self.folder / "calls.log").read_text().splitlines():
            event, key, at = line.split()
            if key != "none":
                found[key][event].append(float(at))
        return found

    async def running(self) -> int:
        """Requests that the engines work on now."""
        total = 0
        for url in self.engines.values():
            async with self.http.get(f"{url}/state") as answer:
                total += (await answer.json())["running"]
        return total


@asynccontextmanager
async def trial(folder: Path, **settings: str) -> AsyncIterator[Trial]:
    """All of it, ready; its orchestrators with these settings."""
    log, database = folder / "calls.log", Database(folder / "postgres")
    log.touch()
    ports = {name: free_port() for name in ("chat", "selfie", *(f"image-{n}" for n in range(IMAGES)))}
    engines = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    programs = {
        name: Program(
            ("-m", "bench.pipelines.mortal", name.partition("-")[0], str(port), str(log)), folder / f"{name}.log"
        )
        for name, port in ports.items()
    }
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.end)
        await database.start()
        for program in programs.values():
            stack.push_async_callback(program.end)
            await program.start()
        images = ",".join(url for name, url in engines.items() if name.startswith("image"))
        roles = ("PROFILE", "CHAT1TO1", "SHORTS", "SCENES")
        given = {
            **{"DATABASE_URL": database.dsn, "DATA_DIR": str(folder), "LOG_LEVEL": "warning"},
            **{"LLM_URL": engines["chat"], "READY_NEEDS": "chat,image,selfie", "JOBS_GRACE_SECONDS": "1"},
            **{f"INTERFACE_{role}_WORKER_URLS": images for role in roles},
            **{"IMAGE_WORKER_URLS": images, "INTERFACE_SELFIE_FEATURE_WORKER_URLS": engines["selfie"]},
            **settings,
        }
        orchestrators = []
        for _ in range(2):
            port = free_port()
            one = Orchestrator(port, folder, {**given, "PORT": str(port)})
            stack.push_async_callback(one.end)
            await one.start()
            orchestrators.append(one)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        workers = [program for name, program in programs.items() if name.startswith("image")]
        yield Trial(folder, database, orchestrators, programs["chat"], workers, engines, http)


@dataclass
class Job:
    """One run as its client sees it."""

    pipeline: str
    way: str
    number: int
    id: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    answer: dict[str, Any] | None = None
    breaks: int = 0
    began: float = 0.0
    ended: float = 0.0

    @property
    def body(self) -> dict[str, Any]:
        told = {"prompt": MESSAGE} if self.pipeline in ("private", "imagegen") else {"message": MESSAGE}
        told = {} if self.pipeline == "profile" else told
        return {**told, "seed": self.number, **({} if self.way == "wait" else {self.way: True})}

    def wrong(self) -> list[str]:
        """What is not as it should be, of what the client got."""
        found = []
        if [event["sequence_number"] for event in self.seen] != list(range(1, len(self.seen) + 1)):
            found.append("events with a gap or a repeat")
        told = [(event["type"], event.get("step")) for event in self.seen if "partial_image" not in event["type"]]
        once = [(f"pipeline.step.{what}", step) for step in STEPS[self.pipeline] for what in ("started", "completed")]
        if told != [*once, ("pipeline.completed", None)]:
            found.append("other events than a run's")
        if not self._is_right(self.answer or {}):
            found.append("another result")
        return found

    def _is_right(self, answer: dict[str, Any]) -> bool:
        prompt = MESSAGE if self.pipeline in ("private", "imagegen") else EXPANDED["prompt"]
        drawn = base64.b64encode(picture(answer.get("prompt_used", ""), self.number)).decode()
        if self.pipeline in ("chat1to1", "shorts", "scenes"):
            if answer.get("caption_source") == "model" and answer.get("caption") != CAPTION:
                return False
            if not answer.get("caption"):
                return False
        used = str(answer.get("prompt_used"))
        return used.startswith(prompt) and answer.get("image_base64") == drawn and answer.get("seed") == self.number


class Client:
    """Asks for one run, and comes back with the same key or the last event's number until it has ended."""

    def __init__(self, trial: Trial, job: Job, rng: random.Random) -> None:
        self._trial, self._job, self._rng = trial, job, rng
        self._sent = {**headers(trial.key), "idempotency-key": f"{trial.folder.name}-{job.number}"}

    async def run(self) -> None:
        job = self._job
        job.began = time.time()
        async with asyncio.timeout(END_SECONDS):
            while not await self._begun():
                await self._broken()
            while not job.seen or job.seen[-1]["type"] not in ENDS:
                try:
                    await self._followed()
                except (aiohttp.ClientError, OSError, TimeoutError):
                    await self._broken()
            while job.answer is None:
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                    job.answer = (await self._get(f"/v1/jobs/{job.id}"))["result"] or {}
        job.ended = time.time()

    async def _broken(self) -> None:
        self._job.breaks += 1
        await asyncio.sleep(0.1)

    async def _begun(self) -> bool:
        """Whether the run is known, by its id."""
        job, url = self._job, self._trial.any_url(self._rng) + PATHS[self._job.pipeline]
        try:
            async with self._trial.http.post(url, headers=self._sent, **self.sending()) as answer:
                if answer.status not in (200, 202):
                    assert answer.status in (429, 503), (answer.status, (await answer.text())[:500])
                    return False
                job.id = answer.headers["x-job-id"]
                if job.way == "stream":
                    await self._read(answer)
                else:
                    await answer.read()
                return True
        except (aiohttp.ClientError, OSError, TimeoutError):
            return bool(job.id)

    def sending(self) -> dict[str, Any]:
        """What is asked for, as aiohttp takes it."""
        body = self._job.body
        if self._job.pipeline != "profile":
            return {"json": body}
        form = aiohttp.FormData()
        form.add_field("image", b"\xff\xd8\xff a selfie %d" % self._job.number, filename="me.jpg")
        for name, value in {**body, "consent": True}.items():
            form.add_field(name, json.dumps(value))
        return {"data": form}

    async def _followed(self) -> None:
        sent = {**headers(self._trial.key), "accept": "text/event-stream", "last-event-id": str(len(self._job.seen))}
        url = f"{self._trial.any_url(self._rng)}/v1/jobs/{self._job.id}/events"
        async with self._trial.http.get(url, headers=sent) as answer:
            if answer.status != 200:
                assert answer.status == 503, (answer.status, (await answer.text())[:500])
                raise aiohttp.ClientError
            await self._read(answer)

    async def _read(self, answer: aiohttp.ClientResponse) -> None:
        async for line in answer.content:
            if line.startswith(b"data: ") and line.endswith(b"\n"):
                self._job.seen.append(json.loads(line[6:]))
        if not self._job.seen or self._job.seen[-1]["type"] not in ENDS:
            raise aiohttp.ClientError("the stream ended before the run")

    async def _get(self, path: str) -> Any:
        url = self._trial.any_url(self._rng) + path
        async with self._trial.http.get(url, headers=headers(self._trial.key)) as answer:
            if answer.status != 200:
                raise aiohttp.ClientError
            return await answer.json()


def load() -> list[float]:
    """Of this machine: what stands beside every figure."""
    return [round(one, 1) for one in os.getloadavg()]
