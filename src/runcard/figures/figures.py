"""Figures drawn from arrays, without models or files. Input arrays are not modified.

In every overlay green is agreement, red is false positive and blue is missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw

GREEN, RED, BLUE = np.array([[60, 200, 90], [230, 60, 50], [70, 120, 255]], np.float32)
CONTOURS = [(255, 210, 0), (0, 200, 255), (255, 90, 220), (255, 140, 40)]  # of classes 1, 2, 3, 4, and again
OVERLAY_OPACITY = 0.45
TILE_PX = 128  # of a preview


@dataclass(frozen=True)
class Example:
    """One image with its target and the model's probabilities."""

    title: str
    image: np.ndarray  # (H, W, C) uint8
    target: np.ndarray  # () class or (H, W) class map
    probs: np.ndarray  # (K,) or (K, H, W)


def drawable(words: str) -> str:
    """Replace each character that matplotlib's font lacks by a box; matplotlib would warn of each."""
    return "".join(sign if sign == "\n" or _font().get_char_index(ord(sign)) else "□" for sign in words)


@cache
def _font() -> FT2Font:
    return get_font(findfont(FontProperties()))


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Convert an image with one or three channels to (H, W, 3)."""
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def agreement(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Overlay the image (H, W, C) uint8 with truth and prediction, class maps, in the three colours."""
    shown = to_rgb(image).astype(np.float32)
    correct = (truth == prediction) & (truth > 0)
    for where, colour in (
        (correct, GREEN),
        ((prediction > 0) & ~correct, RED),
        ((truth > 0) & (prediction == 0), BLUE),
    ):
        shown[where] = (1 - OVERLAY_OPACITY) * shown[where] + OVERLAY_OPACITY * colour
    return shown.round().astype(np.uint8)


def outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw the contour of every class of mask, each in its colour, on an RGB copy of image (H, W, C) uint8."""
    shown = to_rgb(image).copy()  # OpenCV draws into the array it is given, which may be the dataset's own memory
    for value in range(1, int(mask.max()) + 1):
        contours, _ = cv2.findContours((mask == value).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, contours, -1, CONTOURS[(value - 1) % len(CONTOURS)], 1)
    return shown


def batch_figure(images: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw a batch (N, C, H, W) float32 as the model sees it, with mask contours or class names."""
    low, high = images.min(), images.max()
    pixels = ((images - low) / max(high - low, 1e-6) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    figure, axes = _grid(len(images))
    for ax, image, target in zip(axes, pixels, targets, strict=False):
        if target.ndim:
            ax.imshow(outlined(image, target))
        else:
            ax.imshow(to_rgb(image))
            ax.set_title(classes[int(target)], fontsize=9, parse_math=False)
    figure.suptitle(f"first training batch, values {low:.2f} to {high:.2f}", fontsize=10)
    return figure


def mask_figure(examples: Sequence[Example]) -> Figure:
    """Draw a row per example: the image, the truth, and the prediction laid over the truth."""
    figure = Figure(figsize=(7.2, 2.55 * len(examples) + 0.2))
    figure.set_layout_engine("constrained")
    for axes, example in zip(figure.subplots(len(examples), 3, squeeze=False), examples, strict=True):
        prediction = example.probs.argmax(axis=0)
        tiles = [example.image, outlined(example.image, example.target)]
        tiles.append(agreement(example.image, example.target, prediction))
        for ax, tile in zip(axes, tiles, strict=True):
            ax.imshow(to_rgb(tile))
            ax.set_axis_off()
        axes[0].set_title(example.title, fontsize=9, loc="left", parse_math=False)
    falsely = "false positive" if len(examples[0].probs) == 2 else "false positive or another class"
    names = ("agreement", falsely, "missed")
    handles = [Patch(color=c / 255, label=name) for name, c in zip(names, (GREEN, RED, BLUE), strict=True)]
    figure.legend(handles=handles, loc="outside lower right", ncols=3, fontsize=8, frameon=False)
    return figure


def class_figure(examples: Sequence[Example], classes: Sequence[str]) -> Figure:
    """Draw each example under its true class, the predicted one and its probability; a wrong one in red."""
    figure, axes = _grid(len(examples))
    for ax, example in zip(axes, examples, strict=False):
        predicted, true = int(example.probs.argmax()), int(example.target)
        ax.imshow(to_rgb(example.image))
        ax.set_title(
            f"{example.title}\n{classes[true]} → {classes[predicted]} {example.probs[predicted]:.2f}",
            fontsize=8,
            parse_math=False,
            color="black" if predicted == true else RED / 255,
        )
    return figure


def curves_figure(rows: Sequence[dict[str, Any]], monitor: str, title: str) -> Figure:
    """Draw the losses and every metric over the epochs, training and validation on the same axes."""
    names = ["loss"] + [k.removeprefix("val/") for k in rows[0] if k.startswith("val/") and k != "val/loss"]
    num_columns = min(4, len(names))
    figure = Figure(figsize=(3.2 * num_columns, 2.4 * math.ceil(len(names) / num_columns)), layout="constrained")
    axes = np.ravel(figure.subplots(math.ceil(len(names) / num_columns), num_columns, squeeze=False))
    epochs = [row["epoch"] for row in rows]
    for ax, name in zip(axes, names, strict=False):
        if name == "loss":
            ax.plot(epochs, [r["train/loss"] for r in rows], color="tab:gray", lw=1, label="train (running)")
        ax.plot(epochs, [r[f"train_eval/{name}"] for r in rows], color="tab:blue", label="train")
        ax.plot(epochs, [r[f"val/{name}"] for r in rows], color="tab:orange", label="validation")
        ax.set_title(f"{name}{' (best epoch)' if f'val/{name}' == monitor else ''}", fontsize=9)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
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


def preview(example: Example, classes: Sequence[str]) -> np.ndarray:
    """Join image, truth and prediction in one picture (H, W, 3) uint8, each tile at most TILE_PX wide.

    Masks give three tiles side by side; classes give one, above the true class, the predicted one and its probability.
    """
    prediction = example.probs.argmax(axis=0)
    tiles = [to_rgb(example.image)]
    if example.target.ndim:
        tiles += [outlined(example.image, example.target), agreement(example.image, example.target, prediction)]
    if max(example.image.shape) > TILE_PX:
        scale = TILE_PX / max(example.image.shape)
        tiles = [cv2.resize(t, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for t in tiles]
    if example.target.ndim:
        return np.concatenate(tiles, axis=1)
    caption = Image.new("RGB", (TILE_PX, 14), "white")
    text = f"{classes[int(example.target)]} → {classes[prediction]} {example.probs[prediction]:.2f}"
    colour = GREEN if prediction == example.target else RED
    ImageDraw.Draw(caption).text((2, 0), text, fill=tuple(colour.astype(int).tolist()), font_size=11)
    tile = np.zeros((tiles[0].shape[0], TILE_PX, 3), np.uint8)
    tile[:, : tiles[0].shape[1]] = tiles[0]
    return np.concatenate([tile, np.asarray(caption)])


def _grid(num_images: int) -> tuple[Figure, list[Axes]]:
    num_columns = min(4, num_images)
    num_rows = math.ceil(num_images / num_columns)
    figure = Figure(figsize=(2.4 * num_columns, 2.6 * num_rows + 0.3), layout="constrained")
    axes = list(np.ravel(figure.subplots(num_rows, num_columns, squeeze=False)))
    for ax in axes:
        ax.set_axis_off()
    return figure, axes
