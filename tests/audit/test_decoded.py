"""Decoded images that are kept for the next run: they and their profiles are those of the files, and only those."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
from conftest import ROOT, compose_config
from medical import write_dicom_pairs
from PIL import Image
from safetensors.numpy import load_file
from typer.testing import CliRunner

from runcard.audit import decoded
from runcard.caching import open_cache
from runcard.cli import app
from runcard.config.schema import parse_config
from runcard.data import preprocessing
from runcard.data.datamodule import open_source
from runcard.datasets.image_mask import ImageMaskFolder
from runcard.errors import UserError

LUNGS = ROOT / "src" / "runcard" / "datasets" / "lung_ct"


@pytest.fixture
def lungs(tmp_path):
    """Twelve slices with masks, in a folder of their own."""
    for part in ("Image", "Mask"):
        (tmp_path / "lungs" / part).mkdir(parents=True)
        for path in sorted((LUNGS / part).iterdir())[:12]:
            shutil.copy(path, tmp_path / "lungs" / part)
    return tmp_path / "lungs"


@pytest.fixture
def photographs(tmp_path):
    """Eight images in two classes: grey and RGB, one of 16 bits."""
    rng = np.random.default_rng(0)
    for i in range(8):
        (tmp_path / "photographs" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        shape = (30, 40, 3) if i % 3 else (30, 40)
        image = rng.integers(0, 255, shape, np.uint8) if i else rng.integers(0, 65535, (30, 40), np.uint16)
        Image.fromarray(image).save(tmp_path / "photographs" / "ab"[i % 2] / f"{i}.png")
    return tmp_path / "photographs"


class Reader:
    """Reads the images of a config as a run does, and knows whether they were decoded or kept."""

    def __init__(self, folder, monkeypatch):
        self.cache = open_cache("images", str(folder / "cache"), None)
        self.num_decoded, self.allowed = 0, []
        self.read_samples = decoded.read_samples
        monkeypatch.setattr(decoded, "read_samples", self._counted)

    def _counted(self, *arguments):
        self.num_decoded += 1
        return self.read_samples(*arguments)

    def __call__(self, *overrides):
        """Return what was read, and whether it was decoded."""
        before, (config, _) = self.num_decoded, parse_config(compose_config(*overrides))
        source = open_source(config.dataset, config.trust)
        found = decoded.read_decoded(source, config.dataset, self.allowed, self.cache)
        return found, self.num_decoded > before


@pytest.fixture
def read(tmp_path, monkeypatch):
    return Reader(tmp_path, monkeypatch)


def assert_equal(one, other):
    """Check that two arrays, records or containers of such are equal, types included."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    elif isinstance(one, UserError):
        assert vars(one) == vars(other)
    elif hasattr(one, "__dataclass_fields__"):
        for field in fields(one):
            assert_equal(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        assert_equal(list(one.values()), list(other.values()))
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


def masks(folder, *overrides):
    return ("dataset=lungs", f"dataset.root={folder}", "dataset.image_size_px=32", *overrides)


def test_what_is_kept_is_what_was_decoded(read, lungs, photographs, tmp_path):
    """Masks, classes, 16 bits, letterboxed images and pixels of a known size."""
    dicoms = write_dicom_pairs(tmp_path / "dicoms")
    for overrides in (
        masks(lungs),
        masks(lungs, "dataset.resize=letterbox"),
        ("dataset=image_folder", f"dataset.root={photographs}", "dataset.image_size_px=16", "dataset.channels=3"),
        ("dataset=image_mask", f"dataset.root={dicoms}", "dataset.image_size_px=32", "dataset.window=[0,4095]"),
    ):
        (first, was_decoded), (second, again) = read(*overrides), read(*overrides)
        assert (was_decoded, again) == (True, False)
        assert_equal(first, second)
        assert not second.samples.images.flags.writeable
    assert second.samples.pixel_mm is not None


def limit_memory(monkeypatch, num_bytes):
    for module in (decoded, preprocessing):
        monkeypatch.setattr(module, "MEMORY_LIMIT_BYTES", num_bytes)


def test_what_exceeds_the_memory_is_mapped_from_the_cache(read, lungs, photographs, monkeypatch, tmp_path):
    """Equal to what lies in memory, and there as long as a run needs it, even when the file is removed."""
    classes = ("dataset=image_folder", f"dataset.root={photographs}", "dataset.image_size_px=16", "dataset.channels=3")
    for overrides in (masks(lungs), classes):
        expected, _ = read(*overrides)
        shutil.rmtree(tmp_path / "cache")
        with monkeypatch.context() as patch:
            limit_memory(patch, 1000)
            (first, was_decoded), (second, again) = read(*overrides), read(*overrides)
        assert (was_decoded, again) == (True, False)
        shutil.rmtree(tmp_path / "cache")
        for found in (first, second):
            arrays = [found.samples.images, found.samples.targets]
            assert all(isinstance(array, np.memmap) for array in arrays)
            assert not any(array.flags.writeable for array in arrays)
            plain = replace(found.samples, images=np.array(arrays[0]), targets=np.array(arrays[1]))
            assert_equal(plain, replace(expected.samples, images=np.array(expected.samples.images)))
            assert_equal(found.profiles, expected.profiles)


def test_training_on_mapped_images_gives_the_same_numbers(lungs, run_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("model.base=2", "train.epochs=2", "train.pictures=1", "dataset.split.group_regex=null", "record=lean")
    overrides = masks(lungs, *options, "augmentation=light")
    runs = [run_config("memory", *overrides, "images.cache_dir=of_memory")]
    limit_memory(monkeypatch, 1000)
    runs += [run_config(name, *overrides, "images.cache_dir=mapped") for name in ("first", "again")]
    expected, *others = (load_file(run / "checkpoints" / "best.safetensors") for run in runs)
    for weights in others:
        assert all(np.array_equal(weights[name], expected[name]) for name in expected)


def test_only_what_changes_images_makes_them_be_decoded_again(read, lungs):
    assert read(*masks(lungs))[1]
    same = ("dataset.split.seed=1", "dataset.normalization=unit", "train.epochs=3", "seed=4", "model.base=2")
    assert [read(*masks(lungs, each))[1] for each in same] == [False] * 5
    others = ("dataset.channels=3", "dataset.image_size_px=33", "dataset.resize=letterbox", "dataset.window=[0,300]")
    assert [read(*masks(lungs, each))[1] for each in others] == [True] * 4
    path = next((lungs / "Image").iterdir())
    with path.open("ab") as file:
        file.write(b"\0")  # after the end of the image: the pixels stay, the digest does not
    assert read(*masks(lungs))[1]
    path.unlink(), (lungs / "Mask" / path.name).unlink()
    found, was_decoded = read(*masks(lungs))
    assert (was_decoded, len(found.samples.ids)) == (True, 11)


@pytest.mark.parametrize("damage", [b"", b"nothing of the kind", None])
def test_a_damaged_file_is_decoded_again(read, lungs, damage):
    expected, _ = read(*masks(lungs))
    (kept,) = read.cache.folder.glob("*.images")
    kept.write_bytes(kept.read_bytes()[:-100] if damage is None else damage)
    found, was_decoded = read(*masks(lungs))
    assert was_decoded
    assert_equal(found, expected)
    assert not read(*masks(lungs))[1]


@pytest.mark.parametrize(("before", "after"), [("cat", "dog"), ("0.5", "0.7")])
def test_what_a_table_says_is_no_older_than_the_table(read, photographs, before, after):
    names = [path.relative_to(photographs) for path in sorted(photographs.glob("*/*"))]
    rows = [f"{name},{'cat' if i % 2 else 'dog'},0.5" for i, name in enumerate(names)]
    table = photographs / "table.csv"
    overrides = ("dataset=manifest", f"dataset.csv={table}", "dataset.image_size_px=16", "dataset.channels=3")
    found = []
    for swapped in (False, True, False):
        text = "\n".join(["image,label,spacing", *rows])
        if swapped:
            text = text.replace(before, "x").replace(after, before).replace("x", after)
        table.write_text(text, encoding="utf-8")
        found.append(read(*overrides))
    assert [was_decoded for _, was_decoded in found] == [True, True, False]
    labels, spacings = zip(*((each.samples.labels, each.samples.pixel_mm.tolist()) for each, _ in found), strict=True)
    assert (labels[0], spacings[0]) == (labels[2], spacings[2])
    assert (labels[0], spacings[0]) != (labels[1], spacings[1])


def test_what_an_allowed_fault_leaves_out_is_kept_too(read, lungs):
    (lungs / "Image" / "alone.png").write_bytes(b"")
    (broken, *_) = (lungs / "Image").glob("patient*")
    broken.write_bytes(broken.read_bytes()[:50])
    read.allowed = ["unpaired", "truncated", "unreadable"]
    (first, was_decoded), (second, again) = read(*masks(lungs)), read(*masks(lungs))
    assert (was_decoded, again) == (True, False)
    assert_equal(first.samples, second.samples)
    assert_equal([first.profiles[i] for i in first.samples.positions], list(second.profiles.values()))
    assert len(second.samples.ids) == 11
    assert len(second.samples.faults) == 2


def test_files_that_change_while_they_are_read_are_not_kept(read, lungs, monkeypatch, tmp_path):
    (path, *_) = (lungs / "Image").iterdir()
    content, decode = path.read_bytes(), decoded.read_samples

    def disturbed(*arguments):
        path.write_bytes(content + b"\0")
        return decode(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(decoded, "read_samples", disturbed)
        read(*masks(lungs))
    path.write_bytes(content)
    assert not list(tmp_path.glob("cache/*.images"))
    assert read(*masks(lungs))[1]


class Mine(ImageMaskFolder):
    """A dataset of a user's own, whose code may change."""


def test_what_is_not_known_well_is_not_kept(read, lungs, tmp_path):
    """Generated images, a user's own code, what is too large, and data with faults."""
    read("dataset=phantom_chest", "dataset.num_images=4", "dataset.image_size_px=32")
    read(*masks(lungs, "dataset._target_=test_decoded.Mine", "trust=[test_decoded]"))
    read.cache = open_cache("images", str(tmp_path / "cache"), 1e-6)
    read(*masks(lungs))
    read.cache = open_cache("images", str(tmp_path / "cache"), None)
    (lungs / "Image" / "alone.png").write_bytes(b"")
    with pytest.raises(UserError):
        read(*masks(lungs))
    assert not list(tmp_path.glob("cache/*.images"))


def test_a_run_and_an_audit_decode_once(lungs, run_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = masks(lungs, "model.base=2", "train.epochs=1", "train.pictures=0", "dataset.split.group_regex=null")
    run_config("a", *overrides)
    monkeypatch.setattr(decoded, "read_samples", lambda *_: pytest.fail("decoded again"))
    run_config("b", *overrides, "seed=1")
    monkeypatch.setattr("runcard.audit.command.inspect", lambda *_: pytest.fail("decoded again"))
    done = CliRunner().invoke(app, ["audit", *overrides])
    assert "no errors" in done.output
    assert done.exit_code == 0
