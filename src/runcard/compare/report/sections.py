"""The report's sections: for each pair of compared arms, their answers, charts and images."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from runcard.compare.answers import Answer
from runcard.compare.arms import Arm
from runcard.compare.confounds import Factor
from runcard.compare.disagreement import Disagreement, disagreement
from runcard.compare.measures import Measure
from runcard.compare.report import charts
from runcard.compare.report.charts import Chart
from runcard.data.image_io import preview_name, read_picture, without_suffix
from runcard.fileio import inside
from runcard.runs.run import Run
from runcard.stats.mrmc import Effect

SHARED_LOSSES = ("log_loss", "bce", "soft_dice_loss")  # comparable between arms of a task, whatever their training loss
PANELS = {"predictions": "what it predicts", "activation_maps": "where it looks"}  # files of a run's figures/
MAX_STANDING_OUT = 6  # images shown of those that differ beyond seeds
NUM_EXTREMES = 3  # images shown of the largest other gains, and of the largest other losses
PANEL_PX, TILE_PX, QUALITY = 520, 128, 72  # widths, and JPEG quality


@dataclass(frozen=True)
class Picture:
    """A JPEG, inlined in the page."""

    name: str  # of its file
    caption: str
    content: bytes

    @property
    def inline(self) -> str:
        """The picture as a data URL."""
        return f"data:image/jpeg;base64,{b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Extreme:
    """An image on which two arms differ most: its values, as the means over their runs, and its preview."""

    id: str
    values: tuple[float, ...]  # in the order of the section's arms
    difference: float  # first − second of the question
    p: float | None  # adjusted, of an image that stands out; None of others
    picture: Picture | None  # None where a run has no preview of it


@dataclass(frozen=True)
class Section:
    """Two arms with their answers, charts and images; no charts and images where an arm has no run.

    Everything shows the arms in the order of the report's tables; a question may name them in the other.
    """

    key: str
    names: tuple[str, ...]  # of the two arms
    arms: tuple[Arm, ...]  # the two; empty where one of them has no run
    is_swapped: bool  # whether the questions name them in the other order
    answers: tuple[Answer, ...]
    metrics: tuple[str, ...]  # whose curves are drawn
    charts: tuple[Chart, ...]
    by_image: Disagreement | None  # the images below, and all others
    standing_out: tuple[Extreme, ...]  # where the arms differ beyond seeds
    better: tuple[Extreme, ...]  # of the others, where the question's first arm gains most
    worse: tuple[Extreme, ...]  # and where it loses most
    panels: tuple[tuple[str, tuple[Picture, ...]], ...]  # title, and a picture for each arm that has one

    @property
    def one(self) -> Answer:
        """An answer that represents what all of the section share: the arms, and what these differ in."""
        return self.answers[0]

    @property
    def studied(self) -> list[Factor]:
        """The differences that the questions ask about."""
        return [factor.swapped if self.is_swapped else factor for factor in self.one.studied]

    @property
    def confounds(self) -> list[Factor]:
        """What else the arms differ in."""
        return [factor.swapped if self.is_swapped else factor for factor in self.one.confounds]

    @property
    def exploratory(self) -> list[tuple[Measure, Effect]]:
        """The measures that none of the section's questions asks for, with their effects."""
        asked = {answer.measure.key for answer in self.answers}
        found = {m.key: (m, effect) for answer in self.answers for m, effect in answer.exploratory}
        return [found[key] for key in found if key not in asked]

    @property
    def extremes(self) -> tuple[Extreme, ...]:
        """All images of the section: none is in two of its lists."""
        return self.standing_out + self.better + self.worse

    @property
    def pictures(self) -> list[Picture]:
        """All pictures of the section."""
        of_images = [extreme.picture for extreme in self.extremes if extreme.picture]
        return of_images + [picture for _, pictures in self.panels for picture in pictures]


def sections(answers: Sequence[Answer], colours: Mapping[str, str], with_images: bool) -> list[Section]:
    """Build a section for each pair of arms that a question compares; colours maps all arms' names, in their order."""
    by_pair: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        by_pair.setdefault((answer.question.first, answer.question.second), []).append(answer)
    return [_section(f"pair{i + 1}", tuple(group), colours, with_images) for i, group in enumerate(by_pair.values())]


def _section(key: str, answers: tuple[Answer, ...], colours: Mapping[str, str], with_images: bool) -> Section:
    question, order = answers[0].question, list(colours)
    arms = tuple(sorted(answers[0].arms, key=lambda arm: order.index(arm.name)))
    names = tuple(arm.name for arm in arms) or (question.first, question.second)
    is_swapped = names[0] != question.first
    metrics = _metrics(answers, *arms) if arms else ()
    of_arms = {arm.name: colours[arm.name] for arm in arms}
    thresholds = {answer.question.metric: answer.question.threshold for answer in answers if answer.question.threshold}
    drawn = [charts.curves(metric, of_arms, thresholds.get(metric)) for metric in metrics]
    paired = {answer.paired.measure.key: answer.paired for answer in answers if answer.paired}
    by_image = next((disagreement(each) for each in answers if each.paired and each.paired.measure.better), None)
    if not with_images:  # their names are as private as they are
        paired = {name: each.numbered for name, each in paired.items()}
        by_image = by_image and replace(by_image, paired=by_image.paired.numbered)
    drawn += [charts.pairs(each.swapped if is_swapped else each, of_arms) for each in paired.values()]
    drawn += [charts.path(each, of_arms[each.question.first]) for each in answers if len(each.path) > 1 and each.effect]
    standing_out, better, worse = _extremes(key, by_image, arms, is_swapped, with_images) if by_image else ((), (), ())
    panels = tuple(
        (words, tuple(p for i, arm in enumerate(arms) if (p := _panel(f"{key}-{name}{i + 1}.jpg", arm, name))))
        for name, words in (PANELS.items() if with_images else ())
    )
    return Section(
        key=key,
        names=names,
        arms=arms,
        is_swapped=is_swapped,
        answers=answers,
        metrics=metrics,
        charts=tuple(drawn),
        by_image=by_image,
        standing_out=standing_out,
        better=better,
        worse=worse,
        panels=panels,
    )


