"""The schema of run.json: the keys that comparisons, studies and audits read. All others are for people."""

from __future__ import annotations

import reprlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

# 2 features, shortcut, num_trained_parameters, seconds.caching; 3 better; 4 audit, model, sha256; 5 bounds
SCHEMA_VERSION = 5


class Part(BaseModel):
    """A group of keys, of these types exactly; keys beside them are allowed."""

    model_config = ConfigDict(strict=True)


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
    limit_batches: int | None


class _Derived(Part):
    classes: list[Any]
    image_size_px: int


class _Config(Part):
    seed: int
    smoke_test: bool
    dataset: _Dataset
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
    check: str
    what: str
    allowed: bool


class _Features(Part):
    seconds_when_made: float


class CompletedRun(Part):
    """run.json of a completed run."""

    choices: _Choices
    config: _Config
    data: _Data
    num_parameters: int
    sessions: list[Session] = Field(min_length=1)
    end: str
    epochs: int
    seconds: _Seconds
    last: _Last
    best: _Best
    better: dict[str, Literal["max", "min"]]
    bounds: dict[str, Any]
    units: dict[str, str] = {}  # of metrics that are lengths: mm | px
    audit: list[_Finding]
    search: dict[str, Any] | None = None  # of a trial of a search, and of a run whose config a search chose
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
