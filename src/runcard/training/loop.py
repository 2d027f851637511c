"""The single training loop.

fit() takes finished objects and reads top to bottom; experiment/session.py calls it. Construction
(experiment/setup.py), file formats (checkpoint.py), logs and figures (loggers/) are elsewhere. Classification and
segmentation use the same loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from time import perf_counter

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from runcard import interrupts
from runcard.config.schema import TrainConfig
from runcard.data.loaders import Batch, Loaders
from runcard.data.seeding import seed_epoch
from runcard.errors import UserError
from runcard.training.evaluation import columns, evaluate
from runcard.training.ranks import Ranks, is_synchronized
from runcard.training.types import Logger, Loss, Monitor, Saver, Schedule, State


def fit(
    fabric: Fabric,
    model: nn.Module,
    loss: Loss,
    optimizer: Optimizer,
    schedule: Schedule,
    loaders: Loaders,
    metrics: MetricCollection,
    monitor: Monitor,
    train: TrainConfig,
    seed: int,
    state: State,
    checkpoint: Saver,
    logger: Logger,
    ranks: Ranks,
) -> State:
    """Train from state until train.epochs or early stopping, and return the final state.

    The loaders give this rank's share of every batch. All ranks end with the same model, optimizer and state. Raises
    StopAfterEpoch where SIGUSR1 came, once the epoch is saved.
    """
    names = ("loss", *columns(metrics))
    images_per_epoch, images_per_step = len(loaders.train_sampler), train.batch_size * train.accumulate_steps
    saved = perf_counter()
    while state.epoch < train.epochs and not _stopped_early(state, train):
        epoch, started = state.epoch + 1, perf_counter()
        seed_epoch(seed, epoch, ranks.rank)
        loaders.train_sampler.set_epoch(epoch)
        train_mode(model)
        loss_sum, norm_sum, steps, lr = 0.0, 0.0, 0, optimizer.param_groups[0]["lr"]
        for micro_batches in _groups(loaders.train, train.accumulate_steps):
            num_images = min(images_per_step, images_per_epoch - images_per_step * steps)  # of all ranks
            step_loss = _backward(fabric, model, loss, micro_batches, num_images)
            ranks.add_up(step_loss, model.parameters())
            grads = [p.grad for p in model.parameters() if p.grad is not None]
            grad_norm = nn.utils.get_total_norm(grads)
            if train.clip_grad_norm is not None:
                nn.utils.clip_grads_with_norm_(model.parameters(), train.clip_grad_norm, grad_norm)
            loss_value, norm_value = torch.stack([step_loss, grad_norm]).tolist()  # the step's one CPU-GPU sync point
            if not math.isfinite(loss_value + norm_value):  # before the step: a NaN never reaches the optimizer
                raise UserError(_not_finite(loss_value, norm_value, epoch, state.step + 1))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if schedule.every == "step":
                schedule.rule.step()
            state.step += 1
            steps += 1
            loss_sum += loss_value * num_images
            norm_sum += norm_value
            logger.step(epoch, steps, num_images, loss_value)
            interrupts.check()
        trained = perf_counter() - started

        ranks.copy_first(model)  # batch norm's running statistics, of the first rank's shares unless synchronised
        row = {"epoch": epoch, "step": state.step, "lr": lr, "train/loss": loss_sum / images_per_epoch}
        val, evaluated = None, train.is_evaluated(epoch)
        for part, loader in (("train_eval", loaders.train_eval), ("val", loaders.val)):
            val = evaluate(model, loss, metrics, loader, ranks=ranks) if evaluated else None
            row |= {f"{part}/{name}": val.values[name] if val else None for name in names}
        row |= {"grad_norm": norm_sum / steps, "seconds": perf_counter() - started}
        row |= {"images_per_second": images_per_epoch / trained}
        row = ranks.of_first(row)  # so that all decide alike
        if schedule.every == "epoch" and (evaluated or not schedule.monitor):
            schedule.rule.step(*([row[schedule.monitor]] if schedule.monitor else []))
        state.epoch = epoch
        state.rows.append(row)
        if evaluated and monitor.is_improvement(row[monitor.name], state.best):
            state.best, state.best_epoch = row[monitor.name], epoch
        is_best = state.best_epoch == epoch
        logger.epoch(row, val, is_best)
        is_over = epoch == train.epochs or _stopped_early(state, train)
        is_to_stop = ranks.of_first(interrupts.is_to_stop()) and not is_over
        if is_best or is_over or is_to_stop or train.is_checkpoint_due(epoch, perf_counter() - saved):
            checkpoint.save(state)
            saved = perf_counter()
        if is_to_stop:
            raise interrupts.StopAfterEpoch
    return state


def train_mode(model: nn.Module) -> None:
    """Put a model into training mode, except frozen modules: their dropout is off, their batch statistics are kept."""
    model.train()
    for module in model.modules():
        weights = list(module.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            module.eval()


def _backward(fabric: Fabric, model: nn.Module, loss: Loss, batches: Iterable[Batch], num_images: int) -> Tensor:
    """Add up the gradients of the micro-batches of one step, of num_images on all ranks, and return their loss ()."""
    step_loss = torch.zeros((), device=fabric.device)
    for batch in batches:
        if not len(batch.targets):  # the last batch of an epoch may have fewer images than there are ranks
            if is_synchronized(model):
                fabric.backward(model(batch.images).sum() * 0)
            continue
        share = len(batch.targets) / num_images  # accumulated gradients then equal those of one large batch
        micro_loss = loss(model(batch.images), batch.targets) * share
        fabric.backward(micro_loss)
        step_loss += micro_loss.detach()
    return step_loss


def _groups(loader: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yield lists of up to size batches: the micro-batches of one step."""
    batches = iter(loader)
    while group := list(islice(batches, size)):
        yield group


def _stopped_early(state: State, train: TrainConfig) -> bool:
    if train.early_stopping is None or not train.is_evaluated(state.epoch):
        return False
    return state.epoch - state.best_epoch >= train.early_stopping


def _not_finite(loss: float, grad_norm: float, epoch: int, step: int) -> str:
    what = f"grad_norm is {grad_norm}" if math.isfinite(loss) else f"train/loss is {loss}"
    return (
        f"{what} at epoch {epoch}, step {step}: training has diverged, and the step was not taken.\n"
        "Try a lower optimizer.lr, train.clip_grad_norm=1 or train.precision=32."
    )
