"""A model card says what the run's record says, marks what only its author knows, and lets no name become markup."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from evidence import read_csv
from folders import BONE, of_classes, shortcut, write_run
from markdown_it import MarkdownIt
from PIL import Image
from scipy import stats

from runcard.compare.report.model_card import describe, escape_markdown, model_card, to_markdown
from runcard.compare.report.tables import number
from runcard.runs.reader import find_runs

EVIL = "<script>alert(1)<script> | *a* `b` [c](d) _e_ &amp; $x$"


class Rendered:
    """A card as a Markdown renderer shows it: the text of the tables' cells, and the commands."""

    def __init__(self, text: str) -> None:
        tokens = MarkdownIt("commonmark").enable("table").parse(text)
        self.html = MarkdownIt("commonmark").enable("table").render(text)
        self.tables: dict[str, list[list[str]]] = {}
        self.code = [token.content for token in tokens if token.type == "code_block"]
        title, above = "", ""
        for token in tokens:
            if token.type == "inline" and above == "heading_open":
                title = token.content
            elif token.type == "tr_open":
                self.tables.setdefault(title, []).append([])
            elif token.type == "inline" and above in ("th_open", "td_open"):
                self.tables[title][-1].append("".join(child.content for child in token.children or ()))
            above = token.type

    def rows(self, title: str) -> dict[str, list[str]]:
        """Return the rows of a section without its header, by their first cell."""
        return {first: others for first, *others in self.tables[title][1:]}

    def row(self, title: str, name: str) -> str:
        """Return the one value of a row of two cells."""
        (value,) = self.rows(title)[name]
        return value


def card_of(folder: Path) -> Rendered:
    (run,) = find_runs([str(folder)]).runs
    return Rendered(to_markdown(model_card(run)))


@pytest.mark.parametrize("name", ["masks/seed0", "classes"])
def test_the_card_says_what_the_record_says(name, trained_runs):
    folder = trained_runs / name
    record, split = (json.loads((folder / f"{file}.json").read_text()) for file in ("run", "split"))
    card, config, session = card_of(folder), record["config"], record["sessions"][-1]
    assert card.row("Model", "architecture").startswith(f"{config['model']['_target_'].rpartition('.')[2]}(")
    assert f"{record['num_parameters']:,}" in card.row("Model", "parameters")
    assert card.row("Model", "input").startswith(f"{config['dataset']['channels']} × 32 × 32")
    assert all(kind in card.row("Model", "layers") for kind in record["model"]["layers"])
    assert all(each in card.row("Data", "classes") for each in config["derived"]["classes"])
    for part, words in (("train", "training"), ("val", "validation"), ("test", "test")):
        assert card.row("Data", words).startswith(f"{len(split[part])} images" if split[part] else "none")
        for each, count in record["class_counts"].get(part, {}).items():
            assert not split[part] or f"{count} {each}" in card.row("Data", words)
    found = [[each["check"], each["what"]] for each in record["audit"]]
    assert [row[1:] for row in card.tables.get("Audit of the data", [[]])[1:]] == found
    assert config["loss"]["_target_"].rpartition(".")[2] in card.row("Training", "loss")
    assert f"lr={config['optimizer']['lr']}" in card.row("Training", "optimizer")
    assert card.row("Training", "epochs").startswith("1 of 1")
    assert card.row("Training", "precision") == session["precision"]
    assert session["hardware"]["cpu"] in card.row("Training", "hardware")
    weights = (folder / "checkpoints" / "best.safetensors").read_bytes()
    assert card.row("Versions and hashes", "weights SHA-256") == hashlib.sha256(weights).hexdigest()
    hashes = (record["config_hash"], record["data"]["hash"], record["data"]["split_hash"], session["code"])
    assert [card.row("Versions and hashes", f"{of} hash") for of in ("config", "data", "split", "code")] == [*hashes]
    versions = card.row("Versions and hashes", "packages")
    assert all(f"{package} {version}" in versions for package, version in session["versions"].items())


