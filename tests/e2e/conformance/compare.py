"""What differs between two answers to one request, other than ids and times."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.e2e.conformance.battery import Case

IDS = frozenset(("id", "request_id", "created", "created_at", "completed_at", "item_id", "sequence_number"))
"""Never compared: ids, times, and how many events came before. A tool call's `id` is one of them."""
_HEADERS = frozenset(("content-type", "retry-after", "cache-control", "www-authenticate", "allow"))
"""Those that say something of the answer; the others are of the connection, or the gateway's own (docs/gateway.md)."""
_MADE_UP = re.compile(r"\b(chatcmpl|cmpl|resp|msg|call|chatcmpl-tool)[-_][\w-]{8,}")


@dataclass(frozen=True)
class Answer:
    """`body` without ids and times: JSON, the events of a stream folded together, or text."""

    status: int
    headers: dict[str, str]
    body: Any
    events: int = field(default=0, compare=False)


async def answered(session: aiohttp.ClientSession, base: str, key: str, case: Case) -> Answer:
    headers = {"authorization": f"Bearer {key}", "content-type": case.content_type}
    async with session.request(case.method, base + case.path, data=case.data, headers=headers) as answer:
        raw = await answer.read()
        kept = {name: value for name, value in answer.headers.items() if name.lower() in _HEADERS}
        return read(answer.status, {name.lower(): value for name, value in kept.items()}, raw)


def read(status: int, headers: dict[str, str], raw: bytes) -> Answer:
    if headers.get("content-type", "").startswith("text/event-stream"):
        events = list(_events(raw))
        return Answer(status, headers, folded(events), len(events))
    try:
        return Answer(status, headers, without_ids(json.loads(raw)))
    except ValueError:
        return Answer(status, headers, raw.decode(errors="replace"))


def _events(raw: bytes) -> Iterator[Any]:
    for block in raw.decode().split("\n\n"):
        lines = [line for line in block.split("\n") if line]
        if lines:
            data = "\n".join(line.removeprefix("data: ") for line in lines if line.startswith("data: "))
            names = [line for line in lines if not line.startswith("data: ")]
            yield [*names, without_ids(json.loads(data)) if data != "[DONE]" else data]


def folded(events: list[Any]) -> Any:
    """A stream as what it says. How a text is cut into events is the engine's timing, so the pieces of one text are
    joined; what is left of the events stays as it came, in the order of its first coming."""
    joined: dict[str, Any] = {}
    others: list[Any] = []
    for event in events:
        left = _cut(event, "", joined)
        if left not in others:
            others.append(left)
    return {"said": joined, "events": others}


_PIECES = frozenset(("content", "text", "arguments", "delta", "reasoning", "reasoning_content"))
_SERIES = frozenset(("token_ids", "logprobs"))


def _cut(value: Any, at: str, joined: dict[str, Any]) -> Any:
    """The value without its pieces of text and of series, which are added to `joined` under where they stood."""
    if isinstance(value, list):
        return [_cut(each, f"{at}[{_index(each, place)}]", joined) for place, each in enumerate(value)]
    if not isinstance(value, dict):
        return value
    found = {}
    for name, each in value.items():
        where = f"{at}.{name}"
        if name in _PIECES and isinstance(each, str):
            joined[where] = joined.get(where, "") + each
        elif name in _SERIES and each is not None:
            _extend(joined, where, each)
        elif name == "usage" and value.get("choices"):
            joined[where] = each  # so far: the last one counts
        else:
            found[name] = _cut(each, where, joined)
    return found


def _extend(joined: dict[str, Any], where: str, each: Any) -> None:
    if isinstance(each, dict):
        for name, part in each.items():
            _extend(joined, f"{where}.{name}", part)
    else:
        joined.setdefault(where, []).extend(each if isinstance(each, list) else [each])


def _index(each: Any, place: int) -> int:
    return int(each["index"]) if isinstance(each, dict) and isinstance(each.get("index"), int) else place


def without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_ids(each) for name, each in value.items() if name not in IDS}
    if isinstance(value, list):
        return [without_ids(each) for each in value]
    return _MADE_UP.sub(r"\1-…", value) if isinstance(value, str) else value


def differences(one: Answer, other: Answer) -> list[str]:
    """Each as `where: one != other`."""
    found = []
    if one.status != other.status:
        found.append(f"status: {one.status} != {other.status}")
    for name in sorted(set(one.headers) | set(other.headers)):
        if one.headers.get(name) != other.headers.get(name):
            found.append(f"header {name}: {one.headers.get(name)} != {other.headers.get(name)}")
    return found + list(_between("body", one.body, other.body))


def _between(at: str, one: Any, other: Any) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(set(one) | set(other)):
            yield from _between(f"{at}.{name}", one.get(name, "—"), other.get(name, "—"))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _between(f"{at}[{number}]", left, right)
    elif one != other:
        yield f"{at}: {_short(one)} != {_short(other)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else text[:300] + "…"
