"""The config as typed sections. It is validated once, before torch is imported, and all its faults are one message.

What stands below a `_target_` are a library's own arguments: the object checks them when it is built.
"""

from __future__ import annotations

import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from runcard.config.diff import UNKNOWN, flatten
from runcard.config.instantiate import untrusted_targets
from runcard.config.saved import check_inert
from runcard.config.sweep import RUN_NAME, is_run_name
from runcard.errors import UserError, did_you_mean

BUILDING = (
    "runcard, torch.nn, torch.optim, torchvision, torchmetrics and albumentations are trusted. Building an object runs "
    "its code:"
)
LARGEST = 2**31 - 1
MAX_WORKERS = 1024  # a loader process each
MAX_LINES = 4  # of a message
MAX_NAMED = 2  # objects in a message
TENSORBOARD: dict[str, Any] = {"tensorboard": {"_target_": "runcard.loggers.tensorboard.TensorBoardLogger"}}
CUSTOM = "rule"  # the type of pydantic's errors whose message is ours

S = TypeVar("S", bound="Section")


def rule(must: str, holds: Callable[[Any], bool]) -> BeforeValidator:
    """Return a validator whose message is "<key> must …, got …"."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise PydanticCustomError(CUSTOM, "{must}", {"must": f"must {must}"})
        return value

    return BeforeValidator(check)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_interval(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"\d+(\.\d+)? ?min", value) is not None
    return type(value) is int and value >= 1


def _is_regex(text: object) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of signs that a later Python may read otherwise
            re.compile(text)  # type: ignore[call-overload]
    except (re.error, OverflowError, RecursionError, TypeError):
        return False
    return True


def _has_target(node: object) -> bool:
    return isinstance(node, dict) and isinstance(target := node.get("_target_"), str) and bool(target)


def _is_package(name: object) -> bool:
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


Text = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value)]
RunName = Annotated[Text, rule(RUN_NAME, is_run_name)]
NonNegativeInt = Annotated[int, rule("be an integer >= 0", lambda value: type(value) is int and value >= 0)]
Workers = Annotated[
    int | str,
    rule(f"be at most {MAX_WORKERS}", lambda value: type(value) is not int or value <= MAX_WORKERS),
    rule("be auto or an integer >= 0", lambda value: value == "auto" or (type(value) is int and value >= 0)),
]
# torch and NumPy count with 64 bits, and products fit too
Countable = rule(f"be at most {LARGEST}", lambda value: type(value) is not int or value <= LARGEST)
PositiveInt = Annotated[int, Countable, rule("be an integer >= 1", lambda value: type(value) is int and value >= 1)]
ImageSize = Annotated[PositiveInt, rule("be at most 16384", lambda value: type(value) is not int or value <= 16384)]
Interval = Annotated[int | str, rule("be a number of epochs >= 1, or of minutes such as 20min", _is_interval)]
PositiveFloat = Annotated[float, rule("be a number > 0", lambda value: _is_number(value) and value > 0)]
Fraction = Annotated[float, rule("be a number in [0, 1]", lambda value: _is_number(value) and 0 <= value <= 1)]
Folder = Annotated[str, rule("name a folder", lambda value: value != "" and "\0" not in str(value))]
Regex = Annotated[str, rule("be a regular expression", _is_regex)]
Package = Annotated[str, rule("be the name of a package", _is_package)]
Object = Annotated[dict[str, Any], rule("have a _target_, the name of a class", _has_target)]
Derived = Annotated[Any, rule("not be set: it is derived from dataset and loss", lambda v: str(v)[:9] == UNKNOWN)]


class Section(BaseModel):
    """A part of a config file: these keys and no others, of these types exactly."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SplitConfig(Section):
    """How images are split; see conf/split/holdout.yaml."""

    kind: Literal["auto", "given", "holdout", "kfold"]
    val_fraction: Fraction
    test_fraction: Fraction
    seed: NonNegativeInt
    group_regex: Regex | None
    num_folds: Annotated[int, rule("be an integer >= 2", lambda value: type(value) is int and value >= 2)]
    fold: NonNegativeInt
    seal: bool = False  # absent in runs of older versions
    exclude: list[Text] = []  # absent in runs of older versions

    @model_validator(mode="after")
    def _fold_exists(self) -> SplitConfig:
        if self.kind == "kfold" and self.fold >= self.num_folds:
            raise PydanticCustomError(CUSTOM, f".fold must be below num_folds={self.num_folds}")
        if self.kind != "kfold" and self.fold:
            raise PydanticCustomError(CUSTOM, f".fold={self.fold} needs dataset.split.kind=kfold")
        return self


