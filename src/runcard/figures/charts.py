"""Charts of a training and of its predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

GAPS = {"wspace": 0.25, "hspace": 0.4}  # of curves, in widths and heights of a chart


def curves_figure(rows: Sequence[dict[str, Any]], monitor: str, title: str) -> Figure:
    """Draw the losses and every metric over the epochs, training and validation on the same axes."""
    names = ["loss"] + [k.removeprefix("val/") for k in rows[0] if k.startswith("val/") and k != "val/loss"]
    num_columns = min(4, len(names))
    num_rows = math.ceil(len(names) / num_columns)
    width, height = 3.2 * num_columns, 2.4 * num_rows + 0.3  # inches
    figure = Figure(figsize=(width, height))
    # The margins leave room for numbers and titles: a constrained layout would draw all to measure them, in 0.7 s.
    margins = {"left": 0.55 / width, "right": 1 - 0.1 / width, "bottom": 0.55 / height, "top": 1 - 0.6 / height}
    axes = np.ravel(figure.subplots(num_rows, num_columns, squeeze=False, gridspec_kw=margins | GAPS))
    evaluated = [row for row in rows if row["val/loss"] is not None]
    epochs = [row["epoch"] for row in evaluated]
    for ax, name in zip(axes, names, strict=False):
        if name == "loss":
            running = [row["train/loss"] for row in rows]
            ax.plot([row["epoch"] for row in rows], running, color="tab:gray", lw=1, label="train (running)")
        ax.plot(epochs, [row[f"train_eval/{name}"] for row in evaluated], color="tab:blue", label="train")
        ax.plot(epochs, [row[f"val/{name}"] for row in evaluated], color="tab:orange", label="validation")
        ax.set_title(f"{name}{' (best epoch)' if f'val/{name}' == monitor else ''}", fontsize=9)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    figure.supxlabel("epoch", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def confusion_figure(counts: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Draw a confusion matrix (K, K) of counts: shares of the true class, which set the colour, above the counts.

    A cell with count 0 is left white and empty, and so is the row of an absent class.
    """
    side = 1.4 + 0.8 * len(classes)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    ax = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        share, count = shares[row, column], counts[row, column]
        colour = "white" if share > 0.5 else "black"
        ax.text(column, row, f"{share:.1%}\n{count:,}", ha="center", va="center", fontsize=7.5, color=colour)
    ax.set_xticks(range(len(classes)), classes, fontsize=8, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(classes)), classes, fontsize=8)
    ax.set_xlabel("predicted", fontsize=9)
    ax.set_ylabel("true", fontsize=9)
    ax.set_title(title, fontsize=9)
    return figure


def reliability_figure(counts: np.ndarray, mean: np.ndarray, frequency: np.ndarray, title: str, axis: str) -> Figure:
    """Draw observed frequency over mean probability (B,), NaN where a bin is empty, above how many (B,) there are."""
    figure = Figure(figsize=(4, 4.8), layout="constrained")
    ax, below = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    ax.plot([0, 1], [0, 1], color="tab:gray", lw=1, ls="--")
    ax.plot(mean, frequency, marker="o", color="tab:blue")
    ax.set(xlim=(0, 1), ylim=(0, 1), ylabel="observed frequency")
    ax.set_title(title, fontsize=9)
    edges = np.linspace(0, 1, len(counts) + 1)
    below.bar(edges[:-1], counts, width=edges[1], align="edge", color="tab:blue", edgecolor="white")
    below.set_yscale("symlog")
    below.set(xlabel=axis, ylabel="count")
    ax.grid(alpha=0.3)
    return figure


def thresholds_figure(curves: Mapping[str, np.ndarray], title: str) -> Figure:
    """Draw curves (T,), by name, over thresholds that divide 0 to 1 evenly, and mark 0.5, which decides."""
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    ax = figure.subplots()
    for name, values in curves.items():
        ax.plot(np.arange(len(values)) / len(values), values, label=name)
    ax.axvline(0.5, color="tab:gray", lw=1, ls="--")
    ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="threshold of the probability")
    ax.set_title(title, fontsize=9)
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3)
    return figure
