"""An engine driven turn by turn on the test's own thread."""

from dataclasses import dataclass, field

import torch

from image.engine import Engine, Sizing
from image.events import Admitted, Event, Finished, Partial, Progress
from image.messages import CommandQueue, Submit, TurnReport
from image.pipelines.base import StepPipeline
from image.request import ImageRequest, RequestId
from image.scheduler import Budget
from tests.image.reference import Stock

MIXING = Budget(tokens=4_000, residents=8, padding=4_000)


@dataclass
class Driven:
    """An engine, its mailbox, and everything it has told."""

    pipeline: StepPipeline
    budget: Budget = MIXING
    events: dict[RequestId, list[Event]] = field(default_factory=dict)
    news: TurnReport | None = None

    def __post_init__(self) -> None:
        self.mail: CommandQueue = CommandQueue()
        self.engine = Engine(self.pipeline, Sizing(self.budget), self.mail, self._hear)

    def submit(self, request: ImageRequest) -> RequestId:
        id = RequestId(len(self.events))
        self.events[id] = []
        self.mail.put(Submit(id, request))
        return id

    def turn(self) -> None:
        self.engine.run_once()

    def live(self) -> list[RequestId]:
        return [
            id for id, told in self.events.items() if not told or isinstance(told[-1], Admitted | Progress | Partial)
        ]

    def finish(self) -> None:
        while self.live():
            self.turn()

    def latents(self, id: RequestId, like: torch.Tensor) -> torch.Tensor:
        """What a Transparent pipeline handed out as the picture."""
        last = self.events[id][-1]
        assert isinstance(last, Finished), last
        return torch.frombuffer(bytearray(last.pixels.rgb), dtype=torch.float32).view(like.shape)

    def _hear(self, news: TurnReport) -> None:
        self.news = news
        for id, event in news.events:
            self.events[id].append(event)


def assert_as_stock(driven: Driven, id: RequestId, request: ImageRequest, stock: Stock) -> None:
    expected = stock.latents(request)
    torch.testing.assert_close(driven.latents(id, expected), expected, atol=1e-5, rtol=0)
