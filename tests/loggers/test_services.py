"""Weights & Biases, Trackio and MLflow show the rows of metrics.csv: tested with stand-ins that have the calls used."""

from __future__ import annotations

import errno
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import TINY, compose_config
from evidence import numbers, run_json
from omegaconf import OmegaConf

from runcard.config.compose import extended_config
from runcard.config.schema import TENSORBOARD, parse_config
from runcard.errors import UserError
from runcard.loggers.services import WandbLogger
from runcard.runs.folders import read_metrics

ONE_EPOCH = (*TINY, "train.epochs=1", "train.pictures=1")
ALL = ("logger=[tensorboard,wandb,trackio,mlflow]",)


class StandIn(ModuleType):
    """A service that keeps what it is told, by name of the run; broken: it fails in every row."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.__path__ = []
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.ended: list[object] = []
        self.is_broken = False

    def log(self, values: dict[str, Any], step: int) -> None:
        if self.is_broken:
            raise ConnectionError("the server\nis away")
        self.logged.append((step, values))

    # Of wandb and trackio
    Settings, Image = dict, staticmethod(lambda image: image.size)

    def init(self, **options: Any) -> StandIn:
        self.begun.append(options)
        return self

    def finish(self, exit_code: int | None = None) -> None:
        self.ended.append(exit_code)

    # Of mlflow
    def MlflowClient(self, tracking_uri: str) -> StandIn:  # noqa: N802
        self.begun.append({"tracking_uri": tracking_uri})
        return self

    def get_experiment_by_name(self, name: str) -> None:
        self.begun.append({"experiment": name})

    def create_experiment(self, name: str) -> str:
        return f"id of {name}"

    def create_run(self, experiment: str, run_name: str) -> Any:
        self.begun.append({"experiment": experiment, "name": run_name})
        return SimpleNamespace(info=SimpleNamespace(run_id="r"))

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        if params:
            self.begun.append({"config": dict(params)})
        else:
            self.log({name: value for name, value, _, _ in metrics}, metrics[0][3])

    def log_image(self, run_id: str, image: Any, file: str) -> None:
        self.log({file: image.size}, 0)

    def set_terminated(self, run_id: str, status: str) -> None:
        self.ended.append(status)


@pytest.fixture
def services(monkeypatch):
    """Stand-ins for the three packages, by name."""
    found = {name: StandIn(name) for name in ("wandb", "trackio", "mlflow")}
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
    entities = StandIn("mlflow.entities")
    entities.Metric = entities.Param = lambda *values: values
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The numbers of a run that TensorBoard alone shows."""
    from runcard.experiment.run import run

    folder = tmp_path_factory.mktemp("plain") / "a"
    run(compose_config(*ONE_EPOCH), folder, [], choices={})
    return numbers(folder)


def values(services, name):
    """Return the rows that a service was told, without figures."""
    return [{"epoch": step, **row} for step, row in services[name].logged if "val/dice" in row]


def test_services_show_the_rows_of_metrics_csv_and_the_config(run_config, services, plain):
    folder = run_config("a", *ONE_EPOCH, *ALL)
    for name, service in services.items():
        assert values(services, name) == read_metrics(folder / "metrics.csv"), name
        begun = {key: value for each in service.begun for key, value in each.items()}
        assert begun["config"]["model.base"] in (4, "4")
        assert begun["name"].endswith("/a")
        assert len(service.logged) == 1, "no figures, which show images, unless they are asked for"
    assert services["wandb"].begun[0]["mode"] == "offline"
    assert [service.ended for service in services.values()] == [[0], [None], ["FINISHED"]]
    assert numbers(folder) == plain
    assert any(folder.glob("events.out.tfevents.*"))