class WithArguments(Section, extra="allow"):
    """Keys that Runcard reads of an object; all others are arguments of its class."""

    @property
    def node(self) -> dict[str, Any]:
        """The node that names the class and its arguments."""
        return dict(self.model_extra or {})


class DatasetConfig(WithArguments):
    """The keys that every dataset has."""

    image_size_px: ImageSize
    resize: Literal["stretch", "letterbox"] = "stretch"  # absent in runs of older versions
    channels: Annotated[Literal[1, 3], rule("be 1 or 3", lambda value: type(value) is int and value in (1, 3))]
    positive: Text | None
    normalization: Literal["unit", "symmetric", "imagenet"]
    split: SplitConfig

    @model_validator(mode="after")
    def _channels_fit(self) -> DatasetConfig:
        if self.normalization == "imagenet" and self.channels != 3:
            raise PydanticCustomError(CUSTOM, ".normalization=imagenet is for 3 channels. Set dataset.channels=3")
        return self

    def with_arguments(self, **arguments: Any) -> DatasetConfig:
        """Return the same config with other arguments of the dataset's class."""
        return parse_section(DatasetConfig, self.model_dump() | arguments, "dataset.")


class LossConfig(WithArguments):
    """What Runcard reads of a loss."""

    two_class_logits: Annotated[Literal[1, 2], rule("be 1 or 2", lambda v: type(v) is int and v in (1, 2))] = 2


class SchedulerConfig(Section):
    """A learning-rate rule, when it moves, and the value of metrics.csv that it watches."""

    every: Literal["step", "epoch"]
    monitor: str | None
    rule: Object


class MetricConfig(Section):
    """The scores of every evaluation, and the one that chooses the best epoch."""

    monitor: str
    scores: dict[str, Object]


class AuditConfig(Section):
    """What an audit of the data allows, and where its findings are kept."""

    allow: list[str]
    cache_dir: Folder
    cache_gb: PositiveFloat | None = 1.0  # absent in configs saved before there was a limit


class ImagesConfig(Section):
    """Where decoded images are kept for the next run."""

    cache_dir: Folder
    cache_gb: PositiveFloat | None


class TrainConfig(Section):
    """How one run is trained; conf/config.yaml explains each key."""

    epochs: PositiveInt
    batch_size: PositiveInt
    accumulate_steps: PositiveInt
    clip_grad_norm: PositiveFloat | None
    early_stopping: PositiveInt | None
    devices: PositiveInt = 1  # this and the next: absent in configs saved before
    sync_batchnorm: bool = True
    precision: Annotated[Literal["auto", "32", "bf16"], BeforeValidator(str)]
    accelerator: Literal["auto", "cpu", "gpu"]
    deterministic: bool
    num_workers: Workers
    persistent_workers: bool
    data_on_device: Literal["auto", "never"] = "auto"  # this and the next two: absent in configs saved before
    checkpoint_every: Interval = 1
    eval_every: PositiveInt = 1
    limit_batches: PositiveInt | None
    log_every_steps: PositiveInt
    pictures: NonNegativeInt
    explain_images: NonNegativeInt
    extend: str | None
    init_from: str | None = None  # this and the next two: absent in configs saved before there were any
    init_without: list[str] | None = None
    freeze: list[str] | None = None
    cache_features: Literal["auto", "always", "never"]
    cache_dir: Folder
    cache_gb: PositiveFloat | None = 20.0  # absent in configs saved before there was a limit

    def is_evaluated(self, epoch: int) -> bool:
        """Whether the model is evaluated after this epoch, counted from 1: after the last one always."""
        return epoch % self.eval_every == 0 or epoch == self.epochs

    def is_checkpoint_due(self, epoch: int, seconds: float) -> bool:
        """Whether a checkpoint is due after this epoch, so many seconds after the last one."""
        if isinstance(self.checkpoint_every, int):
            return epoch % self.checkpoint_every == 0
        return seconds >= 60 * float(self.checkpoint_every.removesuffix("min"))

    @model_validator(mode="after")
    def _devices_have_images(self) -> TrainConfig:
        if self.devices > self.batch_size:
            raise PydanticCustomError(CUSTOM, f".devices must be at most train.batch_size={self.batch_size}")
        return self

    @model_validator(mode="after")
    def _init_without_needs_init_from(self) -> TrainConfig:
        if self.init_without and not self.init_from:
            raise PydanticCustomError(CUSTOM, ".init_without names layers of train.init_from, which is null")
        return self


