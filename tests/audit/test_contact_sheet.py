"""The audit's sheets: every tile in its place, in its pixels, and nothing cut or over another."""

from __future__ import annotations

import io
import warnings
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from runcard.audit.contact_sheet import COLOURS, MAX_TILES, NUM_COLUMNS, TILE_PX, Tile, contact_sheet
from runcard.figures import FIGURE_DPI
from runcard.figures.overlays import CONTOURS


def plain(height: int, width: int, red: int) -> np.ndarray:
    """An image of one colour, which no letter has."""
    return np.full((height, width, 3), [red, 0, 255], np.uint8)


def tile(i: int, flag: str | None = None, level: str | None = None, mask: np.ndarray | None = None) -> Tile:
    """A tile of its own colour, twice as wide as high."""
    return Tile(plain(16, 32, i), mask, f"hospital_{'x' * 30}_{i:03d}\nnormal", flag, level)


def pixels(figure: Figure) -> np.ndarray:
    """The picture (H, W, 3) as it is written to disk."""
    file = io.BytesIO()
    figure.savefig(file, dpi=FIGURE_DPI)
    return np.asarray(Image.open(file).convert("RGB"))


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def assert_nothing_is_cut_or_covered(figure: Figure) -> None:
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in figure.texts if t.get_text()]
    for (word, box), (other, another) in combinations(boxes, 2):
        assert not box.overlaps(another), (word, other)
    for word, box in boxes:
        assert box.x0 >= 0, word
        assert box.y0 >= 0, word
        assert box.x1 <= figure.bbox.width, word
        assert box.y1 <= figure.bbox.height, word


def test_tiles_are_framed_by_the_level_of_their_finding():
    flagged = [tile(4, "duplicates_across", "error"), tile(7, "near_duplicates", "warning")]
    figure = contact_sheet([*flagged, *(tile(i) for i in range(10))], "12 images")
    said = words(figure)
    assert said[0] == "12 images"
    assert [word[-3:] for word in said[1:] if word.startswith("…")][:4] == ["004", "007", "000", "001"]
    assert said[3] == "duplicates_across"
    shown = pixels(figure)
    reds, oranges = ((shown == COLOURS[level]).all(axis=2) for level in ("error", "warning"))
    assert reds.any()
    assert np.argwhere(reds)[:, 1].max() < np.argwhere(oranges)[:, 1].min()


def test_a_tile_has_its_pixels_and_its_shape():
    shown = pixels(contact_sheet([tile(77)], "one image"))
    places = np.argwhere((shown == plain(1, 1, 77)).all(axis=2))
    assert (np.ptp(places, axis=0) + 1).tolist() == [TILE_PX // 2, TILE_PX], "twice as wide as high, as the image is"


def test_a_mask_is_outlined():
    mask = np.zeros((16, 32), np.uint8)
    mask[4:12, 4:20] = 1
    drawn = (pixels(contact_sheet([tile(77, mask=mask)], "one image")) == CONTOURS[0]).all(axis=2)
    assert (np.ptp(np.argwhere(drawn), axis=0) + 1).tolist() == [TILE_PX // 4, TILE_PX // 2]


@pytest.mark.parametrize("num_tiles", [0, 1, NUM_COLUMNS, NUM_COLUMNS + 1, MAX_TILES])
def test_a_contact_sheet_of_any_size(num_tiles):
    tiles = [tile(i, "near_duplicates_across", "warning") for i in range(num_tiles)]
    figure = contact_sheet(tiles, "chest films of two hospitals")
    assert_nothing_is_cut_or_covered(figure)
    assert words(figure).count("near_duplicates_across") == num_tiles


def test_signs_that_the_font_lacks_are_boxes():
    """Matplotlib would warn of each; a warning is an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels(contact_sheet([Tile(plain(8, 8, 1), None, "肺_001\nnormal")], "肺"))
