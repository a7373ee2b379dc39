"""What ships keeps its own word: examples obey the grammar of the answer, tiers and constraints the policy."""

import json
import re
from typing import Any

import jsonschema_rs
import pytest

from orchestrator.policy.decide import Rules, decide
from prompts.sources import SEED, RecipeSource, read_folder

RECIPES = {source.name: source for source in read_folder(SEED)}
JOBS = {
    *("chat_conversation", "chat_enhance", "sdxl_image_fast", "sdxl_image_high", "video_fast", "video_high"),
    *("wan_7b_enhanced", "chat1to1.expand", "shorts.expand", "scenes.expand", "caption", "profile.describe"),
    *("profile.avatar", "caption.fallback"),
}
CLOTHED = ("shorts.expand", "scenes.expand")


def said(source: RecipeSource, role: str) -> list[str]:
    return [(message.body or "").strip() for message in source.messages if message.role == role]


def grammar(source: RecipeSource) -> str | None:
    found: str | None = source.sampling.get("structured_outputs", {}).get("regex")
    return found


def schema(source: RecipeSource) -> dict[str, Any]:
    """Of an answer that is JSON; empty where it is none."""
    return dict(source.sampling.get("response_format", {}).get("json_schema", {}).get("schema", {}))


def test_every_job_and_pipeline_has_its_recipe() -> None:
    assert set(RECIPES) >= JOBS


@pytest.mark.parametrize("name", [name for name, source in RECIPES.items() if grammar(source)])
def test_a_recipes_examples_are_answers_that_its_grammar_allows(name: str) -> None:
    source = RECIPES[name]
    examples = said(source, "assistant")
    assert examples
    for example in examples:
        assert re.fullmatch(grammar(source) or "", example), example


@pytest.mark.parametrize("name", [name for name, source in RECIPES.items() if schema(source)])
def test_examples_are_answers_that_their_schema_allows(name: str) -> None:
    """In the order in which a model writes them: the database orders the properties so."""
    source = RECIPES[name]
    validator = jsonschema_rs.validator_for(schema(source))
    for example in said(source, "assistant"):
        validator.validate(json.loads(example))
        assert list(json.loads(example)) == sorted(schema(source)["properties"], key=lambda key: (len(key), key))


EXPANDING = [name for name in RECIPES if ".expand" in name]


@pytest.mark.parametrize("name", EXPANDING)
def test_an_expansion_is_prompt_shortened_message_and_verdict_in_one_answer(name: str) -> None:
    found = schema(RECIPES[name])
    assert (set(found["properties"]), found["required"]) == (set(found["required"]), ["intent", "prompt", "safety"])
    for example in said(RECIPES[name], "assistant"):
        assert len(json.loads(example)["intent"].split()) <= 25


def test_the_caption_where_no_model_gave_one_is_a_caption() -> None:
    (text,) = said(RECIPES["caption.fallback"], "assistant")
    assert 10 <= len(text.split()) <= 15
    assert decide([text], tier=0, surface="image", rules=Rules()).action == "allow"


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
    assert schema(source)["properties"]["prompt"]["pattern"].endswith(r", (everyone fully dressed|no people)\.$")


def test_tiers() -> None:
    """Nothing is above tier 1 but what says nothing of its own; what a real person is in, or all may read, is at 0."""
    assert {name for name, source in RECIPES.items() if source.tier > 1} == {"chat_conversation", "guard"}
    assert {name for name, source in RECIPES.items() if source.tier == 0} >= {
        *("caption", "profile.describe", "profile.avatar")
    }
