"""`runcard audit`, and the short audit before a training: what is said, written, allowed, kept and refused."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections import Counter
from pathlib import Path

import cv2
import pytest
from conftest import ROOT, TINY
from corpus import constant, copy, leave_out_costly, on, pixels, remove, several, shuffle_masks, truncate, write_clean
from matplotlib.figure import Figure

from runcard.audit import command
from runcard.audit.checks import duplicates as of_copies
from runcard.audit.checks import masks as of_masks
from runcard.audit.contact_sheet import Tile, contact_sheet
from runcard.cli import main
from runcard.data import image_io
from runcard.fileio import digest

IMAGE = "Image/film_07.png"
RUN = ("dataset=lungs", *(o for o in TINY if not o.startswith("dataset.num_images")), "train.epochs=1")
TWO_ERRORS = several(on("Image/film_03.png", truncate), pixels(IMAGE, constant(0)))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clean")
    write_clean(root)
    return root / "pairs"


@pytest.fixture
def films(clean, tmp_path, monkeypatch) -> Path:
    """A copy of the clean pairs, named films; the working directory holds conf/, as a checkout does."""
    leave_out_costly(monkeypatch)
    shutil.copytree(clean, tmp_path / "films")
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "films"


@pytest.fixture
def audit(films, monkeypatch, capsys):
    """Returns a function that runs `runcard audit` on the films, and returns its exit code and what it printed."""

    def run_audit(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["runcard", "audit", *arguments])
        capsys.readouterr()  # what was printed before
        with pytest.raises(SystemExit) as exit_:
            main()
        shown = capsys.readouterr()
        return exit_.value.code or 0, shown.out + shown.err

    return run_audit


def data(films: Path) -> tuple[str, str]:
    return "dataset=lungs", f"dataset.root={films}"


def test_clean_data_exit_with_0_and_are_written_down(films, audit):
    code, shown = audit(*data(films))
    assert code == 0
    assert "no errors, no warnings, no notes." in shown
    written = json.loads(Path("outputs/audit/films/audit.json").read_text(encoding="utf-8"))
    assert (written["images"], written["findings"]) == (50, [])
    assert written["dataset"]["root"] == str(films)


def test_errors_exit_with_1_and_all_are_told(films, audit):
    TWO_ERRORS(films)
    code, shown = audit(*data(films), "--output", "there")
    assert code == 1
    lines = shown.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("error    truncated: "))
    assert lines[first + 1].strip() == "Image/film_03.png (image file is truncated)"
    assert any(line.startswith("error    constant_image: 1 image of a single grey") for line in lines)
    assert lines[-1].startswith("2 errors, no warnings, no notes.")
    assert "there/" in lines[-1]
    findings = json.loads(Path("there/audit.json").read_text(encoding="utf-8"))["findings"]
    assert [(f["check"], f["level"], f["allowed"]) for f in findings] == [
        ("truncated", "error", False),
        ("constant_image", "error", False),
    ]
    assert list(Path("there").glob("*.png")), "a contact sheet shows them"


def test_masks_of_more_classes_are_one_error_with_the_overrides_that_read_them(films, audit):
    for i, path in enumerate(sorted((films / "Mask").iterdir())):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 255
        cv2.imwrite(str(path), mask * (1 + i % 3))
    code, shown = audit(*data(films))
    assert code == 1
    assert shown.count("error    mask_values: ") == 1
    line = next(line for line in shown.splitlines() if "if these are the classes: " in line)
    code, shown = audit(*data(films), *shlex.split(line.partition("classes: ")[2]))
    assert "error" not in shown.replace("no errors", "")


def test_what_is_allowed_is_said_to_be(films, audit):
    TWO_ERRORS(films)
    code, shown = audit(*data(films), "audit.allow=[truncated,constant_image]")
    assert code == 0
    assert "allowed  truncated: " in shown
    code, shown = audit(*data(films), "audit.allow=[truncated]")
    assert code == 1


def test_a_contact_sheet_of_some_of_the_images_says_how_many(films, audit, monkeypatch):
    sheets = []

    def draw(tiles: list[Tile], title: str) -> Figure:
        sheets.append((len(tiles), title))
        return contact_sheet(tiles, title)

    monkeypatch.setattr(command, "MAX_TILES", 4)
    monkeypatch.setattr(command, "MIN_OTHERS", 3)
    monkeypatch.setattr(command, "contact_sheet", draw)
    audit(*data(films))
    num_images = len(list((films / "Image").iterdir()))
    assert sheets[0] == (4, f"films: {num_images} images (4 of them)")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("audit.allow=[truncate]",), "audit.allow must be one of"),
        (("audit.allow=[truncate]",), "Did you mean 'truncated'?"),
        (("audit.allow=[split]",), "audit.allow must be one of"),
        (("dataset.colour=1",), "dataset.colour"),
        (("dataset.normalization=foo",), "dataset.normalization must be one of"),
        (("dataset.channels=2",), "dataset.channels must be 1 or 3"),
        (("dataset.split=3",), "dataset.split must be a group of keys, got 3"),
        (("~dataset.split.seed",), "dataset.split.seed: this key is needed"),
        (("+dataset.split.foo=1",), "dataset.split.foo: nothing reads this key"),
        (("~audit.allow",), "audit.allow: this key is needed"),
        (("derived.in_channels=3",), "derived.in_channels must not be set"),
        (("augmentation.transforms=3",), "augmentation.transforms must be transforms by name, got 3"),
        (("loss=1",), "loss=1: a group needs one of its choices"),
        (("--output", "films/Image/film_01.png"), "--output: films/Image/film_01.png cannot be written"),
        (("--against", "nowhere"), "--against: nowhere is not a run folder"),
        (("--against", "nowhere", "--output", "out"), "--output: with --against no files are written"),
        (("--trust", "timm"), "--trust: is for the run of --against. For this config: 'trust=[timm]'"),
        (("name=${nam}",), "name: Interpolation key 'nam' not found"),
    ],
)
def test_a_mistake_exits_with_2(arguments, words, films, audit):
    code, shown = audit(*data(films), *arguments)
    assert code == 2
    assert words in shown
    assert "Traceback" not in shown


def test_data_without_a_layout_are_an_error_in_words(films, audit):
    shutil.rmtree(films / "Mask")
    code, shown = audit(*data(films))
    assert code == 1
    assert "error    layout: " in shown
    assert "1 error, no warnings, no notes." in shown


def test_a_training_stops_before_it_has_a_folder(films, run_config, tmp_path):
    pixels(IMAGE, constant(0))(films)
    with pytest.raises(Exception, match=r"(?s)constant_image: .*'audit.allow=\[constant_image\]'"):
        run_config("run", *RUN, f"dataset.root={films}")
    assert not (tmp_path / "run").exists()


def test_what_is_allowed_trains_and_is_on_record(films, run_config, capsys):
    pixels(IMAGE, constant(0))(films)
    run = run_config("run", *RUN, f"dataset.root={films}", "audit.allow=[constant_image]")
    (found,) = json.loads((run / "run.json").read_text())["audit"]
    assert (found["check"], found["level"], found["allowed"]) == ("constant_image", "error", True)
    assert [Path(place).name for place in found["places"]] == ["film_07.png"]
    shown = capsys.readouterr().out
    assert re.search("error, allowed:? +constant_image: 1 image of a single grey", shown)


def test_what_is_mended_is_told_no_more(films, run_config):
    """What is kept of an audit depends on names and faults, too, not on the bytes that were read alone."""
    on("Image/film_03.png", truncate)(films)
    (films / IMAGE).rename(films / "Image" / "film_07.jpg")
    config = (*RUN, f"dataset.root={films}", "audit.allow=[truncated]")
    broken = run_config("broken", *config)
    reported = json.loads((broken / "run.json").read_text())
    assert [found["check"] for found in reported["audit"]] == ["truncated", "wrong_extension"]
    assert list(reported["left_out"]) == ["film_03"]
    remove("*/film_03.png")(films)
    (films / "Image" / "film_07.jpg").rename(films / IMAGE)
    assert json.loads((run_config("fixed", *config) / "run.json").read_text())["audit"] == []


def test_what_was_left_out_is_no_difference_until_it_is_mended(films, clean, run_config, audit, capsys):
    on("Image/film_03.png", truncate)(films)
    run = run_config("run", *RUN, f"dataset.root={films}", "audit.allow=[truncated]")
    assert ", 1 left out (audit.allow)" in capsys.readouterr().out
    assert audit("--against", str(run)) == (0, "The same images, byte for byte.\n")
    shutil.copy(clean / "Image/film_03.png", films / "Image/film_03.png")
    assert audit("--against", str(run)) == (1, "changed  1 image: film_03\n")


def test_an_image_without_a_mask_that_is_allowed_is_on_record(films, run_config, audit, capsys):
    remove("Mask/film_03.png")(films)
    config = (*RUN, f"dataset.root={films}", "audit.allow=[unpaired]")
    run = run_config("run", *config)
    assert ", 1 left out (audit.allow)" in capsys.readouterr().out
    (path,) = (films / "Image").glob("film_03.*")
    assert json.loads((run / "run.json").read_text())["left_out"] == {f"Image/{path.name}": digest([path])}
    run_config("run", *config)
    assert "completed before" in capsys.readouterr().out
    assert audit("--against", str(run)) == (0, "The same images, byte for byte.\n")
    shutil.copy(films / "Image/film_04.png", path)
    assert audit("--against", str(run)) == (1, f"changed  1 image: Image/{path.name}\n")


def test_an_ambiguous_pair_that_is_allowed_is_left_out(films, run_config):
    copy("Image/film_02.png", "Image/film_03.bmp")(films)
    run = run_config("run", *RUN, f"dataset.root={films}", "audit.allow=[ambiguous_pair]")
    ids = {member["id"] for members in json.loads((run / "split.json").read_text()).values() for member in members}
    assert len(ids) == 49
    assert "film_03" not in ids


def test_a_later_audit_leaves_no_older_picture(films, audit):
    audit(*data(films), "augmentation=light", "--output", "there")
    assert Path("there/augmentation.png").exists()
    audit(*data(films), "--output", "there")
    assert not Path("there/augmentation.png").exists()


def test_data_that_were_audited_are_not_looked_at_again(films, run_config, monkeypatch):
    pixels("Mask/film_07.png", constant(0))(films)
    first = run_config("first", *RUN, f"dataset.root={films}")
    with monkeypatch.context() as patched:
        for module, name in ((of_masks, "mask_fit"), (of_copies, "find_near_duplicates")):
            patched.setattr(module, name, lambda *_: pytest.fail("computed again"))
        changes = ("seed=1", "dataset.split.seed=2", "dataset.image_size_px=40", "augmentation=light")
        second = run_config("second", *RUN, f"dataset.root={films}", *changes)
    found = [json.loads((run / "run.json").read_text())["audit"] for run in (first, second)]
    assert found[0] == found[1]
    assert [each["check"] for each in found[0]] == ["mask_empty"]


def test_a_run_decodes_every_file_once(films, run_config, monkeypatch):
    decoded = Counter()
    really_open = image_io._open

    def counting(path):
        decoded[path] += 1
        return really_open(path)

    monkeypatch.setattr(image_io, "_open", counting)
    run_config("run", *RUN, f"dataset.root={films}", "augmentation=light")
    assert len(decoded) == 100
    assert set(decoded.values()) == {1}


def test_against_a_run_its_data_are_the_same_until_they_change(films, run_config, audit):
    run = run_config("run", *RUN, f"dataset.root={films}")
    assert audit("--against", str(run)) == (0, "The same images, byte for byte.\n")
    several(
        remove("*/film_01.png"),
        copy("Image/film_02.png", "Image/new.png"),
        copy("Mask/film_02.png", "Mask/new.png"),
        shuffle_masks(lambda _: [1, 0], slice(4, 6)),
    )(films)
    code, shown = audit("--against", str(run))
    assert code == 1
    assert [line.split() for line in shown.splitlines()] == [
        ["added", "1", "image:", "new"],
        ["removed", "1", "image:", "film_01"],
        ["changed", "2", "images:", "film_05,", "film_06"],
    ]


def test_an_excluded_image_is_neither_audited_nor_a_difference(films, run_config, audit, monkeypatch):
    pixels(IMAGE, constant(0))(films)
    arguments = (*RUN, f"dataset.root={films}", "dataset.split.exclude=[film_07]")
    run = run_config("run", *arguments)
    recorded = json.loads((run / "run.json").read_text())
    assert "constant_image" not in {each["check"] for each in recorded["audit"]}
    assert audit("--against", str(run)) == (0, "The same images, byte for byte.\n")
    monkeypatch.setattr(image_io, "_open", lambda path: pytest.fail(f"{path} was decoded"))
    run_config("run", *arguments)
    assert json.loads((run / "run.json").read_text()) == recorded, "it is known to be completed by its files' bytes"


def test_further_config_files_are_taken_from_config_dir(films, audit, tmp_path):
    (tmp_path / "mine" / "augmentation").mkdir(parents=True)
    (tmp_path / "mine" / "augmentation" / "wide.yaml").write_text("defaults: [light]\ntransforms: {flip: {p: 0.0}}\n")
    code, shown = audit(*data(films), "augmentation=wide", "--config-dir", str(tmp_path / "mine"))
    assert code == 0
    assert "augmentation.transforms.flip.p" in shown
    assert audit(*data(films), "--config-dir", "nowhere") == (2, "--config-dir: nowhere: no such folder.\n")


def test_the_conf_of_another_project_is_refused_by_name(films, audit, tmp_path, monkeypatch):
    (tmp_path / "other" / "conf").mkdir(parents=True)
    (tmp_path / "other" / "conf" / "config.yaml").write_text("lr: 1")
    monkeypatch.chdir(tmp_path / "other")
    code, shown = audit("dataset.num_images=20")
    assert code == 2
    assert shown.startswith(f"{tmp_path / 'other' / 'conf' / 'config.yaml'}: not Runcard's, and it would replace")
