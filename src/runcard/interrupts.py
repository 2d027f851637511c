"""Interrupts: Ctrl-C and SIGTERM end a command, SIGUSR1 ends a run after its epoch; none is lost on the way.

A library in C may make an error of its own of the KeyboardInterrupt that is raised within it, or drop it. So what came
is remembered here, and asked for where it is safe to end.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, NoReturn

EXIT_INTERRUPTED = 130  # as a shell counts Ctrl-C
EXIT_GO_ON = 75  # EX_TEMPFAIL of sysexits.h: the same command is to be given again
GO_ON = getattr(signal, "SIGUSR1", None)  # none on Windows
_came: set[int] = set()


class StopAfterEpoch(KeyboardInterrupt):
    """SIGUSR1 came, and the epoch in which it came is saved."""


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a command that an interrupt ends."""
    return EXIT_GO_ON if isinstance(stop, StopAfterEpoch) else EXIT_INTERRUPTED


@contextmanager
def watching() -> Iterator[None]:
    """In the block Ctrl-C and SIGTERM raise KeyboardInterrupt and are remembered; SIGUSR1 is only remembered."""
    handlers: dict[int, Any] = {signal.SIGINT: _interrupt, signal.SIGTERM: _interrupt}  # a cluster's kill is as Ctrl-C
    if GO_ON:
        handlers[GO_ON] = lambda number, _: _came.add(number)  # what SLURM can send before a time limit
    ignored = {number for number in handlers if signal.getsignal(number) is signal.SIG_IGN}  # as a shell's & asks for
    before = {number: signal.signal(number, handlers[number]) for number in handlers.keys() - ignored}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _came.clear()


def is_interrupted() -> bool:
    """Whether Ctrl-C or SIGTERM came."""
    return bool(_came & {signal.SIGINT, signal.SIGTERM})


def check() -> None:
    """Raise KeyboardInterrupt where an interrupt came and got lost."""
    if is_interrupted():
        raise KeyboardInterrupt


def is_to_stop() -> bool:
    """Whether SIGUSR1 came."""
    return GO_ON in _came


@contextmanager
def unmasked() -> Iterator[None]:
    """End the block with KeyboardInterrupt where an interrupt came, whatever a library made of it."""
    try:
        yield
    except Exception as error:
        if _is_of_interrupt(error):
            raise KeyboardInterrupt from error
        check()
        raise
    check()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let the block end before an interrupt (Ctrl-C, SIGTERM) takes effect; a second one takes effect at once."""
    if current_thread() is not main_thread():
        yield
        return
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    came: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        if came:
            handlers[number](number, frame)
        came.append(number)

    for each in (signal.SIGINT, signal.SIGTERM):
        if callable(handler := signal.getsignal(each)):
            handlers[each] = handler
            signal.signal(each, keep)
    try:
        yield
    finally:
        for number, known in handlers.items():
            signal.signal(number, known)
        if came:
            handlers[came[0]](came[0], None)


def _is_of_interrupt(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    _came.add(number)
    raise KeyboardInterrupt
