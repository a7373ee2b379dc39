"""What the engines of a plan are started with, and what may be expected of them. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from placement.cards import Card
from placement.plan import Engine, Plan

GIB = 1 << 30
SEQUENCES, BATCHED_TOKENS = 64, 2048
CONVERSATION = 2048
"""Tokens of a conversation, for how many there may be at once."""
COMMON = ("--max-num-batched-tokens", str(BATCHED_TOKENS), "--max-cudagraph-capture-size", str(SEQUENCES))


@dataclass(frozen=True)
class Expectation:
    """Of a chat engine: tokens of context, and conversations of 2,048 tokens at once. Of an image engine: the longest
    side in pixels, whether it is decoded in tiles, and pictures at once."""

    context: int = 0
    conversations: int = 0
    side: int = 0
    tiled: bool = False
    pictures: int = 0

    def __str__(self) -> str:
        if self.context:
            return f"{self.context:,} tokens of context, {self.conversations} conversations of {CONVERSATION:,} at once"
        tiles = ", decoded in tiles" if self.tiled else ""
        return f"{self.pictures} of {self.side} x {self.side} at once{tiles}"


def expectation(engine: Engine) -> Expectation:
    """What fits into what the engine has beside its weights."""
    if engine.model.engine == "vllm":
        tokens = int(_cache_bytes(engine) / (engine.model.kv_kib * 1024))
        context = min(engine.model.context, tokens // 256 * 256)
        return Expectation(context=context, conversations=min(SEQUENCES, max(1, tokens // CONVERSATION)))
    sides = sorted(engine.model.decode)
    first = engine.model.decode[sides[0]]
    if engine.work < first + engine.model.picture:
        return Expectation(side=sides[0], tiled=True, pictures=_pictures(engine, engine.model.tiled))
    pictures = _pictures(engine, first)
    largest = max(s for s in sides if engine.model.decode[s] + engine.model.picture <= engine.work + 1e-6)
    if pictures < engine.model.pictures_wish or largest == sides[0]:
        return Expectation(side=sides[0], pictures=pictures)
    return Expectation(side=largest, pictures=_pictures(engine, engine.model.decode[largest]))


def _pictures(engine: Engine, decoding: float) -> int:
    fit = math.floor((engine.work - decoding + 1e-6) / engine.model.picture)
    return max(1, min(engine.model.pictures_wish, fit))


def _cache_bytes(engine: Engine) -> int:
    """Whole MiB, rounded down."""
    return math.floor(engine.work * 1024 + 1e-6) * (1 << 20)


def flags(engine: Engine, card: Card) -> list[str]:
    """Of a vLLM engine. Its share of the card is the gate of its start: with less free, it does not begin."""
    gate = math.floor(engine.size / card.total * 1000) / 1000
    found = ["--kv-cache-memory-bytes", str(_cache_bytes(engine)), "--gpu-memory-utilization", f"{gate:.3f}"]
    found += ["--max-model-len", str(expectation(engine).context), "--max-num-seqs", str(SEQUENCES), *COMMON]
    return [*found, *engine.variant.flags, *(["--enable-sleep-mode"] if engine.turns_with else [])]


def environment(engine: Engine) -> dict[str, str]:
    """What its worker's environment says of it."""
    found = {"CUDA_VISIBLE_DEVICES": str(engine.card), **engine.variant.settings}
    if engine.model.engine == "diffusers":
        expected = expectation(engine)
        found |= {"IMAGE_MAX_SIDE": str(expected.side), "IMAGE_RESIDENTS": str(expected.pictures)}
    if engine.lease:
        found["DEVICE_LEASE"] = f"device-{engine.card}"
    return found


def table(plan: Plan) -> list[str]:
    """The plan for a reader: a line for each card and each engine, then what was given up."""
    lines: list[str] = []
    for at, card in enumerate(plan.cards):
        engines = plan.on(at)
        taken = f", {card.taken:g} taken by others" if card.taken else ""
        lines.append(f"card {at}: {card.name} ({card.total:g} GiB{taken}), {_used(engines):.1f} planned")
        lines += [f"  {engine.order}. {_line(engine)}" for engine in engines]
        lines += [] if engines else ["  nothing"]
    lines += [f"left out: {name}: {why}." for name, why in plan.left_out.items()]
    lines += list(plan.reasons)
    if plan.host_memory():
        lines.append(f"Weights that sleep take up to {plan.host_memory():.1f} GiB of the host's memory.")
    return lines


def _line(engine: Engine) -> str:
    turns = f"; takes turns with {', '.join(engine.turns_with)}" if engine.turns_with else ""
    return f"{engine.model.title}, {engine.variant.name}, {engine.size:.1f} GiB: {expectation(engine)}{turns}"


def _used(engines: Sequence[Engine]) -> float:
    """What is taken when the largest of those that take turns is awake."""
    places: dict[frozenset[str], list[Engine]] = {}
    for engine in engines:
        places.setdefault(frozenset((engine.model.name, *engine.turns_with)), []).append(engine)
    return sum(
        max(e.size + sum(o.model.asleep for o in group if o is not e) for e in group) for group in places.values()
    )


def as_json(plan: Plan) -> dict[str, object]:
    """The plan for a program: sizes in GiB."""
    return {
        "cards": [{"name": card.name, "total": card.total, "taken": card.taken} for card in plan.cards],
        "engines": [
            {
                "model": engine.model.name,
                "catalogue": engine.model.catalogue,
                "engine": engine.model.engine,
                "card": engine.card,
                "order": engine.order,
                "dtype": engine.variant.name,
                "gib": round(engine.size, 2),
                "weights_gib": engine.variant.weights,
                "overhead_gib": engine.model.overhead,
                "work_gib": round(engine.work, 2),
                "turns_with": list(engine.turns_with),
                "flags": flags(engine, plan.cards[engine.card]) if engine.model.engine == "vllm" else [],
                "environment": environment(engine),
                "expected": {k: v for k, v in vars(expectation(engine)).items() if v},
            }
            for engine in sorted(plan.engines, key=lambda e: (e.card, e.order))
        ],
        "left_out": dict(plan.left_out),
        "reasons": list(plan.reasons),
        "host_gib": round(plan.host_memory(), 2),
    }
