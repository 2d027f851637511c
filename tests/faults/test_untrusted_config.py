"""Run folders of other people: whatever their config names, no code of theirs runs and no file is overwritten."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from commands import Command
from safetensors.torch import load_file, save_file

from runcard.config.compose import read_saved_config
from runcard.config.instantiate import build
from runcard.errors import UserError
from runcard.experiment import train
from runcard.fileio import sha256

FA3 = "torch.nn.attention._fa3._fa3_import_module"
# Each of them runs code or overwrites a file where it is built. MODULE lies in the stranger's folder.
HOSTILE = {
    "os.system": {"command": "touch {canary}"},
    "torch.utils.collect_env.run": {"command": "touch {canary}"},
    "torch.hub.load": {"repo_or_dir": "{folder}", "model": "x", "source": "local"},
    "torch.nn.functional.torch.hub.load": {"repo_or_dir": "{folder}", "model": "x", "source": "local"},
    "torch.nn.modules.module.torch.load": {"f": "{folder}/x", "weights_only": False},
    "torch.nn.functional.importlib.import_module": {"name": "{module}"},
    FA3: {"module_path": "{module}"},
    "torch.nn.attention._fa3.register_flash_attention_fa3": {"module_path": "{module}"},
    "torchvision.models._api.importlib.import_module": {"name": "{module}"},
    "torchvision.transforms.functional.os.system": {"command": "touch {canary}"},
    "albumentations.core.serialization.Path.touch": {"_args_": ["{canary}"]},
    "albumentations.save": {
        "transform": {"_target_": "albumentations.HorizontalFlip"},
        "filepath_or_buffer": "{canary}",
    },
    "runcard.models.pretrained.pickle.load": {"file": "{folder}/x"},
    "runcard.models.pretrained.published": {"url": "file://{folder}/x", "function": "x"},
    "runcard.fileio.write_text": {"path": "{canary}", "text": "x"},
    "joblib.load": {"filename": "{folder}/x"},
    "numpy.load": {"file": "{folder}/x", "allow_pickle": True},
    "pathlib.Path.touch": {"_args_": ["{canary}"]},
    "shutil.rmtree": {"path": "{folder}"},
    "outputs.stranger.evil": {},
    "torch.nn.Module.__class__": {"_args_": ["X", [], {}]},
    "torch.nn.Module.__base__.__subclasses__": {},
    "torch.nn.modules.module.register_module_forward_pre_hook": {"hook": {"_target_": "torch.nn.ReLU"}},
    "": {},
    "${oc.env:TARGET,os.system}": {"command": "touch {canary}"},
}
EVIL = "from pathlib import Path\nPath({canary!r}).write_text('code of the folder ran')\n"


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Make outputs/stranger with Python files in and beside it, which write tmp_path/canary; work in tmp_path."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "stranger"
    folder.mkdir(parents=True)
    for name in ("evil.py", "hubconf.py", "__init__.py", "pytorch_grad_cam.py"):
        (folder / name).write_text(EVIL.format(canary=str(tmp_path / "canary")))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield folder
    for name in [name for name in sys.modules if name.startswith("outputs")]:
        del sys.modules[name]
    assert not (tmp_path / "canary").exists()


def node(target: str, folder: Path) -> dict[str, object]:
    """Return the node of a hostile target, with the paths of this test."""
    text = json.dumps({"_target_": target, **HOSTILE[target]})
    places = {"canary": folder.parents[1] / "canary", "folder": folder, "module": "outputs.stranger.evil"}
    for name, place in places.items():
        text = text.replace(f"{{{name}}}", str(place))
    return json.loads(text)


def wrapped(inner: dict[str, object]) -> dict[str, dict[str, object]]:
    """Return nodes that are built only of what is trusted, but for one node within."""
    return {
        "as it is": inner,
        "_args_": {"_target_": "torch.nn.Sequential", "_args_": [inner]},
        "_partial_": {"_target_": "torch.nn.ModuleList", "modules": [{**inner, "_partial_": True}]},
        "nested": {"_target_": "torch.nn.Linear", "in_features": {"a": [{"b": inner}]}, "out_features": 1},
        "whitelist": {**inner, "_execution_whitelist_": ["*"]},
        "oc.create": {"_target_": "torch.nn.Sequential", "_args_": [f"${{oc.create:{json.dumps(json.dumps(inner))}}}"]},
    }


@pytest.mark.parametrize("target", HOSTILE)
def test_no_hostile_target_is_built(stranger, target):
    for how, hostile in wrapped(node(target, stranger)).items():
        with pytest.raises(UserError) as caught:
            build("model", hostile)
        assert "model" in str(caught.value), how
        assert len(str(caught.value).splitlines()) <= 4, how


def test_what_is_refused_is_named_with_how_to_trust_it_and_then_runs():
    with pytest.raises(UserError, match=r"--trust albumentations\.from_dict \(of runcard train: 'trust=\[albumen"):
        build("augmentation", {"_target_": "albumentations.from_dict", "transform_dict": {}})
    assert build("loss", {"_target_": "operator.neg", "_args_": [2]}, ["operator.neg"]) == -2
    with pytest.raises(UserError):
        build("loss", {"_target_": "operator.pos", "_args_": [2]}, ["operator.neg"])


def test_functions_that_build_models_are_trusted():
    model = build("model", {"_target_": "torchvision.models.squeezenet1_1", "num_classes": 2})
    assert type(model).__name__ == "SqueezeNet"


COMMANDS = (
    ["predict", "{run}", "images", "-o", "out"],
    ["explain", "{run}"],
    ["export", "{run}", "-o", "out.safetensors", "--format", "safetensors"],
    ["evaluate", "{run}"],
    ["audit", "--against", "{run}"],
    ["figures", "{run}"],
)


def forge(run: Path, key: str, value: object) -> Path:
    """Replace a value wherever the config of a run folder stands, and the checksums with it; return the folder."""
    record = json.loads((run / "run.json").read_text())
    weights, file = run / "checkpoints" / "best.safetensors", run / ".hydra" / "config.yaml"
    saved = yaml.safe_load(file.read_text())
    for config in (record["config"], saved):
        *above, name = key.split(".")
        for step in above:
            config = config[step]
        config[name] = value
    file.write_text(json.dumps(saved))
    save_file(load_file(weights), weights, metadata={"config": json.dumps(record["config"])})
    record["best_sha256"] = sha256(weights)  # who forges the one forges the other
    record["sha256"][".hydra/config.yaml"] = sha256(file)
    (run / "run.json").write_text(json.dumps(record))
    return run


@pytest.fixture
def hostile_run(stranger, trained_runs):
    """Return a function that makes the stranger's folder a run, and replaces a value wherever its config stands."""
    shutil.copytree(trained_runs / "classes", stranger, dirs_exist_ok=True)
    (stranger.parents[1] / "images").mkdir()
    shutil.copy(next((stranger / "previews").glob("*.png")), stranger.parents[1] / "images")

    return lambda key, value: forge(stranger, key, value)


