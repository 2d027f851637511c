"""The summary of a built model: layers, shapes, ignored keys of the config."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import ROOT
from torch import Tensor, nn

from runcard.config.instantiate import build
from runcard.experiment.model_summary import summarize_model
from runcard.models.unet import UNet

DERIVED = {"in_channels": 1, "out_channels": 1, "image_size_px": 32}


class Refuses(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError


def test_an_output_that_cannot_be_made_is_unknown():
    reported = summarize_model(Refuses(), (1, 8, 8), {})
    assert reported.output_shape is None
    assert reported.rows()[1][1].endswith("(1, 8, 8) → unknown")


def test_the_model_is_left_as_it_was():
    model = UNet(1, 1, base=2, depth=2, dropout=0.5, batchnorm=True)
    model(torch.rand(2, 1, 16, 16))  # running statistics that a pass could move
    model.bottleneck.eval()  # a frozen part
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    summarize_model(model, (1, 16, 16), {})
    assert {False, True} == set(modes)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    model(torch.rand(2, 1, 16, 16)).sum().backward()


def test_words_and_facts():
    model = UNet(1, 3, base=4, depth=2, dropout=0.25, batchnorm=True)
    model.encoder.requires_grad_(False)
    config = {
        "_target_": "library.UNet",
        "dropout": 0.25,
        "dropout_at": ["pool", "concat"],
        "weights": None,
        "act": {"inplace": True},
    }
    reported = summarize_model(model, (1, 64, 64), config)
    assert reported.rows() == [
        ["config", "UNet: dropout 0.25, dropout_at [pool, concat], weights null, act.inplace true"],
        [
            "built",
            "convolution ×11, BatchNorm2d ×10, transposed convolution ×2, dropout 0.25 ×2 · "
            f"{reported.num_parameters:,} parameters, {reported.num_trained:,} trained · "
            "(1, 64, 64) → (3, 64, 64)",
        ],
    ]
    assert json.loads(json.dumps(reported.metadata())) == reported.metadata()
    assert reported.metadata()["layers"]["dropout 0.25"] == 2
    assert (
        reported.num_trained == sum(p.numel() for p in model.parameters() if p.requires_grad) < reported.num_parameters
    )


def test_what_is_absent_is_told():
    layers = nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Dropout(0.0), nn.MultiheadAttention(4, 2))
    built = summarize_model(layers, (1, 4, 4), {}).rows()[1][1]
    assert built.startswith("dense layer ×2, PReLU ×1, MultiheadAttention ×1, no normalization layer, no dropout · ")


class Functional(nn.Module):
    """Dropout and batch norm without a layer."""

    def forward(self, images: Tensor) -> Tensor:
        images = F.dropout2d(images, 0.2, self.training)
        return F.batch_norm(images, torch.zeros(1), torch.ones(1), training=self.training)


def test_dropout_without_a_layer_is_told():
    assert summarize_model(Functional(), (1, 4, 4), {}).layers == {"normalization layer": 0, "dropout 0.2": 1}


def conf_models() -> list[tuple[str, dict[str, Any]]]:
    """Returns the models of conf/model with the choices that mismatches are about."""
    unet = [
        {"dropout": p, "dropout_at": at, "batchnorm": norm, "base": 1}
        for p, at, norm in itertools.product((0.0, 0.3), (["pool"], ["bottleneck", "concat"]), (True, False))
    ]
    vgg16 = [{"dropout": p, "batchnorm": norm, "base": 1} for p, norm in itertools.product((0, 0.4), (True, False))]
    vgg16 += [{"dropout": 0.0, "head": [], "base": 1}]
    pretrained = [
        {"weights": "random", "freeze": freeze, "dropout": p} for freeze, p in (("none", 0.0), ("features", 0.5))
    ]
    choices = {"unet": unet, "vgg16": vgg16, "vgg16_pretrained": pretrained}
    return [(name, changed) for name, some in choices.items() for changed in some]


@pytest.mark.parametrize(("name", "changed"), conf_models())
def test_our_own_models_pass_on_what_they_are_given(name, changed):
    config = yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text())
    config |= {key: value for key, value in DERIVED.items() if key in config} | changed
    with torch.device("meta"):  # layers without memory
        model = build("model", config)
    assert summarize_model(model, (1, 32, 32), config).mismatches == []


DROPOUT, NORM = nn.Dropout(0.5), nn.BatchNorm2d(1)
NO_RATE = "no dropout of that rate was built"
NO_NORM = "no batch norm was built"
CONFIGS = [
    (nn.ReLU(), {"dropout": 0.5}, f"model.dropout=0.5: {NO_RATE}"),
    (DROPOUT, {"decoder": {"dropout_rate": 0.2}}, f"model.decoder.dropout_rate=0.2: {NO_RATE}"),
    (DROPOUT, {"dropouts": [0.5, 0.1]}, f"model.dropouts=[0.5, 0.1]: {NO_RATE}"),
    (DROPOUT, {"dropout": 0.5, "attention_dropout": 0.0, "dropout_dim": 1, "dropout_at": ["pool"]}, None),
    (nn.MultiheadAttention(4, 2, dropout=0.1), {"attention_dropout": 0.1}, None),
    (nn.ReLU(), {"use_batch_norm": True}, f"model.use_batch_norm=true: {NO_NORM}"),
    (nn.InstanceNorm2d(1), {"decoder": {"bn": True}}, f"model.decoder.bn=true: {NO_NORM}"),
    (NORM, {"BatchNorm": False}, "model.BatchNorm=false: batch norm was built all the same"),
    (NORM, {"decoder": {"batchnorm": False}, "bn_momentum": 0.1, "freeze_batchnorm": False}, None),
    (nn.ReLU(), {"batchnorm": False, "dropout": 0.0}, None),
    (Functional(), {"dropout": 0.2, "batchnorm": True}, None),
    (Functional(), {"dropout": 0.3}, f"model.dropout=0.3: {NO_RATE}"),
]


@pytest.mark.parametrize(("model", "config", "sentence"), CONFIGS)
def test_knobs_that_the_built_model_contradicts(model, config, sentence):
    assert summarize_model(model, (1, 8, 8), config).mismatches == ([sentence] if sentence else [])
