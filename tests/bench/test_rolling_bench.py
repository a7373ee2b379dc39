"""What the rolling upgrade says that holds: of one in which all went well, and of each that lacks something."""

from collections import Counter
from collections.abc import Callable

import pytest

from tests.endurance.rolling import Restart, Upgrade, result


def well() -> Upgrade:
    found = Upgrade(programs=1, processes=2)
    for kind in ("chat", "stream", "image", "job"):
        found.tally.asked[kind] = found.tally.answered[kind] = 2
    found.tally.jobs.update({"job-1": "job_a", "job-2": "job_b"})
    found.restarted.append(Restart("an orchestrator", {"stream": 1}, 1.0, 1.0))
    found.jobs = [("job_a", "completed", 1), ("job_b", "completed", 1)]
    found.pictures, found.answers = Counter({"job-1": 1, "job-2": 1}), Counter({"job-1": 2, "job-2": 2})
    return found


def test_all_went_well() -> None:
    assert all(result(well())["holds"].values())


WRONG: dict[str, Callable[[Upgrade], object]] = {
    "no request was lost": lambda found: found.tally.answered.subtract(("chat",)),
    "something of each kind was asked": lambda found: found.tally.asked.pop("image"),
    "streams were running at every restart": lambda found: found.restarted[0].running.clear(),
    "every process is another": lambda found: setattr(found, "processes", 1),
    "every job ended once, begun once": lambda found: found.jobs.append(("job_a", "completed", 2)),
    "every job is one of the callers'": lambda found: found.jobs.append(("job_c", "completed", 1)),
    "every job called its engines as often": lambda found: found.pictures.update(("job-1",)),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_went_wrong_is_seen(what: str) -> None:
    found = well()
    WRONG[what](found)
    assert not result(found)["holds"][what]