def all_commands(runcard_command, run: Path, expected: str, but: tuple[str, ...] = ()) -> None:
    """Give every command and check that it refuses the run with a short message in which something stands."""
    for command in (each for each in COMMANDS if each[0] not in but):
        code, _, err = runcard_command(*(argument.format(run=run) for argument in command))
        assert (code, len(err.splitlines()) <= 4) == (2, True), (command, err)
        assert expected in err, (command, err)


NOT_OF_LOSS = ("predict", "explain", "export", "audit")


@pytest.mark.parametrize(("key", "but"), [("model", ("audit",)), ("dataset", ("predict",)), ("loss", NOT_OF_LOSS)])
@pytest.mark.parametrize("target", [FA3, "torch.utils.collect_env.run"])
def test_no_command_builds_it(runcard_command, hostile_run, key, but, target):
    run = hostile_run(f"{key}._target_", target)
    all_commands(runcard_command, run, target, but)


@pytest.mark.parametrize("key", ["model", "dataset", "loss", "metric.scores.accuracy", "optimizer"])
def test_verify_builds_nothing_of_it(runcard_command, hostile_run, key):
    run = hostile_run(f"{key}._target_", "os.system")
    for options in ([], ["--no-data"], ["--retrain", "1"]):
        code, _, err = runcard_command("verify", run, *options)
        assert (code, len(err.splitlines()) <= 4) == (2, True), err
        assert f"{key}._target_: os.system is not an object of a trusted package" in err


