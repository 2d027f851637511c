"""The report opens without a network, says what the findings say, and lets no name from a file become markup."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from evidence import read_csv
from folders import shortcut, simulate, write_run
from PIL import Image

from runcard.compare import contrasts, verdicts
from runcard.compare.analysis import Findings, find
from runcard.compare.arms import Arm
from runcard.compare.confounds import group_arms
from runcard.compare.questions import Question, Study
from runcard.compare.report import charts
from runcard.compare.report.html import MARKS, SIMULATION, write_figures, write_report
from runcard.runs.reader import find_runs

EVIL = "<img src=x onerror=alert(1)> | *a*"
LOSSES = {"dice": "runcard.losses.dice.DiceLoss", "bce": "runcard.losses.bce.BCE"}
ASKED = Question(
    "faster",
    "Dice loss: is it better?",
    "dice loss",
    "BCE",
    "dice",
    factor="loss",
    claim="much better",
    expect="higher",
)


def write_arms(folder: Path, *, num_images=12, effect=0.1, num_seeds=3, special=()) -> Path:
    for loss, values in zip(LOSSES, simulate(np.random.default_rng(0), num_seeds, num_images, effect), strict=True):
        for seed, dice in enumerate(values):
            own = {"config": {"loss._target_": LOSSES[loss]} | dict(special), "choices": {"loss": loss}}
            write_run(folder / f"loss={loss},seed={seed}", seed=seed, images={"dice": dice}, previews=True, **own)
    return folder


def of(folder: Path, questions=(ASKED,), study: Study | None = None, **renamed) -> Findings:
    found = find_runs([str(folder)])
    names = {"dice": "dice loss", "bce": "BCE"} | renamed
    arms = [Arm(names[arm.first.metadata["choices"]["loss"]], arm.runs) for arm in group_arms(found.runs)[0]]
    return find(questions, arms, study, found.left_out, command="runcard study s.yml")


class Page(HTMLParser):
    """What a browser would see: tags, the ids that can be linked to, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.ids, self.links, self.addresses, self.words, self._open = [], set(), [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        of = dict(attrs)
        self.tags.append(tag)
        self._open = tag
        self.ids.add(of.get("id"))
        self.links += [of["href"]] if tag == "a" else []
        self.addresses += [of[name] for name in ("src", "href", "data", "action") if name in of and tag != "a"]

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        self.words += [] if self._open in ("script", "style") else [data]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> tuple[Path, Findings]:
    folder = write_arms(tmp_path_factory.mktemp("study") / "runs, 50 % [a]")
    study = Study("s", "Which loss?", "dice", (0, 1, 2), {}, (ASKED,))
    findings = of(folder, study=study)
    return write_report(findings, folder.parent / "out", "runcard study s.yml"), findings


def test_the_page_fetches_nothing_and_every_link_leads_somewhere(report):
    file, findings = report
    page = Page(file.read_text())
    assert page.addresses, "previews are inlined"
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert "default-src 'none'" in file.read_text()
    inside = [link[1:] for link in page.links if link.startswith("#")]
    outside = [link for link in page.links if not link.startswith("#")]
    assert set(inside) <= page.ids
    folders = {(file.parent / unquote(link)).resolve() for link in outside}
    assert {run.folder.resolve() for arm in findings.arms for run in arm.runs} <= folders
    assert file.stat().st_size < 1.5e6


def test_the_page_says_what_the_findings_say(report):
    file, findings = report
    (one,) = findings.answers
    assert one.verdict.claim == "supported"
    text = Page(file.read_text()).text
    for said in (one.verdict.sentence, one.scope, "much better", "claim: ✓ supported", "▲ better", "Which loss?"):
        assert said in text
    for said in ("chosen on these same images", "runcard study s.yml"):
        assert said in text
    for run in findings.arms[0].runs:
        assert f"{run.metadata['last']['values']['val/dice']:.3f} in epoch {run.metadata['last']['epoch']}" in text


def test_the_first_screen_shows_both_scores_beside_their_difference(report):
    file, findings = report
    (one,) = findings.answers
    scores = {arm.name: np.mean([run.metadata["last"]["values"]["val/dice"] for run in arm.runs]) for arm in one.arms}
    assert one.scores == pytest.approx(scores)
    head = Page(file.read_text()).text.partition("Ranking")[0]
    assert f"BCE {scores['BCE']:.3f} dice loss {scores['dice loss']:.3f} dice loss − BCE: Dice +" in head


def test_arms_stand_in_one_order_whichever_a_question_names_first(tmp_path):
    runs = write_arms(tmp_path / "runs")
    for name, seed, shade in (("bce", 0, 40), ("dice", 0, 200)):
        for path in (runs / f"loss={name},seed={seed}" / "previews").iterdir():
            Image.new("RGB", (24, 8), (shade,) * 3).save(path)
        (runs / f"loss={name},seed=0" / "figures").mkdir()
        Image.new("RGB", (64, 64), (shade,) * 3).save(runs / f"loss={name},seed=0" / "figures" / "predictions.png")
    turned = replace(ASKED, first="BCE", second="dice loss")
    for i, question in enumerate((ASKED, turned)):
        findings = of(runs, (question,))
        assert [arm.name for arm in findings.arms] == ["BCE", "dice loss"]
        html = write_report(findings, tmp_path / str(i)).read_text()
        text = Page(html).text
        bce, dice = (findings.answers[0].scores[name] for name in ("BCE", "dice loss"))
        assert f"BCE {bce:.3f} dice loss {dice:.3f}" in text
        for said in ("BCE against dice loss They differ in loss (bce | dice).", "Runs: BCE 1 2 3 ; dice loss 4 5 6 ."):
            assert said in text
        assert "Values: Dice of BCE and of dice loss" in text
        assert "what seed 0 of BCE and seed 0 of dice loss predict" in text
        assert text.index("BCE, seed 0") < text.index("dice loss, seed 0")
        specs = [json.loads(each) for each in re.findall(r'<script type="application/json">(.*?)</script>', html, re.S)]
        by_image = next(spec["layer"][1]["encoding"] for spec in specs if "size" in spec["layer"][1]["encoding"])
        assert [by_image[axis]["axis"]["title"] for axis in "xy"] == ["Dice, BCE", "Dice, dice loss"]
        write_figures(findings, tmp_path / f"figures{i}")
        picture = Image.open(next((tmp_path / f"figures{i}").glob("pair1-image*.jpg"))).convert("L")
        assert picture.getpixel((20, 4)) < 60 < 180 < picture.getpixel((28, 4))


def test_a_score_of_times_is_a_geometric_mean(tmp_path):
    for loss, target in LOSSES.items():
        for seed in range(3):
            reached = 5 + 3 * seed + 20 * (loss == "bce")
            curve = np.where(np.arange(1, 61) >= reached, 0.95, 0.5)
            own = {"config": {"loss._target_": target}, "choices": {"loss": loss}}
            write_run(tmp_path / f"{loss}{seed}", seed=seed, curves={"val/dice": curve}, **own)
    asked = replace(ASKED, measure="epochs_to_threshold", of="dice", threshold=0.9, expect="lower")
    (one,) = of(tmp_path, (asked,)).answers
    assert one.scores == pytest.approx({"dice loss": (5 * 8 * 11) ** (1 / 3), "BCE": (25 * 28 * 31) ** (1 / 3)})
    assert math.exp(one.effect.estimate) == pytest.approx(one.scores["dice loss"] / one.scores["BCE"])


def test_a_screen_reader_finds_headers_texts_of_pictures_and_tables_to_scroll(report):
    html = report[0].read_text().partition("</main>")[0]
    headers = re.findall(r"<th\b[^>]*>", html)
    assert headers
    assert all(re.search(r'scope="(col|row)"', header) for header in headers)
    pictures = re.findall(r"<img [^>]*>", html)
    assert pictures
    assert all(re.search(r'alt="[^"]+"', picture) for picture in pictures)
    assert html.count("<table") == len(re.findall(r'role="region" tabindex="0" aria-label="[^"]+"><table', html))


def test_figures_and_tables_as_files(report, tmp_path):
    _, findings = report
    write_figures(findings, tmp_path / "figures")
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    pngs = list((tmp_path / "figures").glob("*.png"))
    assert len(pngs) >= 2
    for path in pngs:
        assert Image.open(path).width >= 500
        assert path.with_suffix(".svg").read_text().startswith("<svg")
    assert {"arms.csv", "verdicts.csv", "pair1-curves-dice.csv"} <= set(names)
    (row,) = read_csv(tmp_path / "figures" / "verdicts.csv")
    assert (row["verdict"], row["claim"]) == ("better", "supported")
    assert "Dice" in {row[""] for row in read_csv(tmp_path / "figures" / "arms.csv")}


def test_names_from_files_never_become_markup(tmp_path):
    evil = replace(ASKED, first=EVIL, text=EVIL, claim=EVIL)
    runs = write_arms(tmp_path / "runs", special={"dataset.positive": EVIL})  # model cards show it
    findings = replace(of(runs, (evil,), dice=EVIL), left_out=(EVIL,), remarks=(EVIL,))
    file = write_report(findings, tmp_path, EVIL)
    html, plain = file.read_text(), write_report(of(tmp_path / "runs"), tmp_path / "plain").read_text()
    assert Page(html).tags.count("img") == Page(plain).tags.count("img")
    assert "<img src=x" not in html
    assert f"(positive: {EVIL})" in Page(html).text
    specs = re.findall(r'<script type="application/json">(.*?)</script>', html, re.S)
    assert ["BCE", EVIL] in [json.loads(spec)["layer"][0]["transform"][0]["filter"]["oneOf"] for spec in specs[:1]]


def test_the_page_has_the_model_card_of_each_arm(report):
    file, findings = report
    text = Page(file.read_text()).text
    cards = text[text.index("Model cards Of the first run") : text.index("What is compared")]
    for arm in findings.arms:
        assert f"{arm.name} Model card: UNet on lungs" in cards
        assert f"Of the run {arm.first.folder}" in cards
    assert cards.count("CLAIM 2024 checklist") == len(findings.arms)
    assert cards.count("44 Other information funding author") == len(findings.arms)


def test_a_rehearsal_cannot_be_missed(tmp_path):
    findings = of(write_arms(tmp_path / "runs", special={"smoke_test": True}))
    file = write_report(findings, tmp_path)
    assert "Nothing here supports or contradicts a claim" in Page(file.read_text()).text
    assert "! smoke test" in Page(file.read_text()).text


def test_a_confounded_claim_cites_the_questions_that_settle_it(tmp_path):
    write_arms(tmp_path / "runs")
    settled = replace(ASKED, key="all_at_once", text="All at once?", factor="model", controlled_by=("faster",))
    first = replace(ASKED, key="absent", text="Is it run?", first="nobody")
    file = write_report(of(tmp_path / "runs", (settled, ASKED, first)), tmp_path)
    text = Page(file.read_text()).text
    ledger = text[text.index("what was claimed") : text.index("How often this errs")]
    assert re.search(
        r"“much better”.*is it better\?.*12 validation images.*✓ supported.*As it was compared: All at once\?", ledger
    )
    assert "– not run" in ledger
    assert "No completed run of nobody." in text


def test_every_word_that_a_verdict_can_be_has_a_mark():
    source = "".join(Path(module.__file__).read_text() for module in (verdicts, contrasts))
    words = set(re.findall(r'Verdict\(\s*"([a-z ]+)"', source)) | set(
        re.findall(r'word(?:, | = )claim = "(.*?)"', source)
    )
    assert {"not run", "smoke test", "one seed", "cannot tell"} <= words <= set(MARKS)


def test_two_arms_of_a_pair_never_share_a_colour():
    names = [f"arm{i}" for i in range(12)]
    pairs = [(names[i], names[i + 1]) for i in range(11)] + [("arm0", "arm2")]
    chosen = charts.colours(names, pairs)
    assert all(chosen[first] != chosen[second] for first, second in pairs)
    assert len({chosen[name] for name in names[:6]}) == 6


def test_curves_are_mean_lowest_and_highest_run_as_far_as_all_go(tmp_path):
    for seed, dice in enumerate(([0.1, 0.4, 0.9], [0.3, 0.2])):
        write_run(tmp_path / f"{seed}", seed=seed, epochs=len(dice), curves={"val/dice": dice, "train_eval/dice": dice})
    arm = Arm("a, b", find_runs([str(tmp_path)]).runs)
    rows = list(csv.DictReader(charts.curve_table([arm], "dice").splitlines()))
    of_val = [row for row in rows if row["images"] == "validation"]
    assert [(row["epoch"], row["mean"], row["lowest"], row["highest"]) for row in of_val] == [
        ("1", "0.2", "0.1", "0.3"),
        ("2", "0.3", "0.2", "0.4"),
    ]
    assert of_val[0]["arm"] == "a, b"
    assert of_val[0]["each run"] == "0.1, 0.3"


def test_losses_are_drawn_on_their_own_scale_only_where_they_are_the_same(report, tmp_path):
    write_figures(report[1], tmp_path / "one")
    assert not list(tmp_path.glob("one/*-curves-loss.png"))
    assert list(tmp_path.glob("one/*-curves-bce.png"))
    for seed in range(2):
        for base in (8, 16):
            for name, own in {"own": {"val/loss": np.linspace(2, 1, 60)}, "same": {}}.items():
                run = tmp_path / name / f"{base}_{seed}"
                write_run(run, seed=seed, config={"model.base": base}, curves=own)
    for name in ("own", "same"):
        runs = find_runs([str(tmp_path / name)]).runs
        arms = [Arm(f"base{i}", arm.runs) for i, arm in enumerate(group_arms(runs)[0])]
        findings = find([replace(ASKED, first="base0", second="base1", factor="model")], arms)
        write_figures(findings, tmp_path / f"figures of {name}")
    assert list(tmp_path.glob("figures of own/*-curves-loss.png"))
    assert not list(tmp_path.glob("figures of same/*-curves-loss.png")), "these are the values of bce"
    assert list(tmp_path.glob("figures of same/*-curves-bce.png"))


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 60])
def test_the_axis_of_epochs_has_whole_epochs(tmp_path, epochs):
    arms = [Arm("a", (find_runs([str(write_run(tmp_path, epochs=epochs))]).runs[0],))]
    svg = charts.to_svg(charts.curves("dice", {"a": "#0072b2"}), {"dice": charts.curve_table(arms, "dice")})
    numbers = re.findall(r">([\d.]+)</text>", svg.partition(">epoch<")[0])
    assert numbers
    assert all("." not in number for number in numbers)


