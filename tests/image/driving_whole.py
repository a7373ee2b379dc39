"""An engine for whole requests, driven run by run on the test's own thread."""

from typing import Any

from image.device import Device
from image.events import LAST, Event, Finished
from image.messages import AdapterChange, Cancel, CommandQueue, Stop, Submit, TurnReport
from image.pipelines.whole import OnStep, WholePipeline
from image.request import ImageRequest, RequestId
from image.whole_engine import WholeEngine


class Driven:
    """The engine on this thread; `before` is asked before every run of the stock pipeline's next step."""

    def __init__(self, pipeline: WholePipeline, batch: int = 4) -> None:
        self.mail: CommandQueue = CommandQueue()
        self.events: dict[RequestId, list[Event]] = {}
        self.runs: list[int] = []
        self.news: TurnReport | None = None
        self.after_step: dict[int, Cancel | Stop | AdapterChange] = {}
        self.engine = WholeEngine(Watched(pipeline, self), self.mail, self._hear, Device(), batch)  # type: ignore[arg-type]

    def submit(self, request: ImageRequest) -> RequestId:
        id = RequestId(len(self.events))
        self.events[id] = []
        self.mail.put(Submit(id, request))
        return id

    def finish(self) -> None:
        while any(not told or not isinstance(told[-1], LAST) for told in self.events.values()):
            self.engine.run_once()

    def rgb(self, id: RequestId) -> bytes:
        last = self.events[id][-1]
        assert isinstance(last, Finished), last
        return last.pixels.rgb

    def _hear(self, news: TurnReport) -> None:
        self.news = news
        for id, event in news.events:
            self.events[id].append(event)


class Watched:
    def __init__(self, inner: WholePipeline, driven: Driven) -> None:
        self._inner, self._driven = inner, driven

    def run(self, requests: list[ImageRequest], on_step: OnStep) -> Any:
        self._driven.runs.append(len(requests))

        def told(taken: int, look: Any) -> None:
            if command := self._driven.after_step.pop(taken, None):
                self._driven.mail.put(command)
            on_step(taken, look)

        return self._inner.run(requests, told)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def asked(seed: int, **given: Any) -> ImageRequest:
    whole: dict[str, Any] = {"prompt": "a boat", "width": 64, "height": 64, "steps": 3, "seed": seed} | given
    return ImageRequest(**whole)
