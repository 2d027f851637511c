"""Run the real commands in forked processes, which have torch and Runcard imported already."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import pkgutil
import resource
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from campaign.events import Events, Fault

ROOT = Path(__file__).parents[3]
MAX_SECONDS = 120.0  # of a command: one that takes longer hangs
MAX_MEMORY_BYTES = 10 * 2**30  # of addresses, most of which is mapped libraries
OPTIONAL = ("onnx", "onnxscript", "onnxruntime", "vl_convert", "pytorch_grad_cam", "safetensors.torch")


@dataclass(frozen=True)
class Ended:
    """What is known of a command that has ended."""

    argv: tuple[str, ...]
    returncode: int  # negative for a signal
    stdout: str
    stderr: str
    seconds: float
    cpu_seconds: float
    events: list[tuple[str, str]]  # kind and path
    timed_out: bool = False


def warm_up() -> None:
    """Import once what all commands need, so that a forked one begins at once; draw no figures."""
    import cv2
    import torch
    from hydra.core.plugins import Plugins
    from matplotlib.figure import Figure

    import runcard

    sys.path[:] = [place for place in sys.path if place and Path(place).resolve() != ROOT]
    for module in pkgutil.walk_packages(runcard.__path__, "runcard."):
        if not module.name.endswith(("__main__", "ray_launcher")) and "template" not in module.name:
            importlib.import_module(module.name)
    for name in (*OPTIONAL, "albumentations", "sklearn.model_selection", "tensorboard.summary.writer"):
        with suppress(ImportError):
            importlib.import_module(name)
    from runcard.runs.environment import code_hash, commit, versions

    code_hash([""]), versions()  # parses every file once
    recorded = commit()
    runcard.runs.writer.commit = lambda: recorded  # two processes of git for every session
    Plugins.instance()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    Figure.draw = lambda figure, renderer: None
    gc.collect()
    gc.freeze()


class Command:
    """A started command `runcard …` in a folder."""

    def __init__(
        self, *argv: str, folder: Path, fault: Fault | None = None, watch: bool = False, environment: Any = ()
    ) -> None:
        self.argv = argv
        self._temporary = tempfile.TemporaryDirectory(prefix="fault-")
        self._place = Path(self._temporary.name)
        self._started = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _become(lambda: _main(argv), folder, self._place, fault, watch or fault is not None, dict(environment))
        self._descriptor = os.pidfd_open(self.pid)

    def signal(self, number: int) -> None:
        """Send a signal to the command alone."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait_until(self, seconds: float) -> bool:
        """Wait until this time after the start; whether the command has ended by then."""
        return self.wait_for(self._started + seconds - time.monotonic())

    def wait_for(self, seconds: float) -> bool:
        """Wait some time; whether the command has ended by then."""
        return bool(select.select([self._descriptor], [], [], max(0.0, seconds))[0])

    def wait(self, max_seconds: float = MAX_SECONDS) -> Ended:
        """Wait for the end; a command that does not come to it is killed."""
        timed_out = not self.wait_until(max_seconds)
        if timed_out:
            os.killpg(self.pid, signal.SIGKILL)
        _, status, used = os.wait4(self.pid, 0)
        with suppress(ProcessLookupError, PermissionError):  # what it left behind: loader processes
            os.killpg(self.pid, signal.SIGKILL)
        os.close(self._descriptor)
        stdout, stderr, log = (
            (self._place / name).read_text(errors="replace") if (self._place / name).exists() else ""
            for name in ("stdout", "stderr", "log")
        )
        events = [(kind, path) for kind, _, path in (line.partition(" ") for line in log.splitlines())]
        self._temporary.cleanup()
        seconds = time.monotonic() - self._started
        cpu_seconds = used.ru_utime + used.ru_stime
        code = os.waitstatus_to_exitcode(status)
        return Ended(self.argv, code, stdout, stderr, seconds, cpu_seconds, events, timed_out)


def run(*argv: str, folder: Path, fault: Fault | None = None, watch: bool = False, environment: Any = ()) -> Ended:
    """Run a command to its end."""
    return Command(*argv, folder=folder, fault=fault, watch=watch, environment=environment).wait()


def _main(argv: Sequence[str]) -> None:
    from runcard.cli import main

    sys.argv = ["runcard", *argv]
    main()


def _become(
    main: Callable[[], None], folder: Path, place: Path, fault: Fault | None, watch: bool, environment: dict[str, str]
) -> None:
    """Be a new process that runs main in folder; never returns."""
    code = 1
    try:
        os.setsid()
        weakref.finalize._registry.clear()  # type: ignore[attr-defined]  # temporary folders are the parent's to remove
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        os.chdir(folder)
        os.environ.update(environment)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)
        import runcard.study.runner as runner

        runner.subprocess = SimpleNamespace(Popen=_Forked)  # type: ignore[assignment]
        if watch:
            Events(folder, place / "log", fault).install()
        code = _exit_code(main)
    finally:
        with suppress(BaseException):
            threading._shutdown()
            atexit._run_exitfuncs()
        with suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


def _exit_code(main: Callable[[], None]) -> int:
    """Run main, and return what the interpreter would exit with."""
    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 255
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


class _Forked:
    """What `runcard study` uses of subprocess.Popen, for `python -m runcard.cli …`, without a new interpreter."""

    def __init__(self, command: Sequence[str]) -> None:
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                code = _exit_code(lambda: _main(command[3:]))
                threading._shutdown()
                sys.stdout.flush()
            finally:
                os._exit(code)

    def __enter__(self) -> _Forked:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self) -> int:
        """Wait for the end."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)
