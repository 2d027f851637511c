"""Measures the audit's detectors of misaligned masks, inverted images and outliers.

    .venv/bin/python benchmarks/detectors.py [seeds]

Reads ../shared/data beside the checkout, and draws phantoms. Masks are spoilt at full resolution, images as the audit
sees them (64 px): what is done to these, but for a turn, commutes with averaging. Of Skin, reversed greys are measured
as if its images were grey; what the audit says of its colour images is in the last table.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from corruptions import through_aperture
from near_duplicates import thumb
from rich.console import Console

from runcard.audit.detectors.mask_alignment import Fit, mask_fit
from runcard.audit.detectors.outliers import inverted, inverted_among_grey, outliers
from runcard.audit.profiles import THUMB_PX, is_grey
from runcard.console import print_table
from runcard.data.image_io import list_images, read_image, read_mask
from runcard.datasets.synthetic.bone import PhantomBone
from runcard.datasets.synthetic.chest import PhantomChest

DATA = Path(__file__).parents[2] / "shared" / "data"
NUM_PHANTOMS = 200
FEW = 25  # images, of small data sets
APERTURE_SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
DRAW_SIZE = 120  # images, of which so many are in an aperture
Plant = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]  # of what, which: spoilt copies of these


@dataclass(frozen=True)
class Data:
    """A data set as the audit sees it, its masks at full size."""

    thumbs: np.ndarray  # (N, 64, 64) uint8
    masks: list[np.ndarray]  # (H, W) uint8 each; none where images are labelled

    def some(self, num: int, seed: int) -> Data:
        """Return num of its images, drawn without replacement."""
        which = np.random.default_rng(seed).permutation(len(self.thumbs))[:num]
        return Data(self.thumbs[which], [self.masks[i] for i in which])


def main() -> None:
    """Print five tables."""
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    data = {name: load() for name, load in loaders()}
    paired = {name: of for name, of in data.items() if of.masks}
    console = Console(width=200)
    head = ["data", "planted", "found", "of", "false alarms", "of clean images"]
    console.print("\nSingle masks")
    print_table(console, head, [row for name, of in paired.items() for row in single_masks(name, of, seeds)])
    console.print("\nAll masks: what is said, in how many draws")
    print_table(
        console, ["data", "images", "masks", "said"], [r for n, of in paired.items() for r in whole(n, of, seeds)]
    )
    console.print("\nInverted images")
    print_table(console, head, [row for name, of in data.items() for row in inverted_images(name, of, seeds)])
    console.print("\nOutliers")
    print_table(console, head, [row for name in data for row in unlike_the_rest(name, data, seeds)])
    console.print("\nInverted images among dermoscopy images, none of which is")
    head = ["in an aperture", "images", "false alarms", "of the same images in grey"]
    print_table(console, head, list(apertures(seeds)))


def loaders() -> Iterator[tuple[str, Callable[[], Data]]]:
    """Yield the name of each data set and what loads it."""
    for name in ("X_ray", "lung_ct"):
        yield name, partial(folder_of_pairs, DATA / name)
    for name in ("Skin", "Bone"):
        yield name, partial(folder_of_classes, DATA / name)
    for difficulty in (0.0, 0.5, 1.0):
        yield f"phantom_chest {difficulty:g}", partial(phantom, PhantomChest(NUM_PHANTOMS, 128, difficulty))
    for difficulty in (0.0, 0.5, 1.0):
        yield f"phantom_bone {difficulty:g}", partial(phantom, PhantomBone(NUM_PHANTOMS, 128, difficulty))


def folder_of_pairs(folder: Path) -> Data:
    """Return the images and masks of a folder with Image/ and Mask/."""
    paths = list_images(folder / "Image")
    masks = [read_mask(folder / "Mask" / path.name, num_classes=2) for path in paths]
    return Data(np.stack([thumb(read_image(path)) for path in paths]), masks)


def folder_of_classes(folder: Path) -> Data:
    """Return the images of a folder of parts and classes."""
    paths = [path for part in sorted(folder.glob("*/*")) for path in list_images(part)]
    return Data(np.stack([thumb(read_image(path)) for path in paths]), [])


def phantom(dataset: PhantomChest | PhantomBone) -> Data:
    """Return the images of a phantom, and its masks where it has them."""
    samples = [dataset[i] for i in range(len(dataset))]
    masks = [target for _, target, _ in samples if isinstance(target, np.ndarray)]
    return Data(np.stack([thumb(image) for image, _, _ in samples]), masks)


def small_masks(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return (N, 64, 64) uint8."""
    return np.stack([cv2.resize(mask, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_NEAREST) for mask in masks])


