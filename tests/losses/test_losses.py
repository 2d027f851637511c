"""Losses: tables worked out by hand, references, empty masks, and what each one refuses."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from runcard.losses.bce import BCE
from runcard.losses.compound import CompoundLoss
from runcard.losses.cross_entropy import CrossEntropy
from runcard.losses.dice import DiceLoss
from runcard.losses.library import LibraryLoss

SURE = 200.0  # a logit whose sigmoid is 1 in float32, and 0 with a minus


def binary(*images: list[float]) -> Tensor:
    """Probabilities, one list per image -> logits (N, 1, 1, W)."""
    return torch.tensor(images, dtype=torch.float64).logit().clamp(-SURE, SURE).float()[:, None, None, :]


def masks(*images: list[int]) -> Tensor:
    return torch.tensor(images)[:, None, :]


@pytest.mark.parametrize(
    ("probs", "target", "expected"),
    [
        ([0.5, 0.5], [0, 1], math.log(2)),
        ([0.9, 0.2], [1, 0], -(math.log(0.9) + math.log(0.8)) / 2),
        ([1.0, 0.0], [1, 0], 0.0),
        ([0.1, 0.1], [0, 0], -math.log(0.9)),  # an empty mask
    ],
)
def test_bce_by_hand(probs: list[float], target: list[int], expected: float) -> None:
    assert BCE()(binary(probs), masks(target)).item() == pytest.approx(expected, abs=1e-6)


def test_pos_weight_by_hand() -> None:
    logits, targets = binary([0.9, 0.2, 0.4]), masks([1, 0, 1])
    expected = -(3 * math.log(0.9) + math.log(0.8) + 3 * math.log(0.4)) / 3
    assert BCE(pos_weight=3)(logits, targets).item() == pytest.approx(expected, abs=1e-6)
    balanced = BCE(pos_weight="balanced")
    balanced.weigh([0.5, 1.5])
    assert balanced(logits, targets).item() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(BCE(pos_weight=1)(logits, targets), BCE()(logits, targets))
    assert not BCE(pos_weight=3).state_dict()


def test_balanced_weights_are_those_that_they_are_set_to() -> None:
    targets = [0] * 6 + [1] * 3 + [2]
    loss = CrossEntropy("balanced")
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    loss.weigh(theirs.tolist())
    logits = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    listed = CrossEntropy(theirs.tolist())(logits, torch.tensor(targets))
    assert torch.allclose(loss(logits, torch.tensor(targets)), listed)


@pytest.mark.parametrize(
    ("probs", "target", "smooth", "expected"),
    [
        ([1.0, 1.0, 0.0, 0.0], [1, 1, 0, 0], 0.0, 0.0),  # perfect
        ([1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1], 0.0, 1.0),  # disjoint
        ([1.0, 1.0, 0.0, 0.0], [1, 0, 0, 0], 0.0, 1 - 2 / 3),
        ([1.0, 1.0, 0.0, 0.0], [1, 0, 0, 0], 1.0, 1 - 3 / 4),
        ([0.5, 0.5, 0.5, 0.5], [1, 1, 0, 0], 0.0, 1 - 2 / 4),
        ([0.5, 0.5, 0.5, 0.5], [1, 1, 0, 0], 1.0, 1 - 3 / 5),
        ([0.0, 0.0, 0.0, 0.0], [0, 0, 0, 0], 0.0, 0.0),  # both empty
        ([0.0, 0.0, 0.0, 0.0], [0, 0, 0, 0], 1.0, 0.0),
        ([0.5, 0.5, 0.0, 0.0], [0, 0, 0, 0], 0.0, 1.0),  # empty mask, something predicted
        ([0.5, 0.5, 0.0, 0.0], [0, 0, 0, 0], 1.0, 1 - 1 / 2),
        ([0.0, 0.0, 0.0, 0.0], [1, 1, 1, 0], 0.0, 1.0),  # nothing predicted
        ([0.0, 0.0, 0.0, 0.0], [1, 1, 1, 0], 1.0, 1 - 1 / 4),
    ],
)
def test_dice_by_hand(probs: list[float], target: list[int], smooth: float, expected: float) -> None:
    assert DiceLoss(smooth=smooth)(binary(probs), masks(target)).item() == pytest.approx(expected, abs=1e-6)


def test_dice_pooling_by_hand() -> None:
    logits = binary([1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0])
    targets = masks([1, 1, 1, 0], [1, 0, 0, 0])
    assert DiceLoss(pooling="image", smooth=0)(logits, targets).item() == pytest.approx((0 + 1) / 2)
    assert DiceLoss(pooling="batch", smooth=0)(logits, targets).item() == pytest.approx(1 - 2 * 3 / (4 + 4))


def test_dice_of_three_classes_is_the_mean_over_the_foreground() -> None:
    predicted, targets = torch.tensor([[[0, 1, 1, 2]]]), torch.tensor([[[0, 1, 2, 2]]])
    logits = SURE * F.one_hot(predicted, 3).movedim(-1, 1).float()
    # class 1: 2*1/(2+1), class 2: 2*1/(1+2); background, which would be 1, does not count
    assert DiceLoss(smooth=0)(logits, targets).item() == pytest.approx(1 - 2 / 3)


@pytest.mark.parametrize("pooling", ["image", "batch"])
def test_dice_is_the_same_from_one_logit_and_from_two(pooling: str) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 1, 5, 4), torch.randint(0, 2, (3, 5, 4))
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    assert torch.allclose(DiceLoss(pooling)(logits, targets), DiceLoss(pooling)(two, targets))


def test_dice_sums_in_float32_whatever_the_logits_are() -> None:
    logits, targets = torch.zeros(1, 1, 512, 512, dtype=torch.float16), torch.ones(1, 512, 512, dtype=torch.int64)
    loss = DiceLoss(smooth=0)(logits, targets)  # 262,144 is past float16's 65,504
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1 - 2 / 3)


@pytest.mark.parametrize("smooth", [0.0, 1e-6, 1.0])
@pytest.mark.parametrize("logit", [-SURE, 0.0, SURE])
def test_dice_of_an_empty_mask_is_finite_and_so_is_its_gradient(smooth: float, logit: float) -> None:
    logits = torch.full((2, 1, 4, 4), logit, requires_grad=True)
    loss = DiceLoss(smooth=smooth)(logits, torch.zeros(2, 4, 4, dtype=torch.int64))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
@pytest.mark.parametrize("size", [(), (6, 5)])
def test_cross_entropy_is_torchs(weights: list[float] | None, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 3, *size, requires_grad=True), torch.randint(0, 3, (4, *size))
    ours = CrossEntropy(weights)(logits, targets)
    each = F.cross_entropy(logits, targets, None if weights is None else torch.tensor(weights), reduction="none")
    theirs = each.mean()  # over images, whatever they weigh, where torch would divide by the weights present
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    (one,), (other,) = torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits)
    assert torch.allclose(one, other, atol=1e-7)


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.2, 0.8], [0.6, 0.4]]).log()
    targets = torch.tensor([1, 1])
    assert CrossEntropy()(logits, targets).item() == pytest.approx(-(math.log(0.8) + math.log(0.4)) / 2)
    mixed = torch.tensor([1, 0])
    expected = -(3 * math.log(0.8) + 1 * math.log(0.6)) / 2
    assert CrossEntropy([1, 3])(logits, mixed).item() == pytest.approx(expected)
    singly = [CrossEntropy([1, 3])(logits[i : i + 1], mixed[i : i + 1]).item() for i in range(2)]
    assert sum(singly) / 2 == pytest.approx(expected), "a batch is the mean of its images, as evaluation takes it"
    assert CrossEntropy([0, 1])(logits[1:], mixed[1:]).item() == 0


def test_binary_cross_entropy_and_cross_entropy_agree() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 1, 5, 4), torch.randint(0, 2, (3, 5, 4))
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    assert torch.allclose(BCE()(logits, targets), CrossEntropy()(two, targets))


def test_weighted_sum_is_the_sum() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 1, 5, 4), torch.randint(0, 2, (3, 5, 4))
    both = CompoundLoss({"bce": BCE(), "dice": DiceLoss()}, {"dice": 0.25, "bce": 2.0})
    expected = 2 * BCE()(logits, targets) + 0.25 * DiceLoss()(logits, targets)
    assert torch.allclose(both(logits, targets), expected)


def test_a_library_loss_gets_its_targets_in_its_own_form() -> None:
    torch.manual_seed(0)
    targets = torch.randint(0, 2, (3, 5, 4))
    one, two = torch.randn(3, 1, 5, 4), torch.randn(3, 2, 5, 4)
    assert torch.allclose(LibraryLoss(nn.BCEWithLogitsLoss(), "float")(one, targets), BCE()(one, targets))
    one_hot = LibraryLoss(nn.CrossEntropyLoss(), "one_hot")
    assert torch.allclose(one_hot(two, targets), CrossEntropy()(two, targets))
    seen: list[Tensor] = []

    class Channel(nn.Module):
        def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
            seen.append(targets)
            return logits.sum()

    LibraryLoss(Channel(), "channel")(two, targets)
    assert (seen[0].shape, seen[0].dtype) == ((3, 1, 5, 4), torch.int64)
    with pytest.raises(ValueError, match="targets must be one of float, one_hot, channel"):
        LibraryLoss(nn.BCEWithLogitsLoss(), "floats")


@pytest.mark.parametrize(
    ("loss", "channels"),
    [(BCE(), 1), (DiceLoss(), 1), (DiceLoss(), 3), (CrossEntropy(), 3), (CrossEntropy([1, 2, 3]), 3)],
)
def test_every_logit_gets_a_gradient(loss: nn.Module, channels: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, channels, 4, 4, requires_grad=True)
    targets = torch.randint(0, max(channels, 2), (2, 4, 4))
    value = loss(logits, targets)
    assert value.shape == ()
    value.backward()
    assert logits.grad is not None
    assert (logits.grad != 0).all()


# Pixels that nobody labelled

IGNORED = 255
PROBS, TRUTH = ([0.9, 0.2, 0.7], [0.6, 0.1, 0.4]), ([1, 0, IGNORED], [IGNORED, IGNORED, 1])


def ignoring(loss: nn.Module) -> nn.Module:
    loss.ignore_index = IGNORED  # type: ignore[assignment]
    return loss


def two_logits(logits: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(logits), logits], dim=1)


@pytest.mark.parametrize(
    ("loss", "first", "second"),
    [
        (BCE(), -(math.log(0.9) + math.log(0.8)) / 2, -math.log(0.4)),
        (BCE(3), -(3 * math.log(0.9) + math.log(0.8)) / 2, -3 * math.log(0.4)),
        (DiceLoss(smooth=0), 1 - 1.8 / 2.1, 1 - 0.8 / 1.4),
        (DiceLoss(smooth=1), 1 - 2.8 / 3.1, 1 - 1.8 / 2.4),
    ],
)
def test_ignored_pixels_are_left_out_by_hand(loss: nn.Module, first: float, second: float) -> None:
    logits, targets = binary(*PROBS), masks(*TRUTH)
    assert ignoring(loss)(logits, targets).item() == pytest.approx((first + second) / 2, abs=1e-6)
    assert loss(logits[:1], targets[:1]).item() == pytest.approx(first, abs=1e-6), "a batch is the mean of its images"
    if isinstance(loss, BCE):
        weights = None if loss.pos_weight is None else [1.0, loss.pos_weight.item()]
        theirs = ignoring(CrossEntropy(weights))(two_logits(logits), targets)
        assert theirs.item() == pytest.approx((first + second) / 2, abs=1e-6)


def test_dice_of_a_batch_sums_over_its_labelled_pixels() -> None:
    loss = ignoring(DiceLoss("batch", smooth=0))
    assert loss(binary(*PROBS), masks(*TRUTH)).item() == pytest.approx(1 - 2.6 / 3.5, abs=1e-6)


IGNORING = [BCE(), BCE(3), DiceLoss(), DiceLoss("batch"), CrossEntropy(), CrossEntropy([1, 3])]
IGNORING += [CompoundLoss({"bce": ignoring(BCE()), "dice": ignoring(DiceLoss())}, {"bce": 1.0, "dice": 1.0})]


@pytest.mark.parametrize("loss", IGNORING, ids=lambda loss: type(loss).__name__)
def test_ignored_pixels_get_no_gradient_and_an_image_of_them_costs_nothing(loss: nn.Module) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 1, 5, 4), torch.randint(0, 2, (2, 5, 4))
    logits = (two_logits(logits) if isinstance(loss, CrossEntropy) else logits).requires_grad_()
    plain = copy.deepcopy(loss)(logits, targets)
    assert torch.allclose(ignoring(loss)(logits, targets), plain), "there is none"
    targets[0], targets[1, :2] = IGNORED, IGNORED
    (grad,) = torch.autograd.grad(loss(logits, targets), logits)
    assert not grad.movedim(1, -1)[targets == IGNORED].any()
    assert grad.movedim(1, -1)[targets != IGNORED].all()
    value = loss(logits[:1], targets[:1])
    (grad,) = torch.autograd.grad(value, logits)
    assert value.item() == 0
    assert not grad.any()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"^pooling must be one of image, batch, got 'imgae'. Did you mean 'image'"):
        DiceLoss(pooling="imgae")
    with pytest.raises(ValueError, match=r"^smooth must be a number >= 0, got -1"):
        DiceLoss(smooth=-1)
    with pytest.raises(ValueError, match=r"^weights must be a number >= 0, got 'a'"):
        CrossEntropy(["a"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"^weights must be a list"):
        CrossEntropy(2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^weights must be a list of .* balanced or null, got 'balancd'"):
        CrossEntropy("balancd")
    with pytest.raises(ValueError, match=r"^pos_weight must be a number, balanced or null, got 'balancd'"):
        BCE("balancd")
    with pytest.raises(ValueError, match=r"^weights must name the losses"):
        CompoundLoss({"bce": BCE()}, {"dice": 1.0})
    with pytest.raises(ValueError, match=r"^weights\.bce must be a number >= 0, got -1"):
        CompoundLoss({"bce": BCE()}, {"bce": -1})
    with pytest.raises(ValueError, match=r"^weights must have one above 0"):
        CompoundLoss({"bce": BCE()}, {"bce": 0})


def test_wrong_shapes_are_named() -> None:
    targets = torch.zeros(2, 4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^logits must have one channel for binary cross-entropy, got 3"):
        BCE()(torch.zeros(2, 3, 4, 4), targets)
    with pytest.raises(ValueError, match=r"^logits must have a channel per class"):
        CrossEntropy()(torch.zeros(2, 1, 4, 4), targets)
    with pytest.raises(ValueError, match=r"^weights must have one number per class, 3, got 2"):
        CrossEntropy([1, 2])(torch.zeros(2, 3, 4, 4), targets)
    with pytest.raises(ValueError, match=r"^targets must have the logits' size \[4, 1\], got \[4, 4\]"):
        DiceLoss()(torch.zeros(2, 1, 4, 1), targets)
