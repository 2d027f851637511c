"""The figure of the noise between runs: which differences are found, against seeds and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import geometric_mean
from textwrap import fill

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

TICKS = (2, 3, 5, 7, 10, 20)  # seeds
STYLES = (("#d55e00", "-"), ("#0072b2", "--"), ("#56b4e9", "-."))  # of the lines by images: they differ in grey too
LABEL_GAP = 1.04  # from a line's end to its label: a factor of the seeds
LINE_HEIGHT = 0.052  # of a label, as a share of the height of the axes
TITLE_WIDTH = 90  # in characters
BAND = "line: upper 80 % bound of the noise; grey: down to the lower bound"


def noise_figure(
    seeds: Sequence[int],
    band: Sequence[Sequence[float]],
    others: Mapping[int, Sequence[float]],
    word: str,
    axis: str,
    title: str,
) -> Figure:
    """Draw differences over seeds, both logarithmic: a line for these images, with a band, and one a number of others.

    band is the lower and the upper (S,) end of what is known on these images; the line is the upper. others maps a
    number of images, or patients by word, to its line (S,). Each line is labelled at its end.
    """
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    ax = figure.subplots()
    low, high = band
    ax.fill_between(seeds, low, high, color="0.85", lw=0)
    ax.plot(seeds, high, color="black", lw=2)
    ends = {f"these {word}": high[-1]}
    for (num, values), (colour, style) in zip(sorted(others.items()), STYLES, strict=False):
        ax.plot(seeds, values, color=colour, ls=style, lw=1.5)
        ends[f"{num} {word} like these"] = values[-1]
    ax.set(xscale="log", yscale="log", xlabel="seeds in each arm", ylabel=axis, xlim=(seeds[0], seeds[-1]))
    bottom, top = ax.get_ylim()
    for stack in _stacks(ends, (top / bottom) ** LINE_HEIGHT):
        label = "\n".join(reversed([name for name, _ in stack]))
        ax.text(seeds[-1] * LABEL_GAP, _centre(stack), label, va="center")
    ax.text(0.02, 0.03, BAND, fontsize=8, transform=ax.transAxes)
    ax.xaxis.set_major_locator(FixedLocator(TICKS))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.3)
    ax.set_title(fill(title, TITLE_WIDTH), fontsize=9, loc="left")
    return figure


def _stacks(ends: Mapping[str, float], line: float) -> list[list[tuple[str, float]]]:
    """Group labels from the lowest up, so that no two groups overlap; line is the height of one, as a factor."""
    stacks: list[list[tuple[str, float]]] = []
    for end in sorted(ends.items(), key=lambda item: item[1]):
        stack = [end]
        while stacks and _centre(stack) < _centre(stacks[-1]) * line ** ((len(stack) + len(stacks[-1])) / 2):
            stack = [*stacks.pop(), *stack]
        stacks.append(stack)
    return stacks


def _centre(stack: Sequence[tuple[str, float]]) -> float:
    return geometric_mean([end for _, end in stack])
