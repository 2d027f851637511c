"""Start a model from trained weights, and freeze a part of it: train.init_from, train.init_without, train.freeze.

A pattern names parameters, buffers or the modules that they belong to, as fnmatch does: * also stands for dots. So
"head", "head.*" and "head.weight" all name the weight of the module head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from runcard.config.diff import differing_keys
from runcard.errors import UserError, did_you_mean, join_first
from runcard.fileio import parse_json
from runcard.training.checkpoint import read_tensors

MAX_LAYERS = 3  # in a message


def load_initial_weights(
    model: nn.Module, file: Path, without: Sequence[str] = (), config: Mapping[str, Any] | None = None
) -> None:
    """Copy the weights of a .safetensors file into the model; what a pattern of without names keeps the model's own.

    config is the model's node, for messages. Raises UserError with the first tensors that are missing, unexpected or of
    another shape and, of a run's weights, the keys in which its model differs; and for a pattern that names none.
    """
    own, (found, header) = model.state_dict(), read_tensors(file)
    kept = matching({**own, **found}, without, "train.init_without")
    needed = {name: tensor for name, tensor in own.items() if name not in kept}
    given = {name: tensor for name, tensor in found.items() if name not in kept}
    wrong = {
        "not in the file": [name for name in needed if name not in given],
        "not in the model": [name for name in given if name not in needed],
        "of another shape": [name for name in needed if name in given and given[name].shape != needed[name].shape],
    }
    faults = list(dict.fromkeys(name for names in wrong.values() for name in names))
    if len(faults) == len({**needed, **given}):
        raise UserError(f"train.init_from: {file}: no tensor of it fits the model. Does it belong to another model?")
    if faults:
        for i, name in enumerate(wrong["of another shape"]):
            wrong["of another shape"][i] = f"{name} ({_shape(given[name])} there, {_shape(needed[name])} here)"
        layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in faults))
        if len(layers) <= MAX_LAYERS:
            fix = f"To leave these layers out of it: 'train.init_without=[{','.join([*without, *layers])}]'"
        else:
            fix = f"{len(layers)} layers differ. Give the model the same keys, or leave layers out: train.init_without"
        lines = [f"{what}: {join_first(names)}" for what, names in wrong.items() if names]
        there = _model_of(header)
        if there and config and (keys := differing_keys({"model": there}, {"model": config})):
            lines.insert(0, f"config: {', '.join(keys)}")
        raise UserError("\n".join([f"train.init_from: {file} does not fit the model. {fix}", *lines]))
    model.load_state_dict({**own, **given}, strict=True)


def _model_of(header: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the config of the model that a run's weights are of; None of other weights."""
    try:
        there = parse_json(header.get("config", "{}"))["model"]
    except (ValueError, LookupError, TypeError):
        return None
    return there if isinstance(there, dict) else None


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Exclude the parameters that the patterns name from training; loop.train_mode keeps frozen modules in eval().

    Raises UserError for a pattern that names none, and where nothing is left to train.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in matching(parameters, patterns, "train.freeze"):
        parameters[name].requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError(f"train.freeze=[{','.join(patterns)}]: nothing is left to train. Leave a layer out.")


def matching(names: Iterable[str], patterns: Sequence[str], key: str) -> set[str]:
    """Return the names that a pattern names, by themselves or by a module above them.

    key is that of the patterns. Raises UserError, with the nearest name, for a pattern that names nothing.
    """
    places = {name: list(accumulate(name.split("."), lambda above, part: f"{above}.{part}")) for name in names}
    found = set()
    for pattern in patterns:
        named = {name for name, above in places.items() if any(fnmatchcase(place, pattern) for place in above)}
        if not named:
            known = dict.fromkeys(place for above in places.values() for place in above)
            layers = dict.fromkeys(above[0] for above in places.values())
            hint = did_you_mean(pattern.rstrip(".*"), known)
            raise UserError(f"{key}: no layer is named {pattern}.{hint} The model's layers: {', '.join(layers)}.")
        found |= named
    return found


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a single number"
