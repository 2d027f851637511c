"""What an audit says of DICOM and NIfTI files beside what it says of all images."""

from __future__ import annotations

import numpy as np
from conftest import ONE_EPOCH
from corpus import audited
from medical import disc, greys, write_dicom, write_dicom_pairs, write_nifti, write_volume_pairs

CONFIG = ("dataset=image_mask", "dataset.window=[0,4095]", *ONE_EPOCH)


def test_masks_of_another_number_of_slices_are_a_fault(tmp_path):
    volumes = write_volume_pairs(tmp_path)
    write_nifti(volumes / "labels" / "p0_seg.nii.gz", [disc(0).astype(np.uint8)] * 2)
    findings = audited(volumes, CONFIG)
    (fault,) = [finding for finding in findings if finding.level == "error"]
    assert (fault.check, fault.places) == ("mask_size", ("labels/p0_seg.nii.gz, got 3 and 2",))


def test_text_in_the_image_and_missing_spacing_are_warned_of(tmp_path):
    dicoms = write_dicom_pairs(tmp_path)
    write_dicom(dicoms / "Image" / "3.dcm", greys(3), bits=12, PixelSpacing=["1", "1"], BurnedInAnnotation="YES")
    write_dicom(dicoms / "Image" / "4.dcm", greys(4), bits=12)
    findings = {finding.check: finding for finding in audited(dicoms, CONFIG)}
    assert (findings["burned_in_text"].level, findings["burned_in_text"].places) == ("warning", ("Image/3.dcm",))
    assert (findings["mixed_spacing"].level, findings["mixed_spacing"].places) == ("warning", ("Image/4.dcm",))
