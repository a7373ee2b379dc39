"""The job types, as values: orchestrator/legacy/enhance/job_types.toml, or the operator's own file."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from core.errors import Unprocessable
from core.settings import SettingsError
from orchestrator.settings import JOB_TYPES

BUNDLED = JOB_TYPES
Family = Literal["sdxl", "wan", "chat"]


class JobType(BaseModel):
    """`conversation`: the prompt is the caller's turn, not a variable. `tier`: the content tier that is asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    recipe: str
    family: Family
    model: str = "qwen_instruct"
    target: int | None = Field(None, ge=1)
    least: int = Field(1, ge=1)
    max_tokens: int = Field(ge=1)
    max_prompt: int = Field(4000, ge=1)  # characters
    seconds: float = Field(60.0, gt=0)  # of one rung of the ladder
    checks: tuple[str, ...] = ()
    conversation: bool = False
    tier: int = Field(1, ge=0, le=2)


def read(file: Path = BUNDLED) -> dict[str, JobType]:
    """By name. Raises SettingsError where the file is wrong."""
    try:
        return {name: JobType(name=name, **table) for name, table in tomllib.loads(file.read_text("utf-8")).items()}
    except (OSError, ValueError, TypeError) as exc:
        raise SettingsError(f"JOB_TYPES: {file}: {exc}") from exc


def conversations(own: Mapping[str, JobType]) -> tuple[JobType, JobType]:
    """Of POST /chat and of POST /chat/unrestricted: the operator's, else those that ship."""
    shipped = read()
    plain, unrestricted = (own.get(name) or shipped[name] for name in ("chat_conversation", "chat_unrestricted"))
    return plain, unrestricted


def find(job_types: Mapping[str, JobType], name: str) -> JobType:
    """Raises Unprocessable, which names those that exist."""
    if name not in job_types:
        there = ", ".join(job_types)
        raise Unprocessable(f"job_type: there is {there}.", param="job_type", code="unknown_job_type")
    return job_types[name]
