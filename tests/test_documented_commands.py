"""Every command of the README, of docs/ and of the other pages, run as it is printed, on small data.

The sections of a page are run one by one, each in a folder that has what pages take for granted (`world`): data,
images, runs. FILL puts these in the place of what the reader would; trainings get the keys of SMALL. What cannot run
here is in CHECKED, with the reason. A command that nothing runs, fills or checks fails.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import typer.main
from commands import Command
from conftest import ONE_THREAD, ROOT
from filelock import FileLock
from PIL import Image, ImageOps

from make_data import write_course
from runcard.cli import app
from runcard.cli.training import PARTS, TEMPLATES

NO_PAGES = {".venv", ".peers", "outputs", "site", ".pytest_cache", ".hypothesis"}
RUN_ELSEWHERE = "own-*.md"  # pages that tests/test_extending.py follows to the letter
WORDS = "runcard|python3?|make|pip|uv|tensorboard|torchrun|srun|ray|ssh|source|export|git|grep|" + r"\.venv/bin/\w+"
COMMAND = re.compile(rf"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:{WORDS})(?: |$)")
SYNTAX = re.compile(r"#|\[ |(for|done|case|cd|kill)\b")  # of the shell, around commands
SHELLS = ("sh", "bash", "console", "shell")
MENTION = re.compile(r"(?<!`)`((?:runcard|make) [^`]+)`(?!`)")

FILL = (
    (r"runcard explain outputs/run/<stamp>", "runcard explain outputs/classes"),
    (r"outputs/run/<stamp>", "outputs/run/1"),
    (r"runcard unseal outputs/losses", "runcard study sealed.yml && runcard unseal sealed.yml"),
    (r"=course(?= |$)", "=DATA/course"),
    (r"'outputs/assignment\*/\*task4\*'", "outputs/losses"),
    (r"outputs/assignment\*", "outputs/losses"),
    (r"--retrain 3", "--retrain 1"),
    (r"outputs/lab4\S*,\S+", "outputs/losses"),  # the course's own runs are not kept
    (r"outputs/losses/loss=", "outputs/losses/*/loss="),  # below the folder of the keys of SMALL
    (r"stand_in.py ../shared/data", "stand_in.py DATA/"),
    (r"(?:/DL_course_data|\.\./shared/data)(?= |$)", "DATA/course"),
    (r"(lab4/study.yml --until-decided .*)", r"\1 questions=4b_dice"),  # of its eighteen arms, two
    (r"(?:\.\./shared)?/data/", "DATA/"),
    (r"<folder with train/ and validation/>", "DATA/Bone"),
    (r"LAB=\S*…\S*", "LAB=lab4/task4a,lab4/task4b"),
    (r"… (?=model=vgg16)", "dataset=phantom_bone dataset.channels=3 "),  # any config
    (r"… ", ""),
)
SMALL = {
    "train.epochs": "1",
    "train.batch_size": "8",
    "train.accelerator": "cpu",
    "train.precision": "32",
    "dataset.image_size_px": "32",
}
ALSO_ALLOWED = {"status": {1}, "doctor": {1}, "gate": {1, 3}, "audit": {1}}  # exit codes that are answers
SLOW = re.compile(  # sections with one of these train many runs, or give many commands
    "--until-decided|--without|runcard unseal|hydra/sweeper=optuna|make lab|experiment=lab4|runcard study|"
    "train.devices=2|--help"
)


class Line(NamedTuple):
    """A command of a page, and what the page shows below it."""

    number: int
    text: str
    shown: list[str]


class Section(NamedTuple):
    """The commands and the Python of a page below one heading."""

    page: Path
    heading: str
    lines: list[Line]
    python: list[str]
    files: dict[str, str]  # name -> content, of YAML that the reader is to save

    @property
    def id(self) -> str:
        return f"{self.page.relative_to(ROOT)}#{re.sub(r'[^a-z0-9]+', '-', self.heading.lower()).strip('-')}"


def pages() -> list[Path]:
    """Find the pages of the clone."""
    return sorted(path for path in ROOT.rglob("*.md") if not NO_PAGES & set(path.relative_to(ROOT).parts[:-1]))


def sections(page: Path) -> Iterator[Section]:
    """Read the commands of a page, heading by heading."""
    section = Section(page, "", [], [], {})
    language: str | None = None  # of the fence that is open
    number, lines = 0, page.read_text(encoding="utf-8").splitlines()
    while number < len(lines):
        line = lines[number]
        number += 1
        if fence := re.match(r"\s*```(\w*)", line):
            language = None if language is not None else fence[1]
            block = "\n".join(lines[number : lines.index("```", number)]) if language else ""
            names = re.findall(r"`((?:conf/)?[\w/]+\.ya?ml)`", "".join(lines[max(number - 4, 0) : number - 2]))
            if language == "python":
                section.python.append(block)
            elif language == "yaml" and names:
                section.files[names[-1]] = block
        elif language is None and line.startswith("#"):
            yield section
            section = Section(page, line.lstrip("# "), [], [], {})
        elif language in SHELLS or (language is None and line.startswith("    ")):
            start, text = number, line.strip()
            while text.endswith("\\"):
                text = text[:-1] + lines[number].strip()
                number += 1
            if COMMAND.match(text):
                shown = []
                while number < len(lines) and text.startswith("$ ") and lines[number].startswith("    "):
                    shown.append(lines[number].removeprefix("    "))
                    number += 1
                section.lines.append(Line(start, text.removeprefix("$ "), shown))
            elif language in ("sh", "bash") and text and not SYNTAX.match(text):
                pytest.fail(f"{page.relative_to(ROOT)}:{start}: not a command that is known here: {text}")
    yield section


SECTIONS = [each for page in pages() for each in sections(page) if each.lines or each.python]
SECTIONS = [each for each in SECTIONS if not each.page.match(RUN_ELSEWHERE)]


def params() -> list[object]:
    """Mark what takes longer than some seconds as slow."""
    slow = {section.id for section in SECTIONS if any(SLOW.search(line.text) for line in section.lines)}
    marks = {True: [pytest.mark.slow], False: []}
    return [pytest.param(section, id=section.id, marks=marks[section.id in slow]) for section in SECTIONS]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder that pages take for granted, once for all workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder = shared / "world"
    with FileLock(shared / "world.lock"):
        if not (folder / "complete").exists():
            write_world(folder)
            (folder / "complete").touch()
    return folder


def write_world(folder: Path) -> None:
    """Write data/ (phantoms in the layouts of pages), the reader's own files, and outputs/."""
    data = folder / "data"
    write_course(data / "course", 10)
    for path in sorted((data / "course" / "Lab3" / "X_ray").rglob("*.*")):
        number = int(re.findall(r"\d+", path.stem)[0])
        copy = data / "X_ray" / path.parent.name / f"patient{number // 2}_{number}{path.suffix}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    shutil.copytree(data / "X_ray", data / "CT")
    shutil.copytree(data / "course" / "Lab2" / "Skin", data / "Skin")
    for part in ("train", "validation"):
        for theirs, ours in (("AFF", "Osteoporosis"), ("NFF", "Normal")):
            shutil.copytree(data / "course" / "Lab2" / "Bone" / part / theirs, data / "Bone" / part / ours)
    twin = Image.open(data / "Bone" / "train" / "Normal" / "0.jpg")
    twin.save(data / "Bone" / "validation" / "Normal" / "twin.jpg", quality=60)  # a near-duplicate across
    for name in ("other", "Other", "hospital_b"):  # images that no run was trained on
        for path in sorted((data / "X_ray").rglob("*.*")):
            mirrored = data / name / path.relative_to(data / "X_ray")
            mirrored.parent.mkdir(parents=True, exist_ok=True)
            ImageOps.mirror(Image.open(path)).save(mirrored)
    pairs = [
        (path, next((data / "X_ray" / "Mask").glob(f"{path.stem}*"))) for path in (data / "X_ray" / "Image").iterdir()
    ]
    (data / "masks.csv").write_text("image,mask\n" + "".join(f"{image},{mask}\n" for image, mask in pairs))
    labelled = [(path, "ab"[i % 2]) for i, (path, _) in enumerate(pairs)]
    (data / "labels.csv").write_text("image,label\n" + "".join(f"{image},{label}\n" for image, label in labelled))

    here = folder / "here"
    shutil.copytree(ROOT / "experiments", here / "experiments", ignore=shutil.ignore_patterns("*.html"))
    (here / "experiments" / "mine").mkdir()
    shutil.copy(ROOT / "experiments" / "first" / "capacity.yaml", here / "experiments" / "mine" / "first.yaml")
    study = (ROOT / "experiments" / "lab4" / "bone_leak.yml").read_text(encoding="utf-8")
    (here / "study.yml").write_text(study.replace("overrides: [", f"overrides: [dataset.root={data}/Bone, "))
    study = (ROOT / "experiments" / "phantoms" / "study.yml").read_text(encoding="utf-8")
    sealed = "overrides: [dataset.split.test_fraction=0.2, dataset.split.seal=true]\nseeds: [0, 1]"
    (here / "sealed.yml").write_text(
        study.replace("seeds: [0, 1, 2]", sealed).replace("name: phantoms", "name: sealed")
    )
    rng = np.random.default_rng(0)
    for name in ("images", "new_images", "new", "folder", "scans"):
        (here / name).mkdir()
        for i in range(2):
            Image.fromarray(rng.integers(0, 255, (40, 48), np.uint8)).save(here / name / f"{name}{i}.png")
    shutil.copy(here / "new" / "new0.png", here / "image.png")
    (here / "table.csv").write_text("image\nfolder/folder0.png\n")

    for arguments in (
        f"-m dataset=lungs dataset.root={data}/X_ray loss=bce,dice seed=0,1,2 name=losses",
        f"-m dataset=lungs dataset.root={data}/X_ray dataset.split.kind=kfold dataset.split.fold=0,1 name=folds "
        "augmentation=light",
        "dataset=phantom_bone model=vgg16 loss=bce run_dir=outputs/classes",
    ):
        done = Command("train.py", *small(shlex.split(arguments)), folder=here).wait()
        assert done.returncode == 0, done.stderr
    outputs = here / "outputs"
    for i, run in enumerate(sorted(path.parent for path in (outputs / "losses").rglob("run.json")), 1):
        for copy in (f"run/{i}", f"{'baseline' if i < 4 else 'other_eps'}/{i}", *(["old/1"] if i == 1 else [])):
            shutil.copytree(run, outputs / copy)


