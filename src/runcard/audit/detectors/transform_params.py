"""The knobs of an augmentation, each tried alone: which of them change nothing, and what the others do at their ends.

A knob is dead where trying shows it: with all others neutral its value changes nothing, and a wider one does. So what
only matters beside another knob (a border mode, a fill) is never called dead, and no list of names is needed.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from runcard.audit.detectors.augmentation_probe import Sample, draws, kind
from runcard.config.instantiate import build

NUM_TRIALS = 8  # draws by which a knob is judged
ROUNDING = 1  # greys by which a knob set to no change may still change a pixel: by way of floats, or of other colours
WIDTHS = (0.1, 1, 10)  # by which a knob is tried wider

Node = Mapping[str, Any]  # a part of the card, plain


class Draw(NamedTuple):
    """What one transform made of a sample, and what was set for it: "rotate −10"."""

    label: str
    sample: Sample


def dead_knobs(node: Node, sample: Sample) -> list[str]:
    """Returns the keys under a node of transforms, as in conf/augmentation/, that change nothing of a sample.

    augmentation.transforms.flip.p is a p of 0, augmentation.transforms.blur a transform that never does anything, and
    augmentation.transforms.affine.rotate a knob set to no change. A node that holds no transforms by name has none.
    """
    keys = []
    for i, name in enumerate(_names(node)):
        transform = _Transform(node, name, _reaching(node, _names(node)[:i], sample))
        if transform.given.get("p") == 0:
            keys.append(f"{name}.p")
        elif transform.change(transform.given) == 0:
            keys.append(name)
        else:
            keys += [f"{name}.{knob}" for knob in transform.given if transform.is_dead(knob)]
    return [f"augmentation.transforms.{key}" for key in keys]


def extremes(node: Node, sample: Sample) -> dict[str, list[Draw]]:
    """Returns what each transform of a node, alone, makes of a sample at the two ends of each of its ranges.

    The other ranges are neutral meanwhile, where they can be. A transform without ranges is drawn once.
    """
    return {name: _Transform(node, name, [sample] * NUM_TRIALS).extremes() for name in _names(node)}


@dataclass(frozen=True)
class _Transform:
    """One transform of an augmentation's node, to be tried with other settings."""

    node: Node
    name: str
    samples: list[Sample]  # on which it is tried, one for each draw

    @property
    def given(self) -> dict[str, Any]:
        """Returns the transform as the card has it."""
        return dict(self.node["transforms"][self.name])

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Returns what the library takes for the knobs that are not given."""
        module, _, name = self.given["_target_"].rpartition(".")
        parameters = inspect.signature(getattr(import_module(module), name)).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}

    @property
    def settings(self) -> dict[str, Any]:
        """Returns all knobs, the given ones first."""
        return self.given | {knob: value for knob, value in self.defaults.items() if knob not in self.given}

    @cached_property
    def neutral(self) -> dict[str, Any]:
        """Returns the settings that change the sample least: each knob at its default, all 0, or all 1."""
        ranges = {knob for knob, value in self.given.items() if isinstance(value, (list, dict))}
        best = self.given | {knob: value for knob, value in self.defaults.items() if knob in ranges}
        least = self.change(best)
        knobs = [knob for knob, value in self.settings.items() if knob != "p" and _numbers(value)]
        for knob, number in product(knobs, (0, 1)):
            if least == 0:
                break
            trial = best | {knob: _filled(self.settings[knob], number)}
            if (change := self.change(trial)) < least:
                best, least = trial, change
        return best

    def drawn(self, settings: Mapping[str, Any]) -> list[Sample]:
        """Returns what this transform, always made, gives of the samples; a library raises what it likes."""
        always = {"p": 1.0} if "p" in self.defaults else {}
        alone = {**self.node, "transforms": {self.name: {**settings, **always}}}
        return draws(build("augmentation", alone), self.samples)[0]

    def change(self, settings: Mapping[str, Any]) -> float:
        """Returns by how much these settings change the samples, in greys; infinity where they are refused."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about values that nobody has given
            try:
                return float(np.mean(list(map(_distance, self.samples, self.drawn(settings)))))
            except Exception:  # each library refuses in its own way
                return math.inf

    def is_dead(self, knob: str) -> bool:
        """Whether the value of a given knob changes nothing while a wider one would."""
        value = self.given[knob]
        if knob == "p" or len(set(_numbers(value))) != 1 or self.change(self.neutral | {knob: value}) > 0:
            return False
        wider = [_wider(value, below, above) for above in WIDTHS for below in (above, 0)]
        return any(0 < self.change(self.neutral | {knob: trial}) < math.inf for trial in wider)

    def rest(self, knob: str, value: Any) -> int:
        """Returns the number, 0 or 1, that means no change in a knob's ranges by name; 0 where it has none."""
        changes = [self.change(self.neutral | {knob: _filled(value, n)}) for n in (0, 1) if isinstance(value, Mapping)]
        return int(np.argmin(changes)) if changes else 0

    def extremes(self) -> list[Draw]:
        """Returns a draw for both ends of every range."""
        ends = []
        for knob, value in self.settings.items():
            for where, pinned in _ends(value, self.rest(knob, value)):
                settings = self.neutral | {knob: pinned}
                if self.change(settings) < math.inf:
                    ends.append(Draw(f"{knob}{where}", self.drawn(settings)[0]))
        if ends:
            return ends
        made = self.drawn(self.given)
        changed = [after for before, after in zip(self.samples, made, strict=True) if _distance(before, after)]
        return [Draw(self.given["_target_"].rpartition(".")[2], (changed or made)[0])]


