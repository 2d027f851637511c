"""Runs what a study misses: every arm with every seed, through Hydra's multirun, so that any launcher can do it.

A run is there already where its recorded config equals the one asked for, whatever its folder is called. The others run
as `python train.py -m …` would run them; one that was interrupted gets its own folder again, and goes on in it.

What was asked in a study's folder stays asked there: study.json gathers the questions, the arms and the seeds of all
calls, so that nobody makes a p smaller by asking less once the runs are seen.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import count, product
from pathlib import Path
from typing import Any

from runcard.compare.analysis import of_study
from runcard.compare.learning_curves import MEASURES
from runcard.compare.questions import Study, from_json, keep, select
from runcard.compare.registration import FILE, changes_of_question
from runcard.compare.report.terminal import print_look
from runcard.config.diff import affects_results
from runcard.config.sweep import folder_name
from runcard.console import counted, duration, plain_console, print_table
from runcard.errors import UserError, did_you_mean
from runcard.fileio import read_json, write_json
from runcard.interrupts import EXIT_GO_ON, EXIT_INTERRUPTED, GO_ON, StopAfterEpoch, is_to_stop
from runcard.runs.environment import code_hash
from runcard.runs.folders import run_folders
from runcard.runs.reader import has_failed
from runcard.runs.search import chosen_by
from runcard.stats.sequential import LOOKS, detectable_sds
from runcard.study.plan import OWN, ArmConfig, ArmRun, Key, arm_config, by_key, find, is_done, sweeps
from runcard.study.register import register
from runcard.study.spec import read_study


@dataclass(frozen=True)
class StudyRun:
    """A study's folder, and the runs that are still missing in it, each with the reason."""

    folder: Path
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What one call of a study asks for, and what each of its runs is given."""

    folder: Path
    asked: Study  # now
    study: Study  # now and before, in this folder
    whole: Study  # its file, as it is registered
    arm_configs: Mapping[str, ArmConfig]
    others: Mapping[str, ArmConfig]  # of the file, not asked for yet; none once the study is registered
    of_hydra: tuple[str, ...]
    config_dir: Path | None
    command: tuple[str, ...]  # what repeats it
    looks: tuple[int, ...] = ()  # of a study that adds seeds until it is decided, as registered
    budget: int | None = None
    preregistration: str = ""  # its SHA-256
    without: Mapping[str, Any] | None = None  # the finding whose images are left out, as study.json has it


def run_study(
    file: Path, arguments: Sequence[str], config_dir: Path | None = None, budget: int | None = None
) -> StudyRun:
    """Run what is missing of a study, and write study.json; return its folder and what is missing still.

    arguments are the study's own (seeds=0,1,2, questions=4b,4c, name=…) and Hydra's, which every run is given;
    config_dir is a folder of further config files, as train.py takes it. With a budget of seeds, seeds are added until
    each question is decided. Raises UserError for a mistake in any of these, before anything runs. A run that fails
    does not keep the others from running. With overwrite=true a completed run that other code made, or that is of
    images elsewhere, is missing too.
    """
    plan = register_plan(make_plan(file, arguments, config_dir, budget))
    if budget is None:
        return StudyRun(plan.folder, run_plan(plan, plan.asked))
    missing: tuple[str, ...] = ()
    still_open = set(plan.asked.arms)
    for i, num_seeds in enumerate(seeds := [each for each in plan.looks if each <= budget]):
        arms = {name: config for name, config in plan.asked.arms.items() if name in still_open}
        missing = run_plan(plan, replace(plan.asked, arms=arms, seeds=tuple(range(num_seeds))))
        found = of_study(plan.folder)
        print_look(plain_console(), found, num_seeds, f"look {i + 1} of at most {len(seeds)}")
        asked = {question.key for question in plan.asked.questions}
        to_decide = [a.question for a in found.answers if a.is_open and a.question.key in asked]
        still_open = {arm for question in to_decide for arm in (question.first, question.second)}
        if not still_open or (found.design and min(found.design.tried.get(arm, 0) for arm in arms) < num_seeds):
            break  # decided, or some run did not end
    return StudyRun(plan.folder, missing)


def make_plan(file: Path, arguments: Sequence[str], config_dir: Path | None, budget: int | None) -> Plan:
    """Read a study, and what is asked of it now."""
    own = {key: value for key, _, value in (a.partition("=") for a in arguments) if key in OWN}
    passed = by_key([a for a in arguments if a.partition("=")[0] not in OWN])
    of_hydra = {key: text for key, text in passed.items() if key.startswith(("hydra.", "hydra/"))}
    given = {key: text for key, text in passed.items() if key not in of_hydra}
    if budget is not None and "seeds" in own:
        raise UserError(
            f"seeds={own['seeds']}: --until-decided takes seeds from 0 on, as many as it needs. Leave one out."
        )
    if budget is not None and budget not in LOOKS:
        raise UserError(f"--budget must be one of {', '.join(map(str, LOOKS))}, got {budget}.")
    whole = read_study(file)
    asked = _asked(whole, own)
    common = by_key(whole.overrides) | given

    that_matter = sorted(text for key, text in given.items() if affects_results(key))
    name = own.get("name", folder_name(",".join([whole.name, *that_matter])))
    if name != folder_name(name) or not name.strip("."):
        raise UserError(f"name must be a folder's name, got {name!r}. It may be {folder_name(name)}.")
    folder = Path("outputs") / name
    study = _with_earlier(asked, whole, folder)
    study = replace(study, overrides=(*study.overrides, *that_matter))
    arm_configs = {arm: arm_config(f"{file}: arms.{arm}", text, common, config_dir) for arm, text in study.arms.items()}
    _check_measures(file, study, arm_configs)
    others = {}
    for arm, config in whole.arms.items() if not (folder / FILE).exists() else ():
        with suppress(UserError):
            others[arm] = arm_configs.get(arm) or arm_config(f"{file}: arms.{arm}", config, common, config_dir)
    until = ["--until-decided", "--budget", str(budget)] if budget else []
    return Plan(
        folder=folder,
        asked=asked,
        study=study,
        whole=replace(whole, overrides=study.overrides),
        arm_configs=arm_configs,
        others=others,
        of_hydra=(f"name='{name}'", *of_hydra.values()),
        config_dir=config_dir,
        command=tuple(map(_without_machine, [str(file), *until, *arguments])),
        budget=budget,
    )


def register_plan(plan: Plan) -> Plan:
    """Register a study before its first run, and return the plan with its looks."""
    of_asked = {arm: config for arm, config in plan.arm_configs.items() if arm in plan.asked.arms}
    whole = replace(plan.whole, seeds=plan.asked.seeds)
    made = register(plan.folder, whole, of_asked, plan.others, plan.budget, bool(run_folders(plan.folder)))
    plain_console().print(f"registered on {made.time}: {plan.folder / FILE}, SHA-256 {made.sha256[:16]}…")
    if changed := [question.key for question in plan.asked.questions if [*changes_of_question(made, question)]]:
        plain_console().print(f"{', '.join(changed)}: not as registered; such claims are exploratory", style="yellow")
    looks = tuple(made.design["looks"]) if made.design and plan.budget else ()
    if looks:
        _print_detectable(looks, plan.budget, plan.whole.num_questions)
    return replace(plan, looks=looks, preregistration=made.sha256)


def _print_detectable(looks: tuple[int, ...], budget: int | None, num_questions: int) -> None:
    """Print how far arms must differ to be told apart at each look, and what the file's other questions cost."""
    seeds = [each for each in looks if each <= (budget or 0)]
    sds, alone = ([f"{detectable_sds(each, looks, num):.1f}" for each in seeds] for num in (num_questions, 1))
    found = ", ".join(f"{sd} after {num_seeds}" for sd, num_seeds in zip(sds, seeds, strict=True))
    plain_console().print(
        f"smallest difference found four times in five, in SDs from run to run: {found} seeds, with "
        f"{counted(num_questions, 'question')}" + (f" (with one alone {', '.join(alone)})" if num_questions > 1 else "")
    )


