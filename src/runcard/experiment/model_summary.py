"""A model as it was built, set against its config: a parameter that is set and never passed on shows before training.

What is reported comes from the built model: its layers by torch's classes, the output's shape from a forward pass. So a
third-party model, whose library may swallow an argument that it does not know, is summarized like our own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from runcard.config.diff import flatten

NORMALIZATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
BATCH_NORM_KEY = re.compile(r"(use_?|with_?)?(batch_?norm|bn)", re.IGNORECASE)


@dataclass(frozen=True)
class ModelSummary:
    """What was asked for and what was built."""

    config: dict[str, Any]  # the leaves of the config's model part, under dotted keys
    layers: dict[str, int]  # how many of each kind, see _layers
    num_parameters: int
    num_trained: int
    input_shape: tuple[int, int, int]  # (C, H, W)
    output_shape: tuple[int, ...] | None  # (K,) or (K, H, W); None where the model refused a single image of zeros
    mismatches: list[str]  # a sentence each

    def metadata(self) -> dict[str, Any]:
        """Return what run.json does not say elsewhere, in JSON's own types."""
        return {
            "layers": self.layers,
            "input_shape": list(self.input_shape),
            "output_shape": None if self.output_shape is None else list(self.output_shape),
            "mismatches": self.mismatches,
        }

    def rows(self) -> list[list[str]]:
        """Return rows of two cells: the model as the config has it, and as it was built."""
        parameters = (
            f"{key} {_format_value(each)}" for key, each in self.config.items() if not key.endswith("_target_")
        )
        name = str(self.config.get("_target_", "")).rpartition(".")[2]
        layers = (f"{kind} ×{number}" if number else f"no {kind}" for kind, number in self.layers.items())
        trained = "all" if self.num_trained == self.num_parameters else f"{self.num_trained:,}"
        built = (
            ", ".join(layers),
            f"{self.num_parameters:,} parameters, {trained} trained",
            f"{self.input_shape} → {self.output_shape or 'unknown'}",
        )
        return [["config", ": ".join(filter(None, (name, ", ".join(parameters))))], ["built", " · ".join(built)]]


def summarize_model(model: nn.Module, shape: tuple[int, int, int], config: Mapping[str, Any]) -> ModelSummary:
    """Summarize a model; shape is that of its images (C, H, W), config its resolved section of the config.

    Run a forward pass of one image of zeros, and leave the model as it was.
    """
    leaves, calls, output_shape = flatten(config), _Calls(), None
    with suppress(Exception), _evaluating(model), calls:  # other people's models may raise anything
        blank = torch.zeros(1, *shape, device=next(model.parameters(), torch.empty(0)).device)
        output_shape = tuple(model(blank).shape[1:])
    dropouts = _dropouts(model, calls)
    has_batch_norm = calls.batch_norm or any(isinstance(module, _BatchNorm) for module in model.modules())
    return ModelSummary(
        config=leaves,
        layers=_layers(model, dropouts),
        num_parameters=sum(p.numel() for p in model.parameters()),
        num_trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        input_shape=shape,
        output_shape=output_shape,
        mismatches=_mismatches(leaves, set(dropouts), has_batch_norm),
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode without gradients; afterwards each of its modules is in its own mode again.

    Not in inference mode: what a model keeps from its first pass, such as a table of positions, must serve training.
    """
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


class _Calls(TorchFunctionMode):
    """Notes a forward pass's calls of dropout, by rate, and of batch norm: torch.nn.functional's need no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.dropouts: Counter[float] = Counter()
        self.batch_norm = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if "dropout" in name and "p" in kwargs:
            self.dropouts[kwargs["p"]] += 1
        self.batch_norm |= name == "batch_norm"
        return func(*args, **kwargs)


def _mismatches(config: Mapping[str, Any], rates: set[float], has_batch_norm: bool) -> list[str]:
    """Return a sentence for each key of the config that the built model, which has these, contradicts.

    Judged by their names: a key with "dropout" in it, whose value is a rate or a list of some, where nothing in the
    model has that rate; and one called batchnorm, batch_norm, use_bn or so, that is true where there is no batch norm
    or false where there is some. A false further down in the config is not judged: it may belong to one part of a
    library's model. Not seen: an ignored key of any other name, a rate that another layer also has, and a layer that
    is built and never called.
    """
    found = []
    for key, value in config.items():
        name, setting = key.rpartition(".")[2], f"model.{key}={_format_value(value)}"
        values = value if isinstance(value, list) else [value]
        asked = {each for each in values if isinstance(each, float) and 0 < each <= 1}  # an integer counts something
        if "dropout" in name.lower() and asked - rates:
            found.append(f"{setting}: no dropout of that rate was built")
        if BATCH_NORM_KEY.fullmatch(name):
            if value is True and not has_batch_norm:
                found.append(f"{setting}: no batch norm was built")
            if value is False and has_batch_norm and key == name:
                found.append(f"{setting}: batch norm was built all the same")
    return found


def _dropouts(model: nn.Module, calls: _Calls) -> dict[float, int]:
    """Return for each dropout rate above 0 the number of layers that have it; where none has, of a pass's calls."""
    layers = Counter(m.p for m in model.modules() if isinstance(m, _DropoutNd))
    layers.update(m.dropout for m in model.modules() if isinstance(m, (nn.MultiheadAttention, nn.RNNBase)))
    return {rate: number for rate, number in {**calls.dropouts, **layers}.items() if rate > 0}


def _layers(model: nn.Module, dropouts: Mapping[float, int]) -> dict[str, int]:
    """Return how many of each kind there are, as the model defines them, then the dropouts.

    What is not there at all is counted 0: "normalization layer" and "dropout".
    """
    counts = dict(Counter(kind for module in model.modules() if (kind := _kind(module))))
    if not any(isinstance(module, NORMALIZATIONS) for module in model.modules()):
        counts["normalization layer"] = 0
    return counts | ({f"dropout {rate:g}": number for rate, number in dropouts.items()} or {"dropout": 0})


def _kind(module: nn.Module) -> str | None:
    """Return what a module is counted as, by its class where it is none of the commonest; None for activations."""
    if isinstance(module, _ConvNd):
        return "transposed convolution" if isinstance(module, _ConvTransposeNd) else "convolution"
    if isinstance(module, nn.Linear):
        return "dense layer"
    named = isinstance(module, NORMALIZATIONS) or list(module.parameters(recurse=False))
    return type(module).__name__ if named else None


def _format_value(value: object) -> str:
    """Format a leaf of the config as YAML does: true, null, [pool, concat]."""
    if isinstance(value, list):
        return f"[{', '.join(map(_format_value, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
