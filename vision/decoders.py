"""Decoding in processes of their own: as many as there are threads, each used by one request at a time."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import numpy as np

from core.errors import InvalidRequest, PayloadTooLarge
from vision.decode import Limits, Photo, refusal
from vision.decode_child import HEAD

ROOT = Path(__file__).resolve().parent.parent
PASSED = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")


class Decoder(Protocol):
    def decode(self, data: bytes | bytearray) -> Photo:
        """Blocks. Safe to call from several threads. Raises InvalidRequest and PayloadTooLarge."""
        ...

    def close(self) -> None: ...


class DecodingProcesses:
    """A decoder that a hostile file cannot take the worker down with."""

    def __init__(self, limits: Limits, count: int, seconds: int) -> None:
        self._limits = limits
        self._seconds = seconds
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for _ in range(count):
            self._idle.put(_Process(limits, seconds))

    def decode(self, data: bytes | bytearray) -> Photo:
        process = self._idle.get()
        try:
            return process.decode(data)
        except OSError as exc:  # it died; why, is told by how
            ended = process.end()
            process = _Process(self._limits, self._seconds)
            if ended == -signal.SIGALRM:
                raise refusal("image_too_slow", f"The image takes longer than {self._seconds} s to decode.") from exc
            raise refusal("unreadable_image", "The image cannot be decoded safely.") from exc
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End those that are idle: all, once the worker has answered."""
        while True:
            try:
                self._idle.get_nowait().end()
            except queue.Empty:
                return


class _Process:
    def __init__(self, limits: Limits, seconds: int) -> None:
        numbers = (limits.max_bytes, limits.max_pixels, limits.max_memory, seconds)
        environment = {name: os.environ[name] for name in PASSED if name in os.environ}  # no key of the worker's
        self._child = subprocess.Popen(
            (sys.executable, "-m", "vision.decode_child", *map(str, numbers)),
            cwd=ROOT,
            env={**environment, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def decode(self, data: bytes | bytearray) -> Photo:
        """Raises OSError where the process died, and what it refused."""
        assert self._child.stdin
        assert self._child.stdout
        self._child.stdin.write(HEAD.pack(len(data)))
        self._child.stdin.write(data)
        self._child.stdin.flush()
        said = json.loads(self._read(HEAD.unpack(self._read(HEAD.size))[0]))
        if "code" in said:
            kind = PayloadTooLarge if said["status"] == PayloadTooLarge.status else InvalidRequest
            raise kind(said["message"], code=said["code"], param="image")
        height, width, depth = said["shape"]
        pixels = np.frombuffer(self._read(height * width * depth), dtype=np.uint8).reshape(height, width, depth)
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
