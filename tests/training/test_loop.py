"""The loop: what a step, an epoch and an evaluation are, and what stops them."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, build_setup, compose_config
from evidence import run_json, scalars
from rich.console import Console
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MetricCollection, SumMetric

from runcard.config.instantiate import build
from runcard.config.schema import parse_config
from runcard.data.loaders import BatchLoader
from runcard.errors import UserError
from runcard.experiment.predictions import PredictionFigures
from runcard.experiment.session import fit_setup
from runcard.experiment.setup import ExperimentSetup
from runcard.loggers.progress import Progress
from runcard.loggers.run import RunLogger
from runcard.losses.dice import DiceLoss
from runcard.runs.run import Run
from runcard.training.checkpoint import Checkpoint, read_weights
from runcard.training.evaluation import columns, evaluate, losses_of_images, probabilities
from runcard.training.loop import train_mode
from runcard.training.types import Monitor, State

BONE = ("dataset=phantom_bone", "model=vgg16", "loss=cross_entropy", "model.base=2", "model.head=[8]")
PLAIN = ("model.batchnorm=false", "optimizer=sgd", "optimizer.lr=0.1")


def composed(*overrides: str) -> ExperimentSetup:
    return build_setup(compose_config(*TINY, "train.pictures=0", *overrides), choices={})


@dataclass
class Trained:
    """What fit() was given, and what it left."""

    setup: ExperimentSetup
    state: State
    rows: list[dict[str, Any]]
    checkpoint: Checkpoint

    def column(self, name: str) -> list[float]:
        return [row[name] for row in self.rows]

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.setup.model.parameters()]


def train(
    folder: Path, *overrides: str, change: Callable[[ExperimentSetup], ExperimentSetup] = lambda setup: setup
) -> Trained:
    """Run fit() on a config, from the beginning or from the checkpoint in folder."""
    setup = change(composed(*overrides))
    checkpoint = Checkpoint(folder, setup.model, setup.optimizer, setup.schedule.rule, setup.config)
    state = checkpoint.resume()
    progress = Progress(Console(file=StringIO()), setup.train, len(setup.loaders.train), setup.monitor.name)
    tracker = RunLogger(folder, list(state.rows), progress, PredictionFigures(setup).epoch, {})
    try:
        state = fit_setup(setup, state, checkpoint, tracker)
    finally:
        tracker.close("interrupted")
    return Trained(setup, state, tracker.rows, checkpoint)


def test_no_tensor_is_kept_from_one_epoch_to_the_next(tmp_path, monkeypatch):
    """Neither batches nor graphs; counted, since the memory of a process grows with what its allocator likes too."""
    alive: list[tuple[int, int]] = []
    original = RunLogger.epoch

    def counted(self: RunLogger, *arguments: Any) -> None:
        original(self, *arguments)
        gc.collect()
        tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
        alive.append((len(tensors), sum(t.numel() for t in tensors)))

    monkeypatch.setattr(RunLogger, "epoch", counted)
    train(tmp_path, "train.epochs=12", "train.checkpoint_every=5")
    assert alive[-1] == alive[3]  # by then optimizer and averages have what they need


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


# Steps


def test_two_accumulated_batches_of_4_are_one_batch_of_8(tmp_path):
    """14 training images: 8 and 6, against 4 + 4 and 4 + 2. The last micro-batch is smaller and must weigh less."""
    card_ = ("dataset.num_images=18", *PLAIN)
    large = train(tmp_path / "large", *card_, "train.batch_size=8")
    small = train(tmp_path / "small", *card_, "train.batch_size=4", "train.accumulate_steps=2")
    assert large.state.step == small.state.step == 4
    start = [p.detach() for p in composed(*card_).model.parameters()]
    ours, theirs, before = (torch.cat([w.flatten() for w in ws]) for ws in (large.weights(), small.weights(), start))
    assert (ours - theirs).norm() < 1e-4 * (ours - before).norm()  # float32, sums in another order
    for column in ("train/loss", "grad_norm", "val/loss"):
        assert small.column(column) == pytest.approx(large.column(column), rel=1e-4)


def test_a_frozen_part_keeps_its_batch_statistics_and_drops_nothing():
    front = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)).requires_grad_(False)
    model = nn.Sequential(front, nn.Conv2d(2, 1, 1), nn.BatchNorm2d(1), nn.Dropout(0.5))
    train_mode(model)
    assert [module.training for module in front] == [False] * 3
    assert [module.training for module in model[1:]] == [True] * 3
    before = front[1].running_mean.clone()
    model(torch.randn(4, 1, 8, 8))
    assert torch.equal(front[1].running_mean, before)


def test_a_last_group_of_fewer_batches_is_a_step_too(tmp_path):
    trained = train(tmp_path, "train.accumulate_steps=3", "train.epochs=1")  # 16 images: 3 batches of 4, and 1
    assert trained.state.step == 2
    assert trained.setup.config["derived"]["steps"] == 2


def test_clip_grad_norm_bounds_the_update(tmp_path):
    one_step = (*PLAIN, "optimizer.lr=1", "optimizer.momentum=0", "train.epochs=1", "train.limit_batches=1")
    start = [p.detach() for p in composed(*one_step).model.parameters()]
    sizes, norms = [], []
    for clip in ("null", "0.01"):
        trained = train(tmp_path / clip, *one_step, f"train.clip_grad_norm={clip}")
        moves = [after - before for after, before in zip(trained.weights(), start, strict=True)]
        sizes.append(torch.cat([m.flatten() for m in moves]).norm().item())
        norms += trained.column("grad_norm")
    assert sizes[0] == pytest.approx(norms[0], rel=1e-3)
    assert sizes[0] > 0.02
    assert sizes[1] == pytest.approx(0.01, rel=1e-2)
    assert norms[0] == norms[1], "the norm that is recorded is the one before clipping"


def test_train_loss_is_the_mean_over_images_of_what_was_trained_on(tmp_path):
    """With nothing moving, the running loss of all training images is the loss that evaluation finds."""
    trained = train(tmp_path, *PLAIN, "optimizer.lr=0", "train.epochs=1", "dataset.num_images=18")
    setup = trained.setup
    sampler = [(0, i) for i in setup.data.split["train"]]
    loader = BatchLoader(setup.loaders.train.dataset, 1, sampler, setup.fabric.device)
    everything = evaluate(setup.network, setup.loss, setup.metrics, loader)
    assert trained.column("train/loss") == pytest.approx([everything.values["loss"]], rel=1e-5)


def test_the_model_trains_in_training_mode_and_is_evaluated_in_evaluation_mode(tmp_path):
    seen = []

    def watched(setup: ExperimentSetup) -> ExperimentSetup:
        setup.model.register_forward_pre_hook(lambda model, _: seen.append((model.training, torch.is_grad_enabled())))
        return setup

    trained = train(tmp_path, "model.dropout=0.5", change=watched)
    epoch = [(True, True)] * 4 + [(False, False)] * 2  # 16 training images, then train_eval and val, 4 images each
    assert seen == 2 * epoch
    assert not trained.setup.model.training


# NaN


class Poison(nn.Module):
    """A soft Dice loss that spoils the sixth training step, and keeps the weights that the model then had."""

    def __init__(self, model: nn.Module, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weights_of = lambda: [p.detach().clone() for p in model.parameters()]
        self.loss, self.spoil, self.calls = DiceLoss(), spoil, 0
        self.before: list[Tensor] = []

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        self.calls += logits.requires_grad
        loss = self.loss(logits, targets)
        if logits.requires_grad and self.calls == 6:
            self.before = self.weights_of()
            return self.spoil(loss)
        return loss


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda loss: loss * torch.nan, "train/loss is nan at epoch 2, step 6"),
        (lambda loss: loss * torch.inf, "train/loss is inf at epoch 2, step 6"),
        (lambda loss: (loss * 0).sqrt(), "grad_norm is nan at epoch 2, step 6"),  # 0, but its gradient is 0 * inf
    ],
)
def test_a_nan_never_reaches_the_optimizer(spoil, said, tmp_path):
    kept: list[ExperimentSetup] = []

    def poisoned(setup: ExperimentSetup) -> ExperimentSetup:
        kept.append(replace(setup, loss=Poison(setup.model, spoil)))
        return kept[0]

    with pytest.raises(UserError) as caught:
        train(tmp_path, change=poisoned)
    assert str(caught.value).startswith(f"{said}: ")
    assert "optimizer.lr" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4
    (setup,) = kept
    assert equal(setup.loss.before, [p.detach() for p in setup.model.parameters()])
    assert {int(s["step"]) for s in setup.optimizer.state.values()} == {5}
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["state"]["epoch"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in last["model"].values())


def test_diverging_learning_rate_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"is (nan|inf|-inf) at epoch 1, step [23]: training has diverged"):
        train(tmp_path, "optimizer.lr=1e30", "model.batchnorm=false")


# Epochs: the best one, early stopping, schedules


@pytest.mark.parametrize(
    ("mode", "value", "best", "better"),
    [
        ("max", 0.5, None, True),
        ("max", 0.5, 0.4, True),
        ("max", 0.5, 0.5, False),
        ("max", 0.5, 0.6, False),
        ("min", 0.5, 0.6, True),
        ("min", 0.5, 0.5, False),
        ("min", 0.5, 0.4, False),
        ("max", math.nan, None, False),
        ("min", math.nan, None, False),
        ("max", math.nan, 0.1, False),
        ("max", math.inf, 0.1, True),
    ],
)
def test_better_is_strictly_better(mode, value, best, better):
    assert Monitor("val/dice", mode).is_improvement(value, best) is better


@pytest.mark.parametrize(
    ("monitor", "pick"), [("val/dice", max), ("val/loss", min), ("val/bce", min), ("train_eval/iou", max)]
)
def test_the_best_epoch_is_the_first_that_reached_the_best_value(monitor, pick, tmp_path):
    trained = train(tmp_path, f"metric.monitor={monitor}", "train.epochs=5", "optimizer.lr=0.03")
    values = trained.column(monitor)
    assert trained.state.best == pick(values)
    assert trained.state.best_epoch == values.index(pick(values)) + 1


def test_nothing_better_stops_training_after_so_many_epochs(tmp_path):
    """With lr = 0 every epoch is equal: the first stays the best, and two more are waited for."""
    still = (*PLAIN, "optimizer.lr=0", "train.epochs=9", "train.early_stopping=2")
    trained = train(tmp_path, *still)
    assert len(set(trained.column("val/dice"))) == 1
    assert (trained.state.best_epoch, trained.state.epoch, len(trained.rows)) == (1, 3, 3)
    assert train(tmp_path, *still).state.epoch == 3, "taken up again, it has stopped"
    assert train(tmp_path / "patient", *still, "train.epochs=4", "train.early_stopping=4").state.epoch == 4


def test_patience_counts_epochs_and_ends_at_an_evaluation(tmp_path):
    still = (*PLAIN, "optimizer.lr=0", "train.epochs=19", "train.early_stopping=3", "train.eval_every=2")
    trained = train(tmp_path, *still)
    assert (trained.state.best_epoch, trained.state.epoch) == (2, 6)
    assert train(tmp_path, *still).state.epoch == 6, "taken up again, it has stopped"


def test_stopping_early_is_announced_and_recorded(run_config, capsys):
    still = (*TINY, *PLAIN, "train.pictures=0", "optimizer.lr=0", "train.epochs=9", "train.early_stopping=2")
    metadata = run_json(run_config("run", *still))
    line = "stopped early after epoch 3: no better val/dice since epoch 1 (train.early_stopping=2)\n"
    assert line in capsys.readouterr().out
    assert (metadata["stopped_early"], metadata["epochs"], metadata["best"]["epoch"]) == (True, 3, 1)
    metadata = run_json(run_config("patient", *still, "train.epochs=3"))
    assert (metadata["stopped_early"], metadata["epochs"]) == (False, 3)
    assert "stopped early" not in capsys.readouterr().out


def test_a_monitor_that_is_always_nan_chooses_no_epoch(tmp_path):
    """AUROC of validation images of one class is NaN."""
    trained = train(
        tmp_path, *BONE, "dataset.imbalance=0", "metric.monitor=val/auroc", "train.early_stopping=1", "train.epochs=3"
    )
    assert all(map(math.isnan, trained.column("val/auroc")))
    assert (trained.state.best, trained.state.best_epoch, trained.state.epoch) == (None, 0, 1)
    assert not trained.checkpoint.best.exists()


def test_a_schedule_of_steps_moves_after_every_step(tmp_path):
    """16 images in batches of 4, two epochs: 8 steps; the column shows the rate that an epoch began with."""
    trained = train(tmp_path, "scheduler=cosine", "optimizer.lr=0.01")
    assert trained.column("lr") == pytest.approx([0.01, 0.005])
    assert trained.setup.schedule.rule.get_last_lr() == pytest.approx([0], abs=1e-9)
    trained = train(tmp_path / "accumulated", "scheduler=cosine", "optimizer.lr=0.01", "train.accumulate_steps=2")
    assert trained.column("lr") == pytest.approx([0.01, 0.005])


def test_a_schedule_of_epochs_moves_after_every_epoch(tmp_path):
    changes = ("scheduler=cosine", "scheduler.every=epoch", "scheduler.rule.T_max=4", "train.epochs=4")
    trained = train(tmp_path, *changes, "optimizer.lr=0.01", "train.limit_batches=2")
    expected = [0.005 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    assert trained.column("lr") == pytest.approx(expected)


def test_without_a_schedule_the_rate_stays(tmp_path):
    assert train(tmp_path, "optimizer.lr=0.01").column("lr") == [0.01, 0.01]


def test_plateau_follows_the_value_that_it_monitors(tmp_path):
    """The rates are those of torch's rule given the column that monitor names, and differ between two columns."""
    rates = {}
    for monitor in ("train/loss", "val/bce"):
        changes = ("scheduler=plateau", f"scheduler.monitor={monitor}", "scheduler.rule.patience=0", "train.epochs=5")
        trained = train(tmp_path / monitor, *PLAIN, *changes, "scheduler.rule.factor=0.5", "optimizer.lr=0.01")
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
        rule = ReduceLROnPlateau(optimizer, mode="min", factor=0.5, patience=0)
        expected = []
        for value in trained.column(monitor):
            expected.append(optimizer.param_groups[0]["lr"])
            rule.step(value)
        rates[monitor] = trained.column("lr")
        assert rates[monitor] == pytest.approx(expected)
    assert rates["train/loss"] != rates["val/bce"]
    assert min(map(min, rates.values())) < 0.01


