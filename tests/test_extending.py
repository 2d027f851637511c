"""The page docs/extending.md, followed to the letter: its files are written and its commands are run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

from commands import Command
from conftest import ROOT

PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r"^(?:`([\w./]+)`\n\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)  # file name, language, text
GROUPS = ("dataset", "model", "loss", "metric", "augmentation")


def test_page_works_as_written_in_an_empty_folder(tmp_path):
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    files = {name: text for name, language, text in blocks if language in ("python", "yaml")}
    commands = [shlex.split(line) for _, language, text in blocks if language == "sh" for line in text.splitlines()]
    assert all(files), "a block without the name of its file"
    assert len(files) + 2 == len(blocks), "a name twice, or a block that is neither a file nor commands"
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

    for group in GROUPS:
        for path in (name for name in files if name.startswith(f"conf/{group}/")):
            chosen = f"{group}={path.rpartition('/')[2].removesuffix('.yaml')}"
            assert any(chosen in command for command in commands), f"no command uses {chosen}"
