"""Read DICOM files and NIfTI volumes, and write masks as NIfTI; image_io calls this by the suffix of a file.

pydicom and nibabel are the extra `dicom`, imported with the first such file. What they raise for a damaged file depends
on where their parsers fail, so everything they raise becomes a DataError.

Slices of a volume are axial: its axes are first reordered to those of DICOM (columns to the left of the patient, rows
to the back, slices to the head), whatever the order in which they are stored.
"""

from __future__ import annotations

import gzip
import math
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.filesize import decimal

from runcard.errors import DataError, UserError, how_to_install

DICOM_SUFFIXES = (".dcm", ".dicom")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # of one image, as in Pillow
MAX_DECODED_BYTES = 3 * MAX_PIXELS  # of one image: the largest of 8-bit RGB
MAX_VOLUME_BYTES = 2**31  # of one volume: 2048 slices of 512 x 512, of four bytes a voxel
NUM_VOLUMES_KEPT = 4  # an image and its mask, and those that follow them in other threads
FUNCTIONAL_GROUPS = ("PixelMeasuresSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence")
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # SOP classes: bits, or label maps
PIXEL_KEYWORDS = {0x08: "FloatPixelData", 0x09: "DoubleFloatPixelData", 0x10: "PixelData"}  # by the end of their tags
BYTES_OF_FRAGMENT = 8  # the least that a compressed frame takes
MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}  # others, also unknown ones, are mm
TRUNCATED = re.compile(r"truncated|less than expected|end of file", re.IGNORECASE)
FIX = "Replace or remove it."  # for unreadable files, of any format
SMALLER = "Save it smaller, in tiles say, or remove it."
_loading = threading.Lock()  # a volume is read once, not in every thread that wants a slice of it

Spacing = tuple[float, float]  # in mm: between the centres of rows, and of columns


@dataclass(frozen=True)
class Header:
    """What the header of an image file says."""

    kind: str  # depth, mode and format: "8-bit grey JPEG"
    spacing_mm: Spacing | None = None
    burned_in_text: bool = False  # the file says that its pixels contain text
    num_pages: int = 1  # images in the file, of which the first one is read


def read_dicom(path: Path, frame: int | None = None, as_stored: bool = False) -> np.ndarray:
    """Read a DICOM image, or frame 0, 1, … of several, as it is meant to be seen: H×W, or H×W×3 (RGB).

    MONOCHROME1 is inverted. The modality LUT or rescaling applies, then the first VOI LUT or window, which gives uint8;
    those of a frame come before those of the file. A grey image without either keeps its values, uint8, uint16, int32
    or, rescaled, float32: see image_io.windowed. as_stored returns the stored values of a grey image, as masks need
    them. Raises DataError, also for several frames where none is named.
    """
    with refused(path, "DICOM"):
        import pydicom
        from pydicom.pixels import apply_color_lut, apply_modality_lut

        dataset = pydicom.dcmread(path) if frame is None else _header(path)[0]
        frames = _check_image(path, dataset)
        if frame is None and frames > 1:
            raise DataError("unreadable", path, "has several frames", "Name one of them, x.dcm:7.", f" ({frames})")
        try:
            pixels = dataset.pixel_array if frame is None else _frame_pixels(path, frame)
        except RuntimeError:
            raise _undecoded(path, "compressed in a way that no installed decoder can read", dataset) from None
        dataset = _of_frame(dataset, frame or 0)
        mode = str(dataset.PhotometricInterpretation)
        if mode == "PALETTE COLOR" and not as_stored:
            pixels = apply_color_lut(pixels, dataset)
        if pixels.ndim == 3:  # pydicom has converted YBR
            if pixels.dtype not in (np.uint8, np.uint16):
                raise DataError("unreadable", path, "colours of more than 16 bits", "Save it with 8.")
            return np.asarray(pixels)
        if as_stored:
            return _native(path, pixels)
        has_window = bool(dataset.get("VOILUTSequence") or dataset.get("WindowWidth"))  # they may be there and empty
        if mode == "MONOCHROME1" and not has_window:
            pixels = _inverted(pixels, int(dataset.BitsStored))
        rescaling = (float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0))
        if dataset.get("ModalityLUTSequence") or rescaling != (1, 0):
            pixels = apply_modality_lut(pixels, dataset)
        if not has_window:
            return _native(path, pixels)
        shown = _displayed(pixels, dataset)
        return 255 - shown if mode == "MONOCHROME1" else shown