# Evaluation


def test_epochs_that_are_not_evaluated_are_trained_as_the_others(tmp_path):
    settings = ("train.epochs=7", "model.dropout=0.3", "augmentation=light")
    every, third = train(tmp_path / "every", *settings), train(tmp_path / "third", *settings, "train.eval_every=3")
    assert equal(every.weights(), third.weights())
    assert third.column("train/loss") == every.column("train/loss")
    assert [row.keys() for row in third.rows] == [row.keys() for row in every.rows]
    for column in ("val/dice", "train_eval/loss"):
        values = zip(range(1, 8), every.column(column), strict=True)
        assert third.column(column) == [value if epoch in (3, 6, 7) else None for epoch, value in values]
    evaluated = {epoch: every.column("val/dice")[epoch - 1] for epoch in (3, 6, 7)}
    assert third.state.best_epoch == max(evaluated, key=lambda epoch: evaluated[epoch])
    assert third.state.best == evaluated[third.state.best_epoch]


def test_a_run_of_few_evaluations_is_complete(run_config, capsys):
    settings = (*TINY, "train.eval_every=2", "train.log_every_steps=9")
    folder = run_config("run", *settings, "train.epochs=5", drawn=True)
    run = Run(folder, run_json(folder))
    assert run.evaluated.tolist() == [False, True, False, True, True]
    assert [line.count("val/loss") for line in capsys.readouterr().out.splitlines() if "images/s" in line] == [
        0,
        1,
        0,
        1,
        1,
    ]
    assert [step for step, _ in scalars(folder)["val/dice"]] == [2, 4, 5]
    assert [step for step, _ in scalars(folder)["train/loss"]] == [1, 2, 3, 4, 5]
    with pytest.raises(UserError, match=r"after its last epoch, 5, which is no multiple of train\.eval_every=2"):
        run_config("longer", *settings, "train.epochs=8", f"train.extend={folder}")


