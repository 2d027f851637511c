"""The command that judges two rows of a published table: check-claim."""

from __future__ import annotations

import json
import math
from typing import Annotated

import typer

from runcard.cli.app import AsJson, app
from runcard.cli.conclusions import PANEL
from runcard.errors import UserError, check_config_choice

Pair = tuple[float, float]

METRIC = "dice or accuracy; for sensitivity and specificity, accuracy on the positive or the negative images"
SD = "the ± of the two rows; none: unknown"
SD_OF = "what that ± is over, as the caption says: images, seeds or folds"
IMAGES = "test images that each mean is over (patients, where they are the units)"
OF = "rows that the better one was picked from"
RHO = "correlation of the two rows from image to image, of Dice; none: 0.5 to 0.95"
RUN_SD = "sd from seed to seed, where you know it; none: 0.001 to 0.012"
BEST_EPOCH = "the epoch was chosen on these images"
POOLED = "one Dice over the pixels of all images"
OTHER_IMAGES = "the rows were measured on different images or splits"

SD_OF_CHOICES = ("images", "seeds", "folds")
SD_OF_FOLDS = (
    "--sd-of folds: no verdict. Folds share training images, so their sd is neither that of seeds nor that of images.\n"
    "Give the sd over the images of all folds (--sd-of images), or no --sd."
)
REFUSED = {
    "best_epoch": "The best epoch on the images that it is measured on is optimistic, by an unknown amount."
    "\nGive the values of the last epoch, or of other images.",
    "pooled": "One Dice over all pixels has no value per image, so its variance cannot be known."
    "\nGive the mean of the Dice of each image.",
    "other_images": "Rows on different images or splits differ by the images too, by an unknown amount."
    "\nGive two rows that were measured on the same images.",
}


@app.command("check-claim", rich_help_panel=PANEL)
def check_claim(
    metric: Annotated[str, typer.Option(help=METRIC)],
    mean: Annotated[Pair, typer.Option(help="the two means, from 0 to 1")],
    images: Annotated[int | None, typer.Option(help=IMAGES)] = None,
    seeds: Annotated[int, typer.Option(help="of each row")] = 1,
    sd: Annotated[Pair | None, typer.Option(help=SD)] = None,
    sd_of: Annotated[str | None, typer.Option(help=SD_OF)] = None,
    of: Annotated[int, typer.Option(help=OF)] = 2,
    rho: Annotated[float | None, typer.Option(help=RHO)] = None,
    run_sd: Annotated[float | None, typer.Option(help=RUN_SD)] = None,
    best_epoch: Annotated[bool, typer.Option("--best-epoch", help=BEST_EPOCH)] = False,
    pooled: Annotated[bool, typer.Option("--pooled", help=POOLED)] = False,
    other_images: Annotated[bool, typer.Option("--other-images", help=OTHER_IMAGES)] = False,
    as_json: AsJson = False,
) -> None:
    """Say what two rows of a published table support: it holds, it cannot be concluded, or what it depends on."""
    if pooled and metric == "accuracy":
        raise UserError("--pooled is for Dice: accuracy has a value per image, right or wrong")
    for name, said in {"best_epoch": best_epoch, "pooled": pooled, "other_images": other_images}.items():
        if said:
            raise UserError(f"--{name.replace('_', '-')}: no verdict. {REFUSED[name]}")
    _check_numbers(mean, images, seeds, of)
    _check_sd(metric, mean, seeds, sd, sd_of)
    _check_noise(metric, sd_of, rho, run_sd)

    from runcard.compare.report import published as report
    from runcard.stats.published import METRICS, Claim, judge

    check_config_choice("--metric", metric, METRICS)
    assert images is not None  # _check_numbers
    if metric == "accuracy" and seeds == 1:
        _check_shares(mean, images)
    claim = Claim(
        metric,
        mean,
        images,
        seeds,
        of,
        image_sds=sd if sd_of == "images" else None,
        seed_sds=sd if sd_of == "seeds" else None,
        rho=rho,
        run_sd=run_sd,
    )
    judgement = judge(claim)
    if as_json:
        print(json.dumps(report.as_json(claim, judgement), indent=1))
    else:
        print("\n".join(report.describe(claim, judgement)))


def _check_numbers(mean: Pair, images: int | None, seeds: int, of: int) -> None:
    for value in mean:
        if not 0 <= value <= 1:
            hint = f" In percent? Say {value / 100:g}." if 1 < value <= 100 else ""
            raise UserError(f"--mean must be in [0, 1], got {value:g}.{hint}")
    if images is None:
        raise UserError(
            "--images: no verdict without the number of test images that the means are over.\n"
            "It stands in the paper's section on data; where it does not, its table supports no conclusion."
        )
    from runcard.stats.mrmc import MIN_UNITS

    for name, number, minimum in (("images", images, MIN_UNITS), ("seeds", seeds, 1), ("of", of, 2)):
        if number < minimum:
            raise UserError(f"--{name} must be at least {minimum}, got {number}")


def _check_shares(mean: Pair, images: int) -> None:
    """Refuse an accuracy that no number of right images has, to the digits that are given."""
    for value in mean:
        digits = len(str(value).partition(".")[2])
        below, above = math.floor(value * images), math.ceil(value * images)
        if value not in (round(below / images, digits), round(above / images, digits)):
            near = " and ".join(f"{k} of {images} are {k / images:.{digits}f}" for k in (below, above))
            raise UserError(f"--mean {value:g}: no share of {images} images: {near}.\nA misprint, or several seeds?")


def _check_sd(metric: str, mean: Pair, seeds: int, sd: Pair | None, sd_of: str | None) -> None:
    if (sd is None) != (sd_of is None):
        raise UserError(
            "--sd and --sd-of belong together: the ± of the two rows, and what it is over (images, seeds or folds).\n"
            "A caption that does not say it? Leave both out."
        )
    if sd is None or sd_of is None:
        return
    if check_config_choice("--sd-of", sd_of, SD_OF_CHOICES) == "folds":
        raise UserError(SD_OF_FOLDS)
    if sd_of == "seeds" and seeds < 2:
        raise UserError(f"--sd-of seeds needs --seeds, two or more, got {seeds}")
    if sd_of == "images" and metric == "accuracy":
        raise UserError("--sd-of images: accuracy has none beyond its mean. Leave --sd out, or give that of seeds")
    for value, m in zip(sd, mean, strict=True):
        largest = math.sqrt(m * (1 - m) * 1.1)  # n − 1 for n, and the rounding of the table
        if not 0 <= value < math.inf or (value > largest + 0.005):
            raise UserError(
                f"--sd {value:g}: impossible for values from 0 to 1 whose mean is {m:g} "
                f"(at most {math.sqrt(m * (1 - m)):.3g}).\nA misprint, or percent?"
            )


def _check_noise(metric: str, sd_of: str | None, rho: float | None, run_sd: float | None) -> None:
    if rho is not None and metric == "accuracy":
        raise UserError("--rho is for Dice; of accuracy, the images that just one row has right count")
    if rho is not None and not -1 <= rho <= 1:
        raise UserError(f"--rho must be in [-1, 1], got {rho:g}")
    if run_sd is not None and sd_of == "seeds":
        raise UserError(f"--run-sd {run_sd:g}: --sd-of seeds gives it already. Leave one out")
    if run_sd is not None and not 0 <= run_sd < math.inf:
        raise UserError(f"--run-sd must be a number >= 0, got {run_sd:g}")
