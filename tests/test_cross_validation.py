"""The commands of docs/how-to/cross-validate.md, with a network that trains in a second."""

from __future__ import annotations

import json
import shlex

import numpy as np
from conftest import ROOT, TINY
from evidence import read_csv
from PIL import Image

from runcard.runs.folders import run_folders


def test_the_pages_commands_give_one_result_and_one_ensemble(train, runcard_command, tmp_path):
    page = (ROOT / "docs" / "how-to" / "cross-validate.md").read_text(encoding="utf-8")
    commands = [shlex.split(line) for line in page.splitlines() if line.startswith("    ")]
    assert [" ".join(command[:2]) for command in commands] == ["python train.py", "runcard compare", "runcard predict"]
    sweep, compare, predict = (command[2:] for command in commands)

    done = train(*sweep, *TINY, "train.epochs=1", "train.pictures=0")
    assert done.returncode == 0, done.stderr
    folders = run_folders(tmp_path / "outputs" / "folds")
    assert len(folders) == 5
    rows = [row for folder in folders for row in read_csv(folder / "per_image.csv")]
    last = {row["id"]: float(row["dice"]) for row in rows if row["checkpoint"] == "last"}
    assert len(last) == 20, "every image once"

    code, shown, _ = runcard_command("compare", *compare)
    assert code == 0
    mean = np.mean(list(last.values()))
    assert any("Dice, out of fold" in line and f"{mean:.3f} (20 images)" in line for line in shown.splitlines()), shown

    (tmp_path / "new_images").mkdir()
    Image.fromarray(np.full((40, 48), 90, np.uint8)).save(tmp_path / "new_images" / "one.png")
    code, _, stderr = runcard_command("predict", *predict)
    assert code == 0, stderr
    record = json.loads((tmp_path / "predictions" / "predictions.json").read_text())
    assert len(record["made_by"]["runs"]) == 5
    assert Image.open(tmp_path / "predictions" / "one.png").size == (48, 40)
