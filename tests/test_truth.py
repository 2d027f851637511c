"""A study from the command line to the report, on phantoms, where the truth is known: one difference was planted."""

from __future__ import annotations

import subprocess
import sys
from html import escape
from pathlib import Path

import pytest
from conftest import ONE_THREAD, ROOT

from runcard.compare.analysis import of_study

SMALLER = ("dataset.image_size_px=32", "dataset.num_images=80", "train.epochs=20", "optimizer.lr=3e-3", "record=lean")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    for name in ("train.py", "conf", "experiments"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def study(project: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("runcard")), "study", "experiments/phantoms/study.yml", *SMALLER]
    command += ["--until-decided"]
    return subprocess.run(
        [*command, "name=truth"], cwd=project, env=ONE_THREAD, capture_output=True, text=True, timeout=600, check=True
    )


def test_the_verdicts_are_right(project):
    last = study(project).stdout.splitlines()[-1]
    folder = project / "outputs" / "truth"
    assert Path(last) == Path("outputs/truth/report.html")
    answers = {answer.question.key: answer for answer in of_study(folder).answers}
    planted, nothing = answers["planted_dice"], answers["nothing_dice"]
    assert (planted.verdict.word, planted.verdict.claim) == ("worse", "supported")
    assert planted.factor == "optimizer.lr (1e-05 | 0.003)"
    assert [look.num_seeds for look in planted.path] == [3], "a large difference needs no more seeds"
    given_up = "More seeds cannot decide it" in nothing.verdict.sentence
    assert nothing.verdict.word == "equivalent" or given_up
    assert nothing.verdict.claim != "supported"
    assert [answer.asked for answer in answers.values()] == ["before its runs"] * 2
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script src" not in page, "it opens offline"
    assert len(page) < 3e6
    for answer in answers.values():
        assert escape(answer.verdict.sentence, quote=False) in page

    again = study(project).stdout
    assert "images/s" not in again, "all is done already"
