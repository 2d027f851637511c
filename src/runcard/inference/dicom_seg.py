"""Write predicted masks as a DICOM segmentation object, with highdicom (the extra dicom)."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runcard import __version__
from runcard.errors import first_line

REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")  # what the object refers to
MAY_BE_EMPTY = (  # elements that the object must have, if need be without a value
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber"),
)
NO_DATE, NO_TIME = "19000101", "000000"
MAX_TEXT = 64  # characters of a DICOM name


def encode_segmentation(file: Path, masks: Sequence[np.ndarray], made_by: dict[str, Any], sha256: str) -> bytes:
    """Make the segmentation of a DICOM file, whose hash is sha256, from the masks (H, W) uint8 of its frames.

    Every class but the first is a segment; a code for what it shows is not known, so its name is a code of Runcard's.
    made_by describes the runs and what else decides a prediction. The same arguments give the same bytes: UIDs are
    hashes, dates those of the image. Raises ValueError where the file lacks what a segmentation must refer to.
    """
    try:
        return _encode(file, masks, made_by, sha256)
    except Exception as error:  # highdicom finds what is missing where it fails: errors of many kinds
        raise ValueError(first_line(error)) from None


def _encode(file: Path, masks: Sequence[np.ndarray], made_by: dict[str, Any], sha256: str) -> bytes:
    import highdicom
    import pydicom
    from highdicom.sr import CodedConcept

    def uid(*sources: str) -> str:
        return str(pydicom.uid.generate_uid(entropy_srcs=[json.dumps(made_by, sort_keys=True), *sources]))

    source = pydicom.dcmread(file, stop_before_pixels=True)
    if missing := [name for name in REQUIRED if not source.get(name)]:
        raise ValueError(f"no {missing[0]}")
    if len(masks) > 1 and highdicom.spatial.get_image_coordinate_system(source) is None:
        raise ValueError("no positions of its frames")
    for name in MAY_BE_EMPTY:
        source.setdefault(name, None)
    if not source.get("SliceThickness"):  # the standard does without, but highdicom reads no spacing without it
        if "ImagePositionPatient" in source:
            raise ValueError("no SliceThickness")
        source.pop("PixelSpacing", None)
    runs = {run["run"]: run["weights_sha256"] for run in made_by["runs"]}
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=f"Runcard {', '.join(runs)}"[:MAX_TEXT],
        family=CodedConcept("123109", "DCM", "Artificial Intelligence"),
        version=__version__,
        parameters=runs,
    )
    category = CodedConcept("309825002", "SCT", "Spatial and Relational Concept")
    segments = [
        highdicom.seg.SegmentDescription(
            i, name, category, CodedConcept(name, "99RUNCARD", name), "AUTOMATIC", algorithm
        )
        for i, name in enumerate(made_by["classes"][1:], start=1)
    ]
    made = highdicom.seg.Segmentation(
        [source],
        np.stack(masks),
        "BINARY",
        segments,
        series_instance_uid=uid("series", source.SeriesInstanceUID),
        series_number=1,
        sop_instance_uid=uid("instance", sha256),
        instance_number=max(1, int(source.get("InstanceNumber") or 1)),
        manufacturer="Runcard",
        manufacturer_model_name="runcard predict",
        software_versions=__version__,
        device_serial_number=uid("weights"),
        content_label="SEGMENTATION",
        content_date=source.get("ContentDate") or source.StudyDate or NO_DATE,
        content_time=source.get("ContentTime") or source.StudyTime or NO_TIME,
        specific_character_set="ISO_IR 192",  # UTF-8, which class names may need
    )
    del made.InstanceCreationDate, made.InstanceCreationTime  # now
    del made.ContributingEquipmentSequence[-1].ContributionDateTime
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid("dimensions", sha256)  # else random
    content = io.BytesIO()
    made.save_as(content, enforce_file_format=True)
    return content.getvalue()
