"""Pictures: the colours say what they mean, contours are thin, tiles are small."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from runcard import IGNORED
from runcard.figures.charts import confusion_figure, curves_figure
from runcard.figures.grid import Tile, grid
from runcard.figures.noise import noise_figure
from runcard.figures.overlays import BLUE, CONTOURS, GREEN, HATCH, OVERLAY_OPACITY, RED, agreement, outlined
from runcard.figures.predictions import (
    GAP_PX,
    LINE_PX,
    PREVIEW_PX,
    TILE_PX,
    Example,
    batch_figure,
    class_figure,
    mask_figure,
    preview,
)


def masked(size_px: int = 16, channels: int = 1) -> Example:
    """An image with a square, of which the prediction finds the left half."""
    target = np.zeros((size_px, size_px), np.uint8)
    target[4:12, 4:12] = 1
    found = target * (np.arange(size_px) < 8)
    image = np.full((size_px, size_px, channels), 100, np.uint8)
    return Example("a", image, target, np.stack([1 - found, found]).astype(np.float32))


def labelled(title: str, true: int, probs: tuple[float, ...]) -> Example:
    return Example(title, np.zeros((16, 16, 1), np.uint8), np.array(true), np.array(probs, np.float32))


def titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def page(figure: Figure) -> np.ndarray:
    """The pixels (H, W, 3) of a sheet, without its text."""
    return figure.axes[0].images[0].get_array()


def has(pixels: np.ndarray, colour: object) -> bool:
    return bool((pixels == colour).all(axis=-1).any())


GREY = np.array([100.0] * 3)


def mixed(colour: np.ndarray) -> list[int]:
    return ((1 - OVERLAY_OPACITY) * GREY + OVERLAY_OPACITY * colour).round().astype(int).tolist()


@pytest.mark.parametrize("channels", [1, 3])
def test_agreement_is_green_false_positive_red_and_missed_blue(channels):
    image = np.full((2, 3, channels), 100, np.uint8)
    truth = np.array([[1, 0, 1], [0, 2, 1]])
    prediction = np.array([[1, 1, 0], [0, 2, 2]])
    expected = [[GREEN, RED, BLUE], [None, GREEN, RED]]
    shown = agreement(image, truth, prediction)
    assert shown.shape == (2, 3, 3)
    assert shown.dtype == np.uint8
    for row in range(2):
        for column in range(3):
            colour = expected[row][column]
            assert shown[row, column].tolist() == ([100] * 3 if colour is None else mixed(colour)), (row, column)
    assert (image == 100).all(), "the image itself is left alone"


def test_the_three_colours_are_what_they_are_called():
    for colour, channel in ((RED, 0), (GREEN, 1), (BLUE, 2)):
        assert colour.argmax() == channel
        assert colour[channel] > 1.5 * np.delete(colour, channel).max()


@pytest.mark.parametrize("value", [1, 2])
def test_outlined_draws_the_contour_only(value):
    example = masked()
    shown = outlined(example.image, example.target * value)
    drawn = (shown == CONTOURS[value - 1]).all(axis=-1)
    inside = np.zeros_like(drawn)
    inside[5:11, 5:11] = True
    assert drawn.sum() == 4 * 8 - 4
    assert not (drawn & (inside | (example.target == 0))).any()
    assert (shown[~drawn] == 100).all()
    assert (example.image == 100).all(), "the image itself is left alone"


def test_outlined_leaves_an_empty_mask_without_a_line():
    example = masked(channels=3)
    assert (outlined(example.image, example.target * 0) == 100).all()


def test_what_nobody_labelled_is_hatched_and_nothing_else():
    example = masked()
    ignored = np.zeros_like(example.target, bool)
    ignored[:, 8:] = True
    target = np.where(ignored, IGNORED, example.target).astype(np.uint8)
    without = np.where(ignored, 0, example.target)
    for shown, plain in (
        (outlined(example.image, target), outlined(example.image, without)),
        (agreement(example.image, target, example.target), agreement(example.image, without, without)),
    ):
        changed = (shown != plain).any(axis=-1)
        assert changed.any()
        assert not changed[~ignored].any()
        assert (shown[changed] == HATCH).all()
    assert words(mask_figure([replace(example, target=target)]))[-2:] == ["missed", "not labelled"]


def test_an_example_counts_its_labelled_pixels():
    probs = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    counted, targets = Example("a", np.zeros((2, 2, 1)), np.array([[0, IGNORED], [1, IGNORED]]), probs).labelled()
    assert (counted.tolist(), targets.tolist()) == ([[0, 2], [4, 6]], [0, 1])
    counted, targets = Example("a", np.zeros((2, 2, 1)), np.array(IGNORED), np.zeros(300)).labelled()
    assert (counted.shape, targets.tolist()) == ((300, 1), [IGNORED]), "of classes it is one like any other"


@pytest.mark.parametrize(("size_px", "side"), [(16, 16), (128, 128), (129, 128), (300, 128)])
def test_a_preview_is_three_tiles_of_at_most_128_px(size_px, side):
    assert PREVIEW_PX == 128
    strip = preview(masked(size_px), ["background", "lung"])
    assert strip.shape == (side, 3 * side, 3)
    assert strip.dtype == np.uint8
    image, truth, prediction = np.split(strip, 3, axis=1)
    assert (image == 100).all()
    assert not np.array_equal(truth, image)
    assert not np.array_equal(prediction, truth)


def test_a_preview_of_a_class_says_what_was_predicted():
    right, wrong = (preview(labelled("a", true, (0.9, 0.1)), ["AFF", "NFF"]) for true in (0, 1))
    assert right.shape == wrong.shape == (16 + 14, PREVIEW_PX, 3)
    assert np.array_equal(right[:16], wrong[:16]), "the image"
    ink = [strip[16:][(strip[16:] != 255).any(axis=-1)].astype(int) for strip in (right, wrong)]
    assert (ink[0][:, 1] >= ink[0][:, 0]).all(), "green where it is right"
    assert (ink[1][:, 0] >= ink[1][:, 1]).all(), "red where it is wrong"
    assert (right[:16, 16:] == 255).all(), "white beside an image that is narrower than its words"


def test_the_arrow_of_a_preview_is_not_the_box_of_a_missing_character():
    arrow, box = (preview(labelled("a", 0, (0.9, 0.1)), [name, ""])[16:] for name in ("→", "\uffff"))
    assert not np.array_equal(arrow, box)


def test_a_tall_image_keeps_its_proportions_in_a_preview():
    example = masked(256)
    tall = replace(
        example, image=example.image[:, :128], target=example.target[:, :128], probs=example.probs[..., :128]
    )
    assert preview(tall, ["background", "lung"]).shape == (128, 3 * 64, 3)


def test_masks_are_drawn_in_rows_of_image_truth_and_prediction():
    figure = mask_figure([masked(), replace(masked(channels=3), title="b")])
    assert isinstance(figure, Figure)
    assert words(figure) == ["a", "b", "agreement", "false positive", "missed"]
    row = page(figure)[LINE_PX : LINE_PX + TILE_PX]
    lefts = [LINE_PX + i * (TILE_PX + GAP_PX) for i in range(3)]
    first, truth, prediction = (row[:, left : left + TILE_PX] for left in lefts)
    assert (first == 100).all()
    assert has(truth, CONTOURS[0])
    assert prediction[88, 88].tolist() == mixed(GREEN)
    assert prediction[88, 168].tolist() == mixed(BLUE)


def test_classes_are_drawn_with_truth_prediction_and_probability():
    figure = class_figure([labelled("a", 0, (0.9, 0.1)), labelled("b", 0, (0.25, 0.75))], ["AFF", "NFF"])
    assert isinstance(figure, Figure)
    assert words(figure) == ["a", "AFF → AFF 0.90", "b", "AFF → NFF 0.75"]
    assert figure.texts[1].get_color() == [0, 0, 0]
    assert figure.texts[3].get_color() == (RED / 255).tolist(), "a wrong one is red"


def test_a_batch_is_drawn_as_the_model_sees_it():
    images = np.linspace(-1, 1, 5 * 16 * 16, dtype=np.float32).reshape(5, 1, 16, 16)
    masks = np.stack([masked().target] * 5)
    figure = batch_figure(images, masks, ["background", "lung"])
    assert isinstance(figure, Figure)
    assert words(figure) == ["first training batch, values -1.00 to 1.00"]
    assert has(page(figure), CONTOURS[0])
    figure = batch_figure(images, np.array([0, 1, 1, 0, 1]), ["AFF", "NFF"])
    assert words(figure)[1:] == ["AFF", "NFF", "NFF", "AFF", "NFF"]


def test_a_batch_of_one_value_can_be_drawn():
    assert isinstance(batch_figure(np.zeros((1, 1, 8, 8), np.float32), np.array([0]), ["AFF"]), Figure)


def test_a_confusion_matrix_is_coloured_by_the_share_of_the_true_class():
    figure = confusion_figure(np.array([[3, 1, 0], [0, 1200, 0], [0, 0, 0]]), ["Mel", "Nev", "none"], "4 images")
    (ax,) = figure.axes
    assert ax.images[0].get_array().tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]]
    assert ax.images[0].get_clim() == (0, 1)
    texts = {tuple(map(int, text.get_position()[::-1])): text.get_text() for text in ax.texts}  # (row, column)
    assert texts == {(0, 0): "75.0%\n3", (0, 1): "25.0%\n1", (1, 1): "100.0%\n1,200"}
    for axis, name in ((ax.xaxis, "predicted"), (ax.yaxis, "true")):
        assert axis.get_label_text() == name
        assert [label.get_text() for label in axis.get_ticklabels()] == ["Mel", "Nev", "none"]
    assert ax.get_title() == "4 images"


def test_curves_have_training_and_validation_on_the_same_axes():
    row = {
        "epoch": 1,
        "train/loss": 0.5,
        "train_eval/loss": 0.4,
        "val/loss": 0.6,
        "train_eval/dice": 0.7,
        "val/dice": 0.8,
    }
    figure = curves_figure([row, row | {"epoch": 2}], "val/dice", "positive: lung")
    assert isinstance(figure, Figure)
    assert titles(figure) == ["loss", "dice (best epoch)"]
    assert [len(ax.lines) for ax in figure.axes] == [3, 2]
    assert [list(line.get_ydata()) for line in figure.axes[1].lines] == [[0.7, 0.7], [0.8, 0.8]]


def test_a_grid_keeps_its_images_pixel_for_pixel_below_the_title_and_in_rows():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    tiles = [Tile(np.full((20, 30, 3), colour, np.uint8), f"tile {i}") for i, colour in enumerate(colours)]
    shown = page(grid(tiles, num_columns=2, line_px=10, title="three"))
    corners = [np.argwhere((shown == colour).all(axis=-1)) for colour in colours]
    assert [len(corner) for corner in corners] == [20 * 30] * 3
    first, beside, below = (corner.min(axis=0).tolist() for corner in corners)
    assert beside == [first[0], first[1] + 30 + 10]
    assert below == [first[0] + 20 + 10 + 10, first[1]], "a line of text and a gap lower"


def test_a_long_caption_keeps_its_end_and_a_flag_is_framed_in_its_colour():
    tile = Tile(np.zeros((40, 40, 3), np.uint8), f"{'x' * 50}/a.png", flag="outliers", flag_colour=(9, 99, 199))
    figure = grid([tile], num_columns=1, line_px=10)
    shortened, flag = words(figure)
    assert shortened == "…xx/a.png"
    assert flag == "outliers"
    assert has(page(figure), (9, 99, 199))


def noise_labels(*ends: float) -> list[tuple[str, float]]:
    """The labels of lines that end at these heights, the first of them that of the same images."""
    others = {10 * i: [0.1, end] for i, end in enumerate(ends[1:], start=1)}
    figure = noise_figure([2, 20], [[0.05, ends[0] / 2], [0.1, ends[0]]], others, "images", "Dice", "")
    (ax,) = figure.axes
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("Dice", "seeds in each arm")
    assert [line.get_ydata()[-1] for line in ax.lines] == list(ends)
    assert len({line.get_linestyle() for line in ax.lines[1:]}) == len(ends) - 1, "they differ in grey"
    return [(text.get_text(), text.get_position()[1]) for text in ax.texts if "images" in text.get_text()]


def test_noise_lines_are_labelled_at_their_ends():
    assert noise_labels(0.01, 0.04, 0.02) == [
        ("these images", pytest.approx(0.01)),
        ("20 images like these", pytest.approx(0.02)),
        ("10 images like these", pytest.approx(0.04)),
    ]


def test_labels_of_noise_lines_that_meet_are_stacked_around_them():
    ((text, height),) = noise_labels(0.02, 0.0204)
    assert text == "10 images like these\nthese images"
    assert height == pytest.approx(0.0202, rel=1e-3)
