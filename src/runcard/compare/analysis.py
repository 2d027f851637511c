"""The analysis of runs: answers to questions, a table of the arms' measures, and remarks that qualify both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from pathlib import Path

import numpy as np

from runcard.compare import endpoints, learning_curves
from runcard.compare.answers import Answer, answer
from runcard.compare.arms import Arm, same_config
from runcard.compare.confounds import distinct, session_factors
from runcard.compare.contrasts import metric_measure
from runcard.compare.learning_curves import MIN_EPOCHS
from runcard.compare.looks import Design, answer_in_looks
from runcard.compare.measures import Measure, Value, title
from runcard.compare.questions import Question, Study, from_json
from runcard.compare.registration import BEFORE, Registration, how_asked, read_registration, settled
from runcard.compare.without import Cost, Without, cost
from runcard.console import counted
from runcard.errors import UserError
from runcard.fileio import inside, read_json
from runcard.runs.looks import ordinal
from runcard.runs.reader import read_run
from runcard.runs.run import Run

FLAT = 0.01  # without a margin, a curve that changes by less over its last third counts as flat
MAX_PAIRS = 10


@dataclass(frozen=True)
class Remark:
    """What qualifies the findings: "task4a: still rising by 0.012 over the last 20 epochs"."""

    text: str
    arm: str = ""  # the one that it is about; "" where it is about none in particular

    def __str__(self) -> str:
        return f"{self.arm}: {self.text}" if self.arm else self.text


@dataclass(frozen=True)
class Findings:
    """The content of the tables, the JSON output and the report."""

    study: Study | None
    arms: tuple[Arm, ...]
    measures: tuple[Measure, ...]  # the rows of the table of arms, primary first
    values: Mapping[str, Mapping[str, Value]]  # arm name -> measure title -> value
    out_of_fold: Mapping[str, Mapping[str, float]]  # arm name -> metric -> see endpoints.out_of_fold; {} without folds
    best: Mapping[str, Value]  # arm name -> the monitored metric at the best epoch: see best_title
    answers: tuple[Answer, ...]
    command: str  # the command that reproduces this
    left_out: tuple[str, ...]  # runs that are not compared, each with the reason
    remarks: tuple[Remark, ...]  # curves that still rise, missing seeds, smoke tests
    design: Design | None = None  # of a study that adds seeds until it is decided
    registration: Registration | None = None  # of a study: what was written down before its first run
    cost: Cost | None = None  # of a study without a finding of the audit: what the finding was worth


def find(
    questions: Sequence[Question],
    arms: Sequence[Arm],
    study: Study | None = None,
    left_out: Sequence[str] = (),
    command: str = "",
    metric: str | None = None,
    design: Design | None = None,
    registration: Registration | None = None,
) -> Findings:
    """Answer the questions from the runs of these arms; left_out names the runs that do not count.

    metric: the first in the table of arms, which shows its dynamics too; None: the one that the first arm monitors. An
    arm that does not measure it has the one that it monitors itself.
    """
    own_losses = any(arm.first.loss != arms[0].first.loss for arm in arms)
    written = {"loss": "loss, of each its own"} if own_losses else {}
    tables = {}
    measures: dict[str, Measure] = {}
    for arm in arms:
        shown = metric or arms[0].first.monitored
        shown = shown if endpoints.is_measured(arm.first, shown) else arm.first.monitored
        table = _values(arm, shown, questions)
        tables[arm.name] = {written.get(m.key, m.title): value for m, value in table.items()}
        for m in table:
            measures.setdefault(m.title, replace(m, title=written.get(m.key, m.title)))
    asked = how_asked(registration, study, arms) if study and registration else {}
    exploratory = {key for key, how in asked.items() if how != BEFORE}
    registered = registration.questions.values() if registration else ()
    num_registered = sum(not question["controlled_by"] for question in registered)
    num_questions = max(study.num_questions if study else 0, num_registered)
    if design:
        answers = answer_in_looks(questions, arms, design, num_questions, exploratory)
    else:
        answers = answer(questions, arms, num_questions, exploratory)
    if asked:
        answers = settled(answers, asked)
    flat = min((question.margin for question in questions if question.margin is not None), default=FLAT)
    limited = [(arm, limits(arm, [arm] if design else arms, flat)) for arm in arms]  # with a design, seeds differ
    return Findings(
        study=study,
        arms=tuple(arms),
        measures=tuple(measures.values()),
        values=tables,
        out_of_fold={arm.name: endpoints.out_of_fold(arm) for arm in arms},
        best={arm.name: metric_value(arm, arm.first.monitored, "best") for arm in arms},
        answers=tuple(answers),
        command=command,
        left_out=tuple(left_out),
        remarks=(
            *map(Remark, _remarks_on_questions(study, questions, arms)),
            *map(Remark, _remarks_on_registration(registration, study)),
            *(Remark(limit, arm.name) for arm, of_arm in limited for limit in of_arm),
        ),
        design=design,
        registration=registration,
    )


def best_title(measure: Measure, arms: Sequence[Arm]) -> str:
    """Format the heading of the best epoch's values, which are biased on the images that chose the epoch."""
    these = "these same" if all(arm.first.split == "val" for arm in arms) else "the validation"
    return f"{measure.title}, best epoch (chosen on {these} images)"


