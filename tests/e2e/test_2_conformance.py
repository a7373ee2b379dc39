"""The gateway changes nothing of what the engine says: a part of `python -m bench.conformance`."""

from tests.e2e.conformance.battery import CASES
from tests.e2e.conformance.run import compared, sides
from tests.e2e.studio import Studio


async def test_the_gateway_says_what_the_engine_says(studio: Studio) -> None:
    cases = [case for case in CASES if case.within]
    verdicts = [verdict async for verdict in compared(*await sides(studio), cases)]
    assert {verdict.case.name: verdict.differs for verdict in verdicts if verdict.differs} == {}
    assert len(verdicts) >= 12