def read_nifti(path: Path, z: int | None) -> np.ndarray:
    """Read axial slice z of a NIfTI volume, or (None) a two-dimensional NIfTI image: H×W, in the values of its header.

    uint8, uint16, int32 or float32. Raises DataError.
    """
    with refused(path, "NIfTI"):
        status = path.stat()
        with _loading:
            voxels, slope, intercept = _voxels(path, status.st_mtime_ns, status.st_size)
        if (z is None) != (voxels.ndim == 2):
            raise DataError("unreadable", path, "a volume, where one image is wanted", "Name a slice of it, x.nii:7.")
        pixels = (voxels if z is None else voxels[:, :, z]).T
        return _native(path, pixels if (slope, intercept) == (1, 0) else pixels * slope + intercept)


def num_slices(path: Path) -> int | None:
    """Count the axial slices of a NIfTI volume by its header; None for a two-dimensional image."""
    with refused(path, "NIfTI"):
        image = _open_nifti(path)
        shape = _shape(image)
        return int(shape[_stored_axes(image)[2]]) if len(shape) == 3 else None


def num_frames(path: Path) -> int | None:
    """Count the frames of a DICOM file by its header; None for a single image, and for a file that cannot be read.

    Reading that says why. Raises UserError where pydicom is not installed.
    """
    try:
        with refused(path, "DICOM"):
            frames = _check_image(path, _header(path)[0])
    except DataError:
        return None
    return frames if frames > 1 else None


def dicom_header(path: Path, frame: int | None = None) -> Header:
    """Read the header of a DICOM file, for one of its frames: "12-bit grey DICOM"."""
    with refused(path, "DICOM"):
        dataset, _ = _header(path)
        mode = "grey" if str(dataset.PhotometricInterpretation).startswith("MONOCHROME") else "RGB"
        spacing = to_spacing(_of_frame(dataset, frame or 0).get("PixelSpacing"))
        spacing = spacing or to_spacing(dataset.get("ImagerPixelSpacing"))
        burned_in = str(dataset.get("BurnedInAnnotation", "")).upper() == "YES"
        return Header(f"{int(dataset.BitsStored)}-bit {mode} DICOM", spacing, burned_in)


def nifti_header(path: Path) -> Header:
    """Read the header of a NIfTI file: "16-bit grey NIfTI", and the spacing of its axial slices."""
    with refused(path, "NIfTI"):
        image = _open_nifti(path)
        dtype, unit = image.header.get_data_dtype(), MM_PER_UNIT.get(image.header.get_xyzt_units()[0], 1.0)
        zooms = [float(zoom) * unit for zoom in image.header.get_zooms()[: len(_shape(image))]]
        if len(zooms) == 3:
            zooms = [zooms[axis] for axis in _stored_axes(image)]
        depth = "float" if dtype.kind == "f" else f"{8 * dtype.itemsize}-bit"
        return Header(f"{depth} grey NIfTI", to_spacing([zooms[1], zooms[0]]))


def nifti_mask(like: Path, masks: Sequence[np.ndarray]) -> bytes:
    """Make the NIfTI file of masks (H, W) uint8, one per slice of the file like, in its shape and with its affine."""
    import nibabel
    from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

    image = _open_nifti(like)
    if len(_shape(image)) == 2:
        voxels = masks[0].T
    else:
        stored = ornt_transform(axcodes2ornt("LPS"), io_orientation(image.affine))
        voxels = apply_orientation(np.stack(masks, axis=-1).transpose(1, 0, 2), stored)
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    header["cal_min"] = header["cal_max"] = 0  # the range of the image's greys
    kind = nibabel.Nifti2Image if isinstance(image, nibabel.Nifti2Image) else nibabel.Nifti1Image
    content: bytes = kind(np.ascontiguousarray(voxels).reshape(image.shape), image.affine, header).to_bytes()
    return gzip.compress(content, mtime=0) if like.name.lower().endswith(".gz") else content


