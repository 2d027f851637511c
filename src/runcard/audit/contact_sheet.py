"""Draw the contact sheets of an audit: samples of the data, and draws of the augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import cv2
import numpy as np
from matplotlib.figure import Figure

from runcard.audit.detectors.augmentation_probe import Sample
from runcard.figures.figures import drawable, outlined, to_rgb
from runcard.fileio import FIGURE_DPI

TILE_PX = 128
MAX_TILES = 60  # of a contact sheet
NUM_COLUMNS = 10
MIN_COLUMNS = 5  # at least, so that the title fits
MARGIN_PX = 20
GAP_PX = 14  # between tiles
FRAME_PX = 3
LINE_PX = 14  # a line of text
POINTS = 6.8
LETTER_PX = 6  # mean width of a letter
Colour = tuple[int, int, int]
COLOURS: dict[str, Colour] = {"error": (214, 39, 40), "warning": (230, 126, 0), "note": (31, 119, 180)}
BLACK, QUIET = (0, 0, 0), (90, 90, 90)


@dataclass(frozen=True)
class Tile:
    """One sample of a contact sheet."""

    image: np.ndarray  # (H, W, C) uint8
    mask: np.ndarray | None  # (H, W) uint8 class indices
    caption: str  # a line or more: the id, the class
    flag: str | None = None  # the check of its finding: "near_duplicates"
    level: str | None = None  # of that finding: error | warning | note


def contact_sheet(tiles: Sequence[Tile], title: str) -> Figure:
    """Draw up to MAX_TILES samples with the contours of their masks, the flagged ones first, framed by level."""
    shown = sorted(tiles, key=lambda tile: tile.flag is None)[:MAX_TILES]
    rows = [shown[start : start + NUM_COLUMNS] for start in range(0, len(shown), NUM_COLUMNS)]
    heights = [TILE_PX + GAP_PX + LINE_PX * max(len(_lines(tile)) for tile in row) for row in rows]
    width = max(MIN_COLUMNS, len(shown[:NUM_COLUMNS])) * (TILE_PX + GAP_PX)
    page = _Page(width, sum(heights), title if len(shown) == len(tiles) else f"{title} ({len(shown)} of them)")
    for row, top in zip(rows, accumulate(heights, initial=0), strict=False):
        for column, tile in enumerate(row):
            left, below = column * (TILE_PX + GAP_PX), top + TILE_PX + 2 * FRAME_PX
            colour = COLOURS[tile.level] if tile.level else None
            page.picture(Sample(tile.image, tile.mask), left, top, TILE_PX, colour)
            for i, line in enumerate(_lines(tile)):
                flagged = tile.flag is not None and i == len(_lines(tile)) - 1
                page.text(line, left, below + i * LINE_PX, colour if flagged and colour else QUIET, bold=flagged)
    return page.finished()


class _Page:
    """A page with a title. Positions of images and text are in pixels from the top left corner below the title."""

    def __init__(self, width: int, height: int, title: str) -> None:  # size includes a last gap
        self.left, self.top = MARGIN_PX, MARGIN_PX + 2 * LINE_PX
        self.pixels = np.full(
            (self.top + height + MARGIN_PX - GAP_PX, width + 2 * MARGIN_PX - GAP_PX, 3), 255, np.uint8
        )
        self.figure = Figure(figsize=(self.pixels.shape[1] / FIGURE_DPI, self.pixels.shape[0] / FIGURE_DPI))
        self.figure.set_dpi(FIGURE_DPI)
        self.text(title, 0, -2 * LINE_PX, BLACK, bold=True, points=1.4 * POINTS)

    def picture(self, sample: Sample, left: int, top: int, size_px: int, colour: Colour | None = None) -> None:
        """Draw a sample with its contours, framed in colour, in the centre of a square."""
        height, width = sample.image.shape[:2]
        scale = size_px / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        shown = cv2.resize(to_rgb(sample.image), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        if sample.mask is not None:
            shown = outlined(shown, cv2.resize(sample.mask, size, interpolation=cv2.INTER_NEAREST_EXACT))
        x = self.left + left + (size_px - size[0]) // 2
        y = self.top + top + (size_px - size[1]) // 2
        if colour:
            self.pixels[y - FRAME_PX : y + size[1] + FRAME_PX, x - FRAME_PX : x + size[0] + FRAME_PX] = colour
        self.pixels[y : y + size[1], x : x + size[0]] = shown

    def text(
        self,
        words: str,
        left: int,
        top: int,
        colour: Colour,
        bold: bool = False,
        points: float = POINTS,
    ) -> None:
        """Write a line of text, with its upper left corner at (left, top)."""
        height, width = self.pixels.shape[:2]
        self.figure.text(
            (self.left + left) / width,
            1 - (self.top + top) / height,
            drawable(words),
            va="top",
            fontsize=points,
            weight="bold" if bold else "normal",
            color=[value / 255 for value in colour],
            parse_math=False,
        )

    def finished(self) -> Figure:
        """Return the page. Saved at FIGURE_DPI, it keeps its images pixel for pixel."""
        ax = self.figure.add_axes((0, 0, 1, 1))
        ax.imshow(self.pixels, interpolation="nearest", aspect="auto")
        ax.set_axis_off()
        return self.figure


def _lines(tile: Tile) -> list[str]:
    return [_shortened(line, TILE_PX) for line in tile.caption.splitlines()] + ([tile.flag] if tile.flag else [])


def _shortened(line: str, width_px: int) -> str:
    """Shorten a line to width_px, keeping its end, by which file names differ."""
    longest = width_px // LETTER_PX
    return line if len(line) <= longest else f"…{line[1 - longest :]}"