def ask_pairs(
    arms: Sequence[Arm],
    metric: str | None = None,
    margin: float | None = None,
    threshold: float | None = None,
    baseline: str | None = None,
) -> list[Question]:
    """Ask for each pair of arms whether they differ in the metric; None: the one that the first of the pair monitors.

    With a baseline, or with more than MAX_PAIRS pairs, each arm is compared with one only: the baseline, or the first.
    """
    pairs = list(combinations(arms, 2))
    if baseline or len(pairs) > MAX_PAIRS:
        fixed = {arm.name: arm for arm in arms}[baseline] if baseline else arms[0]
        pairs = [(arm, fixed) for arm in arms if arm is not fixed]
    return [
        Question(
            key=f"{i + 1}",
            text=f"Does {first.name} differ from {second.name}?",
            first=first.name,
            second=second.name,
            measure=metric or first.first.monitored,
            margin=margin,
            threshold=threshold,
        )
        for i, (first, second) in enumerate(pairs)
    ]


def _values(arm: Arm, metric: str, questions: Sequence[Question]) -> dict[Measure, Value]:
    """Compute every measure of one arm: this metric first, then the others and this one's dynamics."""
    names = [metric, *(name for name in endpoints.metrics(arm.first) if name != metric)]
    table = {metric_measure(name, arm.first): metric_value(arm, name, "last") for name in names}
    asked = [q.threshold for q in questions if q.threshold is not None and q.metric == metric]
    threshold = asked[0] if asked else None
    keys = [key for key in learning_curves.MEASURES if asked or not key.endswith("_to_threshold")]
    table |= {
        learning_curves.measure(key, metric, threshold): learning_curves.value(key, arm, metric, threshold)
        for key in keys
    }
    return {measure: value for measure, value in table.items() if measure.key != "caching" or any(value.runs)}


def metric_value(arm: Arm, metric: str, checkpoint: str) -> Value:
    """Compute a metric of an arm, with its interval or the reason why there is none; checkpoint is last or best."""
    runs = tuple(endpoints.value(run, metric, checkpoint) for run in arm.runs)
    if not endpoints.in_folds(arm) and metric not in endpoints.metrics(arm.first):
        return Value(runs, None, "(no value per image)")
    try:
        return Value(runs, endpoints.of_arm(arm, metric, checkpoint))
    except UserError as error:  # the metric is undefined for these runs
        return Value(runs, None, str(error))


