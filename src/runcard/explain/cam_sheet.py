"""Draw sheets of activation maps, without a model or files.

Image and map are blended 0.6 to 0.4. Red is the strongest evidence for the predicted class, blue is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from runcard.figures import grid
from runcard.figures.overlays import GREEN, RED, scale_to_fit

IMAGE_SHARE = 0.6  # of the blend; the rest is the map's
HEAT_COLOURS = matplotlib.colormaps["turbo"]
KEY = "red spoke for the prediction"
TILE_PX = 512
PANEL_TILE_PX = 256
MAX_TILES = 12  # on a sheet
MAX_PANEL_TILES = 8
NUM_COLUMNS = 4
_COLOURS = {"correct": 0.7 * GREEN, "wrong": RED, "unlabelled": grid.BLACK}


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

    @property
    def prediction(self) -> str:
        """The predicted class and its probability, after the true class where it is known."""
        said = f"{self.predicted} {self.probability:.2f}"
        return said if self.true is None else f"{self.true} → {said}"


def overlay(image: np.ndarray, heat: np.ndarray, size_px: int = TILE_PX) -> np.ndarray:
    """Blend image (H, W, C) uint8 with the colours of heat (H, W), 0 to 1, into RGB uint8 with longer side size_px."""
    shown = scale_to_fit(image, size_px)
    height, width, _ = shown.shape
    colours = HEAT_COLOURS(np.clip(cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1))[..., :3]
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
    wrong = sorted((tile for tile in tiles if tile.verdict == "wrong"), key=lambda tile: -tile.probability)
    others = by_class([tile for tile in tiles if tile.verdict != "wrong"]).values()
    in_turn = [tile for tile in chain.from_iterable(zip_longest(*others)) if tile is not None]
    return _draw([*wrong[: MAX_PANEL_TILES // 2], *in_turn][:MAX_PANEL_TILES], title, PANEL_TILE_PX)


def _draw(tiles: Sequence[Tile], title: str, tile_px: int) -> Figure:
    line_px = tile_px // 16
    colours = np.broadcast_to(255 * HEAT_COLOURS(np.linspace(0, 1, 3 * line_px))[:, :3], (line_px // 2, 3 * line_px, 3))
    shown = [
        grid.Tile(overlay(tile.image, tile.heat, tile_px), f"{tile.id}\n{tile.prediction}", _COLOURS[tile.verdict])
        for tile in tiles
    ]
    return grid.grid(shown, NUM_COLUMNS, line_px, title, key=[(colours.round().astype(np.uint8), KEY)])
