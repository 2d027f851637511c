"""DICOM and NIfTI files made for tests. A test that imports this is skipped where the extra dicom is not installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="an extra: pip install -e .[dicom]")
nibabel = pytest.importorskip("nibabel", reason="an extra: pip install -e .[dicom]")
highdicom = pytest.importorskip("highdicom", reason="an extra: pip install -e .[dicom]")

LPS = np.diag([-0.5, -0.7, 3.0, 1.0])  # stored as DICOM stores: columns to the left, rows to the back, 0.7 mm apart


def write_dicom(path: Path, pixels: np.ndarray, bits: int | None = None, **elements: Any) -> Path:
    """Write pixels, H×W or H×W×3 of 8 or 16 bits, as an uncompressed DICOM file with these elements."""
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (generate_uid(entropy_srcs=[level]) for level in "ab")
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + bytes(pixels.nbytes % 2)
    for name, value in elements.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_frames(path: Path, frames: Sequence[np.ndarray], **elements: Any) -> Path:
    """Write frames of one size and type as one DICOM file."""
    content = b"".join(frame.tobytes() for frame in frames)
    pixels = {"NumberOfFrames": len(frames), "PixelData": content + bytes(len(content) % 2)}
    return write_dicom(path, frames[0], **pixels, **elements)


def functional_groups(**groups: dict[str, Any]) -> Any:
    """Return an item of functional groups: the name of each sequence, and the elements of its item."""
    item = pydicom.Dataset()
    for name, elements in groups.items():
        group = pydicom.Dataset()
        for key, value in elements.items():
            setattr(group, key, value)
        setattr(item, name, [group])
    return item


def write_enhanced_ct(path: Path, frames: Sequence[np.ndarray], heights_mm: Sequence[float]) -> Path:
    """Write frames as an enhanced CT image at these heights, rows 0.8 mm and columns 0.5 mm apart."""
    shared = functional_groups(
        PixelMeasuresSequence={"PixelSpacing": [0.8, 0.5], "SliceThickness": 2},
        PlaneOrientationSequence={"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
    )
    each = [functional_groups(PlanePositionSequence={"ImagePositionPatient": [0, 0, z]}) for z in heights_mm]
    return write_frames(
        path,
        frames,
        SOPClassUID=pydicom.uid.EnhancedCTImageStorage,
        FrameOfReferenceUID="1.2.3",
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=each,
    )


def write_nifti(path: Path, slices: Sequence[np.ndarray], affine: np.ndarray = LPS) -> Path:
    """Write slices (H, W), rows to the back and columns to the left of a patient, as a volume; one as an image."""
    voxels = slices[0].T if len(slices) == 1 else np.stack([each.T for each in slices], axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def reoriented(path: Path, axes: str) -> Path:
    """Store a volume again with its axes in another order, "PSR" say: the same patient, and an affine that says so."""
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    image = nibabel.load(path)
    turned = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(axes)))
    nibabel.save(nibabel.Nifti1Image(np.array(turned.dataobj), turned.affine), path)
    return path


def disc(i: int, height: int = 40, width: int = 48) -> np.ndarray:
    """Return a disc (H, W) bool that lies elsewhere for every i."""
    y, x = np.mgrid[:height, :width]
    return (y - height / 2 - i % 5) ** 2 + (x - width / 2 + i % 7) ** 2 < (8 + i % 3) ** 2


def greys(i: int) -> np.ndarray:
    """Return an image of disc i, uint16 of 12 bits, with noise."""
    return (1300 + 1000 * disc(i) + np.random.default_rng(i).integers(0, 1500, disc(i).shape)).astype(np.uint16)


def write_dicom_pairs(root: Path) -> Path:
    """Write ten pairs of DICOM images, rows 0.8 mm and columns 0.5 mm apart, and PNG masks of their discs."""
    (root / "Mask").mkdir(parents=True)
    for i in range(10):
        write_dicom(root / "Image" / f"{i}.dcm", greys(i), bits=12, PixelSpacing=["0.8", "0.5"])
        Image.fromarray(255 * disc(i).astype(np.uint8)).save(root / "Mask" / f"{i}.png")
    return root


def write_volume_pairs(root: Path) -> Path:
    """Write five pairs of volumes of three to five slices; images are stored in two orders of axes."""
    for i in range(5):
        numbers = range(7 * i, 7 * i + 3 + i % 3)
        image = write_nifti(root / "images" / f"p{i}.nii.gz", [greys(n).astype(np.int16) for n in numbers])
        if i % 2:
            reoriented(image, "PSR")
        write_nifti(root / "labels" / f"p{i}_seg.nii.gz", [disc(n).astype(np.uint8) for n in numbers])
    return root
