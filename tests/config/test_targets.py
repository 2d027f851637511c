"""What a config may name: objects of the libraries, and of packages that the user trusts; nothing else is run."""

from __future__ import annotations

import json

import pytest
from conftest import TINY, build_setup, compose_config
from typer.testing import CliRunner

from runcard.cli import app
from runcard.config.instantiate import build
from runcard.config.schema import check_targets, parse_config
from runcard.errors import UserError

# Each of them runs code, or writes a file, when a config of a run folder is instantiated.
HOSTILE = ["os.system", "torch.utils.collect_env.run", "torch.hub.load", "torch.load", "torch.save", "joblib.load"]
HOSTILE += ["numpy.load", "pathlib.Path.touch", "shutil.copyfile", "runcard.fileio.write_text", "builtins.eval"]


@pytest.mark.parametrize("target", HOSTILE)
def test_untrusted_target_is_refused_at_any_depth(target):
    config = {"model": {"_target_": "runcard.models.unet.UNet", "parts": [{"a": {"_target_": target}}]}}
    with pytest.raises(UserError) as caught:
        check_targets(config, [])
    assert str(caught.value).startswith(f"model.parts[0].a._target_: {target} is not an object of a trusted package.")
    assert f"trust=[{target.partition('.')[0]}]" in str(caught.value)


def test_interpolated_target_is_refused():
    with pytest.raises(UserError, match="_target_"):
        check_targets({"_target_": "${oc.env:TARGET}"}, [])


def test_trust_covers_that_package_alone():
    check_targets({"_target_": "mine.Model"}, ["mine"])
    with pytest.raises(UserError):
        check_targets({"_target_": "mine_too.Model"}, ["mine"])


@pytest.mark.parametrize("names", ["mine", ["os.system()"], [""], 3])
def test_trust_is_a_list_of_packages(names):
    config = compose_config()
    config.trust = names
    with pytest.raises(UserError, match=r"^trust(\.0)? must be (a list|the name of a package), got"):
        parse_config(config)


def test_run_with_an_untrusted_target_does_not_start():
    with pytest.raises(UserError, match=r"loss._target_: pathlib.Path.touch is not an object of a trusted package"):
        build_setup(compose_config(*TINY, "loss._target_=pathlib.Path.touch"))


@pytest.mark.parametrize("target", ["torch.nn.functional.torch.load", "runcard.losses.dice.torch.hub.load"])
def test_object_behind_a_trusted_name_must_be_trusted_too(target):
    with pytest.raises(UserError, match=f"{target} is not a class"):
        build("loss", {"_target_": target, "f": "x", "repo_or_dir": "x", "model": "x"})


def test_hostile_run_folder_runs_no_code(run_config, tmp_path):
    """explain reads the config in the header of the weights, audit --against the one in run.json."""
    from safetensors.torch import load_file, save_file

    bone = [o for o in TINY if not o.startswith("model.")]
    run = run_config("a", *bone, "dataset=phantom_bone", "model=vgg16", "model.base=2", "loss=bce", "train.epochs=1")
    proof, path = tmp_path / "proof", run / "checkpoints" / "best.safetensors"
    hostile = {"_target_": "torch.utils.collect_env.run", "command": f"touch {proof}"}
    config = json.loads((run / "run.json").read_text())
    config["config"]["model"] = config["config"]["dataset"] = hostile
    (run / "run.json").write_text(json.dumps(config))
    save_file(load_file(path), path, metadata={"config": json.dumps(config["config"])})
    for command in (["explain", str(run)], ["audit", "--against", str(run)]):
        result = CliRunner().invoke(app, command)
        assert isinstance(result.exception, UserError), command
        assert "--trust torch" in str(result.exception)
    assert not proof.exists()