class DerivedConfig(Section):
    """What dataset and loss determine; filled in once the data are read."""

    in_channels: Derived
    out_channels: Derived
    num_classes: Derived
    classes: Derived
    positive: Derived
    image_size_px: Derived
    steps: Derived


class Config(Section):
    """A whole config."""

    dataset: DatasetConfig
    model: Object
    loss: LossConfig
    augmentation: Object
    optimizer: Object
    scheduler: SchedulerConfig
    metric: MetricConfig
    seed: NonNegativeInt
    name: RunName
    run_dir: Folder
    smoke_test: bool
    trust: list[Package]
    overwrite: bool
    record: Literal["full", "lean"] = "full"  # this and the next: absent in configs saved before there were any
    chosen_by: str | None = None
    train: TrainConfig
    audit: AuditConfig
    logger: dict[str, Object] = TENSORBOARD  # absent in configs saved before
    images: ImagesConfig = ImagesConfig(cache_dir="outputs/.images", cache_gb=20.0)  # absent in configs saved before
    derived: DerivedConfig


def parse_config(cfg: DictConfig, where: str = "") -> tuple[Config, dict[str, Any]]:
    """Return a composed config as typed sections, and as plain values in which UNKNOWN stands for what is derived.

    Raises UserError with every fault: a key that nothing reads, a missing or a wrong value, a target that is not
    trusted, an interpolation that leads nowhere. where says whose config it is, for messages.
    """
    resolved = cfg.copy()
    derived = resolved.get("derived")
    for key in derived if isinstance(derived, DictConfig) else ():
        if OmegaConf.is_missing(resolved.derived, key):
            resolved.derived[key] = f"{UNKNOWN}{key!s}>"
    raw = to_plain(cfg, resolve=False)
    faults = [
        f"{where}{key}: this key has no default and must be given: {key}=…"
        for key, value in flatten(raw).items()
        if value == "???" and not key.startswith("derived.")
    ]
    if faults:  # other keys may refer to these
        raise UserError(_few(faults))
    try:
        plain = to_plain(resolved)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "the config"
        raise UserError(f"{where}{key}: {str(error).splitlines()[0]}") from None
    if infinite := [f"{where}{key} must be a finite number, got {value}." for key, value in _infinite(plain)]:
        raise UserError(_few(infinite))
    config = parse_section(Config, plain, where)
    check_targets(raw, config.trust)  # as written: what an interpolation leads to cannot be seen in the file
    return config, plain


def _few(lines: Sequence[str], max_lines: int = MAX_LINES) -> str:
    """Return a message of the first lines, and how many more there are."""
    shown = lines if len(lines) <= max_lines else [*lines[: max_lines - 1], f"and {len(lines) - max_lines + 1} more"]
    return "\n".join(shown)