@contextmanager
def refused(path: Path, kind: str = "") -> Iterator[None]:
    """Turn whatever reading an image file of any kind raises into a DataError, a missing package into a UserError."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would block
            raise DataError("unreadable", path, "not a file", "Rename or remove it.")
        yield
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: {how_to_install(error)}") from None
    except FileNotFoundError:
        raise DataError("unreadable", path, "no such file", "Is it a link that leads nowhere?") from None
    except PermissionError:
        raise DataError("unreadable", path, "permission denied", "Change its permissions.") from None
    except Exception as error:
        if path.stat().st_size == 0:
            raise DataError("empty_file", path, "the file is empty", FIX) from None
        if isinstance(error, UnidentifiedImageError):
            raise DataError("unreadable", path, "not an image that can be read (PNG, JPEG, BMP or TIFF)", FIX) from None
        said = _printable((str(error).splitlines() or [""])[0])
        if isinstance(error, Image.DecompressionBombError):
            raise DataError("unreadable", path, "too large, or damaged", SMALLER, f" ({said})") from None
        check = "truncated" if isinstance(error, EOFError) or TRUNCATED.search(said) else "unreadable"
        what = f"cannot be read{kind and f' as {kind}'}, damaged or truncated"
        raise DataError(check, path, what, FIX, f" ({said})") from None


def _printable(text: str) -> str:
    return "".join(sign for sign in text if sign.isprintable())


def _header(path: Path) -> tuple[Any, int]:
    """Return a DICOM file without its pixels, to be read only, and where these begin; kept for its next frames."""
    status = path.stat()
    return _parsed(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=NUM_VOLUMES_KEPT)
def _parsed(path: Path, _modified: int, _size: int) -> tuple[Any, int]:
    import pydicom

    with path.open("rb") as file:
        return pydicom.dcmread(file, stop_before_pixels=True), file.tell()


def _frame_pixels(path: Path, frame: int) -> np.ndarray:
    """Decode one frame, where it lies in the file. pydicom.pixels.pixel_array would parse the header again for each."""
    from pydicom.pixels import get_decoder
    from pydicom.pixels.utils import as_pixel_options

    header, start = _header(path)
    syntax = header.file_meta.TransferSyntaxUID
    with path.open("rb") as file:
        file.seek(start)
        element = file.read(8 if syntax.is_implicit_VR else 12)  # tag, type and length; the type may be absent
        options = as_pixel_options(header, pixel_keyword=PIXEL_KEYWORDS[element[2] | element[3]])
        if not syntax.is_implicit_VR:
            options["pixel_vr"] = element[4:6].decode()
        return np.asarray(get_decoder(syntax).as_array(file, index=frame, **options)[0])


def _check_image(path: Path, dataset: Any) -> int:
    """Count the frames. Raise DataError for pixels that cannot be decoded, before anything is allocated for them."""
    from pydicom.pixels import get_decoder

    if "Rows" not in dataset:
        raise DataError("unreadable", path, "a DICOM file without an image", "Remove it.")
    frames, num_pixels = int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows) * int(dataset.Columns)
    num_bytes = num_pixels * int(dataset.get("SamplesPerPixel") or 1) * math.ceil(int(dataset.BitsAllocated) / 8)
    if num_pixels <= 0 or num_bytes > MAX_DECODED_BYTES:
        size = f"{dataset.Columns}×{dataset.Rows} pixels take {decimal(num_bytes)}"
        limit = decimal(MAX_DECODED_BYTES)
        raise DataError("unreadable", path, "too large, or damaged", SMALLER, f" ({size}, the limit is {limit})")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed and syntax.is_encapsulated and not get_decoder(syntax).is_available:
        raise _undecoded(path, "compressed, and no decoder is installed", dataset)
    if frames == 1:
        return 1
    if dataset.SOPClassUID in SEGMENTATIONS:
        what = "a DICOM segmentation of several frames, which are not those of an image"
        raise DataError("unreadable", path, what, "Convert it to PNG or NIfTI.", f" ({frames})")
    smallest = BYTES_OF_FRAGMENT if syntax.is_encapsulated else num_pixels * int(dataset.BitsAllocated) / 8
    if not 0 < frames * smallest <= path.stat().st_size:
        raise DataError("truncated", path, "has fewer frames than its header says", FIX, f" ({frames})")
    return frames


def _of_frame(dataset: Any, frame: int) -> Any:
    """Return what describes the pixels of a frame (group 0028): its own functional groups, those of all, the file's."""
    found = dataset.group_dataset(0x0028)
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for groups in (*shared[:1], *own[frame : frame + 1]):
        for name in FUNCTIONAL_GROUPS:
            for group in (groups.get(name) or [])[:1]:
                found.update(group)
    return found


def _undecoded(path: Path, what: str, dataset: Any) -> DataError:
    fix = "Install one, pip install 'pylibjpeg[all]', or save the file uncompressed."
    return DataError("unreadable", path, what, fix, f": {_printable(dataset.file_meta.TransferSyntaxUID.name)}")


