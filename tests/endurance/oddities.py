"""What a hostile caller puts into a body, a path, a query or a header; and what it does to the bytes of a body."""

import json
import random
from typing import Any

TEXTS = (
    *("", "\0", "a\0b", "\ud800", "\udfff\ud800", "\u202ea", "\U000e0041", "a" * 70_000, "age " * 3000),
    "{{ a|truncate(1) }}",
    *("%s%n", "../../x", "http://127.0.0.1:9/", "data:image/png;base64,!", "1e400", "{% for a in b %}", "\r\nx: y"),
)  # fmt: skip
TOKENS = (
    *("1e400", "-1e400", "1e-400", "9007199254740993", "9223372036854775808", "1180591620717411303424", "-1"),
    *("-1180591620717411303424", "1.5", "-0.0", "0", "null", "true", "[]", "{}", '"4"', '""', "NaN", "Infinity"),
    *("9" * 5000, "[" * 60 + "]" * 60, '{"a":' * 60 + "1" + "}" * 60, '{"\\u0000":"\\u0000"}', '["\\ud800",1e400]'),
)
"""JSON as it is written: much of it no encoder would write."""
SEGMENTS = (
    *(b"%00", b"a%00b", b"%ff", b"%ed%a0%80", b"..", b"%2e%2e", b"a%2Fb", b"a%2Fevents", b"a%5Cb", b"%zz", b"%"),
    b"%0d%0a",
    *(b"9" * 400, b"-1", b"1e400", b"1.5", b"a" * 4000, b"%E2%80%AE", b"x", b"9223372036854775808", b"%7B%7B1%7D%7D"),
)  # fmt: skip
HEADERS = (
    *((b"x-priority", value) for value in (b"9", b"-1", b"1e400", b"9" * 5000, b"\xff")),
    *((b"x-request-timeout", value) for value in (b"nan", b"inf", b"1e400", b"-1", b"0", b"9" * 5000, b"a")),
    *((b"x-content-tier", value) for value in (b"2", b"-1", b"9" * 5000, b"\xff", b"")),
    *((b"idempotency-key", value) for value in (b"", b"a" * 5000, b"\xff\xfe", b"a b", b"\xc3\xa9")),
    *((b"x-session-id", value) for value in (b"", b"a" * 5000, b"\xff")),
    *((b"last-event-id", value) for value in (b"-1", b"9" * 5000, b"1e400", b"a")),
    *((b"traceparent", value) for value in (b"00-0-0-00", b"a" * 5000, b"\xff")),
    *((b"accept", value) for value in (b"text/event-stream", b"", b"\xff", b"a;q=1e400")),
    *((b"x-soundstage-deadline-ms", value) for value in (b"-1", b"9" * 5000)),
    *((b"x-soundstage-wait", b"9" * 5000), (b"x-soundstage-priority", b"\xff"), (b"x-soundstage-tenant", b"a" * 5000)),
    *((b"x-forwarded-for", b"\xff"), (b"x-request-id", b"\xff"), (b"range", b"bytes=9-1")),
    (b"content-encoding", b"gzip"),
    *((b"prefer", b"respond-async"), (b"x-prove", b"tokens"), (b"x-prove", b"\xff"), (b"cookie", b"\xff")),
)  # fmt: skip
KINDS = (
    *(b"application/json", b"application/json; charset=hex", b"application/json; charset=utf-16", b"text/plain", b""),
    *(b"multipart/form-data", b"multipart/form-data; boundary=b", b"\xff", b"a/b;;;"),
    b"application/x-www-form-urlencoded",
)  # fmt: skip
NO_UTF8 = (b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80", b"\x00")
_MARK = "\ue000%d\ue000"


def with_oddity(value: Any, chance: random.Random) -> bytes:
    """The JSON of a value in which one thing is odd."""
    where = list(_places(value))
    if not where:
        return chance.choice(TOKENS).encode()
    holder, key = chance.choice(where)
    what = chance.randrange(4)
    if what == 0 and isinstance(holder, dict):
        holder[chance.choice(TEXTS)] = holder[key]
        return json.dumps(value).encode()
    if what == 1:
        holder[key] = chance.choice(TEXTS)
        return json.dumps(value).encode()
    holder[key] = _MARK % 0
    return json.dumps(value).replace(json.dumps(_MARK % 0), chance.choice(TOKENS)).encode()


def with_broken_bytes(body: bytes, chance: random.Random) -> bytes:
    """The same bytes with something in them that is no UTF-8, no JSON, or not all of it."""
    at = chance.randrange(len(body) + 1)
    quotes = [each for each in range(len(body)) if body[each] == 0x22]
    inside = chance.choice(quotes) + 1 if quotes else at
    return chance.choice(
        (
            body[:inside] + chance.choice(NO_UTF8) + body[inside:],
            body[:at] + chance.choice(NO_UTF8) + body[at:],
            body[:at],
            b"\xef\xbb\xbf" + body,
            body.decode("utf-8", "replace").encode("utf-16"),
            body[:-1] + b',"model":"a\\u0000","model":1e400}',
            b"[" * 100_000,
            body + body,
        )
    )


def form(chance: random.Random, fields: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    """A multipart body with odd parts, and its content type."""
    parts = []
    for _ in range(chance.randrange(4)):
        name = chance.choice((*fields, b"a\0b", b"\xff", b"", b"a" * 5000))
        file = chance.choice((b"", b'; filename="a.png"', b'; filename="\xff\0"'))
        content = chance.choice(
            (b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"1e400", b"9" * 5000, b"\0")
        )
        parts.append(b'--b\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (name, file, content))
    return b"".join(parts) + chance.choice((b"--b--\r\n", b"", b"--b")), b"multipart/form-data; boundary=b"


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key or index) of a JSON value."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        inner = holder.items() if isinstance(holder, dict) else enumerate(holder) if isinstance(holder, list) else ()
        for key, each in inner:
            found.append((holder, key))
            waiting.append(each)
    return found
