"""How much a JSON body holds is known before it is parsed, in time linear in its bytes, and others get their turns."""

import asyncio
import json
from typing import Any

import pytest

from core.errors import InvalidRequest
from core.json import size as json_size
from core.json.size import HEAVY_VALUES, MAX_VALUES, SLICE, SMALL_SLICE, aside, is_heavy

MARKS = '",[{\\'
TOO_MANY: dict[str, bytes] = {
    "lists": b"[" + b"[]," * MAX_VALUES + b"[]]",
    "numbers": b"[" + b"1," * (MAX_VALUES + 1) + b"1]",
    "objects": b"[" + b'{"a":1},' * MAX_VALUES + b"1]",
    "lists in lists": b"[" + (b"[" * 90 + b"]" * 90 + b",") * (MAX_VALUES // 90 + 1) + b"1]",
    "fields": b"{" + b",".join(b'"k%d":1' % at for at in range(MAX_VALUES + 2)) + b"}",
    "after a long string": b'["' + b'\\"' * SMALL_SLICE + b'",' + b"1," * (MAX_VALUES + 1) + b"1]",
    "that nest without end": b"[" * (MAX_VALUES + 2),
}
AS_MANY_AS_MAY_BE: dict[str, Any] = {
    "a text of marks": [MARKS * MAX_VALUES],
    "texts that end slices with an escape": ["\\" * at + MARKS * (MAX_VALUES // 4) for at in range(4)],
    "backslashes": ["\\" * 4 * SLICE, "," * 2 * MAX_VALUES],
    "quotes": ['"' * 2 * SLICE, "," * 2 * MAX_VALUES],
    "token ids": {"prompt": list(range(MAX_VALUES - 10))},
}


@pytest.mark.parametrize("body", TOO_MANY.values(), ids=TOO_MANY.keys())
async def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await is_heavy(body)
    assert (caught.value.status, caught.value.code) == (400, "too_many_values")


@pytest.mark.parametrize("broken", [b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"])
@pytest.mark.parametrize("size", [0, HEAVY_VALUES, SLICE - 8, SLICE, 2 * SLICE])
async def test_what_is_no_utf8_is_refused_wherever_it_stands(broken: bytes, size: int) -> None:
    for body in (b'{"x":"%s%s"}' % (b"a" * size, broken), b'{"%s%s":1}' % (b"a" * size, broken)):
        with pytest.raises(InvalidRequest) as caught:
            await is_heavy(body)
        assert (caught.value.status, caught.value.code) == (400, "json_invalid")
    await is_heavy(b'{"x":"%s%s"}' % (b"a" * size, "€".encode() * 3))


@pytest.mark.parametrize("value", AS_MANY_AS_MAY_BE.values(), ids=AS_MANY_AS_MAY_BE.keys())
async def test_what_stands_in_texts_does_not_count(value: Any) -> None:
    assert await is_heavy(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("value", "heavy"),
    [("x" * 1000, False), ([1] * (HEAVY_VALUES // 2), False), ([1] * (HEAVY_VALUES + 1), True), ("x" * SLICE, True)],
    ids=["short", "few values", "many values", "a long text"],
)
async def test_what_takes_long_to_read_is_heavy(value: Any, *, heavy: bool) -> None:
    assert await is_heavy(json.dumps(value).encode()) is heavy


async def test_the_count_takes_turns_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """One turn at least for each slice, so no turn looks at more than one."""
    turns, slices = 0, []

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def counted(kept: bytes, piece: bytes) -> bytes:
        slices.append(len(piece))
        return escape(kept, piece)

    escape = json_size._ESCAPE
    monkeypatch.setattr(json_size, "_ESCAPE", counted)
    task = asyncio.create_task(others())
    body = json.dumps("," * (8 * SLICE)).encode()
    await is_heavy(body)
    task.cancel()
    assert turns >= len(body) // SLICE + len(slices)
    assert max(slices) <= SMALL_SLICE + 1
    assert sum(slices) == len(body)


async def test_what_is_heavy_is_read_on_a_thread() -> None:
    import threading

    here = threading.get_ident()
    assert await aside(False, threading.get_ident) == here
    assert await aside(True, threading.get_ident) != here
