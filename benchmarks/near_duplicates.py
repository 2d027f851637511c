"""Measures the search for near duplicates: what it misses, what it tells wrongly, how long it takes.

    .venv/bin/python benchmarks/near_duplicates.py ../shared/data [X_ray,Skin,…|apertures|scaling]

Copies are made of the images as they lie on disk, and put into their data set, 60 at a time; of lung_ct only every
sixth slice is taken, for neighbours are near copies already. Skin_apertures is Skin with every image in a round
aperture, Skin_few_apertures with every eighth. Of a data set without copies each pair is listed, to be
judged by eye. Seconds are of one core, on chest phantoms: these look more alike than most data do.
"""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import NamedTuple

import cv2
import numpy as np
from corruptions import Picture, brighten, crop, flip, jpeg, quarter_turns, rotate, through_aperture
from natsort import natsorted

from runcard.audit.detectors.near_duplicates import find_near_duplicates
from runcard.audit.profiles import THUMB_PX
from runcard.data.image_io import is_image, read_image
from runcard.data.preprocessing import resize_image
from runcard.datasets.synthetic.bone import PhantomBone
from runcard.datasets.synthetic.chest import PhantomChest

FOLDERS = {"X_ray": "X_ray/Image", "Skin": "Skin", "Bone": "Bone", "lung_ct": "lung_ct/Image"}
APERTURES = {"Skin_apertures": 1, "Skin_few_apertures": 8}  # one in so many images is in an aperture
PHANTOMS: dict[str, Callable[[int, int], PhantomChest | PhantomBone]] = {
    "phantom_chest": PhantomChest,
    "phantom_bone": PhantomBone,
}
NUM_COPIES = 60
NUM_PHANTOMS, PHANTOM_PX = 200, 256
APERTURE_SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
NUM_DRAWS, DRAW_SIZE = 5, 120
SIZES = (1250, 2500, 5000, 10_000, 20_000)
Rng = np.random.Generator


class Set(NamedTuple):
    """A data set without copies of our making."""

    name: str
    ids: list[str]
    images: list[Picture]


def weak(image: Picture, _: Rng) -> Picture:
    """Return the image cropped by 1 % and saved at quality 80."""
    return jpeg(crop(image, 0.01), 80)


def medium(image: Picture, rng: Rng) -> Picture:
    """Return the image mirrored, cropped by 3 %, rotated by 5°, a little darker, at quality 60."""
    return jpeg(brighten(rotate(crop(flip(image), 0.03), 5 * side(rng)), 0.9), 60)


def strong(image: Picture, rng: Rng) -> Picture:
    """Return the image mirrored, at any quarter turn, cropped by 6 %, rotated by 10°, darker, at quality 30."""
    turned = quarter_turns(flip(image), int(rng.integers(4)))
    return jpeg(brighten(rotate(crop(turned, 0.06), 10 * side(rng)), 0.8), 30)


def side(rng: Rng) -> int:
    """Return -1 or 1."""
    return int(rng.choice([-1, 1]))


CORRUPTIONS: dict[str, Callable[[Picture, Rng], Picture]] = {
    "mirrored": lambda image, _: flip(image),
    "rotated by 90, 180 or 270°": lambda image, rng: quarter_turns(image, int(rng.integers(1, 4))),
    "JPEG 80": lambda image, _: jpeg(image, 80),
    "JPEG 60": lambda image, _: jpeg(image, 60),
    "JPEG 30": lambda image, _: jpeg(image, 30),
    "cropped by 1 %": lambda image, _: crop(image, 0.01),
    "cropped by 3 %": lambda image, _: crop(image, 0.03),
    "cropped by 6 %": lambda image, _: crop(image, 0.06),
    "rotated by 2°": lambda image, rng: rotate(image, 2 * side(rng)),
    "rotated by 5°": lambda image, rng: rotate(image, 5 * side(rng)),
    "rotated by 10°": lambda image, rng: rotate(image, 10 * side(rng)),
    "0.8 times as bright": lambda image, _: brighten(image, 0.8),
    "1.2 times as bright": lambda image, _: brighten(image, 1.2),
    "weak": weak,
    "medium": medium,
    "strong": strong,
}


def main() -> None:
    """Print the tables."""
    cv2.setNumThreads(1)
    data = Path(sys.argv[1])
    wanted = sys.argv[2].split(",") if len(sys.argv) > 2 else [*FOLDERS, *PHANTOMS, *APERTURES, "apertures", "scaling"]
    if sets := [read_set(name, data) for name in (*FOLDERS, *PHANTOMS, *APERTURES) if name in wanted]:
        reported(sets)
    if "apertures" in wanted:
        apertures(data)
    if "scaling" in wanted:
        scaling()


