"""DICOM segmentations: what is predicted is read back, bytes are reproducible, and what has none has PNG."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from medical import disc, greys, highdicom, pydicom, write_dicom, write_enhanced_ct, write_frames
from PIL import Image

import runcard
from runcard.data.image_io import read_image, read_mask
from runcard.inference.dicom_seg import encode_segmentation

MADE_BY = {"runs": [{"run": "outputs/a", "weights_sha256": "0" * 64}], "classes": ["background", "lung", "Herz ä"]}
PATIENT = {"PatientName": "Grün^Ä", "PatientID": "7", "SpecificCharacterSet": "ISO_IR 100", "StudyDate": "20240131"}


def segmented(content: Path | bytes, image: Path) -> np.ndarray:
    """Read the class of each pixel (frames, H, W) in a segmentation, as highdicom finds it for the frames of image."""
    made = highdicom.seg.segread(BytesIO(content) if isinstance(content, bytes) else content)
    source = pydicom.dcmread(image, stop_before_pixels=True)
    how = {"combine_segments": True, "assert_missing_frames_are_empty": True, "ignore_spatial_locations": True}
    frames = range(1, int(source.get("NumberOfFrames") or 1) + 1)
    if len(frames) == 1:
        return made.get_pixels_by_source_instance([source.SOPInstanceUID], **how)
    return made.get_pixels_by_source_frame(source.SOPInstanceUID, frames, **how)


def three_classes(i: int) -> np.ndarray:
    return disc(i).astype(np.uint8) + disc(i + 3)


def test_a_segmentation_holds_the_mask_and_refers_to_its_image(tmp_path):
    image = write_dicom(tmp_path / "x.dcm", greys(0), bits=12, InstanceNumber=5, **PATIENT)
    content = encode_segmentation(image, [three_classes(0)], MADE_BY, "a hash")
    assert np.array_equal(segmented(content, image), [three_classes(0)])
    made, source = pydicom.dcmread(BytesIO(content)), pydicom.dcmread(image)
    assert [(each.SegmentLabel, each.SegmentAlgorithmType) for each in made.SegmentSequence] == [
        ("lung", "AUTOMATIC"),
        ("Herz ä", "AUTOMATIC"),
    ]
    assert made.SegmentSequence[0].SegmentAlgorithmName == "Runcard outputs/a"
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "InstanceNumber"):
        assert str(made[name].value) == str(source[name].value), name
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert (made.SegmentationType, made.Modality, made.ContentDate) == ("BINARY", "SEG", "20240131")


def test_bytes_depend_on_the_runs_and_the_image_alone(tmp_path):
    image = write_dicom(tmp_path / "x.dcm", greys(0), bits=12)
    made = encode_segmentation(image, [three_classes(0)], MADE_BY, "a hash")
    assert made == encode_segmentation(image, [three_classes(0)], MADE_BY, "a hash")
    others = [
        encode_segmentation(image, [three_classes(0)], MADE_BY | {"versions": "others"}, "a hash"),
        encode_segmentation(image, [three_classes(0)], MADE_BY, "another hash"),
    ]
    assert len({pydicom.dcmread(BytesIO(each)).SOPInstanceUID for each in (made, *others)}) == 3


def test_an_empty_mask_and_a_missing_class(tmp_path):
    image = write_dicom(tmp_path / "x.dcm", greys(0), bits=12)
    for mask in (np.zeros((40, 48), np.uint8), 2 * disc(0).astype(np.uint8), np.full((40, 48), 1, np.uint8)):
        assert np.array_equal(segmented(encode_segmentation(image, [mask], MADE_BY, "a hash"), image), [mask])


def test_frames_are_one_segmentation_in_the_order_of_the_image(tmp_path):
    masks = [three_classes(0), np.zeros((40, 48), np.uint8), three_classes(2), three_classes(3)]
    image = write_enhanced_ct(tmp_path / "x.dcm", [greys(i) for i in range(4)], heights_mm=[9, 3, 6, 0])
    content = encode_segmentation(image, masks, MADE_BY, "a hash")
    assert np.array_equal(segmented(content, image), masks)
    assert content == encode_segmentation(image, masks, MADE_BY, "a hash")


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"StudyInstanceUID": None}, "no StudyInstanceUID"),
        ({"SOPClassUID": "1.2.3"}, "1.2.3"),
        ({"SOPClassUID": pydicom.uid.CTImageStorage}, "no Frame Of Reference UID"),
        ({"PatientSex": "unknown"}, "unknown"),
        ({"StudyDate": "yesterday"}, "yesterday"),
    ],
)
def test_what_a_file_lacks_is_said(elements, reason, tmp_path):
    image = write_dicom(tmp_path / "x.dcm", greys(0), bits=12, **elements)
    with pytest.raises(ValueError, match=reason) as refused:
        encode_segmentation(image, [three_classes(0)], MADE_BY, "a hash")
    assert len(str(refused.value).splitlines()) == 1


def test_predictions_of_dicom_files(trained_runs, runcard_command, tmp_path):
    run, folder = trained_runs / "masks" / "seed0", tmp_path / "images"
    shown = {"WindowCenter": "2000", "WindowWidth": "2000"}
    paths = [write_dicom(folder / f"{i}.dcm", greys(i), bits=12, **shown) for i in range(3)]
    write_dicom(folder / "lost.dcm", greys(0), bits=12, StudyInstanceUID=None, **shown)
    paths.append(write_enhanced_ct(folder / "ct.dcm", [greys(i) for i in range(3)], heights_mm=[4, 2, 0]))
    write_frames(folder / "clip.dcm", [greys(i) for i in range(3)], **shown)
    code, out, errors = runcard_command("predict", run, folder, "-o", "out")
    assert (code, errors) == (0, "")
    reason = "no positions of its frames"
    assert f"warning: PNG masks of 2 DICOM files that no DICOM segmentation can be made of ({reason})" in out
    assert out.splitlines()[-2].endswith(": clip, lost")
    predictor = runcard.load(run)
    for path in paths[:3]:
        mask = predictor.predict(path).mask
        assert np.array_equal(segmented(tmp_path / "out" / path.name, path), [mask])
        assert np.array_equal(read_mask(tmp_path / "out" / path.name, 2), mask)
    frames = [predictor.predict(read_image(folder / f"ct.dcm:{k}")).mask for k in range(3)]
    assert np.array_equal(segmented(tmp_path / "out" / "ct.dcm", paths[3]), frames)
    for k in range(3):
        mask = predictor.predict(read_image(folder / f"clip.dcm:{k}")).mask
        assert np.array_equal(Image.open(tmp_path / "out" / f"clip:{k}.png"), mask)
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert [record[name]["mask"] for name in ("0", "lost", "ct:1", "clip:1")] == [
        "0.dcm",
        "lost.png",
        "ct.dcm",
        "clip:1.png",
    ]
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    runcard_command("predict", run, folder, "-o", "again", "--batch-size", 2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == written
    for name in ("1.dcm", "ct.dcm", "clip:1.png"):  # a lost frame is predicted again with the others of its file
        (tmp_path / "out" / name).unlink()
    assert "7 images predicted, 3 were done before" in runcard_command("predict", run, folder, "-o", "out")[1]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == written


REAL = {  # file -> why no segmentation can be made of it
    "CT_small.dcm": None,
    "MR_small.dcm": None,
    "MR_small_bigendian.dcm": None,
    "JPEG2000.dcm": None,
    "US1_UNCR.dcm": None,
    "RG1_UNCR.dcm": None,
    "SC_rgb.dcm": None,
    "eCT_Supplemental.dcm": None,
    "emri_small.dcm": "no positions of its frames",
    "color3d_jpeg_baseline.dcm": "no positions of its frames",
}


@pytest.mark.parametrize("name", REAL)
def test_real_files(name):
    path = pydicom.data.get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name}: pip install pydicom-data")
    source = pydicom.dcmread(path, stop_before_pixels=True)
    size = int(source.get("NumberOfFrames") or 1), source.Rows, source.Columns
    masks = np.random.default_rng(0).integers(0, 3, size, np.uint8)
    if REAL[name]:
        with pytest.raises(ValueError, match=REAL[name]):
            encode_segmentation(Path(path), masks, MADE_BY, "a hash")
    else:
        content = encode_segmentation(Path(path), masks, MADE_BY, "a hash")
        assert np.array_equal(segmented(content, Path(path)), masks)
