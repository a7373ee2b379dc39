"""A stream of chat or completions: the engine is asked for its usage with every event, so that one which is cut short
is counted exactly, and what the caller did not ask for is taken out again. Nothing else of a stream changes.

vLLM writes its fingerprint into the event that ends an answer or, where usage was asked for, into the usage's own
event. So where that one is taken out, the former waits for it and gets the fingerprint back.
"""

import re
from typing import Any, NamedTuple

import msgspec

from core.json.text import NOT_JSON
from core.usage import Usage, stated
from orchestrator.gateway.body import Peek, split_at_field, with_member, with_value

LONGEST_LINE = 8 << 20  # bytes of an event; a stream with a longer one passes unread from there on
MOST_HELD = 1 << 20  # bytes that wait for the fingerprint
_ASK = {"include_usage": True, "continuous_usage_stats": True}
_YES = frozenset((1, "1", "true", "t", "yes", "y", "on"))  # True is 1
_NO = frozenset((None, 0, "0", "false", "f", "no", "n", "off"))
_USAGE, _DATA, _ENDS, _NO_CHOICE = b'"usage":', b"data:", b'"finish_reason":"', b'"choices":[]'
_FINGERPRINT = b',"system_fingerprint":'
_EACH = re.compile(  # as vLLM writes it, after the choices; longer numbers are read with what else is odd
    rb'\],"usage":\{"prompt_tokens":(\d{1,9}+),"total_tokens":\d++,"completion_tokens":(\d{1,9}+)'
    rb'(?:,"(?:prompt|completion)_tokens_details":(?:null|\{[^{}]*+\}))*+\}'
)
_AFTER_CHOICES = b'],"usage":{'
_LINES = re.compile(rb"[^\n]*\n").findall


class UsageRequest(NamedTuple):
    """What a caller asked for itself, and how many answers to each of how many prompts."""

    final: bool
    each: bool
    answers: int = 1
    prompts: int = 1

    @property
    def everything(self) -> bool:
        return self.final and self.each


class _Choice(msgspec.Struct):
    index: Any = 0
    finish_reason: Any = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    system_fingerprint: msgspec.Raw = msgspec.Raw()


_event = msgspec.json.Decoder(_Event).decode
_any = msgspec.json.Decoder().decode


def usage_request(stream: Any, options: Any, answers: int = 1, prompts: int = 1) -> UsageRequest | None:
    """What the caller of a stream asked for. None: it is no stream, or one that an engine refuses."""
    if not _yes(stream) or not (options is None or isinstance(options, dict)):
        return None
    options = options or {}
    final, each = _yes(options.get("include_usage")), _yes(options.get("continuous_usage_stats"))
    if final is None or each is None:
        return None
    return UsageRequest(final, final and each, answers, prompts)


def requested_usage(found: Peek, answers: int = 1, prompts: int = 1) -> UsageRequest | None:
    return usage_request(_value(found.stream), _value(found.stream_options), answers, prompts)


def with_usage_request(body: bytes, found: Peek) -> bytes:
    """The same body, asking for all usage; nothing else of it is touched."""
    asked = msgspec.json.encode(with_usage(_value(found.stream_options)))
    if not bytes(found.stream_options):
        return with_member(body, "stream_options", asked)
    return with_value(body, "stream_options", asked)


def with_usage(options: Any) -> dict[str, Any]:
    return {**(options or {}), **_ASK}


def _value(raw: msgspec.Raw) -> Any:
    return _any(raw) if bytes(raw) else None


def _yes(value: Any) -> bool | None:
    """As engines read it, also a text; None where they refuse it."""
    if not isinstance(value, bool | int | float | str | None):
        return None
    value = value.lower() if isinstance(value, str) else value
    return True if value in _YES else False if value in _NO else None


