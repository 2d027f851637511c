"""What an augmentation really does, seen by trying it out: on any callable, whatever library is behind it.

That image and mask move together is measured on a pattern of our own, which no turn, flip or shift leaves as it is (a
real mask may be round, or empty). It goes through the image's path as two greys, and by the same draw once more with
the greys exchanged. What brightness, noise or painting over do to both cancels in their difference; its sign is the
pattern as the image shows it, to be laid on the pattern as the mask has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from runcard.errors import UserError

if TYPE_CHECKING:
    from runcard.data.loaders import Augment

NUM_DRAWS = 32  # of the augmentation: what it does once in ten times is missed by 3 % of audits
NUM_REPEATED = 4  # of these, made a second time
MAX_FAULTS = 3  # reported: random crops come out in many sizes
DARK, LIGHT = 90, 200  # greys of the pattern: uneven about the middle, so that inverting keeps them apart
MIN_CONTRAST = 0.2  # of the largest in a draw: a pixel with less shows nothing
# Measured at 64 to 256 px: the image alone shifted by 3 px gives 2.2 to 3.0, by its direction, and by 4 px 3.1 or more;
# Downscale, which moves the image by 2 px, up to 2.25. The limit parts 4 px from that, and 3 px nearly always.
MAX_APART_PX = 2.3


class Sample(NamedTuple):
    """What an augmentation takes and gives."""

    image: np.ndarray  # (H, W, C) uint8
    mask: np.ndarray | None  # (H, W) uint8 class indices


@dataclass(frozen=True)
class Probe:
    """What an augmentation did to a few samples in NUM_DRAWS draws."""

    faults: tuple[str, ...]  # as text: what came out with another shape, type or class than it went in with
    repeatable: bool  # whether the same seed gave the same draw
    lost: float | None  # share of the draws that left nothing of a foreground; None where no mask has any
    apart_px: float | None  # how far image and mask were moved apart in the worst draw; None: cannot be measured
    worst_seed: int | None  # of that draw

    @property
    def moves_together(self) -> bool:
        """Whether image and mask were moved alike in every draw, as far as it can be measured."""
        return self.apart_px is None or self.apart_px <= MAX_APART_PX


def probe(augment: Augment, images: np.ndarray, masks: np.ndarray | None) -> Probe:
    """Tries augment on a handful of images (N, H, W, C) and masks (N, H, W), uint8; the masks should have foreground.

    Raises UserError where a draw fails.
    """
    samples = [Sample(image, None if masks is None else masks[i]) for i, image in enumerate(images)]
    befores = [samples[seed % len(samples)] for seed in range(NUM_DRAWS)]
    afters, faults = draws(augment, befores)
    again, _ = draws(augment, befores[:NUM_REPEATED])
    repeatable = all(_equal(one, other) for one, other in zip(again, afters, strict=False))
    kept = [_has_foreground(a) for b, a in zip(befores, afters, strict=True) if _has_foreground(b)]
    apart_px: list[float] = []
    if masks is not None and repeatable and not faults:
        pattern = _pattern(*masks.shape[1:])
        shown, exchanged = (_pictured(p, images.shape[3]) for p in (pattern, 1 - pattern))
        mask = pattern * max(1, masks.max())  # the outermost classes: resampling between them would give a third
        ones, faults = draws(augment, [Sample(shown, mask)] * NUM_DRAWS)
        others, more = draws(augment, [Sample(exchanged, mask)] * NUM_DRAWS)
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


def draws(augment: Augment, samples: Sequence[Sample]) -> tuple[list[Sample], list[str]]:
    """Returns what augment makes of each sample, by the seeds 0, 1, …, and what is wrong with it, as text."""
    afters: list[Sample] = []
    faults: list[str] = []
    for seed, before in enumerate(samples):
        given = Sample(before.image.copy(), None if before.mask is None else before.mask.copy())  # may work in place
        afters.append(_draw(augment, given, seed))
        faults += _faults(before, afters[-1])
    return afters, faults


def _draw(augment: Augment, sample: Sample, seed: int) -> Sample:
    try:
        return Sample(*augment(*sample, seed))
    except Exception as error:
        raise UserError(
            f"augmentation: fails on an image of {kind(sample.image)}: {type(error).__name__}: {error}. "
            "Leave out or fix the transform that says so."
        ) from error


def _faults(before: Sample, after: Sample) -> Iterator[str]:
    for name, one, other in zip(("an image", "a mask"), before, after, strict=True):
        if kind(one) != kind(other):
            yield f"{name} of {kind(one)} comes out as {kind(other)}"
            return
    if before.mask is not None and after.mask is not None and (new := _classes(after.mask) - _classes(before.mask)):
        yield f"a mask of the classes {_listed(_classes(before.mask))} comes out with {_listed(new)}"


def kind(array: np.ndarray | None) -> str:
    """Returns shape and type of an image or mask, as text."""
    return "nothing" if array is None else f"{'×'.join(map(str, array.shape))} {array.dtype}"


def _classes(mask: np.ndarray) -> set[int]:
    """Returns the class indices in a mask, and 0: what moves in from outside is background."""
    return {0, *np.flatnonzero(np.bincount(mask.ravel())).tolist()}


def _listed(classes: set[int]) -> str:
    return ", ".join(map(str, sorted(classes)))


def _equal(one: Sample, other: Sample) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))  # type: ignore[arg-type]


def _has_foreground(sample: Sample) -> bool:
    return sample.mask is not None and bool((np.asarray(sample.mask) > 0).any())


def _pattern(height: int, width: int) -> np.ndarray:
    """Returns blobs (H, W) of 0 and 1 without any symmetry, half of the area each."""
    noise = np.random.default_rng(0).standard_normal((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), max(4, max(height, width) / 16))
    return np.asarray(smooth > np.median(smooth), np.uint8)


def _pictured(pattern: np.ndarray, channels: int) -> np.ndarray:
    """Returns a pattern (H, W) as an image (H, W, C) of two greys."""
    grey = np.where(pattern > 0, LIGHT, DARK).astype(np.uint8)
    return np.repeat(grey[:, :, None], channels, axis=2)


def _apart_px(one: Sample, exchanged: np.ndarray, pattern: np.ndarray) -> float:
    """Returns how far apart a draw's image and mask show the pattern, as the shift that would do as much.

    exchanged is the image of the same draw with the greys exchanged. A shift by d moves an edge of length L by 2d/π on
    the mean over its directions, and counted in steps from pixel to pixel that edge is 4L/π long: so d is twice the
    area that disagrees, in px, over the steps in the pattern. Which of the greys is which, inverting may have changed.
    """
    assert one.mask is not None
    difference = (one.image.astype(np.float32) - exchanged.astype(np.float32)).mean(axis=2)
    difference = cv2.GaussianBlur(difference, (0, 0), 1)  # single pixels of noise are no edge
    shows = np.abs(difference) > MIN_CONTRAST * np.abs(difference).max()
    disagree = int((shows & ((difference > 0) != (one.mask > 0))).sum())
    steps = sum(int((np.diff(pattern, axis=axis) != 0).sum()) for axis in (0, 1))
    return 2 * min(disagree, int(shows.sum()) - disagree) / max(1, steps)
