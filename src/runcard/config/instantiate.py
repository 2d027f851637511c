"""From a config node to the object that it names, and from the object's refusals to a UserError."""

from __future__ import annotations

import os
import re
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from runcard.errors import UserError

T = TypeVar("T")


def build(group: str, node: DictConfig | dict[str, Any]) -> Any:
    """Instantiates what a config node names; a mistake that its constructor finds becomes a UserError with dotted key.

    Mistakes are a ValueError, an unknown or a missing argument, albumentations' warning of an argument that it does
    not know, and a target that cannot be imported.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer release at import
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", r"Argument\(s\) ", UserWarning)
            return instantiate(node, _convert_="all")
    except InstantiationException as error:
        key = found[1] if (found := re.search(r"full_key: (\S+)", str(error))) else group
        cause: BaseException | None = error.__cause__
        while isinstance(cause, InstantiationException):
            cause = cause.__cause__
        if isinstance(cause, (UserError, ValueError, ImportError, UserWarning)) or _is_wrong_call(cause):
            raise _as_user_error(key, cause) from None
        raise


def build_with(group: str, node: DictConfig, argument: Any) -> Any:
    """Instantiates a node with _partial_ and calls it with what only the run knows; torch checks its values then."""
    partial = build(group, node)
    try:
        return partial(argument)
    except (ValueError, TypeError) as error:
        raise _as_user_error(group, error) from None


def _is_wrong_call(error: BaseException | None) -> bool:
    """Whether error is of calling a target with arguments that it does not take: not one from within the target."""
    if not isinstance(error, TypeError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).name == "_instantiate2.py"  # Hydra's own call


def _as_user_error(key: str, cause: BaseException | None) -> UserError:
    """Returns the UserError for what a constructor said. Ours say the argument first, libraries say anything."""
    if isinstance(cause, UserError):
        return cause
    if errors := getattr(cause and cause.__cause__, "errors", None):  # pydantic's, of albumentations: many lines each
        first = errors()[0]
        return UserError(f"{key}.{first['loc'][0]}: {first['msg']}, got {first['input']!r}.")
    if isinstance(cause, ValueError) and re.match(r"[\w.]+ must ", str(cause)):
        return UserError(f"{key}.{cause}")
    said = " ".join(str(cause).splitlines()[:2])
    return UserError(f"{key}: {said}. See conf/{key.partition('.')[0]}/.")


def checked(prefix: str, check: Callable[[], T]) -> T:
    """Returns check(); its ValueError, which names a key, becomes a UserError with the key's full dotted name."""
    try:
        return check()
    except ValueError as error:
        raise UserError(f"{prefix}{error}") from None
