"""What a pipeline runs on: steps that are done once, whatever dies, and events for whoever follows.

A pipeline is one function over a Flow, and does not know how it was called. `DurableFlow` (orchestrator/jobs/flow.py)
keeps what is finished in the database; `MemoryFlow` keeps it in memory, for work that need not outlive its process.

What a pipeline must keep to, so that a run can be taken up again by another process:
- Whatever is not the same each time (a worker's answer, a clock, a random number) happens inside a step.
- Steps have the same names each time. Independent ones may run together, by `asyncio.gather(flow.step(…), …)`.
- A step begins when what was finished before it is kept. One that was interrupted, or failed, is done again; its key
  goes to the engine, so that finished work is not repeated there.
- What a step returns is small plain JSON. A picture is a blob reference, `{"blob": sha256, "type": …, "bytes": n}`.
- What may not be kept (a selfie) is looked at before the run begins. What is needed of it later is `held`: in memory
  alone, and gone when the process goes.
- What a step cost stands in its result as `cost`: `{"tokens": n, "image_steps": n}`; the run's record adds it up.

A route calls a run by `await service.answer(request, NAME, body, caller, held={…})` (calls.py): it reads the three ways
to call from `body`, a `CallOptions`, and from the headers, and gives the Response.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field

from core.errors import Conflict

T = TypeVar("T")

STARTED, COMPLETED = "pipeline.step.started", "pipeline.step.completed"
STOPPING = "the process stops"
"""What a run is cancelled with when it is not over: another process takes it up."""


class Flow(Protocol):
    """One run of a pipeline."""

    @property
    def id(self) -> str:
        """The run's id, and the job's."""

    async def step(self, name: str, do: Callable[[str], Awaitable[T]]) -> T:
        """What `do` returns when it is called with an idempotency key; where the step was finished before, what it
        returned then, without calling it. `name` is one of a kind in the run. Tells that the step began and ended."""

    async def emit(self, event: str, data: Mapping[str, Any]) -> None:
        """Tell whoever follows. Within a step that is done again, what was told before is not told twice."""

    def held(self, name: str) -> bytes:
        """What the request brought and only this process's memory has. Raises Conflict where it is gone."""

    @property
    def again(self) -> bool:
        """Whether a step of it may have been asked of an engine before: it is asked of the same one then."""

    @property
    def outlives(self) -> bool:
        """Whether the run is taken up by another process where this one dies: an engine then works on for a while."""


class CallOptions(BaseModel):
    """How a run is called: the fields that the body of every pipeline has beside its own."""

    model_config = ConfigDict(extra="forbid")

    stream: bool = Field(False, description="Answer with the run's events, as server-sent events.")
    background: bool = Field(False, description="Answer 202 with a job, and work on.")
    webhook: AnyHttpUrl | None = Field(None, description="Told when the job has ended; with `background` alone.")
    priority: int = Field(0, ge=0, le=9, description="Of a background job among its tenant's; 9 goes first.")

    def identity(self) -> dict[str, Any]:
        """What two requests with one Idempotency-Key must have in common: not how they are called."""
        return self.model_dump(mode="json", exclude=set(CallOptions.model_fields))


def step_key(run: str, step: str) -> str:
    """The idempotency key of a step's call to an engine."""
    return f"{run}:{step}"


def of_memory(held: Mapping[str, bytes], name: str) -> bytes:
    """Raises Conflict where it is gone."""
    try:
        return held[name]
    except KeyError:
        raise Conflict("What was sent was never stored and is gone: send it again.", code="input_gone") from None


@dataclass(frozen=True)
class Event:
    """One thing that happened in a run. `number` counts from 1 without a gap."""

    number: int
    name: str
    data: Mapping[str, Any]


class MemoryFlow:
    """A run that lives in memory: each step is done when it is asked for, and the events are kept in a list."""

    again = outlives = False

    def __init__(self, run_id: str, held: Mapping[str, bytes] | None = None) -> None:
        self.id = run_id
        self.events: list[Event] = []
        self._held = held or {}
        self._done: dict[str, Any] = {}

    async def step(self, name: str, do: Callable[[str], Awaitable[T]]) -> T:
        if name in self._done:
            found: T = self._done[name]
            return found
        await self.emit(STARTED, {"step": name})
        with within(name):
            result = await do(step_key(self.id, name))
        self._done[name] = result
        await self.emit(COMPLETED, {"step": name, "result": result})
        return result

    async def emit(self, event: str, data: Mapping[str, Any]) -> None:
        self.events.append(Event(len(self.events) + 1, event, dict(data)))

    def held(self, name: str) -> bytes:
        return of_memory(self._held, name)


_step: ContextVar[str] = ContextVar("step", default="")


class within:  # noqa: N801 - reads as a statement: `with within("generate"):`
    """Notes which step the enclosed work belongs to."""

    def __init__(self, step: str) -> None:
        self._name = step

    def __enter__(self) -> None:
        self._token = _step.set(self._name)

    def __exit__(self, *_: object) -> None:
        _step.reset(self._token)


def current_step() -> str:
    """The step that runs here; empty between steps."""
    return _step.get()
