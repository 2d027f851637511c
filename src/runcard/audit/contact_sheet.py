"""Draw the contact sheets of an audit: samples of the data, and draws of the augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.figure import Figure

from runcard.figures import grid
from runcard.figures.overlays import outlined, scale_to_fit

TILE_PX = 128
MAX_TILES = 60  # of a contact sheet
NUM_COLUMNS = 10
LINE_PX = 14  # a line of text
COLOURS = {"error": (214, 39, 40), "warning": (230, 126, 0), "note": (31, 119, 180)}
GREY = (90, 90, 90)


@dataclass(frozen=True)
class Tile:
    """One sample of a contact sheet."""

    image: np.ndarray  # (H, W, C) uint8
    mask: np.ndarray | None  # (H, W) uint8 class indices
    caption: str  # a line or more: the id, the class
    flag: str | None = None  # the check of its finding: "near_duplicates"
    level: str | None = None  # of that finding: error | warning | note


def contact_sheet(tiles: Sequence[Tile], title: str) -> Figure:
    """Draw samples with the contours of their masks, framed by the level of their finding."""
    return grid.grid([_drawn(tile) for tile in tiles], NUM_COLUMNS, LINE_PX, title)


def _drawn(tile: Tile) -> grid.Tile:
    image = scale_to_fit(tile.image, TILE_PX)
    if tile.mask is not None:
        height, width, _ = image.shape
        image = outlined(image, cv2.resize(tile.mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))
    return grid.Tile(image, tile.caption, GREY, tile.flag, COLOURS[tile.level] if tile.level else GREY)
