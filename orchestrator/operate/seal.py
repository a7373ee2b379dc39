"""Callers' texts at rest: sealed with AES-256-GCM under the key of the data directory, whatever table they stand in."""

import base64
import os
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import SoundstageError
from core.keys import read_or_make_bytes

NONCE = 12  # bytes, before the ciphertext
SEALED = "sealed"


class Seal:
    """What is sealed is bound to where it belongs: moved to another place, it does not open."""

    def __init__(self, key: bytes) -> None:
        self._aes = AESGCM(key)

    def seal(self, plain: bytes, place: str) -> bytes:
        nonce = os.urandom(NONCE)
        return nonce + self._aes.encrypt(nonce, plain, place.encode())

    def open(self, sealed: bytes, place: str) -> bytes:
        """Raises SoundstageError where another key, or another place, sealed it."""
        try:
            return self._aes.decrypt(sealed[:NONCE], sealed[NONCE:], place.encode())
        except (InvalidTag, ValueError) as exc:  # ValueError: the bytes are none that were sealed
            raise SoundstageError("The contents were sealed with another key.", code="contents_key") from exc

    def wrap(self, value: Any, place: str) -> dict[str, str]:
        """JSON that holds a JSON value sealed, for a column of JSON."""
        return {SEALED: base64.b64encode(self.seal(msgspec.json.encode(value), place)).decode()}

    def unwrap(self, kept: Any, place: str) -> Any:
        """The value again. One that the version before kept is as it was: it was not sealed."""
        if not isinstance(kept, dict) or kept.keys() != {SEALED} or not isinstance(kept[SEALED], str):
            return kept
        return msgspec.json.decode(self.open(base64.b64decode(kept[SEALED]), place))


def contents_key(file: Path) -> bytes:
    """The key in the data directory, made on first use. Raises SettingsError for one that is not whole."""
    return read_or_make_bytes(file)
