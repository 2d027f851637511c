"""From a config node to the object that it names, and from the object's refusals to a UserError."""

from __future__ import annotations

import os
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import execution_whitelist, instantiate
from omegaconf import DictConfig

from runcard.config.diff import flatten
from runcard.errors import UserError

# What a config may name, by dotted prefix. Not torch as a whole: torch.hub.load, say, runs code of a folder.
TRUSTED = (
    *("runcard.datasets", "runcard.losses", "runcard.metrics", "runcard.models", "runcard.transforms"),
    *("torch.nn", "torch.optim", "torchvision.models", "torchvision.transforms"),
    *("torchmetrics", "albumentations"),
)


def untrusted_targets(config: object, trust: Sequence[str]) -> list[tuple[str, str]]:
    """Return the key and the name of each _target_ in a config that lies neither in TRUSTED nor in a trusted package.

    Whoever instantiates a config runs the code that it names, and configs come with run folders of other people. The
    names are looked at here, before anything is imported; build() also looks at what a name leads to.
    """
    inside = tuple(f"{package}." for package in (*TRUSTED, *trust))
    return [(key, target) for key, target in _targets(config, "") if not target.startswith(inside)]


def _targets(config: object, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(config, Mapping):
        if config.get("_target_") is not None:
            yield key or "config", str(config["_target_"])
        for name, value in config.items():
            yield from _targets(value, f"{key}.{name}".lstrip("."))
    elif isinstance(config, (list, tuple)):
        for i, value in enumerate(config):
            yield from _targets(value, f"{key}[{i}]")


def build(group: str, node: DictConfig | Mapping[str, Any], trust: Sequence[str] = ()) -> Any:
    """Build the object that a config node names; a mistake in its arguments becomes a UserError with the dotted key.

    Mistakes are a ValueError, an unknown or a missing argument, albumentations' warning of an argument that it does
    not know, a target that cannot be imported, and a target outside of TRUSTED and of the trusted packages.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer release at import
    allowed = execution_whitelist([f"{package}.*" for package in (*TRUSTED, *trust)], reset=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", r"Argument\(s\) ", UserWarning)
            return instantiate(node, _convert_="all", _execution_whitelist_=allowed)
    except (InstantiationException, UserError, ValueError, ImportError, UserWarning, TypeError) as error:
        if isinstance(error, TypeError) and not _is_wrong_call(error):
            raise  # a bug within the object
        said = "\n".join([str(error), *getattr(error, "__notes__", ())])
        below = found[1] if (found := re.search(r"full_key: (\S+)", said)) else ""  # of a plain dict: within the node
        key = below if below.partition(".")[0] == group else f"{group}.{below}".rstrip(".")
        raise _as_user_error(key, error) from None


def build_with(group: str, node: Mapping[str, Any], argument: Any, trust: Sequence[str] = ()) -> Any:
    """Build a node with _partial_ and call it with what only the run knows; torch checks its values then."""
    partial = build(group, node, trust)
    try:
        return partial(argument)
    except (ValueError, TypeError) as error:
        texts = [f"{group}.{key}={value}" for key, value in flatten(node).items() if isinstance(value, str)]
        texts = [text for text in texts if "._" not in text]
        if texts and "not supported between" in str(error):
            raise UserError(f"{', '.join(texts)}: text where {node['_target_']} compares numbers.") from None
        raise _as_user_error(group, error) from None


def _is_wrong_call(error: TypeError) -> bool:
    """Whether error is of calling a target with arguments that it does not take: not one from within the target."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).name == "_instantiate2.py"  # Hydra's own call


def _as_user_error(key: str, cause: Exception) -> UserError:
    """Return the UserError for what a constructor said. Ours say the argument first, libraries say anything."""
    if isinstance(cause, UserError):
        return cause
    if isinstance(cause, InstantiationException):  # of Hydra itself: the target
        said = str(cause.__cause__ or cause).splitlines()[0]
        return UserError(f"{key}._target_: {said.rstrip('.')}. See conf/{key.partition('.')[0]}/.")
    if errors := getattr(cause.__cause__, "errors", None):  # pydantic's, of albumentations: many lines each
        first = errors()[0]
        return UserError(f"{key}.{first['loc'][0]}: {first['msg']}, got {first['input']!r}.")
    if isinstance(cause, ValueError) and re.match(r"[\w.]+ must ", str(cause)):
        return UserError(f"{key}.{cause}")
    said = " ".join(str(cause).splitlines()[:2])
    return UserError(f"{key}: {said}. See conf/{key.partition('.')[0]}/.")