def run_plan(plan: Plan, asked: Study, keys: Sequence[Key] | None = None) -> tuple[str, ...]:
    """Run what is missing of the arms and seeds that are asked for; write study.json; return what is missing still.

    keys are the runs that are asked for; None: every arm with every seed.
    """
    wanted = list(product(asked.arms, asked.seeds)) if keys is None else keys
    found = find(plan.folder, plan.arm_configs)
    _mark_chosen(found, plan.arm_configs)
    done, code = [key for key in wanted if is_done(found, key)], code_hash()
    otherwise = {key: [*plan.arm_configs[key[0]].made_otherwise(found[key].metadata, code)] for key in done}
    again = {arm for arm, config in plan.arm_configs.items() if config.config.overwrite}
    to_run = [key for key in wanted if key not in otherwise or (otherwise[key] and key[0] in again)]
    _warn(Counter(how for key, each in otherwise.items() if key not in to_run for how in each))
    _announce(plan.folder, asked, found, to_run)
    above = ["--config-dir", str(plan.config_dir)] if plan.config_dir else []
    try:
        for sweep in sweeps(plan.arm_configs, to_run):
            _launch([*sweep, *plan.of_hydra, *above])
    finally:
        found = find(plan.folder, plan.arm_configs)
        missing = tuple(_missing(wanted, found))
        seeds = tuple(sorted({*plan.study.seeds, *asked.seeds})) if plan.budget else plan.study.seeds
        _write(plan, replace(plan.study, seeds=seeds), found, missing)
    return missing


