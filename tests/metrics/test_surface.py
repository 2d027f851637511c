"""Surface distances: tables worked out by hand, every pair of pixels as reference, empty masks, mm, and shared work."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist
from torch import Tensor
from torchmetrics import MetricCollection

from runcard.metrics import surface
from runcard.metrics.surface import AverageSurfaceDistance, HausdorffDistance95

HEIGHT, WIDTH = 12, 9
DIAGONAL = 15.0  # of 12 x 9 pixels


def square(top: int, left: int, side: int) -> Tensor:
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
    mask[top : top + side, left : left + side] = 1
    return mask


def of_masks(predictions: Tensor, truth: Tensor, pixel_mm: float | None = None) -> tuple[list[float], list[float]]:
    """Return both metrics' values for class maps (N, H, W), predicted with certainty."""
    num_classes = int(max(predictions.max(), truth.max(), 1)) + 1
    probs = F.one_hot(predictions, num_classes).movedim(-1, 1).float()
    values = []
    for metric in (HausdorffDistance95(pixel_mm), AverageSurfaceDistance(pixel_mm)):
        metric.update(probs, truth)
        values.append(metric.compute().reshape(-1).tolist())
    return values[0], values[1]


def test_ignored_pixels_are_background_in_both_masks() -> None:
    prediction, truth = square(2, 2, 5), square(2, 2, 4)
    ignored = torch.zeros_like(truth, dtype=torch.bool)
    ignored[:, 4:] = True
    probs = F.one_hot(prediction[None], 2).movedim(-1, 1).float()
    metric = AverageSurfaceDistance(None)
    metric.ignore_index = 255
    metric.update(probs, truth.masked_fill(ignored, 255)[None])
    expected = of_masks(prediction.masked_fill(ignored, 0)[None], truth.masked_fill(ignored, 0)[None])[1]
    assert metric.compute().reshape(-1).tolist() == expected
    assert expected != of_masks(prediction[None], truth[None])[1]


EMPTY = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
TABLE = [
    # prediction       truth             hausdorff 95   average
    (square(2, 2, 3), square(2, 2, 3), (0.0, 0.0)),  # perfect
    (square(2, 2, 1), square(2, 3, 1), (1.0, 1.0)),  # one pixel apart
    (square(2, 2, 1), square(5, 6, 1), (5.0, 5.0)),  # a triangle of 3, 4, 5
    (square(2, 2, 2), square(2, 3, 2), (1.0, 0.5)),  # shifted by one: half of the pixels are shared
    (square(2, 2, 2), square(2, 6, 2), (4.0, 3.5)),  # disjoint: two pixels 3 and two 4 from the nearest, either way
    # 3 x 3 in 5 x 5, their outlines one apart. From 8 pixels 1; of the 16 outside the 4 corners sqrt(2), the others 1.
    (square(3, 3, 3), square(2, 2, 5), (math.sqrt(2), (8 + 12 + 4 * math.sqrt(2)) / 24)),
    # One false pixel, 4 from the nearest: of its 8 + 1 the 95th percentile lies 0.6 of the way from 0 to 4.
    (square(2, 2, 3) + square(4, 8, 1), square(2, 2, 3), (2.4, 4 / 17)),
    # All of the image: its surface is the border, 38 pixels, 4 of them corners; that of all but the border has 30.
    (EMPTY + 1, F.pad(EMPTY[2:, 2:] + 1, (1, 1, 1, 1)), (math.sqrt(2), (34 + 4 * math.sqrt(2) + 30) / 68)),
    (EMPTY, EMPTY, (0.0, 0.0)),
    (EMPTY, square(2, 2, 3), (DIAGONAL, DIAGONAL)),
    (square(2, 2, 3), EMPTY, (DIAGONAL, DIAGONAL)),
]


@pytest.mark.parametrize(("prediction", "truth", "expected"), TABLE)
def test_distances_by_hand(prediction: Tensor, truth: Tensor, expected: tuple[float, float]) -> None:
    for masks in ((prediction, truth), (truth, prediction)):  # both are symmetric
        hausdorff, average = of_masks(masks[0][None], masks[1][None])
        assert (*hausdorff, *average) == pytest.approx(expected)


def test_distances_are_per_image_and_in_mm() -> None:
    predictions, truth = (torch.stack([row[i] for row in TABLE]) for i in (0, 1))
    for pixel_mm in (None, 0.5):
        for column, values in enumerate(of_masks(predictions, truth, pixel_mm)):
            assert values == pytest.approx([(pixel_mm or 1) * row[2][column] for row in TABLE])


