"""Where requests come in and events go out: what every engine does with its commands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from core.device.lost import DeviceLost, lost_by
from core.errors import Conflict, SoundstageError, Unavailable, UpstreamTimeout, internal
from image.device import Device
from image.events import Cancelled, Event, Failed
from image.faults import as_ours
from image.messages import AdapterChange, Cancel, Command, CommandQueue, Counters, Publish, Stop, Submit, TurnReport
from image.request import ImageRequest, RequestId
from image.scheduler import Candidate

if TYPE_CHECKING:
    from image.pipelines.adapters import Adapters

log = logging.getLogger(__name__)


class Present(Protocol):
    """A request that is here."""

    @property
    def id(self) -> RequestId: ...

    @property
    def request(self) -> ImageRequest: ...

    def candidate(self, deadline: int | None = None) -> Candidate:
        """For the scheduler. `deadline`: a reading of the work clock."""


S = TypeVar("S", bound=Present)


class Mailbox(Generic[S]):
    """Belongs to the engine's thread."""

    def __init__(self, commands: CommandQueue, admit: Callable[[RequestId, ImageRequest], S]) -> None:
        """`admit` makes the state of a request that has arrived. Raises what the caller is told."""
        self.live: dict[RequestId, S] = {}
        self.stopped = False
        self._commands = commands
        self._admit = admit
        self._adaptations: list[AdapterChange] = []
        self._answers: list[tuple[AdapterChange, SoundstageError | None]] = []
        self._events: list[tuple[RequestId, Event]] = []

    def read(self, *, wait: bool) -> None:
        """Take in what has come; `wait` for something to come."""
        commands: list[Command] = [self._commands.get()] if wait else []
        while not self._commands.empty():  # only this thread takes commands out
            commands.append(self._commands.get_nowait())
        for command in commands:
            match command:
                case Submit(id, request):
                    self._arrive(id, request)
                case Cancel(id):
                    if self.live.pop(id, None):
                        self.tell(id, Cancelled())
                case AdapterChange():
                    self._adaptations.append(command)
                case Stop():
                    self.stopped = True
        if self.stopped:
            self._close()

    def turn(self, device: Device, adapters: Adapters, act: Callable[[], object]) -> None:
        """Take in the commands, then `act` while the device is ours, whatever happens in it. Raises DeviceLost."""
        try:
            self.read(wait=not self.live)
            with device.turn():
                self._adapt(adapters)
                act()
        except Exception as exc:  # the outermost loop: these requests fail, the engine goes on where it can
            log.exception("engine turn failed")
            lost = lost_by(exc)
            self._fail_all(lost or internal())
            if lost:
                raise lost from exc

    def candidates(self, counters: Counters, now: float) -> dict[RequestId, Candidate]:
        """Who is here, for the scheduler. Those whose deadline has passed fail. `now`: a reading of time.monotonic."""
        found = {}
        for id, state in list(self.live.items()):
            deadline = state.request.standing.deadline
            if deadline is not None and deadline <= now:
                self.fail(state, UpstreamTimeout("The image's deadline has passed.", code="deadline_exceeded"))
            else:
                found[id] = state.candidate(counters.reading(deadline, now))
        return found

    def _adapt(self, adapters: Adapters) -> None:
        """Load and unload what was asked for. Needs the device."""
        asked, self._adaptations = self._adaptations, []
        for one in asked:
            try:
                if one.load:
                    adapters.load(one.name)
                else:
                    self._check_unused(one.name)
                    adapters.unload(one.name)
            except Exception as exc:  # whatever a library may raise goes to who asked
                if lost_by(exc):
                    self._adaptations = asked[asked.index(one) :]
                    raise
                self._answers.append((one, as_ours(exc, adapter=one.name)))
            else:
                self._answers.append((one, None))

    def present(self, states: Sequence[S]) -> list[S]:
        """Those of them that are still here."""
        return [state for state in states if state.id in self.live]

    def tell(self, id: RequestId, event: Event) -> None:
        self._events.append((id, event))

    def leave(self, state: S, last: Event) -> None:
        """It is done."""
        del self.live[state.id]
        self.tell(state.id, last)

    def fail(self, state: S, error: SoundstageError) -> None:
        """Nothing happens to one that is gone."""
        if state.id in self.live:
            self.leave(state, Failed(error))

    def _fail_all(self, error: SoundstageError) -> None:
        for state in list(self.live.values()):
            self.fail(state, error)
        if isinstance(error, DeviceLost):
            self._refuse_adaptations(error)

    def _refuse_adaptations(self, error: SoundstageError) -> None:
        self._answers += [(one, error) for one in self._adaptations]
        self._adaptations = []

    def report(self, publish: Publish, counters: Counters) -> None:
        """Everything told since the last time; who asked for adapters hears last, and finds them in the counters."""
        events, self._events = tuple(self._events), []
        answers, self._answers = self._answers, []
        publish(TurnReport(events, counters))
        for one, error in answers:
            one.done(error)

    def _arrive(self, id: RequestId, request: ImageRequest) -> None:
        try:
            self.live[id] = self._admit(id, request)
        except Exception as exc:  # noqa: BLE001 - a tokenizer's own error must not fail the others
            self.tell(id, Failed(as_ours(exc, image_request=id)))

    def _check_unused(self, adapter: str) -> None:
        if any(state.request.adapter == adapter for state in self.live.values()):
            raise Conflict(f"Images are being drawn with {adapter}.", param="lora", code="lora_in_use")

    def _close(self) -> None:
        stopping = Unavailable("The image worker is stopping.", code="stopping", retry_after=1)
        for state in list(self.live.values()):
            self.fail(state, stopping)
        self._refuse_adaptations(stopping)
