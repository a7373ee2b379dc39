"""Strings that chat models read as structure. In somebody's text they would end a turn and begin another.

A chat worker announces those of each model it serves; what is said to that model is scanned for them. For a worker that
announces none, a pattern of the forms that are common among chat models stands in. Both are found in time linear in the
text: by Aho-Corasick and by RE2, which cannot backtrack.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import re2
from ahocorasick_rs import AhoCorasick, MatchKind

MAX_TOKENS = 2048  # of one model; those of today have at most some hundreds
MAX_LENGTH = 100  # characters of one

_FORMS = (
    r"<\|[\w\-. \x{80}-\x{10FFFF}]{1,64}\|>|<｜[^｜\n]{1,64}｜>"
    r"|\[/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT)\]"
    r"|<<?/?SYS>>?|</?s>|<(?:start|end)_of_(?:turn|image)>|<(?:bos|eos|pad|unk)>"
)
_COMMON = re2.compile(_FORMS)
_AT_ONCE = 65_536  # characters looked through for the first token
_MOST_OPENINGS = 4  # first characters worth looking for before the pattern is tried


class Tokens:
    """The control tokens of one model, or of several that answer to one name; `common`: the common forms as well."""

    def __init__(self, tokens: Iterable[str], *, common: bool = False) -> None:
        self.common = common
        # One that is a single character, or ends in a space, could not be set apart; it is no turn's mark either.
        usable = {token for token in tokens if len(token) > 1 and token == token.strip()}
        found = sorted(usable, key=lambda token: (-len(token), token))
        self.announced = frozenset(found)
        self._announced = AhoCorasick(found, matchkind=MatchKind.LeftmostLongest) if found else None
        openings = "".join(sorted({token[0] for token in found} | set("<[" if common else "")))
        self._openings = openings if len(openings) <= _MOST_OPENINGS else None

    def recorded(self, seen: set[str]) -> list[str] | None:
        """What a run's record keeps of the tokens that were set apart: words of a vocabulary, never of a caller. None
        stands for the common forms, and so does `*` beside tokens."""
        if not self.announced and self.common:
            return None
        return [*(["*"] if self.common else []), *sorted(seen & self.announced)]

    def find_in_text(self, text: str) -> str | None:
        """The first control token of a text."""
        if self._openings is not None:
            for opening in self._openings:
                if opening in text:
                    break
            else:
                return None
        text = encodable(text)
        for start in range(0, len(text), _AT_ONCE) if self._announced else ():
            for first, end in self._spans(text[start : start + _AT_ONCE + MAX_LENGTH]):
                return text[start + first : start + end]
        found = _COMMON.search(text) if self.common else None
        return found.group() if found else None

    def find_all(self, text: str) -> list[str]:
        text = encodable(text)
        common = _COMMON.finditer(text) if self.common else ()
        found = [text[start:end] for start, end in self._spans(text)] + [match.group() for match in common]
        return list(dict.fromkeys(found))

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where announced tokens stand, the longest at each place."""
        found = self._announced.find_matches_as_indexes(text) if self._announced else ()
        return ((start, end) for _, start, end in found)

    def _set_apart(self, text: str) -> str:
        """The text with every token set apart: those that were announced, then the common ones."""
        text = _replaced(encodable(text), self._spans)
        return _replaced(text, lambda whole: (m.span() for m in _COMMON.finditer(whole))) if self.common else text

    def find(self, value: Any) -> str | None:
        """The first control token inside any string of a JSON value, or made by the parts of a message together."""
        texts: list[str] = []
        _gather(value, texts)
        if self._openings is not None and not any(map("\n".join(texts).__contains__, self._openings)):
            return None
        return next(filter(None, map(self.find_in_text, texts)), None)

    def neutralised(self, value: Any, seen: set[str] | None = None) -> Any:
        """The same JSON value, each control token set apart by a space, so that no tokenizer takes it for one.

        What was found is added to `seen`: Tokens of that set do the same to the same value.
        """
        if isinstance(value, str):
            while self.find_in_text(value):
                if seen is not None:
                    seen.update(self.find_all(value))
                value = self._set_apart(value)
            return value
        if isinstance(value, Mapping):
            return {self.neutralised(key, seen): self.neutralised(inner, seen) for key, inner in value.items()}
        if not isinstance(value, list | tuple):
            return value
        made = [self.neutralised(inner, seen) for inner in value]
        if (joined := _parts(made)) and self.find_in_text(joined):
            if seen is not None:
                seen.update(self.find_all(joined))
            made = [{**part, "text": f" {part['text']} "} if _is_text(part) else part for part in made]
        return made


def _replaced(text: str, spans: Callable[[str], Iterable[tuple[int, int]]]) -> str:
    pieces, end = [], 0
    for start, stop in spans(text):
        pieces += [text[end:start], _apart(text[start:stop])]
        end = stop
    return "".join((*pieces, text[end:]))


def encodable(text: str) -> str:
    """The text without lone surrogates, which no engine takes; as long as it was."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _apart(token: str) -> str:
    """A token that begins with a bracket keeps its bracket; another one its first character."""
    opening = len(token) - len(token.lstrip("<[")) or 1
    return "".join(f"{character} " for character in token[:opening]) + token[opening:]


def _gather(value: Any, texts: list[str]) -> None:
    """Every string of a JSON value, names too, and what the parts of a message make together."""
    if isinstance(value, str):
        texts.append(value)
    elif isinstance(value, dict | Mapping):
        texts.extend(value)
        for inner in value.values():
            _gather(inner, texts)
    elif isinstance(value, list | tuple):
        for inner in value:
            _gather(inner, texts)
        if joined := _parts(value):
            texts.append(joined)


def _parts(value: Sequence[Any]) -> str | None:
    """The text of a message's parts, which some templates put together without a space; None where there are none."""
    texts = [part["text"] for part in value if _is_text(part)]
    return "".join(texts) if len(texts) > 1 else None


def _is_text(part: Any) -> bool:
    return isinstance(part, dict | Mapping) and isinstance(part.get("text"), str)


COMMON = Tokens((), common=True)


def of_record(kept: Sequence[str] | None) -> Tokens:
    """Those that do to a run's texts what was done to them then."""
    return COMMON if kept is None else Tokens(set(kept) - {"*"}, common="*" in kept)


def of_several(sets: Sequence[Sequence[str] | None]) -> Tokens:
    """Those of models that answer to one name; the common forms too where one of them announced none."""
    if not sets or all(tokens is None for tokens in sets):
        return COMMON
    return Tokens({token for tokens in sets for token in tokens or ()}, common=None in sets)
