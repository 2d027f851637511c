"""From a config node to the object that it names, and from the object's refusals to a UserError."""

from __future__ import annotations

import inspect
import os
import re
import socket
import textwrap
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import execution_whitelist, instantiate
from omegaconf import DictConfig, OmegaConf

from runcard.config.diff import flatten
from runcard.config.project import use_own_modules
from runcard.errors import EXTRAS, UserError, did_you_mean, how_to_install

# What a config may name, by dotted prefix. Not torch as a whole: torch.hub.load, say, runs code of a folder.
TRUSTED = (
    *("runcard.datasets", "runcard.losses", "runcard.metrics", "runcard.models", "runcard.transforms"),
    *("runcard.loggers.tensorboard", "runcard.loggers.services"),
    *("torch.nn", "torch.optim", "torchvision.models", "torchvision.transforms"),
    *("torchmetrics", "albumentations"),
)
MODELS = ("torchvision.models",)  # whose functions build models
MISTAKES = (InstantiationException, UserError, ValueError, ImportError, UserWarning, TypeError)  # of arguments
MAX_SAID = 120  # characters of a library's own message
NETWORK_ERRORS = (ConnectionError, TimeoutError, socket.gaierror, HTTPException)
NEW_HEAD = (
    "pretrained weights have classes of their own.\nFor a new head take timm.create_model with pretrained: true and "
    "num_classes: ${derived.out_channels}, or put a torch.nn.Linear behind the model in a torch.nn.Sequential: see "
    "docs/how-to/pretrained.md"
)
LIBRARIES = ("timm", "segmentation_models_pytorch", "monai")  # whose own refusals are mistakes in the config
HTTP_CLIENTS = ("urllib", "urllib3", "requests", "httpx", "httpcore", "aiohttp", "huggingface_hub")


def untrusted_targets(config: object, trust: Sequence[str]) -> list[tuple[str, str]]:
    """Return the key and the name of each _target_ in a config that lies neither in TRUSTED nor in a trusted package.

    Whoever instantiates a config runs the code that it names, and configs come with run folders of other people. The
    names are looked at here, before anything is imported; build() also looks at what a name leads to.
    """
    return [(key, target) for key, target in _targets(config, "") if not _lies_in(target, (*TRUSTED, *trust))]


def _lies_in(target: str, packages: Sequence[str]) -> bool:
    """Whether a dotted name is one of packages (an object may be trusted by itself) or lies in one."""
    return f"{target}.".startswith(tuple(f"{package}." for package in packages))


def _check_kinds(group: str, config: object, trust: Sequence[str]) -> None:
    """Raise UserError for a name in TRUSTED that is no class, nor a function of torchvision.models that builds one.

    A class only makes itself. Functions do anything: albumentations.save writes a file, and a part of torch.nn imports
    whatever module it is given, such as one that lies in a run folder.
    """
    for key, target in _targets(config, group):
        if _lies_in(target, trust) or not _lies_in(target, TRUSTED):
            continue
        try:
            found = locate(target)
        except ErrorDuringImport:
            continue  # Hydra says why
        if found is None or inspect.isclass(found):
            continue
        if not (inspect.isfunction(found) and _lies_in(found.__module__, MODELS)):
            raise UserError(
                f"{key}._target_: {target} is not a class, and of a trusted library only classes are built.\n"
                f"If you trust what it does: --trust {target} (of runcard train: 'trust=[{target}]')"
            )


