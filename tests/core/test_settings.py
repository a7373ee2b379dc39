"""Settings: a file and the environment, the environment wins; a bad value is named and never shown."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, SecretStr

from core.settings import CommaList, Settings, SettingsError, WorkerSettings


class Own(Settings):
    """What a service might add."""

    token: SecretStr | None = Field(None, min_length=8)
    pools: CommaList = ()
    weight: float = 1.0


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings are read from the process's environment and directory: both are emptied for each test."""
    for name in os.environ:
        if name.lower() in WorkerSettings.model_fields | Own.model_fields or name == "SOUNDSTAGE_SETTINGS":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_defaults_bind_loopback_only() -> None:
    settings = Settings.load()
    assert (settings.host, settings.data_dir, settings.log_format) == ("127.0.0.1", Path("data"), "json")


SOURCES = {
    "file": ({"port": 1}, {}, {}, 1),
    "file, upper case": ({"PORT": 1}, {}, {}, 1),
    "environment wins over file": ({"port": 1}, {"PORT": "2"}, {}, 2),
    "environment, lower case": ({}, {"port": "2"}, {}, 2),
    "given wins over both": ({"port": 1}, {"PORT": "2"}, {"port": 3}, 3),
    "empty variable is none": ({"port": 1}, {"PORT": ""}, {}, 1),
    "unknown names are left alone": ({"port": 1, "unknown": "x"}, {"UNKNOWN": "y"}, {}, 1),
}


@pytest.mark.parametrize(("file", "env", "given", "port"), SOURCES.values(), ids=SOURCES.keys())
def test_where_a_value_comes_from(
    monkeypatch: pytest.MonkeyPatch, file: dict[str, Any], env: dict[str, str], given: dict[str, Any], port: int
) -> None:
    Path("soundstage.toml").write_text("".join(f"{k} = {v!r}\n" for k, v in file.items()))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert Settings.load(**given).port == port


def test_a_named_file_is_read_from_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "else" / "where.toml"
    file.parent.mkdir()
    file.write_text("port = 9")
    monkeypatch.setenv("SOUNDSTAGE_SETTINGS", str(file))
    assert Settings.load().port == 9


def test_a_named_file_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDSTAGE_SETTINGS", "missing.toml")
    with pytest.raises(SettingsError, match=r"SOUNDSTAGE_SETTINGS names a file that does not exist: missing\.toml"):
        Settings.load()


def test_a_file_that_does_not_parse_is_named() -> None:
    Path("soundstage.toml").write_text("port = \n")
    with pytest.raises(SettingsError, match=r"soundstage\.toml"):
        Settings.load()


LISTS = {
    "a,b": ("a", "b"),
    " a , b ,, c,": ("a", "b", "c"),
    "one": ("one",),
    ",": (),
    "http://a:1/x,http://b:2": ("http://a:1/x", "http://b:2"),
}


@pytest.mark.parametrize(("text", "wanted"), LISTS.items())
def test_lists_are_commas_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, wanted: tuple[str, ...]
) -> None:
    monkeypatch.setenv("POOLS", text)
    assert Own.load().pools == wanted


def test_lists_are_arrays_in_the_file() -> None:
    Path("soundstage.toml").write_text('POOLS = ["a", "b"]')
    assert Own.load().pools == ("a", "b")


BAD = {
    "PORT": "not-a-port",
    "MAX_BODY_BYTES": "17",
    "LOG_LEVEL": "chatty",
    "LOG_FORMAT": "xml",
    "WEIGHT": "heavy",
    "TOKEN": "hunter2",
}


@pytest.mark.parametrize(("name", "value"), BAD.items(), ids=BAD.keys())
def test_a_bad_value_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}: ") as caught:
        Own.load()
    assert value not in str(caught.value)


def test_every_bad_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in BAD.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        Own.load()
    assert {part.split(":")[0] for part in str(caught.value).split("; ")} == BAD.keys()


def test_not_even_a_traceback_shows_a_bad_secret() -> None:
    code = "from tests.core.test_settings import Own; Own.load()"
    environment = {**os.environ, "TOKEN": "hunter2", "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "SettingsError: TOKEN" in ended.stderr
    assert "hunter2" not in ended.stderr


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "long-enough-secret")
    monkeypatch.setenv("POOLS", "a,b")
    settings = Own.load()
    shown = settings.masked()
    assert (shown["TOKEN"], shown["POOLS"], shown["PORT"]) == ("********", "a,b", "0")
    assert "long-enough-secret" not in repr(settings) + str(shown)
    assert Own.load(token=None).masked()["TOKEN"] == ""


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().port = 1


ADDRESSES: dict[str, tuple[dict[str, Any], str]] = {
    "its host's": ({"host": "10.0.0.7"}, "http://10.0.0.7:81"),
    "loopback": ({}, "http://127.0.0.1:81"),
    "IPv6": ({"host": "fd00::7"}, "http://[fd00::7]:81"),
    "every interface": ({"host": "0.0.0.0"}, f"http://{socket.getfqdn()}:81"),
    "a pod's proxy": ({"runpod_pod_id": "abc"}, "https://abc-81.proxy.runpod.net"),
    "configured": ({"public_url": "https://w.example/", "runpod_pod_id": "abc"}, "https://w.example"),
}


@pytest.mark.parametrize(("given", "url"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_where_a_worker_is_reached(given: dict[str, Any], url: str) -> None:
    assert WorkerSettings.load(port=81, wan_worker_api_key="key", **given).reached_at() == url


def test_a_worker_that_others_can_reach_needs_a_key() -> None:
    with pytest.raises(SettingsError, match=r"^HOST is not loopback, so WAN_WORKER_API_KEY must"):
        WorkerSettings.load(host="0.0.0.0")
    assert WorkerSettings.load().worker_key is None
    assert WorkerSettings.load(wan_worker_api_key="key").worker_key == "key"
