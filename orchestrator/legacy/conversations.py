"""Conversations of the older /chat: turns in Postgres under a key and an id, bounded by tokens, one answer at a time.

Whoever answers holds the conversation by a lease that is renewed while it works, so that two requests, here or at
another orchestrator, never answer at once, and one whose orchestrator died is free again soon.
"""

import asyncio
import contextlib
import functools
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

from psycopg.types.json import Jsonb

from core.db.errors import DATABASE_AWAY
from core.db.plain import plain
from core.db.pool import Pool, patiently
from core.errors import NotFound, Overloaded, Unavailable
from core.repeat import every, meanwhile
from orchestrator.operate.seal import Seal
from prompts.render import Message

log = logging.getLogger(__name__)

LEASE_SECONDS = 15.0
POLL_SECONDS = 0.05
PURGE_SECONDS = 600.0
MOST_TURNS = 400
_RENEWAL = f"now() + make_interval(secs => {LEASE_SECONDS})"
_NOT_CHANGED = "a conversation's lease is not changed"


class Turn(NamedTuple):
    """One stored message. `tokens` as the model's tokenizer counted it, its place in the chat template included."""

    role: str
    content: str
    tokens: int

    def message(self) -> Message:
        return {"role": self.role, "content": self.content}


def fitting(turns: Sequence[Turn], budget: int) -> list[Turn]:
    """The latest turns that have room in `budget` tokens; the oldest leave first, an answer with its question. Pure."""
    kept: list[Turn] = []
    for turn in reversed(turns):
        budget -= turn.tokens
        if budget < 0:
            break
        kept.insert(0, turn)
    while kept and kept[0].role != "user":
        kept.pop(0)
    return kept


class Conversation:
    """One conversation while one request, the `holder`, answers in it."""

    def __init__(self, pool: Pool, seal: Seal, *, key_id: str, name: str, holder: str, most_tokens: int) -> None:
        self._pool, self._seal = pool, seal
        self._key, self._name, self._holder, self._most = key_id, name, holder, most_tokens

    async def turns(self) -> list[Turn]:
        query = (
            "select role, content, sealed, message_id, tokens from conversation_turns"
            " where key_id = %s and conversation = %s order by position"
        )
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(query, (self._key, self._name))).fetchall()
        return [Turn(row["role"], self._text(row), row["tokens"]) for row in rows]

    def _place(self, message_id: str, role: str) -> str:
        return "/".join((self._key, self._name, message_id, role))

    def _text(self, row: Mapping[str, Any]) -> str:
        """A turn's text; one that the version before kept is not sealed."""
        if row["sealed"] is None:
            return str(row["content"])
        return self._seal.open(bytes(row["sealed"]), self._place(row["message_id"], row["role"])).decode()

    async def answer(self, message_id: str) -> tuple[str, dict[str, Any]] | None:
        """What was answered under this id before, and what was said of it."""
        query = (
            "select role, content, sealed, message_id, told from conversation_turns"
            " where key_id = %s and conversation = %s and message_id = %s and role = 'assistant'"
        )
        async with self._pool.connection() as connection:
            row = await (await connection.execute(query, (self._key, self._name, message_id))).fetchone()
        return (self._text(row), row["told"] or {}) if row else None

    async def add(self, question: Turn, answer: Turn, message_id: str, told: Mapping[str, Any]) -> None:
        """Both or none; what is beyond the bound goes, the oldest first. Nothing is kept in a conversation that was
        deleted meanwhile. Raises Overloaded where another request has taken it over, as from one that had died."""
        async with self._pool.connection() as connection, connection.transaction():
            query = "select busy_by from conversations where key_id = %s and id = %s for update"
            row = await (await connection.execute(query, (self._key, self._name))).fetchone()
            if row is None:
                return
            if row["busy_by"] != self._holder:
                raise _busy("Another request answers in this conversation now.")
            for turn in (question, answer):
                place = self._place(message_id, turn.role)
                sealed = self._seal.seal(turn.content.encode("utf-8", "replace"), place)
                await connection.execute(
                    "insert into conversation_turns (key_id, conversation, message_id, role, content, sealed, tokens,"
                    " told) values (%s, %s, %s, %s, '', %s, %s, %s)",
                    (self._key, self._name, message_id, turn.role, sealed, turn.tokens, Jsonb(plain(told))),
                )
            await connection.execute(
                "delete from conversation_turns t using (select position, sum(tokens) over w as held,"
                " count(*) over w as number from conversation_turns where key_id = %(key)s and conversation = %(name)s"
                " window w as (order by position desc)) as seen where t.key_id = %(key)s"
                " and t.conversation = %(name)s and t.position = seen.position"
                " and (seen.held > %(most)s or seen.number > %(turns)s)",
                {"key": self._key, "name": self._name, "most": self._most, "turns": MOST_TURNS},
            )