def _targets(config: object, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(config, Mapping):
        if config.get("_target_") is not None:
            yield key or "config", str(config["_target_"])
        for name, value in config.items():
            yield from _targets(value, f"{key}.{name}".lstrip("."))
    elif isinstance(config, (list, tuple)):
        for i, value in enumerate(config):
            yield from _targets(value, f"{key}[{i}]")


def build(
    group: str, node: DictConfig | Mapping[str, Any], trust: Sequence[str] = (), choice: str | None = None
) -> Any:
    """Build the object that a config node names; a mistake in its arguments becomes a UserError with the dotted key.

    Mistakes are a ValueError, an unknown or a missing argument, albumentations' warning of an argument that it does
    not know, a target that cannot be imported, and a target outside of TRUSTED and of the trusted packages. A failed
    download, of pretrained weights mostly, is a UserError too. choice is the file that the node is from, for messages.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer release at import
    if "_target_" not in node:
        raise UserError(f"{group}._target_: this key is needed: it names the class to build.")
    if trust:
        use_own_modules()
    allowed = execution_whitelist([*trust, *(f"{package}.*" for package in (*TRUSTED, *trust))], reset=True)
    try:
        config = node if isinstance(node, DictConfig) else OmegaConf.create(dict(node))
        _check_kinds(group, OmegaConf.to_container(config, resolve=True), trust)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", r"Argument\(s\) ", UserWarning)
            return instantiate(node, _convert_="all", _execution_whitelist_=allowed)
    except Exception as error:
        if _is_failed_download(error):
            raise UserError(_download_hint(group, node, error)) from None
        if isinstance(error, (RuntimeError, KeyError)) and (library := _raised_by(error)) in LIBRARIES:
            raise UserError(_refusal(group, node, library, error)) from None
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        is_own_call = _is_wrong_call(error) or (unknown is not None and unknown[1] in node)
        if not isinstance(error, MISTAKES) or (isinstance(error, TypeError) and not is_own_call):
            raise  # a bug within the object
        said = "\n".join([str(error), *getattr(error, "__notes__", ())])
        below = found[1] if (found := re.search(r"full_key: (\S+)", said)) else ""  # of a plain dict: within the node
        key = below if below.partition(".")[0] == group else f"{group}.{below}".rstrip(".")
        if unknown:
            raise UserError(_unknown_argument(key, unknown[1], group, node, choice)) from None
        raise _as_user_error(key, error) from None


def build_all(group: str, nodes: Mapping[str, Any], trust: Sequence[str], kind: type, kind_name: str) -> dict[str, Any]:
    """Build the objects that the nodes of a group name. Raise UserError for one that is not of the kind."""
    built = {name: build(f"{group}.{name}", node, trust) for name, node in nodes.items()}
    for name, each in built.items():
        if not isinstance(each, kind):
            raise UserError(f"{group}.{name}._target_ must name a {kind_name}, got {nodes[name]['_target_']}.")
    return built


def _unknown_argument(
    key: str, argument: str, group: str, node: DictConfig | Mapping[str, Any], choice: str | None
) -> str:
    """Return the message for an argument that the object of a key does not take, as one of its sweep's others may."""
    of = f"{group}={choice} ({node['_target_']})" if choice else str(node["_target_"])
    names = [name.rpartition(".")[2] for name in flatten(node)]
    hint = did_you_mean(argument, [name for name in names if name != argument and name[0] != "_"])
    see = f" See conf/{group.partition('.')[0]}/."
    return f"{key}.{argument}: no such option of {of}.{hint or see}"


def _is_failed_download(error: BaseException) -> bool:
    """Whether error is of the network: by itself, or by an error that it was raised from."""
    package = type(error).__module__.partition(".")[0]
    return (
        isinstance(error, NETWORK_ERRORS)
        or package in HTTP_CLIENTS
        or (error.__cause__ is not None and _is_failed_download(error.__cause__))
    )


def _raised_by(error: Exception) -> str:
    """Return the package whose code raised error itself."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _refusal(group: str, node: DictConfig | Mapping[str, Any], library: str, error: Exception) -> str:
    """Return what a library said against an argument, with the argument's key and the nearest name that it knows."""
    said = str(error.args[0]) if error.args else type(error).__name__
    known = import_module("timm").list_models() if library == "timm" else re.findall(r"'([^']+)'", said)
    values = {f"{group}.{key}": value for key, value in flatten(node).items() if isinstance(value, str)}
    key, value = next((each for each in values.items() if each[1] and each[1] in said), (group, ""))
    return f"{key}: {textwrap.shorten(said, MAX_SAID, placeholder=' …')}.{did_you_mean(value, known)}"


def _download_hint(group: str, node: DictConfig | Mapping[str, Any], error: BaseException) -> str:
    """Return why a download failed, where the file belongs, and how to do without it."""
    place = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):  # the downloading functions of torch and of Hugging Face
        values = frame.f_locals
        if frame.f_code.co_name == "download_url_to_file":
            place = f"Put a copy of {values['url']} at {values['dst']}"
        elif frame.f_code.co_name == "hf_hub_download":
            place = (
                f"Run `hf download {values['repo_id']}` where there is a network, and copy its cache to "
                f"{values['cache_dir']}"
            )
    while error.__cause__ is not None:
        error = error.__cause__
    reason = str(getattr(error, "reason", error)).partition("\n")[0].rstrip(".")
    without = " ".join(_without_weights(group, node))
    ways = [way for way in (place, without and f"do without the weights: {without}") if way]
    todo = ", or ".join(ways) or "Try again where there is a network"
    return f"{group}: {node['_target_']} could not download what it needs: {reason}.\n{todo[0].upper()}{todo[1:]}"


