"""Figures of batches and predictions, drawn from arrays. Input arrays are not modified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont

from runcard import IGNORED
from runcard.figures.grid import BLACK, Tile, grid
from runcard.figures.overlays import BLUE, GREEN, RED, agreement, hatched, outlined, scale_to_fit, to_rgb

TILE_PX = 256
LINE_PX = 16
NUM_COLUMNS = 4
GAP_PX = 8  # between image, truth and prediction
PREVIEW_PX = 128


@dataclass(frozen=True)
class Example:
    """One image with its target and the model's probabilities."""

    title: str
    image: np.ndarray  # (H, W, C) uint8
    target: np.ndarray  # () class or (H, W) class map
    probs: np.ndarray  # (K,) or (K, H, W)

    def labelled(self) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities (K, P) and targets (P,) of the pixels that are not IGNORED; with a class, P is 1."""
        probs, targets = self.probs.reshape(len(self.probs), -1), self.target.reshape(-1)
        counted = targets != IGNORED if self.target.ndim else np.ones(1, bool)
        return probs[:, counted], targets[counted]


def batch_figure(images: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw a batch (N, C, H, W) float32 as the model sees it, with mask contours or class names."""
    low, high = images.min(), images.max()
    pixels = ((images - low) / max(high - low, 1e-6) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    tiles = [
        Tile(scale_to_fit(outlined(image, target), TILE_PX))
        if target.ndim
        else Tile(scale_to_fit(image, TILE_PX), classes[int(target)])
        for image, target in zip(pixels, targets, strict=True)
    ]
    return grid(tiles, NUM_COLUMNS, LINE_PX, f"first training batch, values {low:.2f} to {high:.2f}")


def mask_figure(examples: Sequence[Example]) -> Figure:
    """Draw a row per example: the image, the truth, and the prediction laid over the truth."""
    tiles = []
    for example in examples:
        shown = [scale_to_fit(image, TILE_PX) for image in _image_truth_prediction(example)]
        gap = np.full((shown[0].shape[0], GAP_PX, 3), 255, np.uint8)
        tiles.append(Tile(np.concatenate([shown[0], gap, shown[1], gap, shown[2]], axis=1), example.title))
    falsely = "false positive" if len(examples[0].probs) == 2 else "false positive or another class"
    swatches = [np.full((LINE_PX, LINE_PX, 3), colour).astype(np.uint8) for colour in (GREEN, RED, BLUE)]
    key = list(zip(swatches, ("agreement", falsely, "missed"), strict=True))
    if any((example.target == IGNORED).any() for example in examples):
        key.append((hatched(np.zeros_like(swatches[0]), np.ones((LINE_PX, LINE_PX), bool)), "not labelled"))
    return grid(tiles, 1, LINE_PX, key=key)


def class_figure(examples: Sequence[Example], classes: Sequence[str]) -> Figure:
    """Draw each example above its true class, the predicted one and its probability; a wrong one in red."""
    tiles = [
        Tile(
            scale_to_fit(example.image, TILE_PX),
            f"{example.title}\n{_class_caption(example, classes)}",
            BLACK if _is_correct(example) else RED,
        )
        for example in examples
    ]
    return grid(tiles, NUM_COLUMNS, LINE_PX)


def preview(example: Example, classes: Sequence[str]) -> np.ndarray:
    """Join image, truth and prediction in one picture (H, W, 3) uint8, each tile at most PREVIEW_PX wide.

    Masks give three tiles side by side; classes give one, above the true class, the predicted one and its probability.
    """
    tiles = _image_truth_prediction(example) if example.target.ndim else [to_rgb(example.image)]
    if max(example.image.shape) > PREVIEW_PX:
        scale = PREVIEW_PX / max(example.image.shape)
        tiles = [cv2.resize(t, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for t in tiles]
    if example.target.ndim:
        return np.concatenate(tiles, axis=1)
    caption = Image.new("RGB", (PREVIEW_PX, 14), "white")
    colour = GREEN if _is_correct(example) else RED
    fill = tuple(colour.astype(int).tolist())
    font = ImageFont.truetype(findfont(FontProperties()), 10)  # matplotlib's: Pillow's own lacks the arrow
    ImageDraw.Draw(caption).text((2, 0), _class_caption(example, classes), fill=fill, font=font)
    tile = np.full((tiles[0].shape[0], PREVIEW_PX, 3), 255, np.uint8)
    tile[:, : tiles[0].shape[1]] = tiles[0]
    return np.concatenate([tile, np.asarray(caption)])


def _image_truth_prediction(example: Example) -> list[np.ndarray]:
    """Draw the image, the contours of the truth, and the prediction laid over the truth, each (H, W, 3) uint8."""
    image, truth = example.image, example.target
    return [to_rgb(image), outlined(image, truth), agreement(image, truth, example.probs.argmax(axis=0))]


def _class_caption(example: Example, classes: Sequence[str]) -> str:
    predicted = int(example.probs.argmax())
    return f"{classes[int(example.target)]} → {classes[predicted]} {example.probs[predicted]:.2f}"


def _is_correct(example: Example) -> bool:
    return bool(example.probs.argmax() == example.target)
