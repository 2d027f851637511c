"""Calibration against values worked out by hand, scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, roc_curve
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from runcard.stats.calibration import NUM_BINS, NUM_SHOWN, Calibration


def counted(probs: np.ndarray, truth: np.ndarray, positive: int = 1) -> Calibration:
    """Count images with probabilities (I, K, …) and classes (I, …)."""
    calibration = Calibration(probs.shape[1], positive)
    for each, classes in zip(probs.astype(np.float32), truth, strict=True):
        calibration.add(each, classes)
    return calibration


@pytest.fixture
def two():
    """Return probabilities (200, 2) of two classes and the classes."""
    rng = np.random.default_rng(0)
    score = rng.uniform(size=200)
    return np.stack([1 - score, score], axis=1), rng.integers(0, 2, 200)


def test_by_hand():
    calibration = counted(np.array([[0.95, 0.05], [0.05, 0.95], [0.05, 0.95], [0.05, 0.95]]), np.array([0, 1, 1, 0]))
    counts, mean, frequency = calibration.reliability()
    assert counts.tolist() == [1, *[0] * 8, 3]
    np.testing.assert_allclose(mean[[0, 9]], [0.05, 0.95], rtol=1e-6)
    np.testing.assert_allclose(frequency[[0, 9]], [0, 2 / 3])
    assert calibration.ece == pytest.approx((0.05 + 3 * (0.95 - 2 / 3)) / 4)
    assert calibration.brier == pytest.approx((3 * 0.05**2 + 0.95**2) / 4)


def test_two_classes_equal_scikit_learn_and_torchmetrics(two):
    probs, truth = two
    calibration = counted(probs, truth)
    assert calibration.brier == pytest.approx(brier_score_loss(truth, probs[:, 1]))
    expected = binary_calibration_error(torch.tensor(probs[:, 1]), torch.tensor(truth), n_bins=NUM_SHOWN)
    assert calibration.ece == pytest.approx(float(expected), abs=1e-6)
    false_rate, true_rate, at = roc_curve(truth, probs[:, 1], drop_intermediate=False)
    sensitivity, specificity = calibration.rates_by_threshold()
    for k in (10, 37, 90):
        place = np.flatnonzero(at >= k / NUM_BINS)[-1]
        assert sensitivity[k] == pytest.approx(true_rate[place])
        assert specificity[k] == pytest.approx(1 - false_rate[place])


def test_the_first_class_may_be_the_positive_one(two):
    probs, truth = two
    mirrored = counted(probs[:, ::-1], 1 - truth)
    assert counted(probs, truth, positive=0).ece == pytest.approx(mirrored.ece)


def test_more_classes_are_judged_by_the_predicted_one():
    rng = np.random.default_rng(1)
    probs, truth = rng.dirichlet(np.ones(4), 300), rng.integers(0, 4, 300)
    calibration = counted(probs, truth)
    expected = multiclass_calibration_error(torch.tensor(probs), torch.tensor(truth), 4, n_bins=NUM_SHOWN)
    assert calibration.ece == pytest.approx(float(expected), abs=1e-6)
    assert calibration.brier == pytest.approx(np.square(probs - np.eye(4)[truth]).sum(axis=1).mean(), rel=1e-5)


def test_dice_of_masks_by_threshold():
    rng = np.random.default_rng(2)
    score = rng.uniform(size=(5, 6, 7))
    truth = rng.integers(0, 2, (5, 6, 7))
    truth[4] = 0  # an image without the class
    dice = counted(np.stack([1 - score, score], axis=1), truth).dice_by_threshold()
    for k in (0, 30, 77):
        decided = score.astype(np.float32) >= k / NUM_BINS
        for i in range(5):
            expected = 2 * (decided[i] & (truth[i] == 1)).sum() / (decided[i].sum() + truth[i].sum())
            assert dice[i, k] == pytest.approx(expected)
    empty = counted(np.stack([np.ones((1, 2, 2)), np.zeros((1, 2, 2))], axis=1), np.zeros((1, 2, 2), int))
    assert empty.dice_by_threshold()[0, 50] == 1, "neither has the class"