@pytest.fixture(scope="module")
def uneven() -> ExperimentSetup:
    """ExperimentSetup with 5 validation images, in batches of 4 and 1."""
    return composed("dataset.num_images=25", "model.dropout=0.5")


def evaluated(setup: ExperimentSetup, batch_size: int) -> Any:
    sampler = [(0, i) for i in setup.data.split["val"]]
    loader = BatchLoader(setup.loaders.val.dataset, batch_size, sampler, setup.fabric.device)
    return evaluate(setup.network, setup.loss, setup.metrics, loader)


def test_evaluation_drops_nothing_and_does_not_depend_on_the_batch_size(uneven):
    evaluations = {size: evaluated(uneven, size) for size in (1, 2, 4, 5)}
    for size, evaluation in evaluations.items():
        assert evaluation.indices == uneven.data.split["val"]
        assert set(evaluation.per_image) >= {"loss", "dice", "iou", "bce", "soft_dice_loss"}
        for name, values in evaluation.per_image.items():
            assert values.shape == (5,), (name, size)
            torch.testing.assert_close(values, evaluations[5].per_image[name], rtol=1e-4, atol=1e-5)
        assert evaluation.values == pytest.approx(evaluations[5].values, rel=1e-4, abs=1e-5)
    assert len(set(evaluations[5].per_image["dice"].tolist())) > 1