def _infinite(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the keys whose values run.json cannot hold: infinity and NaN, in lists too."""
    for key, value in flatten(config).items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, float) and not math.isfinite(each):
                yield key, each


def parse_section(section: type[S], content: object, prefix: str = "", max_lines: int = MAX_LINES) -> S:
    """Return one section of a file; prefix is put before its keys in messages. Raises UserError with its faults."""
    try:
        return section.model_validate(content)
    except ValidationError as error:
        raise UserError(_few([f"{prefix}{line}" for line in fault_lines(error, section)], max_lines)) from None


def parse_recorded(section: type[S], content: object, prefix: str) -> S:
    """Return one section of a run's record as parse_section does, with the first faults only: the file is damaged."""
    return parse_section(section, content, prefix, MAX_NAMED + 1)


def check_targets(config: Mapping[str, Any], trust: Sequence[str]) -> None:
    """Raise UserError where a config names objects outside of TRUSTED and of the trusted packages."""
    if foreign := untrusted_targets(config, trust):
        packages = ",".join(dict.fromkeys(target.partition(".")[0] for _, target in foreign))
        fix = f"if you trust {packages}, add 'trust=[{packages}]'"
        raise UserError(f"{_untrusted(foreign)}\n{BUILDING} {fix}")


def check_recorded(
    config: Mapping[str, Any], trust: Sequence[str], where: str, allowed: re.Pattern[str] | None = None
) -> None:
    """Raise UserError where the config that a run recorded would run code that the user does not trust.

    It comes with a folder, of another person perhaps, so the message names no more to trust than it asks for. allowed
    are the interpolations of one that is not resolved.
    """
    try:
        check_inert(config, allowed)
    except ValueError as error:
        raise UserError(f"{where}: its config cannot be used: {error}.") from None
    if foreign := untrusted_targets(config, trust):
        options = " ".join(f"--trust {target}" for target in dict.fromkeys(target for _, target in foreign))
        raise UserError(f"{_untrusted(foreign)}\n{BUILDING} if you trust it: {options}")


def _untrusted(foreign: Sequence[tuple[str, str]]) -> str:
    named = [f"{key}._target_: {target:.200} is not an object of a trusted package." for key, target in foreign]
    return _few(named, MAX_NAMED + 1)


def fault_lines(error: ValidationError, section: type[Section]) -> list[str]:
    """Return a line for each fault that pydantic found: the dotted key, the rule, the value, the nearest name."""
    return [_line(fault, section) for fault in error.errors(include_url=False)]


def _line(fault: ErrorDetails, section: type[Section]) -> str:
    key, text, value = ".".join(map(str, fault["loc"])), fault["msg"], fault["input"]
    if fault["type"] == "invalid_key" or key.endswith(".[key]"):
        return f"{key.removesuffix('.[key]')} is no name. Put it in quotes: '{value}'."
    if fault["type"] == "extra_forbidden":
        return f"{key}: nothing reads this key.{did_you_mean(fault['loc'][-1], _keys(section, fault['loc'][:-1]))}"
    if fault["type"] == "missing":
        return f"{key}: this key is needed."
    if fault["type"] == CUSTOM and text.startswith("."):
        return f"{key}{text}.".lstrip(".")
    choices = re.findall(r"'(.+?)'", text) if fault["type"] == "literal_error" else []
    text = text.replace("Input should be ", "must be ").replace("a valid ", "a ").replace("a boolean", "true or false")
    text = re.sub(r"a dictionary\b.*", "a group of keys", text)
    if choices:
        text = f"must be one of {', '.join(choices)}"
    hint = f" Write [{value}]." if fault["type"] == "list_type" and isinstance(value, str) else ""
    return f"{key} {text}, got {value!r}.{hint}{did_you_mean(value, choices)}".lstrip()


def _keys(section: type[Section], place: Sequence[int | str]) -> list[str]:
    """Return the keys of the section at a place below another."""
    known: Any = section
    for step in place:
        if hasattr(known, "model_fields"):
            known = known.model_fields[step].annotation
        elif get_origin(known) is dict:
            known = get_args(known)[1]
    return list(known.model_fields) if hasattr(known, "model_fields") else []


def to_plain(node: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """Return a node of a config as plain dicts and lists."""
    return OmegaConf.to_container(node, resolve=resolve)  # type: ignore[return-value]
