"""Who has a device that several workers share, and who is next: a folder that they share, and no process of its own.

request: a claim joins the end of the line. grant: the first in line has the device, when nobody has it. release: the
claim leaves. expire: a claim that was not renewed for EXPIRY_SECONDS has left. And when its owner dies: every owner
holds a lock on a file of its own, which ends with the last process that holds it, however that ends.

`settle` decides, with values alone; `Line` keeps the claims in the folder. The folder is on one machine; containers
may share it.
"""

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

EXPIRY_SECONDS = 30.0


class LineBusyError(RuntimeError):
    """Another process writes the line in this moment, or the folder cannot be written: ask again soon."""


class Claim(msgspec.Struct, frozen=True):
    """`renewed` and `granted` are readings of the system's monotonic clock, in seconds; `granted` by whoever has it."""

    id: str
    renewed: float
    granted: float | None = None


@dataclass(frozen=True)
class Standing:
    """One claim, as the line shows it. `behind`: how many others wait. `lost`: it expired, and is not in the line."""

    granted: float | None = None
    behind: int = 0
    lost: bool = False


def settle(
    line: Sequence[Claim], now: float, lives: Callable[[str], bool], expiry: float = EXPIRY_SECONDS
) -> list[Claim]:
    """The line without those that died or expired; its first has the device where nobody has it."""
    here = [claim for claim in line if now - claim.renewed < expiry and lives(claim.id)]
    if here and all(claim.granted is None for claim in here):
        here[0] = msgspec.structs.replace(here[0], granted=now)
    return here


def standing(line: Sequence[Claim], id: str) -> Standing:
    mine = next((claim for claim in line if claim.id == id), None)
    return Standing(lost=True) if mine is None else Standing(mine.granted, len(line) - 1)


class Line:
    """One worker's place in it. Every method is a few small file operations. All raise LineBusyError."""

    def __init__(
        self, folder: Path, name: str, *, clock: Callable[[], float] = time.monotonic, expiry: float = EXPIRY_SECONDS
    ) -> None:
        """Raises OSError where the folder cannot be made or written."""
        self.id = f"{name}-{secrets.token_hex(6)}"
        self.clock = clock
        self._folder, self._expiry = folder, expiry
        self._owners = folder / "owners"
        self._owners.mkdir(parents=True, exist_ok=True)
        self.lock = os.open(self._owners / self.id, os.O_RDWR | os.O_CREAT, 0o666)
        """Held for as long as this worker lives; a child that inherits it holds it too."""
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def join(self) -> Standing:
        """Request the device."""
        return self._changed(lambda line, now: [*_without(line, self.id), Claim(self.id, now)])

    def look(self) -> Standing:
        """Renew the claim, and see how it stands."""
        return self._changed(
            lambda line, now: [msgspec.structs.replace(c, renewed=now) if c.id == self.id else c for c in line]
        )

    def leave(self) -> None:
        """Release the device, or give up waiting for it."""
        self._changed(lambda line, now: _without(line, self.id))

    def close(self) -> None:
        """As if this process had died: the claim ends when those that inherited the lock have."""
        os.close(self.lock)

    def _changed(self, change: Callable[[list[Claim], float], list[Claim]]) -> Standing:
        with self._alone():
            now, before = self.clock(), self._read()
            here = settle(before, now, self._lives, self._expiry)
            after = settle(change(here, now), now, self._lives, self._expiry)
            if after != before:
                self._write(after)
            return standing(after, self.id)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes the line meanwhile. Not waited for: who holds it may have been stopped."""
        try:
            gate = os.open(self._folder / "gate", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as exc:
            raise LineBusyError(str(exc)) from exc
        try:
            fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except OSError as exc:
            raise LineBusyError(str(exc)) from exc
        finally:
            os.close(gate)

    def _read(self) -> list[Claim]:
        try:
            return msgspec.json.decode((self._folder / "line.json").read_bytes(), type=list[Claim])
        except (FileNotFoundError, msgspec.DecodeError):  # a line that cannot be read is an empty one
            return []

    def _write(self, line: Sequence[Claim]) -> None:
        """As a whole: who dies while writing leaves the line as it was."""
        new = self._folder / "line.json.new"
        new.write_bytes(msgspec.json.encode(line))
        new.replace(self._folder / "line.json")

    def _lives(self, id: str) -> bool:
        """Whether any process holds the owner's lock."""
        if id == self.id:
            return True
        file = self._owners / id
        try:
            found = os.open(file, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(found)
        file.unlink(missing_ok=True)
        return False


def _without(line: Sequence[Claim], id: str) -> list[Claim]:
    return [claim for claim in line if claim.id != id]
