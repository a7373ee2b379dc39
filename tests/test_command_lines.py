"""The command lines of the four services: what they print for a person and for a program, and how they end."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import image.__main__
import llm.__main__
import orchestrator.__main__
import vision.__main__

MAINS: dict[str, Callable[[list[str]], object]] = {
    "orchestrator": orchestrator.__main__.main,
    "llm": llm.__main__.main,
    "image": image.__main__.main,
    "vision": vision.__main__.main,
}


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty.toml").touch()
    monkeypatch.setenv("SOUNDSTAGE_SETTINGS", str(tmp_path / "empty.toml"))
    monkeypatch.setenv("WAN_WORKER_API_KEY", "the-key")
    monkeypatch.setenv("PORT", "1234")


@pytest.mark.parametrize("name", MAINS)
def test_settings_are_printed_for_a_person_and_for_a_program(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    MAINS[name](["settings", "--json"])
    settings = json.loads(capsys.readouterr().out)
    assert (settings["PORT"], settings["WAN_WORKER_API_KEY"]) == ("1234", "********")
    MAINS[name](["settings"])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{name}={value}" for name, value in settings.items()]


@pytest.mark.parametrize("name", MAINS)
def test_a_wrong_setting_is_named_and_the_status_is_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "high")
    with pytest.raises(SystemExit, match="PORT") as ended:
        MAINS[name](["settings"])
    assert isinstance(ended.value.code, str), "Python prints it on standard error and ends with 1"


@pytest.mark.parametrize("name", MAINS)
def test_a_wrong_command_line_ends_with_two(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        MAINS[name](["dance"])
    assert ended.value.code == 2
    assert "dance" in capsys.readouterr().err


def test_the_catalogue_of_models_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    MAINS["llm"](["models", "--json"])
    models = json.loads(capsys.readouterr().out)
    assert {"smollm2-135m-instruct", "qwen2.5-7b-instruct"} <= {model["id"] for model in models}
    MAINS["llm"](["models"])
    assert len(capsys.readouterr().out.splitlines()) == len(models)