def read_set(name: str, data: Path) -> Set:
    """Return the data set of this name, from a folder in data or drawn."""
    if name in PHANTOMS:
        phantoms = PHANTOMS[name](NUM_PHANTOMS, PHANTOM_PX)
        return Set(name, phantoms.ids, [phantoms[i][0] for i in range(NUM_PHANTOMS)])
    if name in APERTURES:
        skin, rng = read_set("Skin", data), np.random.default_rng(0)
        images = [image if i % APERTURES[name] else through_aperture(image, rng) for i, image in enumerate(skin.images)]
        return Set(name, skin.ids, images)
    paths = natsorted(path for path in (data / FOLDERS[name]).rglob("*") if is_image(path.name))
    paths = paths[::6] if name == "lung_ct" else paths
    return Set(name, [str(path.relative_to(data)) for path in paths], [read_image(path) for path in paths])


def reported(sets: list[Set]) -> None:
    """Print what is reported of the data sets as they are, and the share of copies that is missed."""
    rows = [[name] for name in CORRUPTIONS]
    metadata, pairs = [], []
    for each in sets:
        thumbs = np.stack([thumb(image) for image in each.images])
        clean = find_near_duplicates(thumbs)
        numbers = [f"{value:.3f}" for value in (clean.different, clean.threshold, clean.missed)]
        metadata.append([each.name, str(len(thumbs)), *numbers, str(len(clean.pairs))])
        pairs += [[each.ids[p.first], each.ids[p.second], f"{p.score:.3f}", p.how] for p in clean.pairs]
        known = {(p.first, p.second) for p in clean.pairs}
        for row, corrupt in zip(rows, CORRUPTIONS.values(), strict=True):
            missed, others = missed_among(each, thumbs, corrupt, known)
            row.append(f"{missed:.1%}" + (f", {others} wrong" if others else ""))
    print_markdown(["data", "images", "different images", "threshold", "own copies missed", "pairs"], metadata)
    print_markdown(["missed of copies", *(each.name for each in sets)], rows)
    print_markdown(["first", "second", "score", "how"], pairs)


def missed_among(
    each: Set, thumbs: np.ndarray, corrupt: Callable[[Picture, Rng], Picture], known: set[tuple[int, int]]
) -> tuple[float, int]:
    """Return the share of copies that are not reported, and the number of pairs that are reported and are none."""
    rng, number = np.random.default_rng(0), len(thumbs)
    origins = rng.permutation(number)[:NUM_COPIES].tolist()
    copies = np.stack([thumb(corrupt(each.images[i], rng)) for i in origins])
    pairs = {(p.first, p.second) for p in find_near_duplicates(np.concatenate([thumbs, copies])).pairs}
    missed = sum((origin, number + k) not in pairs for k, origin in enumerate(origins)) / len(origins)
    sources = [*range(number), *origins]
    between = {(min(a, b), max(a, b)) for a, b in ((sources[i], sources[j]) for i, j in pairs)}
    return missed, sum(a != b and (a, b) not in known for a, b in between)


def thumb(image: Picture) -> Picture:
    """Return the image small, grey and square, as the audit sees it."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    return np.asarray(resize_image(grey, THUMB_PX)[..., 0], np.uint8)


def apertures(data: Path) -> None:
    """Print what is reported for draws of 120 dermoscopy images of which some are in an aperture.

    A pair is wrong where the images without apertures give none: each of these was looked at.
    """
    plain, covered = (np.stack([thumb(i) for i in read_set(name, data).images]) for name in ("Skin", "Skin_apertures"))
    known = {(p.first, p.second) for p in find_near_duplicates(plain).pairs}
    rows = []
    for share in APERTURE_SHARES:
        wrong, missed = [], []
        for seed in range(NUM_DRAWS):
            rng = np.random.default_rng(seed)
            drawn = np.sort(rng.permutation(len(plain))[:DRAW_SIZE])
            has_aperture = rng.random(DRAW_SIZE) < share
            found = find_near_duplicates(np.where(has_aperture[:, None, None], covered[drawn], plain[drawn]))
            wrong.append(sum((drawn[p.first], drawn[p.second]) not in known for p in found.pairs))
            missed.append(found.missed)
        rows.append([f"{share:.0%}", ", ".join(map(str, wrong)), ", ".join(f"{value:.1%}" for value in missed)])
    print_markdown(["in an aperture", "wrong pairs in each draw", "own copies missed in each draw"], rows)


def scaling() -> None:
    """Print seconds and memory for growing numbers of images."""
    phantoms = PhantomChest(max(SIZES), THUMB_PX)
    thumbs = np.stack([phantoms[i][0] for i in range(len(phantoms))])
    before, rows, seconds = peak_mib(), [], []
    for number in SIZES:
        started = process_time()
        found = find_near_duplicates(thumbs[:number])
        seconds.append(process_time() - started)
        per_step = 1e6 * seconds[-1] / (number * math.log2(number))
        numbers = [f"{seconds[-1]:.1f}", f"{per_step:.0f}", f"{peak_mib() - before:.0f}", f"{found.missed:.3f}"]
        rows.append([str(number), *numbers, str(len(found.pairs))])
    head = ["images", "seconds", "µs / (n log₂ n)", "MiB more than the images", "own copies missed", "pairs"]
    print_markdown(head, rows)
    print(f"seconds grow as images to the power {np.polyfit(np.log(SIZES), np.log(seconds), 1)[0]:.2f}")


def print_markdown(head: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")
    print()


def peak_mib() -> float:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
