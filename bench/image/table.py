"""The report as a page: bench/results/image-cpu.md."""

from typing import Any

from bench.harness import RESULTS as FOLDER

RESULTS = FOLDER / "image-cpu.json"


def lines(report: dict[str, Any]) -> list[str]:
    """Markdown. Seconds; the first of each pair is first come, first served by the bare pipeline."""
    sizes = [f"{w}x{h}" for w, h in report["sizes"]]
    rows = [
        ["rho", *(f"{size} p50 / p95" for size in sizes), "images/s", "first partial p50", "small p95"],
        ["---"] * (len(sizes) + 4),
    ]
    for trace in report["traces"]:
        for name, title in (("first_come", "first come"), ("engine", "this engine")):
            served = trace[name]
            times = (f"{served['by_size'][s]['p50']:.2f} / {served['by_size'][s]['p95']:.2f}" for s in sizes)
            partial = served["first_partial_p50"]
            shown = "" if partial is None else f"{partial:.2f}"
            gain = f"{trace['small_p95_gain']:.1f}x better" if name == "engine" else ""
            rows.append([f"{trace['rho']} {title}", *times, f"{served['images_per_second']:.1f}", shown, gain])
    return [f"| {' | '.join(row)} |" for row in rows]


def page(report: dict[str, Any]) -> str:
    """bench/results/image-cpu.md."""
    text = [
        *lines(report),
        "",
        f"One image by itself takes {report['overhead']['ratio']:.2f}x the bare pipeline's time.",
    ]
    if "mixed" in report:
        padded, alone = (report["mixed"][f"gain_over_{way}"] for way in ("padded", "one_by_one"))
        text.append(
            f"A step of seven sizes: {padded:.2f}x faster than padded to the longest, {alone:.2f}x than one by one."
        )
    return "\n".join(text) + "\n"