def small(words: list[str], of_study: bool = False) -> list[str]:
    """Add the keys of SMALL to those of a training, or put them in the place of the page's own values."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    if "train.extend" in given:
        return [*words, "train.epochs=2"]
    keys = dict(SMALL)
    if (
        not of_study
        and given.get("model", "unet") in ("unet", "vgg16")
        and not given.get("experiment", "").startswith("lab4")
    ):
        keys["model.base"] = "2"
    if not of_study and "experiment" not in given and given.get("dataset", "phantom").startswith("phantom"):
        keys["dataset.num_images"] = "24"
    if "hydra.sweeper.n_trials" in given:
        keys["hydra.sweeper.n_trials"] = "2"
    kept = [word for word in words if (key := word.split("=")[0]) not in keys or "," in given[key]]
    return kept + [f"{key}={value}" for key, value in keys.items() if "," not in given.get(key, "")]


def commands_of(text: str, folder: Path, data: Path) -> Iterator[list[str]]:
    """Split a line into commands, as the shell does, with what the reader would fill in; without redirections."""
    text = re.sub(r"\s+# .*", "", text)
    for pattern, replacement in FILL:
        text = re.sub(pattern, replacement, text)
    assert not re.search(r"<\w|…|(?<!DATA)/data/", text), f"nothing fills in: {text}"
    command: list[str] = []
    for word in shlex.split(text.replace("DATA/", f"{data}/"), comments=True):
        if word in ("&&", ";"):
            yield command
            command = []
        elif word in (">", "&", "|") or word.startswith("2>"):
            break
        elif "*" in word and f"'{word}'" not in text:
            command += sorted(str(path.relative_to(folder)) for path in folder.glob(word))
        elif command or not re.match(r"[A-Z_]+=", word):  # a variable before the command
            command.append(word)
    yield command


def checked(text: str) -> Callable[[list[str]], None] | None:
    """Find how a command that cannot run here is checked."""
    text = re.sub(r"^([A-Z_]+=\S+ )+", "", text)
    return next((check for pattern, _, check in CHECKED if re.match(pattern, text)), None)


# ---- what cannot run here -----------------------------------------------------------------------------------------


def extras_exist(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for named in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        if "runcard" in " ".join(words) or "repository" in " ".join(words):
            assert set(named.split(",")) <= set(extras), f"no extra of pyproject.toml: {named}"


def target_exists(words: list[str]) -> None:
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def config_composes(words: list[str]) -> None:
    """Compose the config with its launcher, of the first value of each list."""
    if "hydra/launcher=ray" in words and not importlib.util.find_spec("ray"):
        return
    at = next(i for i, word in enumerate(words) if word in ("train.py", "train"))
    keys = [word for word in words[at + 1 :] if word != "-m"]
    first = [key if "[" in key or "(" in key else key.split(",")[0] for key in keys]
    done = Command("train.py", *first, "--cfg", "all", folder=ROOT).wait()
    assert done.returncode == 0, done.stderr


def file_exists(words: list[str]) -> None:
    for word in words:
        if word.endswith((".py", ".sh")) or word.startswith("tests/"):
            assert (ROOT / word).exists(), f"no such file: {word}"


def nothing(words: list[str]) -> None:
    """Check nothing: there is nothing of Runcard in it."""


CHECKED: tuple[tuple[str, str, Callable[[list[str]], None]], ...] = (
    (
        r"(\S*python3? -m )?(pip|venv) |uv ",
        "needs a package registry; test_install.py installs the wheel",
        extras_exist,
    ),
    (r"make (?!demo|lab)", "sets up, tests or measures for minutes; CI runs make check", target_exists),
    (r"srun |torchrun ", "needs several machines; test_devices.py starts it on one", config_composes),
    (r".*hydra/launcher=(slurm|ray)", "needs a cluster; test_shared_sweeps.py starts slurm_local", config_composes),
    (r".*logger=.*(wandb|mlflow|trackio)", "needs another tracker; tests/loggers has each", config_composes),
    (r"ray ", "needs Ray on several machines", nothing),
    (r"\S*python benchmarks/", "measures for minutes", file_exists),
    (r"\S*python -m pytest", "is the tests", file_exists),
    (r"runcard --install-completion", "changes the reader's shell", nothing),
    (r"(ssh|source|export|git|grep) ", "is not of Runcard", nothing),
)


# ---- what runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", params())
def test_commands(section, world, tmp_path, runcard_command, monkeypatch):
    monkeypatch.setenv("RUNCARD_VGG16", "random")
    shutil.copytree(world / "here", tmp_path, dirs_exist_ok=True)
    for part in PARTS.get(section.page.parent.name, []) if section.page.parents[1] == TEMPLATES else []:
        shutil.copytree(TEMPLATES / part, tmp_path, dirs_exist_ok=True)
    (tmp_path / "course").symlink_to(world / "data" / "course")
    for name, content in section.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content.replace("pretrained: true", "pretrained: false"), encoding="utf-8")
    folder = tmp_path
    for line in section.lines:
        where = f"{section.page.relative_to(ROOT)}:{line.number}: {line.text}"
        if check := checked(line.text):
            check(shlex.split(line.text, comments=True))
            continue
        for words in commands_of(line.text, folder, world / "data"):
            if words[0] == "cd":
                folder = folder / words[1]
                continue
            code, out, err = give(words, folder, runcard_command, where)
            if line.shown and "…" not in "".join(line.shown):
                assert (out + err).splitlines() == line.shown, where
                assert code in (0, 2), where
            elif code != 0:
                assert code in ALSO_ALLOWED.get(words[1], ()), f"{where}\n{code}\n{out}\n{err}"
    for code in section.python:
        code = code.replace("outputs/run/<stamp>", "outputs/run/1")
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=ONE_THREAD, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{section.id}\n{code}\n{done.stderr}"


def give(
    words: list[str], folder: Path, runcard_command: Callable[..., tuple[int, str, str]], where: str
) -> tuple[int, str, str]:
    """Give one command in folder; return its exit code, stdout and stderr."""
    match words:
        case ["make", *_]:  # demo, lab: what it would run
            made = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
            lines = made.stdout.replace("\\\n", " ").splitlines()
            for line in (line.strip() for line in lines if "train.py" in line):
                train = re.sub(r"RUNCARD_VGG16=\S+ ", "", line).split()
                data = folder.parent / "phantoms"
                give([w.replace("outputs/phantom_course", str(data)) for w in train], folder, runcard_command, where)
            return made.returncode, "", made.stderr
        case ["python" | ".venv/bin/python", "train.py", *keys] | ["runcard", "train", *keys]:
            start = ("train.py",) if words[1] == "train.py" else ("runcard", "train")
            done = Command(*start, *(keys if "--help" in keys else small(keys)), folder=folder).wait(600)
        case ["python", script, *rest] if script.startswith("experiments/"):
            command = [sys.executable, str(ROOT / script), *rest]
            done = subprocess.run(command, cwd=folder, env=ONE_THREAD, capture_output=True, text=True, timeout=120)
        case ["runcard", "demo", *keys]:
            done = Command("runcard", "demo", *small(keys), folder=folder).wait()
        case ["runcard", "study", file, *keys]:
            done = Command("runcard", "study", file, *small(keys, of_study=True), folder=folder).wait(1200)
        case ["runcard", "audit", *keys] if "--against" not in keys:
            done = Command("runcard", "audit", *keys, folder=folder).wait()
        case ["tensorboard", *rest]:
            inspect = [sys.executable, "-m", "tensorboard.main", "--inspect", *rest]
            done = subprocess.run(inspect, cwd=folder, capture_output=True, text=True, timeout=120)
        case ["runcard", "tensorboard", *rest]:  # writes what the server would show
            return runcard_command("tensorboard", *rest, "-o", "tensorboard")
        case ["runcard", *rest]:
            return runcard_command(*rest)
        case _:
            pytest.fail(f"no rule runs it: {where}")
    return done.returncode, done.stdout, done.stderr


def test_mentioned_commands_exist():
    """A command in the text of a page has the options that it is given there, a make target exists."""
    commands = typer.main.get_command(app).commands
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    wrong = []
    for page in pages():
        for mention in MENTION.findall(page.read_text(encoding="utf-8")):
            program, name, *_ = mention.split()
            options = set(re.findall(r"(?<!\S)\[?(--[a-z-]+)", mention)) - {"--help"}
            if program == "make":
                known = re.sub(r"[^a-z-]", "", name) in targets or name.startswith("-")
            elif name not in commands:
                known = name.startswith(("-", "[", "…")) or name.isupper()
            else:
                given = {option for each in commands[name].params for option in each.opts + each.secondary_opts}
                known = options <= given or commands[name].ignore_unknown_options
            if not known:
                wrong.append(f"{page.relative_to(ROOT)}: {mention}")
    assert not wrong, "\n".join(wrong)


def test_pages_are_found():
    """The collector reads what it is meant to read."""
    names = {section.page.name for section in SECTIONS}
    assert {"README.md", "CONTRIBUTING.md"} <= names
    assert sum(len(section.lines) for section in SECTIONS) > 100
