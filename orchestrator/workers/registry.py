"""The pool of workers: leases in Postgres, what each is doing now, and who may be asked for what."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Collection
from typing import Any

import psycopg
from prometheus_client import Gauge
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from pydantic import ValidationError
from yarl import URL

from core import control_tokens
from core.control_tokens import Tokens
from core.db.pool import Pool
from core.errors import Conflict, Forbidden, NotFound, Unavailable
from core.wire.workers import Ability, Announcement, Kind, Lease, ServedModel
from orchestrator.workers.places import Place, Pools, Rules
from orchestrator.workers.static import RESERVED
from orchestrator.workers.worker import Ask, Worker

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
SAVE_SECONDS = 2.0
"""Longest wait for the database in a heartbeat: well below the worker's own patience."""
REMEMBERED_SECONDS = 600.0
"""A model that was served this lately is away, not unknown: its callers are told to come again."""
_KINDS: dict[Ability, Kind] = {"images": "image", "image_edits": "image", "faces": "selfie"}
WORKERS = Gauge("soundstage_workers", "Workers with a live lease; an ejected one may be ready.", ["kind", "state"])
PLACES = Gauge("soundstage_worker_places", "Requests that ready workers take at once.", ["kind"])
OUTSTANDING = Gauge("soundstage_worker_outstanding", "This orchestrator's requests at workers.", ["kind"])
BREAKERS = Gauge("soundstage_worker_breakers", "Workers by their breaker's state.", ["kind", "state"])
QUEUED = Gauge("soundstage_queue_depth", "Requests that wait for a place at a worker.", ["kind"])


