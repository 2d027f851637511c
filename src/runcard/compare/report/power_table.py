"""The number of seeds or images that a difference needs, printed on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from rich.console import Console

from runcard.compare import endpoints
from runcard.compare.arms import Arm
from runcard.compare.confounds import incomparable
from runcard.compare.measures import title
from runcard.console import print_table
from runcard.errors import UserError
from runcard.stats.power import VarianceComponents

SEEDS = (3, 5, 10, 20)
TIMES_IMAGES = (1, 2, 4, 10)


def print_power(console: Console, arms: Sequence[Arm], metric: str, differences: Sequence[float]) -> None:
    """Print, for each pair of arms or for one alone, what it can detect now and what each difference would need."""
    if in_folds := [arm.name for arm in arms if endpoints.in_folds(arm)]:
        raise UserError(f"{', '.join(in_folds)}: of folds nothing can be planned; name runs of one split.")
    few = [arm.name for arm in arms if len(arm.runs) < 2]
    enough = [arm for arm in arms if len(arm.runs) >= 2]
    if few:
        one_seed = f"{', '.join(few)}: one seed; how far seeds differ takes at least two. Run seed=0,1."
        if not enough:
            raise UserError(one_seed)
        console.print(f"left out  {one_seed}", style="yellow")
    pairs = list(combinations(enough, 2)) or [(enough[0], enough[0])]
    if reasons := [f"{a.name}, {b.name}: {'; '.join(why)}" for a, b in pairs if (why := incomparable(a, b, metric))]:
        raise UserError("\n".join(["These arms cannot be compared, so nothing can be planned of them:", *reasons]))
    for first, second in pairs:
        counted = endpoints.units([first, second], metric)
        num_runs, num_images = min(len(first.runs), len(second.runs)), counted.values[0].shape[1]
        word = endpoints.Count.of(first).word
        scatter = VarianceComponents.of(*counted.values)
        name = f"{first.name} and one like it" if first is second else f"{first.name} against {second.name}"
        console.print(f"\n{name}, {title(metric)}: {num_runs} seeds each, {num_images} {word}", style="bold")
        rows = [[f"{d:g}", *_needs(scatter, d, num_runs, num_images, word)] for d in differences]
        columns = ["difference", f"seeds, at {num_images} {word}", f"{word}, at {num_runs} seeds"]
        print_table(console, columns, rows)
        if first is second:
            console.print(
                "the least that it takes: two methods also differ from image to image, which one arm cannot show"
            )
        console.print(f"\nSmallest difference that is found four times in five, by seeds and {word}:")
        numbers = [num_images * times for times in TIMES_IMAGES]
        seeds = sorted({num_runs, *SEEDS})
        grid = [[str(s), *(f"{scatter.planned(s, n).detectable():.3f}" for n in numbers)] for s in seeds]
        print_table(console, ["seeds", *(f"{n} {word}" for n in numbers)], grid)


def _needs(scatter: VarianceComponents, d: float, num_runs: int, num_images: int, word: str) -> list[str]:
    seeds, images = scatter.runs_needed(d, num_images), scatter.images_needed(d, num_runs)
    return [
        f"no number: the {word} alone leave more" if seeds is None else str(seeds),
        "no number: the seeds alone leave more" if images is None else str(images),
    ]
