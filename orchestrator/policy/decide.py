"""Whether a request may be made, and with what constraints. Pure: no I/O, no clock; hundreds of cases run in a second.

decide() puts three things together: the tier in force (a minimum, never more), the floor in code, and the lists of the
policy versions in force, which are data and can only add to the floor. deciding() is the same in turns, for a loop that
others wait for.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from orchestrator.policy import floor, normalise
from orchestrator.policy.floor import Subject, Surface
from orchestrator.policy.harmless import RISKY
from orchestrator.policy.lexicon import ATTIRE, CLINICAL, MINOR, NUDITY, REAL, SUGGESTIVE, UNDRESS
from orchestrator.policy.pieces import PIECE, pieces
from orchestrator.policy.rules import Rule, Terms, invalid, read_rules

Action = Literal["allow", "soft", "refuse"]
GENERAL, SUGGESTIVE_TIER, ADULT_TIER = 0, 1, 2
A_TEXT_COSTS = 500  # characters: what a text costs apart from its length
GLANCE = 3_000  # characters of all texts together: so few are first read at once, for most say nothing risky
CHECK_FAILED = "check_failed"
NOBODY = Subject()


@dataclass(frozen=True)
class Rules:
    """The policy versions in force, compiled. `name` says which: it is shown in a header and kept in every run."""

    name: str = "none"
    hard: tuple[Rule, ...] = ()
    soft: tuple[Rule, ...] = ()
    constraints: str = ""
    terms: tuple[Terms, ...] = ()

    def __add__(self, other: "Rules") -> "Rules":
        """Both: a tenant's policy adds to the global one."""
        texts = [text for text in (self.constraints, other.constraints) if text]
        name = "+".join(name for name in (self.name, other.name) if name != "none") or "none"
        return Rules(name, self.hard + other.hard, self.soft + other.soft, " ".join(texts), self.terms + other.terms)


class Decision(msgspec.Struct, frozen=True):
    """What was decided. `constraints` is the text to append to an image prompt, only where the action is `soft`."""

    action: Action
    tier: int
    category: str | None
    policy: str
    constraints: str = ""


def tier_in_force(*limits: int | None) -> int:
    """The minimum of what pipeline, recipe, tenant, key, subject and request allow; None sets no limit."""
    return min((limit for limit in limits if limit is not None), default=GENERAL)


def compile_rules(name: str, document: Mapping[str, Any]) -> Rules:
    """A policy's document {hard: [{category, terms, tiers?}], soft: […], constraints}. Raises InvalidRequest."""
    unknown = sorted(set(document) - {"hard", "soft", "constraints"})
    constraints = document.get("constraints", "")
    if unknown or not isinstance(constraints, str) or len(constraints) > 2000:
        raise invalid("a policy has `hard`, `soft` and `constraints` (at most 2000 characters)")
    hard = read_rules(document.get("hard", ()), (0, 1, 2))
    soft = read_rules(document.get("soft", ()), (0, 1))
    if any(ADULT_TIER in rule.tiers for rule in soft):
        raise invalid("a soft rule holds in tiers 0 and 1: at tier 2 nothing is softened")
    listed = hard | soft
    terms = (Terms.of(listed),) if listed else ()
    return Rules(name, tuple(hard), tuple(soft), constraints, terms)


def decide(texts: Sequence[str], *, tier: int, surface: Surface, rules: Rules, subject: Subject = NOBODY) -> Decision:
    """Allow, soften or refuse what these texts ask for together. `tier` is what key, tenant, recipe and request
    allow."""
    turns = deciding(texts, tier=tier, surface=surface, rules=rules, subject=subject)
    while True:
        try:
            next(turns)
        except StopIteration as done:
            found: Decision = done.value
            return found


def deciding(
    texts: Sequence[str], *, tier: int, surface: Surface, rules: Rules, subject: Subject = NOBODY
) -> Generator[None, None, Decision]:
    """decide(), which yields whenever it has scanned as much as a loop may be held for."""
    flags, matched, spent = subject.flags, set[Rule](), 0
    if sum(map(len, texts)) <= GLANCE:
        seen = list(pieces(texts))
        together = floor.glance([piece.text for piece in seen], [part for piece in seen for part in piece.parts])
        if together is not None and not _any_term(rules, together):
            return _decided(flags, matched, tier=tier, surface=surface, rules=rules, subject=subject)
        spent = sum(len(piece.text) for piece in seen)
    for text, apart, parts in pieces(texts):
        if spent + len(text) > PIECE:
            yield
            spent = 0
        scan = floor.scan(text, apart, parts)
        flags |= scan.flags
        for terms in rules.terms:
            matched |= terms.match(scan.readings)
        spent += len(text) + A_TEXT_COSTS
    return _decided(flags, matched, tier=tier, surface=surface, rules=rules, subject=subject)


def _any_term(rules: Rules, text: str) -> bool:
    """Whether a term of the lists stands in a text in ASCII."""
    readings = (normalise.read(text.lower()),) if rules.terms else ()
    return any(terms.match(readings) for terms in rules.terms)


def _decided(
    flags: int, matched: set[Rule], *, tier: int, surface: Surface, rules: Rules, subject: Subject
) -> Decision:
    """What a request is answered whose texts have these flags and match these rules."""
    asked = min(tier, subject.tier)
    if not flags & RISKY and not rules.hard and not rules.soft:
        return Decision("allow", asked, None, rules.name)
    # Judged at what was asked for: that age is unclear must refuse above tier 0, not lower the tier and pass.
    category = floor.violation(flags, asked if subject.age == "unknown" else tier, surface)
    in_force = GENERAL if flags & (MINOR | REAL) else asked
    category = category or floor.violation(flags, in_force, surface)
    category = category or _first(rules.hard, matched, in_force)
    if category:
        return Decision("refuse", in_force, category, rules.name)
    softened = _first(rules.soft, matched, in_force) or _soft_by_tier(flags, in_force, surface)
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


def _first(rules: Iterable[Rule], matched: set[Rule], tier: int) -> str | None:
    return next((rule.category for rule in rules if rule in matched and tier in rule.tiers), None)
