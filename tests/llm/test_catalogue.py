"""The catalogue of models: what an entry may be, and which are run."""

from pathlib import Path

import pytest

from core.settings import SettingsError
from llm.catalogue import BUNDLED, choose, read

ENTRY = """
source = "{data_dir}/models/one"
aliases = ["uno"]
role = "instruct"
abilities = ["chat"]
max_model_len = 100
licence = "MIT"
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "models.toml"
    file.write_text(text)
    return file


def test_an_entry(tmp_path: Path) -> None:
    (model,) = read(written(tmp_path, "[models.one]" + ENTRY), tmp_path).values()
    assert (model.id, model.names, model.source) == ("one", ("one", "uno"), f"{tmp_path.resolve()}/models/one")
    assert model.served().model_dump(exclude={"max_model_len", "control_tokens"}) == {
        "id": "one",
        "aliases": ("uno",),
        "abilities": ("chat",),
    }


BAD: dict[str, tuple[str, str]] = {
    "not TOML": ("models = ", "models.toml"),
    "no models": ("", "no \\[models\\]"),
    "models of another kind": ("models = 3", "models.toml"),
    "an entry of another kind": ("[models]\none = 3", "models.toml"),
    "a missing field": ("[models.one]" + ENTRY.replace("licence", "#"), "licence"),
    "no source": ("[models.one]" + ENTRY.replace("source", "#"), "source"),
    "a source that is no text": ("[models.one]" + ENTRY.replace('"{data_dir}/models/one"', "3"), "source"),
    "an unknown field": ("[models.one]" + ENTRY + "surprise = 1", "surprise"),
    "an unknown role": ("[models.one]" + ENTRY.replace("instruct", "director"), "role"),
    "an unknown ability": ("[models.one]" + ENTRY.replace('["chat"]', '["fly"]'), "abilities"),
    "no context at all": ("[models.one]" + ENTRY.replace("100", "0"), "max_model_len"),
    "a name that cannot be announced": ('[models."one two"]' + ENTRY, "id"),
    "an alias that cannot be announced": ("[models.one]" + ENTRY.replace("uno", "u n o"), "aliases"),
}


@pytest.mark.parametrize(("text", "named"), BAD.values(), ids=BAD.keys())
def test_a_wrong_catalogue_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        read(written(tmp_path, text), tmp_path)


def test_a_missing_catalogue_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"LLM_CATALOGUE: .*none\.toml"):
        read(tmp_path / "none.toml", tmp_path)


def test_braces_in_a_source_are_its_own(tmp_path: Path) -> None:
    text = "[models.one]" + ENTRY.replace("models/one", "{odd}/}{")
    assert read(written(tmp_path, text), tmp_path)["one"].source.endswith("/{odd}/}{")


CHOICES: dict[str, tuple[list[str], bool, list[str]]] = {
    "without a GPU the small one": ([], False, ["smollm2-135m-instruct"]),
    "with one the two Qwens": ([], True, ["qwen2.5-7b-instruct", "qwen2.5-7b"]),
    "those named": (["qwen2.5-7b"], False, ["qwen2.5-7b"]),
    "named twice is run once": (["qwen2.5-7b", "qwen2.5-7b"], True, ["qwen2.5-7b"]),
    "three together": (
        ["qwen2.5-7b-instruct", "qwen2.5-7b", "qwen2.5-vl-7b-instruct"],
        True,
        ["qwen2.5-7b-instruct", "qwen2.5-7b", "qwen2.5-vl-7b-instruct"],
    ),
}


@pytest.mark.parametrize(("wanted", "gpu", "ids"), CHOICES.values(), ids=CHOICES.keys())
def test_which_models_are_run(tmp_path: Path, wanted: list[str], gpu: bool, ids: list[str]) -> None:
    assert [model.id for model in choose(read(BUNDLED, tmp_path), wanted, has_gpu=gpu)] == ids


CLASHES: dict[str, tuple[list[str], str]] = {
    "unknown": (["nope", "nada"], "nope, nada; it has qwen2.5-7b-instruct"),
    "one alias for two": (
        ["smollm2-135m-instruct", "qwen2.5-7b"],
        "smollm2-135m-instruct and qwen2.5-7b both answer to qwen_base",
    ),
}


@pytest.mark.parametrize(("wanted", "said"), CLASHES.values(), ids=CLASHES.keys())
def test_a_choice_that_cannot_be_run(tmp_path: Path, wanted: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        choose(read(BUNDLED, tmp_path), wanted, has_gpu=False)


def test_every_bundled_model_has_its_callers_names(tmp_path: Path) -> None:
    names = {name for model in read(BUNDLED, tmp_path).values() for name in model.names}
    assert {"qwen_instruct", "qwen_base", "qwen_vl"} <= names