def test_the_images_that_changed_most_are_the_ones_shown(tmp_path):
    bce = np.linspace(0.5, 0.9, 8)
    gain = np.array([0.01, -0.2, 0.05, 0.0, 0.03, -0.02, 0.001, np.nan])  # the last one has no value
    for loss, iou in (("dice", bce + gain), ("bce", bce)):
        own = {"config": {"loss._target_": LOSSES[loss]}, "choices": {"loss": loss}, "previews": True}
        for seed in range(2):
            columns = {"dice": bce, "iou": iou}
            write_run(tmp_path / f"{loss}{seed}", seed=seed, images=columns, ids=[f"image{i}" for i in range(8)], **own)
    findings = of(tmp_path, (replace(ASKED, measure="iou"),))
    text = Page(write_report(findings, tmp_path / "out").read_text()).text
    better, worse = text[text.index("Better with dice loss") : text.index("Arms The mean")].split(
        "Worse with dice loss"
    )
    assert re.findall(r"image\d", better) == ["image2", "image4", "image0"]
    assert re.findall(r"image\d", worse) == ["image1", "image5"]
    # image | truth | the prediction of each arm
    write_figures(findings, tmp_path / "figures")
    assert Image.open(tmp_path / "figures/pair1-image2.jpg").size == (32, 8)


