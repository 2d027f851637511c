"""The train.* keys of a card, checked before anything slow happens."""

from __future__ import annotations

from dataclasses import dataclass

from runcard.errors import check_choice, check_flag, check_integer, check_number


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
