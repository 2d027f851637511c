"""`runcard check-claim`: three verdicts, what it refuses, and docs/explanation/published.md, run as written."""

from __future__ import annotations

import json
import shlex

import pytest
from conftest import ROOT

PAGE = ROOT / "docs" / "explanation" / "published.md"
DICE = "--metric dice --mean 0.91 0.90 --images 47"
ACCURACY = "--metric accuracy --mean 0.91 0.90 --images 47"
SDS = "--sd 0.05 0.06 --sd-of images"


@pytest.fixture
def check_claim(runcard_command):
    return lambda line: runcard_command("check-claim", *shlex.split(line))


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        (f"--metric dice --mean 0.95 0.90 --images 47 {SDS}", "holds under the least favourable of these assumptions."),
        (f"{DICE} {SDS}", "depends: needs rho > 0.84 and run sd < 0.0028; none of them is enough alone."),
        (
            "--metric dice --mean 0.915 0.88 --images 47",
            "depends: needs two of rho, image sd, run sd near their most favourable; none of them is enough alone.",
        ),
        (f"{DICE} {SDS} --run-sd 0", "depends: needs rho > 0.82, all else at its least favourable."),
        (
            f"--metric dice --mean 0.901 0.90 --images 47 {SDS}",
            "cannot be concluded, whatever the correlation: that takes a difference above 0.0065 at best, and above "
            "0.038 to hold at worst.",
        ),
        (
            "--metric accuracy --mean 0.93 0.90 --images 100",
            "cannot be concluded, however few images they disagree on: the rows differ by 3 images, and no fewer than "
            "6 can be significant.",
        ),
        (
            "--metric accuracy --mean 0.86 0.80 --images 200",
            "depends: needs discordance < 0.13, all else at its least favourable.",
        ),
    ],
)
def test_verdict_in_a_sentence(check_claim, line, verdict):
    code, out, err = check_claim(line)
    assert (code, err) == (0, "")
    assert f"Verdict: {verdict}\n" in out


def test_json_has_the_verdict_both_tests_and_what_is_needed(check_claim):
    code, out, _ = check_claim(f"{DICE} {SDS} --json")
    content = json.loads(out)
    assert code == 0
    assert content["verdict"] == "depends"
    assert content["worst"]["assumed"] == {"rho": 0.5, "run_sd": 0.012}
    assert content["worst"]["p"] > 0.05 > content["best"]["p"]
    assert content["needs_one_of"] == {}
    assert content["needs_all_of"] == pytest.approx({"rho": 0.839, "run_sd": 0.00284}, rel=0.01)


def test_seed_sds_stand_for_the_assumed_ones(check_claim):
    _, out, _ = check_claim(f"{DICE} --seeds 3 --sd 0.002 0.004 --sd-of seeds")
    assert "run sd 0.0032: p" in out  # √((0.002² + 0.004²)/2), at best


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--metric dice --mean 0.91 0.90", "--images: no verdict without the number of test images"),
        (f"{DICE} --sd 0.05 0.06", "--sd and --sd-of belong together"),
        (f"{DICE} --sd-of images", "--sd and --sd-of belong together"),
        (f"{DICE} --sd 0.05 0.06 --sd-of folds", "--sd-of folds: no verdict."),
        (f"{DICE} --sd 0.05 0.06 --sd-of fold", "Did you mean 'folds'?"),
        (f"{DICE} --sd 0.05 0.06 --sd-of seeds", "--sd-of seeds needs --seeds, two or more, got 1"),
        (f"{DICE} --sd 0.468 0.06 --sd-of images", "--sd 0.468: impossible for values from 0 to 1 whose mean is 0.91"),
        (f"{DICE} --sd nan 0.06 --sd-of images", "--sd nan: impossible"),
        (f"{DICE} --best-epoch", "--best-epoch: no verdict. The best epoch"),
        (f"{DICE} --pooled", "--pooled: no verdict. One Dice over all pixels"),
        (f"{DICE} --other-images", "--other-images: no verdict. Rows on different images"),
        ("--metric auroc --mean 0.91 0.90 --images 47", "--metric must be one of dice, accuracy, got 'auroc'"),
        ("--metric dice --mean 91 90 --images 47", "--mean must be in [0, 1], got 91. In percent? Say 0.91."),
        ("--metric dice --mean nan 0.9 --images 47", "--mean must be in [0, 1], got nan"),
        ("--metric dice --mean 0.91 0.90 --images 5", "--images must be at least 6, got 5"),
        (f"{DICE} --seeds 0", "--seeds must be at least 1, got 0"),
        (f"{DICE} --of 1", "--of must be at least 2, got 1"),
        (f"{DICE} --rho 1.5", "--rho must be in [-1, 1], got 1.5"),
        (f"{DICE} --run-sd -1", "--run-sd must be a number >= 0, got -1"),
        (f"{DICE} --run-sd 0.01 --seeds 3 --sd 0.01 0.01 --sd-of seeds", "--sd-of seeds gives it already"),
        (f"{ACCURACY} --rho 0.5", "--rho is for Dice"),
        (f"{ACCURACY} --sd 0.1 0.1 --sd-of images", "--sd-of images: accuracy has none"),
        (f"{ACCURACY} --pooled", "--pooled is for Dice"),
        (
            "--metric accuracy --mean 0.913 0.9 --images 60",
            "--mean 0.913: no share of 60 images: 54 of 60 are 0.900 and 55 of 60 are 0.917.",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused(check_claim, line, message):
    code, out, err = check_claim(line)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) <= 4


def test_page_prints_what_the_command_prints(check_claim):
    """A block of the page: a command, then its output, or what it says as it refuses."""
    blocks = [block for block in PAGE.read_text(encoding="utf-8").split("\n\n") if block.startswith("    $ runcard")]
    assert len(blocks) >= 10
    for block in blocks:
        command, *printed = [line.removeprefix("    ") for line in block.rstrip().splitlines()]
        _, out, err = check_claim(command.removeprefix("$ runcard check-claim "))
        assert (out + err).splitlines() == printed, command
