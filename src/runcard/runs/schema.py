"""The schema of run.json: the keys that comparisons, studies and audits read. All others are for people."""

from __future__ import annotations

import reprlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

# 2 features, shortcut, num_trained_parameters, seconds.caching; 3 better; 4 audit, model, sha256; 5 bounds
SCHEMA_VERSION = 5


class Part(BaseModel):
    """A group of keys, of these types exactly; keys beside them are allowed."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Choices(Part):
    dataset: str


class _Split(Part):
    kind: str
    fold: int
    num_folds: int


class _Dataset(Part):
    split: _Split


class _Train(Part):
    epochs: int
    batch_size: int
    accumulate_steps: int
    clip_grad_norm: float | None
    early_stopping: int | None
    limit_batches: int | None


class _Scheduler(Part):
    rule: dict[str, Any]


class _Derived(Part):
    classes: list[Any]
    image_size_px: int


class _Config(Part):
    seed: int
    smoke_test: bool
    dataset: _Dataset
    model: dict[str, Any]
    loss: dict[str, Any]
    augmentation: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: _Scheduler
    train: _Train
    derived: _Derived


class _Data(Part):
    hash: str
    split_hash: str


class _Hardware(Part):
    cpu: str
    gpu: str | None
    threads: int


class Session(Part):
    """One process that trained; a resumed run has several."""

    precision: str
    code: str
    hardware: _Hardware
    versions: dict[str, str]


class _Seconds(Part):
    total: float  # of all sessions, without the time between them
    per_epoch: float
    caching: float


class _Last(Part):
    values: dict[str, float | None]


class _Best(_Last):
    epoch: int
    monitor: str


class _Finding(Part):
    level: str = ""
    check: str
    what: str
    allowed: bool


class _Shortcut(Part):
    region: str
    sentence: str
    alarm: bool
    accuracy: float
    accuracy_masked: float
    accuracy_alone: float
    evidence_lost: float
    heat: dict[str, float | None]
    area: dict[str, float | None]


class _Images(Part):
    """The training images, as run.json describes them for images to come."""

    kinds: list[str]
    smallest_px: list[int] = Field(min_length=2, max_length=2)
    largest_px: list[int] = Field(min_length=2, max_length=2)
    polarity: list[float] | None = None
    usual: list[list[float]] | None = None


class _Model(Part):
    layers: dict[str, int] = {}
    output_shape: list[int] | None = None


class _Search(Part):
    trial: int | None = None
    trials: int | None = None
    folder: str | None = None
    images: list[str] = []
    seeds: list[int] = []


class _Evaluation(Part):
    run: str
    weights_sha256: str
    own_images: bool
    calibration: dict[str, float]
    at_image_size: dict[str, float | None] | None = None


class _Features(Part):
    seconds_when_made: float


class CompletedRun(Part):
    """run.json of a completed run."""

    choices: _Choices
    config: _Config
    data: _Data
    num_parameters: int
    num_trained_parameters: int
    sessions: list[Session] = Field(min_length=1)
    end: str
    epochs: int
    seconds: _Seconds
    last: _Last
    best: _Best
    better: dict[str, Literal["max", "min"]]
    bounds: dict[str, Annotated[list[float | None], Field(min_length=2, max_length=2)]]
    units: dict[str, str] = {}  # of metrics that are lengths: mm | px
    audit: list[_Finding]
    shortcut: list[_Shortcut] = []
    images: _Images | None = None
    model: _Model = _Model()
    class_counts: dict[str, dict[str, int]] = {}
    left_out: dict[str, Any] | None = None
    evaluation: _Evaluation = Field(default=None)  # type: ignore[assignment]  # absent, not null, in a run
    search: _Search | None = None  # of a trial of a search, and of a run whose config a search chose
    sha256: dict[str, str] = {}  # of the files of the record; absent in runs of before they were kept
    features: _Features | None = None  # of a run that trained on the cached features of a frozen backbone


class _StartedConfig(Part):
    seed: int
    derived: dict[str, Any]


class StartedRun(Part):
    """run.json of a run that may not have trained yet: enough to say whose run it is."""

    config: _StartedConfig


class _AuditedConfig(Part):
    dataset: dict[str, Any]


class AuditedRun(Part):
    """run.json of a run with whose data those of a folder are compared."""

    config: _AuditedConfig
    left_out: dict[str, str | None] = {}


class _TrainedConfig(Part):
    train: _Train


class ParentRun(Part):
    """run.json of a run that is trained longer."""

    config: _TrainedConfig
    data: dict[str, str]


class _SessionOfWeights(Part):
    precision: str


class RestoredRun(Part):
    """run.json of a run whose weights are used again."""

    sessions: list[_SessionOfWeights] = Field(min_length=1)
    data: dict[str, str]
    images: _Images | None = None
    balanced_weights: dict[str, list[float]] = {}


class _RestoredDerived(Part):
    classes: list[str] = Field(min_length=2)
    positive: int | None
    image_size_px: int


class _RestoredMetric(Part):
    scores: dict[str, dict[str, Any]]


class _RestoredTrain(Part):
    batch_size: int = Field(ge=1, le=1_000_000)


class _RestoredAudit(Part):
    allow: list[str]


class RestoredConfig(Part):
    """The config in the header of a run's best.safetensors."""

    model: dict[str, Any]
    dataset: dict[str, Any]
    loss: dict[str, Any]
    augmentation: dict[str, Any]
    metric: _RestoredMetric
    train: _RestoredTrain
    derived: _RestoredDerived
    audit: _RestoredAudit = _RestoredAudit(allow=[])  # absent in a run of before there was an audit


class ExportedFile(Part):
    """What `runcard export` writes into a file about the network in it."""

    classes: list[str] = Field(min_length=2)
    images: _Images | Annotated[dict[str, Any], Field(max_length=0)] | None
    window: list[float]
    resize: str = "stretch"


def faults(content: object, schema: type[Part]) -> list[str]:
    """Return a message for each key that content lacks, or under which another type stands, with what stands there."""
    try:
        schema.model_validate(content)
    except ValidationError as error:
        return [
            f"{'.'.join(map(str, fault['loc'])) or 'the content'} is "
            + ("missing" if fault["type"] == "missing" else f"damaged: {reprlib.repr(fault['input'])}")
            for fault in error.errors(include_url=False)
        ]
    return []