def _names(node: Node) -> list[str]:
    transforms = node.get("transforms")
    return list(transforms) if isinstance(transforms, Mapping) else []


def _reaching(node: Node, names: Sequence[str], sample: Sample) -> list[Sample]:
    """Returns draws of what the named transforms hand on: to resize means something only after a crop."""
    samples = [sample] * NUM_TRIALS
    if not names:
        return samples
    return draws(build("augmentation", {**node, "transforms": {n: node["transforms"][n] for n in names}}), samples)[0]


def _distance(before: Sample, after: Sample) -> float:
    """Returns the mean difference of two images, in greys, and of their masks; infinity where their kinds differ."""
    if kind(before.image) != kind(after.image) or kind(before.mask) != kind(after.mask):
        return math.inf
    difference = np.abs(before.image.astype(np.int16) - after.image)
    distance = float((difference * (difference > ROUNDING)).mean())
    return distance if before.mask is None else distance + float((before.mask != after.mask).mean())


def _numbers(value: Any) -> list[float]:
    """Returns the numbers that a knob's value is made of: one, a list of some, or these by name; else none."""
    values = list(value.values()) if isinstance(value, Mapping) else value
    if isinstance(values, (list, tuple)):
        parts = [_numbers(part) for part in values]
        return [number for part in parts for number in part] if all(parts) else []
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def _filled(value: Any, number: float) -> Any:
    """Returns a knob's value with this number in place of every one of its own."""
    if isinstance(value, Mapping):
        return {key: _filled(part, number) for key, part in value.items()}
    return [_filled(part, number) for part in value] if isinstance(value, (list, tuple)) else number


def _wider(value: Any, below: float, above: float) -> Any:
    """Returns a knob's value with its ranges extended, and its single numbers raised."""
    if isinstance(value, Mapping):
        return {key: _wider(part, below, above) for key, part in value.items()}
    return [value[0] - below, value[-1] + above] if isinstance(value, (list, tuple)) else value + above


def _ends(value: Any, rest: float) -> Iterator[tuple[str, Any]]:
    """Yields both ends of each range in a knob's value: " x −0.1", and the value pinned there, all else of it at rest.

    A range is two numbers, the smaller first.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            for where, pinned in _ends(part, rest):
                yield f" {key}{where}", {**_filled(value, rest), key: pinned}
    elif isinstance(value, (list, tuple)) and len(value) == len(_numbers(value)) == 2 and value[0] < value[1]:
        for end in value:
            yield f" {end:g}".replace("-", "−"), [end, end]