def test_without_images_nothing_of_the_data_is_shown(tmp_path):
    findings = of(write_arms(tmp_path / "runs"))
    shown = write_report(findings, tmp_path / "with").read_text()
    hidden = write_report(findings, tmp_path / "without", with_images=False).read_text()
    assert "data:image/" in shown.partition("</main>")[0]
    assert "data:image/" not in hidden.partition("</main>")[0]
    write_figures(findings, tmp_path / "figures", with_images=False)
    assert not list((tmp_path / "figures").glob("*.jpg"))
    assert findings.answers[0].verdict.sentence in Page(hidden).text


def test_a_picture_that_cannot_be_read_is_left_out_and_another_size_is_fitted(tmp_path):
    runs = write_arms(tmp_path / "runs", num_seeds=2)
    for name, size in (("dice", (24, 8)), ("bce", (48, 16))):
        for i in range(12):
            preview = runs / f"loss={name},seed=0" / "previews" / f"CHNCXR_{i:04}_0.png"
            Image.new("RGB", size, "gray").save(preview)
    write_figures(of(runs), tmp_path / "whole")
    assert {Image.open(file).size for file in tmp_path.glob("whole/*.jpg")} == {(64, 16)}  # of BCE
    for i, file in enumerate(runs.glob("loss=bce,seed=0/previews/*.png")):
        content = file.read_bytes()
        file.write_bytes((b"", content[:40], content.replace(b"IDAT", b"IDOT"))[i % 3])
    (runs / "loss=bce,seed=0" / "figures").mkdir()
    (runs / "loss=bce,seed=0" / "figures" / "predictions.png").touch()
    text = Page(write_report(of(runs), tmp_path / "out").read_text()).text
    assert "Better with dice loss CHNCXR_" in text
    write_figures(of(runs), tmp_path / "damaged")
    assert not list(tmp_path.glob("damaged/*.jpg"))


