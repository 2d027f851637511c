"""The course made of phantoms: the tree of LAB.md 3, the same bytes each time, and nothing that is there rewritten."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from make_data import write_course

# Folder and beginning of the file names -> how many, of 5 training and 2 held-out images per class.
TREE = {
    **{f"Lab1/Bone/train/{name}_": 5 for name in ("AFF", "NFF")},
    **{f"Lab1/Bone/test/{name}_": 2 for name in ("AFF", "NFF")},
    **{f"Lab1/Skin/train/{name}_": 5 for name in ("Mel", "Nev")},
    **{f"Lab1/Skin/test/{name}_": 2 for name in ("Mel", "Nev")},
    **{f"Lab1/X_ray/train/C{k}_": 5 for k in range(1, 10)},
    **{f"Lab1/X_ray/test/C{k}_": 2 for k in range(1, 10)},
    **{f"Lab2/Bone/train/{name}/": 5 for name in ("AFF", "NFF")},
    **{f"Lab2/Bone/validation/{name}/": 2 for name in ("AFF", "NFF")},
    **{f"Lab2/Skin/train/{name}/": 5 for name in ("Mel", "Nevi")},
    **{f"Lab2/Skin/validation/{name}/": 2 for name in ("Mel", "Nevi")},
    **{f"Lab3/{kind}/{side}/Im": 14 for kind in ("X_ray", "CT") for side in ("Image", "Mask")},
}


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("course")
    write_course(root, 5)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_the_tree_is_the_courses(course):
    stems = [name.rsplit(".", 1)[0].rstrip("0123456789") for name in contents(course)]
    assert Counter(stems) == TREE
    suffixes = {(name.split("/")[1], Path(name).suffix) for name in contents(course)}
    assert suffixes == {("Bone", ".jpg"), ("Skin", ".jpg"), ("X_ray", ".jpg"), ("CT", ".png")}


def test_the_colours_and_the_masks_are_the_courses(course):
    modes = {
        part: Image.open(course / part).mode for part in ("Lab2/Bone/train/AFF/0.jpg", "Lab2/Skin/train/Mel/0.jpg")
    }
    assert list(modes.values()) == ["L", "RGB"]
    lungs = np.asarray(Image.open(course / "Lab3/X_ray/Mask/Im1.jpg"))
    assert np.minimum(lungs, 255 - lungs).max() < 32, "JPEG leaves values near 0 and 255"
    assert 0.1 < (lungs > 127).mean() < 0.45
    sides = np.asarray(Image.open(course / "Lab3/CT/Mask/Im1.png"))
    assert set(np.unique(sides)) == {0, 1, 2}
    left, right = ((sides == index).nonzero()[1].mean() for index in (1, 2))
    assert left > right, "the patient's left is the viewer's right"


def test_no_image_is_there_twice(course):
    for folder in (
        "Lab1/Bone",
        "Lab1/Skin",
        "Lab1/X_ray",
        "Lab2/Bone",
        "Lab2/Skin",
        "Lab3/X_ray/Image",
        "Lab3/CT/Image",
    ):
        files = contents(course / folder)
        assert len(set(files.values())) == len(files), folder
    flat, nested = contents(course / "Lab1/Bone"), contents(course / "Lab2/Bone")
    assert set(flat.values()) == set(nested.values()), "as in the course"


def test_writing_again_adds_what_is_missing_and_touches_nothing_else(course, tmp_path):
    before = contents(course)
    write_course(tmp_path, 6)
    larger = contents(tmp_path)
    assert larger.items() > before.items()
    lost, changed = tmp_path / "Lab2/Bone/train/AFF/3.jpg", tmp_path / "Lab3/X_ray/Mask/Im2.jpg"
    lost.unlink()
    changed.write_bytes(b"mine")
    write_course(tmp_path, 6)
    assert contents(tmp_path) == {**larger, "Lab3/X_ray/Mask/Im2.jpg": b"mine"}


def test_the_command_names_a_wrong_number(tmp_path):
    command = [sys.executable, str(ROOT / "experiments/lab4/make_data.py"), str(tmp_path / "course"), "--images", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "--images must be an integer >= 5, got 4" in done.stderr
    assert not (tmp_path / "course").exists()