def test_dataset_node_with_all_its_arguments(runcard_command, hostile_run, stranger):
    run = hostile_run("model", node("albumentations.save", stranger))
    all_commands(runcard_command, run, "albumentations.save is not a class", ("audit",))


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "${oc.create:'{a: 1}'}", "a${oc.env:HOME}b", "${${a}:HOME}"])
def test_interpolations_of_a_folder_are_not_resolved(runcard_command, hostile_run, value):
    run = hostile_run("dataset.num_images", value)
    all_commands(runcard_command, run, "would be computed on this machine")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda config: config | {"hydra": {"searchpath": ["pkg://outputs.stranger"]}}, "has the key hydra"),
        (lambda config: config | {"defaults": ["evil", "_self_"]}, "has the key defaults"),
        (lambda config: config | {"name": "${oc.env:HOME}"}, "name is '${oc.env:HOME}'"),
        (lambda config: config | {"name": "${oc.env:RUNCARD_X,${oc.env:HOME}}"}, "would be computed"),
        (lambda config: config | {"train": "${.${oc.env:HOME}}"}, "would be computed"),
        (lambda config: "# @package hydra\n" + yaml.safe_dump(config), "@package"),
        (lambda config: yaml.safe_dump(config) + "\na: &a [x]\nb: [*a, *a]\n", "aliases"),
        (lambda config: [1], "has no dataset"),
        (lambda config: "5", "cannot be"),
        (lambda config: "a: " + 20_000 * "[", "cannot be read"),
        (lambda config: "\x00", "cannot be read"),
        (lambda config: "!!python/object/apply:os.system [touch canary]", "cannot be read"),
    ],
)
def test_saved_config_is_data(hostile_run, change, reason):
    run = hostile_run("seed", 0)
    file = run / ".hydra" / "config.yaml"
    changed = change(json.loads(file.read_text()))
    file.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(UserError, match="saved config cannot be used") as caught:
        read_saved_config(run, "train.extend")
    assert reason in str(caught.value)


def test_rerun_and_extend_refuse_it_before_hydra_reads_it(hostile_run, tmp_path):
    run = hostile_run("hydra", {"searchpath": ["pkg://outputs.stranger"]})
    again = ("run_dir=again", "hydra.run.dir=again", "hydra.output_subdir=null", "hydra/job_logging=disabled")
    for arguments in (("-cp", str(run / ".hydra"), "-cn", "config", *again), (f"train.extend={run}", "train.epochs=2")):
        done = Command("train.py", *arguments, folder=tmp_path).wait()
        assert done.returncode == 2, done.stderr
        assert "config.yaml has the key hydra" in done.stderr
        assert len(done.stderr.splitlines()) <= 4


def test_config_groups_beside_the_saved_config_are_refused(hostile_run):
    run = hostile_run("seed", 0)
    (run / ".hydra" / "hydra").mkdir()
    with pytest.raises(UserError, match="hydra does not belong to a run"):
        read_saved_config(run, "RUN")


def test_a_command_in_the_folder_imports_no_file_of_it(runcard_command, hostile_run, monkeypatch):
    run = hostile_run("seed", 0)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if Path(place or ".").resolve() != Path.cwd()])
    monkeypatch.chdir(run)
    for command in (["report", ".", "--output", "out"], ["card", "."], ["status", "."]):
        assert runcard_command(*command)[0] == 0
        assert str(run) not in sys.path


def test_training_in_a_folder_imports_no_module_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(sys, "path", [place for place in sys.path if Path(place or ".").resolve() != tmp_path])
    monkeypatch.setattr(train, "run_composed", lambda: None)
    for name in ("HYDRA_FULL_ERROR", "CUBLAS_WORKSPACE_CONFIG"):  # which it sets
        monkeypatch.setenv(name, "1")
    train.main()
    assert str(tmp_path) not in sys.path
