"""Draw a picture for each check of the audit of which one says something: synthetic images with the fault in them.

python docs/build/check_pictures.py      # writes docs/images/checks/
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFile, ImageFont

from runcard.datasets.synthetic.bone import PhantomBone
from runcard.datasets.synthetic.chest import PhantomChest

FOLDER = Path(__file__).resolve().parents[1] / "images" / "checks"
SIDE = 160  # px of a tile
CAPTION = 20  # px below it
GAP = 8
Grey = NDArray[np.uint8]
Tile = tuple[Grey, str]

chest = PhantomChest(6, SIDE, difficulty=0.4)
bone = PhantomBone(6, SIDE, difficulty=0.4)
films: list[Grey] = [chest[i][0] for i in range(6)]
masks: list[Grey] = [(chest[i][1] > 0).astype(np.uint8) for i in range(6)]
femurs: list[Grey] = [bone[i][0] for i in range(6)]


def white(mask: Grey) -> Grey:
    """Show a mask as a file of 0 and 255."""
    return 255 * mask


def outlined(film: Grey, mask: Grey) -> Grey:
    """Draw the outline of a mask on its image."""
    colour = cv2.cvtColor(film, cv2.COLOR_GRAY2RGB)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(colour, contours, -1, (255, 190, 0), 2), np.uint8)


def moved(image: Grey, degrees: float = 0, shift: float = 0) -> Grey:
    """Rotate an image about its centre, and shift it to the right by a share of its side."""
    matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), degrees, 1)
    matrix[0, 2] += shift * SIDE
    return np.asarray(cv2.warpAffine(image, matrix, (SIDE, SIDE)), np.uint8)


def truncated(film: Grey) -> Grey:
    """Decode the first 60 % of a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(film).save(file, "JPEG", quality=90)
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    return np.asarray(Image.open(io.BytesIO(file.getvalue()[: int(0.6 * file.tell())])).convert("L"))


def with_name(film: Grey) -> Grey:
    """Write a made-up name into an image."""
    image = Image.fromarray(film)
    ImageDraw.Draw(image).text((8, SIDE - 18), "DOE, JANE 1970-01-01", fill=255, font=ImageFont.load_default(11))
    return np.asarray(image)


def padded(image: Grey, height: int, width: int) -> Grey:
    """Show an image at a smaller size, on white."""
    canvas = np.full((SIDE, SIDE), 255, np.uint8)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    canvas[top : top + height, left : left + width] = cv2.resize(image, (width, height))
    return canvas


def brightened(film: Grey, factor: float) -> Grey:
    """Multiply the greys of an image."""
    scaled: Grey = np.clip(film * factor, 0, 255).astype(np.uint8)
    return scaled


edge = int(masks[0][80].argmax())  # the column where the lung begins
soft = cv2.GaussianBlur(white(masks[0]), (0, 0), 2)[70:90, edge - 10 : edge + 10]
soft_edge = np.asarray(cv2.resize(soft, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST), np.uint8)
PICTURES: dict[str, list[Tile]] = {
    "truncated": [(films[0], "whole"), (truncated(films[0]), "its file ends too early")],
    "window": [(films[1], "window [0, 4095]"), (brightened(films[1], 0), "window [0, 65535]")],
    "burned_in_text": [(with_name(films[2]), "a name in the pixels")],
    "constant_image": [(films[0], "1.png"), (films[1], "2.png"), (np.zeros_like(films[2]), "3.png: constant")],
    "inverted": [(films[0], "1.png"), (films[1], "2.png"), (255 - films[2], "3.png: inverted")],
    "outlier": [(films[0], "1.png"), (films[1], "2.png"), (femurs[0], "3.png: outlier")],
    "mask_values": [(films[0], "image"), (brightened(films[1], 0.8), "“mask”: a photograph")],
    "mask_size": [(films[0], "image, 160 x 160"), (padded(white(masks[0]), 120, 80), "mask, 80 x 120")],
    "mask_soft": [(soft_edge, "greys at the edge")],
    "mask_is_image": [(films[3], "image"), (films[3], "“mask”: the same file")],
    "mask_empty": [(films[0], "image"), (np.zeros_like(films[0]), "mask: nothing")],
    "mask_full": [(films[0], "image"), (np.full_like(films[0], 255), "mask: everything")],
    "mask_repeated": [(outlined(films[i], masks[0]), f"{i + 1}.png, mask of 1.png") for i in range(3)],
    "mask_misfit": [
        (outlined(films[0], masks[0]), "right"),
        (outlined(films[1], masks[4]), "another image's mask"),
        (outlined(films[2], np.ascontiguousarray(masks[2][::-1])), "upside down"),
    ],
    "class_shortcut": [
        (padded(femurs[0], 150, 80), "AFF: 80 x 150"),
        (padded(femurs[1], 150, 86), "AFF: 86 x 150"),
        (padded(femurs[2], 110, 150), "NFF: 150 x 110"),
        (padded(femurs[3], 120, 150), "NFF: 150 x 120"),
    ],
    "duplicates_across": [(films[0], "train/1.png"), (films[0], "val/7.png: the same")],
    "contradicting_labels": [(femurs[1], "AFF/3.png"), (femurs[1], "NFF/9.png: the same")],
    "near_duplicates": [(films[4], "4.png"), (brightened(moved(films[4][:, ::-1], 8), 0.8), "9.png: mirrored, 8°")],
    "split_differs": [
        (brightened(films[0], 0.5), "train"),
        (brightened(films[1], 0.5), "train"),
        (brightened(films[2], 1.2), "val"),
        (brightened(films[3], 1.2), "val"),
    ],
    "augmentation_mask": [
        (outlined(films[0], masks[0]), "before"),
        (outlined(moved(films[0], 15), masks[0]), "only the image turns"),
    ],
    "augmentation_loses_mask": [
        (outlined(films[0], masks[0]), "before"),
        (outlined(moved(films[0], shift=0.85), moved(masks[0], shift=0.85)), "shifted by 85 %"),
    ],
    "validation_augmented": [(films[5], "on the disk"), (np.ascontiguousarray(films[5][:, ::-1]), "in validation")],
}


def sheet(tiles: list[Tile]) -> Image.Image:
    """Put tiles side by side, their captions below."""
    canvas = Image.new("RGB", (len(tiles) * (SIDE + GAP) - GAP, SIDE + CAPTION), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (tile, caption) in enumerate(tiles):
        left = i * (SIDE + GAP)
        canvas.paste(Image.fromarray(tile).convert("RGB"), (left, 0))
        draw.text((left + 2, SIDE + 3), caption, fill="black", font=ImageFont.load_default(12))
    return canvas


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, tiles in PICTURES.items():
        sheet(tiles).save(FOLDER / f"{name}.jpg", quality=85)
    print(f"{len(PICTURES)} pictures in {FOLDER}")
