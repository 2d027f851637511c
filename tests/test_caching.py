"""The folders of results for the next run: what goes at the limit, what never does, and `runcard cache`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import compose_config
from filelock import FileLock
from omegaconf import open_dict
from typer.testing import CliRunner

from runcard.caching import HALF_WRITTEN_SECONDS, open_cache
from runcard.cli import app
from runcard.config.schema import parse_config
from runcard.errors import UserError

LIMIT_GB = 100e-9  # 100 bytes
NUM_BYTES = 40  # of an entry: two fit
A, B, C, D = ("0123"[i] * 32 for i in range(4))  # names of entries
Use = Callable[..., bool]


@pytest.fixture
def use(tmp_path: Path) -> Use:
    """Return a function that uses an entry of a cache in tmp_path, and says whether it was there."""
    said: list[str] = []

    def use_it(name: str, limit_gb: float | None = LIMIT_GB, num_bytes: int = NUM_BYTES) -> bool:
        content = name[-1:].encode() * num_bytes
        cache = open_cache("train", str(tmp_path), limit_gb)
        got, was_there = cache.load_or_make(name, Path.read_bytes, lambda: content, bytes, said.append)
        assert got == content, "kept, made again or not kept: it is the same"
        return was_there

    use_it.said = said  # type: ignore[attr-defined]
    return use_it


def used_before(folder: Path, *names: str) -> None:
    """Set the times of last use: a day ago for the first, a second later for each that follows."""
    for seconds, name in enumerate(names):
        os.utime(folder / f"{name}.safetensors", (0, time.time() - 86_400 + seconds))


def kept(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.safetensors")}


def test_the_least_recently_used_goes_first(use, tmp_path):
    assert [use(A), use(B)] == [False, False]
    used_before(tmp_path, A, B)
    assert use(A), "now B is the one that was not used for longer"
    assert not use(C)
    assert kept(tmp_path) == {A, C}
    assert not (tmp_path / f"{B}.lock").exists()
    assert not use(B)


@pytest.mark.parametrize("limit_gb", [None, 3 * NUM_BYTES / 1e9])
def test_within_the_limit_nothing_goes(use, tmp_path, limit_gb):
    for name in (A, B, C):
        use(name, limit_gb)
    assert kept(tmp_path) == {A, B, C}
    assert use.said == []


def test_as_many_go_as_the_new_one_needs_room_for(use, tmp_path):
    use(A), use(B)
    used_before(tmp_path, A, B)
    use(C, num_bytes=100)
    assert kept(tmp_path) == {C}


def test_larger_than_the_limit_is_used_but_not_kept(use, tmp_path):
    use(A)
    assert not use(B, num_bytes=101)
    assert use.said == [
        "train.cache_gb=1e-07: the features of frozen layers take 101 bytes and are not kept for the next run. "
        "Raise it to keep them."
    ]
    assert kept(tmp_path) == {A}, "nothing went for it"


def test_what_another_process_reads_stays(use, tmp_path):
    use(A), use(B)
    used_before(tmp_path, A, B)
    with FileLock(tmp_path / f"{A}.lock"):
        use(C)
        assert kept(tmp_path) == {A, C}


def test_what_cannot_be_removed_stays_and_the_next_goes(use, tmp_path, monkeypatch):
    """As on Windows, where a file that is open cannot be removed."""
    use(A), use(B)
    used_before(tmp_path, A, B)
    unlink = Path.unlink

    def refused(path: Path, **options: bool) -> None:
        if path.stem == A:
            raise PermissionError
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", refused)
    use(C)
    assert kept(tmp_path) == {A, C}


def test_another_process_that_removes_the_same_is_no_error(use, tmp_path, monkeypatch):
    use(A), use(B)
    cache = open_cache("train", str(tmp_path), LIMIT_GB)
    listed = cache.files()
    for name in (A, B):
        (tmp_path / f"{name}.safetensors").unlink()
    assert [cache.remove(file) for file in listed] == [True, True]
    monkeypatch.setattr(Path, "glob", lambda *_: [file.path for file in listed])  # as if they went just now
    assert cache.files() == []


def test_several_at_once_get_what_they_ask_for_and_end_within_the_limit(use, tmp_path):
    names = [f"{i % 6:032x}" for i in range(60)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, names))
    use(A)
    assert A in kept(tmp_path)
    assert sum(file.num_bytes for file in open_cache("train", str(tmp_path), None).files()) <= 100


def test_half_written_files_go_after_a_day_and_files_of_others_never(use, tmp_path):
    mine = [tmp_path / f".{name}.safetensors.tmp.safetensors" for name in (B, C)]
    others = [tmp_path / name for name in ("weights.safetensors", ".weights.safetensors.tmp.safetensors", f"{B}.json")]
    for path in (*mine, *others):
        path.write_bytes(b"0" * 1000)
        os.utime(path, (0, time.time() - HALF_WRITTEN_SECONDS - 60))
    os.utime(mine[1])
    use(A, limit_gb=None)
    assert [path.exists() for path in mine] == [False, True]
    use(D)
    assert all(path.exists() for path in others)


def test_a_damaged_entry_is_made_again(use, tmp_path):
    use(A)

    def load(path: Path) -> bytes:
        raise ValueError(path)

    cache = open_cache("train", str(tmp_path), LIMIT_GB)
    assert cache.load_or_make(A, load, lambda: b"new", bytes, print) == (b"new", False)
    assert (tmp_path / f"{A}.safetensors").read_bytes() == b"new"


def test_two_caches_in_one_folder_leave_each_other_alone(use, tmp_path):
    use(A), use(B)
    audit = open_cache("audit", str(tmp_path), NUM_BYTES / 1e9)
    audit.load_or_make(f"mask_alignment-{C}", Path.read_bytes, lambda: b"{}", bytes, print)
    assert kept(tmp_path) == {A, B}
    assert [file.path.name for file in audit.files()] == [f"mask_alignment-{C}.json"]


def test_a_config_saved_before_there_was_a_limit_has_the_usual_one():
    cfg = compose_config()
    now, _ = parse_config(cfg)
    with open_dict(cfg):
        del cfg.train.cache_gb, cfg.audit.cache_gb, cfg.images
    before, _ = parse_config(cfg)
    assert before == now
    assert (now.train.cache_gb, now.audit.cache_gb) == (20, 1)


def test_the_command_shows_and_empties_the_caches(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use(A), use(B)
    used_before(tmp_path, A)
    open_cache("audit", "outputs/.audit", 1).load_or_make(
        f"mask_alignment-{C}", Path.read_bytes, lambda: b"{}", bytes, print
    )

    def lines(*arguments: str) -> list[str]:
        done = CliRunner().invoke(app, ["cache", "train.cache_dir=.", "audit.cache_gb=null", *arguments])
        assert done.exit_code == 0, done.output
        return done.output.splitlines()

    def cells(line: str) -> list[str]:
        return [cell.strip() for cell in line.split("  ") if cell.strip()]

    used = [
        time.strftime("%Y-%m-%d %H:%M", time.localtime((tmp_path / f"{name}.safetensors").stat().st_mtime))
        for name in (A, B)
    ]
    titles, features, audit = map(cells, lines()[:3])
    assert titles == ["cache", "holds", "folder", "files", "size", "limit", "oldest use", "last use"]
    assert features == ["features", "features of frozen layers", ".", "2", "80 bytes", "20 GB", *used]
    assert audit[2:6] == ["outputs/.audit", "1", "2 bytes", "none"]
    assert lines("--clear", "features")[-1] == "2 files, 80 bytes can go: the same command with --yes removes them"
    assert kept(tmp_path) == {A, B}
    with FileLock(f"{A}.lock"):
        assert lines("--clear", "features", "--yes")[-2:] == [
            "1 file, 40 bytes removed",
            "1 file in use or of another user: left as they are",
        ]
    assert kept(tmp_path) == {A}
    assert lines("--clear", "all", "--yes")[-1] == "2 files, 42 bytes removed"
    assert (kept(tmp_path), list(Path("outputs/.audit").iterdir())) == (set(), [])
    assert cells(lines()[1])[3:] == ["0", "0 bytes", "20 GB"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clear", "feature"], "--clear must be one of features, audit, images, all, got 'feature'"),
        (["--yes"], "--yes: say what to remove"),
        (["train.cache_gb=0"], "train.cache_gb must be a number > 0, got 0"),
    ],
)
def test_the_command_names_what_is_wrong(arguments, message):
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(app, ["cache", *arguments], catch_exceptions=False)
