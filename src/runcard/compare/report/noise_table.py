"""How large a difference of two arms must be to be more than noise, printed on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from runcard.compare import endpoints
from runcard.compare.arms import Arm
from runcard.compare.measures import title
from runcard.compare.report.power_table import rare_failures, scattered
from runcard.compare.report.tables import number
from runcard.console import print_table
from runcard.errors import UserError
from runcard.stats.mrmc import MIN_UNITS, Array, Effect
from runcard.stats.noise import CONFIDENCE, MIN_RUNS, Noise, noisier_arm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = (2, 3, 5, 7, 10, 20)
TIMES_IMAGES = (1, 2, 4)  # of the lines of the figure
NONE = "none"  # in place of a difference that is larger than any possible one
MAX_NAMED = 2  # arms
ONE_ARM = (
    "For images like these it is at least that: how a difference varies from image to image, one arm cannot show. "
    "Name runs of a second one too."
)
WAYS: dict[str, Callable[[Effect], float]] = {  # that a difference is large enough
    "worth_claiming": lambda effect: effect.interval()[1],
    "found_four_times_in_five": lambda effect: effect.detectable(),
}


@dataclass(frozen=True)
class Measured:
    """The noise of one metric in some arms."""

    metric: str
    arms: tuple[Arm, ...]
    noise: Noise
    word: str  # the units: images or patients
    largest: float  # possible difference of the metric
    warnings: tuple[str, ...]

    @property
    def bound(self) -> Noise:
        """The noise that the true one does not exceed, with 80 % confidence."""
        return self.noise.bound()

    @property
    def generalizes(self) -> bool:
        """Whether it is known how the difference of two arms varies from image to image."""
        return self.noise.images is not None and self.noise.num_images >= MIN_UNITS

    @property
    def basis(self) -> str:
        """The runs that it is measured on: "5 runs of loss=bce and 3 runs of loss=dice", or "40 runs of 8 arms"."""
        if len(self.arms) > MAX_NAMED:
            return f"{sum(len(arm.runs) for arm in self.arms)} runs of {len(self.arms)} arms"
        return " and ".join(f"{len(arm.runs)} runs of {arm.name}" for arm in self.arms)

    @property
    def sentences(self) -> list[str]:
        """What the numbers come to: on these images, what that rests on, for images like these."""
        estimate, bound = number(self.noise.sd), number(self.bound.sd)
        basis = (
            f"From {self.basis} on these {self.noise.num_images} {self.word}: the mean of a run has a standard "
            f"deviation of {estimate}, with {100 * CONFIDENCE:g} % confidence at most {bound}, from which the numbers "
            "follow."
        )
        return [self._headline(), basis, self._others()]

    def _headline(self) -> str:
        three, seven = (self.write(self.bound.on_these_images(num).interval()[1]) for num in (3, 7))
        more = "nor with seven" if seven == NONE else f"seven seeds would see {seven}"
        if three == NONE:
            return f"With three seeds no difference in {title(self.metric)} is more than noise here; {more}."
        return f"Differences in {title(self.metric)} below {three} are noise here with three seeds; {more}."

    def _others(self) -> str:
        num_images = self.noise.num_images
        if num_images < MIN_UNITS:
            return f"Fewer than {MIN_UNITS} {self.word}: nothing here speaks of others."
        if self.noise.images is None:
            return ONE_ARM.replace("image", self.word[:-1])
        three, seven = (self.write(self.bound.on_others(num, num_images).interval()[1]) for num in (3, 7))
        if self.noise.images == 0:
            return (
                f"For {self.word} like these: {three} with three seeds, {seven} with seven. What varies between "
                f"{self.word} in the difference of these arms, their runs explain."
            )
        floor = self.write(self.noise.floor(num_images))
        return (
            f"For {self.word} like these: {three} with three seeds, {seven} with seven; with {num_images} {self.word} "
            f"no number of seeds sees less than {floor}."
        )

    def write(self, difference: float) -> str:
        """Format a difference: "0.011"; "none" where no possible one is so large."""
        if difference > self.largest:
            return NONE
        return f"{difference:.3f}" if difference >= 0.0005 or difference == 0 else f"{difference:.1g}"

    def effects(self, num_runs: int) -> list[tuple[Effect, Effect]]:
        """Predict, with the bound and with the estimate, what num_runs see here and, if known, on images like these."""
        both = self.bound, self.noise
        here = [noise.on_these_images(num_runs) for noise in both]
        others = [noise.on_others(num_runs, noise.num_images) for noise in both] if self.generalizes else []
        return [(pair[0], pair[1]) for pair in (here, others) if pair]


def measure_noise(arms: Sequence[Arm], metric: str) -> tuple[Measured, list[str]]:
    """Measure the noise of all arms with enough runs; also return why others are left out.

    Raises UserError where no arm has enough, where they cannot be compared, or where their runs do not differ.
    """
    enough, left_out = scattered(arms, metric, MIN_RUNS)
    values = endpoints.units(enough, metric).values
    noise = Noise.of(values)
    if noise.sd == 0:
        raise UserError(
            f"{', '.join(arm.name for arm in enough)}: all runs have the same {title(metric)}, so that no noise can be "
            f"measured. Run more seeds, or name another metric: {', '.join(endpoints.metrics(enough[0].first))}."
        )
    low, high = endpoints.bounds(enough[0].first, metric)
    word = endpoints.Count.of(enough[0]).word
    warnings = (*_one_noisier(enough, values), *rare_failures(enough, values))
    found = Measured(metric, tuple(enough), noise, word, high - low, warnings)
    return found, left_out


def _one_noisier(arms: Sequence[Arm], values: tuple[Array, ...]) -> Iterator[str]:
    """Say it where one arm alone makes the scatter, which is taken to be that of all."""
    if (i := noisier_arm(values)) is not None:
        own, others = (Noise.of(each).sd for each in (values[i : i + 1], values[:i] + values[i + 1 :]))
        yield (
            f"{arms[i].name}: its runs scatter more than the others' (standard deviation {number(own)} against "
            f"{number(others)}), and the numbers take all arms as alike. Measure it apart from the others."
        )


def print_noise(console: Console, found: Measured) -> None:
    """Print a sentence first, then what it rests on, then a table by seeds."""
    console.print(found.sentences[0], style="bold")
    for sentence in found.sentences[1:]:
        console.print(sentence)
    console.print("\nSmallest difference of two arms, in brackets with the estimated standard deviation:")
    places = [f"these {found.noise.num_images} {found.word}", f"{found.word} like these"][: 1 + found.generalizes]
    columns = [name for place in places for name in (f"{place}: worth claiming", "found four times in five")]
    print_table(console, ["seeds", *columns], [[str(num), *_cells(found, num)] for num in SEEDS])
    for line in found.warnings:
        console.print(line, style="yellow")


def as_json(found: Measured, left_out: Sequence[str]) -> dict[str, Any]:
    """Return all numbers; images_like_these is null where they are unknown."""
    return {
        "metric": found.metric,
        "arms": [{"name": arm.name, "runs": len(arm.runs)} for arm in found.arms],
        found.word: found.noise.num_images,
        "sd": {"estimate": found.noise.sd, "bound": found.bound.sd, "df": found.noise.df},
        "sentences": found.sentences,
        "seeds": [{"seeds": num} | _numbers(found, num) for num in SEEDS],
        "warnings": list(found.warnings),
        "left_out": list(left_out),
    }


def draw(found: Measured) -> Figure:
    """Draw the difference that is found four times in five against seeds, by numbers of images."""
    from runcard.figures.noise import noise_figure

    seeds = range(SEEDS[0], SEEDS[-1] + 1)
    ends = [found.noise.bound(confidence) for confidence in (1 - CONFIDENCE, CONFIDENCE)]
    numbers = [found.noise.num_images * times for times in TIMES_IMAGES] if found.generalizes else []
    return noise_figure(
        seeds,
        band=[[end.on_these_images(num).detectable() for num in seeds] for end in ends],
        others={num: [found.bound.on_others(s, num).detectable() for s in seeds] for num in numbers},
        word=found.word,
        axis=f"true difference in {title(found.metric)}\nfound four times in five",
        title=f"From {found.basis}",
    )


def _cells(found: Measured, num_runs: int) -> list[str]:
    return [
        f"{found.write(of(bound))} ({found.write(of(estimate))})"
        for bound, estimate in found.effects(num_runs)
        for of in WAYS.values()
    ]


def _numbers(found: Measured, num_runs: int) -> dict[str, Any]:
    written = [
        {name: {"bound": of(bound), "estimate": of(estimate)} for name, of in WAYS.items()}
        for bound, estimate in found.effects(num_runs)
    ]
    return {"these_images": written[0], "images_like_these": written[1] if found.generalizes else None}
