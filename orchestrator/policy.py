"""Whether a request may be made, and with what constraints. Pure: no I/O, no clock; hundreds of cases run in a second.

decide() puts three things together: the tier in force (a minimum, never more), the floor in code, and the lists of the
policy versions in force, which are data and can only add to the floor.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, Literal

import msgspec

from core.errors import InvalidRequest
from orchestrator import policy_floor as floor
from orchestrator import policy_text
from orchestrator.policy_floor import Scan, Subject, Surface
from orchestrator.policy_lexicon import (
    ADULT,
    ATTIRE,
    CLINICAL,
    FICTION,
    INFORMATION,
    MINOR,
    NUDITY,
    REAL,
    SUGGESTIVE,
    UNDRESS,
)

Action = Literal["allow", "soft", "refuse"]
GENERAL, SUGGESTIVE_TIER, ADULT_TIER = 0, 1, 2
MAX_TERMS = 20_000
CHECK_FAILED = "check_failed"
RISKY = ~(ADULT | INFORMATION | FICTION)  # flags that by themselves mean nothing


@dataclass(frozen=True)
class Rule:
    """One list of a policy: words and phrases in plain form, and the tiers it holds in."""

    category: str
    words: frozenset[str]
    phrases: re.Pattern[str] | None
    tiers: frozenset[int]

    def matches(self, scan: Scan) -> bool:
        return not self.words.isdisjoint(scan.words) or bool(self.phrases and self.phrases.search(scan.plain))


@dataclass(frozen=True)
class Rules:
    """The policy versions in force, compiled. `name` says which: it is shown in a header and kept in every run."""

    name: str = "none"
    hard: tuple[Rule, ...] = ()
    soft: tuple[Rule, ...] = ()
    constraints: str = ""

    def __add__(self, other: "Rules") -> "Rules":
        """Both: a tenant's policy adds to the global one."""
        texts = [text for text in (self.constraints, other.constraints) if text]
        name = "+".join(name for name in (self.name, other.name) if name != "none") or "none"
        return Rules(name, self.hard + other.hard, self.soft + other.soft, " ".join(texts))


class Decision(msgspec.Struct, frozen=True):
    """What was decided. `constraints` is the text to append to an image prompt, only where the action is `soft`."""

    action: Action
    tier: int
    category: str | None
    policy: str
    constraints: str = ""

    @property
    def header(self) -> str:
        """As X-Policy shows it."""
        why = f"; category={self.category}" if self.category else ""
        return f"{self.policy}; tier={self.tier}; decision={self.action}{why}"


def tier_in_force(*limits: int | None) -> int:
    """The minimum of what pipeline, recipe, tenant, key, subject and request allow; None sets no limit."""
    return min((limit for limit in limits if limit is not None), default=GENERAL)


def compile_rules(name: str, document: Mapping[str, Any]) -> Rules:
    """A policy's document {hard: [{category, terms, tiers?}], soft: […], constraints}. Raises InvalidRequest."""
    unknown = sorted(set(document) - {"hard", "soft", "constraints"})
    constraints = document.get("constraints", "")
    if unknown or not isinstance(constraints, str) or len(constraints) > 2000:
        raise _bad("a policy has `hard`, `soft` and `constraints` (at most 2000 characters)")
    hard = _rules(document.get("hard", ()), (0, 1, 2))
    soft = _rules(document.get("soft", ()), (0, 1))
    if any(ADULT_TIER in rule.tiers for rule in soft):
        raise _bad("a soft rule holds in tiers 0 and 1: at tier 2 nothing is softened")
    return Rules(name, hard, soft, constraints)


def decide(
    texts: Sequence[str],
    *,
    tier: int,
    surface: Surface,
    rules: Rules,
    subject: Subject = Subject(),  # noqa: B008 - a frozen value
) -> Decision:
    """Allow, soften or refuse what these texts ask for together.

    `tier` is what key, tenant, recipe and request allow.
    """
    scans = [floor.scan(text) for text in texts if text]
    flags = reduce(or_, (scan.flags for scan in scans), subject.flags)
    asked = min(tier, subject.tier)
    if not flags & RISKY and not rules.hard and not rules.soft:
        return Decision("allow", asked, None, rules.name)
    # Judged at what was asked for: that age is unclear must refuse above tier 0, not lower the tier and pass.
    category = floor.violation(flags, asked if subject.age == "unknown" else tier, surface)
    in_force = GENERAL if flags & (MINOR | REAL) else asked
    category = category or floor.violation(flags, in_force, surface)
    category = category or _first(rules.hard, scans, in_force)
    if category:
        return Decision("refuse", in_force, category, rules.name)
    softened = _first(rules.soft, scans, in_force) or _soft_by_tier(flags, in_force, surface)
    if softened:
        return Decision("soft", in_force, softened, rules.name, rules.constraints if surface == "image" else "")
    return Decision("allow", in_force, None, rules.name)


def _soft_by_tier(flags: int, tier: int, surface: Surface) -> str | None:
    """Below tier 2 nothing is nude, and at tier 0 nothing suggestive: the constraints are asked for."""
    if tier >= ADULT_TIER:
        return None
    if flags & (NUDITY | UNDRESS) or (surface == "image" and flags & CLINICAL):
        return "nudity"
    if tier == GENERAL and flags & (SUGGESTIVE | ATTIRE):
        return "suggestive"
    return None


def _first(rules: Iterable[Rule], scans: Sequence[Scan], tier: int) -> str | None:
    return next((r.category for r in rules if tier in r.tiers and any(r.matches(scan) for scan in scans)), None)


def _rules(listed: Any, tiers: tuple[int, ...]) -> tuple[Rule, ...]:
    if not isinstance(listed, list | tuple):
        raise _bad("`hard` and `soft` are lists of {category, terms, tiers}")
    return tuple(_rule(entry, tiers) for entry in listed)


def _rule(entry: Any, tiers: tuple[int, ...]) -> Rule:
    if not isinstance(entry, dict) or set(entry) - {"category", "terms", "tiers"} or "category" not in entry:
        raise _bad("a rule is {category, terms, tiers}")
    terms, held = entry.get("terms", []), entry.get("tiers", tiers)
    strings = isinstance(terms, list) and all(isinstance(term, str) and term.strip() for term in terms)
    if not strings or len(terms) > MAX_TERMS or not isinstance(held, list | tuple) or set(held) - {0, 1, 2}:
        raise _bad(f"`terms` are at most {MAX_TERMS} strings, `tiers` are of 0, 1, 2")
    plain = sorted({policy_text.plain_form(term).strip() for term in terms})
    words = frozenset(term for term in plain if term.isascii() and term.isalpha())
    others = [re.escape(term) for term in plain if term not in words]
    phrases = re.compile(rf"(?<![a-z0-9])(?:{'|'.join(others)})(?![a-z0-9])") if others else None
    return Rule(str(entry["category"])[:100], words, phrases, frozenset(held))


def _bad(what: str) -> InvalidRequest:
    return InvalidRequest(f"The policy document is not valid: {what}.", param="document", code="invalid_policy")
