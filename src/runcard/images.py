"""Reading images and masks from disk as uint8 arrays, with errors that name the file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from natsort import natsorted
from PIL import Image, UnidentifiedImageError

from runcard.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
EIGHT_BIT_MODES = {"1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr"}


def list_images(folder: Path) -> list[Path]:
    """Returns the image files directly in folder, in natural order (Im2 before Im10); hidden files are left out."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return natsorted(found, key=lambda p: p.name)


def read_image(path: Path) -> np.ndarray:
    """Returns the image as uint8, H×W where the file is grey and H×W×3 (RGB) where it has colours."""
    image = _open(path)
    return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))


def read_mask(path: Path, num_classes: int) -> np.ndarray:
    """Returns the mask as an H×W uint8 map of class indices.

    A mask holds class indices below num_classes or, with two classes, 0 and 255. Anything else (a photograph, a
    mask saved as JPEG, more classes than the card names) is refused with the values found.
    """
    image = _open(path)
    mask = np.asarray(image if image.mode in ("L", "P") else image.convert("L"))
    values = np.unique(mask)
    if num_classes == 2 and set(values) <= {0, 255}:
        return (mask > 0).astype(np.uint8)
    if values.max() < num_classes:
        return mask
    shown = ", ".join(map(str, values[:6])) + (", …" if len(values) > 6 else "")
    rule = f"class indices 0…{num_classes - 1}" + (" or 0 and 255" if num_classes == 2 else "")
    raise UserError(f"{path}: not a mask: it must hold {rule}, but has {len(values)} values: {shown}.")


def _open(path: Path) -> Image.Image:
    """Returns the decoded picture; a missing, empty, truncated or undecodable file is a UserError."""
    try:
        image = Image.open(path)
        deep = re.search(r";16[BLN]", str(image.tile))  # Pillow reads 16-bit RGB as 8-bit, without a word
        image.load()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file.") from None
    except UnidentifiedImageError:
        what = "the file is empty" if path.stat().st_size == 0 else "not an image that can be read"
        raise UserError(f"{path}: {what}. Replace or remove it.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read, damaged or truncated ({error}). Replace or remove it.") from None
    if deep or image.mode not in EIGHT_BIT_MODES:
        mode = f"{image.mode} of 16 bits" if deep else image.mode
        raise UserError(f"{path}: pixel mode {mode} is not 8 bits per channel. Convert it to 8-bit first.")
    return image
