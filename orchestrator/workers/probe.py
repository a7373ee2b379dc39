"""Workers are asked now and then whether they are ready: each by a task of its own, so one that hangs delays none.

What a worker says counts at once. One that does not answer, or answers what cannot be read, is a failure like that of a
request: its breaker opens, and where all of a pool are silent, the last are asked all the same (places.py). No answer
ends the task that asked for it, or the studio. A worker that does not announce itself is
asked besides what it serves and, where it was not declared, which paths it has.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable

import aiohttp
import msgspec

from core import untrusted
from core.errors import Upstream
from core.http.relay import Relay
from core.wire.workers import Ability, Kind
from orchestrator.workers.registry import WorkerPool
from orchestrator.workers.static import StaticWorker, announcement_of
from orchestrator.workers.worker import Worker

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
MOST_BYTES = 4 << 20  # of a list of models
MOST_ERROR_BYTES = 64 << 10  # of what a server says of an empty request


class ListedModel(msgspec.Struct):
    id: str


class ModelList(msgspec.Struct):
    """The answer to GET /v1/models, as far as it is used here."""

    data: list[ListedModel]


class ErrorMessage(msgspec.Struct):
    message: str


class ErrorAnswer(msgspec.Struct):
    """An error in OpenAI's form."""

    error: ErrorMessage


class NotReadyError(Exception):
    """It answered that it cannot serve now."""


class NoSuchPageError(Exception):
    """It answered that it has no list of models: it lives."""


class Prober:
    """Asks every worker that is known. One for each process. `static` are the workers of the settings; `registered`
    gives those that an admin registered. Times in seconds."""

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
        self._workers, self._relay = workers, relay
        self._static = {worker.id: worker for worker in static}
        self._registered, self._every, self._announced_every = registered, every, announced_every
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
                announcement, rewrites = announcement_of(worker, names, abilities)
                self._workers.add_static(announcement, worker.key, rewrites, max(self._lease, 3 * self._every))
                self._workers.probe_answered(worker.id, ready=True)
                answered = True
            except NotReadyError:
                self._workers.probe_answered(worker.id, ready=False)
            except Exception as exc:  # noqa: BLE001 - whatever a server answers, it is that server's failure
                self._workers.probe_failed(worker.id, surely=isinstance(exc, aiohttp.ClientConnectorError))
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
                self._workers.probe_answered(worker.id, ready=ready)
            except NotReadyError:
                self._workers.probe_answered(worker.id, ready=False)
            except NoSuchPageError:
                self._workers.probe_answered(worker.id, ready=True)
            except Exception as exc:  # noqa: BLE001 - whatever a worker answers, it is that worker's failure
                self._workers.probe_failed(worker.id, surely=isinstance(exc, aiohttp.ClientConnectorError))
                log.debug("worker's answer not understood", extra={"worker": worker.id, "reason": repr(exc)[:300]})

    async def _pause(self, seconds: float) -> None:
        """About so long: many orchestrators must not ask in step."""
        await asyncio.sleep(seconds * random.uniform(0.8, 1.2))

    async def _models(self, root: str, key: str | None, kind: Kind) -> list[str]:
        """Their names, by GET /v1/models; none of a selfie worker, which is asked for /readyz. Its key goes to its own
        address alone: no redirect is followed. Raises NotReadyError, NoSuchPageError, Upstream, and what aiohttp
        raises."""
        path = "/readyz" if kind == "selfie" else "/v1/models"
        asked = self._relay.session.get(root + path, headers=_bearer(key), timeout=self._timeout, allow_redirects=False)
        async with asked as response:
            if response.status == 503:
                raise NotReadyError
            if 400 <= response.status < 500:
                raise NoSuchPageError(f"status {response.status}")
            if response.status != 200:
                raise Upstream(f"It answered {response.status}.", code="bad_upstream_answer")
            if kind == "selfie":
                return []
            found: ModelList = await untrusted.read_json(response, ModelList, MOST_BYTES)
        return [model.id for model in found.data]

    async def _abilities(self, worker: StaticWorker) -> tuple[Ability, ...]:
        """Which paths a server has: it refuses an empty request there in another way than one to no path at all."""
        asked = PATHS[worker.kind]
        has = await asyncio.gather(*(self._has(worker, ability, path) for ability, path in asked.items()))
        return tuple(ability for ability, there in zip(asked, has, strict=True) if there)

    async def _has(self, worker: StaticWorker, ability: Ability, path: str) -> bool:
        asked = self._relay.session.post(
            worker.root + path, json={}, headers=_bearer(worker.key), timeout=self._timeout, allow_redirects=False
        )
        async with asked as response:
            body = await untrusted.read_bytes(response, MOST_ERROR_BYTES) if response.status == 404 else b""
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
        return untrusted.decoded(body, ErrorAnswer).error.message.lower()
    except Upstream:
        return ""
