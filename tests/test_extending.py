"""The pages docs/how-to/own-*.md, followed to the letter: their files are written and their commands are run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Command
from conftest import ROOT

PAGES = sorted((ROOT / "docs" / "how-to").glob("own-*.md"))
BLOCK = re.compile(r"^(?:`([\w./]+)`\n\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)  # file name, language, text


def test_each_kind_of_object_has_its_page():
    names = {page.stem.removeprefix("own-") for page in PAGES}
    assert names >= {"dataset", "model", "loss", "metric", "augmentation"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_works_as_written_in_an_empty_folder(page: Path, tmp_path):
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    files = {name: text for name, language, text in blocks if language in ("python", "yaml")}
    shell = [text for _, language, text in blocks if language == "sh"]
    commands = [shlex.split(line) for text in shell for line in text.splitlines()]
    assert all(files), "a block without the name of its file"
    assert len(files) + len(shell) == len(blocks), "a name twice, or a block that is neither a file nor commands"
    for name, content in files.items():
        assert not (ROOT / name).exists(), f"{name} would replace a file of Runcard"
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")

    for command, *arguments in commands:
        if command == "python":
            done = subprocess.run(
                [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120
            )
        else:
            done = Command(command, *arguments, folder=tmp_path).wait()
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""

    choices = [name.removeprefix("conf/").removesuffix(".yaml") for name in files if name.startswith("conf/")]
    assert choices
    for choice in choices:
        chosen = choice.replace("/", "=")
        assert any(chosen in command for command in commands), f"no command uses {chosen}"
