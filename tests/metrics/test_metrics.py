"""Metrics: tables worked out by hand, references, empty masks, shared states, and probabilities in place of logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F
import torchmetrics.functional.classification as functional
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    BinaryAUROC,
    BinaryF1Score,
    BinaryPrecision,
    BinaryRecall,
    BinarySpecificity,
)

from runcard.losses.bce import BCE
from runcard.losses.cross_entropy import CrossEntropy
from runcard.losses.dice import DiceLoss
from runcard.metrics.classification import OneVsRest, PerImageAccuracy
from runcard.metrics.log_loss import LogLoss
from runcard.metrics.segmentation import (
    Dice,
    DiceOfClasses,
    IoU,
    PixelAccuracy,
    PooledDice,
    Precision,
    Sensitivity,
    SoftDice,
    Specificity,
)

COUNTED: list[type[Dice | PooledDice | IoU | Sensitivity | Specificity | Precision | PixelAccuracy]] = [
    Dice,
    PooledDice,
    IoU,
    Sensitivity,
    Specificity,
    Precision,
    PixelAccuracy,
]


def of_sigmoid(logits: Tensor) -> Tensor:
    """Logits (N, ...) -> probabilities (N, 2, ...), as runcard.training.evaluation.probabilities gives them."""
    p = logits.sigmoid()
    return torch.stack([1 - p, p], dim=1)


def certain(labels: Tensor, num_classes: int) -> Tensor:
    """Labels (N, ...) -> one-hot probabilities (N, K, ...)."""
    return F.one_hot(labels, num_classes).movedim(-1, 1).float()


def value(metric: Metric, probs: Tensor, targets: Tensor) -> Tensor:
    metric.update(probs, targets)
    result: Tensor = metric.compute()
    return result


# One image a row, of four pixels: prediction, truth, then each metric's value.
TABLE = [
    # pred          truth         dice   iou    sens   spec   prec   pixel accuracy
    ([1, 1, 0, 0], [1, 1, 0, 0], (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)),  # perfect
    ([1, 1, 0, 0], [0, 0, 1, 1], (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)),  # disjoint
    ([1, 1, 0, 0], [1, 0, 0, 0], (2 / 3, 0.5, 1.0, 2 / 3, 0.5, 0.75)),
    ([1, 0, 0, 0], [1, 1, 1, 0], (0.5, 1 / 3, 1 / 3, 1.0, 1.0, 0.5)),
    ([0, 0, 0, 0], [0, 0, 0, 0], (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)),  # both empty
    ([1, 0, 0, 0], [0, 0, 0, 0], (0.0, 0.0, 1.0, 0.75, 0.0, 0.75)),  # truth empty
    ([0, 0, 0, 0], [1, 0, 0, 0], (0.0, 0.0, 0.0, 1.0, 1.0, 0.75)),  # prediction empty
    ([1, 1, 1, 1], [1, 1, 1, 1], (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)),  # no background
]


@pytest.mark.parametrize(
    ("metric", "column"),
    [(Dice, 0), (IoU, 1), (Sensitivity, 2), (Specificity, 3), (Precision, 4), (PixelAccuracy, 5)],
)
def test_masks_by_hand(metric: Callable[..., Metric], column: int) -> None:
    preds, truth = (torch.tensor([row[i] for row in TABLE]).view(-1, 2, 2) for i in (0, 1))
    expected = torch.tensor([row[2][column] for row in TABLE])
    assert torch.allclose(value(metric(num_classes=2), certain(preds, 2), truth), expected)


def ignoring(metric: Metric) -> Metric:
    metric.ignore_index = 255
    return metric


@pytest.mark.parametrize("metric", COUNTED)
def test_ignored_pixels_are_left_out_of_counts(metric: Callable[..., Metric]) -> None:
    preds = torch.tensor([[[1, 1, 0, 0, 1, 0]], [[1, 0, 1, 0, 1, 0]]])
    truth = torch.tensor([[[1, 0, 0, 1, 255, 255]], [[255, 255, 255, 255, 255, 255]]])
    once = 1 / 3 if metric is IoU else 1 / 2  # tp, fp, tn and fn are 1 each
    expected = [once] if metric is PooledDice else [once, 1]  # where nothing is labelled: 0/0
    found = value(ignoring(metric(num_classes=2)), certain(preds, 2), truth)
    assert found.reshape(-1).tolist() == pytest.approx(expected)


def test_ignored_pixels_are_left_out_of_losses() -> None:
    p, truth = torch.tensor([[[0.9, 0.2, 0.7]], [[0.6, 0.1, 0.4]]]), torch.tensor([[[1, 0, 255]], [[255, 255, 1]]])
    probs = torch.stack([1 - p, p], dim=1)
    log_losses = value(ignoring(LogLoss()), probs, truth)
    assert log_losses.tolist() == pytest.approx([-(math.log(0.9) + math.log(0.8)) / 2, -math.log(0.4)])
    assert value(ignoring(SoftDice()), probs, truth).tolist() == pytest.approx([1 - 1.8 / 2.1, 1 - 0.8 / 1.4])


@pytest.mark.parametrize("channels_last", [False, True])
def test_where_nothing_is_ignored_no_bit_changes(channels_last: bool) -> None:
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    probs = torch.randn(3, 2, 33, 31).softmax(dim=1).contiguous(memory_format=layout)
    truth = torch.randint(0, 2, (3, 33, 31))
    for metric in (*(kind(2) for kind in COUNTED), SoftDice()):
        plain = value(metric, probs, truth)
        metric.reset()
        assert torch.equal(value(ignoring(metric), probs, truth), plain)


def test_pooled_dice_by_hand() -> None:
    preds, truth = (torch.tensor([row[i] for row in TABLE]).view(-1, 2, 2) for i in (0, 1))
    tp, fp, fn = 8, 4, 5
    assert value(PooledDice(2), certain(preds, 2), truth).item() == pytest.approx(2 * tp / (2 * tp + fp + fn))
    empty = torch.zeros(3, 2, 2, dtype=torch.int64)
    assert value(PooledDice(2), certain(empty, 2), empty).item() == 1.0


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (Dice, (2 / 3 + 2 / 3) / 2),
        (IoU, (1 / 2 + 1 / 2) / 2),
        (Sensitivity, (1 + 1 / 2) / 2),
        (Precision, (1 / 2 + 1) / 2),
        (Specificity, (2 / 3 + 1) / 2),
        (PixelAccuracy, 3 / 4),
    ],
)
def test_three_classes_give_the_mean_over_the_foreground(metric: Callable[..., Metric], expected: float) -> None:
    preds, truth = torch.tensor([[[0, 1, 1, 2]]]), torch.tensor([[[0, 1, 2, 2]]])
    assert value(metric(num_classes=3), certain(preds, 3), truth).item() == pytest.approx(expected)


def test_every_foreground_class_has_a_dice_of_its_own() -> None:
    preds = torch.tensor([[[0, 1, 1, 2]], [[0, 0, 0, 0]]])
    truth = torch.tensor([[[0, 1, 2, 2]], [[0, 1, 1, 0]]])
    metric = DiceOfClasses(["background", "right", "left"])
    metric.update(certain(preds, 3), truth)
    by_class = metric.compute()
    assert list(by_class) == metric.columns == ["dice_right", "dice_left"]
    assert by_class["dice_right"].tolist() == pytest.approx([2 / 3, 0])
    assert by_class["dice_left"].tolist() == pytest.approx([2 / 3, 1])
    assert torch.allclose(torch.stack(list(by_class.values())).mean(dim=0), value(Dice(3), certain(preds, 3), truth))


def test_of_two_classes_the_second_one_is_dice_and_no_column_more() -> None:
    metric = DiceOfClasses(["background", "lung"])
    metric.update(certain(torch.ones(1, 2, 2, dtype=torch.int64), 2), torch.ones(1, 2, 2, dtype=torch.int64))
    assert metric.columns == []
    assert metric.compute() == {}


@pytest.mark.parametrize("num_classes", [2, 4])
def test_masks_agree_with_torchmetrics(num_classes: int) -> None:
    torch.manual_seed(0)
    probs = torch.rand(5, num_classes, 9, 7).softmax(dim=1)
    truth = torch.randint(0, num_classes, (5, 9, 7))
    references: list[tuple[type[Metric], Callable[..., Tensor]]] = [
        (Dice, functional.multiclass_f1_score),
        (IoU, functional.multiclass_jaccard_index),
        (Sensitivity, functional.multiclass_recall),
        (Specificity, functional.multiclass_specificity),
        (Precision, functional.multiclass_precision),
    ]
    for metric, reference in references:
        ours = value(metric(num_classes=num_classes), probs, truth)
        for i in range(5):  # image by image: multiclass_jaccard_index has no samplewise form
            theirs = reference(probs[i : i + 1], truth[i : i + 1], num_classes, average="none")[1:].mean()
            assert ours[i].item() == pytest.approx(theirs.item(), abs=1e-6), metric.__name__
    pooled = functional.multiclass_f1_score(probs, truth, num_classes, average="none")[1:].mean()
    assert value(PooledDice(num_classes), probs, truth).item() == pytest.approx(pooled.item(), abs=1e-6)


def test_batches_make_no_difference() -> None:
    torch.manual_seed(0)
    probs, truth = of_sigmoid(torch.randn(7, 6, 5)), torch.randint(0, 2, (7, 6, 5))
    for metric in [*(kind(2) for kind in COUNTED), LogLoss(), SoftDice()]:
        whole = value(metric, probs, truth)
        metric.reset()
        for part in (slice(0, 4), slice(4, 7)):
            metric.update(probs[part], truth[part])
        assert torch.equal(metric.compute(), whole)


def test_one_image_alone_gives_a_scalar() -> None:
    """torchmetrics squeezes a tensor of one element: who reads vectors as per image has to know it."""
    labels = torch.tensor([1])
    masks = torch.ones(1, 2, 2, dtype=torch.int64)
    for metric in (Dice(2), SoftDice()):
        assert value(metric, certain(masks, 2), masks).shape == ()
    for metric in (PerImageAccuracy(), LogLoss()):
        assert value(metric, certain(labels, 2), labels).shape == ()


def collection(compute_groups: bool) -> MetricCollection:
    metrics: dict[str, Metric] = {kind.__name__: kind(2) for kind in COUNTED}
    metrics |= {
        "DiceOfClasses": DiceOfClasses(["background", "lung"]),
        "LogLoss": LogLoss(),
        "SoftDice": SoftDice(),
    }
    return MetricCollection(metrics, compute_groups=compute_groups)


def test_the_counted_metrics_share_one_state_also_after_reset() -> None:
    torch.manual_seed(0)
    shared, apart = collection(compute_groups=True), collection(compute_groups=False)
    for _ in range(2):
        for size in (4, 3):
            probs, truth = of_sigmoid(torch.randn(size, 6, 5)), torch.randint(0, 2, (size, 6, 5))
            shared.update(probs, truth)
            apart.update(probs, truth)
        groups = sorted(sorted(names) for names in shared.compute_groups.values())
        counted = sorted(["DiceOfClasses", *(kind.__name__ for kind in COUNTED)])
        assert groups == [counted, ["LogLoss"], ["SoftDice"]]
        one, other = shared.compute(), apart.compute()
        assert list(one) == list(other)
        for name in one:
            assert one[name].shape == (() if name == "PooledDice" else (7,))
            assert torch.equal(one[name], other[name]), name
        shared.reset()
        apart.reset()


def test_equal_values_of_different_metrics_do_not_join_them() -> None:
    """A first batch of perfect predictions gives LogLoss, SoftDice the same zeros: they must stay apart."""
    both = collection(compute_groups=True)
    truth = torch.tensor([[[0, 1]], [[1, 1]]])
    both.update(certain(truth, 2), truth)
    both.update(torch.full((1, 2, 1, 2), 0.5), truth[:1])
    assert both.compute()["LogLoss"].tolist() == pytest.approx([0, 0, math.log(2)])
    assert both.compute()["SoftDice"].tolist() == pytest.approx([0, 0, 1 - 2 * 0.5 / 2])


@pytest.mark.parametrize("size", [(), (6, 5)])
def test_log_loss_is_each_images_cross_entropy(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 3, *size), torch.randint(0, 3, (4, *size))
    ours = value(LogLoss(), logits.softmax(dim=1), targets)
    theirs = torch.stack([CrossEntropy()(logits[i : i + 1], targets[i : i + 1]) for i in range(4)])
    assert torch.allclose(ours, theirs)
    one, truth = torch.randn(4, *size), torch.randint(0, 2, (4, *size))
    assert value(LogLoss(), of_sigmoid(one), truth).mean().item() == pytest.approx(BCE()(one[:, None], truth).item())


def test_log_loss_of_a_certain_mistake_is_finite() -> None:
    losses = value(LogLoss(), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([0.0, -math.log(1e-7)])


def test_soft_dice_loss_is_each_images_unsmoothed_loss() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 3, 6, 5), torch.randint(0, 3, (4, 6, 5))
    ours = value(SoftDice(), logits.softmax(dim=1), targets)
    loss = DiceLoss(smooth=0)
    assert torch.allclose(ours, torch.stack([loss(logits[i : i + 1], targets[i : i + 1]) for i in range(4)]))
    empty = torch.zeros(1, 2, 2, dtype=torch.int64)
    assert value(SoftDice(), certain(empty, 2), empty).item() == 0.0
    assert value(SoftDice(), torch.full((1, 2, 2, 2), 0.5), empty).item() == 1.0


def test_logits_within_zero_and_one_are_not_taken_for_probabilities() -> None:
    logits = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])  # all above 0: every pixel is foreground
    truth = torch.ones(1, 2, 2, dtype=torch.int64)
    assert value(Dice(2), of_sigmoid(logits), truth).item() == 1.0
    assert functional.binary_f1_score(logits, truth).item() == 0.0  # what torchmetrics makes of the logits themselves
    labels = torch.tensor([0, 1, 1])
    recall = OneVsRest(BinaryRecall(), positive=1)
    assert value(recall, of_sigmoid(torch.tensor([-0.5, 0.1, 0.2])), labels).item() == 1.0
    assert functional.binary_recall(torch.tensor([0.0, 0.1, 0.2]), labels).item() == 0.0


def test_classes_by_hand() -> None:
    #                 class 1 predicted:  no          yes         yes         no          no
    probs = torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.6, 0.4], [0.9, 0.1]])
    targets = torch.tensor([0, 1, 0, 1, 0])
    assert value(PerImageAccuracy(), probs, targets).tolist() == [1, 1, 0, 0, 1]
    for metric, of_zero, of_one in [
        (BinaryRecall, 2 / 3, 1 / 2),
        (BinarySpecificity, 1 / 2, 2 / 3),
        (BinaryPrecision, 2 / 3, 1 / 2),
        (BinaryF1Score, 2 / 3, 1 / 2),
        (BinaryAUROC, 5 / 6, 5 / 6),  # one of the six pairs is in the wrong order
    ]:
        assert value(OneVsRest(metric(), 0), probs, targets).item() == pytest.approx(of_zero), metric.__name__
        assert value(OneVsRest(metric(), 1), probs, targets).item() == pytest.approx(of_one), metric.__name__
        mean = value(OneVsRest(metric(), None), probs, targets).item()
        assert mean == pytest.approx((of_zero + of_one) / 2), metric.__name__


def test_decisions_agree_with_the_most_probable_class() -> None:
    probs = torch.tensor([[0.5, 0.5], [0.5, 0.5]])  # ties go to class 0, as in accuracy
    targets = torch.tensor([0, 1])
    assert value(PerImageAccuracy(), probs, targets).tolist() == [1, 0]
    assert value(OneVsRest(BinaryRecall(), 0), probs, targets).item() == 1.0
    assert value(OneVsRest(BinaryRecall(), 1), probs, targets).item() == 0.0
    three = torch.tensor([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3]])  # the most probable class is below 0.5
    assert value(OneVsRest(BinaryRecall(), 0), three, targets).item() == 1.0


def test_a_threshold_of_its_own_is_kept() -> None:
    probs, targets = torch.tensor([[0.7, 0.3], [0.9, 0.1]]), torch.tensor([1, 0])
    assert value(OneVsRest(BinaryRecall(), 1), probs, targets).item() == 0.0
    assert value(OneVsRest(BinaryRecall(threshold=0.2), 1), probs, targets).item() == 1.0


@pytest.mark.parametrize("num_classes", [2, 3])
def test_classes_agree_with_scikit_learn(num_classes: int) -> None:
    torch.manual_seed(0)
    probs, targets = torch.rand(60, num_classes).softmax(dim=1), torch.randint(0, num_classes, (60,))
    truth, scores, decided = targets.numpy(), probs.numpy(), probs.argmax(dim=1).numpy()
    balanced = value(OneVsRest(BinaryRecall(), None), probs, targets).item()
    assert balanced == pytest.approx(sklearn.metrics.balanced_accuracy_score(truth, decided))
    f1 = value(OneVsRest(BinaryF1Score(), None), probs, targets).item()
    assert f1 == pytest.approx(sklearn.metrics.f1_score(truth, decided, average="macro"))
    auroc = value(OneVsRest(BinaryAUROC(), 1), probs, targets).item()
    assert auroc == pytest.approx(sklearn.metrics.roc_auc_score(truth == 1, scores[:, 1]))
    one_vs_rest = np.mean([sklearn.metrics.roc_auc_score(truth == k, scores[:, k]) for k in range(num_classes)])
    assert value(OneVsRest(BinaryAUROC(), None), probs, targets).item() == pytest.approx(one_vs_rest)
    accuracy = value(PerImageAccuracy(), probs, targets).mean().item()
    assert accuracy == pytest.approx(sklearn.metrics.accuracy_score(truth, decided))


@pytest.mark.parametrize("positive", [0, 1, None])
@pytest.mark.parametrize("only", [0, 1])
def test_one_class_alone_has_no_auroc(positive: int | None, only: int) -> None:
    probs = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    metric = OneVsRest(BinaryAUROC(), positive)
    assert value(metric, probs, torch.tensor([only, only])).isnan()
    metric.reset()
    assert value(metric, probs, torch.tensor([0, 1])).item() == 1.0  # and the next set is not spoilt by it


def test_the_metrics_of_one_class_share_one_state_also_after_reset() -> None:
    torch.manual_seed(0)

    def scores(compute_groups: bool) -> MetricCollection:
        kinds = {"auroc": BinaryAUROC, "sensitivity": BinaryRecall, "specificity": BinarySpecificity}
        metrics: dict[str, Metric] = {name: OneVsRest(kind(), 1) for name, kind in kinds.items()}
        return MetricCollection(
            {**metrics, "accuracy": PerImageAccuracy(), "log_loss": LogLoss()}, compute_groups=compute_groups
        )

    shared, apart = scores(compute_groups=True), scores(compute_groups=False)
    for _ in range(2):
        for size in (9, 5):
            probs, targets = of_sigmoid(torch.randn(size)), torch.randint(0, 2, (size,))
            shared.update(probs, targets)
            apart.update(probs, targets)
        assert sorted(map(sorted, shared.compute_groups.values())) == [
            ["accuracy"],
            ["auroc", "sensitivity", "specificity"],
            ["log_loss"],
        ]
        one, other = shared.compute(), apart.compute()
        for name in one:
            assert torch.equal(one[name], other[name]), name
        shared.reset()
        apart.reset()


def test_wrong_arguments_are_named() -> None:
    for kind in COUNTED:
        with pytest.raises(ValueError, match=r"^num_classes must be an integer >= 2, got 1"):
            kind(num_classes=1)
    with pytest.raises(ValueError, match=r"^classes must be a list of names, \[a,b\], got 'left'"):
        DiceOfClasses("left")
    with pytest.raises(ValueError, match=r"^positive must be an integer >= 0, got 'Mel'"):
        OneVsRest(BinaryRecall(), positive="Mel")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^positive must be below the number of classes, 2, got 2"):
        OneVsRest(BinaryRecall(), positive=2).update(torch.rand(3, 2), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match=r"^metric must be a torchmetrics metric, got 'BinaryRecall'"):
        OneVsRest("BinaryRecall", positive=1)  # type: ignore[arg-type]
