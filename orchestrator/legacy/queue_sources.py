"""A Redis list or stream as a queue whose jobs are held for a time, not removed: who dies lets them come again.

Each change is one command or one script, so that a death between two leaves nothing lost. Times are the server's.
"""

import json
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from orchestrator.legacy.queue_commands import Commands, QueueAwayError

T = TypeVar("T")

GROUP = "soundstage"
End = Literal["left", "right"]
"""From which end of a list jobs are taken: left of what RPUSH fills, right of what LPUSH does."""
REAPED_AT_ONCE = 200

_NOW = "local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000); "
_TAKE = _NOW + (
    "local found = {}; for i = 1, tonumber(ARGV[1]) do local job = redis.call('LMOVE', KEYS[1], KEYS[2], ARGV[3],"
    " 'RIGHT'); if not job then break end; redis.call('ZADD', KEYS[3], now + tonumber(ARGV[2]), job);"
    " found[i] = job end; return found"
)
_END = "redis.call('LREM', KEYS[1], -1, ARGV[1]); redis.call('ZREM', KEYS[2], ARGV[1]); "
_MOVE = (
    "if redis.call('LREM', KEYS[1], -1, ARGV[1]) > 0 then redis.call(ARGV[2], KEYS[3], ARGV[1]) end;"
    " redis.call('ZREM', KEYS[2], ARGV[1]); return 1"
)
_HOLD = _NOW + "return redis.call('ZADD', KEYS[1], 'XX', now + tonumber(ARGV[1]), ARGV[2])"
_REAP = _NOW + (
    "local late = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]));"
    " for _, job in ipairs(late) do redis.call('ZREM', KEYS[3], job);"
    " while redis.call('LREM', KEYS[2], 1, job) > 0 do redis.call(ARGV[3], KEYS[1], job) end end;"
    # The same job twice shares one deadline: when one of them ends, the other gets its own here.
    " for _, job in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do"
    " redis.call('ZADD', KEYS[3], 'NX', now + tonumber(ARGV[2]), job) end; return #late"
)
_ACKNOWLEDGE = "redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]); return redis.call('XDEL', KEYS[1], ARGV[2])"
_AGAIN = "redis.call('XADD', KEYS[1], '*', 'job', ARGV[3]); " + _ACKNOWLEDGE
_BURY = "redis.call('RPUSH', KEYS[2], ARGV[3]); " + _ACKNOWLEDGE

_Entry = tuple[str, list[str] | dict[str, str] | None] | None
"""Of a stream: its id and its fields."""


class _Claimed(NamedTuple):
    """XAUTOCLAIM's reply; what follows is not used."""

    cursor: str
    entries: list[_Entry]
    gone: Any = None


class Delivery(NamedTuple):
    """A job as it came: its text, and the stream's id of it."""

    text: str
    entry: str = ""


class Source(Protocol):
    """Raises QueueAwayError everywhere."""

    async def open(self) -> None: ...
    async def take(self, most: int) -> list[Delivery]: ...
    async def hold(self, delivery: Delivery) -> None:
        """Still at it: it is not given to another."""

    async def done(self, delivery: Delivery) -> None: ...
    async def again(self, delivery: Delivery) -> None: ...
    async def bury(self, delivery: Delivery) -> None: ...
    async def reap(self) -> int:
        """Let come again what was held for too long; how many."""

    async def waiting(self) -> int: ...


class ListSource:
    """Jobs leave from one end; one that comes again joins at the other, where the producers push."""

    def __init__(self, commands: Commands, name: str, dead: str, visibility: float, end: End = "left") -> None:
        self._run, self._name, self._dead = commands.run, name, dead
        self._end, self._push = end.upper(), "RPUSH" if end == "left" else "LPUSH"
        self._taken, self._held = f"{name}:taken", f"{name}:held"
        self._milliseconds = int(visibility * 1000)

    async def open(self) -> None:
        await self._run("PING")

    async def take(self, most: int) -> list[Delivery]:
        keys = (self._name, self._taken, self._held)
        found = await self._run("EVAL", _TAKE, 3, *keys, most, self._milliseconds, self._end)
        return [Delivery(text) for text in _shaped(found, list[str])]

    async def hold(self, delivery: Delivery) -> None:
        await self._run("EVAL", _HOLD, 1, self._held, self._milliseconds, delivery.text)

    async def done(self, delivery: Delivery) -> None:
        await self._run("EVAL", _END + "return 1", 2, self._taken, self._held, delivery.text)

    async def again(self, delivery: Delivery) -> None:
        await self._run("EVAL", _MOVE, 3, self._taken, self._held, self._name, delivery.text, self._push)

    async def bury(self, delivery: Delivery) -> None:
        await self._run("EVAL", _MOVE, 3, self._taken, self._held, self._dead, delivery.text, "RPUSH")

    async def reap(self) -> int:
        keys = (self._name, self._taken, self._held)
        return _shaped(await self._run("EVAL", _REAP, 3, *keys, REAPED_AT_ONCE, self._milliseconds, self._push), int)

    async def waiting(self) -> int:
        return _shaped(await self._run("LLEN", self._name), int)


