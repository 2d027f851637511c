"""The ranks of a run: processes that train it together, each on a device of its own with its share of every batch.

Each rank has a copy of the model. It computes the gradients of its share; their sum over all ranks is that of the whole
batch, so all copies take the same step. One rank alone, the usual case, communicates with nobody. The first keeps the
record of the run.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event
from time import monotonic, sleep
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from runcard.errors import UserError

NO_ANSWER = timedelta(seconds=50)  # of another rank, once all have joined: it is lost
SETUP = timedelta(hours=12)  # how long the ranks wait for the slowest to read its data
GOODBYE = timedelta(seconds=10)
POLL_SECONDS = 0.05
JOB, TRAIN, STOP, LOST = "job", b"train", b"stop", "lost"


@dataclass(frozen=True)
class Ranks:
    """All ranks of a run, as one of them sees them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those of this machine: the index of its GPU
    store: Any = None  # of torch.distributed: keys and values that all ranks see; None: there is one rank
    over: Event = field(default_factory=Event)  # set when this rank needs the others no more

    def meet(self) -> bool:
        """Wait for all ranks to be ready for training; whether there will be any, as the first one decides."""
        self.store.set(f"ready/{self.rank}", b"")
        if not self._wait([f"ready/{rank}" for rank in range(self.size)] if self.rank == 0 else [JOB], SETUP):
            raise UserError("Another rank did not begin to train.")
        if self.rank == 0:
            self.store.set(JOB, TRAIN)
        return bool(self.store.get(JOB) == TRAIN)

    def dismiss(self) -> None:
        """As the first rank, which may hold the store: wait a little until the others know that this one has left."""
        self._wait([f"left/{rank}" for rank in range(1, self.size)], GOODBYE)

    def _wait(self, keys: list[str], limit: timedelta) -> bool:
        """Wait for keys in the store; false if a rank is lost or does not set its key within the limit."""
        deadline = monotonic() + limit.total_seconds()
        while self.store and not self.store.check(keys):
            if self.store.check([LOST]) or monotonic() > deadline:
                return False
            sleep(POLL_SECONDS)
        return True

    def report_lost(self) -> None:
        """Let the ranks that wait for this one, or for one that this process started, know that it ends."""
        if self.store:
            with suppress(RuntimeError):  # the first rank, which holds the store, may be gone
                self.store.set(LOST, b"")

    def join(self, device: torch.device) -> None:
        """Connect to all ranks, which must have met. From here on each waits for the others, NO_ANSWER at most."""
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=self.store, rank=self.rank, world_size=self.size, timeout=NO_ANSWER)

    def leave(self) -> None:
        """Part from the others: what this rank computes now is of itself alone."""
        self.over.set()
        if dist.is_initialized():
            dist.destroy_process_group()
        if self.store:
            with suppress(RuntimeError):  # of a store that is gone with its process
                self.store.set(f"left/{self.rank}", b"")
                if self.rank == 0:
                    self.store.set(JOB, STOP)

    def of_first(self, value: Any) -> Any:
        """Return the first rank's value on every rank: plain data."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in order."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def copy_first(self, model: nn.Module) -> None:
        """Copy the first rank's parameters and buffers to every rank."""
        if self.size > 1:
            state = [*model.parameters(), *model.buffers()]
            _of_all([tensor.detach() for tensor in state], lambda flat: dist.broadcast(flat, src=0))

    def add_up(self, loss: Tensor, parameters: Iterable[nn.Parameter]) -> None:
        """Replace a step's loss, a scalar, and its gradients by their sums over all ranks."""
        if self.size > 1:
            trained = [p for p in parameters if p.requires_grad]
            for p in trained:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad  # this rank has no image of the batch
            _of_all([loss, *(p.grad for p in trained if p.grad is not None)], dist.all_reduce)


ALONE = Ranks()


def _of_all(tensors: list[Tensor], operate: Callable[[Tensor], Any]) -> None:
    """Change tensors in place by one operation on their values, all in a row."""
    for dtype in {tensor.dtype: None for tensor in tensors}:
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in alike])
        operate(flat)
        for tensor, values in zip(alike, torch.split(flat, [tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(values.view(tensor.shape))


def is_of_ranks(error: RuntimeError) -> bool:
    """Whether an error is of the communication between ranks: one of them does not answer."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(str(name).startswith("torch.distributed.") for name in frames)


def synchronize_batchnorm(model: nn.Module, device: torch.device) -> None:
    """Replace the model's batch norm layers by such that normalise by the whole batch, of all ranks.

    Raises UserError for a layer that is derived from batch norm, which may do more: timm's also activates.
    """
    for name, module in list(model.named_modules()):
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            if device.type == "cuda":
                synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
            else:
                synchronized = SynchronizedBatchNorm.__new__(SynchronizedBatchNorm)
                synchronized.__dict__ = module.__dict__  # the same parameters and buffers
            model.set_submodule(name, synchronized)
        elif isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
            raise UserError(
                f"train.sync_batchnorm=true: {name} is a {type(module).__name__}, which may do more than batch norm, "
                "and cannot be synchronised. Use train.sync_batchnorm=false, or another model."
            )


def is_synchronized(model: nn.Module) -> bool:
    """Whether each forward pass of the model in training communicates with the other ranks."""
    return any(isinstance(module, (nn.SyncBatchNorm, SynchronizedBatchNorm)) for module in model.modules())


class SynchronizedBatchNorm(_BatchNorm):
    """Batch norm by the mean and the variance of the batches of all ranks, as torch.nn.SyncBatchNorm, on a CPU too."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Take inputs of any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, …); N may be 0 on some ranks, but not on all."""
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        x, axes = input.float(), (0, *range(2, input.ndim))
        of_channel = (1, -1, *[1] * (input.ndim - 2))
        count = x.new_tensor([x.numel() / x.shape[1]])
        count, total = _Sum.apply(torch.cat([count, x.sum(axes)])).tensor_split([1])
        count = count.detach()
        mean = (total / count).view(of_channel)
        variance = _Sum.apply((x - mean).square().sum(axes)) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach().flatten(), weight)
            self.running_var.lerp_(variance.detach() * count / (count - 1), weight)
        normalized = (x - mean) * (variance + self.eps).rsqrt().view(of_channel)
        if self.affine:
            normalized = normalized * self.weight.view(of_channel) + self.bias.view(of_channel)
        output: Tensor = normalized.to(input.dtype)
        return output


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all ranks; so is its gradient."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