def test_the_values_are_means_of_the_images(uneven):
    evaluation = evaluated(uneven, 4)
    for name, values in evaluation.per_image.items():
        assert evaluation.values[name] == pytest.approx(sum(values.tolist()) / 5, rel=1e-5)
    assert "dice_pooled" in evaluation.values
    assert "dice_pooled" not in evaluation.per_image


def test_the_loss_is_that_of_each_image_by_hand(uneven):
    evaluation = evaluated(uneven, 4)
    uneven.model.eval()
    for i, index in enumerate(uneven.data.split["val"]):
        image = torch.from_numpy(uneven.data.samples.images[index][None, ..., 0] / 255).float()
        with torch.no_grad():
            p = uneven.model(image[None])[0, 0].sigmoid().double()
        t = torch.from_numpy(uneven.data.samples.targets[index]).double()
        by_hand = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
        assert evaluation.per_image["loss"][i].item() == pytest.approx(by_hand.item(), abs=1e-5)


@pytest.mark.parametrize("choice", ["bce", "cross_entropy", "dice", "bce_dice"])
def test_losses_of_all_images_in_one_call_are_those_one_by_one(choice):
    config, _ = parse_config(compose_config(*TINY, f"loss={choice}"))
    loss = build("loss", config.loss.node)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, config.loss.two_class_logits, 16, 16, generator=generator)
    targets = (torch.rand(5, 16, 16, generator=generator) > 0.7).long()
    one_by_one = losses_of_images(loss, logits, targets, vectorized=False)
    calls = []
    counted = lambda *arguments: (calls.append(arguments), loss(*arguments))[1]  # noqa: E731
    torch.testing.assert_close(losses_of_images(counted, logits, targets, vectorized=True), one_by_one)
    assert len(calls) == 1


