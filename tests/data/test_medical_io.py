"""DICOM and NIfTI files: what is seen of them, their spacing, and how damaged ones are refused."""

from __future__ import annotations

import gzip
import re
import resource
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from medical import (
    LPS,
    functional_groups,
    nibabel,
    pydicom,
    reoriented,
    write_dicom,
    write_enhanced_ct,
    write_frames,
    write_nifti,
)

from runcard.data.image_io import ignore_reader_warnings, read_header, read_image, read_mask, slices
from runcard.data.medical_io import nifti_mask
from runcard.errors import DataError, UserError

GREYS = np.arange(0, 4096, 16, dtype=np.uint16).reshape(8, 32)  # 12 bits


def real(name: str) -> Path:
    """Return the path of a file that comes with pydicom or pydicom-data; skip where it is not here."""
    path = pydicom.data.get_testdata_file(name, download=False)
    return Path(path) if path else pytest.skip(f"{name}: pip install pydicom-data")


# DICOM


def test_grey_values_are_kept_where_the_file_has_no_window(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", GREYS, bits=12)
    assert np.array_equal(read_image(path), GREYS)
    assert read_image(path).dtype == np.uint16
    assert read_header(path).kind == "12-bit grey DICOM"
    signed = GREYS.astype(np.int16) - 1024
    assert np.array_equal(read_image(write_dicom(tmp_path / "y.dcm", signed)), signed)
    assert read_image(tmp_path / "y.dcm").dtype == np.int32


def test_rescaling_gives_hounsfield_units(tmp_path):
    image = read_image(write_dicom(tmp_path / "x.dcm", GREYS, bits=12, RescaleSlope="0.5", RescaleIntercept="-1024"))
    assert image.dtype == np.float32
    assert np.array_equal(image, GREYS / 2 - 1024)
    identity = write_dicom(tmp_path / "y.dcm", GREYS, bits=12, RescaleSlope="1", RescaleIntercept="0")
    assert read_image(identity).dtype == np.uint16


def test_the_first_window_of_the_file_is_applied(tmp_path):
    window = {"WindowCenter": ["2048.5", "100"], "WindowWidth": ["1025", "50"]}  # linear: from 1536 to 2560
    image = read_image(write_dicom(tmp_path / "x.dcm", GREYS, bits=12, **window))
    assert image.dtype == np.uint8
    expected = np.clip((GREYS.astype(float) - 1536) / 1024 * 255, 0, 255)
    assert np.abs(image - expected).max() <= 0.5 + 1e-9
    rescaled = write_dicom(tmp_path / "y.dcm", GREYS, RescaleSlope="2", RescaleIntercept="-7", **window)
    assert np.abs(read_image(rescaled) - np.clip((2.0 * GREYS - 7 - 1536) / 1024 * 255, 0, 255)).max() <= 0.5 + 1e-9
    exact = write_dicom(
        tmp_path / "z.dcm", GREYS, WindowCenter="2048", WindowWidth="1024", VOILUTFunction="LINEAR_EXACT"
    )
    assert np.abs(read_image(exact) - expected).max() <= 0.5 + 1e-9
    sigmoid = write_dicom(tmp_path / "s.dcm", GREYS, WindowCenter="2048", WindowWidth="9", VOILUTFunction="SIGMOID")
    assert read_image(sigmoid).ravel()[[0, 128, -1]].tolist() == [0, 128, 255]


def test_a_voi_lut_comes_before_a_window(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], (np.arange(4096, dtype=np.uint16)[::-1] * 16).tolist()
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    path = write_dicom(tmp_path / "x.dcm", GREYS, bits=12, VOILUTSequence=[table], WindowCenter="1", WindowWidth="2")
    assert np.abs(read_image(path) - (4095.0 - GREYS) * 16 / 65535 * 255).max() <= 0.5 + 1e-9


def test_monochrome1_is_inverted(tmp_path):
    inverted = {"PhotometricInterpretation": "MONOCHROME1"}
    assert np.array_equal(read_image(write_dicom(tmp_path / "x.dcm", GREYS, bits=12, **inverted)), 4095 - GREYS)
    signed = GREYS.astype(np.int16) - 2048
    assert np.array_equal(read_image(write_dicom(tmp_path / "y.dcm", signed, bits=12, **inverted)), -1 - signed)
    window = {"WindowCenter": "2048", "WindowWidth": "1000"}
    plain = read_image(write_dicom(tmp_path / "p.dcm", GREYS, bits=12, **window))
    shown = read_image(write_dicom(tmp_path / "w.dcm", GREYS, bits=12, **window, **inverted))
    assert np.array_equal(shown, 255 - plain)


def test_colours(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    path = write_dicom(tmp_path / "x.dcm", colours)
    assert np.array_equal(read_image(path), colours)
    assert read_header(path).kind == "8-bit RGB DICOM"


def test_a_mask_is_read_as_stored(tmp_path):
    mask = np.repeat(np.uint8([0, 1, 2, 1]), 8).reshape(4, 8)
    shown = {"WindowCenter": "1", "WindowWidth": "2", "PhotometricInterpretation": "MONOCHROME1"}
    path = write_dicom(tmp_path / "x.dcm", mask, **shown)
    assert np.array_equal(read_mask(path, 3), mask)


def test_the_header_has_the_spacing_and_says_whether_there_is_text(tmp_path):
    both = write_dicom(tmp_path / "x.dcm", GREYS, PixelSpacing=["0.7", "0.5"], ImagerPixelSpacing=["1", "1"])
    assert read_header(both).spacing_mm == (0.7, 0.5)
    imager = write_dicom(tmp_path / "y.dcm", GREYS, ImagerPixelSpacing=["0.2", "0.3"], BurnedInAnnotation="YES")
    assert (read_header(imager).spacing_mm, read_header(imager).burned_in_text) == ((0.2, 0.3), True)
    empty = {"PixelSpacing": None, "WindowWidth": None, "WindowCenter": None, "RescaleSlope": None}
    none = write_dicom(tmp_path / "e.dcm", GREYS, **empty)
    assert (read_header(none).spacing_mm, read_image(none).dtype) == (None, np.uint16)
    none = write_dicom(tmp_path / "z.dcm", GREYS, PixelSpacing=["0", "0"], BurnedInAnnotation="NO")
    assert (read_header(none).spacing_mm, read_header(none).burned_in_text) == (None, False)


REAL = {  # file -> shape, type, description, spacing
    "CT_small.dcm": ((128, 128), "float32", "16-bit grey DICOM", (0.661468, 0.661468)),
    "MR_small.dcm": ((64, 64), "uint8", "16-bit grey DICOM", (0.3125, 0.3125)),
    "MR_small_bigendian.dcm": ((64, 64), "uint8", "16-bit grey DICOM", (0.3125, 0.3125)),
    "MR_small_RLE.dcm": ((64, 64), "uint8", "16-bit grey DICOM", (0.3125, 0.3125)),
    "JPEG2000.dcm": ((1024, 256), "int32", "16-bit grey DICOM", (2.26, 2.26)),
    "SC_rgb_jpeg.dcm": ((256, 256, 3), "uint8", "8-bit RGB DICOM", None),
    "SC_ybr_full_422_uncompressed.dcm": ((100, 100, 3), "uint8", "8-bit RGB DICOM", (1.0, 1.0)),
    "SC_rgb_rle_16bit.dcm": ((100, 100, 3), "uint16", "16-bit RGB DICOM", (1.0, 1.0)),
    "examples_palette.dcm": ((350, 800, 3), "uint16", "8-bit RGB DICOM", None),
    "examples_overlay.dcm": ((300, 484), "uint8", "12-bit grey DICOM", (0.72314049586777, 0.72314049586777)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files(name):
    path = real(name)
    image, header = read_image(path), read_header(path)
    assert (image.shape, image.dtype.name, header.kind, header.spacing_mm) == REAL[name]
    assert image.min() < image.max()


def test_one_image_in_four_encodings_is_one_image():
    first, *others = (read_image(real(f"MR_small{name}.dcm")) for name in ("", "_RLE", "_bigendian", "_implicit"))
    assert all(np.array_equal(first, other) for other in others)


REFUSED = {  # file -> what is said of it
    "SC_rgb_rle_2frame.dcm": r"has several frames \(2\)\. Name one of them, x\.dcm:7\.",
    "liver.dcm": r"a DICOM segmentation of several frames, which are not those of an image \(3\)",
    "SC_rgb_rle_32bit.dcm": "colours of more than 16 bits",
    "JPEGLSNearLossless_08.dcm": "compressed, and no decoder is installed: JPEG-LS",
    "rtplan.dcm": "a DICOM file without an image",
    "MR_truncated.dcm": "cannot be read as DICOM, damaged or truncated",
    "no_meta.dcm": "cannot be read as DICOM",
}


@pytest.mark.parametrize("name", REFUSED)
def test_real_files_that_are_refused(name, monkeypatch):
    path = real(name)
    if "no decoder" in REFUSED[name]:  # some may be installed here
        monkeypatch.setattr(type(pydicom.pixels.get_decoder(pydicom.uid.JPEGLSNearLossless)), "is_available", False)
    with pytest.raises(DataError, match=REFUSED[name]) as refused:
        read_image(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert len(str(refused.value).splitlines()) == 1


FRAMES = [np.random.default_rng(k).integers(0, 4096, (6, 9), np.uint16) for k in range(4)]


def test_frames_are_images_in_the_window_of_their_file(tmp_path):
    path = write_frames(tmp_path / "x.dcm", FRAMES, WindowCenter="2048", WindowWidth="1000", PixelSpacing=["2", "1"])
    found = slices([path])
    assert list(found) == [":0", ":1", ":2", ":3"]
    for pixels, (image,) in zip(FRAMES, found.values(), strict=True):
        alone = write_dicom(tmp_path / "alone.dcm", pixels, WindowCenter="2048", WindowWidth="1000")
        assert np.array_equal(read_image(image), read_image(alone))
        assert (read_header(image).kind, read_header(image).spacing_mm) == ("16-bit grey DICOM", (2.0, 1.0))


def test_what_a_frame_says_comes_before_what_all_say_and_the_file(tmp_path):
    shared = functional_groups(
        PixelMeasuresSequence={"PixelSpacing": [0.8, 0.5]},
        PixelValueTransformationSequence={"RescaleSlope": 2, "RescaleIntercept": -7},
    )
    each = [
        functional_groups(),
        functional_groups(PixelMeasuresSequence={"PixelSpacing": [3, 2]}),
        functional_groups(PixelValueTransformationSequence={"RescaleSlope": 1, "RescaleIntercept": -1000}),
        functional_groups(FrameVOILUTSequence={"WindowCenter": 2048.5, "WindowWidth": 1025}),
    ]
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": each}
    path = write_frames(tmp_path / "x.dcm", FRAMES, PixelSpacing=["9", "9"], RescaleSlope="9", **groups)
    images = [image for (image,) in slices([path]).values()]
    assert [read_header(image).spacing_mm for image in images] == [(0.8, 0.5), (3, 2), (0.8, 0.5), (0.8, 0.5)]
    assert np.array_equal(read_image(images[0]), 2.0 * FRAMES[0] - 7)
    assert np.array_equal(read_image(images[2]), FRAMES[2] - 1000.0)
    expected = np.clip((2.0 * FRAMES[3] - 7 - 1536) / 1024 * 255, 0, 255)  # linear: from 1536 to 2560
    assert read_image(images[3]).dtype == np.uint8
    assert np.abs(read_image(images[3]) - expected).max() <= 0.5 + 1e-9


def test_frames_of_colours_and_of_masks(tmp_path):
    colours = [np.random.default_rng(k).integers(0, 256, (7, 5, 3), np.uint8) for k in range(2)]
    path = write_frames(tmp_path / "x.dcm", colours)
    for pixels, (image,) in zip(colours, slices([path]).values(), strict=True):
        assert np.array_equal(read_image(image), pixels)
    masks = [np.uint8(frame > 2000) for frame in FRAMES]
    both = slices([write_enhanced_ct(tmp_path / "i.dcm", FRAMES, range(4)), write_frames(tmp_path / "m.dcm", masks)])
    for k, (image, mask) in enumerate(both.values()):
        assert np.array_equal(read_image(image), FRAMES[k])
        assert np.array_equal(read_mask(mask, 2), masks[k])


def test_frames_that_do_not_match_their_masks_are_refused(tmp_path):
    image = write_frames(tmp_path / "x.dcm", FRAMES)
    with pytest.raises(DataError, match="must have the same number of slices, got 4 and 3"):
        slices([image, write_frames(tmp_path / "m.dcm", FRAMES[:3])])
    with pytest.raises(DataError, match="may be in different orders"):
        slices([image, write_nifti(tmp_path / "m.nii", SLICES)])


def test_damaged_numbers_of_frames_are_refused(tmp_path):
    path = write_frames(tmp_path / "x.dcm", FRAMES)
    dataset = pydicom.dcmread(path)
    for number in (-1, 999_999_999):
        dataset.NumberOfFrames = number
        dataset.save_as(path)
        assert slices([path]) == {"": (path,)}
        with pytest.raises(DataError, match=rf"has fewer frames than its header says \({number}\)"):
            read_image(path)
    dataset.NumberOfFrames = 5
    dataset.save_as(path)
    *found, (last,) = slices([path]).values()
    assert [np.array_equal(read_image(image), pixels) for (image,), pixels in zip(found, FRAMES, strict=True)]
    for beyond in (last, tmp_path / "x.dcm:5"):
        with pytest.raises(DataError, match="cannot be read as DICOM, damaged or truncated"):
            read_image(beyond)


def test_one_frame_of_many_takes_the_memory_of_one(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", np.zeros((512, 512), np.uint16))
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 2000
    header = dataset.PixelData
    dataset.save_as(path)
    content = path.read_bytes()
    start = len(content) - len(header)
    with path.open("r+b") as file:  # 1 GiB that is not on the disk
        file.seek(start - 4)
        file.write((2000 * len(header)).to_bytes(4, "little"))
        file.seek(start + 1999 * len(header))
        file.write(b"\x07" * len(header))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_image(slices([path])[":1999"][0]).min() == 0x0707
    assert read_image(slices([path])[":1998"][0]).max() == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


REAL_FRAMES = {  # file -> frames, shape, type, description, spacing
    "SC_rgb_rle_2frame.dcm": (2, (100, 100, 3), "uint8", "8-bit RGB DICOM", (1.0, 1.0)),
    "emri_small.dcm": (10, (64, 64), "uint16", "12-bit grey DICOM", None),
    "emri_small_RLE.dcm": (10, (64, 64), "uint16", "12-bit grey DICOM", None),
    "emri_small_jpeg_2k_lossless.dcm": (10, (64, 64), "uint16", "12-bit grey DICOM", None),
    "eCT_Supplemental.dcm": (2, (512, 512), "uint8", "16-bit grey DICOM", (0.388672, 0.388672)),
    "color3d_jpeg_baseline.dcm": (120, (480, 640, 3), "uint8", "8-bit RGB DICOM", None),
    "OBXXXX1A_2frame.dcm": (2, (600, 800, 3), "uint16", "8-bit RGB DICOM", None),
}


@pytest.mark.parametrize("name", REAL_FRAMES)
def test_frames_of_real_files(name):
    path = real(name)
    images = [image for (image,) in slices([path]).values()]
    image, header = read_image(images[-1]), read_header(images[-1])
    assert (len(images), image.shape, image.dtype.name, header.kind, header.spacing_mm) == REAL_FRAMES[name]
    assert image.min() < image.max()


def test_frames_in_three_encodings_are_the_same():
    names = ("emri_small.dcm", "emri_small_RLE.dcm", "emri_small_jpeg_2k_lossless.dcm", "emri_small_big_endian.dcm")
    files = [[read_image(image) for (image,) in slices([real(name)]).values()] for name in names]
    assert all(np.array_equal(files[0], other) for other in files[1:])


def test_a_truncated_dicom_file_is_never_read(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", GREYS)
    whole = path.read_bytes()
    for part in (0, 0.02, 0.3, 0.6, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: "):
            read_image(path)


def test_huge_sizes_take_no_memory(tmp_path):
    dicom = write_dicom(tmp_path / "x.dcm", GREYS, Rows=60_000, Columns=60_000)
    volume = tmp_path / "x.nii.gz"
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((30_000, 30_000, 30_000))
    volume.write_bytes(gzip.compress(header.binaryblock + bytes(100)))
    smaller = tmp_path / "y.nii.gz"
    header.set_data_shape((512, 512, 1000))  # of a volume that may be, but is not there
    smaller.write_bytes(gzip.compress(header.binaryblock + bytes(100)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"too large, or damaged \(60000×60000 pixels take 7.2 GB"):
        read_image(dicom)
    with pytest.raises(DataError, match=r"too large, or damaged \(30000×30000×30000 voxels"):
        slices([volume])
    with pytest.raises(DataError, match="damaged or truncated"):
        read_image(slices([smaller])[":7"][0])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_a_file_of_another_format_is_refused(tmp_path):
    for name in ("x.dcm", "x.nii", "x.nii.gz"):
        (tmp_path / name).write_bytes(b"\x89PNG" + bytes(500))
        with pytest.raises(DataError, match="cannot be read as"):
            read_image(tmp_path / name)
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match="the file is empty"):
            read_image(tmp_path / name)


def message_or_image(path: Path) -> str | np.ndarray:
    """Return the first image of a file, or what is said where it is refused."""
    try:
        with warnings.catch_warnings():
            ignore_reader_warnings()
            image = next(iter(slices([path]).values()))[0]
            assert read_header(image).kind.isprintable()
            return read_image(image)
    except DataError as refused:
        return str(refused)


@pytest.mark.parametrize("suffix", [".dcm", ".dicom", ".nii", ".nii.gz"])
def test_damaged_files_are_read_or_refused(suffix, tmp_path, capfd):
    """Other bytes anywhere, most of them in the header, in one or two places."""
    path, rng = tmp_path / f"x{suffix}", np.random.default_rng(0)
    if suffix == ".dcm":
        window = {"WindowCenter": "2048", "WindowWidth": "900", "RescaleSlope": "2", "RescaleIntercept": "1"}
        write_dicom(path, GREYS, bits=12, **window)
    elif suffix == ".dicom":
        write_enhanced_ct(path, FRAMES, heights_mm=range(4))
    else:
        write_nifti(path, SLICES)
    whole, read = path.read_bytes(), 0
    for _ in range(300):
        content = bytearray(whole)
        for place in rng.integers(0, len(whole) if rng.random() < 0.3 else min(len(whole), 900), rng.integers(1, 3)):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        found = message_or_image(path)
        if isinstance(found, str):
            assert found.startswith(str(path))
            assert found.isprintable()
        else:
            read += 1
            assert found.dtype in ("uint8", "uint16", "int32", "float32")
            assert np.isfinite(found).all()
    assert capfd.readouterr() == ("", "")
    assert 10 < read < 290 or suffix == ".nii.gz"  # whose checksum finds nearly all


# NIfTI

SLICES = [np.random.default_rng(z).integers(-1000, 1000, (6, 9), np.int16) for z in range(4)]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_volume_is_its_axial_slices_however_its_axes_are_stored(suffix, tmp_path):
    for axes in ("LPS", "LPS", "PSR", "SAL", "IRP"):
        path = write_nifti(tmp_path / f"{axes}{suffix}", SLICES)
        if axes != "LPS":
            reoriented(path, axes)
        found = slices([path])
        assert list(found) == [":0", ":1", ":2", ":3"]
        for pixels, (image,) in zip(SLICES, found.values(), strict=True):
            assert np.array_equal(read_image(image), pixels), axes
            assert read_image(image).dtype == np.int32
            assert read_header(image).spacing_mm == pytest.approx((0.7, 0.5))
            assert read_header(image).kind == "16-bit grey NIfTI"


def test_values_are_scaled_as_the_header_says(tmp_path):
    image = nibabel.Nifti1Image(np.stack([each.T for each in SLICES], axis=-1), LPS)
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / "x.nii.gz")
    read = read_image(tmp_path / "x.nii.gz:2")
    assert read.dtype == np.float32
    assert np.array_equal(read, SLICES[2] / 2 - 3)


def test_a_two_dimensional_file_is_an_image(tmp_path):
    path = write_nifti(tmp_path / "x.nii.gz", [SLICES[0].astype(np.uint8)])
    assert slices([path]) == {"": (path,)}
    assert np.array_equal(read_image(path), SLICES[0].astype(np.uint8))


def test_masks_of_floats_are_class_indices(tmp_path):
    path = write_nifti(tmp_path / "x.nii", [np.float32(each > 0) for each in SLICES])
    assert np.array_equal(read_mask(slices([path])[":1"][0], 2), SLICES[1] > 0)


def test_what_is_no_single_volume_is_refused(tmp_path):
    for shape, dtype in (((4, 4, 4, 2), np.int16), ((4, 4, 4), np.complex64)):
        nibabel.save(nibabel.Nifti1Image(np.ones(shape, dtype), LPS), tmp_path / "x.nii")
        with pytest.raises(DataError, match=r"not one image or volume|not grey"):
            slices([tmp_path / "x.nii"])
    nibabel.save(nibabel.Nifti1Image(np.full((4, 4), np.nan, np.float32), LPS), tmp_path / "y.nii")
    with pytest.raises(DataError, match="pixels that are not finite numbers"):
        read_image(tmp_path / "y.nii")
    image, mask = write_nifti(tmp_path / "a.nii", SLICES), write_nifti(tmp_path / "m.nii", SLICES[:3])
    with pytest.raises(DataError, match=r"must have the same number of slices, got 4 and 3"):
        slices([image, mask])


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    for name, path in (("pydicom", tmp_path / "x.dcm"), ("nibabel", tmp_path / "x.nii")):
        path.write_bytes(b"x")
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match=rf"the package {name} is not installed: pip install 'runcard\[dicom\]'"):
            read_image(path)


@pytest.mark.parametrize("shape", [(9, 6), (9, 6, 1), (9, 6, 1, 1), (6, 4, 9), (6, 4, 9, 1)])
def test_a_mask_has_the_shape_and_the_affine_of_its_image(shape, tmp_path):
    affine = np.array([[0, 0, -0.5, 7], [0.7, 0, 0, -3], [0, 3, 0, 1], [0, 0, 0, 1]])  # of axes P, S, L
    path = tmp_path / "x.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).normal(size=shape).astype(np.float32), affine), path)
    images = [read_image(image) for (image,) in slices([path]).values()]
    content = nifti_mask(path, [(image > 0).astype(np.uint8) for image in images])
    assert content == nifti_mask(path, [(image > 0).astype(np.uint8) for image in images])
    (tmp_path / "mask.nii.gz").write_bytes(content)
    image, mask = nibabel.load(path), nibabel.load(tmp_path / "mask.nii.gz")
    assert (mask.shape, mask.get_data_dtype()) == (shape, np.uint8)
    assert np.array_equal(mask.affine, image.affine)
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(image.dataobj) > 0)
