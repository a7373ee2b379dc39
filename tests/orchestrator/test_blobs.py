"""Blobs: the same promises by a folder and by a bucket that speaks S3 (moto's server stands for it)."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import boto3  # type: ignore[import-untyped]
import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import LocalStore, MemoryStore, ObjectStore

from core.errors import Forbidden, NotFound, PayloadTooLarge, SoundstageError, Unavailable, Upstream
from orchestrator.operate import blobs
from orchestrator.operate.blobs import Blobs, Reference, Retention
from orchestrator.settings import OrchestratorSettings

DAY = Retention(seconds=86_400, link_seconds=3600, most_bytes=1 << 20)
PICTURE = b"\x89PNG\r\n\x1a\n a picture"
SECRET = "of-the-bucket"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="the-key",
        aws_secret_access_key=SECRET,
    )
    client.create_bucket(Bucket="pictures")
    client.close()
    yield address
    server.stop()


@pytest.fixture(params=["folder", "bucket"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """As the settings make it."""
    given: dict[str, object] = {"data_dir": tmp_path}
    if request.param == "bucket":
        given |= {
            "blob_url": f"s3://pictures/{request.node.name}",
            "blob_endpoint": request.getfixturevalue("s3"),
            "blob_access_key_id": "the-key",
            "blob_secret_access_key": SECRET,
        }
    return blobs.blobs_of(OrchestratorSettings.load(**given))


class Clock:
    """The store's times are real; this says how long after them it is."""

    def __init__(self) -> None:
        self.later = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.later


def made(store: ObjectStore | None = None, keeping: Retention = DAY, clock: Clock | None = None) -> Blobs:
    return Blobs(store or MemoryStore(), b"the key of the links", keeping, clock or Clock())


async def test_what_is_put_is_named_by_its_content_and_given_back(kept: Blobs) -> None:
    first, again = await kept.put(PICTURE, "image/png"), await kept.put(PICTURE, "image/png")
    assert first == again == Reference(blob=hashlib.sha256(PICTURE).hexdigest(), type="image/png", bytes=len(PICTURE))
    assert await kept.get(first) == PICTURE
    other = await kept.put(b"another", "image/webp")
    assert await kept.get(other) == b"another"
    with pytest.raises(NotFound):
        await kept.get(Reference(blob="0" * 64, type="image/png", bytes=1))
    assert await kept.purge_once() == 0


async def test_a_link_works_without_a_key(kept: Blobs) -> None:
    reference = await kept.put(PICTURE, "image/png")
    name, expires, signature = parts(kept.url(reference, "http://studio:8000/"))
    assert await kept.from_link(name, expires, signature) == (PICTURE, "image/png")


def parts(url: str) -> tuple[str, str, str]:
    split = urlsplit(url)
    query = parse_qs(split.query)
    return split.path.removeprefix(blobs.PATH), query["expires"][0], query["signature"][0]


async def test_a_link_that_was_not_given_out_does_not() -> None:
    clock = Clock()
    kept = made(clock=clock)
    one, other = await kept.put(PICTURE, "image/png"), await kept.put(b"another", "image/png")
    name, expires, signature = parts(kept.url(one, "http://studio"))
    wrong = {
        "another picture": (blobs.name_of(other), expires, signature),
        "a longer time": (name, str(int(expires) + 1), signature),
        "no time": (name, "", signature),
        "a time in other digits": (name, "١٢٣", signature),
        "no signature": (name, expires, ""),
        "a signature that is no text of ours": (name, expires, "é"),
        "a name from elsewhere": ("../keys/blob_links", expires, signature),
    }
    for what, given in wrong.items():
        with pytest.raises(Forbidden, match="wrong"):
            await kept.from_link(*given)
        assert what
    clock.later = timedelta(seconds=DAY.link_seconds + 1)
    with pytest.raises(Forbidden, match="expired"):
        await kept.from_link(name, expires, signature)


async def test_what_is_past_its_time_goes_and_what_was_put_again_stays() -> None:
    clock = Clock()
    kept = made(clock=clock)
    one = await kept.put(PICTURE, "image/png")
    clock.later = timedelta(seconds=DAY.seconds - 60)
    assert await kept.purge_once() == 0
    clock.later = timedelta(seconds=DAY.seconds + 60)
    assert await kept.purge_once() == 1
    with pytest.raises(NotFound):
        await kept.get(one)


async def test_the_oldest_make_room() -> None:
    kept = made(keeping=replace(DAY, most_bytes=250))
    first, second = await kept.put(b"1" * 100, "image/png"), await kept.put(b"2" * 100, "image/png")
    third = await kept.put(b"3" * 100, "image/png")
    with pytest.raises(NotFound):
        await kept.get(first)
    assert (await kept.get(second), await kept.get(third)) == (b"2" * 100, b"3" * 100)


async def test_a_blob_has_a_largest_size() -> None:
    with pytest.raises(PayloadTooLarge):
        await made().put(bytes(blobs.MAX_BYTES + 1), "image/png")


async def test_what_was_changed_in_the_store_is_not_given_out(tmp_path: Path) -> None:
    kept = made(LocalStore(tmp_path))
    reference = await kept.put(PICTURE, "image/png")
    (tmp_path / blobs.name_of(reference)).write_bytes(b"something else")
    with pytest.raises(Upstream):
        await kept.get(reference)


async def test_what_is_not_ours_in_a_bucket_stays() -> None:
    store, clock = MemoryStore(), Clock()
    await obstore.put_async(store, "somebody's.txt", b"x")
    clock.later = timedelta(days=9)
    assert await made(store, clock=clock).purge_once() == 0
    assert (await (await obstore.get_async(store, "somebody's.txt")).bytes_async()) == b"x"


async def test_a_store_that_is_away_says_so(tmp_path: Path) -> None:
    given = {"blob_url": "s3://pictures", "blob_endpoint": "http://127.0.0.1:1", "blob_access_key_id": "k"}
    away = OrchestratorSettings.load(data_dir=tmp_path, blob_secret_access_key="s", **given)
    with pytest.raises(Unavailable) as raised:
        await blobs.blobs_of(away).get(Reference(blob="0" * 64, type="image/png", bytes=1))
    assert raised.value.code == "blobs_unavailable"


@pytest.mark.parametrize(
    "reference",
    [{"blob": "../x", "type": "image/png", "bytes": 1}, {"blob": "0" * 64, "type": "text/html", "bytes": 1}],
)
def test_a_reference_that_was_never_given(reference: Reference) -> None:
    with pytest.raises(SoundstageError):
        blobs.name_of(reference)
