"""A sheet of captioned images in rows, as every figure that shows images is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import FT2Font

from runcard.figures import FIGURE_DPI

FRAME_PX = 3
# Shares of the height of a line of text:
FONT_SIZE = 0.72
TITLE_SIZE = 1.4 * FONT_SIZE
LETTER_WIDTH = 0.43  # mean, in a caption
TITLE_LETTER_WIDTH = 0.7
KEY_LETTER_WIDTH = 0.5
Colour = Sequence[float] | np.ndarray  # R, G, B, 0 to 255
BLACK: Colour = (0, 0, 0)


@dataclass(frozen=True)
class Tile:
    """An image, the lines of text below it, and a flag: a last line and a frame in a colour of their own."""

    image: np.ndarray  # (H, W, 3) uint8
    caption: str = ""
    colour: Colour = BLACK
    flag: str | None = None
    flag_colour: Colour = BLACK

    @property
    def lines(self) -> list[str]:
        """The lines of text, the flag last."""
        return self.caption.splitlines() + ([self.flag] if self.flag else [])


def grid(
    tiles: Sequence[Tile], num_columns: int, line_px: int, title: str = "", key: Sequence[tuple[np.ndarray, str]] = ()
) -> Figure:
    """Draw the tiles in rows, each in the centre of its cell, pixel for pixel.

    Text and gaps are in proportion to line_px, the height of a line of text. key explains colours at the bottom: pairs
    of a swatch (H, W, 3) uint8 and its meaning.
    """
    rows = [tiles[start : start + num_columns] for start in range(0, len(tiles), num_columns)]
    cell_height = max((tile.image.shape[0] for tile in tiles), default=0)
    cell_width = max((max(tile.image.shape) for tile in tiles), default=0)  # room for the text below tall images
    gap = margin = line_px
    font_px, num_letters = FONT_SIZE * line_px, int(cell_width / (LETTER_WIDTH * line_px))
    heights = [cell_height + line_px * max(len(tile.lines) for tile in row) + gap for row in rows]
    title_width = round(len(title) * TITLE_LETTER_WIDTH * line_px)
    width = 2 * margin + max(min(num_columns, len(tiles)) * (cell_width + gap) - gap, title_width)
    header = 2 * line_px if title else 0
    height = 2 * margin + header + sum(heights) - gap + (2 * line_px if key else 0)
    page = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / FIGURE_DPI, height / FIGURE_DPI), dpi=FIGURE_DPI)
    if title:
        _write(figure, title, margin, margin, TITLE_SIZE * line_px, bold=True)
    top = margin + header
    for row, row_height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            left = margin + column * (cell_width + gap)
            down, across, _ = tile.image.shape
            y, x = top + (cell_height - down) // 2, left + (cell_width - across) // 2
            if tile.flag:
                page[y - FRAME_PX : y + down + FRAME_PX, x - FRAME_PX : x + across + FRAME_PX] = tile.flag_colour
            page[y : y + down, x : x + across] = tile.image
            below = top + cell_height + 2 * FRAME_PX
            for line in tile.caption.splitlines():
                _write(figure, _shorten(line, num_letters), left, below, font_px, tile.colour)
                below += line_px
            if tile.flag:
                _write(figure, tile.flag, left, below, font_px, tile.flag_colour, bold=True)
        top += row_height
    left, bottom = margin, height - margin
    for swatch, meaning in key:
        down, across, _ = swatch.shape
        y = bottom - line_px + round((font_px - down) / 2)  # its middle is that of the text
        page[y : y + down, left : left + across] = swatch
        left += across + line_px // 2
        _write(figure, meaning, left, bottom - line_px, font_px)
        left += round(len(meaning) * KEY_LETTER_WIDTH * line_px) + gap
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(page, interpolation="nearest", aspect="auto")
    ax.set_axis_off()
    return figure


def _write(
    figure: Figure, text: str, left: int, top: int, font_px: float, colour: Colour = BLACK, bold: bool = False
) -> None:
    """Write a line of text with its upper left corner at (left, top), in pixels from the figure's."""
    figure.text(
        left / figure.bbox.width,
        1 - top / figure.bbox.height,
        drawable(text),
        va="top",
        fontsize=font_px * 72 / FIGURE_DPI,
        weight="bold" if bold else "normal",
        color=[value / 255 for value in colour],
        parse_math=False,
    )


def drawable(words: str) -> str:
    """Replace each character that matplotlib's font lacks by a box; matplotlib would warn of each."""
    return "".join(sign if sign == "\n" or _font().get_char_index(ord(sign)) else "□" for sign in words)


@cache
def _font() -> FT2Font:
    return get_font(findfont(FontProperties()))


def _shorten(line: str, num_letters: int) -> str:
    """Shorten a line, keeping its end, by which file names differ."""
    return line if len(line) <= num_letters else f"…{line[1 - num_letters :]}"
