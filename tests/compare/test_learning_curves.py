"""Learning dynamics: each definition by a table worked out by hand, and what is said where there is no value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from folders import write_run
from scipy import stats

from runcard.compare.arms import Arm
from runcard.compare.learning_curves import MEASURES, NoValueError, Training, band, compare, measure, value
from runcard.runs.reader import read_run
from runcard.runs.run import Run

NAN, NEVER = math.nan, math.inf
ZIGZAG = [0.0, 1.0] * 5


@pytest.fixture
def written(tmp_path) -> Callable[..., Run]:
    """Returns a function that writes a run with these columns of metrics.csv, and reads it."""

    def write(curves: Mapping[str, Sequence[float]], **special) -> Run:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        run, reason = read_run(write_run(folder, epochs=len(next(iter(curves.values()))), curves=curves, **special))
        assert run is not None, reason
        return run

    return write


@pytest.fixture
def arm(written) -> Callable[..., Arm]:
    """Returns a function that writes an arm: a run per curve of val/dice, or per epoch in which 0.9 is reached."""

    def write(*dice: Sequence[float] | int | None, num_epochs: int = 40, **special) -> Arm:
        curves = [reached(d, num_epochs) if d is None or isinstance(d, int) else d for d in dice]
        return Arm("BCE", tuple(written({"val/dice": d}, seed=seed, **special) for seed, d in enumerate(curves)))

    return write


def reached(epoch: int | None, num_epochs: int) -> list[float]:
    """Returns a curve that is at 0.9 from this epoch on, or never."""
    before = num_epochs if epoch is None else epoch - 1
    return [0.5] * before + [0.9] * (num_epochs - before)


# The values of one run


@pytest.mark.parametrize(
    ("metric", "curve", "threshold", "expected"),
    [
        ("dice", [0.5, 0.9, 0.8, 0.95], 0.9, 2),  # at it is past it, and falling back does not undo it
        ("dice", [0.5, 0.9, 0.8, 0.95], 0.91, 4),
        ("dice", [0.95], 0.9, 1),
        ("dice", [0.5, 0.6, 0.7, 0.8], 0.9, NEVER),
        ("dice", [0.5, 0.9, NAN, 0.95], 0.9, 2),  # what comes after does not matter
        ("bce", [0.7, 0.5, 0.4, 0.3], 0.4, 3),  # smaller is better
        ("bce", [0.7, 0.5, 0.45, 0.41], 0.4, NEVER),
        ("bce", [math.inf, 0.5, 0.4, 0.3], 0.6, None),
        ("dice", [0.5, NAN, 0.95, 0.95], 0.9, None),  # it may have been reached in epoch 2
        ("dice", [0.5, NAN, 0.5, 0.5], 0.9, None),
    ],
)
def test_to_threshold(written, metric, curve, threshold, expected):
    seconds = [1.0, 2.0, 4.0, 8.0][: len(curve)]
    training = Training(written({f"val/{metric}": curve, "seconds": seconds}), metric, threshold)
    if expected is None:
        with pytest.raises(NoValueError, match=rf"val/{metric} is (NaN|infinite) in epoch [12]$"):
            training.epochs_to_threshold()
        with pytest.raises(NoValueError):
            training.seconds_to_threshold()
    else:
        assert training.epochs_to_threshold() == expected
        assert training.seconds_to_threshold() == (NEVER if expected == NEVER else 2**expected - 1)


@pytest.mark.parametrize(
    ("before", "last_third", "stability", "rise"),
    [
        # Nine differences, five of +1 and four of −1: mean 1/9, sum of squares about it 9 − 1/9, over 8.
        ([0.5] * 20, ZIGZAG, math.sqrt(10 / 9), (3 - 2) / 5),
        ([0.5] * 21, ZIGZAG, math.sqrt(10 / 9), (3 - 2) / 5),  # 31 // 3 = 10: the first epoch of the third is left out
        ([7, -7] * 10, [0.1 * i for i in range(10)], 0, 0.5),  # a straight line does not fluctuate
        ([0.5] * 20, [0.1 * i + z for i, z in enumerate(ZIGZAG)], math.sqrt(10 / 9), 0.5 + 0.2),
        ([0.5] * 22, [1.0] * 5 + [9.0] + [0.7] * 5, None, -0.3),  # of eleven, the middle one is in neither half
    ],
)
def test_last_third(written, before, last_third, stability, rise):
    training = Training(written({"val/dice": [*before, *last_third]}), "dice", 0.9)
    if stability is not None:
        assert training.stability() == pytest.approx(stability, abs=1e-12)
    assert training.rise() == pytest.approx(rise)


@pytest.mark.parametrize(
    ("curve", "reason"),
    [
        ([0.9] * 29, "too short to say"),
        ([0.9], "too short to say"),
        ([0.9] * 24 + [NAN] + [0.9] * 5, "val/dice is NaN in epoch 25"),
    ],
)
@pytest.mark.parametrize("of", [Training.stability, Training.rise])
def test_last_third_needs_ten_epochs_without_a_hole(written, curve, reason, of):
    with pytest.raises(NoValueError, match=f"^{reason}$"):
        of(Training(written({"val/dice": curve}), "dice", 0.9))


def test_a_hole_before_the_last_third_does_not_matter_to_it(written):
    assert Training(written({"val/dice": [NAN] * 20 + ZIGZAG}), "dice", 0.9).rise() == pytest.approx(0.2)


def test_of_few_evaluations_only_these_count(written):
    """One in five epochs: 0.9 is reached in the second evaluation; ten of thirty are the last third."""
    dice = np.full(150, NAN)
    dice[4::5] = [0.5, 0.9, *[0.5] * 18, *ZIGZAG]
    run = written({"val/dice": dice, "seconds": [2.0] * 150}, config={"train.eval_every": 5})
    training = Training(run, "dice", 0.9)
    assert (training.epochs_to_threshold(), training.seconds_to_threshold()) == (10, 20)
    assert training.stability() == pytest.approx(np.diff(ZIGZAG).std(ddof=1))
    shown = band(Arm("BCE", (run,)), "val/dice")
    assert (shown.epochs.tolist(), shown.mean.tolist()) == (list(range(5, 151, 5)), dice[4::5].tolist())


def test_gaps(written):
    run = written(
        {
            "val/dice": [0.1, 0.80],
            "train_eval/dice": [0.9, 0.95],
            "val/loss": [0.9, 0.30],
            "train_eval/loss": [0.0, 0.05],
            "train/loss": [0.0, 0.20],
        }
    )
    arm = Arm("BCE", (run,))
    read = {key: value(key, arm, "dice", 0.9).runs[0] for key in ("gap", "loss_gap", "running_loss_gap")}
    assert read == pytest.approx({"gap": -0.15, "loss_gap": 0.25, "running_loss_gap": 0.10})


def test_a_gap_of_what_is_not_finite_or_was_not_measured(written):
    arm = Arm("BCE", (written({"train_eval/dice": [0.9, NAN]}),))
    assert value("gap", arm, "dice", 0.9).note == "train_eval/dice is NaN in epoch 2"
    assert value("gap", arm, "iou", 0.9).note == "no val/iou in metrics.csv"


def test_durations(written):
    run = written(
        {"seconds": [1.0, 2.0, 4.0, 9.0], "val/dice": [0.5, 0.6, 0.9, 0.8]},
        metadata={
            "seconds": {"total": 16.0, "per_epoch": 4.0, "caching": 0.2},
            "features": {"reused": True, "seconds": 0.2, "seconds_when_made": 30.0},
        },
    )
    read = {key: value(key, Arm("BCE", (run,)), "dice", 0.9).runs[0] for key in MEASURES}
    assert read["seconds"] == 16
    assert read["seconds_per_epoch"] == 4
    assert read["seconds_to_best"] == 1 + 2 + 4
    assert read["caching"] == 30


# An arm's value


def test_the_mean_of_times_is_geometric_with_an_interval_of_logarithms(arm):
    read = value("epochs_to_threshold", arm(10, 20, 40), "dice", 0.9)
    assert read.runs == (10, 20, 40)
    assert math.exp(read.mean.estimate) == pytest.approx(20)
    logs = np.log([10, 20, 40])
    assert read.mean.interval() == pytest.approx(stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs)))
    assert read.note == ""


def test_the_mean_of_what_is_no_time_is_the_plain_one(arm):
    read = value("rise", arm(*([0.5] * 25 + [dice] * 5 for dice in (0.6, 0.7, 0.9))), "dice", 0.9)
    assert read.runs == pytest.approx((0.1, 0.2, 0.4))
    assert read.mean.interval() == pytest.approx(
        stats.t.interval(0.95, 2, np.mean([0.1, 0.2, 0.4]), stats.sem([0.1, 0.2, 0.4]))
    )


@pytest.mark.parametrize(
    ("dice", "runs", "note"),
    [
        ((10, None, 20), (10, NAN, 20), "2 of 3 reached 0.9"),
        ((None, None, None), (NAN, NAN, NAN), "none of 3 reached 0.9"),
        ((10, [0.5, NAN, *[0.9] * 38], 20), (10, NAN, 20), "seed 1: val/dice is NaN in epoch 2"),
        (
            ([0.5, NAN, *[0.9] * 38], None, 20),
            (NAN, NAN, 20),
            "1 of 3 reached 0.9; seed 0: val/dice is NaN in epoch 2",
        ),
    ],
)
def test_runs_without_a_value_are_counted_and_never_averaged_over(arm, dice, runs, note):
    read = value("epochs_to_threshold", arm(*dice), "dice", 0.9)
    assert read.runs == pytest.approx(runs, nan_ok=True)
    assert (read.mean, read.note) == (None, note)


def test_what_all_runs_lack_is_said_once(arm):
    assert value("stability", arm(1, 1, 1, num_epochs=29), "dice", 0.9).note == "too short to say"


def test_two_runs_and_folds_only_describe(arm):
    two = arm(10, 20)
    folds = arm(10, 20, 30, config={"dataset.split.kind": "kfold"})
    for few, runs, reason in (
        (two, (10, 20), "fewer than 3 runs: described only"),
        (folds, (10, 20, 30), "folds share training images: described only"),
    ):
        read = value("epochs_to_threshold", few, "dice", 0.9)
        assert (read.runs, read.mean) == (runs, None)
        contrast = compare("epochs_to_threshold", arm(1, 2, 3), few, "dice", 0.9)
        assert (contrast.effect, contrast.p, contrast.note) == (None, None, reason)


# Two arms


def test_times_are_compared_by_welchs_t_of_their_logarithms(arm):
    first, second = (12, 14, 17), (20, 33, 25, 24)
    contrast = compare("epochs_to_threshold", arm(*first), arm(*second), "dice", 0.9)
    reference = stats.ttest_ind(np.log(first), np.log(second), equal_var=False)
    assert contrast.p == contrast.effect.p == pytest.approx(reference.pvalue)
    assert math.exp(contrast.effect.estimate) == pytest.approx(stats.gmean(first) / stats.gmean(second))
    assert (contrast.first_lower, contrast.note) == (True, "")


def test_what_is_no_time_is_compared_as_it_is(arm):
    arms = [arm(*([0.5] * 25 + [dice] * 5 for dice in ends)) for ends in ((0.8, 0.9, 0.7), (0.6, 0.55, 0.7))]
    contrast = compare("rise", *arms, "dice", 0.9)
    reference = stats.ttest_ind([0.3, 0.4, 0.2], [0.1, 0.05, 0.2], equal_var=False)
    assert contrast.p == pytest.approx(reference.pvalue)
    assert not contrast.first_lower


@pytest.mark.parametrize(
    ("first", "second", "p", "first_lower", "note"),
    [
        # Of the 20 ways to choose 3 of 6 ranks, one is as extreme on each side: p = 2 / 20.
        ((10, 11, 12), (None, None, None), 0.1, True, "3 of 3 and 0 of 3 reached 0.9"),
        ((None, None, None), (10, 11, None), 0.4, False, "0 of 3 and 2 of 3 reached 0.9"),
        ((None, None, None), (None, None, None), 1.0, False, "0 of 3 and 0 of 3 reached 0.9"),
        ((2, 2, 2), (4, 4, 4), 0.1, True, "no two runs of an arm differ"),  # the t would be infinite, p 0
    ],
)
def test_ranks_alone_are_compared(arm, first, second, p, first_lower, note):
    contrast = compare("epochs_to_threshold", arm(*first), arm(*second), "dice", 0.9)
    assert contrast.effect is None
    assert contrast.p == pytest.approx(p)
    assert (contrast.first_lower, contrast.note) == (first_lower, note)


@pytest.mark.parametrize(
    ("second", "num_epochs", "note"),
    [
        ((10, None, 12), 50, "not all reached 0.9, nor are all equally long"),
        ((10, [0.5, NAN, *[0.9] * 38], 12), 40, "BCE: seed 1: val/dice is NaN in epoch 2"),
    ],
)
def test_nothing_is_said_where_never_is_not_the_same_time_or_a_value_is_unknown(arm, second, num_epochs, note):
    arms = arm(10, 11, 12), arm(*second, num_epochs=num_epochs)
    contrast = compare("epochs_to_threshold", *arms, "dice", 0.9)
    assert (contrast.effect, contrast.p, contrast.note) == (None, None, note)


def test_how_they_are_written():
    titles = {key: measure(key, "dice", 0.9).title for key in MEASURES}
    assert titles["epochs_to_threshold"] == "epochs to Dice 0.9"
    assert titles["loss_gap"] == "gap of loss, validation − training"
    assert len(set(titles.values())) == len(MEASURES)
