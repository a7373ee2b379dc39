"""`python -m bench.image.table`: bench/results/image-cpu.json as image-cpu.md."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "image-cpu.json"


def lines(report: dict[str, Any]) -> list[str]:
    """Markdown. Seconds; the first of each pair is first come, first served by the bare pipeline."""
    sizes = [f"{w}x{h}" for w, h in report["sizes"]]
    told = [_row("rho", *(f"{size} p50 / p95" for size in sizes), "images/s", "first partial p50", "small p95")]
    told.append(_row(*["---"] * (len(sizes) + 4)))
    for trace in report["traces"]:
        for name, title in (("first_come", "first come"), ("engine", "this engine")):
            served = trace[name]
            by_size = (served["by_size"][size] for size in sizes)
            partial = served["first_partial_p50"]
            told.append(
                _row(
                    f"{trace['rho']} {title}",
                    *(f"{at['p50']:.2f} / {at['p95']:.2f}" for at in by_size),
                    f"{served['images_per_second']:.1f}",
                    "" if partial is None else f"{partial:.2f}",
                    f"{trace['small_p95_gain']:.1f}x better" if name == "engine" else "",
                )
            )
    return told


def overhead(report: dict[str, Any]) -> str:
    return f"{report['overhead']['ratio']:.2f}x"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def page(report: dict[str, Any]) -> str:
    table = "\n".join(lines(report))
    return f"{table}\n\nOne image by itself takes {overhead(report)} the bare pipeline's time.\n"


def main() -> None:
    RESULTS.with_suffix(".md").write_text(page(json.loads(RESULTS.read_text())), "utf-8")


if __name__ == "__main__":
    main()
