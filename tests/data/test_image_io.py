"""Single files: every mode, format and depth that is read, masks of every kind, and what is refused, with its words."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageOps

from runcard import IGNORED
from runcard.data.image_io import (
    OnDisk,
    check_window,
    list_images,
    mask_fix,
    mask_levels,
    read_header,
    read_image,
    read_mask,
    windowed,
)
from runcard.data.preprocessing import prepare
from runcard.errors import UserError

HEIGHT, WIDTH = 24, 32
DATA = ROOT.parent / "shared" / "data"
# Smooth, so that JPEG keeps it.
COLOURS = np.stack(np.broadcast_arrays(*np.ogrid[40:200:24j, 20:220:32j], 90.0), axis=-1).round().astype(np.uint8)
DEEP = COLOURS.astype(np.uint16) * 256 + np.arange(WIDTH, dtype=np.uint16)[:, None]


def stripes(values: Sequence[float], dtype: type = np.uint8) -> np.ndarray:
    """Returns vertical stripes, eight pixels wide each, of the values."""
    return np.tile(np.repeat(np.array(values, dtype), 8), (HEIGHT, 1))


def saved(pixels: np.ndarray, path: Path, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def deep_colours(path: Path) -> Path:
    cv2.imwrite(str(path), DEEP[..., ::-1])
    return path


# Images

WRITABLE = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "bmp": ("1", "L", "P", "RGB", "RGBA"),
    "tif": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"),
    "jpg": ("L", "RGB", "CMYK", "YCbCr"),
}
TOLERANCE = {
    "P": 60,
    "YCbCr": 12,
    "1": 255,
}  # of a palette of 256 colours, and of black and white; else what JPEG and CMYK lose


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix in WRITABLE for mode in WRITABLE[suffix]])
def test_an_8_bit_image_of_any_mode_and_format_is_grey_or_rgb(suffix, mode, tmp_path):
    image = read_image(saved(COLOURS, tmp_path / f"x.{suffix}", mode))
    assert image.dtype == np.uint8
    grey = mode in ("1", "L", "LA")
    expected = np.asarray(Image.fromarray(COLOURS).convert("L")) if grey else COLOURS
    assert image.shape == expected.shape
    lossless = suffix != "jpg" and mode in ("L", "LA", "RGB", "RGBA")
    tolerance = 0 if lossless else TOLERANCE.get(mode, 8)
    assert np.abs(image.astype(int) - expected).max() <= tolerance


GREY = DEEP[..., 0]
DEEP_FILES = {  # name -> (how it is written, what is read of it, what it is called)
    "grey.png": (lambda p: saved(GREY, p), GREY, "16-bit grey PNG"),
    "grey.tif": (lambda p: saved(GREY, p), GREY, "16-bit grey TIFF"),
    "packed.tif": (lambda p: saved(GREY, p, compression="tiff_lzw"), GREY, "16-bit grey TIFF"),
    "big_endian.tif": (lambda p: saved(GREY, p, big_endian=True), GREY, "16-bit grey TIFF"),
    "int.tif": (lambda p: saved(GREY.astype(np.int32) - 999, p), GREY.astype(np.int32) - 999, "32-bit grey TIFF"),
    "float.tif": (lambda p: saved(GREY.astype(np.float32) / 7, p), GREY.astype(np.float32) / 7, "float grey TIFF"),
    "colour.png": (deep_colours, DEEP, "16-bit RGB PNG"),
    "colour.tif": (deep_colours, DEEP, "16-bit RGB TIFF"),
}


@pytest.mark.parametrize("name", DEEP_FILES)
def test_a_deep_image_keeps_every_bit(name, tmp_path):
    write, expected, words = DEEP_FILES[name]
    path = write(tmp_path / name)
    image = read_image(path)
    assert image.dtype == expected.dtype
    assert np.array_equal(image, expected)
    assert read_header(path).kind == words


def test_the_window_is_linear_and_clips():
    values = np.array([[-1000, 0, 1000, 1500, 2000, 3000, 9000]], np.int32)
    assert windowed(values, (1000, 3000)).tolist() == [[0, 0, 0, 64, 128, 255, 255]]
    assert windowed(np.array([[0, 257, 65535]], np.uint16), (0, 65535)).tolist() == [[0, 1, 255]]
    assert windowed(np.array([[0.0, 0.5, 1.0]], np.float32), (0, 1)).tolist() == [[0, 128, 255]]
    assert windowed(values, (0, 1)).dtype == np.uint8
    with np.errstate(all="raise"):
        assert windowed(np.array([[-3e38, 3e38]], np.float32), (0, 1)).tolist() == [[0, 255]]


@pytest.mark.parametrize("window", [[0, 10**400], [0, 1e300], [float("nan"), 1], [1, 1], [0, True], [0], "01"])
def test_a_window_is_two_numbers(window):
    with pytest.raises(ValueError, match="window must be two numbers"):
        check_window(window)


class OneFile:
    """A dataset of one image file."""

    given_split, faults, classes, ids, spacings_mm = None, (), ["a", "b"], ["x"], None

    def __init__(self, path: Path) -> None:
        self.files = [(path,)]
        self.on_disk = OnDisk(path.parent, "", [], (0, 65535))

    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> tuple[np.ndarray, int, str]:
        return read_image(self.files[i][0]), 0, "x"


@pytest.mark.parametrize("name", ["L.png", "RGB.png", "RGBA.png", "P.png", "1.png", "grey.png", "colour.png"])
def test_one_or_three_channels_can_be_had_of_any_file(name, tmp_path):
    if name in DEEP_FILES:
        DEEP_FILES[name][0](tmp_path / name)
    else:
        saved(COLOURS, tmp_path / name, name.removesuffix(".png"))
    source = OneFile(tmp_path / name)
    one, three = (prepare(source, HEIGHT, channels).images[0] for channels in (1, 3))
    assert one.shape == (HEIGHT, HEIGHT, 1)
    assert three.shape == (HEIGHT, HEIGHT, 3)
    luminance = three @ [0.299, 0.587, 0.114]
    assert np.abs(one[..., 0] - luminance).max() <= 2
    assert prepare(source, HEIGHT, 1).originals[0].deep_range == {
        "grey.png": (float(GREY.min()), float(GREY.max())),
        "colour.png": (float(DEEP.min()), float(DEEP.max())),
    }.get(name)


def png(width: int, height: int, depth: int, colour: int, interlaced: bool, pixels: bytes) -> bytes:
    """Returns a PNG of any header; Pillow writes no 16-bit colours, 16-bit grey with alpha, or interlaced pictures."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    palette = [(b"PLTE", bytes(range(240)))] if colour == 3 else []
    chunks = [(b"IHDR", header), *palette, (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns pixels as the orientation 1 to 8 of the EXIF standard wants them shown."""
    turned = pixels if orientation < 5 else np.swapaxes(pixels, 0, 1)
    flips = {1: (), 2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}[orientation]
    return np.flip(turned, flips) if flips else turned


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_images_and_masks_are_turned_upright(suffix, orientation, tmp_path):
    path = saved(COLOURS, tmp_path / f"x.{suffix}", exif=exif(orientation))
    image = read_image(path)
    assert image.shape == upright(COLOURS, orientation).shape
    assert np.abs(image.astype(int) - upright(COLOURS, orientation)).max() <= (8 if suffix == "jpg" else 0)
    corner = np.zeros((HEIGHT, WIDTH), np.uint8)
    corner[:8, :16] = 255
    path = saved(corner, tmp_path / f"mask.{suffix}", exif=exif(orientation))
    assert np.array_equal(read_mask(path, 2), upright(corner, orientation) // 255)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_deep_greys_are_turned_upright(compression, orientation, tmp_path):
    path = saved(GREY, tmp_path / "x.tif", exif=exif(orientation), compression=compression)
    assert np.array_equal(read_image(path), upright(GREY, orientation))


def with_orientation(path: Path, orientation: int) -> Path:
    """Adds the tag to a PNG that Pillow did not write."""
    tags = exif(orientation).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(tags)) + b"eXIf" + tags + struct.pack(">I", zlib.crc32(b"eXIf" + tags))
    content = path.read_bytes()
    path.write_bytes(content[:33] + chunk + content[33:])
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_colours_of_16_bits_are_turned_upright(orientation, tmp_path):
    path = with_orientation(deep_colours(tmp_path / "x.png"), orientation)
    assert np.array_equal(read_image(path), upright(DEEP, orientation))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_never_read(suffix, part, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    path = saved(noise, tmp_path / f"x.{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: .*Replace or remove it"):
        read_image(path)


def test_a_pixel_that_is_no_number_is_refused(tmp_path):
    path = saved(np.full((4, 4), np.nan, np.float32), tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"x.tif: has pixels that are not finite numbers. Replace or remove it."):
        read_image(path)


def test_grey_of_16_bits_with_alpha_keeps_every_bit(tmp_path):
    greys = np.array([[1, 300], [5000, 65535]], np.uint16)
    rows = np.stack([greys, greys // 2], axis=-1).astype(">u2").reshape(2, 4).view(np.uint8)
    path = tmp_path / "x.png"
    path.write_bytes(png(2, 2, 16, 4, False, np.insert(rows, 0, 0, axis=1).tobytes()))  # a filter in front of each row
    assert np.array_equal(read_image(path), np.repeat(greys[..., None], 3, axis=-1))


def test_a_chunk_that_claims_gigabytes_is_refused_before_they_are_made_room_for(tmp_path):
    content = bytearray(png(1, 7, 16, 4, False, bytes(100)))
    content[33] = 0x6B  # the highest byte of the length of the pixels' chunk
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged or truncated"):
        read_image(path)


def test_a_file_of_another_format_is_refused_whatever_its_suffix(tmp_path):
    """Pillow would start a program that draws it."""
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match=r"not an image that can be read \(PNG, JPEG, BMP or TIFF\)"):
        read_image(path)


def test_nobody_waits_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x.png: not a file"):
        read_image(tmp_path / "x.png")


def test_what_pillow_warns_of_is_not_told(tmp_path):
    """In a process of its own: pytest has warning filters of its own."""
    image = Image.fromarray(COLOURS).convert("P")
    path = tmp_path / "x.png"
    image.save(path, transparency=bytes(range(9)))
    code = "from pathlib import Path; from runcard.data.image_io import ignore_reader_warnings, read_image; "
    code += f"ignore_reader_warnings(); read_image(Path({str(path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_files_are_listed_in_natural_order(tmp_path):
    for name in ("Im10.png", "Im2.PNG", "Im1.jpeg", ".hidden.png", "Thumbs.db", "notes.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in list_images(tmp_path)] == ["Im1.jpeg", "Im2.PNG", "Im10.png"]


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("1", "1-bit PNG"),
        ("L", "8-bit grey PNG"),
        ("LA", "8-bit grey with alpha PNG"),
        ("P", "8-bit palette PNG"),
        ("RGB", "8-bit RGB PNG"),
        ("RGBA", "8-bit RGBA PNG"),
    ],
)
def test_a_file_is_described_by_its_header(mode, words, tmp_path):
    assert read_header(saved(COLOURS, tmp_path / "x.png", mode)).kind == words


# Masks

MASKS = [  # values in the file, their type, number of classes, mask_values, classes
    ((0, 255), np.uint8, 2, None, (0, 1)),
    ((0, 1), np.uint8, 2, None, (0, 1)),
    ((0,), np.uint8, 2, None, (0,)),
    ((255,), np.uint8, 2, None, (1,)),
    ((1,), np.uint8, 2, None, (1,)),
    ((0, 1, 2), np.uint8, 3, None, (0, 1, 2)),
    ((0, 3, 1, 2), np.uint8, 4, None, (0, 3, 1, 2)),
    ((0, 65535), np.uint16, 2, None, (0, 1)),
    ((0, 255), np.uint16, 2, None, (0, 1)),
    ((0, 2, 1), np.uint16, 3, None, (0, 2, 1)),
    ((0.0, 1.0), np.float32, 2, None, (0, 1)),
    ((0, 127, 255), np.uint8, 3, [0, 127, 255], (0, 1, 2)),
    ((0, 255), np.uint8, 2, [255, 0], (1, 0)),
    ((0, 30000, 60000), np.uint16, 3, [0, 30000, 60000], (0, 1, 2)),
    ((2, 125, 250), np.uint8, 3, [0, 127, 255], (0, 1, 2)),
]


@pytest.mark.parametrize(("values", "dtype", "num_classes", "mask_values", "expected"), MASKS)
def test_a_mask_becomes_class_indices(values, dtype, num_classes, mask_values, expected, tmp_path):
    path = saved(stripes(values, dtype), tmp_path / "x.tif")
    found = read_mask(path, num_classes, mask_values)
    assert found.dtype == np.uint8
    assert np.array_equal(found, stripes(expected))


UNLABELLED = [  # values in the file, their type, number of classes, mask_values, ignore_value, classes
    ((0, 1, 255), np.uint8, 2, None, 255, (0, 1, IGNORED)),
    ((0, 255), np.uint8, 2, None, 255, (0, IGNORED)),
    ((255,), np.uint8, 2, None, 255, (IGNORED,)),
    ((0, 1), np.uint8, 2, None, 255, (0, 1)),
    ((0, 128, 255), np.uint8, 2, None, 128, (0, IGNORED, 1)),
    ((0, 2, 1, 255), np.uint8, 3, None, 255, (0, 2, 1, IGNORED)),
    ((0, 1, 65535), np.uint16, 2, None, 65535, (0, 1, IGNORED)),
    ((0, 1, 2), np.uint8, 2, [1, 2], 0, (IGNORED, 0, 1)),
    ((0, 127, 255), np.uint8, 2, [0, 127], 255, (0, 1, IGNORED)),
    ((2, 125, 250), np.uint8, 2, [0, 127], 255, (0, 1, IGNORED)),
]


@pytest.mark.parametrize(("values", "dtype", "num_classes", "mask_values", "ignore_value", "expected"), UNLABELLED)
def test_pixels_that_nobody_labelled_are_ignored(
    values, dtype, num_classes, mask_values, ignore_value, expected, tmp_path
):
    found = read_mask(saved(stripes(values, dtype), tmp_path / "x.tif"), num_classes, mask_values, ignore_value)
    assert found.dtype == np.uint8
    assert np.array_equal(found, stripes(expected))


@pytest.mark.parametrize("values", [(0, 1, 255), (0, 1, 2, 255)])
def test_where_255_may_mean_that_nobody_labelled_the_message_says_so(values, tmp_path):
    path = saved(stripes(values), tmp_path / "x.png")
    with pytest.raises(UserError, match=f"must hold class indices 0…{len(values) - 2}, .*{len(values)} values: 0, 1, "):
        read_mask(path, len(values) - 1)
    levels = mask_levels(path)
    assert mask_fix(levels, len(values) - 1).startswith(
        "If nobody labelled the pixels of 255: dataset.ignore_value=255. Replace it or, if these are the classes: "
    )
    assert np.array_equal(read_mask(path, len(values) - 1, None, 255), stripes((*values[:-1], IGNORED)))


def test_the_rule_names_the_ignored_value(tmp_path):
    with pytest.raises(UserError, match=r"class indices 0…1, or 255 \(dataset.ignore_value\), but has 4 values"):
        read_mask(saved(stripes((0, 1, 2, 255)), tmp_path / "x.png"), 2, None, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_a_black_and_white_mask_may_have_any_mode(mode, tmp_path):
    mask = stripes((0, 255))
    assert np.array_equal(read_mask(saved(mask, tmp_path / "x.png", mode), 2), mask // 255)


def test_a_black_and_white_mask_may_be_in_lab(tmp_path):
    neutral = Image.new("L", (16, HEIGHT), 128)
    Image.merge("LAB", (Image.fromarray(stripes((0, 255))), neutral, neutral)).save(tmp_path / "x.tif")
    assert np.array_equal(read_mask(tmp_path / "x.tif", 2), stripes((0, 1)))


def test_a_palette_mask_is_read_by_index_not_by_colour(tmp_path):
    image = Image.fromarray(stripes((0, 1, 2)))
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    assert image.mode == "P"
    image.save(tmp_path / "x.png")
    assert np.array_equal(read_mask(tmp_path / "x.png", 3), stripes((0, 1, 2)))


def disc(size_px: int = 128) -> np.ndarray:
    y, x = np.ogrid[:size_px, :size_px]
    return ((y - size_px / 2) ** 2 + (x - size_px / 2.5) ** 2 < (size_px / 4) ** 2).astype(np.uint8)


@pytest.mark.parametrize("quality", [40, 75, 95])
@pytest.mark.parametrize("empty", [False, True])
def test_a_mask_saved_as_jpeg_is_what_it_was(quality, empty, tmp_path):
    mask = disc() * (not empty)
    path = saved(mask * 255, tmp_path / "x.jpg", quality=quality)
    assert empty or len(np.unique(np.asarray(Image.open(path)))) > 2
    assert np.array_equal(read_mask(path, 2), mask)


GRADIENT = np.tile(np.arange(256, dtype=np.uint8), (HEIGHT, 1))
THIRD = disc(256) * 255
THIRD[:40, :40] = 127  # 2.4 % of the pixels
REFUSED = [  # pixels, number of classes, mask_values, words
    (
        GRADIENT,
        2,
        None,
        "class indices 0…1, or 0 and 255, but has 256 values: 0, 1, 2, 3, 4, 5, …. Replace it; or",
    ),
    (stripes((0, 1, 2)), 2, None, "class indices 0…1, or 0 and 255, but has 3 values: 0, 1, 2. Replace it"),
    (stripes((3, 9, 20)), 2, None, "has 3 values: 3, 9, 20. Replace it"),  # a dark photograph is no empty mask
    (THIRD, 2, None, "0 and 255, but has 3 values: 0, 127, 255"),  # a class of its own, not noise
    (stripes((0, 9)), 2, None, "0, 9. Replace it or, if these are the classes: 'dataset.mask_values=[0,9]'"),
    (stripes((0, 127, 255)), 3, None, "class indices 0…2, but .*: 'dataset.mask_values=[0,127,255]'"),
    (stripes((0, 85, 170, 255)), 3, None, "class indices 0…2, but has 4 values: 0, 85, 170, 255. Replace it"),
    (stripes((0, 90, 255)), 3, [0, 127, 255], "values near 0, 127, 255, but .*: 'dataset.mask_values=[0,90,255]'"),
    (stripes((0, 1200, 65535), np.uint16), 3, None, "has 3 values: 0, 1200, 65535. .*mask_values=[0,1200,65"),
]


@pytest.mark.parametrize(("pixels", "num_classes", "mask_values", "words"), REFUSED)
def test_what_is_no_mask_is_refused_with_the_values_found(pixels, num_classes, mask_values, words, tmp_path):
    path = saved(pixels, tmp_path / "x.png")
    with pytest.raises(UserError) as caught:
        read_mask(path, num_classes, mask_values)
    said = str(caught.value)
    assert said.startswith(f"{path}: not a mask: it must hold ")
    assert all(part in said for part in words.split(".*"))
    assert len(said.splitlines()) == 1


def test_three_classes_saved_as_jpeg_are_told_how_to_be_read(tmp_path):
    path = saved(stripes((0, 127, 255)), tmp_path / "x.jpg", quality=50)
    with pytest.raises(UserError, match=r"keeps them, not JPEG, but .*: 'dataset.mask_values=\[0,127,255\]"):
        read_mask(path, 3)
    assert np.array_equal(read_mask(path, 3, [0, 127, 255]), stripes((0, 1, 2)))


def test_class_indices_in_a_jpeg_are_refused(tmp_path):
    """They would come back as others: 0, 1, 2 as 0, 1, 3, say."""
    with pytest.raises(UserError, match=r"class indices 0…2 in a format that keeps them, not JPEG"):
        read_mask(saved(stripes((0, 1, 2)), tmp_path / "x.jpg", quality=100), 3)


@pytest.mark.skipif(not DATA.is_dir(), reason="the images are not here")
@pytest.mark.parametrize("folder", ["X_ray/Image", "lung_ct/Image", "Bone/train/Normal", "Skin/train/Mel"])
def test_no_image_passes_for_its_own_mask(folder):
    paths = list_images(DATA / folder)[::8]
    assert len(paths) >= 4
    for path in paths:
        with pytest.raises(UserError, match="not a mask"):
            read_mask(path, 2)


@pytest.mark.skipif(not DATA.is_dir(), reason="the images are not here")
def test_real_masks_survive_jpeg(tmp_path):
    for path in list_images(DATA / "X_ray" / "Mask")[::30]:
        mask = np.asarray(Image.open(path).convert("L"))
        assert np.array_equal(read_mask(saved(mask, tmp_path / "x.jpg"), 2), mask // 255)


def test_a_mask_of_16_bit_colours_is_read_by_its_grey(tmp_path):
    mask = stripes((0, 65535), np.uint16)
    cv2.imwrite(str(tmp_path / "x.png"), np.repeat(mask[..., None], 3, axis=-1))
    assert np.array_equal(read_mask(tmp_path / "x.png", 2), stripes((0, 1)))


def test_the_table_of_orientations_is_pillows():
    for orientation in range(1, 9):
        image = Image.fromarray(COLOURS)
        image.getexif()[0x0112] = orientation
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), upright(COLOURS, orientation))
