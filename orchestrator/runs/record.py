"""Run records: what was sent and answered, by hash. Written in batches off the hot path, at most 200 ms behind."""

import asyncio
import logging
from collections import deque
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from prometheus_client import Counter, Gauge

from core.db.errors import DATABASE_AWAY, is_refusal
from core.db.pool import Pool, patiently
from core.errors import Unavailable
from core.ids import new_id
from core.repeat import every
from core.usage import Source, Usage
from orchestrator.runs.contents import Vault

log = logging.getLogger(__name__)

BATCH_SECONDS = 0.15
RETRY_SECONDS = 1.0
BATCH = 500
MAX_WAITING = 20_000
DROPPED = Counter("soundstage_runs_dropped_total", "Run records that were not kept: the database was away too long.")
REFUSED = Counter("soundstage_runs_refused_total", "Run records that the database refused: set aside, and logged.")
WAITING = Gauge("soundstage_runs_waiting", "Run records that are not written yet.")

_INSERT = "insert into runs select * from json_populate_recordset(null::runs, %s::json) on conflict (id) do nothing"


class Run(msgspec.Struct, kw_only=True):
    """One run as it is kept; the columns of the table of the same name."""

    id: str
    at: datetime
    tenant: str
    key_id: str
    request_id: str
    route: str
    floor: str
    recipe: str | None = None
    version: int | None = None
    label: str | None = None
    release_sha256: str | None = None
    policy: str = "none"
    tier: int = 0
    decision: str = "allow"
    category: str | None = None
    constraints_added: str | None = None
    model: str | None = None
    worker: str | None = None
    sampling: dict[str, Any] | None = None
    seed: int | None = None
    control_tokens: list[str] | None = None  # those of the model that were set apart; None: by the common forms
    variables_sha256: str | None = None
    messages_sha256: str | None = None
    proof: str = "none"
    prompt_tokens_sha256: str | None = None
    output_sha256: str | None = None
    answer_sha256: str | None = None
    status: int = 0
    milliseconds: float = 0.0
    began: float = 0.0  # on the performance counter; no column: the database leaves it out
    input_tokens: int | None = None
    output_tokens: int | None = None
    usage_source: Source | None = None  # who counted: the engine, or an estimate of ours
    release_tier: int | None = None  # the highest of its release; no column: `tier` is the one in force
    policy_version: int | None = None  # its release's own; no column: `policy` names it

    @property
    def tokens(self) -> int:
        """Prompt and answer together."""
        return (self.input_tokens or 0) + (self.output_tokens or 0)

    def took(self, usage: Usage | None) -> None:
        """So much was asked of an engine; None: nothing that counts."""
        if usage is not None:
            self.input_tokens, self.output_tokens, self.usage_source = usage


class Contents(msgspec.Struct):
    """What a run was about, kept only where its tenant opted in."""

    variables: dict[str, Any]
    history: list[Any]
    output: str | None = None
    fields: dict[str, Any] = {}


Record = tuple[Run, Contents | None, int]
"""A run, what it was about, and for how many days that is kept."""

PURGE_BATCH = 5_000
PURGE_SECONDS = 600.0
_PURGE_LOCK = 0x52_75_6E_73  # any constant of our own
_OLD = "(select id from runs where at < now() - make_interval(days => %s) order by at limit %s)"
_PURGED = "insert into audit (actor, action, object, detail) values ('retention', 'purge', 'runs', %s)"


def new_run_id() -> str:
    return "run_" + new_id()


def now() -> datetime:
    return datetime.now(UTC)