@pytest.mark.parametrize("name", ["masks/seed0", "classes"])
def test_results_are_the_recorded_values_of_the_weights_that_predict(name, trained_runs):
    record = json.loads((trained_runs / name / "run.json").read_text())
    rows, measured = card_of(trained_runs / name).rows("Results"), read_csv(trained_runs / name / "metrics.csv")
    (epoch,) = [row for row in measured if int(row["epoch"]) == record["best"]["epoch"]]
    for shown, (metric, value) in zip(rows.values(), record["best"]["values"].items(), strict=True):
        best, training = shown  # the best epoch is the last one
        assert best.partition(" ")[0].rstrip(";") == number(value)
        assert training == number(float(epoch[metric.replace("val/", "train_eval/")]))


def test_the_classes_of_each_split_are_counted(trained_runs):
    record = json.loads((trained_runs / "classes" / "run.json").read_text())
    targets = [
        row["target"] for row in read_csv(trained_runs / "classes" / "per_image.csv") if row["checkpoint"] == "last"
    ]
    assert record["class_counts"]["val"] == {name: targets.count(name) for name in ("AFF", "NFF")}
    assert sum(record["class_counts"]["train"].values()) + len(targets) == 24


def test_the_lines_of_python_load_the_run(trained_runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((40, 50), 90, np.uint8)).save("image.png")
    (code,) = card_of(trained_runs / "masks/seed0").code
    _, _, lines = code.partition("\n")
    names: dict = {}
    exec(lines, names)
    assert names["prediction"].mask.shape == (40, 50)


@pytest.mark.parametrize("patients", [None, [f"p{i // 2}" for i in range(16)]])
def test_an_interval_is_students_over_images_or_patients(patients, tmp_path):
    dice = np.random.default_rng(0).uniform(0.7, 0.9, 16)
    card = card_of(write_run(tmp_path / "run", images={"dice": dice}, groups=patients))
    units = dice if patients is None else dice.reshape(8, 2).mean(axis=1)
    low, high = stats.t.interval(0.95, len(units) - 1, units.mean(), stats.sem(units))
    assert card.rows("Results")["Dice"][0] == f"{dice.mean():.3f} [{low:.3f}, {high:.3f}]"
    assert f"over the {len(units)} {'images' if patients is None else 'patients'}" in card.html
    assert "Values and intervals speak of these weights only" in card.html
    of = "" if patients is None else " of 8 patients"
    assert card.row("Data", "validation") == f"16 images{of}"
    assert card.row("Data", "disjoint") == ("by image; patients are not named" if patients is None else "by patient")


def test_few_patients_and_equal_values_give_no_interval(tmp_path):
    few = card_of(write_run(tmp_path / "few", groups=[f"p{i // 4}" for i in range(12)]))
    assert "no interval: 3 patients, and at least 6 are needed" in few.html
    assert not any("[" in text for row in few.tables["Results"] for text in row)
    right = of_classes(["AFF", "NFF"] * 6, [[0.9, 0.1], [0.2, 0.8]] * 6)
    card = card_of(write_run(tmp_path / "right", images=right, recorded=BONE))
    assert card.rows("Results")["accuracy"][0] == "1.000; no variation over the images, so no interval"


def test_a_patient_in_two_splits_is_counted(tmp_path):
    folder = write_run(tmp_path / "run", groups=[f"p{i // 2}" for i in range(12)])
    split = json.loads((folder / "split.json").read_text())
    split["train"][0]["group"] = "p0"
    (folder / "split.json").write_text(json.dumps(split))
    assert card_of(folder).row("Data", "disjoint") == "by image; 1 patient in two splits"


def test_with_a_test_split_nothing_was_chosen_on_the_images_measured(tmp_path):
    dice = np.linspace(0.7, 0.9, 12)
    curves = {"val/dice": 0.8 - 0.001 * abs(np.arange(1, 61) - 30)}
    own = {"images": {"dice": dice}, "best": {"dice": dice / 2}, "curves": curves}
    card = card_of(write_run(tmp_path / "run", split="test", **own))
    header, *_ = card.tables["Results"]
    columns = ["validation, epoch 30", "training, epoch 30", "test, epoch 60 (the last)"]
    assert header == ["", "test, epoch 30: these weights", *columns]
    best, validation, _, last = card.rows("Results")["Dice"]
    assert (best.partition(" ")[0], last.partition(" ")[0]) == (f"{dice.mean() / 2:.3f}", f"{dice.mean():.3f}")
    assert validation == "0.800"
    assert "chosen on these same images" not in card.html
    assert "chosen on these same images" in card_of(write_run(tmp_path / "val", images={"dice": dice})).html