def test_figures_are_shown_where_they_are_asked_for(run_config, services):
    run_config("a", *ONE_EPOCH, *ALL, *(f"logger.{name}.figures=true" for name in services))
    for name in ("wandb", "trackio"):
        assert {tag for _, row in services[name].logged for tag in row} >= {"val/predictions", "train/first_batch"}
    assert "val/predictions/0001.png" in {tag for _, row in services["mlflow"].logged for tag in row}


def test_a_resumed_run_is_shown_with_all_its_epochs(run_config, services):
    services["wandb"].is_broken = True
    folder = run_config("a", *TINY, "train.epochs=1", "train.pictures=0", "logger=wandb")
    services["wandb"].is_broken = False
    longer = run_config("b", *TINY, "train.pictures=0", "logger=wandb", f"train.extend={folder}")
    assert values(services, "wandb") == read_metrics(longer / "metrics.csv")
    assert not any(longer.glob("events.out.tfevents.*")), "TensorBoard was not asked for"


def test_a_service_that_fails_is_left_out_with_a_warning(run_config, services, plain, capsys):
    for service in services.values():
        service.is_broken = True
    folder = run_config("a", *ONE_EPOCH, *ALL)
    printed = capsys.readouterr().out
    for name in services:
        assert printed.count(f"warning: logger.{name} failed and is left out: ConnectionError: the server\n") == 1
    assert run_json(folder)["status"] == "completed"
    assert numbers(folder) == plain


def test_a_disk_that_tensorboard_cannot_write_ends_the_run_with_its_own_message(run_config, services, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("runcard.loggers.tensorboard.SummaryWriter", full)
    with pytest.raises(UserError, match="disk is full"):
        run_config("a", *ONE_EPOCH, "logger=[wandb,tensorboard]")
    assert services["wandb"].ended == [1], "the other one is closed"


def test_a_package_that_is_missing_is_said_before_the_data_are_read(run_config, monkeypatch):
    monkeypatch.setattr("runcard.loggers.services.find_spec", lambda name: None)
    monkeypatch.setattr("runcard.experiment.session.make_setup", lambda *_, **__: pytest.fail("too late"))
    for name in ("wandb", "trackio", "mlflow"):
        with pytest.raises(UserError) as caught:
            run_config("a", *ONE_EPOCH, f"logger=[tensorboard,{name}]")
        assert str(caught.value) == f"logger.{name}: the package {name} is not installed: pip install {name}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("logger.wandb.mode=onlin", r"logger\.wandb\.mode must be one of offline, online.* Did you mean 'online'\?"),
        ("logger.wandb.figures=1", r"logger\.wandb\.figures must be true or false"),
        ("+logger.wandb.team=b", r"logger\.wandb\.team: no such option"),
        ("+logger.x._target_=torch.nn.ReLU", r"logger\.x\._target_ must name a logger, got torch\.nn\.ReLU"),
        ("+logger.x._target_=os.system", r"os\.system"),
    ],
)
def test_a_wrong_logger_is_an_error(run_config, services, override, message):
    with pytest.raises(UserError, match=message):
        run_config("a", *ONE_EPOCH, *ALL, override)


def test_configs_of_before_have_tensorboard_alone():
    config = compose_config()
    assert OmegaConf.to_container(config.logger) == TENSORBOARD
    del config.logger
    assert parse_config(config)[0].logger == TENSORBOARD
    assert parse_config(compose_config("logger=[]"))[0].logger == {}


def test_a_run_folder_does_not_say_where_a_run_is_shown(run_config, services):
    folder = run_config("a", *ONE_EPOCH, "logger=[tensorboard,wandb]")
    saved = extended_config(compose_config("train.epochs=2", f"train.extend={folder}"), ["train.epochs=2"])
    assert OmegaConf.to_container(saved.config.logger) == TENSORBOARD


def test_an_interrupted_session_has_not_ended_well(services):
    logger = WandbLogger("p", None, "offline", False)
    logger.run = services["wandb"]
    logger.close("interrupted")
    assert services["wandb"].ended == [1]