class RunLog:
    """Takes records at once and writes them soon. Bounded: when full, the oldest is dropped and counted."""

    def __init__(self, pool: Pool, vault: Vault) -> None:
        self._pool = pool
        self._vault = vault
        self._waiting: deque[Record] = deque()
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._failures = 0  # tries to write at which the database was away

    def add(self, run: Run, contents: Contents | None = None, days: int = 0) -> None:
        """Never waits. `contents` is sealed and kept for `days`."""
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            DROPPED.inc()
        self._waiting.append((run, contents, days))
        self._wake.set()

    async def write(self) -> None:
        """Until cancelled; then what is left is written."""
        try:
            while True:
                await self._wake.wait()
                await asyncio.sleep(BATCH_SECONDS)
                self._wake.clear()
                if not await self.flush():
                    self._wake.set()
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            await self.flush()

    async def flush(self) -> bool:
        """Write all that waits; False where the database is away: then it goes on waiting. Where another's try fails
        meanwhile, it is not tried again."""
        failures = self._failures
        async with self._writing:
            if self._failures > failures:
                return False
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                left = await self._store(batch)
                self._waiting.extendleft(reversed(left))
                WAITING.set(len(self._waiting))
                if left:
                    self._failures += 1
                    return False
            return True

    async def written(self) -> None:
        """All that was added until now can be read. Raises Unavailable where the database is away."""
        if not await self.flush():
            raise Unavailable("The database does not answer.", code="database_unavailable", retry_after=2)

    async def _store(self, batch: list[Record]) -> list[Record]:
        """What could not be written because the database is away. A record that it refuses is set aside: the halves of
        a refused batch are tried by themselves, down to the one that is at fault."""
        try:
            await self._insert(batch)
        except Exception as exc:
            if is_refusal(exc):
                return await self._store_halves(batch, exc)
            if not isinstance(exc, DATABASE_AWAY):
                raise
            log.warning("runs not written; trying again", extra={"waiting": len(self._waiting), "why": exc})
            return batch
        return []

    async def _store_halves(self, batch: list[Record], refusal: Exception) -> list[Record]:
        if len(batch) == 1:
            REFUSED.inc()
            log.error("a run was refused by the database", extra={"run": batch[0][0].id, "why": str(refusal)[:300]})
            return []
        half = len(batch) // 2
        left = await self._store(batch[:half])
        return left + batch[half:] if left else await self._store(batch[half:])

    async def purge(self, days: int) -> None:
        """Let go of records older than `days`, now and then, until cancelled; 0: they are kept for ever."""
        if days:
            await every(PURGE_SECONDS, partial(self.purge_once, days), failing="runs are not purged")

    async def purge_once(self, days: int, batch: int = PURGE_BATCH) -> int:
        """How many records were let go, with their contents, in transactions of at most `batch`; the audit chain says
        so. One process does it at a time; to another there is nothing to do."""
        gone = 0
        while True:
            async with patiently(self._pool) as connection, connection.transaction():
                query = "select pg_try_advisory_xact_lock(%s) as mine, set_config('soundstage.purge_runs', 'yes', true)"
                row = await (await connection.execute(query, (_PURGE_LOCK,))).fetchone()
                if row is None or not row["mine"]:
                    return gone
                for table, column in (("run_contents", "run"), ("runs", "id")):
                    statement = f"delete from {table} where {column} in {_OLD}"  # noqa: S608 - constants only
                    found = (await connection.execute(statement.encode(), (days, batch))).rowcount
                if found:
                    detail = f'{{"records": {found}, "older_than_days": {days}}}'
                    await connection.execute(_PURGED, (detail,))
            gone += found
            if found < batch:
                return gone

    async def _insert(self, batch: list[Record]) -> None:
        records = msgspec.json.encode([run for run, _, _ in batch]).decode()
        kept = [(run, contents, days) for run, contents, days in batch if contents is not None]
        async with self._pool.connection() as connection:
            if not kept:  # one statement commits by itself: one round trip, not three
                await connection.execute(_INSERT, (records,))
                return
            async with connection.transaction():
                await connection.execute(_INSERT, (records,))
                for run, contents, days in kept:
                    await self._vault.keep(connection, run.id, run.tenant, msgspec.json.encode(contents), days)
