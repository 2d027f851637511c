"""A mistake in a config file is one message that names the file, the line and the fault; no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ONE_THREAD

from runcard.config.compose import compose_config
from runcard.errors import UserError

RUNCARD = str(Path(sys.executable).with_name("runcard"))
INDENTED = "_target_: torch.nn.Identity\n  width: 3\n"

# The content of conf/model/mine.yaml, and the message.
FAULTS = {
    "indentation": (
        INDENTED,
        "conf/model/mine.yaml, line 2 ('  width: 3'): invalid YAML: mapping values are not allowed in this context: "
        "is it indented as the lines above? A value with ': ' in it needs quotes.",
    ),
    "nested indentation": (
        "a:\n   b: 1\n  c: 2\n",
        "conf/model/mine.yaml, line 3 ('  c: 2'): invalid YAML: did not find expected key: "
        "is it indented as the lines above?",
    ),
    "tab": (
        "_target_: torch.nn.Identity\n\twidth: 3\n",
        r"conf/model/mine.yaml, line 2 ('\twidth: 3'): invalid YAML: found a tab character that violates indentation: "
        "indent by spaces.",
    ),
    "colon": (
        "_target_: torch.nn.Identity\nwidth 3\n",
        "conf/model/mine.yaml, line 2 ('width 3'): invalid YAML: could not find expected ':': "
        "a key ends in a colon: key: value.",
    ),
    "quote": (
        "a: 'x\nb: 1\n",
        'conf/model/mine.yaml, line 1 ("a: \'x"): invalid YAML: found unexpected end of stream: a quote is not closed.',
    ),
    "bracket": (
        "a: [1, 2\nb: 3\n",
        "conf/model/mine.yaml, line 2 ('b: 3'): invalid YAML: did not find expected ',' or ']': "
        "a list or {} of the line above is not closed.",
    ),
    "duplicate key": (
        "a: 1\na: 2\n",
        "conf/model/mine.yaml, line 2 ('a: 2'): invalid YAML: found duplicate key a: leave one of the two.",
    ),
    "defaults without dashes": (
        "defaults: unet\n",
        "conf/model/mine.yaml: defaults must be a list (got str): each line begins with '- '.",
    ),
    "defaults of a file that does not exist": (
        "defaults:\n  - unett\n",
        "conf/model/mine.yaml, defaults: model=unett: no such file conf/model/unett.yaml. "
        "The choices are mine, unet, vgg16, vgg16_pretrained. Did you mean 'unet'?",
    ),
}


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def message(overrides: list[str], config_dir: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        compose_config(overrides, config_dir)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("content", "expected"), FAULTS.values(), ids=FAULTS)
def test_fault_of_a_choice_names_file_and_line(folder, content, expected):
    write(folder / "conf/model/mine.yaml", content)
    assert message(["model=mine"]) == expected


@pytest.mark.parametrize("content", ["# Schädel\n".encode("latin-1"), b"a: \0\n"], ids=["Latin-1", "binary"])
def test_file_that_is_not_text_is_named(folder, content):
    write(folder / "conf/model/mine.yaml", content)
    assert "conf/model/mine.yaml" in message(["model=mine"])
    assert "a config is a text file, in UTF-8" in message(["model=mine"])


def test_fault_of_an_experiment_names_file_and_line(folder):
    write(folder / "experiments/mine/first.yaml", INDENTED)
    assert message(["experiment=mine/first"]).startswith("experiments/mine/first.yaml, line 2 (")


def test_fault_in_config_dir_names_file_and_line(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write(other / "model/mine.yaml", INDENTED)
    assert message(["model=mine"], other).startswith(f"{other}/model/mine.yaml, line 2 (")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["model=mine"], "conf/model/mine.yaml, line 2 "),
        (["-m", "model=unet,mine"], "conf/model/mine.yaml, line 2 "),
        (["--config-dir", "conf", "experiment=first"], "experiments/first.yaml, line 2 "),
        (["-m", "model=unet,unett"], "model=unett: no such file conf/model/unett.yaml."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_exits_with_2_and_one_line(folder, arguments, expected):
    write(folder / "conf/model/mine.yaml", INDENTED)
    write(folder / "experiments/first.yaml", INDENTED)
    done = subprocess.run([RUNCARD, "train", *arguments], env=ONE_THREAD, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(expected)
    assert len(done.stderr.splitlines()) == 1
    assert not [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".yaml"]