class StreamSource:
    """XADD fills it: one field `job` with the JSON, or the job's own fields. Read by one consumer group."""

    def __init__(self, commands: Commands, name: str, dead: str, visibility: float, consumer: str) -> None:
        self._run, self._name, self._dead, self._me = commands.run, name, dead, consumer
        self._milliseconds = int(visibility * 1000)
        self._late: list[Delivery] = []

    async def open(self) -> None:
        try:
            await self._run("XGROUP", "CREATE", self._name, GROUP, "0", "MKSTREAM")
        except QueueAwayError as exc:
            if "BUSYGROUP" not in str(exc):
                raise

    async def take(self, most: int) -> list[Delivery]:
        if self._late:
            found, self._late = self._late[:most], self._late[most:]
            return found
        reply = await self._run("XREADGROUP", "GROUP", GROUP, self._me, "COUNT", most, "STREAMS", self._name, ">")
        return [_delivery(entry) for _, entries in _pairs(reply) for entry in entries if entry]

    async def hold(self, delivery: Delivery) -> None:
        await self._run("XCLAIM", self._name, GROUP, self._me, 0, delivery.entry, "JUSTID")

    async def done(self, delivery: Delivery) -> None:
        await self._run("EVAL", _ACKNOWLEDGE, 1, self._name, GROUP, delivery.entry)

    async def again(self, delivery: Delivery) -> None:
        await self._run("EVAL", _AGAIN, 1, self._name, GROUP, delivery.entry, delivery.text)

    async def bury(self, delivery: Delivery) -> None:
        await self._run("EVAL", _BURY, 2, self._name, self._dead, GROUP, delivery.entry, delivery.text)

    async def reap(self) -> int:
        """Those are this consumer's now, and come with its next take."""
        claim = ("XAUTOCLAIM", self._name, GROUP, self._me, self._milliseconds, "0", "COUNT", REAPED_AT_ONCE)
        reply = await self._run(*claim)
        entries = [entry for entry in _shaped(reply, _Claimed)[1] if entry and entry[1]]  # one deleted since is empty
        self._late += [_delivery(entry) for entry in entries]
        return len(entries)

    async def waiting(self) -> int:
        """Those that nobody holds: of the entries there are, the ones that were not given to a consumer."""
        script = "return redis.call('XLEN', KEYS[1]) - redis.call('XPENDING', KEYS[1], ARGV[1])[1]"
        return _shaped(await self._run("EVAL", script, 1, self._name, GROUP), int)


def _shaped(reply: Any, kind: type[T]) -> T:
    """A reply of the shape that its command has. Raises QueueAwayError for any other: that is no Redis."""
    try:
        return msgspec.convert(reply, kind)
    except (ValueError, RecursionError) as exc:
        raise QueueAwayError(f"not understood: {exc}"[:300]) from exc


def _pairs(reply: Any) -> list[tuple[str, list[_Entry]]]:
    """XREADGROUP's reply as pairs of stream and entries: a list by protocol 2, a map by some clients, or nothing."""
    pairs = list(reply.items()) if isinstance(reply, dict) else reply or []
    return _shaped(pairs, list[tuple[str, list[_Entry]]])


def _delivery(entry: tuple[str, list[str] | dict[str, str] | None]) -> Delivery:
    number, flat = entry
    fields = dict(zip(flat[::2], flat[1::2], strict=False)) if isinstance(flat, list) else dict(flat or {})
    text = fields.get("job") or json.dumps(fields)  # which writes what is no text, too: it is buried then
    return Delivery(text, number)
