"""Mistakes of the user, how to fix them, and the checks that detect them.

A leaf (dataset, model, loss, metric) raises ValueError with its own argument's name first, "base must be an
integer >= 1, got 'abc'"; config/instantiate.py adds the group in front, "model.base must be ...", as UserError.
train.py prints a UserError without a traceback and exits with 2. Every other exception is our own bug.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from natsort import natsorted

EXIT_USER_ERROR = 2
EXTRAS = {"pytorch_grad_cam": "explain", "vl_convert": "report", "jinja2": "report"}
EXTRAS |= {"onnx": "export", "onnxscript": "export", "onnxruntime": "export"}
EXTRAS |= {"pydicom": "dicom", "nibabel": "dicom", "highdicom": "dicom"}
EXTRAS |= {"optuna": "sweep", "ray": "ray"}
EXTRAS |= {"timm": "zoo", "segmentation_models_pytorch": "zoo", "monai": "zoo"}
MAX_RUNS_NAMED = 3  # in a message
NEVER_ALLOWED = ("layout", "split")  # checks of the data: without these there is nothing to train on


MAX_SAID = 300  # characters of a library's own message


class UserError(Exception):
    """A mistake of the person at the keyboard: the key or file, the rule, the value found and the fix."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:MAX_SAID]


class DataError(UserError):
    """What is wrong with one file or folder of the data.

    check is the name that audit.allow knows it by, detail what is this file's own in the rule, so that files with the
    same fault can be reported together.
    """

    def __init__(self, check: str, place: object, what: str, fix: str, detail: str = "") -> None:
        super().__init__(f"{place}: {what}{detail}. {fix}")
        self.check, self.place, self.what, self.fix, self.detail = check, str(place), what, fix, detail


def how_to_install(error: ModuleNotFoundError) -> str:
    """Say which extra a missing package belongs to. Raises the error where it belongs to none."""
    if error.name not in EXTRAS:
        raise error
    return f"the package {error.name} is not installed: pip install 'runcard[{EXTRAS[error.name]}]'"


def allow_hint(allowed: Sequence[str], checks: Iterable[str]) -> str:
    """Return how to train in spite of errors of these checks, beside the allowed ones, where that can be."""
    more = [check for check in dict.fromkeys(checks) if check not in NEVER_ALLOWED]
    return f"To train nevertheless, on record: 'audit.allow=[{','.join([*allowed, *more])}]'" if more else ""


def did_you_mean(value: object, allowed: Iterable[object]) -> str:
    """Return " Did you mean 'x'?" for the closest allowed word, or an empty string where none is close."""
    close = difflib.get_close_matches(str(value), [str(a) for a in allowed], n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def join_first(names: Sequence[str], most: int = 3) -> str:
    """Join the first names, as "a, b, c and 12 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def runs_below(folder: Path) -> str:
    """Return " Name one of the runs below it: a, b, c and 2 more.", or an empty string where there are none."""
    found = natsorted(str(file.parent) for file in folder.glob("*/**/run.json"))
    return f" Name one of the runs below it: {join_first(found, MAX_RUNS_NAMED)}." if found else ""


def check_integer(name: str, value: object, minimum: int, maximum: int | None = None) -> int:
    """Return value, or raise ValueError where it is not an integer >= minimum. True and 1.0 are not integers."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value!r}")
    if maximum is not None and value > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {value!r}")
    return value


def check_number(name: str, value: object, minimum: float, maximum: float = math.inf) -> float:
    """Return value as a float, or raise ValueError where it is not a finite number in [minimum, maximum]."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if not number or not minimum <= value <= maximum:  # type: ignore[operator]
        rule = f"in [{minimum:g}, {maximum:g}]" if math.isfinite(maximum) else f">= {minimum:g}"
        raise ValueError(f"{name} must be a number {rule}, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def check_flag(name: str, value: object) -> bool:
    """Return value, or raise ValueError where it is not true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


def check_names(name: str, value: object) -> list[str]:
    """Return value as a list of strings (a folder may be called 0), or raise ValueError where it is not a list."""
    if isinstance(value, (str, int)) or not isinstance(value, Iterable) or not value:
        raise ValueError(f"{name} must be a list of names, [a,b], got {value!r}")
    return [str(item) for item in value]


def check_choice(name: str, value: object, allowed: Iterable[str]) -> str:
    """Return value, or raise ValueError, with the nearest choice, where it is not one of the allowed words."""
    choices = list(allowed)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.{did_you_mean(value, choices)}")
    return str(value)


def check_config_choice(key: str, value: object, allowed: Iterable[str]) -> str:
    """Return value, or raise UserError, with the nearest choice, where a key or option is not an allowed word."""
    try:
        return check_choice(key, value, allowed)
    except ValueError as error:
        raise UserError(str(error)) from None