def _without_weights(group: str, node: DictConfig | Mapping[str, Any]) -> list[str]:
    """Return the overrides that build an object without pretrained weights, as far as its arguments' names tell."""
    given = flatten(node)
    parameters = inspect.signature(target).parameters if callable(target := locate(str(node["_target_"]))) else {}
    defaults = {key: parameter.default for key, parameter in parameters.items()}
    absent = (None, False, inspect.Parameter.empty)
    weights = {f"{group}.{key}": value for key, value in given.items()}
    weights |= {f"+{group}.{key}": value for key, value in defaults.items() if key not in given}
    return [
        f"{key}={'false' if value is True else 'null'}"
        for key, value in weights.items()
        if re.search("weights|pretrained", key.rpartition(".")[2]) and value not in absent
    ]


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
    except (LookupError, ArithmeticError) as error:  # a list that is too short, a number that is too large
        lists = [f"{group}.{key}={value}" for key, value in flatten(node).items() if isinstance(value, list)]
        said = f"{type(error).__name__}: {error}"
        raise UserError(f"{', '.join(lists) or group}: {node['_target_']} cannot be built of it: {said}.") from None


def _is_wrong_call(error: Exception) -> bool:
    """Whether error is of calling a target with arguments that it does not take: not one from within the target."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).name == "_instantiate2.py"  # Hydra's own call


def _as_user_error(key: str, cause: Exception) -> UserError:
    """Return the UserError for what a constructor said. Ours say the argument first, libraries say anything."""
    if isinstance(cause, UserError):
        return cause
    if isinstance(cause, InstantiationException):  # of Hydra itself: the target
        missing = cause.__cause__ and cause.__cause__.__cause__
        if isinstance(missing, ModuleNotFoundError) and missing.name in EXTRAS:
            return UserError(f"{key}._target_: {how_to_install(missing)}")
        said, *more = str(cause.__cause__ or cause).splitlines()
        hint = f"{more[-1]} " if more else ""  # Are you sure that 'creat_model' is importable from module 'timm'?
        return UserError(f"{key}._target_: {said.rstrip('.:')}. {hint}See conf/{key.partition('.')[0]}/.")
    if errors := getattr(cause.__cause__, "errors", None):  # pydantic's, of albumentations: many lines each
        first = errors()[0]
        return UserError(f"{key}.{first['loc'][0]}: {first['msg']}, got {first['input']!r}.")
    if isinstance(cause, ValueError) and re.match(r"[\w.]+ must ", str(cause)):
        return UserError(f"{key}.{cause}")
    said = " ".join(str(cause).splitlines()[:2]).rstrip(".")
    if re.match(r"The parameter 'num_classes' expected value \d+ but got", said):  # torchvision's weights
        return UserError(f"{key}.num_classes: {said}: {NEW_HEAD}")
    return UserError(f"{key}: {said}. See conf/{key.partition('.')[0]}/.")
