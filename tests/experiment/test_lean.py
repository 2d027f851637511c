"""A lean record: the same numbers in few files, and its figures when they are asked for."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import CLASSES, MASKS, compose_config
from evidence import run_json
from PIL import Image, ImageOps

from runcard.errors import UserError
from runcard.experiment.run import run as run_experiment
from runcard.fileio import read_csv, write_json
from runcard.runs.reader import read_run

CONFIGS = {"masks": MASKS, "classes": (*CLASSES, "train.explain_images=4")}


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def untimed(folder):
    """Return the rows of metrics.csv without times."""
    times = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in times} for row in read_csv(folder / "metrics.csv")]


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_lean_record(kind, tmp_path, runcard_command):
    """One epoch: its weights are the last and the best."""
    for record in ("full", "lean"):
        overrides = [*CONFIGS[kind], f"record={record}"]
        run_experiment(compose_config(*overrides), tmp_path / record, overrides, {"dataset": kind})
    full, lean = tmp_path / "full", tmp_path / "lean"
    left = files(lean)
    assert len(left) <= 12
    assert not {"checkpoints/last.ckpt", "figures/curves.png"} & left.keys()
    assert not [name for name in left if name.startswith("previews/")]
    assert len(next(content for name, content in left.items() if name.startswith("events"))) < 20_000
    run, reason = read_run(lean)
    assert run, reason
    assert untimed(lean) == untimed(full)
    for name in ("per_image.csv", "split.json"):
        assert left[name] == files(full)[name]
    picture, reduced = (Image.open(run / "figures" / "predictions.png") for run in (full, lean))
    assert (picture.mode, reduced.mode) == ("RGBA", "P")
    picture, reduced = picture.convert("RGB"), reduced.convert("RGB")
    assert np.abs(np.asarray(picture, int) - np.asarray(reduced, int)).mean() < 5, "the same picture in 256 colours"
    assert run_json(lean)["shortcut"] == run_json(full)["shortcut"]

    code, output, _ = runcard_command("figures", "lean")
    assert code == 0
    assert output.endswith("lean/figures/\nlean/previews/\n")
    drawn = files(lean)
    pictures = {name: content for name, content in files(full).items() if name.endswith(".png")}
    titled = {"figures/confusion.png", "figures/curves.png"}  # "best epoch (1)"; times
    for name, content in pictures.items():
        assert drawn[name] == content or name in titled
    assert {name for name in drawn if name.endswith(".png")} == pictures.keys()
    others = {name: content for name, content in left.items() if name != "figures/predictions.png"}
    assert {name: drawn[name] for name in others} == others, "nothing else is touched"


def test_what_needs_the_last_weights_says_so(run_config, tmp_path):
    run_config("lean", *MASKS, "record=lean")
    with pytest.raises(UserError, match=r"lean/checkpoints has no last\.ckpt: record=lean and runcard prune remove it"):
        run_config("longer", *MASKS, f"train.extend={tmp_path / 'lean'}", "train.epochs=2")


def test_figures_of_other_data_or_of_none(runcard_command, letterboxed):
    assert runcard_command("figures", "nowhere")[0] == 2
    write_json(letterboxed / "run.json", run_json(letterboxed) | {"choices": {"dataset": "pairs"}})
    images = letterboxed.parent / "pairs"
    images.rename(images.with_name("moved"))
    code, _, error = runcard_command("figures", letterboxed)
    assert code == 2
    assert str(images) in error
    assert runcard_command("figures", letterboxed, "--root", images.with_name("moved"))[0] == 0
    picture = images.with_name("moved") / "Image" / "0.png"
    ImageOps.invert(Image.open(picture)).save(picture)
    code, _, error = runcard_command("figures", letterboxed, "--root", images.with_name("moved"))
    assert (code, error) == (
        2,
        f"{letterboxed}: the images are not those it was made of. Name their folder: --root …\n",
    )
