"""A run as values: what it is asked for, who carries it out, how it ended."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from core.db.plain import error_of_caller
from core.errors import SoundstageError
from orchestrator.pipelines.base import Pipeline
from orchestrator.runs.caller import Caller

VERSION = "2"
"""Of the pipelines' steps. Raised when a pipeline gives its steps other names or other results: what was begun under
another version is then not resumed (orchestrator/jobs/recovery.py). Most upgrades change no steps, and runs go on."""

State = Literal["queued", "running", "completed", "failed", "cancelled"]
Way = Literal["wait", "stream", "background"]

AT_ONCE = "at once"
"""The queue of runs that somebody waits for or follows: they wait for no place."""


def pool_of(pipeline: Pipeline) -> str:
    """The pool of image workers whose places its background jobs wait for."""
    return pipeline.role or "images"


def new_job_id() -> str:
    return "job_" + os.urandom(12).hex()


@dataclass(frozen=True)
class RunRequest:
    """What a run is asked for."""

    pipeline: str
    caller: Caller
    request: Mapping[str, Any]
    request_sha256: str  # of what the same key has to ask for again
    way: Way
    pool: str
    seconds: float  # until it is given up
    priority: int = 0
    idempotency_key: str | None = None
    webhook: str | None = None


@dataclass(frozen=True)
class Claim:
    """A run that this process carries out. `attempt` is its fence: what an older one does is not kept."""

    id: str
    pipeline: str
    way: Way
    attempt: int
    request: Mapping[str, Any]
    caller: Caller  # `until` is the run's deadline; the limits of the key are those of now
    revoked: bool = False  # the key was taken back, or is over
    finished: Mapping[str, Any] = field(default_factory=dict)  # the results of steps that an earlier attempt finished


@dataclass(frozen=True)
class End:
    """How a run ended."""

    state: State
    answer: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    tokens: int = 0
    image_steps: int = 0
    cause: SoundstageError | None = None  # the error itself, for who waits in the process where it happened

    @property
    def record(self) -> dict[str, Any]:
        """What is kept of it with the last event; what is not there is left out."""
        given = {"answer": self.answer, "error": self.error}
        there = {name: value for name, value in given.items() if value is not None}
        return {"state": self.state, "tokens": self.tokens, "image_steps": self.image_steps, **there}

    @property
    def event(self) -> tuple[str, Mapping[str, Any]]:
        """The last event: its name and data."""
        if self.error is not None:
            return "error", {"error": error_of_caller(self.error)}
        return "pipeline.completed", self.answer or {}
