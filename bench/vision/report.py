"""The figures as a page for a person."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

HEAD = """\
# The selfie worker

What the detectors find, miss and imagine on every face photo that could be had from packages; what micro-batching is
worth; what many photos do to the worker's memory. Where the faces are was told by eye (`bench/vision/pictures.py`).
The pictures are used for these figures alone and are no part of this repository. Run it:
`.venv/bin/python -m bench.vision.gather`, then `.venv/bin/python -m bench.vision`.
"""


def page(told: Mapping[str, Any]) -> str:
    """Of the parts that were measured."""
    parts = {
        "machine": _machine,
        "pictures": _pictures,
        "detectors": _detectors,
        "faults": _faults,
        "throughput": _throughput,
        "memory": _memory,
    }
    return "\n".join([HEAD, *(line for name, part in parts.items() if name in told for line in part(told))]) + "\n"


def _machine(told: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"- {name}: {value}" for name, value in told["machine"].items())


def _pictures(told: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        "",
        "## Pictures",
        "",
        "| package | licence | photos | faces | without a face |",
        "|---|---|--:|--:|--:|",
    )
    for one in told["pictures"]:
        yield f"| {one['package']} | {one['licence']} | {one['pictures']} | {one['faces']} | {one['faceless']} |"
    sums = {name: sum(one[name] for one in told["pictures"]) for name in ("pictures", "faces", "faceless")}
    yield f"| together | | {sums['pictures']} | {sums['faces']} | {sums['faceless']} |"
    yield ""
    yield "Beside them scikit-image's 200 grey crops of 25 px (of Labeled Faces in the Wild), enlarged to 200 px: 100"
    yield "that a face fills, 100 of backgrounds. This is a check on what could be reached, not a benchmark; the size"
    yield "of the second look (`FROM_AFAR` in `vision/faces/blazeface.py`) was chosen on the crops, so they flatter it."


def _detectors(told: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## Detectors", "")
    yield "| detector | found | below 6 % of the side | crops | false, photos | false, faceless | a photo | faceless |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    yield from _rows(told)
    yield ""
    yield "Times are of the CPU, the median of pictures, each the best of three."
    for name, groups in told["detectors"].items():
        missed, false = groups["photos"]["missed_in"], [*groups["photos"]["false_in"], *groups["faceless"]["false_in"]]
        yield ""
        yield f"{name}: missed in {_list(missed)}; false in {_list(false)}."
    readers = told["readers"]
    yield ""
    yield (
        f"Reading age and expression takes {readers['alone_ms']} ms a face alone, "
        f"{readers['in_a_batch_of_8_ms']} ms in a batch of eight."
    )


def _rows(told: Mapping[str, Any]) -> Iterator[str]:
    for name, groups in told["detectors"].items():
        photos, faceless, crops, others = (groups[g] for g in ("photos", "faceless", "crops", "backgrounds"))
        cells = (
            name,
            f"{photos['found']} of {photos['faces']}",
            f"{photos['small_found']} of {photos['small_faces']}",
            f"{crops['found']} of {crops['faces']}",
            f"{photos['false']} in {photos['pictures']}",
            f"{faceless['false'] + others['false']} in {faceless['pictures'] + others['pictures']}",
            f"{photos['median_ms']} ms",
            f"{faceless['median_ms']} ms",
        )
        yield "| " + " | ".join(cells) + " |"


def _faults(told: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## Quality under faults", "")
    yield "`quality_score` of each photo with one face, from one step of a fault to the next; a rise is over 0.01."
    yield from ("", "| fault | photos | steps | rises | largest rise | lower at the end | rose in |")
    yield "|---|--:|--:|--:|--:|--:|---|"
    for name, one in told["faults"].items():
        cells = (name, one["portraits"], one["steps"], one["rises"], one["worst"], one["lower_at_the_end"])
        yield "| " + " | ".join(map(str, cells)) + f" | {_list(one['rose_in'])} |"


WAYS = {
    "one_at_a_time": "one client, batches of one",
    "in_parallel": "8 clients, batches of one",
    "batched": "8 clients, what waits goes together",
}


def _throughput(told: Mapping[str, Any]) -> Iterator[str]:
    found = told["throughput"]
    yield from ("", "## Micro-batching", "")
    yield f"`POST /v1/profile/analyze`, five rounds; the ways take turns. The mean batch was {found['mean_batch']}."
    yield "Where the load above is over the cores, photos a second tell of others' work, too; ms of CPU hardly do."
    yield from ("", "| way | photos a second | ms of CPU a photo |", "|---|---|---|")
    for way, title in WAYS.items():
        yield f"| {title} | {_series(found[way]['photos_per_second'])} | {_series(found[way]['cpu_ms_per_photo'])} |"
    yield ""
    for way in ("one_at_a_time", "in_parallel"):
        gain = ratio(found["batched"]["photos_per_second"], found[way]["photos_per_second"])
        cheaper = ratio(found[way]["cpu_ms_per_photo"], found["batched"]["cpu_ms_per_photo"])
        yield f"- batched against {WAYS[way]}: {gain} times the photos a second, {cheaper} times those a CPU second"
    yield ""
    yield "The default detector takes one picture at a time: a batch saves nothing on a CPU. On a GPU"
    yield "YOLO takes a batch in one call; not measured here, for want of a GPU."


def ratio(over: list[float], under: list[float]) -> float:
    """The median of one against the other, round by round."""
    return round(statistics.median(a / b for a, b in zip(over, under, strict=True)), 2)


def _memory(told: Mapping[str, Any]) -> Iterator[str]:
    found = told["memory"]
    yield from ("", "## Memory", "")
    yield "Resident MiB of the worker and its decoding processes after every twentieth part of"
    yield f"{found['photos']} photos read and {found['refused']} refused:"
    yield f"{_series(found['resident_mib'])}."
    yield ""
    quarters = [round(statistics.median(part), 1) for part in quarters_of(found["resident_mib"])]
    yield f"Medians of the four quarters: {_series(quarters)}."


def quarters_of(series: list[float]) -> list[list[float]]:
    size = len(series) // 4
    return [series[at : at + size] for at in range(0, 4 * size, size)]


def _series(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _list(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(names)) or "none"
