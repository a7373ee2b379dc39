"""What an answer says it took: found wherever it stands, as the answer passes, in memory that does not grow with it.

An object named `usage` counts where it is a member of the answer itself (of the response, within an event of
/v1/responses). A text that talks of usage, or a tool's schema with a property of that name, is not one.
"""

import re
from typing import Any, Literal, NamedTuple

import msgspec

from core.json.text import NOT_JSON
from core.untrusted import MAX_COUNT

Source = Literal["engine", "estimate"]
BYTES_PER_TOKEN = 4
LARGEST = 1 << 16  # bytes; no engine's usage is longer

_KEY = b'"usage"'
_WITHIN = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_CLOSED = re.compile(rb'(?:[^"]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_OBJECT = rb'\{(?:[^{}"]++|"(?:[^"\\]++|\\.)*+"|\{(?:[^{}"]++|"(?:[^"\\]++|\\.)*+")*+\})*+\}'
_MEMBER = re.compile(rb'"usage"\s*+(?::\s*+(?:(?P<object>' + _OBJECT + rb")|(?P<begun>\{|\Z))|\Z)", re.DOTALL)


class Usage(NamedTuple):
    """Tokens of a prompt and of its answer; `estimate` where no engine said so."""

    input: int = 0
    output: int = 0
    source: Source = "engine"

    @property
    def total(self) -> int:
        return self.input + self.output


class _Stated(msgspec.Struct):
    """In the words of chat and completions, or of responses and pictures. Anything may stand there."""

    prompt_tokens: Any = None
    completion_tokens: Any = None
    input_tokens: Any = None
    output_tokens: Any = None
    total_tokens: Any = None


class _Answer(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw()


_stated = msgspec.json.Decoder(_Stated).decode
_answer = msgspec.json.Decoder(_Answer).decode


def stated(value: bytes) -> Usage | None:
    """What a usage object says; None where it says nothing that counts. What a total holds beyond the prompt is the
    answer's: some engines leave their thoughts out of the latter."""
    try:
        said = _stated(value)
    except (*NOT_JSON, RecursionError):
        return None
    first, total = _count(said.prompt_tokens, said.input_tokens), _count(said.total_tokens)
    second = _count(said.completion_tokens, said.output_tokens)
    if first is None and second is None:
        return None if total is None else Usage(total)
    return Usage(first or 0, max(second or 0, (total or 0) - (first or 0)))


def read_whole(answer: bytes) -> Usage | None:
    """What a whole answer states."""
    reader = UsageReader()
    reader.feed(answer)
    return reader.found


def estimated(sent: bytes, answer: bytes = b"") -> Usage:
    """Where an engine does not say: a token for every four bytes."""
    return Usage(len(sent) // BYTES_PER_TOKEN, len(answer) // BYTES_PER_TOKEN, "estimate")


def _count(*values: object) -> int | None:
    for value in values:
        if type(value) is int and 0 <= value <= MAX_COUNT:
            return value
    return None


class UsageReader:
    """Reads JSON, or the events of a stream, piece by piece. `depth`: of the object whose member `usage` counts."""

    __slots__ = ("_begun", "_carried", "_depth", "_escaped", "_level", "_open", "found")

    def __init__(self, depth: int = 1) -> None:
        self.found: Usage | None = None
        """The last that was stated."""
        self._begun = False
        self._level = depth
        self._depth = 0
        self._open = False  # within a string
        self._escaped = False  # after a backslash in it
        self._carried = b""  # the beginning of what may become a usage member

    def feed(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            if data.endswith(b"}") and self._is_whole(data):
                return
        if self._carried:
            data, self._carried = self._carried + data, b""
        elif not self._open and not self._depth and _KEY not in data and data.endswith(b"\n\n"):
            return  # whole events without it
        at = 0
        while (key := data.find(_KEY, at)) >= 0:
            self._pass(data[at:key])
            at = key
            if not self._open and self._depth == self._level and (member := _MEMBER.match(data, key)):
                if member["object"] is not None:
                    self.found = stated(member["object"]) or self.found
                    at = member.end()
                    continue
                if len(data) - key < LARGEST:  # the rest of it comes with the next piece
                    self._carried = data[key:]
                    return
            self._pass(_KEY)
            at = key + len(_KEY)
        end = _beginning(data, at)
        self._carried = data[end:]
        self._pass(data[at:end])

    def _is_whole(self, data: bytes) -> bool:
        """Most answers come in one piece, which a decoder reads ten times as fast."""
        try:
            self.found = stated(bytes(_answer(data).usage))
        except (*NOT_JSON, RecursionError):
            return False
        return True

    def _pass(self, data: bytes) -> None:
        """Follow the strings and the brackets of a piece."""
        at = 0
        if self._open:
            at = self._string(data, 1 if self._escaped and data else 0)
            if self._open:
                return
        closed = _CLOSED.match(data, at)
        assert closed is not None
        end = closed.end()
        bare = _STRING.sub(b"", data[at:end])
        self._depth += bare.count(b"{") + bare.count(b"[") - bare.count(b"}") - bare.count(b"]")
        if end < len(data):
            self._open = True
            self._string(data, end + 1)

    def _string(self, data: bytes, at: int) -> int:
        """Where the string that is open ends, if it does here."""
        if at <= len(data) and data:
            self._escaped = False
        within = _WITHIN.match(data, at)
        assert within is not None
        end = within.end()
        if end == len(data):
            return end
        if data[end] == ord('"'):
            self._open = False
            return end + 1
        self._escaped = True  # a backslash at the very end
        return end


def _beginning(data: bytes, at: int) -> int:
    """Where the end of a piece may be the beginning of the key; its length where it is none."""
    quote = data.rfind(b'"', max(at, len(data) - len(_KEY) + 1))
    return quote if quote >= 0 and _KEY.startswith(data[quote:]) else len(data)