def single_masks(name: str, data: Data, seeds: Sequence[int]) -> Iterator[list[str]]:
    """Yield rows on masks of a few images that were swapped, mirrored, turned or moved."""
    shown = np.flatnonzero([mask.any() for mask in data.masks])
    tenth, twentieth = round(len(shown) / 10), round(len(shown) / 20)
    plants: list[tuple[str, int, Callable[[list[np.ndarray]], list[np.ndarray]]]] = [
        ("nothing", 0, list),
        ("2 masks swapped", 2, swapped),
        ("10 % swapped in a circle", tenth, swapped),
        ("1 mirrored", 1, mirrored),
        ("10 % mirrored", tenth, mirrored),
        ("1 rotated by 90°", 1, turned),
        ("10 % rotated by 90°", tenth, turned),
        *((f"5 % moved by {share} %", twentieth, partial(moved, share=share / 100)) for share in (3, 8, 16)),
    ]
    for planted, num, spoil in plants:
        counts = []
        for seed in seeds:
            masks, which = list(data.masks), np.random.default_rng(seed).permutation(shown)[:num]
            for i, mask in zip(which, spoil([masks[i] for i in which]), strict=True):
                masks[i] = mask
            fit = mask_fit(data.thumbs, small_masks(masks))
            assert fit is not None
            counts.append(counted([suspect.index for suspect in fit.suspects], which, len(masks)))
        yield [name, planted, *totals(counts)]


def swapped(masks: list[np.ndarray]) -> list[np.ndarray]:
    """Return each mask at the next one's place."""
    return masks[-1:] + masks[:-1]


def mirrored(masks: list[np.ndarray]) -> list[np.ndarray]:
    """Return the masks mirrored left to right."""
    return [np.ascontiguousarray(mask[:, ::-1]) for mask in masks]


def turned(masks: list[np.ndarray]) -> list[np.ndarray]:
    """Return the masks rotated by 90°."""
    return [np.ascontiguousarray(np.rot90(mask)) for mask in masks]


def moved(masks: list[np.ndarray], share: float) -> list[np.ndarray]:
    """Return the masks moved to the right by a share of their width, with background where nothing was."""
    steps = [round(share * mask.shape[1]) for mask in masks]
    return [np.pad(mask, ((0, 0), (step, 0)))[:, : mask.shape[1]] for mask, step in zip(masks, steps, strict=True)]


def whole(name: str, data: Data, seeds: Sequence[int]) -> Iterator[list[str]]:
    """Yield rows on data whose masks are right, all spoilt alike, or drawn without looking at the image."""
    for num in (FEW, len(data.thumbs)):
        for planted, spoil in WHOLE.items():
            said: Counter[str] = Counter()
            for seed in seeds:
                few = data.some(num, seed)
                masks = spoil(few.masks, np.random.default_rng(seed))
                said[verdict(mask_fit(few.thumbs, small_masks(masks)))] += 1
            yield [name, str(num), planted, ", ".join(f"{words} ({count})" for words, count in said.items())]


