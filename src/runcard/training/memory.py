"""How much memory a network needs at least, and how much there is: what can't fit is refused before it is tried.

Only what is certain counts. A network that might fit is tried; what happens then is the system's to say.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal
from torch import Tensor, nn, optim
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from runcard.config.instantiate import build
from runcard.errors import UserError

SMALLER = "Lower its width or depth (model.base, say), or dataset.image_size_px."
NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|Storage size calculation overflowed|Overflow when unp")
OVERFLOW = "too large to convert"  # of an integer, to one of 64 bits
UNBUILT = (NotImplementedError, RuntimeError, TypeError, ValueError, LookupError, AttributeError)
ADAMS = (optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam)
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def free_bytes(device: torch.device | None = None) -> int | None:
    """Return the free memory of a GPU, or of this machine with its swap space; None where it is not known.

    What is cached counts as free, as the system says; a container's limit counts where it is lower.
    """
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = []
    with suppress(OSError):
        known = dict(re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii")))
        if "MemAvailable" in known:
            limits.append(1024 * (int(known["MemAvailable"]) + int(known.get("SwapFree", 0))))
    for path in CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # "max": no limit
            limits.append(int(Path(path).read_text(encoding="ascii")))
    return min(limits, default=None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be allocated, of a GPU or of the machine, or more was asked for than can be counted."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, (RuntimeError, OverflowError, TypeError)) and bool(
        NO_MEMORY.search(str(error)) or OVERFLOW in str(error)
    )


def out_of_memory(error: BaseException) -> str:
    """Return the message for an error of is_out_of_memory."""
    whose = "the GPU's" if isinstance(error, torch.OutOfMemoryError) else "this machine's"
    return f"train.batch_size: too large for {whose} memory. Lower it, and raise train.accumulate_steps instead."


def build_model(node: Mapping[str, Any], trust: Sequence[str], choice: str | None = None) -> Any:
    """Build the network of a config, as build() does. Raise UserError where its weights exceed the free memory."""
    make = partial(build, "model", node, trust, choice)
    if str(node.get("_target_")).startswith("runcard.models."):
        check_weights_fit(make)
    with limited_weights():
        return make()


def check_weights_fit(make: Callable[[], object]) -> None:
    """Raise UserError where the weights of a network exceed the free memory, without giving them any.

    make must do nothing but build the network, of modules that can do without values. Other errors are its own to say.
    """
    with suppress(*UNBUILT), torch.device("meta"), limited_weights():
        make()


@contextmanager
def limited_weights() -> Iterator[None]:
    """Raise UserError as soon as the weights of the networks built in the block exceed the free memory."""
    limit, size, taken = free_bytes(), 0, dict[int, weakref.ref[Tensor]]()

    def look(_: nn.Module, __: str, parameter: Tensor) -> None:
        nonlocal size
        if limit is None or is_lazy(parameter):
            return
        taken[id(parameter)] = weakref.ref(parameter)
        size += parameter.nbytes
        if size > limit:
            size = sum(each.nbytes for ref in taken.values() if (each := ref()) is not None)  # some were replaced
        if size > limit:
            raise UserError(
                f"model: its weights take more than the {decimal(limit)} of memory that are free. {SMALLER}"
            )

    hook = register_module_parameter_registration_hook(look)
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"model: its weights take more memory than there is. {SMALLER}") from None
    finally:
        hook.remove()


def check_training_fits(model: nn.Module, optimizer: Optimizer, device: torch.device) -> None:
    """Raise UserError where the gradients and the optimizer's averages of a model exceed the free memory."""
    limit = free_bytes(device)
    trained = [p for p in model.parameters() if p.requires_grad and not is_lazy(p)]
    num_averages = 2 if isinstance(optimizer, ADAMS) else 0  # of each parameter; not known of others
    needed = sum(p.nbytes for p in trained) * (1 + num_averages)
    if limit is not None and needed > limit:
        number = sum(p.numel() for p in trained)
        raise UserError(
            f"model: the gradients of {number:,} parameters and the optimizer's averages need {decimal(needed)}, and "
            f"{decimal(limit)} of memory are free.\n{SMALLER}"
        )


@contextmanager
def limited_layers(model: nn.Module) -> Iterator[None]:
    """Raise UserError in the block before a layer whose output no longer fits into the memory of this machine.

    What counts is what the layers have made and still is there. A GPU says by itself that its memory is full; a process
    that takes that of the machine is killed.
    """
    limit, made = free_bytes(), list[weakref.ref[Tensor]]()

    def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if limit is None or not inputs or not _is_of_cpu(images := inputs[0]):
            return
        made[:] = [ref for ref in made if ref() is not None]
        there = {tensor.data_ptr(): tensor.nbytes for ref in made if (tensor := ref()) is not None}
        there[images.data_ptr()] = max(images.nbytes, there.get(images.data_ptr(), 0))
        if (needed := sum(there.values()) + _output_bytes(layer, images)) > limit:
            raise UserError(
                f"train.batch_size, dataset.image_size_px: {len(images)} image(s) take {decimal(needed)} and more "
                f"within the model, and {decimal(limit)} of memory are free.\nLower one of them, or model.base."
            )

    def remember(_: nn.Module, __: Any, output: Any) -> None:
        if _is_of_cpu(output):
            made.append(weakref.ref(output))

    layers = [layer for layer in model.modules() if not any(True for _ in layer.children())]
    hooks = [hook for e in layers for hook in (e.register_forward_pre_hook(look), e.register_forward_hook(remember))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _is_of_cpu(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cpu"


def _output_bytes(layer: nn.Module, images: Tensor) -> int:
    """Return the least that a layer makes of images (N, C, H, W), without its padding; 0 where that is not known."""
    if isinstance(layer, (nn.ReLU, nn.BatchNorm2d)):
        return 0 if getattr(layer, "inplace", False) else images.nbytes
    if not isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) or images.ndim != 4:
        return 0
    number = len(images) * layer.out_channels
    for length, stride, kernel in zip(images.shape[-2:], layer.stride, layer.kernel_size, strict=True):
        is_larger = isinstance(layer, nn.ConvTranspose2d)
        number *= max(1, (length - 1) * stride if is_larger else (length - kernel) // stride)
    return number * images.element_size()
