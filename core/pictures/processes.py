"""Decoding in processes of their own: as many as there are threads, each used by one request at a time."""

import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np

from core.errors import InvalidRequest, PayloadTooLarge
from core.pictures.child import HEAD, LENGTH, PARTS
from core.pictures.decode import Limits, Part, Photo, refusal

ROOT = Path(__file__).resolve().parent.parent.parent
PASSED = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")


class Decoder(Protocol):
    def decode(self, data: bytes | bytearray, part: Part = "colours", param: str = "image") -> Photo:
        """Blocks. Safe to call from several threads. Raises InvalidRequest and PayloadTooLarge that name `param`."""
        ...

    def close(self) -> None: ...


class DecodingProcesses:
    """A decoder that a hostile file cannot take the service down with."""

    def __init__(self, limits: Limits, count: int, seconds: int, *, at_once: bool = True) -> None:
        """`at_once`: start them now, and not each when it is first used."""
        self._limits = limits
        self._seconds = seconds
        self._idle: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(count):
            self._idle.put(_Process(limits, seconds) if at_once else None)

    def decode(self, data: bytes | bytearray, part: Part = "colours", param: str = "image") -> Photo:
        process = self._idle.get()
        try:
            if process is None:
                process = _Process(self._limits, self._seconds)
            return process.decode(data, part, param)
        except OSError as exc:  # it died; why, is told by how
            ended = process.end() if process else 0
            process = _Process(self._limits, self._seconds)
            if ended == -signal.SIGALRM:
                message = f"The image takes longer than {self._seconds} s to decode."
                raise refusal("image_too_slow", message, param) from exc
            raise refusal("unreadable_image", "The image cannot be decoded safely.", param) from exc
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End those that are idle: all, once the service has answered."""
        while True:
            try:
                process = self._idle.get_nowait()
            except queue.Empty:
                return
            if process is not None:
                process.end()


class _Process:
    def __init__(self, limits: Limits, seconds: int) -> None:
        environment = {name: os.environ[name] for name in PASSED if name in os.environ}  # no key of the service's
        self._child = subprocess.Popen(
            (sys.executable, "-m", "core.pictures.child", json.dumps(asdict(limits)), str(seconds)),
            cwd=ROOT,
            env={**environment, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def decode(self, data: bytes | bytearray, part: Part, param: str) -> Photo:
        """Raises OSError where the process died, and what it refused."""
        assert self._child.stdin
        assert self._child.stdout
        self._child.stdin.write(HEAD.pack(len(data), PARTS.index(part)))
        self._child.stdin.write(data)
        self._child.stdin.flush()
        said = json.loads(self._read(LENGTH.unpack(self._read(LENGTH.size))[0]))
        if "code" in said:
            kind = PayloadTooLarge if said["status"] == PayloadTooLarge.status else InvalidRequest
            raise kind(said["message"], code=said["code"], param=param)
        shape = tuple(said["shape"])
        pixels = np.frombuffer(self._read(math.prod(shape)), dtype=np.uint8).reshape(shape)
        return Photo(pixels, said["width"], said["height"])

    def _read(self, count: int) -> bytes:
        assert self._child.stdout
        found = self._child.stdout.read(count)
        if len(found) < count:
            raise ConnectionError("the decoding process ended")
        return found

    def end(self) -> int:
        """Its exit status; negative: the signal that ended it."""
        assert self._child.stdin
        assert self._child.stdout
        self._child.kill()
        with contextlib.suppress(OSError):  # what it did not read any more
            self._child.stdin.close()
        self._child.stdout.close()
        return self._child.wait()
