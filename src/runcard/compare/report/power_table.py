"""The number of seeds or images that a difference needs, printed on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from rich.console import Console

from runcard.compare import endpoints
from runcard.compare.arms import Arm
from runcard.compare.confounds import incomparable
from runcard.compare.measures import title
from runcard.console import counted, print_table
from runcard.errors import UserError
from runcard.stats.mrmc import Array
from runcard.stats.noise import driving_images
from runcard.stats.power import RANGE, VarianceComponents, runs_cut

SEEDS = (3, 5, 10, 20)
TIMES_IMAGES = (1, 2, 4, 10)
MAX_REASONS = 2  # why arms cannot be compared, in a message
TOO_FEW = {  # number of seeds that an arm needs -> why, and what to do
    2: "one seed; how far seeds differ takes at least two. Run seed=0,1.",
    3: "fewer than three seeds; how far seeds differ takes at least three. Run seed=0,1,2.",
}
RANGES = (
    "Each range runs from the 10 % to the 90 % quantile of what so few runs leave open about their scatter. It has the "
    "true number in at least\nfour cases of five, unless rare failures are the scatter (benchmarks/README.md)."
)


def print_power(
    console: Console, arms: Sequence[Arm], left_out: Sequence[str], metric: str, differences: Sequence[float]
) -> None:
    """Print, for each pair of arms or for one alone, what it can detect now and what each difference would need."""
    enough, too_few = scattered(arms, metric, min_seeds=2)
    for line in (*left_out, *too_few):
        console.print(f"left out  {line}", style="yellow")
    for first, second in list(combinations(enough, 2)) or [(enough[0], enough[0])]:
        values = endpoints.units([first, second], metric).values
        num_runs, num_images = min(len(first.runs), len(second.runs)), values[0].shape[1]
        word = endpoints.Count.of(first).word
        ends = [VarianceComponents.of(*values, quantile=quantile) for quantile in RANGE]
        name = f"{first.name} and one like it" if first is second else f"{first.name} against {second.name}"
        console.print(f"\n{name}, {title(metric)}: {num_runs} seeds each, {num_images} {word}", style="bold")
        rows = [[f"{d:g}", *_needs(ends, d, num_runs, num_images, word)] for d in differences]
        columns = ["difference", f"seeds, at {num_images} {word}", f"{word}, at {num_runs} seeds"]
        print_table(console, columns, rows)
        if first is second:
            console.print("the least it takes: two methods also differ from image to image, which one arm cannot show")
        console.print(f"\nSmallest difference that is found four times in five, by seeds and {word}:")
        numbers = [num_images * times for times in TIMES_IMAGES]
        seeds = sorted({num_runs, *SEEDS})
        grid = [[str(s), *(_detectable(ends, s, n) for n in numbers)] for s in seeds]
        print_table(console, ["seeds", *(f"{n} {word}" for n in numbers)], grid)
    console.print(f"\n{RANGES}")
    values = endpoints.units(enough, metric).values
    for line in (*cut_variances(enough, values), *rare_failures(enough, values)):
        console.print(line, style="yellow")


def scattered(arms: Sequence[Arm], metric: str, min_seeds: int) -> tuple[list[Arm], list[str]]:
    """Return the arms with enough seeds to show how far they scatter, and why others are left out.

    Raises UserError where none has, where the arms have folds, or cannot be compared with each other.
    """
    if in_folds := [arm.name for arm in arms if endpoints.in_folds(arm)]:
        raise UserError(f"{', '.join(in_folds)}: of folds nothing can be planned; name runs of one split.")
    few = [arm.name for arm in arms if len(arm.runs) < min_seeds]
    enough = [arm for arm in arms if len(arm.runs) >= min_seeds]
    left_out = [f"{', '.join(few)}: {TOO_FEW[min_seeds]}"] if few else []
    if not enough:
        raise UserError(left_out[0])
    pairs = combinations(enough, 2)
    if reasons := [f"{a.name}, {b.name}: {'; '.join(why)}" for a, b in pairs if (why := incomparable(a, b, metric))]:
        more = [f"and {counted(len(reasons) - MAX_REASONS, 'more pair')}"] if len(reasons) > MAX_REASONS else []
        first = "These arms cannot be compared, so nothing can be planned; name those of one data set and split:"
        raise UserError("\n".join([first, *reasons[:MAX_REASONS], *more]))
    return enough, left_out


def cut_variances(arms: Sequence[Arm], values: Sequence[Array]) -> list[str]:
    """List the arms whose seeds show no variance of their own."""
    return [
        f"{arm.name}: its seeds differ no more than chance on single {endpoints.Count.of(arm).word} explains, so their "
        "own variance is cut to 0; more seeds may show some."
        for arm, y in zip(arms, values, strict=True)
        if runs_cut(y)
    ]


def rare_failures(arms: Sequence[Arm], values: Sequence[Array]) -> list[str]:
    """List the arms whose scatter comes from one or two images, with these."""
    return [
        f"{arm.name}: {_named(arm, driving, y.shape[1])} more than half of the scatter of its seeds. Rare failures are "
        "estimated worse than the bounds say: look at them, and run more seeds."
        for arm, y in zip(arms, values, strict=True)
        if (driving := driving_images(y))
    ]


def _named(arm: Arm, numbers: Sequence[int], num_units: int) -> str:
    """Format "one of 47 images (CHNCXR_0012_1) makes", without names where units without a value are left out."""
    names = sorted(set(arm.first.images().groups))
    count, verb = ("one", "makes") if len(numbers) == 1 else ("two", "make")
    named = f" ({', '.join(names[i] for i in numbers)})" if len(names) == num_units else ""
    return f"{count} of {num_units} {endpoints.Count.of(arm).word}{named} {verb}"


def _needs(ends: Sequence[VarianceComponents], d: float, num_runs: int, num_images: int, word: str) -> tuple[str, str]:
    seeds = _range([end.runs_needed(d, num_images) for end in ends])
    images = _range([end.images_needed(d, num_runs) for end in ends])
    return (seeds or f"no number: the {word} alone leave more", images or "no number: the seeds alone leave more")


def _range(ends: Sequence[int | None]) -> str:
    """Format "4 to 23", "8" where both ends are the same, "at least 9" where one has no number, "" where both have."""
    found = sorted(num for num in ends if num is not None)
    if len(found) < len(ends):
        return f"at least {found[0]}, perhaps no number" if found else ""
    return str(found[0]) if found[0] == found[-1] else f"{found[0]} to {found[-1]}"


def _detectable(ends: Sequence[VarianceComponents], num_runs: int, num_images: int) -> str:
    low, high = sorted(end.planned(num_runs, num_images).detectable() for end in ends)
    return f"{low:.3f} to {high:.3f}"