def test_three_classes_give_the_mean_over_the_foreground() -> None:
    truth = square(2, 2, 1) + 2 * square(8, 2, 1)
    predictions = square(2, 3, 1) + 2 * square(11, 6, 1)  # one pixel off, and five
    assert of_masks(predictions[None], truth[None]) == ([pytest.approx(3)], [pytest.approx(3)])
    assert of_masks(square(2, 2, 1)[None], truth[None])[1] == [pytest.approx((0 + DIAGONAL) / 2)]  # class 2 not found


def outline(mask: np.ndarray) -> np.ndarray:
    """The surface once more, from its definition: in the mask, and a pixel above, below, left or right is not."""
    padded = np.pad(mask, 1)
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.argwhere(mask & ~np.logical_and.reduce(neighbours))


def test_distances_agree_with_those_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    cells = torch.from_numpy(rng.random((6, 2, 5, 5)))
    predictions, truth = (F.interpolate(cells, (40, 31), mode="bicubic") > 0.5).long().unbind(dim=1)  # ragged blobs
    hausdorff, average = of_masks(predictions, truth)
    for i in range(6):
        ours, theirs = (outline(masks[i].bool().numpy()) for masks in (predictions, truth))
        pairs = cdist(ours, theirs)
        directed = pairs.min(axis=1), pairs.min(axis=0)
        assert hausdorff[i] == pytest.approx(max(np.quantile(d, 0.95) for d in directed))
        assert average[i] == pytest.approx(sum(d.sum() for d in directed) / sum(pairs.shape))
    assert len(set(hausdorff)) > 3


def test_both_metrics_measure_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchmetrics finds out in the first batch which metrics share a state, also where their units differ."""
    measured = []
    measure = surface.surface_distances
    monkeypatch.setattr(surface, "surface_distances", lambda *masks: measured.append(masks) or measure(*masks))
    both = MetricCollection({"hd95": HausdorffDistance95(None), "asd": AverageSurfaceDistance(0.5)})
    for truth in (square(2, 2, 2), square(2, 3, 2)):  # the first batch is perfect: zeros, in every unit
        both.update(F.one_hot(square(2, 2, 2)[None], 2).movedim(-1, 1).float(), truth[None])
    assert len(measured) == 2 + 1
    assert both.compute()["hd95"].tolist() == [0, 1]
    assert both.compute()["asd"].tolist() == [0, 0.25]


@pytest.mark.parametrize("pixel_mm", [0, -1.0, "small", True])
def test_a_wrong_pixel_is_named(pixel_mm: float) -> None:
    with pytest.raises(ValueError, match=r"^pixel_mm must be a number >= 1e-06, got "):
        HausdorffDistance95(pixel_mm)


def test_pixels_of_a_known_size_give_mm() -> None:
    """One pixel three rows above and four columns left of the other: 3 * 0.8 mm and 4 * 0.5 mm, or 3 * 2 and 4 * 2."""
    prediction, truth = square(2, 2, 1), square(5, 6, 1)
    probs = F.one_hot(torch.stack([prediction, prediction, EMPTY]), 2).movedim(-1, 1).float()
    targets = torch.stack([truth, truth, truth])
    sizes = torch.tensor([[0.8, 0.5], [2, 2], [0.8, 0.5]], dtype=torch.float64)
    both = MetricCollection({"hd95": HausdorffDistance95(None), "asd": AverageSurfaceDistance(None)})
    for _ in range(2):  # the second batch is measured once for both
        for metric in both.values(copy_state=False):
            metric.pixel_size = sizes
        both.update(probs, targets)
    expected = [math.hypot(2.4, 2.0), 10.0, math.hypot(12 * 0.8, 9 * 0.5)]  # nothing predicted: the diagonal
    for values in both.compute().values():
        assert values.tolist() == pytest.approx(2 * expected)


def test_ones_are_pixels_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    predictions, truth = (torch.from_numpy(rng.random((4, HEIGHT, WIDTH)) > 0.6).long() for _ in range(2))
    probs = F.one_hot(predictions, 2).movedim(-1, 1).float()
    values = []
    for size in (None, torch.ones(4, 2, dtype=torch.float64)):
        metric = HausdorffDistance95(None)
        metric.pixel_size = size
        metric.update(probs, truth)
        values.append(metric.compute())
    assert torch.equal(*values)