def test_a_loss_that_looks_at_values_is_computed_one_by_one():
    def loss(logits, targets):
        return logits.mean() if targets.any() else logits.sum()

    logits, targets = torch.arange(12.0).reshape(3, 1, 2, 2), torch.tensor([0, 1, 0])[:, None, None].expand(3, 2, 2)
    assert losses_of_images(loss, logits, targets, vectorized=True).tolist() == [6.0, 5.5, 38.0]


def test_evaluating_twice_gives_the_same_and_leaves_the_model_in_evaluation_mode(uneven):
    uneven.model.train()
    first, second = evaluated(uneven, 4), evaluated(uneven, 4)
    assert first.values == second.values
    assert not uneven.model.training
    assert all(p.grad is None for p in uneven.model.parameters())
    assert first.probs is None, "those of masks are not kept"


def test_evaluation_of_classes_keeps_the_probabilities():
    setup = composed(*BONE)
    evaluation = evaluated(setup, 3)
    assert evaluation.probs.shape == (4, 2)
    assert evaluation.probs.sum(dim=1) == pytest.approx([1] * 4)
    truth = torch.from_numpy(setup.data.samples.targets[evaluation.indices])
    assert evaluation.per_image["accuracy"].tolist() == (evaluation.probs.argmax(1) == truth).float().tolist()


SIDES = ("dataset.sides=true", "dataset.positive=null", "loss=dice")


