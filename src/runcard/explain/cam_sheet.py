"""Draw sheets of activation maps, without a model or files.

Image and map are blended 0.6 to 0.4. Red is the strongest evidence for the predicted class, blue is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from runcard.figures.figures import GREEN, RED, drawable, to_rgb
from runcard.fileio import FIGURE_DPI

IMAGE_SHARE = 0.6  # of the blend; the rest is the map's
HEAT_COLOURS = matplotlib.colormaps["turbo"]
KEY = "red spoke for the prediction"
TILE_PX = 512
PANEL_TILE_PX = 256
MAX_TILES = 12  # on a sheet
MAX_PANEL_TILES = 8
NUM_COLUMNS = 4
LONGEST_ID = 36  # characters; a longer one keeps its end, by which file names differ
DPI = FIGURE_DPI  # so that tiles keep their size in pixels
_COLOURS = {"correct": 0.7 * GREEN / 255, "wrong": RED / 255, "unlabelled": "black"}


@dataclass(frozen=True)
class Tile:
    """One classified image and its map."""

    id: str
    image: np.ndarray  # (H, W, C) uint8
    heat: np.ndarray  # (H, W) float32, 0 to 1: evidence for the predicted class
    true: str | None  # None if unlabelled
    predicted: str
    probability: float  # of predicted

    @property
    def verdict(self) -> str:
        """The verdict: correct, wrong or unlabelled."""
        if self.true is None:
            return "unlabelled"
        return "correct" if self.predicted == self.true else "wrong"


def overlay(image: np.ndarray, heat: np.ndarray, size_px: int = TILE_PX) -> np.ndarray:
    """Blend image (H, W, C) uint8 with the colours of heat (H, W), 0 to 1, into RGB uint8 with longer side size_px."""
    height, width = image.shape[:2]
    scale = size_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shown = cv2.resize(to_rgb(image), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    colours = HEAT_COLOURS(np.clip(cv2.resize(heat, size, interpolation=cv2.INTER_LINEAR), 0, 1))[..., :3]
    return (IMAGE_SHARE * shown + (1 - IMAGE_SHARE) * 255 * colours).round().astype(np.uint8)


def by_class(tiles: Sequence[Tile]) -> dict[tuple[str, str], list[Tile]]:
    """Group the tiles into sheets by (class, verdict), in descending order of probability.

    The class is the true one, or the predicted one if the image is unlabelled.
    """
    sheets: dict[tuple[str, str], list[Tile]] = {}
    for tile in sorted(tiles, key=lambda tile: -tile.probability):
        sheets.setdefault((tile.true or tile.predicted, tile.verdict), []).append(tile)
    return dict(sorted(sheets.items()))


def sheet(tiles: Sequence[Tile], title: str) -> Figure:
    """Draw the first MAX_TILES of at least one tile; the title states how many there are."""
    shown = tiles[:MAX_TILES]
    counted = len(tiles) if len(shown) == len(tiles) else f"the surest {len(shown)} of {len(tiles)}"
    return _draw(shown, f"{title} ({counted})", TILE_PX)


def panel(tiles: Sequence[Tile], title: str) -> Figure:
    """Draw up to MAX_PANEL_TILES: the surest errors first, at most half; then the others, alternating by class."""
    groups = by_class(tiles)
    wrong = sorted(
        (tile for (_, verdict), of in groups.items() if verdict == "wrong" for tile in of),
        key=lambda tile: -tile.probability,
    )[: MAX_PANEL_TILES // 2]
    others = (of for (_, verdict), of in groups.items() if verdict != "wrong")
    in_turn = [tile for tile in chain.from_iterable(zip_longest(*others)) if tile is not None]
    return _draw([*wrong, *in_turn][:MAX_PANEL_TILES], title, PANEL_TILE_PX)


def _draw(tiles: Sequence[Tile], title: str, tile_px: int) -> Figure:
    """Draw the tiles in rows, each below its caption, with a colour key at the bottom."""
    em = tile_px / 16  # pixels per line of text, proportional to the tiles
    num_columns = min(NUM_COLUMNS, len(tiles))
    width = num_columns * (tile_px + em / 2) + em / 2
    height = math.ceil(len(tiles) / num_columns) * (tile_px + 2.5 * em) + 4 * em
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    points = 0.72 * em * 72 / DPI

    def box(left: float, top: float, across: float, down: float) -> tuple[float, float, float, float]:
        """Convert a rectangle in pixels from the top left corner to figure coordinates."""
        return left / width, 1 - (top + down) / height, across / width, down / height

    figure.text(*box(em / 2, 1.3 * em, 0, 0)[:2], title, weight="bold", fontsize=points, parse_math=False)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, num_columns)
        left, top = em / 2 + column * (tile_px + em / 2), 4 * em + row * (tile_px + 2.5 * em)
        ax = figure.add_axes(box(left, top, tile_px, tile_px))
        ax.imshow(overlay(tile.image, tile.heat, tile_px))
        ax.set_axis_off()
        figure.text(
            *box(left, top - 0.3 * em, 0, 0)[:2],
            _caption(tile),
            color=_COLOURS[tile.verdict],
            fontsize=points,
            parse_math=False,
        )
    bar = figure.add_axes(box(em / 2, height - 1.1 * em, 3 * em, 0.6 * em))
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=HEAT_COLOURS, aspect="auto")
    bar.set_axis_off()
    figure.text(*box(4 * em, height - 0.6 * em, 0, 0)[:2], KEY, va="center", fontsize=points)
    return figure


def _caption(tile: Tile) -> str:
    short = tile.id if len(tile.id) <= LONGEST_ID else f"…{tile.id[1 - LONGEST_ID :]}"
    said = f"{tile.predicted} {tile.probability:.2f}"
    return drawable(f"{short}\n{said if tile.true is None else f'{tile.true} → {said}'}")
