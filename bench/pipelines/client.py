"""A client who asks for one run, comes back where it was cut off, and checks what it got."""

import asyncio
import base64
import contextlib
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bench.pipelines.engine import CAPTION, EXPANDED, picture
from bench.pipelines.studio import PATHS, STEPS, Studio

MESSAGE = "a red apple on a table"
WAYS = ("background", "stream", "wait")
ENDS = ("pipeline.completed", "error")
END_SECONDS = 900.0


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

    def __init__(self, studio: Studio, job: Job, rng: random.Random) -> None:
        self._studio, self._job, self._rng = studio, job, rng
        self._sent = {**studio.headers, "idempotency-key": f"{studio.folder.name}-{job.number}"}

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
                    job.answer = (await self._studio.get(f"{self._url}/v1/jobs/{job.id}"))["result"] or {}
        job.ended = time.time()

    @property
    def _url(self) -> str:
        return self._rng.choice(self._studio.orchestrators).url

    async def _broken(self) -> None:
        self._job.breaks += 1
        await asyncio.sleep(0.1)

    async def _begun(self) -> bool:
        """Whether the run is known, by its id."""
        job, url = self._job, self._url + PATHS[self._job.pipeline]
        try:
            async with self._studio.http.post(url, headers=self._sent, **self.sending()) as answer:
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
        sent = {**self._studio.headers, "accept": "text/event-stream", "last-event-id": str(len(self._job.seen))}
        url = f"{self._url}/v1/jobs/{self._job.id}/events"
        async with self._studio.http.get(url, headers=sent) as answer:
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
