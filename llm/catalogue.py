"""The catalogue of chat models (models.toml) as values."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from core.settings import SettingsError
from core.wire.workers import Ability, ServedModel

BUNDLED = Path(__file__).with_name("models.toml")

Role = Literal["instruct", "base", "vision"]


class Model(BaseModel):
    """One entry: where its weights are, the names it answers to, how vLLM is started for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    source: str
    licence: str
    role: Role
    abilities: tuple[Ability, ...]
    max_model_len: int
    aliases: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Every name the engine itself accepts, its id first."""
        return (self.id, *self.aliases)

    def served(self) -> ServedModel:
        return ServedModel(id=self.id, aliases=self.aliases, abilities=self.abilities, max_model_len=self.max_model_len)


def read(file: Path, data_dir: Path) -> dict[str, Model]:
    """The catalogue by model id. Raises SettingsError where an entry is wrong."""
    with file.open("rb") as source:
        tables = tomllib.load(source)["models"]
    try:
        return {
            name: Model(id=name, **{**table, "source": table["source"].format(data_dir=data_dir.resolve())})
            for name, table in tables.items()
        }
    except (ValidationError, KeyError) as exc:
        raise SettingsError(f"{file.name}: {exc}") from exc


def choose(catalogue: Mapping[str, Model], wanted: Sequence[str], *, has_gpu: bool) -> list[Model]:
    """The models to run: those named, else the two Qwens on a GPU and the small one without.

    Raises SettingsError on a name the catalogue lacks, or when two models would answer to one name.
    """
    names = wanted or (["qwen2.5-7b-instruct", "qwen2.5-7b"] if has_gpu else ["smollm2-135m-instruct"])
    unknown = [name for name in names if name not in catalogue]
    if unknown:
        raise SettingsError(f"LLM_MODELS: not in the catalogue: {', '.join(unknown)}; it has {', '.join(catalogue)}")
    chosen = [catalogue[name] for name in names]
    taken: dict[str, str] = {}
    for model in chosen:
        for name in model.names:
            if taken.setdefault(name, model.id) != model.id:
                raise SettingsError(f"LLM_MODELS: {taken[name]} and {model.id} both answer to {name}")
    return chosen
