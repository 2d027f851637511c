"""Activation maps of classifiers: Grad-CAM (Selvaraju et al. 2017) unless another method is named.

The methods are the classes of pytorch_grad_cam. It takes seconds to import, so it is imported only when needed.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from runcard.config.project import use_own_modules
from runcard.errors import UserError, did_you_mean

PACKAGE = "pytorch_grad_cam"
GRAD_CAM = "GradCAM"


def activation_maps(
    model: nn.Module, images: Tensor, classes: Tensor, method: str = GRAD_CAM, layer: str | None = None
) -> np.ndarray:
    """Compute the maps (N, H, W) float32 of the evidence in each image for its class, each scaled to 0…1.

    images (N, C, H, W) are normalised as for training and form one batch. classes (N,) int64 are the ones to explain;
    if the model has a single logit, class 0 is its negative. layer is a name in model.named_modules() whose output is
    (N, C, h, w); None means the last convolution. A map without evidence for the class is 0 everywhere. The model is
    not changed.

    Raises UserError for an unknown method or layer.
    """
    make_cam = find_method(method)
    twin = _twin(model)
    inputs = images.to(next(twin.parameters()).device, torch.float32)
    explained = _find_layer(twin, last_convolution(model) if layer is None else layer, inputs[:1])
    # The twin's weights require no gradients, so the backward pass ends at the layer. This hook must be registered
    # before the method's own.
    explained.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_())
    cam = make_cam(model=twin, target_layers=[explained])
    with torch.enable_grad():
        maps = cam(input_tensor=inputs, targets=[score_of(index) for index in classes.tolist()])
    return maps.astype(np.float32)


def last_convolution(model: nn.Module) -> str:
    """Return the name of the model's last nn.Conv2d, in the order in which modules were defined."""
    names = _convolutions(model)
    if not names:
        raise UserError("layer must be named: the model has no nn.Conv2d, so there is no last convolution to explain.")
    return names[-1]


def find_method(name: str) -> Callable[..., Callable[..., np.ndarray]]:
    """Import the class with this dotted name; a bare name such as EigenCAM is looked up in pytorch_grad_cam."""
    module_name, _, class_name = name.rpartition(".")
    if module_name:
        use_own_modules()
    known = vars(importlib.import_module(PACKAGE))  # where the extra is not installed, this says so
    try:
        found = getattr(importlib.import_module(module_name or PACKAGE), class_name)
    except (ImportError, AttributeError):
        found = None
    if not _makes_maps(found):
        methods = sorted(name for name, member in known.items() if _makes_maps(member))
        raise UserError(
            f"method must be a class that makes maps of target_layers, got '{name}'."
            f"{did_you_mean(class_name, methods)}\n{PACKAGE} offers {', '.join(methods)}."
        )
    return found  # type: ignore[no-any-return]


def score_of(index: int) -> Callable[[Tensor], Tensor]:
    """Build the function of one image's logits (C,) that a map of class index explains."""

    def score(logits: Tensor) -> Tensor:
        if len(logits) == 1:
            return logits[0] if index == 1 else -logits[0]
        return logits[index]

    return score


def _makes_maps(member: object) -> bool:
    """Whether this is a class whose required arguments are exactly model and target_layers."""
    if not inspect.isclass(member):
        return False
    with suppress(ValueError):  # a builtin class of which no signature is known
        parameters = inspect.signature(member).parameters.values()
        needed = {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
        return needed == {"model", "target_layers"}
    return False


def _convolutions(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


def _find_layer(model: nn.Module, name: str, image: Tensor) -> nn.Module:
    """Return the layer of this name. Raise UserError unless its output for the image (1, C, H, W) is a map."""
    layers: dict[str, nn.Module] = dict(model.named_modules())
    example = ", ".join(_convolutions(model)[-3:])
    if name not in layers:
        raise UserError(
            f"layer must be a name of the model's, such as {example}, got '{name}'.{did_you_mean(name, layers)}"
        )
    outputs: list[Any] = []
    with layers[name].register_forward_hook(lambda _module, _inputs, output: outputs.append(output)), torch.no_grad():
        model(image)
    shape = tuple(outputs[0].shape) if outputs and isinstance(outputs[0], Tensor) else None
    if shape is None or len(shape) != 4:
        raise UserError(f"layer must give maps (N, C, h, w), such as {example}, got '{name}' with output {shape}.")
    return layers[name]


def _twin(model: nn.Module) -> nn.Module:
    """Copy the model for evaluation, sharing only the memory of its weights.

    Hooks and modes are the copy's own. Its layers do not work in place, because an in-place ReLU would overwrite the
    activations to be explained.
    """
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    twin = copy.deepcopy(model, memo).eval().float()
    for module in twin.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010 (nn.Module's type hints allow no plain attributes)
    return twin
