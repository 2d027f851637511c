"""The table of all results, printed and written into a page between two markers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from campaign.trials import EQUAL, FAILED, REFUSED, REPAIRED

BEGIN, END = "<!-- begin: make faults -->", "<!-- end: make faults -->"
# The classes, in the order of the table: module, and what it does.
CLASSES = {
    "kills": "killed at each change of a file",
    "interrupts": "SIGINT, SIGTERM or SIGUSR1 at a random instant",
    "full_disk": "the disk is full from the n-th write on",
    "io_errors": "each write, flush and rename fails once",
    "damage": "a damaged file in a run folder",
    "several": "several processes on one folder, lost loader processes",
    "values": "odd values in the config",
    "datasets": "hostile data folders",
    "strangers": "hostile run folders and weights",
}
OUTCOMES = (EQUAL, REPAIRED, REFUSED, FAILED)


def of_class(results: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the results of one class."""
    return [result for result in results if result["class"] == name]


def rows(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the rows of the table: a class each, and the sum."""
    parts = [(what, of_class(results, name)) for name, what in CLASSES.items()]
    parts.append(("all", list(results)))
    return [
        [what, f"{len(part):,}", *(f"{sum(each['outcome'] == outcome for each in part):,}" for outcome in OUTCOMES)]
        for what, part in parts
    ]


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """Print the table, and how long the trials took."""
    table = [["fault", "trials", *OUTCOMES], *rows(results)]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        print(
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        )
    print(f"{sum(result['seconds'] for result in results) / 60:.1f} minutes of one core")


def write_table(page: Path, results: Sequence[dict[str, Any]], seed: int) -> None:
    """Write the table as Markdown between the markers of a page."""
    head = ["fault", "trials", *OUTCOMES]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] + ["---:"] * (len(head) - 1), *rows(results))]
    minutes = sum(result["seconds"] for result in results) / 60
    lines += ["", f"Seed {seed}, {minutes:.0f} minutes of one core."]
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text("\n".join([before + BEGIN, *lines, END + after]), encoding="utf-8")