def shuffled(masks: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Return the masks in another order."""
    return [masks[i] for i in rng.permutation(len(masks))]


def drawn_anywhere(masks: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Return as many ellipses of any size around the middle."""
    drawn = np.zeros((len(masks), THUMB_PX, THUMB_PX), np.uint8)
    for mask in drawn:
        middle, radii = rng.normal(32, 6, 2).astype(int).tolist(), rng.uniform(8, 28, 2).astype(int).tolist()
        cv2.ellipse(mask, middle, radii, 0, 0, 360, 1, -1)
    return list(drawn)


WHOLE: dict[str, Callable[[list[np.ndarray], np.random.Generator], list[np.ndarray]]] = {
    "right": lambda masks, _: masks,
    "shuffled": shuffled,
    "mirrored": lambda masks, _: mirrored(masks),
    "rotated by 90°": lambda masks, _: turned(masks),
    "drawn anywhere": drawn_anywhere,
}


def verdict(fit: Fit | None) -> str:
    """Return what is said of all masks together."""
    if fit is None:
        return "too few to say"
    if fit.turned or fit.shuffled:
        return f"error: {fit.turned or 'of other images'}"
    return "fit" if fit.fits else "warning: no fit seen"


def inverted_images(name: str, data: Data, seeds: Sequence[int]) -> Iterator[list[str]]:
    """Yield rows on reversed greys, at full contrast and at a half."""
    num = len(data.thumbs)
    for planted, few in (
        ("nothing", 0),
        ("1 inverted", 1),
        ("5 % inverted", num // 20),
        ("30 % inverted", num * 3 // 10),
    ):
        for contrast, plant in INVERTED.items():
            if few or contrast == "full":
                found = [counted(*spoilt(inverted, data.thumbs, few, plant, seed)) for seed in seeds]
                yield [name, f"{planted}, {contrast} contrast" if few else planted, *totals(found)]


INVERTED: dict[str, Plant] = {
    "full": lambda thumbs, which, _: 255 - thumbs[which],
    "half": lambda thumbs, which, _: 190 - thumbs[which] // 2,
}


def unlike_the_rest(name: str, data: dict[str, Data], seeds: Sequence[int]) -> Iterator[list[str]]:
    """Yield rows on images of other data, turned ones, noise and nearly black ones."""
    thumbs = data[name].thumbs
    others = np.concatenate([of.thumbs for other, of in data.items() if other.split()[0] != name.split()[0]])
    plants: dict[str, Plant] = {
        "of other data": lambda _, which, rng: others[rng.choice(len(others), len(which), replace=False)],
        "rotated by 90°": lambda thumbs, which, _: np.rot90(thumbs[which], axes=(1, 2)),
        "noise": lambda thumbs, which, rng: rng.normal(128, 40, thumbs[which].shape).clip(0, 255).astype(np.uint8),
        "3/4 black": lambda thumbs, which, _: np.pad(thumbs[which, :, : THUMB_PX // 4], ((0, 0), (0, 0), (0, 48))),
    }
    yield [name, "nothing", *totals([counted(*spoilt(outliers, thumbs, 0, plants["noise"], 0))])]
    for planted, plant in plants.items():
        for words, few in (("1", 1), ("2 %", len(thumbs) // 50), ("5 %", len(thumbs) // 20)):
            found = [counted(*spoilt(outliers, thumbs, few, plant, seed)) for seed in seeds]
            yield [name, f"{words} {planted}", *totals(found)]


def apertures(seeds: Sequence[int]) -> Iterator[list[str]]:
    """Yield a row for each share of images in a round aperture: how many are called inverted, in colour and in grey."""
    paths = [path for part in sorted((DATA / "Skin").glob("*/*")) for path in list_images(part)]
    rng = np.random.default_rng(0)
    images = [read_image(path) for path in paths]
    covered = [through_aperture(image, rng) for image in images]
    thumbs, grey = (
        np.array([[of(image) for image in each] for each in (images, covered)]) for of in (thumb, is_shown_grey)
    )
    for share in APERTURE_SHARES:
        in_colour, in_grey = [], []
        for seed in seeds:
            rng = np.random.default_rng(seed)
            drawn = rng.permutation(len(paths))[:DRAW_SIZE]
            has_aperture = (rng.random(DRAW_SIZE) < share).astype(int)
            shown = thumbs[has_aperture, drawn]
            in_colour.append(len(inverted_among_grey(shown, grey[has_aperture, drawn])))
            in_grey.append(len(inverted(shown)))
        cells = (", ".join(map(str, counts)) for counts in (in_colour, in_grey))
        yield [f"{share:.0%}", str(DRAW_SIZE), *cells]


def is_shown_grey(image: np.ndarray) -> bool:
    """Whether an image (H, W) or (H, W, 3) uint8 has no colour."""
    return is_grey(image, cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image)


def spoilt(
    detector: Callable[[np.ndarray], list[int]], thumbs: np.ndarray, num: int, plant: Plant, seed: int
) -> tuple[list[int], np.ndarray, int]:
    """Return what detector finds with num images spoilt, which these are, and how many images there are."""
    rng = np.random.default_rng(seed)
    which, copy = rng.permutation(len(thumbs))[:num], thumbs.copy()
    copy[which] = plant(thumbs, which, rng)
    return detector(copy), which, len(thumbs)


def counted(found: Sequence[int], planted: np.ndarray, num: int) -> tuple[int, int, int, int]:
    """Return how many were found, of how many planted, and false alarms, of how many clean images."""
    right = len(set(found) & set(planted.tolist()))
    return right, len(planted), len(found) - right, num - len(planted)


def totals(counts: Sequence[tuple[int, int, int, int]]) -> list[str]:
    """Return the sums over draws as cells."""
    return [str(sum(column)) for column in zip(*counts, strict=True)]


if __name__ == "__main__":
    main()