def _displayed(values: np.ndarray, dataset: Any) -> np.ndarray:
    """Apply the file's first VOI LUT or window to values (H, W), which gives uint8."""
    from pydicom import Dataset
    from pydicom.pixels.processing import apply_voi, apply_windowing

    if dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        shown = apply_voi(np.rint(values).astype(np.int64), dataset) * (255 / (2**bits - 1))
        return np.asarray(np.rint(shown), np.uint8)
    names = ("WindowCenter", "WindowWidth", "VOILUTFunction")
    window = Dataset({dataset[name].tag: dataset[name] for name in names if name in dataset})
    window.PhotometricInterpretation, window.PixelRepresentation, window.BitsStored = "MONOCHROME2", 0, 8
    with np.errstate(over="ignore"):  # the exponential of a sigmoid far outside its window
        shown = apply_windowing(values, window)  # to the range of BitsStored
    if not np.isfinite(shown).all():
        raise ValueError("its window is not finite")
    return np.asarray(np.rint(shown), np.uint8)


def _inverted(stored: np.ndarray, bits: int) -> np.ndarray:
    """Invert stored values within the range of their bits."""
    if stored.dtype.kind == "f":
        return -stored
    return (~stored if stored.dtype.kind == "i" else (2**bits - 1) - stored.astype(np.int64)).astype(stored.dtype)


def _native(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Convert pixels of any number type to uint8, uint16, int32 or float32. Raises DataError for infinite ones."""
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8)
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 4 and pixels.dtype != np.dtype(np.uint32):
        kinds = {"u1": np.uint8, "u2": np.uint16}
        return np.ascontiguousarray(pixels, kinds.get(pixels.dtype.str[1:], np.int32))
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(pixels, np.float32)
    if not np.isfinite(values).all():
        raise DataError("unreadable", path, "has pixels that are not finite numbers", FIX)
    return values


def to_spacing(values: Any) -> Spacing | None:
    """Convert a header's two numbers to a spacing; None where they are none, or not lengths."""
    try:
        rows, columns = (float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return (rows, columns) if all(0 < v < math.inf for v in (rows, columns)) else None


def _open_nifti(path: Path) -> Any:
    """Open a NIfTI file, without its voxels. Raises ValueError for one that is no grey image or volume."""
    import nibabel

    image = nibabel.load(path)
    shape, dtype = _shape(image), image.header.get_data_dtype()
    size, num_bytes = "×".join(map(str, shape)), math.prod(map(int, shape)) * dtype.itemsize
    if not 2 <= len(shape) <= 3 or min(shape) < 1:
        raise DataError("unreadable", path, "not one image or volume", "Split it.", f": {size}")
    if num_bytes > MAX_VOLUME_BYTES:
        takes = f" ({size} voxels take {decimal(num_bytes)}, the limit is {decimal(MAX_VOLUME_BYTES)})"
        raise DataError("unreadable", path, "too large, or damaged", "Split it.", takes)
    if dtype.kind not in "biuf":
        raise DataError("unreadable", path, "not grey", "Save it with one number per voxel.", f", but {dtype}")
    return image


def _shape(image: Any) -> tuple[int, ...]:
    """Return the shape of an image without a last axis of time, or of slices, that has length one."""
    shape: tuple[int, ...] = image.shape
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


@lru_cache(maxsize=NUM_VOLUMES_KEPT)
def _voxels(path: Path, _modified: int, _size: int) -> tuple[np.ndarray, float, float]:
    """Read the stored voxels of a file (columns, rows[, slices]), and the slope and intercept of their values.

    nibabel would allocate what the header claims, and map a file into memory that may be replaced during training.
    """
    image = _open_nifti(path)
    proxy, shape = image.dataobj, _shape(image)
    num_bytes = math.prod(shape) * proxy.dtype.itemsize
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        file.seek(proxy.offset)
        content = file.read(num_bytes)
        file.read(1)  # the end, and with it gzip's checksum
    if len(content) < num_bytes:
        raise EOFError(f"{num_bytes} bytes of voxels expected, {len(content)} found")
    stored = np.frombuffer(content, proxy.dtype).reshape(shape, order="F")
    if stored.ndim == 3:
        from nibabel.orientations import apply_orientation

        stored = np.asarray(apply_orientation(stored, _reordering(image)))  # a view
    return stored, float(proxy.slope), float(proxy.inter)


def _reordering(image: Any) -> np.ndarray:
    """Return nibabel's orientation transform from the axes of a file to columns, rows and slices."""
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    return np.asarray(ornt_transform(io_orientation(image.affine), axcodes2ornt("LPS")))


def _stored_axes(image: Any) -> list[int]:
    """Return the axis of a volume's file that holds columns, that of rows, and that of slices."""
    axes: list[int] = np.argsort(_reordering(image)[:, 0]).tolist()
    return axes
