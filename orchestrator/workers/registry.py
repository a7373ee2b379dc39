"""The pool of workers: who holds a lease, what each is doing now, and who may be asked for what."""

import logging
import math
import time
from collections.abc import Collection
from typing import Any

import psycopg
from pydantic import ValidationError
from yarl import URL

from core import control_tokens
from core.control_tokens import Tokens
from core.db.errors import DATABASE_AWAY
from core.db.pool import Pool
from core.errors import Forbidden, NotFound, Unavailable
from core.repeat import every
from core.wire.workers import Ability, Announcement, Kind, Lease, ServedModel
from orchestrator.workers import gauges
from orchestrator.workers.leases import Leases, of_another_key, unknown_worker
from orchestrator.workers.places import Place, Pools
from orchestrator.workers.rules import Rules
from orchestrator.workers.static import RESERVED
from orchestrator.workers.worker import Ask, Worker

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
REMEMBERED_SECONDS = 600.0
"""A model that was served this lately is away, not unknown: its callers are told to come again."""
_KINDS: dict[Ability, Kind] = {"images": "image", "image_edits": "image", "faces": "selfie"}


class WorkerPool:
    """Every worker that may be asked. Reads go to memory; the database is polled, and told of every heartbeat."""

    def __init__(self, database: Pool, key: str | None, lease_seconds: float, rules: Rules) -> None:
        self._key = key
        self._leases = Leases(database, lease_seconds)
        self._workers: dict[str, Worker] = {}
        self.pools = Pools(rules, self._workers.values)
        self._served: dict[tuple[str, Ability], float] = {}  # until when a name is remembered
        self._drained: frozenset[str] = frozenset()
        self._drains = 0  # how often an admin said so here: what was read before does not count
        self._tokens: dict[str, Tokens] = {}  # of each name that is served; dropped when an announcement differs

    # -- who is there ---------------------------------------------------------------------------------------------

    def live(self) -> list[Worker]:
        now = time.monotonic()
        return [w for w in self._workers.values() if w.live_until > now]

    def usable(self) -> list[Worker]:
        now = time.monotonic()
        return [w for w in self._workers.values() if w.usable(now)]

    def models(self) -> dict[str, tuple[ServedModel, bool]]:
        """Every model name that a usable worker answers to -> (model, whether the name is an alias)."""
        found: dict[str, tuple[ServedModel, bool]] = {}
        for worker in self.usable():
            for model in worker.announcement.models:
                found.setdefault(model.id, (model, False))
                for alias in model.aliases:
                    found.setdefault(alias, (model, True))
        return found

    async def register(self, announcement: Announcement, owner: str) -> Lease:
        """Take a heartbeat of the key `owner`, and keep it in the database for the others if that is there. A lease
        that this key holds here is renewed at once; a new one is in force once the database has had its say. Raises
        Forbidden for an id that is no worker's, Conflict for one whose lease another key holds."""
        _refuse_reserved(announcement.id)
        seconds = self._leases.seconds
        worker = self._workers.get(announcement.id)
        if worker is not None and worker.live_until > time.monotonic():
            if worker.owner not in (None, owner):
                raise of_another_key(announcement.id)
            self._keep(announcement, seconds, owner).saved_at = math.inf
        try:
            saved = await self._leases.save(announcement, owner)
        except (psycopg.Error, *DATABASE_AWAY) as exc:  # a lease that the database refuses holds here alone
            log.warning("lease not saved", extra={"worker": announcement.id, "reason": exc})
            self._keep(announcement, seconds, owner).saved_at = math.inf
        else:
            if not saved:
                self.forget(announcement.id)
                raise of_another_key(announcement.id)
            self._keep(announcement, seconds, owner).saved_at = time.monotonic()
        return Lease(id=announcement.id, lease_seconds=seconds, heartbeat_seconds=seconds / 3)

    async def remove(self, worker_id: str, owner: str | None) -> None:
        """A farewell of the key `owner`; None is an admin, who may end any lease. Raises Forbidden for an id that is no
        worker's, Conflict where another key holds its lease, NotFound, and Unavailable where only this orchestrator
        could be told."""
        _refuse_reserved(worker_id)
        known = self._workers.get(worker_id)
        if known is not None and owner is not None and known.owner not in (None, owner):
            raise of_another_key(worker_id)
        self.forget(worker_id)
        if not await self._leases.end(worker_id, owner) and known is None:
            raise unknown_worker(worker_id)

    async def drain(self, worker_id: str, *, drained: bool, actor: str) -> None:
        """It gets no new request, or gets them again: at once here, and within two seconds everywhere. What it has it
        finishes. Raises NotFound, Unavailable."""
        if worker_id not in self._workers:
            raise unknown_worker(worker_id)
        await self._leases.drain(worker_id, drained=drained, actor=actor)
        self._drains += 1
        self._drain({*self._drained, worker_id} if drained else self._drained - {worker_id})

    def _drain(self, drained: Collection[str]) -> None:
        """These and no others."""
        self._drained = frozenset(drained)
        for worker in self._workers.values():
            if worker.drained != (worker.id in self._drained):
                worker.drained = not worker.drained
                worker.reckon()
                self.pools.freed(worker)

    def add_static(self, announcement: Announcement, key: str | None, rewrites: dict[str, str], seconds: float) -> None:
        """A worker that does not announce itself was just found to answer; without a key of its own it is sent none."""
        self._keep(announcement, seconds).key = key
        self._workers[announcement.id].rewrites = rewrites

    def forget(self, worker_id: str) -> None:
        """It is not to be asked any more."""
        if self._workers.pop(worker_id, None) is not None:
            self.pools.changed()

    def known(self, worker_id: str) -> Worker | None:
        return self._workers.get(worker_id)

    def probe_answered(self, worker_id: str, *, ready: bool) -> None:
        """It answered a probe, and said whether it is ready."""
        if (worker := self._workers.get(worker_id)) is not None:
            self.pools.probe_answered(worker, ready=ready)

    def probe_failed(self, worker_id: str, *, surely: bool) -> None:
        """It did not answer a probe; `surely`: nobody listens there."""
        if (worker := self._workers.get(worker_id)) is not None:
            self.pools.probe_failed(worker, surely=surely)

    def _keep(self, announcement: Announcement, seconds: float, owner: str | None = None) -> Worker:
        until = time.monotonic() + seconds
        url = URL(str(announcement.url).rstrip("/"))
        worker = self._workers.get(announcement.id)
        before = worker and (worker.announcement.models, worker.announcement.roles)
        if worker is None:
            worker = self._workers[announcement.id] = Worker(announcement, url, self._key, until)
            worker.drained = announcement.id in self._drained
            log.info("worker joined", extra={"worker": announcement.id, "url": str(announcement.url)})
        worker.update(announcement)
        worker.owner = owner
        if worker.url != url:
            worker.move(url)
        worker.live_until = max(worker.live_until, until)
        if before != (announcement.models, announcement.roles):
            self._tokens = {}
            self.pools.changed()
        self.pools.freed(worker)
        for model in announcement.models:
            for name in (model.id, *model.aliases):
                self._served.update(dict.fromkeys(((name, a) for a in model.abilities), until + REMEMBERED_SECONDS))
        return worker

    async def poll(self) -> None:
        """Learn what other orchestrators were told, and forget whose lease ran out; until cancelled."""
        await every(POLL_SECONDS, self._poll, failing="leases are not read, what is known goes on")

    async def _poll(self) -> None:
        try:
            await self.read_leases()
        finally:
            self._forget()
            gauges.show(self.live(), self.pools.depth())

    async def read_leases(self) -> None:
        """The database's word counts, but for what was heard here while it was being asked."""
        asked, before = time.monotonic(), self._drains
        rows, drained = await self._leases.read()
        if self._drains == before:
            self._drain(drained)
        for worker in [w for w in self._workers.values() if w.saved_at < asked and w.id not in rows]:
            worker.live_until = asked  # another orchestrator was told that it leaves
            self.pools.refresh(worker)
        for row in rows.values():
            known = self._workers.get(row["id"])
            if known is None or known.saved_at < asked:
                self._learn(row, asked)

    def _learn(self, row: dict[str, Any], asked: float) -> None:
        try:
            _refuse_reserved(row["id"])
            announcement = Announcement.model_validate(row["announcement"])
            self._keep(announcement, row["seconds"], row["owner"]).saved_at = asked
        except (ValidationError, Forbidden) as exc:  # written by another version
            log.warning("announcement not understood", extra={"worker": row["id"], "reason": exc})

    def _forget(self) -> None:
        now = time.monotonic()
        for worker in [w for w in self._workers.values() if w.live_until <= now]:
            self.pools.refresh(worker)
            if not worker.outstanding:
                del self._workers[worker.id]
                self.pools.changed()
                log.warning("worker lost", extra={"worker": worker.id})
        self._served = {name: until for name, until in self._served.items() if until > now}

    # -- who takes a request --------------------------------------------------------------------------------------

    async def take(self, ask: Ask) -> Place:
        """A place at a worker. Raises NotFound (no such model), Unavailable (none live), Overloaded (all full)."""
        try:
            return await self.pools.take(ask)
        except Unavailable:
            if ask.model is None or self._away(ask.model, ask.ability):
                raise
            raise self._unknown(ask.model, ask.ability) from None

    def control_tokens(self, model: str | None) -> Tokens:
        """What must not stand in a message to this model: of every worker here that answers to the name."""
        found = self._tokens.get(model or "")
        if found is None:
            sets = [tokens for w in self._workers.values() for tokens in w.control_tokens(model or "")]
            found = control_tokens.of_several(sets)
            if sets:  # a name that nobody serves is not remembered: callers could fill the memory with them
                self._tokens[model or ""] = found
        return found

    def context(self, model: str | None) -> int | None:
        """The context length in tokens of the model that answers to this name, where one says so."""
        pool = self.pools.pool(Ask(model, "chat"))
        served = [m for w in pool.members for m in w.announcement.models] if pool else []
        lengths = [m.max_model_len for m in served if m.max_model_len and model in (m.id, *m.aliases)]
        return max(lengths, default=None)

    def _away(self, model: str, ability: Ability) -> bool:
        """Whether the model was served lately, or may be one of those that nobody serves yet: no worker of the kind
        that could is there."""
        if self._served.get((model, ability), 0.0) > time.monotonic():
            return True
        return all(worker.announcement.kind != _KINDS.get(ability, "chat") for worker in self.usable())

    def _unknown(self, model: str, ability: Ability) -> NotFound:
        there = sorted(name for name, (served, _) in self.models().items() if ability in served.abilities)
        return NotFound(
            f"The model `{model[:200]}` does not exist here for {ability}; it has: {', '.join(there[:50]) or 'none'}.",
            param="model",
            code="model_not_found",
        )


def _refuse_reserved(worker_id: str) -> None:
    if worker_id.startswith(RESERVED):
        raise Forbidden(
            f"Ids that begin with {' or '.join(RESERVED)} are of servers that an admin or the settings name.",
            param="id",
            code="reserved_worker_id",
        )
