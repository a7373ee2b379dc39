"""Secrets that the studio makes for itself: kept in a file of mode 0600, made whole or not at all.

One that is too short, or was cut short, stops the start: what it signs or seals could be forged.
"""

import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

from core.settings import SettingsError

PREFIX = "sk-soundstage-"
LEAST = 32  # characters of a key that is text
SEALING_BYTES = 32  # of AES-256
_WHOLE = re.compile(rf"[!-~]{{{LEAST},4096}}").fullmatch  # it may stand in a header


def new_key() -> str:
    """256 random bits, in a form that scanners for leaked secrets can recognise."""
    return PREFIX + secrets.token_urlsafe(32)


def read_or_make(file: Path) -> str:
    """The key in `file`, made where there is none; several processes may ask at once and get the same one. Raises
    SettingsError for one that is too short, or no key at all."""
    key = _read_or_write(file, lambda: (new_key() + "\n").encode()).decode("utf-8", "replace").strip()
    if not _WHOLE(key):
        raise _unusable(file, f"a key of at least {LEAST} printable ASCII characters without blanks")
    return key


def read_or_make_bytes(file: Path) -> bytes:
    """The same of a key of 32 random bytes."""
    key = _read_or_write(file, lambda: secrets.token_bytes(SEALING_BYTES))
    if len(key) != SEALING_BYTES:
        raise _unusable(file, f"a key of exactly {SEALING_BYTES} bytes")
    return key


def _read_or_write(file: Path, new: Callable[[], bytes]) -> bytes:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not file.exists():
        made = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(new())
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(made, file)
        except FileExistsError:
            pass  # another process was first
        finally:
            made.unlink()
    return file.read_bytes()


def _unusable(file: Path, wanted: str) -> SettingsError:
    todo = "Restore it from a backup, or remove it: a new one is made, and what the old one sealed or signed is lost."
    return SettingsError(f"{file} does not hold {wanted}. {todo}")