def _mark_chosen(found: Mapping[Key, ArmRun], arm_configs: Mapping[str, ArmConfig]) -> None:
    """Let completed runs record the search that chose their arm's config, where it is named only now."""
    for (arm, _), run in found.items():
        folder = arm_configs[arm].config.get("chosen_by")
        if folder and not run.fault and not run.metadata.get("search"):  # others record it when they go on
            run.metadata["search"] = chosen_by(folder)
            write_json(run.folder / "run.json", run.metadata)


def _asked(study: Study, own: Mapping[str, str]) -> Study:
    """Return the study with the seeds and questions that were asked for, and the arms that these need."""
    seeds = study.seeds
    if "seeds" in own:
        words = _list(own["seeds"])
        seeds = tuple(dict.fromkeys(int(word) for word in words if word.isdecimal()))
        if len(seeds) < len(words):
            rule = "different integers >= 0 with commas between them, such as seeds=0,1,2"
            raise UserError(f"seeds must be {rule}, got {own['seeds']!r}.")
    if "questions" in own:
        names = _list(own["questions"])
        if not all(names):
            known = ", ".join(question.key for question in study.questions)
            rule = "names with commas between them, such as questions=4b,4c"
            raise UserError(f"questions must be {rule}, got {own['questions']!r}. There are {known}.")
        study = select(study, names)
    return replace(study, seeds=seeds)


def _list(text: str) -> list[str]:
    """Return the words of 0,1,2 or [0, 1, 2]."""
    return [word.strip() for word in text.strip("[]").split(",")]


def _with_earlier(asked: Study, whole: Study, folder: Path) -> Study:
    """Return the study with what was asked in this folder before too, as far as its file still asks it."""
    try:
        content = read_json(folder, "study.json")
        earlier = from_json(content["study"])
    except (OSError, ValueError, LookupError, TypeError):  # none, or none that says anything
        return asked
    if earlier.name != whole.name:
        return asked
    both = keep(whole, {question.key for question in (*asked.questions, *earlier.questions)})
    arms = {name: config for name, config in whole.arms.items() if name in both.arms or name in asked.arms}
    return replace(both, arms=arms, seeds=tuple(sorted({*asked.seeds, *earlier.seeds})))


def _check_measures(file: Path, study: Study, arm_configs: Mapping[str, ArmConfig]) -> None:
    """Refuse a question for a metric that its arms do not measure, before they have run for nothing."""
    for question in study.questions:
        metric = question.metric
        for arm in (question.first, question.second) if metric not in MEASURES else ():
            known = [*map(str, arm_configs[arm].config.metric.scores), "loss"]
            if not any(metric == name or metric.startswith(f"{name}_") for name in known):  # dice_left is one of dice's
                closest = did_you_mean(metric, known) or did_you_mean(metric, MEASURES)
                raise UserError(
                    f"{file}: questions.{question.key}: {metric} is no metric of {study.arms[arm]}, which has "
                    f"{', '.join(known)}; and none of {', '.join(MEASURES)}.{closest}"
                )


def _announce(folder: Path, study: Study, found: Mapping[Key, ArmRun], to_run: Sequence[Key]) -> None:
    """Print what is there, what will run, and how long that took other seeds of the same arm."""
    console = plain_console()
    rows, known, num_unknown = [], 0.0, 0
    for arm, config in study.arms.items():
        done = [found[arm, seed].metadata["seconds"] for seed in study.seeds if is_done(found, (arm, seed))]
        missing = [seed for seed in study.seeds if (arm, seed) in to_run]
        seconds = len(missing) * sum(each["total"] + each["caching"] for each in done) / max(1, len(done))
        rows.append(
            [arm, config, str(len(done)), ",".join(map(str, missing)) or "–", duration(seconds) if done else "?"]
        )
        known += seconds
        num_unknown += 0 if done else len(missing)
    console.print(folder, style="bold")
    print_table(console, ["arm", "config", "runs done", "seeds to run", "training, about"], rows)
    if any(row[3] != "–" for row in rows):
        unknown = f"{counted(num_unknown, 'run')} of which nothing is known yet" if num_unknown else ""
        console.print("to train: " + " and ".join(filter(None, [duration(known) if known else "", unknown])))
    console.file.flush()


def _warn(otherwise: Mapping[str, int]) -> None:
    """Print of how many runs that count as done it is doubtful that they should."""
    for how, number in otherwise.items():
        runs = f"{number} runs here were" if number > 1 else "1 run here was"
        plain_console().print(f"{runs} {how}", style="yellow")


def _launch(arguments: Sequence[str]) -> None:
    """Run `runcard train -m`, which reports its failures itself. A signal reaches it, and it says where it stopped."""
    if is_to_stop():
        raise StopAfterEpoch
    with subprocess.Popen([sys.executable, "-m", "runcard.cli", "train", "-m", *arguments]) as process:
        passed_on = [number for number in (signal.SIGTERM, GO_ON) if number]
        before = [signal.signal(each, lambda number, _: process.send_signal(number)) for each in passed_on]
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the terminal's Ctrl-C went to both
            process.wait()
            raise
        finally:
            for number, handler in zip(passed_on, before, strict=True):
                signal.signal(number, handler)
    if code == EXIT_GO_ON:
        raise StopAfterEpoch
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt


def _missing(wanted: Sequence[Key], found: Mapping[Key, ArmRun]) -> Iterator[str]:
    """Yield "arm, seeds 0, 1: why" for the runs of an arm that cannot be compared for the same reason."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for arm, seed in wanted:
        if not is_done(found, (arm, seed)):
            fault = found[arm, seed].fault if (arm, seed) in found else "not started"
            seeds.setdefault((arm, fault), []).append(str(seed))
    for (arm, fault), missing in seeds.items():
        yield f"{arm}, seed{'s' if len(missing) > 1 else ''} {', '.join(missing)}: {fault}"


def _write(plan: Plan, study: Study, found: Mapping[Key, ArmRun], missing: Sequence[str]) -> None:
    """Write study.json: the study as asked, the command that repeats it, each arm's run folders, what is missing."""
    command = list(plan.command)
    if study.questions != plan.asked.questions or (study.seeds != plan.asked.seeds and not plan.budget):
        controls = {key for question in study.questions for key in question.controlled_by}
        keys = [question.key for question in study.questions if question.key not in controls]
        seeds = [] if plan.budget else [f"seeds={','.join(map(str, study.seeds))}"]
        others = [each for each in command if each.partition("=")[0] not in ("seeds", "questions")]
        command = [*others, *seeds, f"questions={','.join(keys)}"]
    runs = {
        arm: [found[arm, s].folder.relative_to(plan.folder).as_posix() for s in study.seeds if is_done(found, (arm, s))]
        for arm in study.arms
    }
    failed = {arm: [seed for seed in study.seeds if _has_failed(found, (arm, seed))] for arm in study.arms}
    content = {
        "study": asdict(study),
        "command": shlex.join(["runcard", "study", *command]),
        "runs": runs,
        "failed": {arm: seeds for arm, seeds in failed.items() if seeds},
        "missing": list(missing),
        "preregistration": plan.preregistration,
    }
    if plan.without:
        content["without"] = plan.without
    if plan.budget:
        tried = {arm: _num_tried(found, arm) for arm in study.arms}
        content["design"] = {"looks": list(plan.looks), "budget": plan.budget, "tried": tried}
    write_json(plan.folder / "study.json", content)


def _num_tried(found: Mapping[Key, ArmRun], arm: str) -> int:
    """Return the number S of an arm's seeds 0 to S − 1 that have ended: completed, or failed."""
    return next(s for s in count() if not (is_done(found, (arm, s)) or _has_failed(found, (arm, s))))


def _has_failed(found: Mapping[Key, ArmRun], key: Key) -> bool:
    return key in found and bool(found[key].fault) and has_failed(found[key].folder, found[key].fault)


def _without_machine(argument: str) -> str:
    """Return an argument without the path of this machine that it may name."""
    key, equals, value = argument.rpartition("=")
    return f"{key}{equals}…" if Path(value.strip("'\"")).expanduser().is_absolute() else argument
