"""Which engines are loaded: requests wait for theirs, others give way. llm/budget.py decides, this acts.

One change at a time. An engine that is to give way takes no new request and ends those it has; requests that arrive
meanwhile wait for its next turn, bounded in number and in time, and are let in together when it is ready again.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType

from prometheus_client import Counter, Gauge
from yarl import URL

from core.device.lease import DeviceLease
from core.errors import Conflict, Overloaded, SoundstageError, Unavailable
from llm import device
from llm.budget import Refusal, Resident, fits_ever, plan_load
from llm.device import GB
from llm.engine import Engine
from llm.seats import Bounds, Seat
from llm.weights import weights

log = logging.getLogger(__name__)

CHANGES = Counter("soundstage_model_changes_total", "Loads and unloads of models.", ["change"])
LOADED = Gauge("soundstage_models_loaded", "Models that are loaded now.")
MOST_DEATHS = 4
"""A model that dies this often while it is loaded does not come: its callers are told."""
RUNTIME_BYTES = GB  # of an engine's Python, torch and buffers, besides weights and cache, on a CPU
OVER_WEIGHTS = 1.1
SHARE_OF_DEVICE = 0.9


class Residency:
    """Owns who is loaded. `changed` is called where what can be served may have changed. With a `lease`, nothing is on
    the device but while it is this worker's turn."""

    def __init__(self, engines: Sequence[Engine], bounds: Bounds, changed: Callable[[], None] = lambda: None) -> None:
        self.bounds = bounds
        self.seats = {e.model.id: Seat(e, e.model.pinned or e.model.id in bounds.pinned) for e in engines}
        self.budget = bounds.budget or 0
        self.lease: DeviceLease | None = None
        self._changed = changed
        self._turn = asyncio.Lock()
        self._switches: dict[str, asyncio.Task[None]] = {}
        self._total, self._gpu = 0, False

    def use(self, engine: Engine) -> "Use":
        """`async with residency.use(engine) as url:` a place at a loaded engine."""
        return Use(self, self.seats[engine.model.id])

    def serves(self, engine: Engine) -> bool:
        """Whether a request for it would be answered: it is ready, or would be loaded."""
        seat = self.seats[engine.model.id]
        if engine.state == "ready" or seat.switching:
            return True
        at_rest = engine.state in ("asleep", "unloaded")
        return at_rest and fits_ever(self._resident(seat), self._others(seat), self.budget)

    # -- what is asked for ----------------------------------------------------------------------------------------

    async def first_load(self, engine: Engine) -> None:
        """At the start: it runs if it fits beside those that run already; else it waits to be asked for. On a device
        that others use too it always waits."""
        seat = self.seats[engine.model.id]
        async with self._turn:
            await self._measure()
            plan = plan_load(self._resident(seat), self._others(seat), self.budget, may_evict=False)
            if isinstance(plan, Refusal):
                log.info("model not loaded at the start", extra={"why": plan.told(engine.model.id)})
            if isinstance(plan, Refusal) or self.lease:
                engine.hold_back()
            seat.decided = True

    async def load(self, engine: Engine, *, force: bool) -> None:
        """Until it is ready. Raises Conflict with the figures where it does not fit, Unavailable where it takes too
        long; `force` lets the least recently used models give way."""
        seat = self.seats[engine.model.id]
        if seat.open:
            return
        async with self.lease.use() if self.lease else contextlib.nullcontext():
            await self._within(self._switch(seat, may_evict=force), seat)

    async def unload(self, engine: Engine) -> None:
        """Until its memory is free. Raises Conflict where it is pinned, Unavailable where its requests do not end."""
        seat = self.seats[engine.model.id]
        if seat.pinned:
            raise Conflict(f"{engine.model.id} is pinned: it is never unloaded.", code="model_pinned", param="which")
        async with self._turn:
            if engine.state in ("ready", "starting", "stopped"):
                await self._give_way(seat)

    async def take_device(self) -> None:
        """Nothing: a model is loaded when it is asked for."""

    async def give_device(self) -> None:
        """No model is loaded when this returns, pinned or not; what still runs is cut off."""
        switches = list(self._switches.values())
        for task in switches:
            task.cancel()
        await asyncio.gather(*switches, return_exceptions=True)
        async with self._turn:
            for seat in self.seats.values():
                if seat.engine.state in ("ready", "starting", "stopped"):
                    await (seat.engine.stop() if seat.in_flight else seat.engine.give_way())
            await self._measure()

    async def admit(self, seat: Seat) -> None:
        """Wait until the model is loaded; the place is then held. Raises Overloaded, Unavailable."""
        if sum(len(s.waiters) for s in self.seats.values()) >= self.bounds.waiting:
            raise Overloaded("Too many requests wait for a model.", code="worker_full", retry_after=seat.engine.eta())
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        seat.waiters.append(waiter)
        self._begin_switch(seat)
        admitted = False
        try:
            await self._within(waiter, seat)
            admitted = True
        finally:
            if not admitted:
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    seat.leave()  # it was let in in the same moment
                waiter.cancel()
                if waiter in seat.waiters:
                    seat.waiters.remove(waiter)

    # -- changes, one at a time -----------------------------------------------------------------------------------

    def _begin_switch(self, seat: Seat) -> None:
        """One task for all that wait for the same model."""
        name = seat.engine.model.id
        if name not in self._switches:
            task = asyncio.ensure_future(self._switch_for_waiters(seat))
            self._switches[name] = task
            task.add_done_callback(lambda _: self._switches.pop(name, None))

    async def _switch_for_waiters(self, seat: Seat) -> None:
        try:
            await self._switch(seat, may_evict=True)
        except Conflict as exc:
            seat.refuse(_no_room(exc, seat))
        except SoundstageError as exc:
            seat.refuse(exc)
        except asyncio.CancelledError:
            seat.refuse(seat.engine.unavailable())
            raise

    async def _switch(self, seat: Seat, *, may_evict: bool) -> None:
        seat.switching = True
        try:
            async with self._turn:
                if not seat.open:
                    await self._make_room(seat, may_evict=may_evict)
                    await self._load(seat)
                seat.let_in()
        finally:
            seat.switching = False
            self._changed()

    async def _make_room(self, seat: Seat, *, may_evict: bool) -> None:
        await self._measure()
        plan = plan_load(self._resident(seat), self._others(seat), self.budget, may_evict=may_evict)
        if isinstance(plan, Refusal):
            raise Conflict(plan.told(seat.engine.model.id), code="model_does_not_fit", param="which")
        for name in plan.give_way:
            await self._give_way(self.seats[name])

    async def _give_way(self, seat: Seat) -> None:
        """No new request, the running ones end, then its memory is free."""
        seat.closing = True
        try:
            async with asyncio.timeout(self.bounds.drain_seconds):
                await seat.idle.wait()
            await seat.engine.give_way()
        except TimeoutError:
            raise Unavailable(
                f"{seat.engine.model.id} is still answering.", code="model_busy", retry_after=self.bounds.drain_seconds
            ) from None
        finally:
            seat.closing = False
            if seat.open:
                seat.let_in()  # it stays after all
        CHANGES.labels("sleep" if seat.engine.state == "asleep" else "stop").inc()
        await self._measure()

    async def _load(self, seat: Seat) -> None:
        engine = seat.engine
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

    async def _within(self, work: Awaitable[None], seat: Seat) -> None:
        try:
            async with asyncio.timeout(self.bounds.wait_seconds):
                await work
        except TimeoutError:
            raise Unavailable(
                f"{seat.engine.model.id} is still being loaded.", code="model_loading", retry_after=seat.engine.eta()
            ) from None

    # -- figures --------------------------------------------------------------------------------------------------

    async def _measure(self) -> None:
        """What each engine holds now, measured. On a GPU whose driver does not show it, each holds the share that its
        catalogue entry names, and nothing when it sleeps."""
        if not self._total:
            found = await device.memory()
            self._total, self._gpu = found.total, found.kind == "cuda"
            self.budget = self.bounds.budget or int(found.total * SHARE_OF_DEVICE)
        loaded = 0
        for seat in self.seats.values():
            if seat.engine.state in ("ready", "asleep") and seat.engine.pid:
                pid = seat.engine.pid
                held = await (device.gpu_bytes(pid) if self._gpu else device.host_bytes([pid]))
                if seat.engine.state == "ready":
                    seat.needs = max(seat.needs, held or 0)
                else:
                    seat.asleep = held or 0
            loaded += seat.engine.state == "ready"
        LOADED.set(loaded)

    def needs(self, engine: Engine) -> int:
        """Bytes it takes when loaded: as measured, else as worked out."""
        return max(self.seats[engine.model.id].needs, self._estimate(engine))

    def _resident(self, seat: Seat) -> Resident:
        engine = seat.engine
        needs = self.needs(engine)
        holds = {"unloaded": 0, "asleep": seat.asleep}.get(engine.state, needs if seat.decided else 0)
        keeps = min(seat.asleep, holds) if engine.can_sleep else 0
        return Resident(engine.model.id, holds, needs, keeps, seat.last_used, seat.pinned)

    def _others(self, seat: Seat) -> list[Resident]:
        return [self._resident(other) for other in self.seats.values() if other is not seat]

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


class Use:
    """One request's place at an engine."""

    __slots__ = ("_residency", "_seat")

    def __init__(self, residency: Residency, seat: Seat) -> None:
        self._residency, self._seat = residency, seat

    async def __aenter__(self) -> URL:
        lease = self._residency.lease
        if lease is None:
            return await self._seated()
        await lease.enter()
        seated = None
        try:
            seated = await self._seated()
            return seated
        finally:
            if seated is None:
                lease.leave()

    async def _seated(self) -> URL:
        seat = self._seat
        seat.last_used = time.monotonic()
        if seat.open:
            seat.enter()
        elif seat.engine.state in ("starting", "stopped") and not seat.switching:
            raise seat.engine.unavailable()
        else:
            await self._residency.admit(seat)
        return seat.engine.url

    async def __aexit__(self, kind: type[BaseException] | None, exc: object, trace: TracebackType | None) -> None:
        self._seat.leave()
        if self._residency.lease is not None:
            self._residency.lease.leave()


def _no_room(exc: Conflict, seat: Seat) -> Unavailable:
    """To a request that would have loaded the model, a lack of room is a worker that cannot answer now."""
    return Unavailable(exc.message, code="model_does_not_fit", retry_after=max(30.0, seat.engine.eta()))
