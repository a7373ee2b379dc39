"""Anything may happen in any order: every image ends once, those that end well are right, and nothing is left."""

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from image.engine import Engine
from image.events import LAST, Cancelled, Failed, Finished, Progress
from image.messages import Cancel
from image.pipelines.base import Row
from image.pipelines.zimage import ZImage
from image.request import ImageRequest, RequestId, Standing
from tests.image.doubles import Transparent
from tests.image.driving import Driven
from tests.image.reference import Stock

pytestmark = pytest.mark.slow

SIZES = ((64, 64), (96, 64), (64, 128), (128, 128))
FAULTS = ("none", "nan", "raises", "out of memory")


class Faulty(Transparent):
    """The next transformer call goes wrong as told."""

    fault = "none"

    def velocity(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        fault, self.fault = self.fault, "none"
        if fault == "raises":
            raise RuntimeError("the device refuses")
        if fault == "out of memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        found = super().velocity(rows)
        if fault == "nan":
            found[0] = found[0] * float("nan")
        return found


class Machine(RuleBasedStateMachine):
    pipeline: ZImage
    stock: Stock

    def __init__(self) -> None:
        super().__init__()
        self.faulty = Faulty(self.pipeline)
        self.driven = Driven(self.faulty)
        self.asked: dict[RequestId, ImageRequest] = {}
        self.cancelled: set[RequestId] = set()
        self.faults = 0

    @rule(
        size=st.sampled_from(SIZES),
        steps=st.integers(1, 4),
        kind=st.integers(0, 3),
        tenant=st.sampled_from(("a", "b")),
        exact=st.booleans(),
    )
    def arrive(self, size: tuple[int, int], steps: int, kind: int, tenant: str, exact: bool) -> None:
        request = ImageRequest(
            "a boat" * (kind + 1),
            *size,
            steps,
            seed=kind,
            guidance=2.0 if kind == 3 else 0.0,
            exact=exact,
            partial_images=kind,
            standing=Standing(tenant),
        )
        self.asked[self.driven.submit(request)] = request

    @precondition(lambda self: self.asked)
    @rule(pick=st.randoms(use_true_random=False))
    def cancel(self, pick: random.Random) -> None:
        id = pick.choice(sorted(self.asked))
        if id in self.driven.live():
            self.cancelled.add(id)
        self.driven.mail.put(Cancel(id))

    @rule(fault=st.sampled_from(FAULTS))
    def go_wrong(self, fault: str) -> None:
        self.faulty.fault = fault
        self.faults += fault in ("nan", "raises")

    @precondition(lambda self: self.driven.live())
    @rule()
    def turn(self) -> None:
        self.driven.turn()

    @invariant()
    def every_image_ends_at_most_once_and_steps_in_order(self) -> None:
        for told in self.driven.events.values():
            assert not any(isinstance(event, LAST) for event in told[:-1])
            steps = [event.step for event in told if isinstance(event, Progress)]
            assert steps == list(range(1, len(steps) + 1))

    def teardown(self) -> None:
        self.driven.finish()
        failed = 0
        for id, request in self.asked.items():
            match self.driven.events[id][-1]:
                case Finished():
                    self._compare(id, request)
                case Cancelled():
                    assert id in self.cancelled
                case Failed():
                    failed += 1
        assert (
            failed <= self.faults
        )  # a lack of memory is got over; one NaN, or one error in a step alone, costs one image
        assert _empty(self.driven.engine)

    def _compare(self, id: RequestId, request: ImageRequest) -> None:
        plain = ImageRequest(
            request.prompt, request.width, request.height, request.steps, request.seed, request.guidance
        )
        expected = self.stock.latents(plain)
        torch.testing.assert_close(self.driven.latents(id, expected), expected, atol=1e-5, rtol=0)


def _empty(engine: Engine) -> bool:
    return not engine._mailbox.live and not engine._mailbox._events and not engine._decodings.next_group([])


@pytest.mark.timeout(120)
def test_anything_in_any_order(pipeline: ZImage, stock: Stock) -> None:
    kind = type("Bound", (Machine,), {"pipeline": pipeline, "stock": stock})
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(kind, settings=settings(max_examples=8, stateful_step_count=20, deadline=None))