class WorkerPool:
    """Every worker that may be asked. Reads go to memory; the database is polled, and told of every heartbeat."""

    def __init__(self, database: Pool, key: str | None, lease_seconds: float, rules: Rules) -> None:
        self._pool = database
        self._key = key
        self._lease = lease_seconds
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
        that this key holds here is renewed at once; a new one is in force once the database has had its say.

        Raises Forbidden for an id that is no worker's, Conflict for one whose lease another key holds.
        """
        _refuse_reserved(announcement.id)
        worker = self._workers.get(announcement.id)
        if worker is not None and worker.live_until > time.monotonic():
            if worker.owner not in (None, owner):
                raise _of_another_key(announcement.id)
            self._keep(announcement, self._lease, owner).saved_at = math.inf
        try:
            saved = await self._save(announcement, owner)
        except (psycopg.Error, OSError, TimeoutError) as exc:
            log.warning("lease not saved", extra={"worker": announcement.id, "reason": exc})
            self._keep(announcement, self._lease, owner).saved_at = math.inf
        else:
            if not saved:
                self.forget(announcement.id)
                raise _of_another_key(announcement.id)
            self._keep(announcement, self._lease, owner).saved_at = time.monotonic()
        return Lease(id=announcement.id, lease_seconds=self._lease, heartbeat_seconds=self._lease / 3)

    async def _save(self, announcement: Announcement, owner: str) -> bool:
        """False where another key holds the lease."""
        whole = announcement.model_dump(mode="json")
        async with self._pool.connection(timeout=SAVE_SECONDS) as connection:
            cursor = await connection.execute(
                "insert into workers (id, kind, url, announcement, lease_until, owner)"
                " values (%s, %s, %s, %s, now() + make_interval(secs => %s), %s)"
                " on conflict (id) do update set kind = excluded.kind, url = excluded.url,"
                " announcement = excluded.announcement, lease_until = excluded.lease_until, owner = excluded.owner"
                " where workers.owner is null or workers.owner = excluded.owner or workers.lease_until < now()",
                (*(announcement.id, announcement.kind, str(announcement.url)), Jsonb(whole), self._lease, owner),
            )
        return cursor.rowcount == 1

    async def remove(self, worker_id: str, owner: str | None) -> None:
        """A farewell of the key `owner`; None is an admin, who may end any lease.

        Raises Forbidden for an id that is no worker's, Conflict where another key holds its lease, NotFound, and
        Unavailable where only this orchestrator could be told.
        """
        _refuse_reserved(worker_id)
        known = self._workers.get(worker_id)
        if known is not None and owner is not None and known.owner not in (None, owner):
            raise _of_another_key(worker_id)
        self.forget(worker_id)
        query = (
            "delete from workers where id = %(id)s and (%(owner)s::text is null or owner is null or owner = %(owner)s)"
        )
        async with self._asked() as connection:
            cursor = await connection.execute(query, {"id": worker_id, "owner": owner})
            if cursor.rowcount:
                await connection.execute("delete from drained_workers where worker = %s", (worker_id,))
                return
            row = await (await connection.execute("select 1 from workers where id = %s", (worker_id,))).fetchone()
        if row is not None:
            raise _of_another_key(worker_id)
        if known is None:
            raise _unknown_worker(worker_id)

    async def drain(self, worker_id: str, *, drained: bool, actor: str) -> None:
        """It gets no new request, or gets them again: at once here, and within two seconds everywhere. What it has it
        finishes. Raises NotFound, Unavailable."""
        worker = self._workers.get(worker_id)
        if worker is None:
            raise _unknown_worker(worker_id)
        statement = (
            "insert into drained_workers (worker) values (%s) on conflict do nothing"
            if drained
            else "delete from drained_workers where worker = %s"
        )
        async with self._asked() as connection, connection.transaction():
            await connection.execute("select set_config('soundstage.actor', %s, true)", (actor,))
            await connection.execute(statement.encode(), (worker_id,))
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

    @contextlib.asynccontextmanager
    async def _asked(self) -> AsyncIterator[AsyncConnection[DictRow]]:
        """The database, for somebody who waits. Raises Unavailable."""
        try:
            async with self._pool.connection(timeout=SAVE_SECONDS) as connection:
                yield connection
        except psycopg.OperationalError as exc:
            raise Unavailable("The database does not answer.", code="database_unavailable", retry_after=2) from exc

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

    def probed(self, worker_id: str, *, ready: bool) -> None:
        """It answered a probe, and said whether it is ready."""
        if (worker := self._workers.get(worker_id)) is not None:
            self.pools.probed(worker, ready=ready)

    def unanswered(self, worker_id: str, *, surely: bool) -> None:
        """It did not answer a probe; `surely`: nobody listens there."""
        if (worker := self._workers.get(worker_id)) is not None:
            self.pools.unanswered(worker, surely=surely)

    def _keep(self, announcement: Announcement, seconds: float, owner: str | None = None) -> Worker:
        until = time.monotonic() + seconds
        url = URL(str(announcement.url).rstrip("/"))
        worker = self._workers.get(announcement.id)
        before = worker and (worker.announcement.models, worker.announcement.roles)
        if worker is None:
            worker = self._workers[announcement.id] = Worker(announcement, url, self._key, until)
            worker.drained = announcement.id in self._drained
            log.info("worker joined", extra={"worker": announcement.id, "url": str(announcement.url)})
        worker.announced(announcement)
        worker.owner = owner
        if worker.url != url:
            worker.moved(url)
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
        while True:
            try:
                await self._read_leases()
            except (psycopg.Error, OSError, TimeoutError) as exc:
                log.warning("worker leases not read; going on with what is known", extra={"reason": exc})
            self._forget()
            self._count()
            await asyncio.sleep(POLL_SECONDS)

    async def _read_leases(self) -> None:
        """The database's word counts, but for what was heard here while it was being asked."""
        query = (
            "select id, announcement, owner, extract(epoch from lease_until - now())::float8 as seconds"
            " from workers where lease_until > now()"
        )
        asked, before = time.monotonic(), self._drains
        async with self._pool.connection() as connection:
            rows = {row["id"]: row for row in await (await connection.execute(query)).fetchall()}
            drained = await (await connection.execute("select worker from drained_workers")).fetchall()
            await connection.execute("delete from workers where lease_until < now() - interval '1 hour'")
        if self._drains == before:
            self._drain({row["worker"] for row in drained})
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

    def _count(self) -> None:
        depth = self.pools.depth()
        for kind in depth:
            mine = [w for w in self.live() if w.announcement.kind == kind]
            ready = sum(w.open for w in mine)
            WORKERS.labels(kind, "ready").set(ready)
            WORKERS.labels(kind, "not_ready").set(len(mine) - ready)
            WORKERS.labels(kind, "ejected").set(sum(not w.breaker.lets_in(time.monotonic()) for w in mine))
            states = [w.breaker.state(time.monotonic()) for w in mine]
            for state in ("closed", "open", "half_open"):
                BREAKERS.labels(kind, state).set(states.count(state))
            PLACES.labels(kind).set(sum(w.capacity for w in mine if w.open))
            OUTSTANDING.labels(kind).set(sum(w.outstanding for w in mine))
            QUEUED.labels(kind).set(depth[kind])

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


def _of_another_key(worker_id: str) -> Conflict:
    return Conflict(f"The lease of `{worker_id[:100]}` is another key's.", param="id", code="lease_of_another_key")


def _unknown_worker(worker_id: str) -> NotFound:
    return NotFound(f"No worker `{worker_id[:100]}` is registered.", code="worker_not_found")
