"""Objects of other libraries, by YAML alone: each is instantiated and trained for an epoch."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch
import torchvision
from conftest import TINY

from runcard.errors import UserError

TINY_MASKS = [override for override in TINY if not override.startswith("model.")] + ["train.epochs=1", "loss=dice"]
TINY_CLASSES = [*TINY_MASKS, "dataset=phantom_bone", "loss=cross_entropy", "train.explain_images=0"]


def node(group: str, **values: object) -> list[str]:
    """Return the overrides that put these keys in place of a group's; $ stands for derived."""
    dotted = [f"+{group}.{key}={value}" for key, value in values.items()]
    return [f"~{group}", *dotted]


RESNET = node("model", _target_="torchvision.models.resnet18", num_classes="${derived.out_channels}")


@pytest.mark.parametrize(
    "overrides",
    [
        [*TINY_CLASSES, *RESNET, "dataset.channels=3"],
        [*TINY_MASKS, "model.base=2", *node("loss", _target_="torch.nn.CrossEntropyLoss")],
        [
            *(*TINY_MASKS, "model.base=2"),
            *node("loss", _target_="runcard.losses.library.LibraryLoss", targets="float", two_class_logits=1),
            "+loss.loss._target_=torch.nn.BCEWithLogitsLoss",
        ],
        [*TINY_MASKS, "model.base=2", *node("optimizer", _target_="torch.optim.RAdam", _partial_="true", lr=1e-3)],
        [
            *(*TINY_MASKS, "model.base=2"),
            *node("augmentation", _target_="runcard.transforms.TorchvisionTransform"),
            "+augmentation.transforms.flip._target_=torchvision.transforms.v2.RandomHorizontalFlip",
            "+augmentation.transforms.turn._target_=torchvision.transforms.v2.RandomRotation",
            "+augmentation.transforms.turn.degrees=10",
        ],
    ],
    ids=["torchvision model", "torch loss", "torch loss of floats", "torch optimizer", "torchvision transforms"],
)
def test_objects_of_torch_and_torchvision(run_config, overrides):
    assert (run_config("a", *overrides) / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("package", "overrides"),
    [
        (
            "segmentation_models_pytorch",
            [
                *TINY_MASKS,
                *node(
                    "model",
                    _target_="segmentation_models_pytorch.Unet",
                    encoder_name="resnet18",
                    encoder_weights="null",
                    in_channels="${derived.in_channels}",
                    classes="${derived.out_channels}",
                ),
            ],
        ),
        (
            "segmentation_models_pytorch",
            [
                *(*TINY_MASKS, "model.base=2"),
                *node("loss", _target_="segmentation_models_pytorch.losses.FocalLoss", mode="multiclass"),
            ],
        ),
        (
            "timm",
            [
                *TINY_CLASSES,
                *node(
                    "model",
                    _target_="timm.create_model",
                    model_name="vit_tiny_patch16_224",
                    img_size="${derived.image_size_px}",
                    in_chans="${derived.in_channels}",
                    num_classes="${derived.out_channels}",
                ),
            ],
        ),
        (
            "monai",
            [
                *TINY_MASKS,
                *node(
                    "model",
                    _target_="monai.networks.nets.UNet",
                    spatial_dims=2,
                    in_channels="${derived.in_channels}",
                    out_channels="${derived.out_channels}",
                    channels="[4,8]",
                    strides="[2]",
                ),
            ],
        ),
        (
            "monai",
            [
                *(*TINY_MASKS, "model.base=2"),
                *node("loss", _target_="runcard.losses.library.LibraryLoss", targets="channel"),
                *("+loss.loss._target_=monai.losses.DiceCELoss", "+loss.loss.to_onehot_y=true"),
                "+loss.loss.softmax=true",
            ],
        ),
    ],
    ids=["smp model", "smp loss", "timm vit", "monai model", "monai loss"],
)
def test_objects_of_optional_libraries(run_config, package, overrides):
    pytest.importorskip(package, reason="an extra: pip install -e .[zoo]")
    assert (run_config("a", *overrides, f"trust=[{package}]") / "metrics.csv").exists()


def test_layer_behind_pretrained_weights(run_config, monkeypatch, tmp_path):
    """The file in torch's cache has random values: torchvision checks a file's hash only when it downloads it."""
    file = Path(urlparse(torchvision.models.ResNet18_Weights.DEFAULT.url).path).name
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(torchvision.models.resnet18().state_dict(), checkpoints / file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    resnet = "{_target_:torchvision.models.resnet18,weights:DEFAULT}"
    head = "{_target_:torch.nn.Linear,in_features:1000,out_features:'${derived.out_channels}'}"
    model = node("model", _target_="torch.nn.Sequential", _args_=f"[{resnet},{head}]")
    assert (run_config("a", *TINY_CLASSES, *model, "dataset.channels=3") / "metrics.csv").exists()


def test_model_with_a_dict_as_output_is_refused_with_its_key(run_config):
    values = {"weights_backbone": "null", "num_classes": "${derived.out_channels}"}
    model = node("model", _target_="torchvision.models.segmentation.lraspp_mobilenet_v3_large", **values)
    with pytest.raises(UserError) as caught:
        run_config("a", *TINY_MASKS, *model, "dataset.channels=3")
    assert "gives a dict with the keys out, not a tensor of logits" in str(caught.value)
    assert "return model(images)['out']" in str(caught.value)


def test_module_in_the_working_folder_is_trained_once_trusted(train, tmp_path):
    (tmp_path / "my_losses.py").write_text(
        "import torch\n\n\nclass Mine(torch.nn.Module):\n"
        "    def forward(self, logits, targets):\n"
        "        return torch.nn.functional.cross_entropy(logits.float(), targets)\n"
    )
    mine = [*TINY_MASKS, "model.base=2", *node("loss", _target_="my_losses.Mine")]
    refused = train(*mine)
    assert refused.returncode == 2
    assert "trust=[my_losses]" in refused.stderr
    done = train(*mine, "trust=[my_losses]")
    assert (done.returncode, done.stderr) == (0, "")
