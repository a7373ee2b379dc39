"""Secrets that the studio makes for itself: kept in a file of mode 0600."""

import os
import secrets
from pathlib import Path

PREFIX = "sk-soundstage-"


def new_key() -> str:
    """256 random bits, in a form that scanners for leaked secrets can recognise."""
    return PREFIX + secrets.token_urlsafe(32)


def read_or_make(file: Path) -> str:
    """The key in `file`, made where there is none; several processes may ask at once and get the same one."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not file.exists():
        made = file.with_name(f".{file.name}.{os.getpid()}")
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(new_key() + "\n")
        try:
            os.link(made, file)
        except FileExistsError:
            pass  # another process was first
        finally:
            made.unlink()
    return file.read_text("utf-8").strip()
