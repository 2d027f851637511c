"""The real commands, each in a process of its own, which need not import torch again.

Python's forkserver imports LIBRARIES once in each pytest worker, and nothing of Runcard; each command is forked from
it. That saves ten seconds of CPU a command. Where a process can't be forked safely, the same code starts a new Python.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARIES = ("torch", "torchmetrics", "lightning_fabric", "torch.utils.tensorboard", "matplotlib.figure")
LIBRARIES += ("torchvision", "albumentations", "sklearn.ensemble", "scipy.interpolate", "scipy.stats", "cv2")
SERVER = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    SERVER.set_forkserver_preload(list(LIBRARIES))


class Command:
    """A started command, `train.py …` of the clone or `runcard …`; its figures are blank unless drawn."""

    def __init__(self, *argv: str, folder: Path, drawn: bool = False) -> None:
        self.argv = argv
        self._printed = tempfile.TemporaryDirectory(prefix="command-")
        self._stdout, self._stderr = (Path(self._printed.name) / name for name in ("stdout", "stderr"))
        outputs = (self._stdout, self._stderr)
        self._process = SERVER.Process(target=_become, args=(argv, folder, dict(os.environ), outputs, drawn))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to this process alone, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def lines(self) -> Iterator[str]:
        """Yield the lines of stdout as they are printed, until the process ends."""
        rest = ""
        while not self._stdout.exists() and self.returncode is None:
            time.sleep(0.002)
        with self._stdout.open(encoding="utf-8", newline="") as file:
            while True:
                ended = self.returncode is not None
                rest += file.read()
                *whole, rest = rest.split("\n")
                yield from whole
                if ended:
                    return
                if not whole:
                    time.sleep(0.002)

    def wait(self, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Return the finished process; kill it after timeout_s seconds and raise TimeoutExpired."""
        self._process.join(timeout_s)
        if self.returncode is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(self.argv, timeout_s, self._stdout.read_text(encoding="utf-8"))
        printed = (path.read_text(encoding="utf-8") for path in (self._stdout, self._stderr))
        return subprocess.CompletedProcess(self.argv, self.returncode, *printed)


def _become(
    argv: tuple[str, ...], folder: Path, environment: dict[str, str], outputs: tuple[Path, Path], drawn: bool
) -> None:
    """Run the command in this process, as the shell would start it in folder."""
    if hasattr(os, "setsid"):
        os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    of_pytest = (ROOT / "tests", ROOT / "experiments")
    sys.path[:] = [
        place
        for place in sys.path
        if place and Path(place) != ROOT and not any(Path(place).is_relative_to(each) for each in of_pytest)
    ]
    for descriptor, path in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    sys.stdout.reconfigure(encoding="utf-8", line_buffering=False)
    sys.stderr.reconfigure(encoding="utf-8", line_buffering=True)
    if not drawn:
        from matplotlib.figure import Figure

        Figure.draw = lambda figure, renderer: None
    try:
        if argv[0] == "train.py":
            sys.argv = [str(ROOT / "train.py"), *argv[1:]]
            runpy.run_path(sys.argv[0], run_name="__main__")
        else:
            from runcard.cli import main

            sys.argv = list(argv)
            main()
    finally:  # as the interpreter ends, which multiprocessing leaves out
        threading._shutdown()
        atexit._run_exitfuncs()