class UsageStream:
    """Reads the usage of a stream and, where `cuts`, takes out what was not `wanted`. `fingerprint`: the engine's, as
    its last stream had it; several answers at once do not wait for one another where it is known."""

    def __init__(self, wanted: UsageRequest, *, cuts: bool, fingerprint: bytes | None = None) -> None:
        self.fingerprint = fingerprint
        self.events = 0
        """Those that state no usage."""
        self._wanted = wanted
        self._cuts_each, self._cuts_final = cuts and not wanted.each, cuts and not wanted.final
        self._single = wanted.answers * wanted.prompts == 1
        self._line = b""  # one that is not whole yet
        self._held: list[tuple[bytes, bytes | None]] = []  # lines that wait; a fingerprint goes between two parts
        self._held_bytes = 0
        self._skips_blank = False
        self._unread = False
        self._last = b""  # the last piece of events as vLLM writes them: read when it is asked for
        self._counts: dict[int, tuple[int, int]] = {}  # of each answer so far: its prompt's tokens and its own
        self._final: Usage | None = None

    def feed(self, chunk: bytes) -> bytes:
        """A piece as it passes on: whole lines, what is left of them."""
        if self._unread:
            return chunk
        data = self._line + chunk if self._line else chunk
        end = len(data) if data.endswith(b"\n") else data.rfind(b"\n") + 1
        self._line = data[end:]
        passed = self._passed(data[:end]) if end else b""
        if len(self._line) > LONGEST_LINE:
            passed += self.rest()
            self._unread = True
        return passed if self._cuts_each else chunk

    def rest(self) -> bytes:
        """What is held back where nothing more comes."""
        line, self._line = self._line, b""
        return self._let_go() + (line if self._cuts_each else b"")

    def found(self) -> Usage | None:
        """What the engine stated; of a stream that was cut short, until then."""
        if self._final is not None:
            return self._final
        if self._last:
            *_, last = _EACH.finditer(self._last)
            self._counts[0] = int(last[1]), int(last[2])
        if not self._counts:
            return None
        prompts = {index // self._wanted.answers: prompt for index, (prompt, _) in self._counts.items()}
        whole = len(self._counts) == self._wanted.answers * self._wanted.prompts
        answers = sum(answer for _, answer in self._counts.values())
        return Usage(sum(prompts.values()), answers, "engine" if whole else "estimate")

    def _passed(self, lines: bytes) -> bytes:
        """Most events are as vLLM writes them while it answers: those are read all at once, the last few one by one."""
        plain = not self._held and not self._skips_blank
        if plain and _USAGE not in lines:
            self.events += lines.count(_DATA) - lines.count(b"data: [DONE]")
            return lines
        if not self._single or not plain:
            return b"".join([self._one(line) for line in _LINES(lines)])
        end = _line_of(_ENDS, lines, _line_of(_NO_CHOICE, lines, len(lines)))
        first, rest = (lines, b"") if end == len(lines) else (lines[:end], lines[end:])
        passed = self._all(first) if first else b""
        if passed is None:
            passed, rest = b"", lines
        return passed + b"".join([self._one(line) for line in _LINES(rest)]) if rest else passed

    def _all(self, lines: bytes) -> bytes | None:
        """Events that are all as vLLM writes them, without their usage; None where one is not."""
        at = lines.find(_AFTER_CHOICES)
        found = _EACH.match(lines, at) if at >= 0 else None
        if found is None:
            return None
        passed, stating = lines[: at + 1] + lines[found.end() :], 1
        if _USAGE in passed:
            passed, stating = _EACH.subn(b"]", lines)
            if stating != lines.count(_USAGE):
                return None
        self.events += lines.count(_DATA) - stating
        self._last = lines
        return passed

    def _one(self, line: bytes) -> bytes:
        if self._skips_blank:
            self._skips_blank = False
            if not line.strip():
                return b""
        if not line.startswith(_DATA):
            return self._held_with(line) if self._held else line
        event = self._read(line) if _USAGE in line else None
        usage = stated(bytes(event.usage)) if event is not None else None
        if event is None or usage is None:
            self.events += b"[DONE]" not in line[:14]
            return self._let_go() + line
        return self._answering(line, event, usage) if event.choices else self._final_event(line, event, usage)

    def _read(self, line: bytes) -> _Event | None:
        try:
            return _event(line[len(_DATA) :])
        except (*NOT_JSON, RecursionError):
            return None

    def _final_event(self, line: bytes, event: _Event, usage: Usage) -> bytes:
        """The usage's own event."""
        self._final = usage
        self.fingerprint = bytes(event.system_fingerprint).removesuffix(b"null")
        passed = self._let_go(self.fingerprint)
        if not self._cuts_final:
            return passed + line
        self._skips_blank = True
        return passed

    def _answering(self, line: bytes, event: _Event, usage: Usage) -> bytes:
        """An event of an answer, with its usage so far."""
        assert event.choices
        first = event.choices[0]
        self._counts[first.index if isinstance(first.index, int) else 0] = usage.input, usage.output
        self._last = b""
        if not self._cuts_each:
            return line
        before, after = _cut(line)
        ends = self._cuts_final and first.finish_reason is not None and not bytes(event.system_fingerprint)
        if not ends:
            return self._held_with(before + after) if self._held else before + after
        if self._single or self.fingerprint is None or self._held:
            return self._held_with(before, after)
        return before + (_FINGERPRINT + self.fingerprint if self.fingerprint else b"") + after

    def _held_with(self, line: bytes, after: bytes | None = None) -> bytes:
        self._held.append((line, after))
        self._held_bytes += len(line)
        return self._let_go() if self._held_bytes > MOST_HELD else b""

    def _let_go(self, fingerprint: bytes = b"") -> bytes:
        between = _FINGERPRINT + fingerprint if fingerprint else b""
        held, self._held, self._held_bytes = self._held, [], 0
        return b"".join([line if after is None else line + between + after for line, after in held])


def _cut(line: bytes) -> tuple[bytes, bytes]:
    """An event's line before its usage and after it."""
    if len(found := list(_EACH.finditer(line))) == 1:
        return line[: found[0].start() + 1], line[found[0].end() :]
    at = line.index(b"{")
    before, after = split_at_field(line[at:], "usage")
    return line[:at] + before, after


def _line_of(mark: bytes, lines: bytes, otherwise: int) -> int:
    """Where the first line begins that holds this, before `otherwise`."""
    at = lines.find(mark, 0, otherwise)
    return lines.rfind(b"\n", 0, at) + 1 if at >= 0 else otherwise
