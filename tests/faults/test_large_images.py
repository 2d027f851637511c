"""Files that claim, or have, more pixels than are read: refused by their header, with their size and the limit."""

from __future__ import annotations

import io
import struct
import zlib

import nibabel
import numpy as np
import pytest
from PIL import Image

from runcard.data import image_io, medical_io
from runcard.data.image_io import read_image, windowed
from runcard.errors import DataError


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claiming_png(path, width, height, depth, colour, content=b"\0"):
    """Write a PNG whose header says this size; content are its packed pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def black_png(path, width, height):
    """Write a black PNG of 16-bit grey."""
    return claiming_png(path, width, height, 16, 0, zlib.compress(bytes(1 + 2 * width) * height))


@pytest.mark.parametrize(
    ("width", "depth", "colour", "takes"),
    [(13_000, 16, 2, "1.0 GB"), (13_380, 16, 2, "1.1 GB"), (9_500, 16, 2, "541.5 MB"), (13_377, 8, 6, "715.8 MB")],
)
def test_more_bytes_than_the_limit_are_refused_by_the_header(tmp_path, width, depth, colour, takes):
    path = claiming_png(tmp_path / "x.png", width, width, depth, colour)
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: too large, or damaged")
    if width < 13_378:  # else Pillow says it, in pixels
        assert f"{width}×{width} pixels take {takes}, the limit is 536.9 MB" in str(caught.value)
    assert "Save it smaller" in str(caught.value)


def test_the_limit_counts_decoded_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(image_io, "MAX_DECODED_BYTES", 200 * 100 * 2)
    assert read_image(black_png(tmp_path / "a.png", 200, 100)).shape == (100, 200)
    with pytest.raises(DataError, match=r"201×100 pixels take 40\.2 kB, the limit is 40\.0 kB"):
        read_image(black_png(tmp_path / "b.png", 201, 100))
    for mode, size in (("F", 101), ("I", 101), ("RGB", 134)):
        Image.new(mode, (100, size)).save(tmp_path / "c.tif")
        with pytest.raises(DataError, match=r"the limit is 40\.0 kB"):
            read_image(tmp_path / "c.tif")


def test_window_of_a_large_image_is_that_of_its_rows():
    pixels = np.random.default_rng(0).integers(0, 65536, (2 * image_io.ROWS_AT_ONCE + 7, 5), np.uint16)
    whole = windowed(pixels, (1000, 50_000))
    assert whole.dtype == np.uint8
    assert np.array_equal(whole, np.concatenate([windowed(row[None], (1000, 50_000)) for row in pixels]))


@pytest.mark.parametrize(
    ("shape", "dtype", "takes"),
    [
        ((1000, 1000, 1000), np.float32, "4.0 GB"),
        ((1024, 1024, 300), np.float64, "2.5 GB"),
        ((30_000, 30_000), np.int32, ""),
    ],
)
def test_nifti_header_that_claims_too_much(tmp_path, monkeypatch, shape, dtype, takes):
    header = nibabel.Nifti2Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["vox_offset"] = 544
    header["magic"] = b"n+2\x00\r\n\x1a\n"
    file = io.BytesIO()
    header.write_to(file)
    path = tmp_path / "x.nii"
    path.write_bytes(file.getvalue() + bytes(100))
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "x.nii:0" if len(shape) == 3 else path)
    assert f"voxels take {takes}" in str(caught.value)
    assert "the limit is 2.1 GB" in str(caught.value)
    assert medical_io.MAX_VOLUME_BYTES == 2**31
