"""What stays the same when one thing changes: two configs that differ in one factor are compared on equal terms."""

from __future__ import annotations

import pytest
import torch
from conftest import TINY, build_setup, compose_config
from torch import Tensor, nn

from runcard.experiment.setup import ExperimentSetup


def composed(*overrides: str) -> ExperimentSetup:
    return build_setup(compose_config(*TINY, "augmentation=light", *overrides), choices={})


def weights(setup: ExperimentSetup) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in setup.model.named_parameters()}


def first_epoch(setup: ExperimentSetup) -> tuple[Tensor, Tensor]:
    """Return the augmented images of the first epoch, and their order."""
    setup.loaders.train_sampler.set_epoch(1)
    images, _, indices, _ = (torch.cat(tensors) for tensors in zip(*setup.loaders.train, strict=True))
    return images, indices


def differing(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    assert list(ours) == list(theirs)
    same_shape = {name: ours[name].shape == theirs[name].shape for name in ours}
    return [name for name in ours if not (same_shape[name] and torch.equal(ours[name], theirs[name]))]


def same_data(ours: ExperimentSetup, theirs: ExperimentSetup) -> None:
    """Asserts equal splits, order and augmentations, bit for bit."""
    assert ours.data.split == theirs.data.split
    for mine, yours in zip(first_epoch(ours), first_epoch(theirs), strict=True):
        assert torch.equal(mine, yours)


@pytest.fixture(scope="module")
def dice() -> ExperimentSetup:
    return composed("loss=dice")


@pytest.mark.parametrize("loss", ["bce", "bce_dice"])
def test_changing_the_loss_keeps_weights_split_order_and_augmentations(loss, dice):
    other = composed(f"loss={loss}")
    assert differing(weights(dice), weights(other)) == []
    same_data(dice, other)


@pytest.mark.parametrize(
    ("overrides", "last"),
    [
        ((), {"head.weight", "head.bias"}),
        (("dataset=phantom_bone", "model=vgg16", "model.base=2"), {"classifier.6.weight", "classifier.6.bias"}),
    ],
)
@pytest.mark.parametrize("init", ["glorot", "default"])
def test_cross_entropy_changes_only_the_last_layer(overrides, last, init):
    overrides = (*overrides, f"model.init={init}")
    one, two = (composed(*overrides, f"loss={loss}") for loss in ("bce", "cross_entropy"))
    assert set(differing(weights(one), weights(two))) == last
    same_data(one, two)


def test_changing_the_seed_changes_weights_order_and_augmentations_but_not_the_split(dice):
    other = composed("seed=1")
    changed = differing(weights(dice), weights(other))
    assert set(changed) == {name for name in weights(dice) if name.endswith("weight") and weights(dice)[name].ndim > 1}
    assert other.data.split == dice.data.split
    (ours, our_order), (theirs, their_order) = first_epoch(dice), first_epoch(other)
    assert our_order.tolist() != their_order.tolist()
    assert sorted(our_order.tolist()) == sorted(their_order.tolist())
    for index in our_order:
        assert not torch.equal(ours[our_order == index], theirs[their_order == index])


def test_changing_the_seed_of_the_split_changes_the_split_alone(dice):
    other = composed("dataset.split.seed=1")
    assert other.data.split != dice.data.split
    assert {part: len(members) for part, members in other.data.split.items()} == {"train": 16, "val": 4, "test": 0}
    assert differing(weights(dice), weights(other)) == []
    common = set(dice.data.split["train"]) & set(other.data.split["train"])
    assert common
    (ours, our_order), (theirs, their_order) = first_epoch(dice), first_epoch(other)
    for index in common:
        assert torch.equal(ours[our_order == index], theirs[their_order == index]), "an image's draw is its own"


@pytest.mark.parametrize(
    "change",
    [
        ("model.dropout=0.5",),
        ("model.dropout=0.5", "model.dropout_at=[bottleneck]"),
        ("model.batchnorm=false",),
        ("optimizer=sgd",),
        ("scheduler=cosine",),
        ("train.batch_size=8",),
        ("train.num_workers=1",),
    ],
    ids=" ".join,
)
def test_initial_convolutions_and_order_are_kept(change, dice):
    other = composed(*change)
    ours, theirs = (
        [(type(m), m.weight, m.bias) for m in setup.model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
        for setup in (dice, other)
    )
    assert len(ours) == len(theirs) == 2 * 9 + 4 + 1
    for (kind, *mine), (other_kind, *yours) in zip(ours, theirs, strict=True):
        assert kind is other_kind
        assert all(torch.equal(a, b) for a, b in zip(mine, yours, strict=True))
    assert first_epoch(dice)[1].tolist() == first_epoch(other)[1].tolist()


@pytest.mark.parametrize("change", [("model.batchnorm=true",), ("model.dropout=0.0",)], ids=" ".join)
def test_dropout_and_batchnorm_keep_the_initial_weights_of_vgg16(change):
    vgg = ("dataset=phantom_bone", "model=vgg16", "model.base=2", "model.head=[4]", "loss=bce")
    ours, theirs = (
        [m.weight for m in composed(*vgg, *more).model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        for more in ((), change)
    )
    assert len(ours) == 13 + 2
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_composing_leaves_the_global_generators_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    composed("seed=7")
    assert torch.equal(torch.get_rng_state(), before)
