"""Cards and wishes in; engines with their cards, dtypes and bytes out. Pure. All sizes are GiB.

1. Everything at once, each model in its best dtype. Where that does not fit, models give up exactness one step at a
   time, the last wish first.
2. Where even that does not fit, models take turns on a card, the last wish first: it shares with the first wish of its
   kind of engine, and in the end pictures share with chat. What does not fit even so is left out, with the reason.
3. What is left of a card goes to the caches and pictures of its models; empty cards get a second engine of the first
   wishes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from placement.cards import Card
from placement.layout import EPSILON, Layout, PlanError, Unit, Wish, layouts, places
from placement.sizes import Model, Variant


@dataclass(frozen=True)
class Engine:
    """One engine of the plan. `size`: what it has of the card when awake; `turns_with`: the models with which it takes
    turns on that card, of which one is awake at a time; `lease`: some of them belong to another worker; `order`: when
    it is started on its card, from 1."""

    wish: Wish
    variant: Variant
    card: int
    size: float
    turns_with: tuple[str, ...] = ()
    lease: bool = False
    order: int = 0

    @property
    def model(self) -> Model:
        return self.wish.model

    @property
    def work(self) -> float:
        """What is left of it for caches, or for pictures, beside weights and overhead."""
        return self.size - self.variant.weights - self.model.overhead


@dataclass(frozen=True)
class Plan:
    """`left_out`: models that have no place, and why; `reasons`: what was given up to make the rest fit."""

    cards: tuple[Card, ...]
    engines: tuple[Engine, ...]
    left_out: Mapping[str, str]
    reasons: tuple[str, ...]

    def on(self, card: int) -> list[Engine]:
        """In the order of their starts."""
        return sorted((e for e in self.engines if e.card == card), key=lambda e: e.order)

    def host_memory(self) -> float:
        """What weights of engines that sleep take of the host's memory at most."""
        asleep = 0.0
        for group in {(e.card, frozenset((e.model.name, *e.turns_with))) for e in self.engines if e.turns_with}:
            weights = [e.variant.weights for e in self.engines if e.card == group[0] and e.model.name in group[1]]
            asleep += sum(weights) - min(weights)
        return asleep


def plan(cards: Sequence[Card], wishes: Sequence[Wish]) -> Plan:
    """The plan for these cards. Raises PlanError where a pin names what is not there."""
    for wish in wishes:
        wish.variants()
        if wish.card is not None and not 0 <= wish.card < len(cards):
            raise PlanError(f"{wish.model.name} is pinned to card {wish.card}: there are {len(cards)}")
    if len({wish.model.name for wish in wishes}) != len(wishes):
        raise PlanError("A model is wished for twice.")
    left_out: dict[str, str] = {}
    now = list(wishes)
    while now:
        for layout in layouts(now):
            if (where := places(cards, layout)) is not None:
                return _filled(tuple(cards), layout, where, left_out)
        gone = now.pop()
        left_out[gone.model.name] = _why_not(cards, gone)
    return Plan(tuple(cards), (), left_out, ())


def _filled(cards: tuple[Card, ...], layout: Layout, where: list[int], left_out: Mapping[str, str]) -> Plan:
    """The places with what is left over given out, empty cards used, and the reasons told."""
    _improve(cards, layout, where)
    engines: list[Engine] = []
    for card in range(len(cards)):
        here = [unit for unit, at in zip(layout.units, where, strict=True) if at == card]
        engines += _on_card(cards[card], card, layout, here)
    for card in (at for at in range(len(cards)) if at not in where):
        engines += _again(cards[card], card, layout, len(engines))
    return Plan(cards, tuple(engines), left_out, tuple(_reasons(layout)))


def _improve(cards: Sequence[Card], layout: Layout, where: Sequence[int]) -> None:
    """Better dtypes where a card has room for them, the first wish first."""
    for at in range(len(layout.wishes)):
        card = next(card for unit, card in zip(layout.units, where, strict=True) if at in unit.members)
        for better in range(layout.chosen[at]):
            before, layout.chosen[at] = layout.chosen[at], better
            here = sum(layout.size(unit) for unit, on in zip(layout.units, where, strict=True) if on == card)
            if here <= cards[card].room + EPSILON:
                break
            layout.chosen[at] = before


