"""The table of sizes as values: placement/sizes.toml, or an operator's file of the same form. All sizes are GiB."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SHIPPED = Path(__file__).with_name("sizes.toml")
EngineKind = Literal["vllm", "diffusers"]


class SizesError(ValueError):
    """The table of sizes cannot be read: what is wrong with it."""


@dataclass(frozen=True)
class Variant:
    """One dtype of a model. `flags` go to vLLM, `settings` to the image worker's environment."""

    name: str
    weights: float
    flags: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """What a model takes. Of a vLLM engine: `kv_kib` KiB of cache for a token, at least `kv_least` and at best
    `kv_wish` GiB of it. Of a diffusers engine: `decode` by the longest side, `tiled` where decoding is in tiles,
    `picture` for each one that is made at once. `asleep`: what stays on the card while it gives way; `substitute`: who
    answers for it where it has no place."""

    name: str
    title: str
    engine: EngineKind
    overhead: float
    asleep: float
    variants: tuple[Variant, ...]
    catalogue: str | None = None
    kv_kib: float = 0.0
    kv_least: float = 0.0
    kv_wish: float = 0.0
    context: int = 0
    decode: Mapping[int, float] = field(default_factory=dict)
    tiled: float = 0.0
    picture: float = 0.0
    pictures_wish: int = 0
    substitute: str | None = None

    @property
    def least(self) -> float:
        """What it works with at least, beside its weights: one short cache, or one picture decoded in tiles."""
        return self.overhead + (self.kv_least if self.engine == "vllm" else self.tiled + self.picture)

    @property
    def wish(self) -> float:
        """More than `least` that it can make use of."""
        if self.engine == "vllm":
            return self.kv_wish - self.kv_least
        return max(self.decode.values()) - self.tiled + self.picture * (self.pictures_wish - 1)


def shipped() -> dict[str, Model]:
    """The table that ships."""
    return read(SHIPPED.read_text("utf-8"))


def read(text: str) -> dict[str, Model]:
    """A table in TOML. Raises SizesError."""
    try:
        return {name: _model(name, given) for name, given in tomllib.loads(text)["models"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise SizesError(f"The table of sizes: {exc}") from exc


def _model(name: str, given: Mapping[str, Any]) -> Model:
    fields = dict(given)
    variants = tuple(
        Variant(own, one["weights"], tuple(one.get("flags", ())), one.get("settings", {}))
        for own, one in fields.pop("variants").items()
    )
    decode = {int(side): float(size) for side, size in fields.pop("decode", {}).items()}
    model = Model(name=name, variants=variants, decode=decode, **fields)
    numbers = (model.overhead, model.asleep, model.least, *(v.weights for v in variants))
    if not variants or min(numbers) < 0 or (model.engine == "diffusers") != bool(decode):
        raise ValueError(f"{name} has no variant, a size below nothing, or decoding that does not go with its engine")
    return model