class Conversations:
    """One for each process. `hours` without a turn, and a conversation is forgotten."""

    def __init__(self, pool: Pool, seal: Seal, *, most_tokens: int, hours: float, wait_seconds: float) -> None:
        self.most_tokens, self._pool, self._seal, self._hours = most_tokens, pool, seal, hours
        self._wait = wait_seconds

    @contextlib.asynccontextmanager
    async def hold(self, key_id: str, name: str) -> AsyncIterator[Conversation]:
        """The conversation, made where there is none. Raises Overloaded where others answer in it for too long, and
        Unavailable where the database is away."""
        holder = os.urandom(12).hex()
        try:
            async with asyncio.timeout(self._wait):
                while not await self._take(key_id, name, holder):  # noqa: ASYNC110 - others hold it in the database
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise _busy("This conversation is still being answered.") from None
        except DATABASE_AWAY as exc:
            raise Unavailable("The database does not answer.", code="database_unavailable", retry_after=2) from exc
        renew = functools.partial(self._hold_until, _RENEWAL, key_id, name, holder)
        try:
            async with meanwhile(every(LEASE_SECONDS / 3, renew, failing=_NOT_CHANGED, at_once=False)):
                yield Conversation(
                    self._pool, self._seal, key_id=key_id, name=name, holder=holder, most_tokens=self.most_tokens
                )
        finally:
            await asyncio.shield(self._let_go(key_id, name, holder))

    async def _take(self, key_id: str, name: str, holder: str) -> bool:
        given = {"key": key_id, "name": name, "holder": holder, "lease": LEASE_SECONDS, "hours": self._hours}
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(
                "delete from conversations where key_id = %(key)s and id = %(name)s"
                " and expires_at < now() and busy_until < now()",
                given,
            )
            cursor = await connection.execute(
                "insert into conversations as c (key_id, id, expires_at, busy_by, busy_until)"
                " values (%(key)s, %(name)s, now() + make_interval(secs => %(hours)s * 3600), %(holder)s,"
                " now() + make_interval(secs => %(lease)s))"
                " on conflict (key_id, id) do update set busy_by = excluded.busy_by, busy_until = excluded.busy_until,"
                " expires_at = excluded.expires_at where c.busy_until < now()",
                given,
            )
            return cursor.rowcount == 1

    async def _hold_until(self, when: str, key_id: str, name: str, holder: str) -> None:
        query = f"update conversations set busy_until = {when} where key_id = %s and id = %s and busy_by = %s"  # noqa: S608 - constants only
        async with self._pool.connection() as connection:
            await connection.execute(query.encode(), (key_id, name, holder))

    async def _let_go(self, key_id: str, name: str, holder: str) -> None:
        """Where the database is away, the lease runs out by itself."""
        try:
            await self._hold_until("'-infinity'", key_id, name, holder)
        except DATABASE_AWAY as exc:
            log.warning(_NOT_CHANGED, extra={"reason": exc})

    async def delete(self, key_id: str, name: str) -> None:
        """With all its turns. Raises NotFound."""
        query = "delete from conversations where key_id = %s and id = %s"
        async with self._pool.connection() as connection:
            found = (await connection.execute(query, (key_id, name))).rowcount
        if not found:
            raise NotFound("This key has no such conversation.", code="conversation_not_found", param="conversation_id")

    async def purge(self) -> None:
        """Forget what has expired, now and then; until cancelled."""
        await every(PURGE_SECONDS, self._forget, failing="conversations are not purged")

    async def _forget(self) -> None:
        async with patiently(self._pool) as connection:
            await connection.execute("delete from conversations where expires_at < now() and busy_until < now()")


def _busy(message: str) -> Overloaded:
    return Overloaded(message, code="conversation_busy", retry_after=2)
