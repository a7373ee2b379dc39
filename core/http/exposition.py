"""/metrics of several processes that serve one port: whichever is asked answers for all.

Each tells the others what it counts over a socket in a folder of theirs. What was shown once stands in a file too: the
next process at that place begins where it ended, so that a total which was shown never falls.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from core import metrics

ANSWER_SECONDS = 1.0  # of one that is busier the last totals are shown
_ALIKE = frozenset(("python_info", "process_start_time_seconds", "process_max_fds"))
_TOTALS = frozenset(("counter", "histogram", "summary"))


class Family(msgspec.Struct, array_like=True):
    """A metric, and its samples by name and labels."""

    name: str
    documentation: str
    type: str
    samples: list[tuple[str, dict[str, str], float]]


_encode, _decode = msgspec.msgpack.encode, msgspec.msgpack.Decoder(list[Family]).decode


def families_here() -> list[Family]:
    """What this process counts."""
    metrics.TASKS.set(len(asyncio.all_tasks()))
    return [
        Family(each.name, each.documentation, each.type, [(s.name, s.labels, s.value) for s in each.samples])
        for each in REGISTRY.collect()
    ]


def merged(samples: Iterable[Family]) -> list[Family]:
    """Counts and gauges are added up; of a gauge that is the same everywhere the largest holds, of times of creation
    the earliest."""
    families: dict[str, tuple[Family, dict[Any, float]]] = {}
    for family in samples:
        _, values = families.setdefault(family.name, (family, {}))
        alike = family.name in _ALIKE or family.name in metrics.OF_ALL_PROCESSES
        for name, labels, value in family.samples:
            key = name, tuple(sorted(labels.items()))
            before = values.get(key)
            if before is None:
                values[key] = value
            elif name.endswith("_created"):
                values[key] = min(before, value)
            else:
                values[key] = max(before, value) if alike else before + value
    return [
        Family(family.name, family.documentation, family.type, [(k[0], dict(k[1]), v) for k, v in values.items()])
        for family, values in families.values()
    ]


async def of_this_process() -> bytes:
    """For a service of one process."""
    metrics.TASKS.set(len(asyncio.all_tasks()))
    return generate_latest()


class Place:
    """The place of this process among `count` that serve one port, whose folder this is."""

    def __init__(self, folder: Path, place: int, count: int) -> None:
        self._folder = folder
        self._place = place
        self._count = count
        self._earlier = self._last_totals(place)
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """From now on the others get answers; the socket says that this process serves."""
        path = socket_of(self._folder, self._place)
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._answer, path)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def exposition(self) -> bytes:
        """Of all processes."""
        others = (place for place in range(self._count) if place != self._place)
        answers = await asyncio.gather(*map(self._ask, others))
        return await asyncio.to_thread(_text, [family for each in (self._snapshot(), *answers) for family in each])

    def _snapshot(self) -> list[Family]:
        whole = merged([*families_here(), *self._earlier])
        file = self._file(self._place)
        made = file.with_suffix(".new")
        made.write_bytes(_encode(whole))
        os.replace(made, file)
        return whole

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(_encode(self._snapshot()))
            await writer.drain()
            writer.close()

    async def _ask(self, place: int) -> list[Family]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(socket_of(self._folder, place))
                with contextlib.closing(writer):
                    return _decode(await reader.read())
        except (OSError, TimeoutError, msgspec.DecodeError):
            return self._last_totals(place)

    def _last_totals(self, place: int) -> list[Family]:
        """The totals that it showed last."""
        try:
            kept = _decode(self._file(place).read_bytes())
        except (OSError, msgspec.DecodeError):
            return []
        return [family for family in kept if family.type in _TOTALS]

    def _file(self, place: int) -> Path:
        return self._folder / f"{place}.counts"


def _text(families: list[Family]) -> bytes:
    """Of all of them, merged. It takes some milliseconds for each process, so it is done off the loop."""
    registry = CollectorRegistry()
    registry.register(_Families(merged(families)))
    return generate_latest(registry)


def socket_of(folder: Path, place: int) -> Path:
    """It is there once the process at this place serves."""
    return folder / f"{place}.sock"


class _Families(Collector):
    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.documentation, family.type)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            yield metric