def limits(arm: Arm, arms: Sequence[Arm], margin: float = FLAT) -> list[str]:
    """List what limits the results of an arm, by itself and beside the other arms; a curve within margin is flat."""
    remarks = []
    if any(run.smoke_test for run in arm.runs):
        remarks.append("a smoke test (scale=quick, or a few batches only), which supports no conclusion")
    remarks += dict.fromkeys(how for run in arm.runs if (how := run.chosen_by_search))
    remarks += [f"the audit found an error, which was allowed: {what}" for what in arm.allowed]
    if missing := sorted(set().union(*(each.by_key for each in arms)) - arm.by_key.keys()):
        which = [f"fold {fold} seed {seed}" if arm.first.is_fold else f"seed {seed}" for fold, seed in missing]
        remarks.append(f"no run of {', '.join(which)}, which other arms have")
    seeds_vary = not arm.first.is_fold or endpoints.in_folds(arm)  # on a shared test split, folds vary as seeds do
    if len(arm.seeds) == 1 and seeds_vary:
        remarks.append("one seed, so that nothing is known of how far seeds differ")
    if len(arm.seeds) == 2 and seeds_vary:
        remarks.append("two seeds, so that little is known of how far seeds differ: three or more err less")
    if arm.first.is_fold:
        remarks += _remarks_on_folds(arm)
    remarks += [f"its runs differ in {each.key} ({each.first})" for each in session_factors(arm, arm)]
    lengths = sorted({int(run.metadata["epochs"]) for run in arm.runs})
    if lengths[0] < arm.first.config["train.epochs"]:
        span = f"{lengths[0]} to " * (lengths[0] < lengths[-1]) + counted(lengths[-1], "epoch")
        remarks.append(f"stopped early, after {span}: where to stop was chosen on the validation images")
    remarks += [idle] if (idle := arm.learnt_nothing) else []
    remarks += _remarks_on_shortcuts(arm)
    remarks += _remarks_on_looks(arm)
    remarks += [f"seed {run.seed}: {hole}" for run in arm.runs if (hole := _hole(run, arm.first.monitored))]
    if (num_evaluated := min(int(run.evaluated.sum()) for run in arm.runs)) < 3 * MIN_EPOCHS:
        remarks.append(f"too few evaluated epochs ({num_evaluated}) to say whether its curve is flat at the end")
    if abs(rise := learning_curves.still_rising(arm, arm.first.monitored)) > margin:
        how = f"{'rising' if rise > 0 else 'falling'} at the end, by about {abs(rise):.3f}"
        remarks.append(
            f"{title(arm.first.monitored)} is still {how} within the last third of the epochs: what is compared is "
            "training of this length"
        )
    return remarks


def _remarks_on_shortcuts(arm: Arm) -> list[str]:
    """List the regions beside the anatomy that its networks were found to read."""
    alarms = Counter(each["region"] for run in arm.runs for each in run.metadata.get("shortcut", ()) if each["alarm"])
    of = counted(len(arm.runs), "run")
    return [f"reads the {region} in {num} of {of}, the shortcut probe says" for region, num in alarms.items()]


def _remarks_on_looks(arm: Arm) -> list[str]:
    """List the test images that were looked at, how often, and those that are sealed."""
    remarks = []
    looks = {each["data_hash"]: each for run in arm.runs for each in run.evaluations}
    for data_hash, look in looks.items():
        times = max(sum(each["data_hash"] == data_hash for each in run.evaluations) for run in arm.runs)
        name, last = look["data"], look["time"][:10]
        if arm.first.is_evaluation and data_hash == arm.first.metadata["data"]["hash"]:
            number = max([times, *(run.metadata["evaluation"].get("look", 1) for run in arm.runs)])
            how = f"{ordinal(number)} look at this test set ({name}, {last})"
        else:
            how = f"evaluated on {name} ({counted(times, 'time')}, last {last})"
        remarks.append(f"{how}: what is chosen after a look is not tested by these images any more")
    if arm.first.is_sealed:
        images = counted(arm.first.split_sizes["test"], "image")
        remarks.append(f"the test split of {images} is sealed: these are values of the validation images")
    return remarks


def _hole(run: Run, metric: str) -> str:
    """Report the epochs in which a run's curve is not finite; "" where there are none."""
    holes = run.evaluated & ~np.isfinite(run.curves[f"val/{metric}"])
    epochs = run.curves["epoch"][holes].astype(int).tolist()
    return f"val/{metric} is not a number in epoch {', '.join(map(str, epochs))}" if epochs else ""


def _remarks_on_folds(arm: Arm) -> list[str]:
    """List what a cross-validation lacks: folds, or seeds of some folds."""
    seeds = {fold: {run.seed for run in arm.runs if run.fold == fold} for fold in {run.fold for run in arm.runs}}
    num_folds = arm.first.config["dataset.split.num_folds"]
    remarks = [f"{num_folds - len(seeds)} of {num_folds} folds without a run"] if len(seeds) < num_folds else []
    return remarks + ["not every fold has every seed"] * (len({frozenset(each) for each in seeds.values()}) > 1)


