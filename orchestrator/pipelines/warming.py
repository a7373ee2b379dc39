"""A chat engine that comes is made warm for the pipelines before somebody waits for it.

It is asked once for each of their recipes, as far as that says the same to everyone, and for one token: then its prefix
cache holds the opening, and the grammar of a structured answer is built.
"""

import asyncio
import logging
from collections.abc import Hashable, Mapping

from core.errors import SoundstageError
from orchestrator.engines import chat_api
from orchestrator.engines.client import Engines
from orchestrator.pipelines.base import Pipeline
from orchestrator.workers.registry import WorkerPool
from orchestrator.workers.worker import Worker
from prompts.registry import Registry
from prompts.render import Release

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
WAIT_SECONDS = 30.0
LAST = {"role": "user", "content": "-"}  # chat templates want somebody to have said something


class Warming:
    """Looks for engines that are new. One for each process."""

    def __init__(
        self, workers: WorkerPool, engines: Engines, registry: Registry, pipelines: Mapping[str, Pipeline]
    ) -> None:
        self._workers, self._engines, self._registry = workers, engines, registry
        self._pipelines = pipelines
        self._warm: set[Hashable] = set()

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Once. An engine that went and comes again is cold; one that is warm is asked for new releases alone."""
        releases = await self._releases()
        there: dict[Hashable, tuple[Worker, Release]] = {
            (worker.id, worker.url, release.sha256): (worker, release)
            for worker in self._workers.usable()
            for release in releases
            if worker.serves(release.model, "chat")
        }
        self._warm &= there.keys()
        for name, (worker, release) in there.items():
            if name not in self._warm:
                self._warm.add(name)
                await self._ask(worker, release)

    async def _releases(self) -> list[Release]:
        """What the pipelines ask of chat engines now; of a recipe that the image model has its own of, that one."""
        found: dict[str, Release] = {}
        for pipeline in self._pipelines.values():
            own = self._engines.model_of("images", pipeline.role)
            for recipe in pipeline.warm:
                try:
                    name = f"{recipe}.{own}" if own and await self._registry.has(f"{recipe}.{own}") else recipe
                    found[name] = await self._registry.resolve(name)
                except SoundstageError as exc:
                    log.debug("a recipe is not made warm", extra={"recipe": recipe, "reason": exc.message})
        return list(found.values())

    async def _ask(self, worker: Worker, release: Release) -> None:
        until = asyncio.get_running_loop().time() + WAIT_SECONDS
        try:
            engine = self._engines.engine(release.model, "chat", "warming", prefer=worker.id, until=until)
            async with asyncio.timeout(WAIT_SECONDS), engine as (client, model, asked):
                if asked != worker.id:
                    return  # it is full: the work that it has makes it warm
                sampling = {**release.sampling, "max_tokens": 1}
                messages = [*release.opening(), LAST]
                async with chat_api.CHAT.call(client, model, messages, sampling) as response:
                    await response.read()
        except (SoundstageError, TimeoutError) as exc:
            log.info("an engine is not warm", extra={"worker": worker.id, "recipe": release.name, "reason": exc})
