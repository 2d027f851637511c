"""The train.* keys of a config, checked before anything slow happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runcard.config.diff import flatten
from runcard.errors import UserError, check_choice, check_flag, check_integer, check_number, did_you_mean


def check_keys(prefix: str, node: object, known: Sequence[str]) -> None:
    """Refuses keys, added with +key=value or removed with ~key, that nothing reads or that are needed."""
    found = list(map(str, node)) if isinstance(node, Mapping) else []
    for key in set(found) ^ set(known):
        rule = "nothing reads this key" if key in found else "this key is needed"
        raise UserError(f"{prefix}{key}: {rule}.{did_you_mean(key, known) if key in found else ''}")


TOP_LEVEL = (
    *("dataset", "model", "loss", "augmentation", "optimizer", "scheduler", "metric"),
    *("seed", "name", "run_dir", "smoke_test", "trust", "overwrite", "train", "audit", "derived"),
)


SPLIT_KEYS = ("kind", "val_fraction", "test_fraction", "seed", "group_regex", "num_folds", "fold")


def check_config(cfg: DictConfig) -> None:
    """Checks that a config has the keys that are read, and no others. Raises UserError."""
    check_keys("", cfg, TOP_LEVEL)
    missing = [key for key, value in flatten(to_plain(cfg, resolve=False)).items() if value == "???"]
    for key in (key for key in missing if not key.startswith("derived.")):
        raise UserError(f"{key}: this key has no default and must be given: {key}=…")
    check_keys("train.", cfg.train, [field.name for field in fields(TrainSettings)])
    check_keys("dataset.split.", cfg.dataset.split, SPLIT_KEYS)
    check_keys("scheduler.", cfg.scheduler, ("every", "monitor", "rule"))
    check_keys("metric.", cfg.metric, ("monitor", "scores"))
    check_keys("audit.", cfg.audit, ("allow", "cache_dir"))
    for key in cfg.derived:
        if not OmegaConf.is_missing(cfg.derived, key):
            raise UserError(f"derived.{key}: filled in from dataset and loss; nobody types it.")


def to_plain(node: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """Return a node of a config as plain dicts and lists."""
    return OmegaConf.to_container(node, resolve=resolve)  # type: ignore[return-value]


@dataclass(frozen=True)
class TrainSettings:
    """How one run is trained; conf/config.yaml says what each key means. Raises ValueError naming the key."""

    epochs: int
    batch_size: int
    accumulate_steps: int
    clip_grad_norm: float | None
    early_stopping: int | None
    precision: str
    accelerator: str
    deterministic: bool
    num_workers: int
    persistent_workers: bool
    limit_batches: int | None
    log_every_steps: int
    pictures: int
    explain_images: int
    extend: str | None
    cache_features: str
    cache_dir: str

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "accumulate_steps", "log_every_steps"):
            check_integer(key, getattr(self, key), minimum=1)
        check_integer("num_workers", self.num_workers, minimum=0)
        check_integer("pictures", self.pictures, minimum=0)
        check_integer("explain_images", self.explain_images, minimum=0)
        for key in ("early_stopping", "limit_batches"):
            if getattr(self, key) is not None:
                check_integer(key, getattr(self, key), minimum=1)
        if self.clip_grad_norm is not None and check_number("clip_grad_norm", self.clip_grad_norm, 0.0) == 0:
            raise ValueError("clip_grad_norm must be above 0, or null for no clipping, got 0")
        if self.extend is not None and not isinstance(self.extend, str):
            raise ValueError(f"extend must be a run folder, or null, got {self.extend!r}")
        check_choice("cache_features", self.cache_features, ("auto", "always", "never"))
        if not isinstance(self.cache_dir, str):
            raise ValueError(f"cache_dir must be a folder, got {self.cache_dir!r}")
        check_choice("precision", str(self.precision), ("auto", "32", "bf16"))
        check_choice("accelerator", self.accelerator, ("auto", "cpu", "gpu"))
        check_flag("deterministic", self.deterministic)
        check_flag("persistent_workers", self.persistent_workers)