@pytest.mark.parametrize("suffix", ["", ".png"])
def test_previews_of_ids_with_a_suffix_are_found_under_either_name(tmp_path, suffix):
    ids = [f"clinic/image{i}.png" for i in range(8)]
    for loss, gain in (("dice", 0.1), ("bce", 0.0)):
        own = {"config": {"loss._target_": LOSSES[loss]}, "choices": {"loss": loss}, "previews": True}
        images = {"dice": np.linspace(0.5, 0.8, 8) + gain}
        for seed in range(2):
            folder = write_run(tmp_path / f"{loss}{seed}", seed=seed, images=images, ids=ids, **own)
            for path in (folder / "previews" / "clinic").iterdir():
                path.rename(path.with_name(path.name.removesuffix(".png.png") + suffix + ".png"))
    write_figures(of(tmp_path), tmp_path / "figures")
    assert list((tmp_path / "figures").glob("*.jpg"))


def test_with_a_test_split_its_values_are_shown_and_the_best_epoch_was_chosen_elsewhere(tmp_path):
    for loss, dice in zip(LOSSES, simulate(np.random.default_rng(0), 1, 12, 0.1), strict=True):
        own = {"config": {"loss._target_": LOSSES[loss]}, "choices": {"loss": loss}, "split": "test"}
        write_run(tmp_path / loss, images={"dice": dice[0]}, best={"dice": dice[0] / 2}, **own)
    findings = of(tmp_path)
    file = write_report(findings, tmp_path / "out")
    mean = np.mean(findings.arms[0].first.images().values["dice"])
    text = Page(file.read_text()).text
    assert re.search(rf"test/dice {mean:.3f} in epoch 60\s+test/dice {mean / 2:.3f} in epoch 60", text)
    assert "Dice, best epoch (chosen on the validation images)" in text
    assert "these same images)" not in text


