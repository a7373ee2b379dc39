"""Pictures that are handed out by address: files named by their content, behind signed links that expire."""

import hashlib
import hmac
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from core.errors import Forbidden, NotFound
from core.keys import read_or_make_bytes

PATH = "/v1/images/files/"
_NAME = re.compile(r"[0-9a-f]{64}\.(png|webp|jpeg)")


@dataclass
class Blobs:
    """Every time is in seconds since the epoch, and passed in."""

    folder: Path
    key: bytes
    lifetime: int  # seconds that a link works, and a file is kept
    _swept: float = 0.0

    @classmethod
    def under(cls, data_dir: Path, lifetime: int) -> "Blobs":
        """The key is made once and kept beside the data, readable for its owner only."""
        return cls(data_dir / "blobs" / "images", read_or_make_bytes(data_dir / "keys" / "image-links"), lifetime)

    def put(self, content: bytes, suffix: str, now: float) -> str:
        """Keep a file until a lifetime after now; returns its name. The same content is kept once."""
        self._sweep(now)
        name = f"{hashlib.sha256(content).hexdigest()}.{suffix}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".", delete=False) as file:
            file.write(content)
        os.utime(file.name, (now, now))
        os.replace(file.name, self.folder / name)
        return name

    def link(self, base: str, name: str, now: float) -> str:
        expires = int(now) + self.lifetime
        query = urlencode({"expires": expires, "signature": self._sign(name, expires)})
        return f"{base.rstrip('/')}{PATH}{name}?{query}"

    def read(self, name: str, expires: str, signature: str, now: float) -> bytes:
        """Raises Forbidden for a link that was not given out or has expired, NotFound for a file that is gone."""
        good = expires.isascii() and expires.isdigit() and len(expires) < 16 and _NAME.fullmatch(name) is not None
        if not good or not hmac.compare_digest(signature.encode(), self._sign(name, int(expires)).encode()):
            raise Forbidden("The link's signature is wrong.", param="signature", code="invalid_signature")
        if int(expires) <= now:
            raise Forbidden("The link has expired.", param="expires", code="link_expired")
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError as exc:
            raise NotFound("The file is not kept any more.", code="file_not_found") from exc

    def _sign(self, name: str, expires: int) -> str:
        return hmac.new(self.key, f"{name}\n{expires}".encode(), hashlib.sha256).hexdigest()

    def _sweep(self, now: float) -> None:
        """Remove what no link reaches, at most ten times a lifetime."""
        if now - self._swept < self.lifetime / 10 or not self.folder.is_dir():
            return
        self._swept = now
        for file in self.folder.iterdir():
            if file.stat().st_mtime < now - self.lifetime:
                file.unlink(missing_ok=True)
