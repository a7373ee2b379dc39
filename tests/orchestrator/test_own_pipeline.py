"""A pipeline of the owner's own, as docs/pipelines.md shows it: a module, its recipes, its policy, and one setting."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.settings import SettingsError
from orchestrator.pipelines import PIPELINES, known
from tests.fakes.studio import Studio, studio_over

MODULE = "tests.postcard"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def studio(migrated_dsn: str, tmp_path: Path) -> AsyncIterator[Studio]:
    async with studio_over(migrated_dsn, tmp_path, pipeline_modules=MODULE) as running:
        yield running


async def test_it_is_served_like_those_that_ship(studio: Studio) -> None:
    chat, image = await studio.scripted_worker(), await studio.drawing_worker(roles=["scenes"])
    chat.expand = "An old harbour town in morning mist, fishing boats at the quay."
    answer = await studio.post("/v1/postcards", {"place": "Bergen", "size": "64x64"})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["prompt_used"], told["releases"]) == (chat.expand, ["postcard.expand@1"])
    assert chat.received[0]["messages"][-1]["content"] == "Place: Bergen"
    assert image.received[0]["size"] == "64x64"
    assert "/v1/postcards" in (await studio.get("/openapi.json")).json()["paths"]
    streamed = await studio.post("/v1/postcards", {"place": "Bergen", "stream": True, "partial_images": 0})
    assert streamed.text.count("event: pipeline.step.completed") == 2
    assert "event: pipeline.completed" in streamed.text


async def test_its_recipe_says_under_which_tier(studio: Studio) -> None:
    chat, image = await studio.scripted_worker(), await studio.drawing_worker()
    chat.expand = "A zzsuggestive dancer in front of an old harbour town."
    told = (await studio.post("/v1/postcards", {"place": "Bergen"})).json()
    assert told["constraints_added"], "the key holds tier 1, the recipe tier 0"
    chat.expand = "A zzexplicit scene."
    answer = await studio.post("/v1/postcards", {"place": "Bergen"})
    assert (answer.status_code, len(image.received)) == (422, 1)


def test_the_table_has_it_once_it_is_named() -> None:
    found = known([MODULE])
    assert set(found) == {*PIPELINES, "postcard"}
    assert found["postcard"].about.startswith("Postcard: a place becomes")


@pytest.mark.parametrize(
    ("modules", "why"),
    [
        (["no.such.module"], "cannot be imported"),
        (["tests.fakes.wait"], "is no pipeline"),
        (["orchestrator.pipelines.shorts"], "takes the name or the path of another"),
        ([MODULE, MODULE], "takes the name or the path of another"),
    ],
)
def test_a_module_that_cannot_be_one_stops_the_start(modules: list[str], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        known(modules)


def test_the_page_shows_the_module_as_it_is() -> None:
    page = (ROOT / "docs" / "pipelines.md").read_text("utf-8")
    assert (ROOT / "tests" / "postcard" / "__init__.py").read_text("utf-8").strip() in page