def test_folds_have_no_split_in_common(tmp_path):
    ids = [f"image{i}" for i in range(18)]
    for fold in range(3):
        held_out = {"ids": ids[fold::3], "train_ids": [name for name in ids if name not in ids[fold::3]]}
        for loss, target in LOSSES.items():
            config = {"dataset.split.kind": "kfold", "dataset.split.fold": fold, "loss._target_": target}
            dice = np.linspace(0.8, 0.9, 6)
            own = {"config": config, "choices": {"loss": loss}, "images": {"dice": dice}}
            write_run(tmp_path / f"{loss}{fold}", **held_out, **own)
    findings = of(tmp_path)
    head = write_report(findings, tmp_path / "out").read_text().partition("</header>")[0]
    assert "3 folds" in head
    assert not any(run.metadata["data"]["split_hash"][:8] in head for arm in findings.arms for run in arm.runs)


def test_what_the_shortcut_probe_found_is_tabulated_and_an_alarm_is_said_first(tmp_path):
    for seed, alarm in enumerate([True, True, False]):
        probed = [shortcut(alarm=alarm), shortcut("printed markers", evidence_lost=-0.004)]
        images = {"dice": [0.9, 0.8, 0.7, 0.6 + seed / 10] * 3}
        write_run(tmp_path / f"dice{seed}", seed=seed, images=images, metadata={"shortcut": probed})
    findings = of(tmp_path, questions=())
    assert [remark.text for remark in findings.remarks if "probe" in remark.text] == [
        "reads the border in 2 of 3 runs, the shortcut probe says"
    ]
    write_figures(findings, tmp_path)
    assert read_csv(tmp_path / "shortcuts.csv") == [
        {
            "arm": findings.arms[0].name,
            "region": region,
            "alarms": alarms,
            "accuracy": "0.900",
            "painted over": "0.600",
            "alone": "0.800",
            "log-odds lost": lost,
            "activation in it": "30.0% (25.0% of the image)",
        }
        for region, alarms, lost in (("border", "2 of 3 runs", "50%"), ("printed markers", "0 of 3 runs", "0%"))
    ]
    page = Page(write_report(findings, tmp_path).read_text())
    assert "What each network does with the image's border" in page.text
    assert "border 2 of 3 runs 0.900 0.600 0.800 50% 30.0% (25.0% of the image)" in page.text


def test_a_report_of_masks_has_no_table_of_shortcuts(report):
    assert "What each network does with the image's border" not in Page(report[0].read_text()).text


def test_the_methods_say_where_they_err_most(report):
    text = Page(report[0].read_text()).text
    methods = text[text.index("How often this errs") : text.index("Sources")]
    rows = json.loads(SIMULATION.read_text())["rows"]
    for num_runs in ("2 + 2", "3 + 3", "5 + 5", "2 + 5"):
        those = [row["ours"]["false"] for row in rows if " + ".join(map(str, row["num_runs"])) == num_runs]
        assert f"{max(those):.3f} with {num_runs} runs" in methods
    shown = [row for row in rows if row["num_images"] == 47]
    assert len(re.findall(r"(?:normal|like Dice|right or wrong) \d \+ \d 0", methods)) == len(shown)
