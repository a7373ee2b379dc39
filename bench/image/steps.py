"""A denoising step of seven sizes: as the scheduler batches them, padded to the longest, and one by one."""

import statistics
from collections.abc import Sequence

from bench.image.models import Setup, Size
from bench.image.serve import seconds_of
from image import batch
from image.batch import RequestState
from image.embeddings import Embeddings
from image.request import RequestId
from image.scheduler import schedule

REPEATS = 7
SEVEN = ((1, 1), (1, 1.5), (1.5, 1), (1.5, 1.5), (1.5, 2), (2, 2), (4, 4))  # of the smallest side


def mixed(setup: Setup) -> dict[str, float]:
    """Seconds of a step of seven sizes: as the scheduler batches them, one by one, and all as long as the longest."""
    side = setup.sizes[0][0]
    sizes = [(int(side * w), int(side * h)) for w, h in SEVEN]

    def together() -> None:
        waiting = {state.id: state for state in _states(setup, sizes)}
        while waiting:
            decision = schedule([state.candidate() for state in waiting.values()], setup.budget)
            batch.step(setup.pipeline, [waiting.pop(id) for id in decision.step])

    def padded() -> None:
        batch.step(setup.pipeline, _states(setup, [sizes[-1]] * len(sizes)))

    def one_by_one() -> None:
        for state in _states(setup, sizes):
            batch.step(setup.pipeline, [state])

    def laid_out() -> None:
        _states(setup, sizes)

    ways = {"together": together, "padded": padded, "one_by_one": one_by_one, "laid_out": laid_out}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS + 1):
        for name, work in ways.items():
            times[name].append(seconds_of(setup, work))
    found = {name: statistics.median(each[1:]) for name, each in times.items()}
    own = found.pop("laid_out")  # no step yet, and in each of the others
    seconds = {name: each - own for name, each in found.items()}
    gains = {f"gain_over_{name}": seconds[name] / seconds["together"] for name in ("padded", "one_by_one")}
    return seconds | gains


def _states(setup: Setup, sizes: Sequence[Size]) -> list[RequestState]:
    """Resident, before their first step."""
    states = [
        batch.admit(setup.pipeline, setup.request(size, i), RequestId(i), arrived=0) for i, size in enumerate(sizes)
    ]
    batch.make_resident(setup.pipeline, states, Embeddings(0))
    return states
