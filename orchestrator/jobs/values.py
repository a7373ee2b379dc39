"""A run as values: what it is asked for, who carries it out, how it ended."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from core.errors import SoundstageError
from orchestrator.jobs.plain import told_error
from orchestrator.runs.caller import Caller

State = Literal["queued", "running", "completed", "failed", "cancelled"]
Way = Literal["wait", "stream", "background"]


def new_job_id() -> str:
    return "job_" + os.urandom(12).hex()


@dataclass(frozen=True)
class Wanted:
    """What a run is asked for."""

    pipeline: str
    caller: Caller
    request: Mapping[str, Any]
    request_sha256: str  # of what the same key has to ask for again
    way: Way
    seconds: float  # until it is given up
    priority: int = 0
    idempotency_key: str | None = None
    webhook: str | None = None


class By(NamedTuple):
    """Who carries a run out: a process, and the version of its steps."""

    executor: str
    version: str


class Queue(NamedTuple):
    """Where a run waits: the statement that queues it, the pipelines that share the queue, and how many of its runs may
    be at work at once now."""

    enqueue: tuple[str, Sequence[Any]]
    pipelines: Sequence[str]
    places: int


class Added(NamedTuple):
    """The run that is kept: another, where its idempotency key was used before; and whether it begins here and now."""

    id: str
    begun: bool


@dataclass(frozen=True)
class Taken:
    """A run that was begun, or begun again: what its process needs of it."""

    id: str
    pipeline: str
    tenant: str
    key_id: str
    way: Way
    priority: int
    caller: Mapping[str, Any]
    request: Mapping[str, Any]
    webhook: str | None
    attempts: int
    seconds_left: float
    limits: Mapping[str, Any] | None  # of its key and its tenant, as they are now
    tenant_limits: Mapping[str, Any] | None
    revoked: bool = False  # its key was taken back, or is over
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
    def kept(self) -> dict[str, Any]:
        """What of it is kept with the last event; what is not there is left out."""
        given = {"answer": self.answer, "error": self.error}
        there = {name: value for name, value in given.items() if value is not None}
        return {"state": self.state, "tokens": self.tokens, "image_steps": self.image_steps, **there}

    @property
    def event(self) -> tuple[str, Mapping[str, Any]]:
        """The last event: its name and data."""
        if self.error is not None:
            return "error", {"error": told_error(self.error)}
        return "pipeline.completed", self.answer or {}


def kept_caller(caller: Caller) -> dict[str, Any]:
    """What a run is judged by, also when another process takes it up. No secret is in it."""
    return {
        "request_id": caller.request_id,
        "route": caller.route,
        "session": caller.session,
        "asked_tier": caller.asked_tier,
        "max_tier": caller.key.max_tier,
        "scopes": sorted(caller.key.scopes),
        "trace": caller.trace,
    }


def begun(job_id: str, wanted: Wanted) -> Taken:
    """A run that was just added, as the process takes it that adds it."""
    key = wanted.caller.key
    return Taken(
        id=job_id,
        pipeline=wanted.pipeline,
        tenant=key.tenant,
        key_id=key.id,
        way=wanted.way,
        priority=wanted.priority,
        caller=kept_caller(wanted.caller),
        request=wanted.request,
        webhook=wanted.webhook,
        attempts=1,
        seconds_left=wanted.seconds,
        limits=key.limits.model_dump(exclude_none=True),
        tenant_limits=key.tenant_limits.model_dump(exclude_none=True),
    )