def test_every_foreground_class_has_a_column(tmp_path):
    trained = train(tmp_path, *SIDES, "metric=masks_surface", "metric.monitor=val/hd95", "train.epochs=3")
    assert {"val/dice_right", "train_eval/dice_left", "val/asd"} <= set(trained.rows[0])
    assert trained.state.best == min(trained.column("val/hd95")), "a distance is better where it is smaller"
    for row in trained.rows:
        assert row["val/dice"] == pytest.approx((row["val/dice_right"] + row["val/dice_left"]) / 2)
    per_image = evaluated(trained.setup, 3).per_image
    assert {"dice_right", "dice_left", "hd95", "asd"} <= set(per_image)
    assert torch.allclose(per_image["dice"], (per_image["dice_right"] + per_image["dice_left"]) / 2)


def test_two_scores_cannot_fill_one_column():
    with pytest.raises(UserError, match=r"^metric\.scores\.dice_pooled: the column dice_pooled is taken\."):
        composed(*SIDES, "metric.scores.dice_of_classes.classes=[background,right,pooled]")


@pytest.mark.parametrize("overrides", [(), SIDES, BONE], ids=" ".join)
def test_the_confusion_matrix_counts_what_the_metrics_score(overrides, tmp_path):
    setup = composed(*overrides)
    outcomes = PredictionFigures(setup).write_previews(tmp_path)
    values = evaluated(setup, 4).values
    truth = setup.data.samples.targets[setup.data.split["val"]]
    assert outcomes.confusion.sum(axis=1).tolist() == np.bincount(truth.ravel()).tolist()
    accuracy = outcomes.confusion.trace() / outcomes.confusion.sum()
    assert accuracy == pytest.approx(values["pixel_accuracy" if truth.ndim > 1 else "accuracy"])
    assert len(outcomes.scores) == len(outcomes.is_positive) == (0 if overrides == SIDES else truth.size)
    assert len(list((tmp_path / "previews").iterdir())) == 4


def test_previews_are_named_without_a_suffix_unless_ids_differ_by_it_alone(tmp_path):
    parts = composed(*BONE)
    ids, val = parts.data.samples.ids, parts.data.split["val"]
    named = ("a.b", "clinic/x.png", "clinic/x.jpg", "clinic/y.JPG")
    for i, name in zip(val, named, strict=True):
        ids[i] = name
    PredictionFigures(parts).write_previews(tmp_path)
    written = {path.relative_to(tmp_path / "previews").as_posix() for path in tmp_path.rglob("*.png")}
    assert written == {"a.b.png", "clinic/x.png.png", "clinic/x.jpg.png", "clinic/y.png"}


# Probabilities


def test_one_logit_becomes_two_classes():
    logits = torch.tensor([[[[-30.0, 0.0, 2.0]]]])
    probs = probabilities(logits)
    assert probs.shape == (1, 2, 1, 3)
    p = torch.tensor([-30.0, 0.0, 2.0]).double().sigmoid().float()
    torch.testing.assert_close(probs[0, 1, 0], p, rtol=1e-6, atol=0)
    torch.testing.assert_close(probs[0, 0, 0], 1 - p, rtol=1e-6, atol=0)


def test_probabilities_of_the_background_are_exact_near_zero():
    assert probabilities(torch.tensor([[100.0]]))[0, 0].item() == pytest.approx(math.exp(-100), rel=1e-3)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 5, 6)])
def test_several_logits_become_a_softmax(shape):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(probabilities(logits), logits.exp() / logits.exp().sum(dim=1, keepdim=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_probabilities_are_float32_and_add_up(dtype, channels):
    probs = probabilities(torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype))
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(2, 4, 4))


def test_logits_that_look_like_probabilities_are_still_logits():
    torch.testing.assert_close(probabilities(torch.tensor([[0.0], [1.0]]))[:, 1], torch.tensor([0.5, 0.7310586]))
    torch.testing.assert_close(probabilities(torch.tensor([[0.2, 0.8]])), torch.tensor([[0.35434, 0.64566]]))


# Whole trainings


@pytest.mark.parametrize("overrides", [(), ("loss=cross_entropy",), BONE, (*BONE, "loss=bce")], ids=" ".join)
def test_masks_and_classes_go_through_the_same_loop(overrides, tmp_path):
    trained = train(tmp_path, *overrides)
    assert trained.column("epoch") == [1, 2]
    assert trained.column("step") == [4, 8]
    names = {f"{part}/{name}" for part in ("train_eval", "val") for name in ("loss", *columns(trained.setup.metrics))}
    fixed = {"epoch", "step", "lr", "train/loss", "grad_norm", "seconds", "images_per_second"}
    assert set(trained.rows[0]) == fixed | names
    assert all(math.isfinite(trained.rows[1][name]) for name in ("train/loss", "val/loss", trained.setup.monitor.name))
    assert trained.checkpoint.best.exists()


