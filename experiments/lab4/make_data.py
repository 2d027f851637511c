"""Writes a stand-in for the course's own folder (CM2003): its tree, file names and formats, filled with phantoms.

    python experiments/lab4/make_data.py FOLDER [--images N]

The lab's configs can then be smoke-tested without the course's images. Lab1 and Lab2 hold the same images of
bone and skin, flat and in class folders. Only the femurs of Bone and the chests of Lab3/X_ray are meant to look like
something. Skin is the same femurs in the colour of skin; the nine classes of Lab1/X_ray are chests and femurs, standing
or lying, in three tones; Lab3/CT is chest films with a mask for each lung. No score on these says anything of the real.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runcard.datasets.synthetic.bone import PhantomBone
from runcard.datasets.synthetic.chest import PhantomChest
from runcard.errors import check_integer

Pixels = NDArray[np.uint8]
Phantom = PhantomBone | PhantomChest
SIZE_PX = 128
NUM_IMAGES = 20  # of each class for training; 2 / 5 as many are held out, about the course's share
FEWEST_IMAGES = 5  # so that a fifth of the nine classes still holds one of each
SKIN = (1.0, 0.75, 0.65)  # red, green and blue of a grey 1
IN_COURSE_ORDER = np.array([0, 2, 1], np.uint8)  # background, left, right; the phantom has the right lung first


def write_course(root: Path, num_images: int = NUM_IMAGES) -> None:
    """Write what is missing of the course's tree below root; what is there stays as it is.

    num_images is the number of training images of each class. A file's pixels depend on its name alone, so a larger
    course adds files to a smaller one. Raises ValueError that names a wrong argument.
    """
    check_integer("num_images", num_images, FEWEST_IMAGES)
    held_out = num_images * 2 // 5
    for seed, lab1, lab2, count in ((0, "train", "train", num_images), (1, "test", "validation", held_out)):
        atypical = PhantomBone(count, SIZE_PX, imbalance=1.0, seed=seed)
        normal = PhantomBone(count, SIZE_PX, imbalance=0.0, seed=seed + 2)  # other legs: no two files are near twins
        for bone, lesion, folder, femurs in (("AFF", "Mel", "Mel", atypical), ("NFF", "Nev", "Nevi", normal)):
            for i in range(count):
                for path in (f"Lab1/Bone/{lab1}/{bone}_{i}.jpg", f"Lab2/Bone/{lab2}/{bone}/{i}.jpg"):
                    _write(root / path, _film, femurs, i)
                for path in (f"Lab1/Skin/{lab1}/{lesion}_{i}.jpg", f"Lab2/Skin/{lab2}/{folder}/{i}.jpg"):
                    _write(root / path, _lesion, femurs, i)
        chests, femurs = PhantomChest(9 * count, SIZE_PX, seed=seed), PhantomBone(9 * count, SIZE_PX, seed=seed)
        for i in range(9 * count):
            number, kind = divmod(i, 9)
            path = f"Lab1/X_ray/{lab1}/C{kind + 1}_{number}.jpg"
            _write(root / path, _exposure, chests if kind < 3 else femurs, i, kind)
    _write_pairs(root, 2 * (num_images + held_out))


def _write_pairs(root: Path, count: int) -> None:
    """Write Lab3: masks of X_ray are 0 and 255, as JPEG; those of CT are class indices."""
    chests, sides = PhantomChest(count, SIZE_PX, seed=2), PhantomChest(count, SIZE_PX, sides=True, seed=3)
    for i in range(count):
        _write(root / f"Lab3/X_ray/Image/Im{i + 1}.jpg", _film, chests, i)
        _write(root / f"Lab3/X_ray/Mask/Im{i + 1}.jpg", _black_and_white, chests, i)
        _write(root / f"Lab3/CT/Image/Im{i + 1}.png", _film, sides, i)
        _write(root / f"Lab3/CT/Mask/Im{i + 1}.png", _indices, sides, i)


def _write(path: Path, draw: Callable[..., Pixels], *arguments: object) -> None:
    """Saves draw(*arguments) where nothing lies; hidden until it is whole, so that a killed process spoils nothing."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}")
    Image.fromarray(draw(*arguments)).save(hidden, quality=95)
    hidden.replace(path)


def _film(phantom: Phantom, i: int) -> Pixels:
    return phantom[i][0]


def _lesion(femurs: PhantomBone, i: int) -> Pixels:
    return (femurs[i][0][..., None] * SKIN).astype(np.uint8)


def _exposure(phantom: Phantom, i: int, kind: int) -> Pixels:
    """Return a film: lying in the last three of the nine kinds, and each three as they are, negative and dim."""
    film = np.rot90(phantom[i][0]) if kind >= 6 else phantom[i][0]
    return (film, 255 - film, film // 3)[kind % 3]


def _black_and_white(chests: PhantomChest, i: int) -> Pixels:
    return chests[i][1] * np.uint8(255)


def _indices(chests: PhantomChest, i: int) -> Pixels:
    return IN_COURSE_ORDER[chests[i][1]]


def main() -> None:
    """Write the course that the command line asks for."""
    parser = ArgumentParser(description="A course folder made of phantoms.")
    parser.add_argument("folder", type=Path, help="where it is written; what is there stays")
    parser.add_argument("--images", type=int, default=NUM_IMAGES, help="of each class for training (%(default)s)")
    arguments = parser.parse_args()
    if arguments.images < FEWEST_IMAGES:
        parser.error(f"--images must be an integer >= {FEWEST_IMAGES}, got {arguments.images}")
    write_course(arguments.folder, arguments.images)


if __name__ == "__main__":
    main()
