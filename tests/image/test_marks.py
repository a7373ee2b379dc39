"""What a picture says about itself: to `inspect`, to C2PA's reader; and links to files."""

import base64
import datetime as dt
import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from core.errors import Forbidden, NotFound
from image.__main__ import print_marks
from image.blobs import Blobs
from image.encode import EDITED, GENERATED, Format, Origin, Output, encode, facts_of
from image.pipelines.zimage import ZImage
from image.request import Pixels
from image.signing import Signer, SigningError, manifest_of
from tests.image.asking import GENERATIONS, picture, post, worker

PIXELS = Pixels(32, 16, bytes(range(256)) * 6)
ORIGIN = Origin("m", 7, 4, release="rel-1", run_id="run-1")
FORMATS: list[Format] = ["png", "webp", "jpeg"]


class Certified:
    """A certificate authority of one's own and a leaf that it signed."""

    def __init__(self, folder: Path) -> None:
        root_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root = _certificate("Soundstage test root", root_key, None)
        leaf = _certificate("Soundstage test signer", leaf_key, (root, root_key))
        pem = serialization.Encoding.PEM
        self.certificate, self.key = folder / "chain.pem", folder / "key.pem"
        self.certificate.write_bytes(leaf.public_bytes(pem) + root.public_bytes(pem))
        self.key.write_bytes(
            leaf_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None
) -> x509.Certificate:
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test")]
    )
    signing_key = issuer[1] if issuer else key
    now = dt.datetime.now(dt.UTC)
    usage = x509.KeyUsage(issuer is not None, False, False, False, False, issuer is None, False, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )
    if issuer:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(signing_key, hashes.SHA256())


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    return Certified(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def signer(certified: Certified) -> Signer:
    return Signer.load(certified.certificate, certified.key, "es256", None)


@pytest.mark.parametrize("format", FORMATS)
def test_a_signed_file_keeps_its_marks_and_verifies(signer: Signer, format: Format) -> None:
    plain = encode(PIXELS, ORIGIN, Output(format))
    signed = signer.sign(plain, ORIGIN, Output(format))
    assert facts_of(signed) == facts_of(plain)
    store = manifest_of(signed, Output(format))
    assert store is not None
    assert store["validation_state"] == "Valid"
    manifest = store["manifests"][store["active_manifest"]]
    [action] = manifest["assertions"][0]["data"]["actions"]
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", GENERATED)
    assert "thumbnail" not in json.dumps(store)


def test_a_later_change_breaks_the_signature(signer: Signer) -> None:
    signed = bytearray(signer.sign(encode(PIXELS, ORIGIN, Output()), ORIGIN, Output()))
    at = signed.index(b"IDAT") + 10
    signed[at] ^= 1
    store = manifest_of(bytes(signed), Output())
    assert store is not None
    assert store["validation_state"] == "Invalid"


def test_an_unsigned_file_has_no_manifest() -> None:
    assert manifest_of(encode(PIXELS, ORIGIN, Output()), Output()) is None


def test_a_key_that_does_not_fit_is_refused_at_the_start(certified: Certified, tmp_path: Path) -> None:
    with pytest.raises(SigningError, match="No such file"):
        Signer.load(tmp_path / "none.pem", certified.key, "es256", None)
    with pytest.raises(SigningError, match="cannot sign"):
        Signer.load(certified.key, certified.certificate, "es256", None)


async def test_the_worker_signs_last(pipeline: ZImage, certified: Certified, tmp_path: Path) -> None:
    signing: dict[str, Any] = {"image_c2pa_certificate": certified.certificate, "image_c2pa_key": certified.key}
    async with worker(lambda: pipeline, tmp_path, **signing) as port:
        told = (await post(port, GENERATIONS, {"prompt": "x", "seed": 1, "response_format": "b64_json"})).json()
    file = base64.b64decode(told["data"][0]["b64_json"])
    assert picture(told["data"][0]["b64_json"]).size == (64, 64)
    store = manifest_of(file, Output())
    assert store is not None
    assert store["validation_state"] == "Valid"


@pytest.mark.parametrize("format", FORMATS)
def test_inspect_prints_the_marks(
    format: Format, signer: Signer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"a.{format}"
    origin = Origin("m", 7, 4, source_type=EDITED)
    file.write_bytes(signer.sign(encode(PIXELS, origin, Output(format)), origin, Output(format)))
    assert print_marks(file) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["marks"]["digital_source_type"] == told["marks"]["xmp_digital_source_type"] == EDITED
    assert told["c2pa"]["validation_state"] == "Valid"


def test_inspect_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert print_marks(tmp_path / "none.png") == 1
    (tmp_path / "text").write_text("no picture")
    assert print_marks(tmp_path / "text") == 1
    assert capsys.readouterr().err.count("\n") == 2


def test_a_link_lives_as_long_as_its_file(tmp_path: Path) -> None:
    blobs = Blobs.under(tmp_path, lifetime=100)
    name = blobs.put(b"content", "png", now=1000)
    assert blobs.put(b"content", "png", now=1001) == name
    assert len(list(blobs.folder.iterdir())) == 1
    link = blobs.link("http://h", name, now=1001)
    expires, signature = (part.split("=")[1] for part in link.split("?")[1].split("&"))
    assert blobs.read(name, expires, signature, now=1100) == b"content"
    with pytest.raises(Forbidden):
        blobs.read(name, expires, signature, now=1101)
    with pytest.raises(Forbidden):
        blobs.read("../keys/image-links", expires, signature, now=1002)
    blobs.put(b"other", "png", now=1102)  # what no link reaches is removed
    with pytest.raises(NotFound):
        blobs.read(name, expires, signature, now=1002)


def test_the_key_outlives_the_process_and_is_the_owners(tmp_path: Path) -> None:
    first, second = Blobs.under(tmp_path, 100), Blobs.under(tmp_path, 100)
    assert first.key == second.key
    assert os.stat(tmp_path / "keys" / "image-links").st_mode & 0o077 == 0
