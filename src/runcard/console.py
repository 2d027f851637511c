"""Durations, counts and plain tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table

T = TypeVar("T")
WIDTH = 1000  # maximum width of a table in characters: more than any needs


def plain_console() -> Console:
    """Return a console that prints texts as they are: long lines whole, brackets and numbers as any other sign."""
    return Console(soft_wrap=True, highlight=False, markup=False)


def show_progress(items: Iterable[T], what: str, total: int, console: Console) -> Iterable[T]:
    """Yield the items behind a progress bar, which a terminal shows until it is full."""
    return track(items, what, total, console=console, transient=True, disable=not console.is_terminal)


def duration(seconds: float) -> str:
    """Format seconds as 7 s, 1:05 min or 2:03:00 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} h" if hours else f"{minutes}:{seconds:02} min"


def counted(number: int, noun: str) -> str:
    """Format "1 image" or "1,200 images"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def counted_each(numbers: Sequence[int], noun: str) -> str:
    """Format "3 and 2 seeds", or "1 seed each"."""
    return f"1 {noun} each" if set(numbers) == {1} else f"{' and '.join(map(str, numbers))} {noun}s"


def print_table(console: Console, columns: list[str], rows: list[list[str]]) -> None:
    """Print a plain table at its full width, so that folders and numbers can be copied."""
    shown = Table(box=None, pad_edge=False)
    for column in columns:
        shown.add_column(column, no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    Console(file=console.file, width=WIDTH, highlight=False, markup=False).print(shown)
