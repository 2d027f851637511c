"""metrics.csv and TensorBoard say the same; and TensorBoard's own HPARAMS backend loses no run, key or metric."""

from __future__ import annotations

import math
import re
import struct
import threading
from pathlib import Path

import pytest
from conftest import TINY, blank_figures, compose_config
from evidence import run_json
from google.protobuf import json_format
from tensorboard.backend.event_processing import data_provider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalars
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_metric_evals, list_session_groups
from tensorboard.plugins.pr_curve import metadata as pr_curves
from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin
from tensorboard.summary.writer.event_file_writer import _AsyncWriter
from tensorboard.summary.writer.record_writer import RecordWriter

from runcard.compare.confounds import group_arms
from runcard.experiment.run import run
from runcard.fileio import csv_text, write_csv
from runcard.loggers.arms import write_log_folder
from runcard.loggers.tensorboard import _report, tag_of
from runcard.runs.folders import read_metrics, run_folders
from runcard.runs.reader import find_runs

CONFIG = (*TINY, "train.epochs=3", "train.pictures=2", "model.dropout=0.1")
# Three runs that differ in their keys; clip_grad_norm is null in one, a number in the others.
RUNS = {
    "unet": (*TINY, "train.epochs=1", "train.pictures=0", "model.dropout_at=[concat]"),
    "vgg16": (
        *(o for o in TINY if not o.startswith("model.")),
        *("dataset=phantom_bone", "model=vgg16", "loss=bce", "model.base=2", "model.head=[8,4]", "train.epochs=1"),
        *("train.pictures=0", "train.clip_grad_norm=1.5"),
    ),
    "plateau": (*TINY, "train.epochs=1", "train.pictures=0", "scheduler=plateau", "train.clip_grad_norm=2"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A completed run of three epochs with two prediction figures."""
    folder = tmp_path_factory.mktemp("tracking") / "a"
    run(compose_config(*CONFIG), folder, CONFIG, choices={"model": "unet"})
    return folder


@pytest.fixture(scope="module")
def events(folder):
    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0}).Reload()


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e-300, -0.0, 1 / 3, 123456789.123456789, math.inf, 5e-324])
def test_csv_keeps_every_bit(tmp_path, value):
    path = tmp_path / "metrics.csv"
    rows = [{"epoch": 1, "step": 10**12, "val/dice": value}]
    write_csv(path, rows)
    read = read_metrics(path)
    assert read == rows
    assert struct.pack("d", read[0]["val/dice"]) == struct.pack("d", value)
    assert isinstance(read[0]["step"], int)


def test_csv_keeps_nan_and_absence(tmp_path):
    path = tmp_path / "metrics.csv"
    assert read_metrics(path) == []
    write_csv(path, [{"epoch": 1, "step": 1, "val/auroc": math.nan}, {"epoch": 2, "step": 2, "val/auroc": 1.0}])
    assert math.isnan(read_metrics(path)[0]["val/auroc"])


def test_csv_is_the_record(folder):
    rows = read_metrics(folder / "metrics.csv")
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 4), (2, 8), (3, 12)]
    names = ["dice", "dice_pooled", "iou", "sensitivity", "specificity", "precision", "pixel_accuracy"]
    shared = ["loss", "bce", "soft_dice_loss"]
    expected = {f"{part}/{name}" for part in ("train_eval", "val") for name in names + shared}
    expected |= {"epoch", "step", "lr", "train/loss", "grad_norm", "seconds", "images_per_second"}
    assert set(rows[0]) == expected, "the scores of conf/metric/masks.yaml, and what every run has"
    assert (folder / "metrics.csv").read_text() == csv_text(list(rows[0]), [row.values() for row in rows]), (
        "what is read is what was written"
    )
    assert rows[-1]["val/dice"] == run_json(folder)["last"]["values"]["val/dice"]


def test_tensorboard_shows_the_csv(folder, events):
    rows = read_metrics(folder / "metrics.csv")
    assert set(events.Tags()["scalars"]) == {tag_of(name) for name in set(rows[0]) - {"epoch"}}
    for name in set(rows[0]) - {"epoch"}:
        shown = [(event.step, event.value) for event in events.Scalars(tag_of(name))]
        single = [struct.unpack("f", struct.pack("f", row[name]))[0] for row in rows]  # TensorBoard keeps 32 bits
        assert shown == list(zip((1, 2, 3), single, strict=True)), name


def test_system_scalars_come_last(events):
    groups = sorted({tag.partition("/")[0] for tag in events.Tags()["scalars"]})
    assert groups == ["train", "train_eval", "val", "z_system"]
    system = {tag for tag in events.Tags()["scalars"] if tag.startswith("z_system/")}
    assert system == {f"z_system/{name}" for name in ("step", "lr", "grad_norm", "seconds", "images_per_second")}


def plugin_tags(events, plugin):
    return events.PluginTagToContent(plugin)


def test_the_monitored_metric_is_charted_beside_the_loss(events):
    (event,) = events.Tensors(custom_scalars.CONFIG_SUMMARY_TAG)
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    (category,) = layout.category
    scalars = events.Tags()["scalars"]
    lines = {c.title: [tag for regex in c.multiline.tag for tag in matched(regex, scalars)] for c in category.chart}
    assert lines == {"loss": ["train/loss", "train_eval/loss", "val/loss"], "dice": ["train_eval/dice", "val/dice"]}


def matched(regex, tags):
    """As TensorBoard matches: val/dice alone would match val/dice_pooled too."""
    return [tag for tag in tags if re.match(regex, tag)]


def test_prediction_figures(events):
    steps = {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
    assert steps == {"train/first_batch": [0], "val/predictions": [1, 3], "val/confusion": [3]}
    for tag in steps:
        image = events.Images(tag)[-1]
        assert image.encoded_image_string.startswith(b"\x89PNG")
        assert min(image.width, image.height) > 50


def test_the_config_is_shown(events):
    (event,) = events.Tensors("config/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert text.startswith("```yaml")
    assert "base: 4" in text


def test_precision_recall_curve(events):
    assert list(plugin_tags(events, pr_curves.PLUGIN_NAME)) == ["val/lung"]
    (event,) = events.Tensors("val/lung")
    assert event.step == 3
    data = event.tensor_proto
    assert [dim.size for dim in data.tensor_shape.dim] == [6, 127]
    true_positives, false_positives = data.float_val[:127], data.float_val[127:254]
    assert true_positives[0] + false_positives[0] == 4 * 32 * 32, "at threshold 0 every pixel of validation is positive"


class Backend:
    """TensorBoard's own HPARAMS backend over a log directory, in process."""

    def __init__(self, logdir):
        multiplexer = EventMultiplexer(tensor_size_guidance={"scalars": 0, "hparams": 0, "tensors": 0})
        multiplexer.AddRunsFromDirectory(str(logdir)).Reload()
        context = base_plugin.TBContext(
            logdir=str(logdir),
            multiplexer=multiplexer,
            data_provider=data_provider.MultiplexerDataProvider(multiplexer, str(logdir)),
        )
        self.request, self.context = RequestContext(), backend_context.Context(context)
        self.scalars = ScalarsPlugin(context)

    def experiment(self):
        return get_experiment.Handler(self.request, self.context, "", api_pb2.GetExperimentRequest()).run()

    def sessions(self):
        """Return {run: session}; every run is a group of its own."""
        states = [api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_RUNNING]
        columns = [
            *(api_pb2.ColParams(hparam=info.name) for info in self.experiment().hparam_infos),
            *(api_pb2.ColParams(metric=info.name) for info in self.experiment().metric_infos),
        ]
        query = api_pb2.ListSessionGroupsRequest(
            allowed_statuses=states, col_params=columns, start_index=0, slice_size=100, include_metrics=True
        )
        groups = list_session_groups.Handler(self.request, self.context, "", query).run().session_groups
        return {session.name: (group, session) for group in groups for session in group.sessions}

    def metric(self, session, tag):
        query = api_pb2.ListMetricEvalsRequest(session_name=session, metric_name=api_pb2.MetricName(tag=tag, group=""))
        return list_metric_evals.Handler(self.request, query, self.scalars, "").run()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A log directory of three runs that differ in model, data, and keys."""
    logdir = tmp_path_factory.mktemp("hparams")
    with blank_figures():
        for name, overrides in RUNS.items():
            names = ("vgg16", "phantom_bone", "bce") if name == "vgg16" else ("unet", "phantom_chest", "dice")
            choices = dict(zip(("model", "dataset", "loss"), names, strict=True))
            run(compose_config(*overrides), logdir / name, overrides, choices)
    return logdir


@pytest.fixture(scope="module")
def backend(runs):
    return Backend(runs)


def test_hparams_lose_no_run(backend):
    assert backend.sessions().keys() == RUNS.keys()
    assert {session.status for _, session in backend.sessions().values()} == {api_pb2.STATUS_SUCCESS}


# run, key, value; None: the run has no such key
VALUES = [
    ("unet", "model.base", 4),
    ("unet", "model.dropout_at", "['concat']"),
    ("unet", "model.depth", 4),
    ("unet", "model.head", None),
    ("unet", "train.clip_grad_norm", "None"),
    ("unet", "model.batchnorm", True),
    ("vgg16", "model.head", "[8, 4]"),
    ("vgg16", "model.depth", None),
    ("vgg16", "model", "vgg16"),
    ("vgg16", "dataset.imbalance", 0.5),
    ("vgg16", "train.clip_grad_norm", 1.5),
    ("plateau", "scheduler.rule.factor", 0.1),
    ("plateau", "scheduler.monitor", "val/loss"),
    ("plateau", "train.clip_grad_norm", 2),
    ("plateau", "optimizer.betas", "[0.9, 0.999]"),
]


@pytest.mark.parametrize(("name", "key", "value"), VALUES)
def test_hparams_lose_no_value(backend, name, key, value):
    assert key in {info.name for info in backend.experiment().hparam_infos}
    group, _ = backend.sessions()[name]
    found = {key: json_format.MessageToDict(value) for key, value in group.hparams.items()}
    assert found.get(key) == value


def test_hparams_have_every_key_of_every_config(backend, runs):
    from runcard.config.diff import NON_FUNCTIONAL_KEYS, flatten

    offered = {info.name for info in backend.experiment().hparam_infos}
    for name in RUNS:
        keys = {key for key in flatten(run_json(runs / name)["config"]) if key.split(".")[0] not in NON_FUNCTIONAL_KEYS}
        keys = {key for key in keys if not key.endswith("_target_")}  # the chosen file stands for the class
        assert len(keys) > 30
        assert keys <= offered
        assert keys <= set(backend.sessions()[name][0].hparams)
    assert not [name for name in offered if "_target_" in name]


def test_hparams_lose_no_metric(backend, runs):
    offered = {info.name.tag for info in backend.experiment().metric_infos}
    for name in RUNS:
        (row,) = read_metrics(runs / name / "metrics.csv")
        shown = {tag_of(key): value for key, value in row.items() if key != "epoch"}
        assert shown.keys() <= offered
        _, session = backend.sessions()[name]
        values = {value.name.tag: value.value for value in session.metric_values}
        assert values == {tag: pytest.approx(value, rel=1e-6, nan_ok=True) for tag, value in shown.items()}
        ((_, step, value),) = backend.metric(name, "val/loss")
        assert (step, value) == (1, pytest.approx(row["val/loss"], rel=1e-6))


@pytest.fixture(scope="module")
def of_arms(runs, tmp_path_factory):
    """The HPARAMS backend over the log folder that `runcard tensorboard` makes of the same runs."""
    logdir = tmp_path_factory.mktemp("arms") / "log"
    arms, _ = group_arms(find_runs([str(runs)]).runs)
    assert write_log_folder(logdir, arms, run_folders(runs)) == len(RUNS)
    return Backend(logdir)


def test_hparams_of_arms_show_what_varies_first(of_arms, backend):
    columns = of_arms.experiment().hparam_infos
    assert [(info.name, info.differs) for info in columns] == [
        (info.name, info.differs) for info in backend.experiment().hparam_infos
    ], "as TensorBoard sorts them itself"
    assert [info.differs for info in columns] == sorted((info.differs for info in columns), reverse=True)
    varying = {info.name for info in columns if info.differs}
    assert {"model", "loss", "dataset", "train.clip_grad_norm"} <= varying
    assert not {"train.epochs", "seed"} & varying
    assert {info.name: info.type for info in columns} == {i.name: i.type for i in backend.experiment().hparam_infos}


def test_hparams_of_arms_have_the_monitored_metrics_alone(of_arms, runs):
    assert [info.name.tag for info in of_arms.experiment().metric_infos] == ["val/dice", "val/accuracy"]
    sessions = {session.name.partition("/")[0]: session for _, session in of_arms.sessions().values()}
    assert sessions.keys() == {"runs"}, "arms are no trials"
    by_last_value = {round(value.value, 5) for _, s in of_arms.sessions().values() for value in s.metric_values}
    rows = [read_metrics(runs / name / "metrics.csv")[-1] for name in RUNS]
    assert by_last_value == {round(row.get("val/dice", row.get("val/accuracy")), 5) for row in rows}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's, and answers as a full disk does")
def test_a_full_disk_is_raised_and_not_printed_by_the_writers_thread(capfd, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", _report)
    with Path("/dev/full").open("wb", buffering=0) as full:
        writer = _AsyncWriter(RecordWriter(full))
        writer._byte_queue.put(b"x")
        writer._worker.join()
        with pytest.raises(OSError, match="No space left"):
            writer.flush()
    assert capfd.readouterr().err == ""
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    assert "ZeroDivisionError" in capfd.readouterr().err, "any other error of a thread is shown"
