"""Choices of dtypes and of who shares a place, the best first, and how each is laid on cards. Pure; sizes are GiB."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from placement.cards import Card
from placement.sizes import Model, Variant

MOST_TRIES = 20_000
"""Ways to lay models on cards that are looked at; the best so far is taken then."""
EPSILON = 1e-6


class PlanError(ValueError):
    """The wishes contradict each other, or name what is not there."""


@dataclass(frozen=True)
class Wish:
    """A model that shall run; earlier wishes matter more. A pinned `card`, `variant` or `cache` is never changed."""

    model: Model
    card: int | None = None
    variant: str | None = None
    cache: float | None = None

    def variants(self) -> tuple[Variant, ...]:
        """Those it may have, best first. Raises PlanError."""
        found = tuple(v for v in self.model.variants if self.variant in (None, v.name))
        if not found:
            raise PlanError(
                f"{self.model.name} has no dtype {self.variant}: {', '.join(v.name for v in self.model.variants)}"
            )
        return found

    @property
    def least(self) -> float:
        """Beside its weights."""
        return self.model.least if self.cache is None else self.model.overhead + self.cache


@dataclass(frozen=True)
class Unit:
    """Models that take turns in one place, or one that is always there: positions of wishes, in their order."""

    members: tuple[int, ...]


@dataclass
class Layout:
    """One choice: which variant each wish has, and who shares a place."""

    wishes: Sequence[Wish]
    chosen: list[int]
    units: list[Unit]

    def variant(self, at: int) -> Variant:
        return self.wishes[at].variants()[self.chosen[at]]

    def size(self, unit: Unit, *, wish: bool = False) -> float:
        """What a unit takes when its largest member is awake and the others sleep; with `wish`, all it can use."""
        asleep = sum(self.wishes[at].model.asleep for at in unit.members) if len(unit.members) > 1 else 0.0
        return max(
            self._awake(at, wish) + asleep - (self.wishes[at].model.asleep if asleep else 0.0) for at in unit.members
        )

    def _awake(self, at: int, wish: bool) -> float:
        one = self.wishes[at]
        more = one.model.wish if wish and one.cache is None else 0.0
        return self.variant(at).weights + one.least + more


def layouts(wishes: Sequence[Wish]) -> Iterator[Layout]:
    """Choices, the best first: first dtypes give way, then places are shared."""
    for units in _sharings(wishes):
        for chosen in _steps([len(wish.variants()) for wish in wishes]):
            yield Layout(wishes, chosen, units)


def _steps(counts: Sequence[int]) -> Iterator[list[int]]:
    """All at their best; then the last gives up one step, then the one before it, and so on, and again."""
    chosen = [0] * len(counts)
    yield list(chosen)
    for depth in range(1, max(counts)):
        for at in reversed(range(len(counts))):
            if depth < counts[at]:
                chosen[at] = depth
                yield list(chosen)


def _sharings(wishes: Sequence[Wish]) -> Iterator[list[Unit]]:
    """Nobody shares; then the last wish shares with the first of its kind, then the one before it; in the end all."""
    units = [Unit((at,)) for at in range(len(wishes))]
    yield list(units)
    first: dict[str, int] = {}
    for at, wish in enumerate(wishes):
        first.setdefault(wish.model.engine, at)
    for at in reversed(range(len(wishes))):
        to = first[wishes[at].model.engine]
        if to != at:
            units = _joined(units, to, at)
            yield list(units)
    if len(first) == 2:
        yield _joined(units, *sorted(first.values()))


def _joined(units: Sequence[Unit], one: int, other: int) -> list[Unit]:
    a, b = (next(unit for unit in units if at in unit.members) for at in (one, other))
    return [unit for unit in units if unit not in (a, b)] + [Unit(tuple(sorted(a.members + b.members)))]


def places(cards: Sequence[Card], layout: Layout) -> list[int] | None:
    """The card of each unit, the best way of those that fit; None where none does."""
    sizes = [layout.size(unit) for unit in layout.units]
    order = sorted(range(len(sizes)), key=lambda at: -sizes[at])
    pins = [{layout.wishes[at].card for at in unit.members} - {None} for unit in layout.units]
    if any(len(pinned) > 1 for pinned in pins):
        return None
    best: tuple[tuple[float, ...], list[int]] | None = None
    where, free, tries = [-1] * len(sizes), [card.room for card in cards], itertools.count()

    def lay(step: int) -> None:
        nonlocal best
        if next(tries) > MOST_TRIES:
            return
        if step == len(order):
            score = _score(layout, where, free)
            if best is None or score > best[0]:
                best = score, list(where)
            return
        unit, seen = order[step], set()
        for card in sorted(range(len(cards)), key=lambda at: -free[at]):
            if sizes[unit] > free[card] + EPSILON or (pins[unit] and card not in pins[unit]):
                continue
            empty = (cards[card], free[card] == cards[card].room)
            if empty[1] and empty in seen and not any(pins):
                continue  # another empty card of the same kind
            seen.add(empty)
            where[unit], free[card] = card, free[card] - sizes[unit]
            lay(step + 1)
            where[unit], free[card] = -1, free[card] + sizes[unit]

    lay(0)
    return best[1] if best else None


def _score(layout: Layout, where: Sequence[int], free: Sequence[float]) -> tuple[float, ...]:
    """Greater is better: pictures and chat apart, then as much of what is wished for as there is room for."""
    kinds: dict[int, set[str]] = {}
    wanted: dict[int, float] = {}
    for unit, card in zip(layout.units, where, strict=True):
        kinds.setdefault(card, set()).update(layout.wishes[at].model.engine for at in unit.members)
        wanted[card] = wanted.get(card, 0.0) + layout.size(unit, wish=True) - layout.size(unit)
    return (-sum(len(kind) - 1 for kind in kinds.values()), sum(min(free[card], more) for card, more in wanted.items()))
