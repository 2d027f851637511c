"""Starting from the weights of another run, and freezing layers: what is taken, what stays, and what is refused."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import TINY, blank_figures, build_setup, compose_config
from evidence import numbers, run_json
from safetensors.torch import save_file
from torch import nn

from runcard.errors import UserError
from runcard.experiment.run import run
from runcard.fileio import sha256
from runcard.training.checkpoint import Checkpoint, read_weights
from runcard.training.loop import train_mode
from runcard.training.transfer import freeze, load_initial_weights

SIDES = ("dataset.sides=true", "dataset.positive=null")  # three classes, and so three logits instead of one


def state(*overrides: str) -> dict[str, torch.Tensor]:
    return build_setup(compose_config(*TINY, *overrides)).model.state_dict()


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)), nn.Conv2d(2, 1, 1))


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """The folder of a run of one epoch."""
    folder = tmp_path_factory.mktemp("origin")
    with pytest.MonkeyPatch.context() as patch, blank_figures():
        patch.chdir(folder)
        run(compose_config(*TINY, "train.epochs=1"), folder / "a", [], choices={})
    return folder / "a"


def weights_of(folder):
    return read_weights(folder / "checkpoints" / "best.safetensors")[0]


def test_a_model_starts_from_the_best_epoch_of_a_run(origin):
    trained, started = weights_of(origin), state(f"train.init_from={origin}", "seed=1")
    assert trained.keys() == started.keys()
    assert all(torch.equal(started[name], trained[name]) for name in trained)
    assert not torch.equal(state("seed=1")["head.weight"], trained["head.weight"])


def test_a_file_of_weights_alone_serves_as_well(origin, tmp_path):
    save_file(weights_of(origin), tmp_path / "exported.safetensors")
    setup = build_setup(compose_config(*TINY, f"train.init_from={tmp_path / 'exported.safetensors'}"))
    assert torch.equal(setup.model.state_dict()["head.weight"], weights_of(origin)["head.weight"])
    assert setup.config["init_sha256"] == sha256(tmp_path / "exported.safetensors")


def test_layers_that_do_not_fit_are_left_out_as_the_message_says(origin):
    start = (*SIDES, f"train.init_from={origin}")
    with pytest.raises(UserError) as raised:
        state(*start)
    first, keys, shapes = str(raised.value).splitlines()
    assert keys == "config: model.out_channels (1 there, 3 here)"
    assert first == (
        f"train.init_from: {origin}/checkpoints/best.safetensors does not fit the model. To leave these layers out of "
        "it: 'train.init_without=[head]'"
    )
    assert shapes == "of another shape: head.weight (1×4×1×1 there, 3×4×1×1 here), head.bias (1 there, 3 here)"
    started, fresh = state(*start, "train.init_without=[head]"), state(*SIDES)
    for name, trained in weights_of(origin).items():
        assert torch.equal(started[name], fresh[name] if name.startswith("head.") else trained)


def test_tensors_that_do_not_fit_are_named(tmp_path):
    model, other = layers(), layers()
    other[0][1] = nn.Identity()
    other.add_module("2", nn.Linear(1, 1))
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(UserError) as raised:
        load_initial_weights(model, tmp_path / "other.safetensors")
    first, absent, unknown = str(raised.value).splitlines()
    assert first.endswith("'train.init_without=[0.1,2]'")
    assert absent == "not in the file: 0.1.weight, 0.1.bias, 0.1.running_mean and 2 more"
    assert unknown == "not in the model: 2.bias, 2.weight"
    load_initial_weights(model, tmp_path / "other.safetensors", ["0.1", "2"])


def test_another_width_is_reported_by_its_key_and_three_tensors(origin):
    with pytest.raises(UserError) as raised:
        state("model.base=8", f"train.init_from={origin}")
    first, keys, shapes = str(raised.value).splitlines()
    assert first.endswith("layers differ. Give the model the same keys, or leave layers out: train.init_without")
    assert keys == "config: model.base (4 there, 8 here)"
    assert shapes.count(" there, ") == 3
    assert re.search(r" and \d+ more$", shapes)


def test_a_mistake_is_reported_before_the_data_are_decoded(origin, tmp_path, monkeypatch):
    monkeypatch.setattr("runcard.experiment.session.decode", lambda *_: pytest.fail("the data were decoded"))
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    (tmp_path / "pickled.pth").write_bytes(b"")

    def said(*overrides: str) -> str:
        with pytest.raises(UserError) as raised:
            state(*overrides)
        return str(raised.value)

    assert said("train.init_from=nowhere") == (
        "train.init_from: nowhere: no such file. Name a run folder, or a file of weights in that format."
    )
    assert said(f"train.init_from={origin.parent}").endswith(
        f": no such file. Name one of the runs below it: {origin}."
    )
    assert said("train.freeze=encoder") == "train.freeze must be a list, got 'encoder'. Write [encoder]."
    assert "pickled.pth: not a .safetensors file" in said(f"train.init_from={tmp_path / 'pickled.pth'}")
    assert "damaged.safetensors: weights cannot be read" in said(f"train.init_from={tmp_path / 'damaged.safetensors'}")
    assert "no tensor of it fits the model" in said(
        f"train.init_from={origin}", "dataset=phantom_bone", "model=vgg16", "model.base=2"
    )
    assert said(f"train.init_from={origin}", "train.init_without=[heat.*]") == (
        "train.init_without: no layer is named heat.*. Did you mean 'head'? The model's layers: encoder, bottleneck, "
        "upsample, decoder, head."
    )
    assert said("train.init_without=[head]") == ("train.init_without names layers of train.init_from, which is null.")
    assert said("train.freeze=[encodr]").startswith("train.freeze: no layer is named encodr. Did you mean 'encoder'?")
    assert said("train.freeze=['*']") == "train.freeze=[*]: nothing is left to train. Leave a layer out."


def test_interrupted_and_extended_runs_go_on_from_their_own_weights(origin, run_config, monkeypatch, tmp_path, capsys):
    start = (*TINY, "train.pictures=0", f"train.init_from={origin}")
    whole = run_config("whole", *start)
    assert run_json(whole)["config"]["init_sha256"] == sha256(origin / "checkpoints" / "best.safetensors")
    save = Checkpoint.save

    def save_once(self, state):
        save(self, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", save_once)
    with pytest.raises(KeyboardInterrupt):
        run_config("interrupted", *start)
    monkeypatch.setattr(Checkpoint, "save", save)
    assert numbers(run_config("interrupted", *start)) == numbers(whole)
    assert "going on after epoch 1, with its weights and not those of train.init_from" in capsys.readouterr().out

    short = run_config("short", *start, "train.epochs=1")
    assert numbers(run_config("long", *start, f"train.extend={short}")) == numbers(whole)
    with pytest.raises(UserError, match=r"only train.epochs may differ from .*, not init_sha256 .* train.init_from"):
        run_config("other", *TINY, f"train.extend={short}")


def test_other_weights_under_the_same_path_are_another_run(origin, run_config, tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file(weights_of(origin), file)
    start = (*TINY, "train.epochs=1", "train.pictures=0", f"train.init_from={file}")
    folder = run_config("run", *start)
    assert run_config("run", *start) == folder, "completed before"
    save_file({name: 2 * tensor for name, tensor in weights_of(origin).items()}, file)
    with pytest.raises(UserError, match=r"holds another run, which differs in init_sha256"):
        run_config("run", *start)


def test_the_initial_weights_are_hashed_once(origin, run_config, monkeypatch):
    hashed = []
    for module in ("runcard.experiment.run", "runcard.experiment.setup"):
        monkeypatch.setattr(f"{module}.sha256", lambda path: hashed.append(path) or sha256(path))
    run_config("run", *TINY, "train.epochs=1", "train.pictures=0", f"train.init_from={origin}")
    assert len(hashed) == 1


def test_frozen_layers_neither_move_nor_drop_and_the_rest_trains(run_config):
    frozen = ("train.freeze=[encoder.*,bottleneck]", "model.batchnorm=true", "train.pictures=0")
    folder = run_config("run", *TINY, *frozen)
    before, after = state(*frozen), weights_of(folder)
    parameters = {name for name in before if name.endswith(("weight", "bias"))}
    still = {name for name in before if torch.equal(before[name], after[name])}
    ours = {name for name in before if name.startswith(("encoder.", "bottleneck."))}
    assert still & ours == ours, "weights and batch statistics"
    assert not still & (parameters - ours)
    counts = {name: before[name].numel() for name in parameters}
    metadata = run_json(folder)
    assert metadata["num_parameters"] == sum(counts.values())
    assert metadata["num_trained_parameters"] == sum(count for name, count in counts.items() if name not in ours)


@pytest.mark.parametrize("pattern", ["0", "0.*", "0.?.*"])
def test_a_module_its_layers_and_its_parameters_can_be_named(pattern):
    model = layers()
    freeze(model, [pattern])
    assert [p.requires_grad for p in model.parameters()] == [False] * 4 + [True] * 2
    train_mode(model)
    assert not any(module.training for module in model[0].modules())
    assert model[1].training


def test_a_module_with_one_trained_parameter_is_in_training_mode():
    model = layers()
    freeze(model, ["0.0", "0.1.weight"])
    train_mode(model)
    assert [module.training for module in model[0]] == [False, True, True]
