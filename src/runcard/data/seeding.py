"""Derive all seeds of a run from one.

Streams have names: derive(seed, "augmentation", epoch, sample) is the same number in any process, in any order and
after any interruption, so a run does not depend on the number of loader workers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def derive(seed: int, *stream: str | int) -> int:
    """Derive a 63-bit seed for the named stream: a hash, so that similar names give unrelated numbers."""
    name = "/".join(map(str, (seed, *stream)))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 1


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices)."""
    import torch  # seconds: datasets draw from derive() without it

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_epoch(seed: int, epoch: int, rank: int = 0) -> None:
    """Seed the global generators for one epoch of training, where only dropout draws from them.

    Since each epoch is seeded, a run that resumes at an epoch boundary needs no stored generator state.
    """
    seed_everything(derive(seed, "dropout", epoch, rank))


@contextmanager
def forked(seed: int, *stream: str | int) -> Iterator[None]:
    """Inside the block the global CPU generators run on the named stream; afterwards they are as before."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        seed_everything(derive(seed, *stream))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
