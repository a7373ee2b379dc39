"""Workers are asked now and then whether they are ready: each by a task of its own, so one that hangs delays none.

What a worker says counts at once. One that does not answer is a failure like that of a request: its breaker opens, and
where all of a pool are silent, the last are asked all the same (pools.py). A worker that does not announce itself is
asked besides what it serves and, where it was not declared, which paths it has.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import aiohttp
import msgspec

from core.relay import Relay
from core.wire.workers import Ability, Kind
from orchestrator.pool import Worker
from orchestrator.static_workers import StaticWorker, announced
from orchestrator.workers import WorkerPool

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
ABILITIES_SECONDS = 300.0
"""How long it is taken for granted which paths a server has, while it answers."""
PATHS: dict[Kind, dict[Ability, str]] = {
    "chat": {
        "chat": "/v1/chat/completions",
        "completions": "/v1/completions",
        "responses": "/v1/responses",
        "embeddings": "/v1/embeddings",
        "tokenize": "/tokenize",
        "moderations": "/v1/moderations",
    },
    "image": {"images": "/v1/images/generations", "image_edits": "/v1/images/edits"},
    "selfie": {},
}
FAILURES = (aiohttp.ClientError, TimeoutError, OSError, KeyError, TypeError, ValueError, RecursionError)


class NotReadyError(Exception):
    """It answered that it cannot serve now."""


class Prober:
    """Asks every worker that is known. One for each process.

    `static` are the workers of the settings; `registered` gives those that an admin registered. Times in seconds.
    """

    def __init__(
        self,
        workers: WorkerPool,
        relay: Relay,
        static: Iterable[StaticWorker],
        registered: Callable[[], Awaitable[list[StaticWorker]]],
        *,
        every: float,
        announced_every: float,
        timeout: float,
        lease: float,
    ) -> None:
        """`announced_every`: of workers that announce themselves; 0: they are not asked."""
        self._workers = workers
        self._relay = relay
        self._static = {worker.id: worker for worker in static}
        self._registered = registered
        self._every = every
        self._announced_every = announced_every
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._lease = lease
        self._known: dict[str, StaticWorker] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._keep_up({**self._static, **{each.id: each for each in await self._registered()}}, tasks)
                await asyncio.sleep(LOOK_SECONDS)

    def _keep_up(self, wanted: dict[str, StaticWorker], tasks: asyncio.TaskGroup) -> None:
        """One task for each worker that is there now, and none for those that are gone or were changed."""
        for name, known in self._known.items():
            if wanted.get(name) != known:
                self._asking.pop(name).cancel()  # it never ends by itself
                if name not in wanted:
                    self._workers.forget(name)
        for name, worker in wanted.items():
            if name not in self._asking:
                self._asking[name] = tasks.create_task(self._learn(worker))
        self._known = wanted
        self._asking = {name: task for name, task in self._asking.items() if name in wanted or not task.done()}
        if self._announced_every:
            for announcing in self._workers.live():
                if announcing.id not in self._asking:
                    self._asking[announcing.id] = tasks.create_task(self._watch(announcing))

    async def _learn(self, worker: StaticWorker) -> None:
        """Of one that does not announce itself: what it serves. While it answers it is kept alive in the pool."""
        answered, known_until, abilities = True, 0.0, worker.abilities
        clock = asyncio.get_running_loop().time
        while True:
            try:
                names = await self._models(worker.root, worker.key, worker.kind)
                if not worker.abilities and clock() >= known_until:
                    abilities, known_until = await self._abilities(worker), clock() + ABILITIES_SECONDS
                announcement, rewrites = announced(worker, names, abilities)
                self._workers.add_static(announcement, worker.key, rewrites, max(self._lease, 3 * self._every))
                self._workers.probed(worker.id, ready=True)
                answered = True
            except NotReadyError:
                self._workers.probed(worker.id, ready=False)
            except FAILURES as exc:
                self._workers.unanswered(worker.id, surely=isinstance(exc, aiohttp.ClientConnectorError))
                if answered:
                    log.warning("worker does not answer", extra={"url": worker.root, "reason": repr(exc)[:300]})
                answered, known_until = False, 0.0
            await self._pause(self._every)

    async def _watch(self, worker: Worker) -> None:
        """Of one that announces itself: whether it is as ready as it says. Ends when it is gone."""
        while self._workers.known(worker.id) is worker:
            await self._pause(self._announced_every)
            try:
                root, kind = str(worker.url).rstrip("/"), worker.announcement.kind
                names = await self._models(root, worker.key, kind)
                ready = kind == "selfie" or any(each.id in names for each in worker.announcement.models)
                self._workers.probed(worker.id, ready=ready)
            except NotReadyError:
                self._workers.probed(worker.id, ready=False)
            except aiohttp.ClientResponseError as exc:
                if exc.status < 500:  # it lives, and has no such page
                    self._workers.probed(worker.id, ready=True)
                else:
                    self._workers.unanswered(worker.id, surely=False)
            except FAILURES as exc:
                self._workers.unanswered(worker.id, surely=isinstance(exc, aiohttp.ClientConnectorError))

    async def _pause(self, seconds: float) -> None:
        """About so long: many orchestrators must not ask in step."""
        await asyncio.sleep(seconds * random.uniform(0.8, 1.2))

    async def _models(self, root: str, key: str | None, kind: Kind) -> list[str]:
        """Their names, by GET /v1/models; none of a selfie worker, which is asked for /readyz. Raises NotReadyError,
        and FAILURES."""
        path = "/readyz" if kind == "selfie" else "/v1/models"
        async with self._relay.session.get(root + path, headers=_bearer(key), timeout=self._timeout) as response:
            if response.status == 503:
                raise NotReadyError
            response.raise_for_status()
            answer = await response.json(content_type=None)
        return [] if kind == "selfie" else [str(entry["id"]) for entry in answer["data"]]

    async def _abilities(self, worker: StaticWorker) -> tuple[Ability, ...]:
        """Which paths a server has: it refuses an empty request there in another way than one to no path at all."""
        asked = PATHS[worker.kind]
        has = await asyncio.gather(*(self._has(worker, ability, path) for ability, path in asked.items()))
        return tuple(ability for ability, there in zip(asked, has, strict=True) if there)

    async def _has(self, worker: StaticWorker, ability: Ability, path: str) -> bool:
        async with self._relay.session.post(
            worker.root + path, json={}, headers=_bearer(worker.key), timeout=self._timeout
        ) as response:
            body = await response.content.read(4096)
        if ability == "tokenize":  # another API of this name takes an empty request
            return response.status in (400, 422)
        if response.status == 404:
            return "model" in _message(body)
        return response.status not in (405, 501)


def _bearer(key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def _message(body: bytes) -> str:
    """What an error in OpenAI's form says; nothing of any other."""
    try:
        answer: Any = msgspec.json.decode(body)
        return str(answer["error"]["message"]).lower()
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""
