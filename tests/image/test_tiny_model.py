"""The model that is shipped: loaded as it is, it draws on the colour that it is asked for; recipes speak its words."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from image.pipelines.load import load
from image.pipelines.zimage import ZImage
from image.request import ImageRequest
from image.settings import TRAINED, ImageSettings
from tests.image.reference import Stock
from training.tiny import scenes, vocabulary

SEED = Path(__file__).resolve().parents[2] / "prompts" / "seed"
RECIPES = sorted(SEED.glob(f"*.{TRAINED.name}"))


def test_it_is_what_a_worker_serves_where_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGE_MODEL", raising=False)
    settings = ImageSettings.load()
    assert (settings.model_id, settings.default_size) == ("zimage-tiny-icons", (128, 128))
    assert isinstance(load(settings.checkpoint, settings.model_id, settings), ZImage)
    monkeypatch.setenv("IMAGE_MODEL", "other")
    assert ImageSettings.load().default_size == (1024, 1024)


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in TRAINED.rglob("*") if file.is_file()) < 30e6


@pytest.mark.parametrize("size", [(128, 128), (160, 96)])
def test_it_draws_on_the_colour_that_is_asked_for(size: tuple[int, int]) -> None:
    stock = Stock(TRAINED)
    for colour in ("red", "blue", "white"):
        rgb = stock.rgb(ImageRequest(f"a cat on a {colour} background", *size, steps=8, seed=1))
        drawn = np.frombuffer(rgb, np.uint8).reshape(size[1], size[0], 3).astype(float)
        corner = drawn[4:12, 4:12].mean(axis=(0, 1))
        told = {name: np.abs(corner - np.array(rgb)).sum() for name, rgb in scenes.BACKGROUNDS.items()}
        assert min(told, key=lambda name: told[name]) == colour
        assert np.abs(drawn[size[1] // 2 - 8 :][:16, size[0] // 2 - 8 :][:, :16] - corner).mean() > 20


def test_recipes_for_it_speak_its_words() -> None:
    tokenizer = vocabulary.tokenizer()
    assert [folder.name.removesuffix(f".{TRAINED.name}") for folder in RECIPES] == [
        "chat1to1.expand",
        "scenes.expand",
        "shorts.expand",
    ]
    for folder in RECIPES:
        answer = tomllib.loads((folder / "recipe.toml").read_text())["sampling"]["response_format"]["json_schema"]
        grammar = answer["schema"]["properties"]["prompt"]["pattern"].removeprefix("^").removesuffix("$")
        for phrase in set(re.findall(r"[a-z][a-z ]*[a-z]", grammar)) - {"an", "background", "with"}:
            assert tokenizer(phrase)["input_ids"], phrase
        for example in folder.glob("example_*_assistant.j2"):
            assert re.fullmatch(grammar, json.loads(example.read_text())["prompt"])


def test_the_tokenizer_that_is_shipped_is_the_recipe_s() -> None:
    from transformers import AutoTokenizer

    shipped, made = AutoTokenizer.from_pretrained(TRAINED / "tokenizer"), vocabulary.tokenizer()
    for text in ("A fluffy kitty beside two puppies!", "a smiling girl with ginger hair", "on a table", ""):
        assert shipped(text)["input_ids"] == made(text)["input_ids"]
    assert len(made("a cat")["input_ids"]) == 1
