"""What ships keeps its own word: examples obey the grammar of the answer, tiers and constraints the policy."""

import re

import pytest

from prompts.sources import SEED, RecipeSource, read_folder

RECIPES = {source.name: source for source in read_folder(SEED)}
JOBS = {
    *("chat_conversation", "chat_enhance", "sdxl_image_fast", "sdxl_image_high", "video_fast", "video_high"),
    *("wan_7b_enhanced", "chat1to1.expand", "shorts.expand", "scenes.expand", "caption", "profile.describe"),
    "profile.avatar",
}
CLOTHED = ("shorts.expand", "scenes.expand")


def said(source: RecipeSource, role: str) -> list[str]:
    return [(message.body or "").strip() for message in source.messages if message.role == role]


def grammar(source: RecipeSource) -> str | None:
    found: str | None = source.sampling.get("structured_outputs", {}).get("regex")
    return found


def test_every_job_and_pipeline_has_its_recipe() -> None:
    assert set(RECIPES) >= JOBS


@pytest.mark.parametrize("name", [name for name, source in RECIPES.items() if grammar(source)])
def test_a_recipes_examples_are_answers_that_its_grammar_allows(name: str) -> None:
    source = RECIPES[name]
    examples = said(source, "assistant")
    assert examples
    for example in examples:
        assert re.fullmatch(grammar(source) or "", example), example


def test_captions_have_ten_to_fifteen_words() -> None:
    for example in said(RECIPES["caption"], "assistant"):
        assert 10 <= len(example.split()) <= 15
    assert not re.fullmatch(grammar(RECIPES["caption"]) or "", "Nine words are one too few for a caption.")


@pytest.mark.parametrize("name", CLOTHED)
def test_shorts_and_scenes_ask_for_clothing_or_occlusion_and_always_say_so(name: str) -> None:
    source = RECIPES[name]
    assert source.tier == 1
    (system,) = said(source, "system")
    assert "fully dressed" in system
    assert "coat, a blanket or shadow" in system
    assert (grammar(source) or "").endswith(r", (everyone fully dressed|no people)\.")


def test_tiers() -> None:
    """Nothing is above tier 1 but what says nothing of its own; what a real person is in, or all may read, is at 0."""
    assert {name for name, source in RECIPES.items() if source.tier > 1} == {"chat_conversation", "guard"}
    assert {name for name, source in RECIPES.items() if source.tier == 0} >= {
        *("caption", "profile.describe", "profile.avatar")
    }
