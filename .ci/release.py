"""Build a release: make release VERSION=0.2.0. Nothing is committed, tagged or pushed.

Writes the version and the date into CHANGELOG.md, CITATION.cff and the package, builds wheel and sdist into dist/,
checks them with twine, and starts runcard from each in a new environment. Where a step fails, the files are put back.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from datetime import UTC, datetime
from pathlib import Path

from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[1]
CHANGES, CITATION, PACKAGE = ROOT / "CHANGELOG.md", ROOT / "CITATION.cff", ROOT / "src" / "runcard" / "__init__.py"
UNRELEASED = "## Unreleased\n"


def with_release(changes: str, version: str, date: str) -> str:
    """Return the text of CHANGELOG.md with what is unreleased under this version, below an empty section.

    Raises ValueError where nothing is unreleased, or the version is there already.
    """
    if f"\n## {version} " in changes:
        raise ValueError(f"CHANGELOG.md has {version} already.")
    _, heading, rest = changes.partition(UNRELEASED)
    if not heading or not rest.partition("\n## ")[0].strip():
        raise ValueError('CHANGELOG.md: there is nothing under "Unreleased" to release.')
    return changes.replace(UNRELEASED, f"{UNRELEASED}\n## {version} - {date}\n", 1)


def check_version(version: str, current: str) -> None:
    """Raise ValueError unless version is a number such as 0.2.0, and not below the current one."""
    try:
        is_older = Version(version) < Version(current)
    except InvalidVersion:
        raise ValueError(
            f"VERSION must be a number such as 0.2.0, got {version!r}: make release VERSION=0.2.0"
        ) from None
    if is_older:
        raise ValueError(f"VERSION must not be below {current}, got {version}.")


def run(*command: object, cwd: Path = ROOT) -> str:
    """Run a command and return what it prints; print its output and end where it fails."""
    print("$", *command, flush=True)
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}")
    return done.stdout


def start_from(file: Path, version: str) -> None:
    """Install a wheel or sdist into a new environment that sees the packages of this one, and start runcard there."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        venv.create(folder / "env", with_pip=False)
        site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env")}))
        (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = [sys.executable, "-m", "pip", "--python", folder / "env" / "bin" / "python", "install", "--quiet"]
        run(*pip, "--no-deps", "--no-build-isolation", "--ignore-installed", file)
        script = folder / "env" / "bin" / "runcard"
        assert "Usage: runcard" in run(script, "--help", cwd=folder), "runcard --help"
        assert run(script, "--version", cwd=folder) == f"runcard {version}\n", "runcard --version"
        run(script, "train", "--cfg", "job", cwd=folder)  # finds conf/


def main(version: str) -> None:
    """Build the release."""
    texts = {path: path.read_text(encoding="utf-8") for path in (CHANGES, CITATION, PACKAGE)}
    current = re.search(r'^__version__ = "(.+)"$', texts[PACKAGE], re.MULTILINE)
    assert current
    date = datetime.now(UTC).date().isoformat()
    try:
        check_version(version, current[1])
        changes = with_release(texts[CHANGES], version, date)
    except ValueError as error:
        sys.exit(str(error))
    if run("git", "status", "--porcelain", "--untracked-files=no"):
        sys.exit("There are changes that are not committed: commit or stash them first.")
    try:
        CHANGES.write_text(changes, encoding="utf-8")
        CITATION.write_text(re.sub(r"(?m)^version: .*$", f"version: {version}", texts[CITATION]), encoding="utf-8")
        PACKAGE.write_text(texts[PACKAGE].replace(current[0], f'__version__ = "{version}"'), encoding="utf-8")
        shutil.rmtree(ROOT / "dist", ignore_errors=True)
        run(Path(sys.executable).with_name("hatchling"), "build", "-d", "dist", "-t", "sdist", "-t", "wheel")
        files = sorted((ROOT / "dist").iterdir())
        run(ROOT / ".release" / "bin" / "twine", "check", "--strict", *files)
        for file in files:
            start_from(file, version)
    except BaseException:
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
        raise
    print(
        f"\n{', '.join(file.name for file in files)}: in dist/, checked. Look at git diff, then:\n"
        f'  git commit -am "Release {version}" && git tag v{version}\n'
        "To publish, push the tag and upload dist/ with .release/bin/twine: neither is done here."
    )


if __name__ == "__main__":
    main(*sys.argv[1:2] or [""])