def _on_card(card: Card, at: int, layout: Layout, units: Sequence[Unit]) -> list[Engine]:
    """The engines of one card. What is left over is shared by what each can use."""
    left = card.room - sum(layout.size(unit) for unit in units)
    more = [layout.size(unit, wish=True) - layout.size(unit) for unit in units]
    share = min(1.0, max(0.0, left) / sum(more)) if sum(more) > 0 else 0.0
    found: list[Engine] = []
    for unit, extra in sorted(zip(units, more, strict=True), key=lambda pair: pair[0].members):
        place = layout.size(unit) + extra * share
        names = [layout.wishes[one].model.name for one in unit.members]
        asleep = sum(layout.wishes[one].model.asleep for one in unit.members)
        lease = len({layout.wishes[one].model.engine for one in unit.members}) > 1
        for one in (*unit.members[1:], unit.members[0]):  # the first wish is started last, and stays awake
            wish = layout.wishes[one]
            others = asleep - wish.model.asleep if len(unit.members) > 1 else 0.0
            most = layout.variant(one).weights + wish.least + (wish.model.wish if wish.cache is None else 0.0)
            turns = tuple(name for name in names if name != wish.model.name)
            size = min(place - others, most)
            found.append(Engine(wish, layout.variant(one), at, size, turns, lease=lease, order=len(found) + 1))
    return found


def _again(card: Card, at: int, layout: Layout, number: int) -> list[Engine]:
    """One more engine of a first wish on an empty card: pictures and chat in turn, as they fit."""
    firsts = {wish.model.engine: wish for wish in reversed(layout.wishes) if wish.card is None}
    kinds = ["diffusers", "vllm"] if number % 2 == 0 else ["vllm", "diffusers"]
    for wish in (firsts[kind] for kind in kinds if kind in firsts):
        for variant in wish.variants():
            if variant.weights + wish.least <= card.room:
                most = variant.weights + wish.least + (wish.model.wish if wish.cache is None else 0.0)
                return [Engine(wish, variant, at, min(card.room, most), order=1)]
    return []


def _reasons(layout: Layout) -> Iterator[str]:
    for at, wish in enumerate(layout.wishes):
        if layout.chosen[at]:
            yield f"{wish.model.name} is {layout.variant(at).name}: in a better dtype not all would fit."
    for unit in layout.units:
        if len(unit.members) > 1:
            names = [layout.wishes[at].model.name for at in unit.members]
            yield f"{', '.join(names)} take turns: together they are more than the card has."


def _why_not(cards: Sequence[Card], wish: Wish) -> str:
    least = min(variant.weights for variant in wish.variants()) + wish.least
    room = max((card.room for card in cards), default=0.0)
    if least > room:
        return f"it takes {least:.1f} GiB at least; the largest card has {room:.1f}"
    answered = f"; {wish.model.substitute} answers in its place" if wish.model.substitute else ""
    return f"it takes {least:.1f} GiB at least, and the models before it leave no such place{answered}"


def pinned(wish: Wish, given: Mapping[str, str]) -> Wish:
    """A wish with an operator's pins: `card`, `dtype`, `kv` in GiB. Raises PlanError."""
    try:
        card = int(given["card"]) if "card" in given else wish.card
        cache = float(given["kv"]) if "kv" in given else wish.cache
    except ValueError as exc:
        raise PlanError(f"The pin of {wish.model.name}: {exc}") from exc
    if unknown := set(given) - {"card", "dtype", "kv"}:
        raise PlanError(f"The pin of {wish.model.name} knows no {', '.join(sorted(unknown))}: card, dtype, kv")
    if cache is not None and (wish.model.engine != "vllm" or not 0.1 <= cache <= 192):
        raise PlanError(f"kv is the cache of a vLLM engine, 0.1 to 192 GiB: {wish.model.name} is pinned to {cache}")
    return replace(wish, card=card, variant=given.get("dtype", wish.variant), cache=cache)
