"""C2PA: a signed manifest in the finished file, where the operator has a certificate. Always the last change."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image.encode import Origin, Output

_NO_THUMBNAILS = {"builder": {"thumbnail": {"enabled": False}}}  # one would publish what a picture was made from


class SigningError(ValueError):
    """The certificate or key cannot be used; the message says why."""


@dataclass(frozen=True)
class Signer:
    certificate: str  # PEM, the whole chain, leaf first
    key: str  # PEM
    algorithm: str = "es256"
    timestamp_url: str | None = None

    @classmethod
    def load(cls, certificate: Path, key: Path, algorithm: str, timestamp_url: str | None) -> "Signer":
        """Raises SigningError where the files or the library are missing, or do not fit each other."""
        try:
            import c2pa  # noqa: F401
        except ImportError as exc:
            raise SigningError("IMAGE_C2PA_CERTIFICATE needs the package c2pa-python") from exc
        try:
            signer = cls(certificate.read_text(), key.read_text(), algorithm, timestamp_url)
        except OSError as exc:
            raise SigningError(f"{exc.filename}: {exc.strerror}") from exc
        signer._check()
        return signer

    def sign(self, file: bytes, origin: Origin, output: Output) -> bytes:
        import c2pa

        signed = io.BytesIO()
        context = c2pa.Context.from_dict(_NO_THUMBNAILS)
        with c2pa.Builder(json.dumps(_manifest(origin)), context) as builder, self._native() as native:
            builder.sign(native, output.media_type, io.BytesIO(file), signed)
        return signed.getvalue()

    def _native(self) -> Any:
        import c2pa

        timestamp = self.timestamp_url.encode() if self.timestamp_url else None
        return c2pa.Signer.from_info(
            c2pa.C2paSignerInfo(self.algorithm, self.certificate.encode(), self.key.encode(), timestamp)
        )

    def _check(self) -> None:
        import c2pa

        try:
            self._native().close()
        except c2pa.C2paError as exc:
            raise SigningError(f"The C2PA certificate and key cannot sign: {exc}") from exc


def manifest_of(file: bytes, output: Output) -> dict[str, Any] | None:
    """The file's manifest store as C2PA's reader tells it; None where there is none or no reader."""
    try:
        import c2pa
    except ImportError:
        return None
    reader = c2pa.Reader.try_create(output.media_type, io.BytesIO(file))
    if reader is None:
        return None
    with reader:
        store: dict[str, Any] = json.loads(reader.json())
    return store


def _manifest(origin: Origin) -> dict[str, Any]:
    agent = {"name": origin.model}
    created = {"action": "c2pa.created", "digitalSourceType": origin.source_type, "softwareAgent": agent}
    return {
        "claim_generator_info": [{"name": "Soundstage"}],
        "title": f"{origin.model} {origin.seed}",
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }
