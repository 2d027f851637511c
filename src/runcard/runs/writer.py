"""The run folder: whose it is, what ran in it, on which data, with which result.

A folder belongs to one config on one data set. Naming it again resumes the run; a completed run gives its recorded
value. Anything else that stands there is refused or, with overwrite=true, moved aside.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from runcard.config.diff import LONGER, Config, differing_keys
from runcard.errors import UserError, join_first, runs_below
from runcard.fileio import atomic_write, is_temporary, write_csv, write_json, write_text
from runcard.runs.environment import code_hash, commit, hardware, now, versions
from runcard.runs.folders import BEST, LAST, file_of, read_metadata
from runcard.runs.hold import OWN_FILES, Hold
from runcard.runs.looks import LOOKS, Look, read_looks
from runcard.runs.run import EVALUATIONS, Run
from runcard.runs.schema import SCHEMA_VERSION, ParentRun, faults

HYDRAS_FILES = ("config.yaml", "hydra.yaml", "overrides.yaml")  # written first of all where hydra.output_subdir=.hydra
HYDRAS_LOG = "train.log"  # where hydra/job_logging=default
OF_NFS = ".nfs"  # begins the name of a removed file that a process has still open, on a network drive
MAX_DIFFERENCES = 3  # between two configs, in a message
OTHER_FOLDER = "For this config use another name=… or run_dir=…, or overwrite=true, which moves that folder aside."


class Record:
    """run.json and what stands beside it, of one run folder that this process holds."""

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self.folder = folder
        self.content = content

    @classmethod
    def open(
        cls, hold: Hold, config: Config, choices: Mapping[str, str], data: Mapping[str, str], overwrite: bool
    ) -> Record:
        """Open the record of the folder: an empty one where it is free, the one there where it is this config's.

        Raises UserError where another config, other data or something else stands there. With overwrite, what is
        completed or not this config's is moved aside; what was interrupted goes on.
        """
        content, fault = _read_folder(hold.folder, config, choices)
        if not fault and content and content["data"] != data:
            fault = f"{hold.folder}: holds a run of the same config on other data."
        if fault and not overwrite:
            raise UserError(f"{fault}\n{OTHER_FOLDER}")
        if fault or (overwrite and content.get("status") == "completed"):
            hold.move_aside(_free_name(hold.folder))
            content = {}
        return cls(hold.folder, content)

    def start(
        self, config_yaml: str, overrides: Sequence[str], session: Mapping[str, Any], **metadata: Any
    ) -> list[str]:
        """Write .hydra/ and run.json with status running.

        session is what may differ when the run is resumed; returns what does differ from the last one, by name.
        """
        if not self.content:
            self.content = {"schema": SCHEMA_VERSION, "start": now(), "sessions": [], **metadata}
        machine = {"start": now(), "code": code_hash(), "commit": commit(), "hardware": hardware()}
        current = {**machine, "versions": versions(), **session}
        last = self.content["sessions"][-1] if self.content["sessions"] else current
        self.content["sessions"].append(current)
        self.update(status="running", error=None)  # first of all: without it the folder would look like somebody else's
        write_text(self.folder / ".hydra" / "config.yaml", config_yaml)
        write_text(self.folder / ".hydra" / "overrides.yaml", "".join(f"- {json.dumps(o)}\n" for o in overrides))
        return [key for key in current if key not in ("start", "commit") and last.get(key) != current[key]]

    def update(self, **metadata: Any) -> None:
        """Write run.json with these metadata added."""
        self.content |= metadata
        write_json(self.folder / "run.json", self.content)

    def check_there(self) -> None:
        """Raise UserError where the folder was removed or renamed during the run, whose files would be new ones."""
        if not (self.folder / "run.json").exists():
            raise UserError(
                f"{self.folder}: was removed or renamed while it was trained in. The same command begins anew there."
            )

    def finish(self, session_seconds: float, status: str, error: str | None = None, **metadata: Any) -> None:
        """Write how this session ended: completed, failed or interrupted."""
        self.check_there()
        self.content["sessions"][-1] |= {"end": now(), "seconds": session_seconds}
        self.update(status=status, error=error, end=now(), **metadata)

    def write_split(
        self, split: Mapping[str, Sequence[int]], ids: Sequence[str], groups: Sequence[str], digests: Sequence[str]
    ) -> None:
        """Write split.json: of train, val and test the ids, their groups, and a hash of each one's files."""
        images = [{"id": i, "group": g, "sha256": d} for i, g, d in zip(ids, groups, digests, strict=True)]
        write_json(self.folder / "split.json", {part: [images[i] for i in members] for part, members in split.items()})

    def write_per_image(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write per_image.csv: a row per image of validation (and test), for the last and the best weights."""
        write_csv(self.folder / "per_image.csv", rows)


def recorded_run(
    folder: Path, config: Config, choices: Mapping[str, str], unknown: Collection[str], overwrite: bool
) -> dict[str, Any]:
    """Read run.json of folder, {} where there is none, before anything slow happens.

    unknown are keys whose values are not known before the data are read. Raises UserError where something else than a
    run of this config stands there and overwrite is false.
    """
    if overwrite or not folder.is_dir():
        return {}
    content, fault = _read_folder(folder, config, choices, unknown)
    if fault:
        raise UserError(f"{fault}\n{OTHER_FOLDER}")
    return content


def _read_folder(
    folder: Path, config: Config, choices: Mapping[str, str], unknown: Collection[str] = ()
) -> tuple[dict[str, Any], str]:
    """Return run.json of a folder, {} where there is none, and why the folder cannot be this config's, "" if it can."""
    if not (folder / "run.json").exists():
        others = sorted(path.name for path in folder.iterdir() if not _precedes_a_run(path))
        return {}, f"{folder}: is not empty and not a run folder: it has {', '.join(others[:5])}." if others else ""
    try:
        content = read_metadata(folder)
        saved, saved_choices = content["config"], content["choices"]
    except (ValueError, KeyError) as error:
        return {}, f"{folder}: {error}."
    differing = differing_keys(saved, config, but=unknown)
    if not differing:
        return content, ""
    groups = [group for group, choice in choices.items() if saved_choices.get(group, choice) != choice]
    important = [f"{group} ({saved_choices[group]} there, {choices[group]} here)" for group in groups]
    important += [key for key in differing if not key.startswith(tuple(f"{group}." for group in groups))]
    fault = f"{folder}: holds another run, which differs in {join_first(important, MAX_DIFFERENCES)}."
    here, there = config["train"]["epochs"], saved["train"]["epochs"]
    if all(key.startswith("train.epochs") for key in differing) and here > there:
        return content, f"{fault}\nTo train it longer, in a new folder: train.extend={folder}"
    with suppress(OSError, ValueError, TypeError):
        overrides = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")) or []
        kept = [each for each in overrides if not each.startswith("run_dir=")]
        fault += f"\nTo resume that run: {shlex.join(['runcard', 'train', *kept, f'run_dir={folder}'])}"
    return content, fault


def _precedes_a_run(path: Path) -> bool:
    """Whether a file of a folder is there before run.json: what a run that was killed so early leaves does no harm."""
    if path.is_dir():
        names = [each.name for each in path.iterdir()]
        return path.name == ".hydra" and all(name in HYDRAS_FILES or is_temporary(name) for name in names)
    return path.name in (*OWN_FILES, HYDRAS_LOG) or path.name.startswith(OF_NFS) or is_temporary(path.name)


def check_parent(parent: Path, config: Config, data: Mapping[str, str]) -> None:
    """Check that a run with this config can go on where parent ended (train.extend).

    It must equal a run that long from the start; therefore only train.epochs may differ, and the scheduler must not
    depend on the total number of steps.
    """
    if not (parent / "run.json").exists():
        raise UserError(f"train.extend: {parent} is not a run folder.{runs_below(parent)}")
    if not (parent / LAST).exists():
        raise UserError(
            f"train.extend: {parent}/checkpoints has no last.ckpt: record=lean and runcard prune remove it."
        )
    try:
        content = read_metadata(parent)
        wrong = "; ".join(faults(content, ParentRun))
    except ValueError as error:
        wrong = str(error)
    if wrong:
        raise UserError(f"train.extend: {parent} cannot be trained longer: {wrong}.")
    differing = differing_keys(content["config"], config, but=LONGER)
    differing += ["the data"] * (content["data"] != data)
    if differing:
        of_length = all(key.startswith("scheduler.rule.") for key in differing)
        fix = " The scheduler depends on the number of steps: use scheduler=none." if of_length else ""
        raise UserError(f"train.extend: only train.epochs may differ from {parent}, not {', '.join(differing)}.{fix}")
    here, there, every = config["train"]["epochs"], content["config"]["train"]["epochs"], config["train"]["eval_every"]
    if there % every:
        raise UserError(
            f"train.extend: {parent} was evaluated after its last epoch, {there}, which is no multiple of "
            f"train.eval_every={every}: a run of {here} epochs from the start would not be."
        )
    if here <= there:
        raise UserError(f"train.extend: train.epochs={here} must exceed the {there} of {parent}.")


def copy_training(parent: Path, folder: Path) -> None:
    """Copy parent's training so far into folder; last.ckpt comes last, it marks the copy as whole."""
    for name in (BEST, "metrics.csv", LAST):
        with atomic_write(folder / name) as temporary:
            shutil.copyfile(file_of(parent, name), temporary)


def write_evaluation(
    run: Run, folder: Path, images: Sequence[Mapping[str, str]], rows: Sequence[Mapping[str, Any]], **metadata: Any
) -> None:
    """Write run as it is on other images, in the form of a run folder whose test split they are; run.json comes last.

    images are those of split.json, rows those of per_image.csv. The values of metadata replace or join the run's own.
    """
    write_csv(folder / "per_image.csv", rows)
    write_json(folder / "split.json", {**run.split_members, "test": list(images)})
    for name in ("metrics.csv", ".hydra/config.yaml", EVALUATIONS):
        if (run.folder / name).is_file():
            with atomic_write(folder / name) as temporary:
                shutil.copyfile(file_of(run.folder, name), temporary)
    # What was trained on distinguishes runs that are measured on the same images.
    config = {**run.metadata["config"], "trained_on": run.metadata["data"]["hash"]}
    own = {key: value for key, value in run.metadata.items() if key != "sha256"}  # of the run's own files
    write_json(folder / "run.json", {**own, "config": config, **metadata})


def log_look(folders: Sequence[Path], look: Look) -> None:
    """Append to looks.csv of each folder, a study's and the one above it, that a sealed test set was evaluated."""
    row = {"time": now(), **asdict(look)}
    for folder in folders:
        write_csv(folder / LOOKS, [*read_looks(folder), row])


def log_evaluation(run: Run, folder: Path, data: str, num_images: int, data_hash: str) -> None:
    """Append to evaluations.csv of a run that it was measured on images that it was not made with."""
    look = {"time": now(), "data": data, "images": str(num_images), "data_hash": data_hash, "folder": str(folder)}
    known = Run(run.folder, run.metadata).evaluations  # as the file is now: another command may have logged a look
    write_csv(run.folder / EVALUATIONS, [*known, look])


def _free_name(folder: Path) -> Path:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    return aside
