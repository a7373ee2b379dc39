"""The catalogue of chat models (models.toml) as values."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from core.settings import SettingsError
from core.wire.workers import Ability, Name, ServedModel

BUNDLED = Path(__file__).with_name("models.toml")

Role = Literal["instruct", "base", "vision"]


class Model(BaseModel):
    """One entry: where its weights are, the names it answers to, how vLLM is started for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Name
    source: str
    licence: str
    role: Role
    abilities: tuple[Ability, ...]
    max_model_len: int = Field(ge=1)
    aliases: tuple[Name, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    memory_gb: float | None = Field(default=None, gt=0)  # what it takes when loaded; None: it is worked out
    pinned: bool = False  # never gives way to another

    @property
    def names(self) -> tuple[str, ...]:
        """Every name the engine itself accepts, its id first."""
        return (self.id, *self.aliases)

    def served(self) -> ServedModel:
        return ServedModel(id=self.id, aliases=self.aliases, abilities=self.abilities, max_model_len=self.max_model_len)


def read(file: Path, data_dir: Path) -> dict[str, Model]:
    """The catalogue by model id. Raises SettingsError where the file or an entry is wrong."""
    try:
        tables = tomllib.loads(file.read_text("utf-8"))["models"]
        models = [Model(**{"id": name, **table}) for name, table in tables.items()]
    except OSError as exc:
        raise SettingsError(f"LLM_CATALOGUE: {file}: {exc.strerror}") from exc
    except KeyError as exc:
        raise SettingsError(f"{file.name}: it has no [models]") from exc
    except (ValueError, AttributeError, TypeError) as exc:
        raise SettingsError(f"{file.name}: {exc}") from exc
    folder = str(data_dir.resolve())
    return {m.id: m.model_copy(update={"source": m.source.replace("{data_dir}", folder)}) for m in models}


def choose(catalogue: Mapping[str, Model], wanted: Sequence[str], *, has_gpu: bool) -> list[Model]:
    """The models to run: those named, else the two Qwens on a GPU and the small one without. Raises SettingsError on a
    name the catalogue lacks, or when two models would answer to one name."""
    names = wanted or (["qwen2.5-7b-instruct", "qwen2.5-7b"] if has_gpu else ["smollm2-135m-instruct"])
    unknown = [name for name in names if name not in catalogue]
    if unknown:
        raise SettingsError(f"LLM_MODELS: not in the catalogue: {', '.join(unknown)}; it has {', '.join(catalogue)}")
    chosen = [catalogue[name] for name in dict.fromkeys(names)]
    taken: dict[str, str] = {}
    for model in chosen:
        for name in model.names:
            if taken.setdefault(name, model.id) != model.id:
                raise SettingsError(f"LLM_MODELS: {taken[name]} and {model.id} both answer to {name}")
    return chosen