def test_two_runs_of_one_config_are_bit_equal(tmp_path):
    busy = ("model.dropout=0.3", "augmentation=strong", "scheduler=onecycle")
    ours = train(tmp_path / "a", *busy)
    torch.manual_seed(99)  # whatever the process did before
    theirs = train(tmp_path / "b", *busy, "train.num_workers=1")
    clocks = ("seconds", "images_per_second")
    for mine, yours in zip(ours.rows, theirs.rows, strict=True):
        assert {k: v for k, v in mine.items() if k not in clocks} == {k: v for k, v in yours.items() if k not in clocks}
    assert equal(ours.weights(), theirs.weights())


@pytest.mark.parametrize("every", [1, 2])
def test_interrupted_is_uninterrupted(tmp_path, every):
    busy = ("model.dropout=0.3", "augmentation=light", "scheduler=plateau", "train.epochs=3")
    busy += (f"train.eval_every={every}",)
    whole = train(tmp_path / "whole", *busy)

    class PulledPlugError(Exception):
        pass

    def fails_in_epoch_3(setup: ExperimentSetup) -> ExperimentSetup:
        def hook(model: nn.Module, _: Any) -> None:
            if model.training and setup.loaders.train_sampler.epoch == 3:
                raise PulledPlugError

        setup.model.register_forward_pre_hook(hook)
        return setup

    with pytest.raises(PulledPlugError):
        train(tmp_path / "setup", *busy, change=fails_in_epoch_3)
    resumed = train(tmp_path / "setup", *busy)
    assert equal(whole.weights(), resumed.weights())
    assert replace(whole.state, rows=[]) == replace(resumed.state, rows=[])
    for name in ("epoch", "step", "lr", "train/loss", "val/loss", "val/dice", "grad_norm"):
        assert whole.column(name) == resumed.column(name)


def test_one_batch_can_be_overfitted(tmp_path):
    batch = ("dataset.num_images=8", "dataset.split.val_fraction=0.5", "dataset.difficulty=0", "train.batch_size=4")
    trained = train(tmp_path, *batch, "train.epochs=45", "optimizer.lr=0.01", "model.depth=2")
    assert trained.column("train_eval/dice")[-1] > 0.95
    assert trained.column("train_eval/dice")[0] < 0.9


def test_of_one_image_every_value_per_image_is_kept(tmp_path):
    """torchmetrics makes a scalar of a vector of one: the metric, not the shape, says what is per image."""
    trained = train(tmp_path, "dataset.num_images=10", "dataset.split.val_fraction=0.1", "train.epochs=1")
    setup = trained.setup
    evaluation = evaluate(setup.network, setup.loss, setup.metrics, setup.loaders.val)
    assert {name: tuple(values.shape) for name, values in evaluation.per_image.items()} == {
        name: (1,) for name in columns(setup.metrics) if name != "dice_pooled"
    } | {"loss": (1,)}


class TwoValues(SumMetric):
    """A metric of two values, under one name or two."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names

    def update(self, probs, targets):
        super().update(targets)

    def compute(self):
        return dict.fromkeys(self.names, super().compute()) or torch.zeros(2)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "metric.scores: two: TwoValues computes 2 values, a column holds one"),
        (("a", "b"), "metric.scores: a metric computes a, b, which it does not announce"),
    ],
)
def test_values_that_are_not_one_for_each_column_are_refused(tmp_path, names, said):
    setup = build_setup(compose_config(*TINY), choices={})
    metrics = MetricCollection({"two": TwoValues(names)})
    with pytest.raises(UserError, match=said):
        evaluate(setup.network, setup.loss, metrics, setup.loaders.val)


def test_a_kill_between_the_two_files_loses_no_best_weights(tmp_path):
    trained = train(tmp_path, "train.epochs=1")
    weights = read_weights(trained.checkpoint.best)[0]
    trained.checkpoint.best.unlink()
    assert trained.checkpoint.resume().best_epoch == 1
    assert all(torch.equal(read_weights(trained.checkpoint.best)[0][name], value) for name, value in weights.items())
