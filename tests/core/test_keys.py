"""Secrets of the data directory: made whole, and refused where they are not whole any more."""

from collections.abc import Callable
from pathlib import Path

import pytest

from core.keys import LEAST, read_or_make, read_or_make_bytes
from core.settings import SettingsError
from image.blobs import Blobs
from orchestrator.app import create_app
from orchestrator.operate import blobs
from orchestrator.settings import OrchestratorSettings

SHORT = ["", "\n", "a" * (LEAST - 1), "two words that are long enough to be a key\n", "a" * 40 + "\0"]
BINARY = [b"", bytes(31), bytes(33)]


@pytest.mark.parametrize("held", SHORT)
def test_a_text_that_is_no_key_is_refused(held: str, tmp_path: Path) -> None:
    file = tmp_path / "blob_links"
    file.write_text(held)
    with pytest.raises(SettingsError, match="blob_links"):
        read_or_make(file)


@pytest.mark.parametrize("held", BINARY)
def test_bytes_that_are_no_key_are_refused(held: bytes, tmp_path: Path) -> None:
    file = tmp_path / "contents_key"
    file.write_bytes(held)
    with pytest.raises(SettingsError, match="contents_key"):
        read_or_make_bytes(file)


@pytest.mark.parametrize("make", [read_or_make, read_or_make_bytes])
def test_what_is_made_stays_and_is_its_owners_alone(make: Callable[[Path], object], tmp_path: Path) -> None:
    file = tmp_path / "keys" / "one"
    assert make(file) == make(file)
    assert [each.name for each in file.parent.iterdir()] == ["one"]
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["contents_key", "blob_links", "worker_key", "local_api_key", "webhook_secret"])
def test_an_empty_key_file_stops_the_start(name: str, tmp_path: Path) -> None:
    file = tmp_path / "keys" / name
    file.parent.mkdir()
    file.touch()
    settings = OrchestratorSettings.load(data_dir=tmp_path, wan_worker_api_key=None, llm_url=None)
    with pytest.raises(SettingsError, match=name):
        create_app(settings, "postgresql:///none")


def test_links_are_not_signed_with_nothing(tmp_path: Path) -> None:
    """Anybody can sign with an empty key."""
    (tmp_path / "keys").mkdir()
    for name in ("blob_links", "image-links"):
        (tmp_path / "keys" / name).touch()
    with pytest.raises(SettingsError):
        blobs.blobs_of(OrchestratorSettings.load(data_dir=tmp_path, llm_url=None))
    with pytest.raises(SettingsError):
        Blobs.under(tmp_path, 60)
