"""From a config node to the object that it names, and from the object's refusals to a UserError."""

from __future__ import annotations

import os
import pydoc
import re
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from runcard.errors import UserError, check_names

T = TypeVar("T")
# What a config may name, by dotted prefix. Not torch as a whole: torch.hub.load, say, runs code of a folder.
TRUSTED = (
    *("runcard.datasets.", "runcard.losses.", "runcard.metrics.", "runcard.models.", "runcard.transforms."),
    *("torch.nn.", "torch.optim.", "torchvision.models.", "torchvision.transforms."),
    *("torchmetrics.", "albumentations."),
)


def trusted_packages(names: object) -> list[str]:
    """Return the packages of a trust key as a list. Raises ValueError for anything but names of packages."""
    packages = [] if names == [] else check_names("trust", names)
    for name in packages:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"trust must be a list of packages, [my_package], got {name!r}")
    return packages


def check_targets(config: object, trust: Sequence[str], option: str = "trust=[{}]", key: str = "") -> None:
    """Raise UserError for a _target_, at any depth of a config, that lies neither in TRUSTED nor in a trusted package.

    Whoever instantiates a config runs the code that it names, and configs come with run folders of other people.
    option is how the user trusts a package, for the message.
    """
    if isinstance(config, Mapping):
        target = config.get("_target_")
        packages = tuple(f"{package}." for package in trust)
        if target is not None and not str(target).startswith(packages) and not _is_trusted(str(target)):
            package = str(target).partition(".")[0]
            raise UserError(
                f"{key or 'config'}._target_: {target} is no object of runcard, torch.nn, torch.optim, torchvision, "
                f"torchmetrics or albumentations.\nInstantiating it runs its code. If you trust {package}: "
                f"{option.format(package)}"
            )
        for name, value in config.items():
            check_targets(value, trust, option, f"{key}.{name}".lstrip("."))
    elif isinstance(config, (list, tuple)):
        for i, value in enumerate(config):
            check_targets(value, trust, option, f"{key}[{i}]")


def _is_trusted(target: str) -> bool:
    """Whether a dotted name lies in TRUSTED, and what it names does: torch.nn.functional.torch.load does not."""
    if not target.startswith(TRUSTED):
        return False
    try:
        named = pydoc.locate(target)
    except pydoc.ErrorDuringImport:
        return True  # instantiating it says what is wrong
    return named is None or f"{getattr(named, '__module__', None)}.".startswith(TRUSTED)


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
        key = key if key.partition(".")[0] == group else f"{group}.{key}"  # of a plain dict, below its group
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
