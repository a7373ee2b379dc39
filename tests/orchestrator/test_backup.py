"""A backup in an empty place gives the same prompts, runs, proofs, keys and pictures; a damaged one is refused."""

import io
import os
import tarfile
from argparse import Namespace
from pathlib import Path

import psycopg
import pytest

from orchestrator.operate import backup
from orchestrator.settings import OrchestratorSettings
from tests.fakes.studio import WORKER_KEY, Studio, studio_over
from tests.orchestrator.test_prompts_api import made, named

PICTURE = b"\x89PNG a picture"


def settings(data_dir: Path, dsn: str | None) -> OrchestratorSettings:
    return OrchestratorSettings.load(data_dir=data_dir, database_url=dsn, wan_worker_api_key=WORKER_KEY)


async def answered(studio: Studio) -> tuple[str, dict[str, str]]:
    """The run and the proof of an answer."""
    answer = await studio.post("/v1/chat/completions", {**named("1"), "seed": 7})
    assert answer.status_code == 200, answer.text
    proof = ("x-prompt-release", "x-messages-sha256", "x-prompt-tokens-sha256", "x-policy", "x-floor", "x-proof")
    return answer.headers["x-run-id"], {name: answer.headers[name] for name in proof}


async def test_a_restored_studio_gives_the_same_answers_and_proofs(
    migrated_dsn: str, postgres_dsn: str, tmp_path: Path
) -> None:
    old, new, file = tmp_path / "old", tmp_path / "new", tmp_path / "studio.tar"
    async with studio_over(migrated_dsn, old) as studio:
        await studio.proving_worker()
        await made(studio, "First.")
        run, proof = await answered(studio)
        record = (await studio.get(f"/v1/runs/{run}")).json()
        prompts = (await studio.get("/v1/prompts")).json()
        (old / "blobs" / "pipelines").mkdir(parents=True, exist_ok=True)
        (old / "blobs" / "pipelines" / "aa.png").write_bytes(PICTURE)
        manifest = await backup.back_up(settings(old, migrated_dsn), file)  # while it runs
    assert os.stat(file).st_mode & 0o077 == 0
    assert await backup.restore(settings(new, postgres_dsn), file) == manifest
    assert (new / "blobs" / "pipelines" / "aa.png").read_bytes() == PICTURE
    async with studio_over(postgres_dsn, new) as studio:
        await studio.proving_worker()
        assert studio.key == (old / "keys" / "local_api_key").read_text().strip()
        assert (await studio.get("/v1/prompts")).json() == prompts
        assert (await studio.get(f"/v1/runs/{run}")).json() == record
        again = await studio.post(f"/v1/runs/{run}/replay", {"variables": {"message": "Hi"}, "call": True})
        assert again.json()["same"]
        assert again.json()["called"]["same_output"]
        assert (await answered(studio))[1] == proof


async def test_what_never_changes_still_never_changes(migrated_dsn: str, postgres_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "studio.tar"
    await backup.back_up(settings(tmp_path / "old", migrated_dsn), file)
    await backup.restore(settings(tmp_path / "new", postgres_dsn), file)
    async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.RestrictViolation):
            await connection.execute("update template_versions set body = 'other'")


async def test_the_embedded_server_is_backed_up_and_restored(postgres_directory: Path, migrated_dsn: str) -> None:
    folder = postgres_directory.parent
    await backup.back_up(settings(folder / "old", migrated_dsn), folder / "a.tar")
    first = await backup.restore(settings(folder / "new", None), folder / "a.tar")
    second = await backup.back_up(settings(folder / "new", None), folder / "b.tar")
    assert first["files"].keys() == second["files"].keys()
    assert (folder / "new" / "postgres" / "PG_VERSION").exists()


async def test_a_restore_over_anything_is_refused(migrated_dsn: str, postgres_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "studio.tar"
    await backup.back_up(settings(tmp_path / "old", migrated_dsn), file)
    with pytest.raises(backup.BackupError, match="exists already"):
        await backup.back_up(settings(tmp_path / "old", migrated_dsn), file)
    with pytest.raises(backup.BackupError, match="holds a studio already"):
        await backup.restore(settings(tmp_path / "new", migrated_dsn), file)
    (tmp_path / "full" / "keys").mkdir(parents=True)
    with pytest.raises(backup.BackupError, match="DATA_DIR is not empty"):
        await backup.restore(settings(tmp_path / "full", postgres_dsn), file)
    with pytest.raises(backup.BackupError, match="holds no studio"):
        await backup.back_up(settings(tmp_path / "old", postgres_dsn), tmp_path / "other.tar")


def rewritten(source: Path, target: Path, name: str, content: bytes) -> None:
    """The same archive with other bytes in one file."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old.getmembers():
            data = old.extractfile(member)
            assert data is not None
            held = content if member.name == name else data.read()
            member.size = len(held)
            new.addfile(member, io.BytesIO(held))


async def test_a_damaged_file_is_refused_and_nothing_is_left(
    migrated_dsn: str, postgres_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, damaged, stranger = tmp_path / "a.tar", tmp_path / "b.tar", tmp_path / "c.tar"
    await backup.back_up(settings(tmp_path / "old", migrated_dsn), whole)
    rewritten(whole, damaged, "database.dump", b"something else")
    with pytest.raises(backup.BackupError, match=r"damaged: database.dump"):
        await backup.restore(settings(tmp_path / "new", postgres_dsn), damaged)
    with tarfile.open(stranger, "w") as tar:
        tar.addfile(tarfile.TarInfo("../outside"))
    with pytest.raises(backup.BackupError, match="no backup of the studio"):
        await backup.restore(settings(tmp_path / "new", postgres_dsn), stranger)
    assert list((tmp_path / "new").iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_the_command_says_in_one_sentence_what_went_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = Namespace(command="restore", file=tmp_path / "none.tar", json=False)
    assert backup.run(given, settings(tmp_path / "data", None)) == 1
    assert "none.tar" in capsys.readouterr().err
