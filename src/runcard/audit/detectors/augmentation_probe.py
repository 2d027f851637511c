"""Measure what an augmentation does by running it. Any callable works, whatever its library.

Whether image and mask move together is measured on a synthetic pattern, which every rotation, flip or shift changes (a
real mask may be round, or empty). The pattern passes through the image path in two greys, and again in the same draw
with the greys exchanged. Changes of brightness, noise and erased regions cancel in the difference of the two. The sign
of the difference is the pattern in the image, which is compared with the pattern in the mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from runcard import IGNORED
from runcard.errors import UserError

if TYPE_CHECKING:
    from runcard.data.loaders import Augment

NUM_DRAWS = 32  # an effect with probability 0.1 is missed by 3 % of audits
NUM_REPEATED = 4  # of these draws, to test that a seed gives the same result
MAX_FAULTS = 3  # reported: random crops have many sizes
DARK, LIGHT = 90, 200  # greys of the pattern: not symmetric about 127.5, so that inversion changes them
MIN_CONTRAST = 0.2  # as a share of the largest in a draw: pixels below it are ignored
# Measured at 64 to 256 px: shifting only the image by 3 px gives 2.2 to 3.0, depending on direction, and by 4 px at
# least 3.1. Downscale, which moves the image by 2 px, gives up to 2.25. The limit detects 4 px, and nearly always 3 px.
MAX_APART_PX = 2.3


class Pair(NamedTuple):
    """The input and output of an augmentation."""

    image: np.ndarray  # (H, W, C) uint8
    mask: np.ndarray | None  # (H, W) uint8 class indices


@dataclass(frozen=True)
class Probe:
    """The measured effects of an augmentation on a few samples in NUM_DRAWS draws."""

    faults: tuple[str, ...]  # as text: outputs with another shape, type or class than the input
    repeatable: bool  # whether the same seed gave the same draw
    lost: float | None  # share of draws that removed all foreground; None if no mask has any
    apart_px: float | None  # distance between image and mask in the worst draw; None if not measurable
    worst_seed: int | None  # of that draw

    @property
    def moves_together(self) -> bool:
        """Whether image and mask moved together in every draw, or the distance could not be measured."""
        return self.apart_px is None or self.apart_px <= MAX_APART_PX


def probe(augment: Augment, images: np.ndarray, masks: np.ndarray | None) -> Probe:
    """Run augment on a few images (N, H, W, C) and masks (N, H, W), uint8; the masks should have foreground.

    Raises UserError if a draw fails.
    """
    samples = [Pair(image, None if masks is None else masks[i]) for i, image in enumerate(images)]
    befores = [samples[seed % len(samples)] for seed in range(NUM_DRAWS)]
    afters, faults = draws(augment, befores)
    again, _ = draws(augment, befores[:NUM_REPEATED])
    repeatable = all(_equal(one, other) for one, other in zip(again, afters, strict=False))
    kept = [_has_foreground(a) for b, a in zip(befores, afters, strict=True) if _has_foreground(b)]
    apart_px: list[float] = []
    if masks is not None and repeatable and not faults:
        pattern = _pattern(*masks.shape[1:])
        shown, exchanged = (_pictured(p, images.shape[3]) for p in (pattern, 1 - pattern))
        mask = pattern * max(1, masks.max())  # lowest and highest class: interpolation would give a third
        ones, faults = draws(augment, [Pair(shown, mask)] * NUM_DRAWS)
        others, more = draws(augment, [Pair(exchanged, mask)] * NUM_DRAWS)
        faults += more
        pairs = list(zip(ones, others, strict=True)) if not faults else []
        apart_px = [_apart_px(one, other.image, pattern) for one, other in pairs]
    return Probe(
        faults=tuple(dict.fromkeys(faults))[:MAX_FAULTS],
        repeatable=repeatable,
        lost=1 - float(np.mean(kept)) if kept else None,
        apart_px=max(apart_px) if apart_px else None,
        worst_seed=int(np.argmax(apart_px)) if apart_px else None,
    )


def draws(augment: Augment, samples: Sequence[Pair]) -> tuple[list[Pair], list[str]]:
    """Augment each sample, with the seeds 0, 1, …; return the outputs and their faults as text."""
    afters: list[Pair] = []
    faults: list[str] = []
    for seed, before in enumerate(samples):
        given = Pair(before.image.copy(), None if before.mask is None else before.mask.copy())  # may be in place
        afters.append(_draw(augment, given, seed))
        faults += _faults(before, afters[-1])
    return afters, faults


def _draw(augment: Augment, sample: Pair, seed: int) -> Pair:
    try:
        return Pair(*augment(*sample, seed))
    except Exception as error:
        raise UserError(
            f"augmentation: fails on an image of {kind(sample.image)}: {type(error).__name__}: {error}. "
            "Leave out or fix the transform that says so."
        ) from error


def _faults(before: Pair, after: Pair) -> Iterator[str]:
    for name, one, other in zip(("an image", "a mask"), before, after, strict=True):
        if kind(one) != kind(other):
            yield f"{name} of {kind(one)} comes out as {kind(other)}"
            return
    if before.mask is not None and after.mask is not None and (new := _classes(after.mask) - _classes(before.mask)):
        yield f"a mask of the classes {_listed(_classes(before.mask))} comes out with {_listed(new)}"


def kind(array: np.ndarray | None) -> str:
    """Format shape and type of an image or mask."""
    return "nothing" if array is None else f"{'×'.join(map(str, array.shape))} {array.dtype}"


def _classes(mask: np.ndarray) -> set[int]:
    """Return the class indices in a mask, and 0, because pixels from outside the image are background."""
    return {0, *np.flatnonzero(np.bincount(mask.ravel())).tolist()}


def _listed(classes: set[int]) -> str:
    return ", ".join(map(str, sorted(classes)))


def _equal(one: Pair, other: Pair) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))  # type: ignore[arg-type]


def _has_foreground(sample: Pair) -> bool:
    return sample.mask is not None and bool(((sample.mask > 0) & (sample.mask != IGNORED)).any())


def _pattern(height: int, width: int) -> np.ndarray:
    """Draw asymmetric blobs (H, W) of 0 and 1, each with half of the area."""
    noise = np.random.default_rng(0).standard_normal((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), max(4, max(height, width) / 16))
    return np.asarray(smooth > np.median(smooth), np.uint8)


def _pictured(pattern: np.ndarray, channels: int) -> np.ndarray:
    """Render a pattern (H, W) as an image (H, W, C) of two greys."""
    grey = np.where(pattern > 0, LIGHT, DARK).astype(np.uint8)
    return np.repeat(grey[:, :, None], channels, axis=2)


def _apart_px(one: Pair, exchanged: np.ndarray, pattern: np.ndarray) -> float:
    """Estimate the distance between the pattern in a draw's image and in its mask, as an equivalent shift.

    exchanged is the image of the same draw with the greys exchanged. A shift by d moves an edge of length L by 2d/π,
    averaged over its directions, and the edge has 4L/π steps between pixels. So d is twice the disagreeing area, in px,
    divided by the steps in the pattern. Inversion swaps the greys, so the smaller of both areas counts as disagreeing.
    """
    assert one.mask is not None
    difference = (one.image.astype(np.float32) - exchanged.astype(np.float32)).mean(axis=2)
    difference = cv2.GaussianBlur(difference, (0, 0), 1)  # so that noise in single pixels is not an edge
    shows = np.abs(difference) > MIN_CONTRAST * np.abs(difference).max()
    disagree = int((shows & ((difference > 0) != (one.mask > 0))).sum())
    steps = sum(int((np.diff(pattern, axis=axis) != 0).sum()) for axis in (0, 1))
    return 2 * min(disagree, int(shows.sum()) - disagree) / max(1, steps)
