"""Which engines are loaded: requests wait for theirs, others give way. llm/budget.py decides, this acts.

One change at a time. An engine that is to give way takes no new request and ends those it has; requests that arrive
meanwhile wait for its next turn, bounded in number and in time, and are let in together when it is ready again.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from prometheus_client import Counter, Gauge
from yarl import URL

from core.device.lease import DeviceLease
from core.errors import Conflict, Overloaded, SoundstageError, Unavailable
from llm import device
from llm.budget import Refusal, Resident, fits_ever, plan_load
from llm.device import GB
from llm.engine import Engine
from llm.engine_queue import EngineQueue
from llm.weights import weights

log = logging.getLogger(__name__)

CHANGES = Counter("soundstage_model_changes_total", "Loads and unloads of models.", ["change"])
LOADED = Gauge("soundstage_models_loaded", "Models that are loaded now.")
MOST_DEATHS = 4
"""A model that dies this often while it is loaded does not come: its callers are told."""
RUNTIME_BYTES = GB  # of an engine's Python, torch and buffers, besides weights and cache, on a CPU
OVER_WEIGHTS = 1.1
SHARE_OF_DEVICE = 0.9


@dataclass(frozen=True)
class Bounds:
    """Seconds and numbers that no wait goes beyond. `budget` in bytes; None: a share of the device."""

    wait_seconds: float = 120.0
    waiting: int = 64
    drain_seconds: float = 60.0
    start_seconds: float = 900.0
    budget: int | None = None
    pinned: frozenset[str] = frozenset()


class Residency:
    """Owns who is loaded. `changed` is called where what can be served may have changed. With a `lease`, nothing is on
    the device but while it is this worker's turn."""

    def __init__(self, engines: Sequence[Engine], bounds: Bounds, changed: Callable[[], None] = lambda: None) -> None:
        self.bounds = bounds
        self.queues = {e.model.id: EngineQueue(e, e.model.pinned or e.model.id in bounds.pinned) for e in engines}
        self.budget = bounds.budget or 0
        self.lease: DeviceLease | None = None
        self._changed = changed
        self._turn = asyncio.Lock()
        self._switches: dict[str, asyncio.Task[None]] = {}
        self._total, self._gpu = 0, False

    @contextlib.asynccontextmanager
    async def use(self, engine: Engine) -> AsyncIterator[URL]:
        """A place at a loaded engine, whose address this is. Raises Overloaded, Unavailable."""
        queue = self.queues[engine.model.id]
        async with self._device():
            await self._enter(queue)
            try:
                yield engine.url
            finally:
                queue.leave()

    def _device(self) -> AbstractAsyncContextManager[None]:
        return self.lease.use() if self.lease else contextlib.nullcontext()

    def serves(self, engine: Engine) -> bool:
        """Whether a request for it would be answered: it is ready, or would be loaded."""
        queue = self.queues[engine.model.id]
        if engine.state == "ready" or queue.switching:
            return True
        at_rest = engine.state in ("asleep", "unloaded")
        return at_rest and fits_ever(self._resident(queue), self._others(queue), self.budget)

    # -- what is asked for ----------------------------------------------------------------------------------------

    async def first_load(self, engine: Engine) -> None:
        """At the start: it runs if it fits beside those that run already; else it waits to be asked for. On a device
        that others use too it always waits."""
        queue = self.queues[engine.model.id]
        async with self._turn:
            await self._measure()
            plan = plan_load(self._resident(queue), self._others(queue), self.budget, may_evict=False)
            if isinstance(plan, Refusal):
                log.info("model not loaded at the start", extra={"why": plan.text(engine.model.id)})
            if isinstance(plan, Refusal) or self.lease:
                engine.hold_back()
            queue.decided = True

    async def load(self, engine: Engine, *, force: bool) -> None:
        """Until it is ready. Raises Conflict with the figures where it does not fit, Unavailable where it takes too
        long; `force` lets the least recently used models give way."""
        queue = self.queues[engine.model.id]
        if queue.open:
            return
        async with self._device():
            try:
                async with asyncio.timeout(self.bounds.wait_seconds):
                    await self._switch(queue, may_evict=force)
            except TimeoutError:
                raise _loading(queue) from None

    async def unload(self, engine: Engine) -> None:
        """Until its memory is free. Raises Conflict where it is pinned, Unavailable where its requests do not end."""
        queue = self.queues[engine.model.id]
        if queue.pinned:
            raise Conflict(f"{engine.model.id} is pinned: it is never unloaded.", code="model_pinned", param="which")
        async with self._turn:
            if engine.state in ("ready", "starting", "stopped"):
                await self._give_way(queue)

    async def take_device(self) -> None:
        """Nothing: a model is loaded when it is asked for."""

    async def give_device(self) -> None:
        """No model is loaded when this returns, pinned or not; what still runs is cut off."""
        switches = list(self._switches.values())
        for task in switches:
            task.cancel()
        await asyncio.gather(*switches, return_exceptions=True)
        async with self._turn:
            for queue in self.queues.values():
                if queue.engine.state in ("ready", "starting", "stopped"):
                    await (queue.engine.stop() if queue.in_flight else queue.engine.give_way())
            await self._measure()

    async def _enter(self, queue: EngineQueue) -> None:
        """Once the model is loaded."""
        queue.last_used = time.monotonic()
        if queue.open:
            queue.enter()
            return
        if queue.engine.state in ("starting", "stopped") and not queue.switching:
            raise queue.engine.unavailable()
        if sum(len(s.waiters) for s in self.queues.values()) >= self.bounds.waiting:
            raise Overloaded("Too many requests wait for a model.", code="worker_full", retry_after=queue.engine.eta())
        self._begin_switch(queue)
        try:
            await queue.waiters.wait(self.bounds.wait_seconds, queue.leave)
        except TimeoutError:
            raise _loading(queue) from None

    # -- changes, one at a time -----------------------------------------------------------------------------------

    def _begin_switch(self, queue: EngineQueue) -> None:
        """One task for all that wait for the same model."""
        name = queue.engine.model.id
        if name not in self._switches:
            task = asyncio.ensure_future(self._switch_for_waiters(queue))
            self._switches[name] = task
            task.add_done_callback(lambda _: self._switches.pop(name, None))

    async def _switch_for_waiters(self, queue: EngineQueue) -> None:
        try:
            await self._switch(queue, may_evict=True)
        except Conflict as exc:
            queue.waiters.refuse(_no_room(exc, queue))
        except SoundstageError as exc:
            queue.waiters.refuse(exc)
        except asyncio.CancelledError:
            queue.waiters.refuse(queue.engine.unavailable())
            raise

    async def _switch(self, queue: EngineQueue, *, may_evict: bool) -> None:
        queue.switching = True
        try:
            async with self._turn:
                if not queue.open:
                    await self._make_room(queue, may_evict=may_evict)
                    await self._load(queue)
                queue.let_in()
        finally:
            queue.switching = False
            self._changed()

    async def _make_room(self, queue: EngineQueue, *, may_evict: bool) -> None:
        await self._measure()
        plan = plan_load(self._resident(queue), self._others(queue), self.budget, may_evict=may_evict)
        if isinstance(plan, Refusal):
            raise Conflict(plan.text(queue.engine.model.id), code="model_does_not_fit", param="which")
        for name in plan.give_way:
            await self._give_way(self.queues[name])

    async def _give_way(self, queue: EngineQueue) -> None:
        """No new request, the running ones end, then its memory is free."""
        queue.closing = True
        try:
            async with asyncio.timeout(self.bounds.drain_seconds):
                await queue.idle.wait()
            await queue.engine.give_way()
        except TimeoutError:
            raise Unavailable(
                f"{queue.engine.model.id} is still answering.", code="model_busy", retry_after=self.bounds.drain_seconds
            ) from None
        finally:
            queue.closing = False
            if queue.open:
                queue.let_in()  # it stays after all
        CHANGES.labels("sleep" if queue.engine.state == "asleep" else "stop").inc()
        await self._measure()

    async def _load(self, queue: EngineQueue) -> None:
        engine = queue.engine
        died = engine.restarts
        if engine.state == "asleep":
            await engine.wake()
        else:
            engine.start()
        async with asyncio.timeout(self.bounds.start_seconds):
            while engine.state != "ready":
                await engine.until("ready", "stopped")
                if engine.restarts - died >= MOST_DEATHS:
                    await engine.stop()
                    raise Unavailable(
                        f"{engine.model.id} does not start; its log says why.", code="model_failed", retry_after=60
                    )
                if engine.state == "stopped":
                    await engine.until("ready", "starting")
        CHANGES.labels("load").inc()

    # -- figures --------------------------------------------------------------------------------------------------

    async def _measure(self) -> None:
        """What each engine holds now, measured. On a GPU whose driver does not show it, each holds the share that its
        catalogue entry names, and nothing when it sleeps."""
        if not self._total:
            found = await device.memory()
            self._total, self._gpu = found.total, found.kind == "cuda"
            self.budget = self.bounds.budget or int(found.total * SHARE_OF_DEVICE)
        loaded = 0
        for queue in self.queues.values():
            if queue.engine.state in ("ready", "asleep") and queue.engine.pid:
                pid = queue.engine.pid
                held = await (device.gpu_bytes(pid) if self._gpu else device.host_bytes([pid]))
                if queue.engine.state == "ready":
                    queue.needs = max(queue.needs, held or 0)
                else:
                    queue.asleep = held or 0
            loaded += queue.engine.state == "ready"
        LOADED.set(loaded)

    def needs(self, engine: Engine) -> int:
        """Bytes it takes when loaded: as measured, else as worked out."""
        return max(self.queues[engine.model.id].needs, self._estimate(engine))

    def _resident(self, queue: EngineQueue) -> Resident:
        engine = queue.engine
        needs = self.needs(engine)
        holds = {"unloaded": 0, "asleep": queue.asleep}.get(engine.state, needs if queue.decided else 0)
        keeps = min(queue.asleep, holds) if engine.can_sleep else 0
        return Resident(engine.model.id, holds, needs, keeps, queue.last_used, queue.pinned)

    def _others(self, queue: EngineQueue) -> list[Resident]:
        return [self._resident(other) for other in self.queues.values() if other is not queue]

    def _share(self, engine: Engine) -> float | None:
        """The share of a GPU that vLLM takes for itself; None on a host's memory."""
        args = engine.model.args
        if self._gpu and "--gpu-memory-utilization" in args[:-1]:
            return float(args[args.index("--gpu-memory-utilization") + 1])
        return None

    def _estimate(self, engine: Engine) -> int:
        """Bytes before it was ever measured: the catalogue's word, the share of a GPU, or the weights and the cache."""
        if engine.model.memory_gb is not None:
            return int(engine.model.memory_gb * GB)
        share = self._share(engine)
        if share is not None:
            return int(share * self._total)
        if engine.checkpoint is None:
            return 0
        found = weights(engine.checkpoint)
        if found is None:
            return 0
        cache = float(engine.model.env.get("VLLM_CPU_KVCACHE_SPACE") or os.environ.get("VLLM_CPU_KVCACHE_SPACE") or 4)
        return int(found.size * OVER_WEIGHTS + cache * GB + RUNTIME_BYTES)


def _loading(queue: EngineQueue) -> Unavailable:
    return Unavailable(
        f"{queue.engine.model.id} is still being loaded.", code="model_loading", retry_after=queue.engine.eta()
    )


def _no_room(exc: Conflict, queue: EngineQueue) -> Unavailable:
    """To a request that would have loaded the model, a lack of room is a worker that cannot answer now."""
    return Unavailable(exc.message, code="model_does_not_fit", retry_after=max(30.0, queue.engine.eta()))