def _remarks_on_questions(study: Study | None, questions: Sequence[Question], arms: Sequence[Arm]) -> list[str]:
    """Report how many of the possible questions are asked, unless all are."""
    num_asked = sum(not question.controlled_by for question in questions)
    if study and num_asked < study.num_questions:
        return [f"asked: {num_asked} of the study's {study.num_questions} questions; Holm adjusts for them all"]
    num_pairs = len(arms) * (len(arms) - 1) // 2
    if not study and num_asked < num_pairs:
        return [f"{len(arms)} arms make {num_pairs} pairs: each is compared with {questions[0].second} alone"]
    return []


def _remarks_on_registration(registration: Registration | None, study: Study | None) -> list[str]:
    """Report the registered questions that a study asks no longer."""
    asked = {question.key for question in study.questions} if study else set()
    dropped = [key for key in registration.questions if key not in asked] if registration else []
    return [f"registered, and not asked here: {', '.join(dropped)}; Holm counts them"] if dropped else []


def of_study(folder: Path) -> Findings:
    """Answer the questions of a study from the runs named in its folder; see read_study_folder."""
    found = read_study_folder(folder)
    findings = found.findings()
    if found.without is None:
        return findings
    try:
        whole = of_study(folder.parent / found.without.of)
    except UserError as error:
        remark = Remark(f"what {found.without.finding} was worth cannot be said: {error}")
        return replace(findings, remarks=(*findings.remarks, remark))
    of_both = (whole.arms, findings.arms), (whole.answers, findings.answers)
    return replace(findings, cost=cost(found.without, found.study.primary, *of_both))


def has_looks(folder: Path) -> bool:
    """Whether a folder is that of a study that added seeds until it was decided."""
    try:
        return bool(read_json(folder, "study.json").get("design"))
    except (OSError, ValueError, AttributeError):
        return False


@dataclass(frozen=True)
class StudyFolder:
    """What study.json says, and the runs that it names."""

    study: Study
    command: str  # that repeats it
    arms: list[Arm]  # at least one
    left_out: list[str]  # runs, each with the reason
    missing: list[str]  # of these, the runs that the study asked for and does not have
    design: Design | None  # None where all seeds are run at once
    registration: Registration | None
    without: Without | None = None  # of a study without a finding of the audit

    def findings(self) -> Findings:
        """Answer the study's questions from these arms."""
        return find(
            self.study.questions,
            self.arms,
            self.study,
            self.left_out,
            self.command,
            metric=self.study.primary,
            design=self.design,
            registration=self.registration,
        )


def read_study_folder(folder: Path) -> StudyFolder:
    """Read study.json and the runs that it names.

    Raises UserError where the file cannot be read, or where none of its runs is completed.
    """
    file = folder / "study.json"
    try:
        content = read_json(folder, "study.json")
        study, command, members = from_json(content["study"]), str(content["command"]), content["runs"]
        missing = list(content.get("missing", []))
        written = content.get("design")
        design = Design(tuple(written["looks"]), written["budget"], written["tried"]) if written else None
        known = content.get("preregistration")
        registration = read_registration(folder, known) if known else None
        failed = {name: [(0, int(seed)) for seed in seeds] for name, seeds in content.get("failed", {}).items()}
        without = Without.from_json(content["without"]) if content.get("without") else None
        for each in chain(*members.values()):
            inside(folder, each)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not a study ({error}). Make it with runcard study <file>.yml.") from None
    arms, left_out = [], list(missing)
    for name, folders in members.items():
        found = {folder / each: read_run(folder / each) for each in folders}
        left_out += [f"{path}: {reason}" for path, (run, reason) in found.items() if run is None]
        runs = sorted((run for run, _ in found.values() if run), key=lambda run: (run.fold, run.seed))
        if runs:
            (config, _), *_ = Counter(map(same_config, runs)).most_common()
            mismatched = [run for run in runs if same_config(run) != config]
            left_out += [f"{run.folder}: not the config or data of {name}'s other runs" for run in mismatched]
            kept, copies = distinct([run for run in runs if same_config(run) == config])
            left_out += copies
            arms.append(Arm(name, kept, tuple(failed.get(name, ()))))
    if not arms:
        raise UserError("\n".join([f"{folder}: no completed run of the study is here.", *left_out]))
    return StudyFolder(study, command, arms, left_out, missing, design, registration, without)
