"""The generated reference has every key of the schema, every choice, every command and option, and every check."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch

import pytest
import reference
import typer
from conftest import ROOT

from runcard.audit.findings import CHECKS
from runcard.cli import app
from runcard.config.schema import Config, Section
from runcard.study.spec import ControlConfig, QuestionConfig, StudyConfig

PAGES = ROOT / "docs" / "reference"
FREE = ("model", "augmentation", "optimizer")  # sections whose keys are the arguments of a class


def filled_in(name: str) -> str:
    return reference.fill_in((PAGES / name).read_text(encoding="utf-8"))


def rows(page: str) -> dict[str, list[str]]:
    """Return the last cell of each row of the tables, by the name in its first cell."""
    found: dict[str, list[str]] = {}
    for name, rest in re.findall(r"^\| `([^`]+)` \|(.*)\|$", page, re.MULTILINE):
        found.setdefault(name, []).append(rest.rpartition("|")[2].strip())
    return found


def schema_keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from schema_keys(kind, f"{prefix}{name}.")
        elif name not in FREE:
            yield f"{prefix}{name}"


def test_every_key_of_the_schema_has_a_meaning():
    named = rows(filled_in("config.md"))
    keys = [key for key in schema_keys(Config) if not key.startswith("derived.")]
    assert len(keys) > 50
    without = [key for key in keys if not any(name == key or name.startswith(f"{key}.") for name in named)]
    assert without == []
    assert [key for key in keys if "" in named.get(key, [])] == []


def test_every_choice_has_a_section():
    page = filled_in("config.md")
    files = sorted((ROOT / "conf").glob("*/*.yaml")) + sorted((ROOT / "conf" / "hydra").glob("*/*.yaml"))
    choices = {f"{path.parent.relative_to(ROOT / 'conf')}={path.stem}" for path in files}
    choices = {choice for choice in choices if not choice.startswith(("split=", "project=", "experiment="))}
    assert len(choices) >= 30
    assert choices == set(re.findall(r"^### `([\w/]+=\w+)`$", page, re.MULTILINE))


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("train.epochs", "an integer >= 1"),
        ("train.clip_grad_norm", "a number > 0, null"),
        ("train.precision", "auto, 32, bf16"),
        ("dataset.split.val_fraction", "a number in [0, 1]"),
        ("record", "full, lean"),
        ("model.base", ""),
    ],
)
def test_a_rule_is_the_one_that_the_message_of_a_wrong_value_names(key, rule):
    assert reference.rule_of(key) == rule


def test_a_row_is_what_the_file_says():
    table = reference.keys("loss/bce_dice.yaml")
    assert "| `loss.losses.dice.pooling` | `image` |  | image \\| batch |" in table
    assert "| `loss.weights` |  |  | factors, >= 0, under the losses' names |" in table
    assert "_target_" not in table


def test_every_command_and_option_is_there_with_its_help():
    page = filled_in("commands.md")
    group = typer.main.get_command(app)
    sections = dict(re.findall(r"^### runcard ([\w-]+)\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    assert list(sections) == list(group.commands)
    for name, command in group.commands.items():
        assert command.help in sections[name]
        named = rows(sections[name])
        for parameter in command.params:
            (row,) = [row for row in named if parameter.opts[-1].upper() in row.upper().split(", ")]
            assert named[row] != [""], f"{name} {row} has no help"


def test_every_check_is_there_with_its_level():
    page = filled_in("audit-checks.md")
    found = re.findall(r"^### `(\w+)`\n\n\*(.+?)\*: (.+)\.$", page, re.MULTILINE)
    assert [(name, (level.lower(), what)) for name, level, what in found] == list(CHECKS.items())


def test_pictures_are_of_checks():
    names = {path.stem for path in reference.PICTURES.glob("*.jpg")}
    assert len(names) > 20
    assert names <= set(CHECKS)


def test_every_file_of_a_run_and_every_key_of_its_record_is_named(trained_runs):
    page = (PAGES / "run-folder.md").read_text(encoding="utf-8")
    named = re.findall(r"`([^`]+)`", page)
    patterns = [re.sub(r"<\w+>", "*", name) + ("*" if name.endswith("/") else "") for name in named]
    for run in (trained_runs / "masks" / "seed0", trained_runs / "classes"):
        files = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
        assert len(files) > 10
        assert [file for file in files if not any(fnmatch(file, pattern) for pattern in patterns)] == []
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        assert [key for key in record if key not in named] == []


def test_every_key_of_a_study_is_in_its_example():
    page = (PAGES / "study.md").read_text(encoding="utf-8")
    for section in (StudyConfig, QuestionConfig, ControlConfig):
        assert [key for key in section.model_fields if not re.search(rf"\b{key}\b", page)] == []