def test_smoke_tests_allowed_errors_and_shortcuts_are_said(tmp_path):
    metadata = {
        "audit": [{"level": "error", "check": "duplicates", "what": "2 images twice", "allowed": True}],
        "shortcut": [shortcut("marker", alarm=True)],
    }
    probs = [[0.9, 0.1], [0.4, 0.6]] * 6
    own = {"images": of_classes(["AFF", "AFF"] * 6, probs), "recorded": BONE, "config": {"smoke_test": True}}
    card = card_of(write_run(tmp_path / "run", metadata=metadata, **own))
    assert "SMOKE TEST" in card.html
    assert card.tables["Audit of the data"][1] == ["error (allowed)", "duplicates", "2 images twice"]
    assert "which was allowed: duplicates: 2 images twice" in card.html
    assert card.row("Shortcut probe", "marker") == "shortcut: The model reads the marker."
    assert "It is for networks that classify images" in card_of(write_run(tmp_path / "masks")).html


@pytest.mark.parametrize("name", ["masks/seed0", "classes"])
def test_every_item_of_the_checklist_is_there_and_filled(name, trained_runs):
    card = card_of(trained_runs / name)
    rows = card.rows("CLAIM 2024 checklist")
    assert [*rows] == [f"{i}" for i in range(1, 45)]
    assert all(text for row in rows.values() for text in row)
    filled = {int(i): text for i, (_, _, text) in rows.items()}
    assert filled[22].startswith(card.row("Model", "architecture"))
    assert filled[9] == card.row("Data", "preprocessing")
    assert filled[26] == card.row("Training", "selection")
    assert card.row("Versions and hashes", "weights SHA-256") in filled[43]
    assert filled[33] == "not recorded"
    assert filled[44] == "author"


def test_no_name_from_a_record_becomes_markup(tmp_path):
    own = {"config": {"derived.classes": [EVIL, "b|c"], "dataset.positive": EVIL}, "choices": {"dataset": EVIL}}
    metadata = {"audit": [{"level": "note", "check": EVIL, "what": f"\n\n# {EVIL}\n", "allowed": False}]}
    evil = card_of(write_run(tmp_path / "<img src=x> | `a` *b*", metadata=metadata, **own))
    plain = card_of(write_run(tmp_path / "plain", metadata={"audit": [{"check": "a", "what": "b", "allowed": False}]}))
    tags = [sorted(re.findall(r"<(\w+)", card.html)) for card in (evil, plain)]
    assert tags[0] == tags[1]
    assert evil.row("Data", "classes") == f"{EVIL}, b|c (positive: {EVIL})"
    assert evil.tables["Audit of the data"][1] == ["note", EVIL, f"# {EVIL}"]
    assert escape_markdown("balanced_accuracy") == "balanced_accuracy"


@pytest.mark.parametrize(
    ("node", "text"),
    [
        ({"_target_": "a.Affine", "rotate": [-10, 10], "x": {"y": 1}}, "Affine(rotate=[-10, 10], x=(y=1))"),
        ({"_target_": "a.B", "_partial_": True, "_args_": [{"_target_": "a.C"}, 2]}, "B(C(), 2)"),
        (None, "None"),
    ],
)
def test_a_node_of_the_config_is_described_as_a_call(node, text):
    assert describe(node) == text


def test_the_command_prints_or_writes_and_never_overwrites(tmp_path, runcard_command):
    folder = write_run(tmp_path / "run")
    code, printed, _ = runcard_command("card", folder)
    assert code == 0
    assert printed.startswith("# Model card: UNet on lungs\n")
    assert runcard_command("card", folder, "-o", "card.md") == (0, "card.md\n", "")
    assert (tmp_path / "card.md").read_text() == printed
    code, _, error = runcard_command("card", folder, "-o", "card.md")
    assert (code, error) == (2, "card.md: is there already. Name another file.\n")
    code, _, error = runcard_command("card", tmp_path)
    assert (code, error.partition(":")[2]) == (
        2,
        f" no run folder (one has a run.json). Name one of the runs below it: {folder}.\n",
    )
    code, _, error = runcard_command("card", write_run(tmp_path / "half", status="interrupted"))
    assert (code, error) == (2, f"{tmp_path / 'half'}: interrupted\n")
