"""Whatever is sent to what the studio publishes, the answer is no 5xx; and what it publishes is all that it answers.

`make fuzz` sends many more, other ones each time.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.gateway.paths import PATHS
from tests.fakes.studio import WORKER_KEY, Studio, studio_over
from tests.orchestrator.fuzzing import made, provoked

pytestmark = pytest.mark.slow

EXAMPLES = 2 if os.environ.get("HYPOTHESIS_PROFILE", "repeatable") == "repeatable" else 100


async def test_the_relays_paths_are_published(studio: Studio) -> None:
    described = (await studio.http.get("/openapi.json")).json()
    assert set(PATHS) <= set(described["paths"])
    assert all("post" in described["paths"][path] for path in PATHS)


async def test_no_input_makes_a_5xx(migrated_dsn: str, tmp_path: Path) -> None:
    """With a worker of each kind behind it: where nobody could answer, a 503 would be right."""
    async with studio_over(migrated_dsn, tmp_path) as studio:
        await studio.chat_worker()
        (await studio.image_worker()).partial_seen.set()
        await studio.selfie_worker()
        described: dict[str, Any] = (await studio.http.get("/openapi.json")).json()
        asked = list(made(described, EXAMPLES))
        found = await provoked(studio.http, studio.key, [each for each in asked if not each.path.startswith("/readyz")])
        found += await provoked(studio.http, WORKER_KEY, [each for each in asked if "/v1/workers" in each.path])
    assert len(asked) >= 2 * len(described["paths"])
    assert {each.operation for each in asked} >= {f"POST {path}" for path in PATHS}
    assert found == []