def _metrics(answers: Sequence[Answer], first: Arm, second: Arm) -> tuple[str, ...]:
    """Select the metrics whose curves are drawn: those asked for, the monitored one, and the losses.

    The training loss has its own scale, so it is drawn only where both arms have the same loss, and no other metric
    draws the same values: that of a classifier is often log_loss.
    """
    wanted = [answer.question.metric for answer in answers]
    wanted += [first.first.monitored, *SHARED_LOSSES, "loss"]
    curves = [arm.first.curves for arm in (first, second)]
    drawn = [name for name in dict.fromkeys(wanted) if all(f"val/{name}" in each for each in curves)]

    def is_loss(name: str) -> bool:
        return all(np.allclose(each["val/loss"], each[f"val/{name}"], equal_nan=True) for each in curves)

    own_scale = first.first.loss == second.first.loss and not any(is_loss(name) for name in drawn if name != "loss")
    return tuple(name for name in drawn if name != "loss" or own_scale)


def _extremes(
    key: str, by_image: Disagreement, arms: Sequence[Arm], is_swapped: bool, with_images: bool
) -> tuple[tuple[Extreme, ...], ...]:
    """Select the images beyond seeds; of the others those in which the question's first arm gains most, and loses."""
    paired = by_image.paired
    gain = by_image.differences * (1 if paired.measure.better == "max" else -1)
    standing_out = by_image.standing_out
    others = [i for i in np.argsort(-gain, kind="stable").tolist() if i not in standing_out]

    def extreme(i: int) -> Extreme:
        first, second = (arm.first for arm in arms)
        picture = _side_by_side(f"{key}-image{i + 1}.jpg", paired.ids[i], first, second) if with_images else None
        values = (float(paired.first[i]), float(paired.second[i]))
        adjusted = float(by_image.p[i]) if i in standing_out else None
        difference = float(by_image.differences[i])
        return Extreme(paired.ids[i], values[::-1] if is_swapped else values, difference, adjusted, picture)

    better = [i for i in others[:NUM_EXTREMES] if gain[i] > 0]
    worse = [i for i in others[::-1][:NUM_EXTREMES] if gain[i] < 0]
    chosen = (standing_out[:MAX_STANDING_OUT], better, worse)
    return tuple(tuple(map(extreme, images)) for images in chosen)


def _side_by_side(name: str, image: str, first: Run, second: Run) -> Picture | None:
    """Append the second run's prediction to an image's preview in the first run, scaled to its height.

    The preview of a mask has three tiles, image, truth and prediction; that of a class has one. None where a run has
    no readable preview.
    """
    left, right = (_preview(run, image) for run in (first, second))
    if left is None or right is None:
        return None
    num_tiles = 1 if first.images().targets else 3
    tile_px = max(1, right.width // num_tiles)
    prediction = right.crop((right.width - tile_px, 0, right.width, right.height))
    prediction = prediction.resize((max(1, tile_px * left.height // right.height), left.height))
    shown = Image.new("RGB", (left.width + prediction.width, left.height))
    shown.paste(left, (0, 0))
    shown.paste(prediction, (left.width, 0))
    return Picture(name, f"{image}, as one run of each arm predicts it", _jpeg(shown, TILE_PX * (num_tiles + 1)))


def _preview(run: Run, image: str) -> Image.Image | None:
    """Read a preview, named by the whole id where older runs wrote it, or where ids differ by their suffix alone."""
    names = (preview_name(image), preview_name(without_suffix(image)))
    return next(filter(None, (_picture(run, f"previews/{name}") for name in names)), None)


def _panel(file: str, arm: Arm, name: str) -> Picture | None:
    """Read a figure of an arm's first run; None where it has no readable one."""
    figure = _picture(arm.first, f"figures/{name}.png")
    if figure is None:
        return None
    return Picture(file, f"{arm.name}, seed {arm.first.seed}", _jpeg(figure, PANEL_PX))


def _picture(run: Run, name: str) -> Image.Image | None:
    """Read a picture of a run's folder; None where it has no readable one, or a link to somewhere else."""
    try:
        return read_picture(inside(run.folder, name))
    except ValueError:
        return None


def _jpeg(image: Image.Image, width: int) -> bytes:
    image.thumbnail((width, image.height))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY, optimize=True)
    return content.getvalue()
