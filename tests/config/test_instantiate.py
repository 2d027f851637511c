"""Objects from config nodes: a user's mistake becomes a message, a bug of the object's own keeps its traceback."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from runcard.config.instantiate import build
from runcard.errors import UserError


class Buggy:
    """Takes one argument, and has a bug whose message names an argument."""

    def __init__(self, width: int) -> None:
        raise TypeError("sum() takes at least 1 positional argument (0 given)")


class ReadsFile:
    """Takes nothing, and reads a file that does not exist."""

    def __init__(self) -> None:
        Path("/nowhere/weights.pth").read_bytes()


class RaisesFrom:
    """Takes nothing, and raises an error of its own from one of the network."""

    def __init__(self) -> None:
        raise RuntimeError("no weights") from TimeoutError("timed out")


def message(node: dict[str, object], choice: str | None = None, trust: Sequence[str] = (__name__, "timm")) -> str:
    with pytest.raises(UserError) as caught:
        build("model", node, trust, choice)
    return str(caught.value)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Make every download fail at once, on a machine with a network too. Return the folder of torch's cache."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True, raising=False)
    return tmp_path / "hub" / "checkpoints"


def test_unknown_argument_names_the_object():
    buggy = {"_target_": f"{__name__}.Buggy", "widht": 3}
    assert message(buggy) == f"model.widht: no such option of {__name__}.Buggy. See conf/model/."


def test_unknown_argument_names_the_choice_and_the_nearest_key():
    vgg16 = {"_target_": "runcard.models.vgg16.VGG16", "dropout": 0.1, "dropout_at": ["concat"]}
    assert message(vgg16, "vgg16") == (
        "model.dropout_at: no such option of model=vgg16 (runcard.models.vgg16.VGG16). Did you mean 'dropout'?"
    )


@pytest.mark.parametrize(
    ("name", "error", "words"), [("Buggy", TypeError, "sum"), ("ReadsFile", FileNotFoundError, "nowhere")]
)
def test_bug_of_a_constructor_is_raised_as_it_is(name, error, words):
    arguments = {"width": 3} if name == "Buggy" else {}
    with pytest.raises(error, match=words):
        build("model", {"_target_": f"{__name__}.{name}", **arguments}, [__name__])


@pytest.mark.parametrize(
    ("node", "without"),
    [
        ({"_target_": "torchvision.models.resnet18", "weights": "DEFAULT"}, "model.weights=null"),
        (
            {"_target_": "torchvision.models.segmentation.lraspp_mobilenet_v3_large", "num_classes": 2},
            "+model.weights_backbone=null",
        ),
    ],
    ids=["weights", "default weights"],
)
def test_failed_download_of_torch_names_file_place_and_key(offline, capsys, node, without):
    said = message(node)
    assert said.startswith(f"model: {node['_target_']} could not download what it needs: ")
    assert "Connection refused" in said
    file = re.search(r"https://download\.pytorch\.org/models/(\S+)", capsys.readouterr().out)[1].rstrip('"')
    assert said.splitlines()[1] == (
        f"Put a copy of https://download.pytorch.org/models/{file} at {offline / file}, or do without the weights: "
        f"{without}"
    )


def test_failed_download_of_hugging_face_names_repository_and_key(offline):
    pytest.importorskip("timm", reason="an extra: pip install -e .[zoo]")
    said = message({"_target_": "timm.create_model", "model_name": "resnet18", "pretrained": True})
    assert said.startswith("model: timm.create_model could not download what it needs: ")
    assert "Run `hf download timm/resnet18.a1_in1k` where there is a network, and copy its cache to " in said
    assert said.endswith("or do without the weights: model.pretrained=false")
    assert len(said.splitlines()) == 2


def test_error_that_a_failed_download_caused_is_reported():
    assert message({"_target_": f"{__name__}.RaisesFrom"}) == (
        f"model: {__name__}.RaisesFrom could not download what it needs: timed out.\nTry again where there is a network"
    )


def test_number_of_classes_of_pretrained_weights_names_other_ways():
    said = message({"_target_": "torchvision.models.resnet18", "weights": "DEFAULT", "num_classes": 2})
    assert said.startswith("model.num_classes: The parameter 'num_classes' expected value 1000 but got 2 instead: ")
    assert "timm.create_model" in said
    assert "torch.nn.Sequential" in said
    assert len(said.splitlines()) == 2


def test_a_target_that_is_not_there_is_answered_with_why(monkeypatch):
    said = message({"_target_": "runcard.models.unet.Unt"})
    assert said == (
        "model._target_: Error loading 'runcard.models.unet.Unt'. Are you sure that 'Unt' is importable from module "
        "'runcard.models.unet'? See conf/model/."
    )
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    said = message({"_target_": "timm.create_model"}, trust=["timm"])
    assert said == "model._target_: the package timm is not installed: pip install 'runcard[zoo]'"


def test_name_that_a_library_does_not_know_is_answered_with_its_key_and_the_nearest():
    pytest.importorskip("timm", reason="an extra: pip install -e .[zoo]")
    assert message({"_target_": "timm.create_model", "model_name": "resnet1888"}) == (
        "model.model_name: Unknown model (resnet1888). Did you mean 'resnet18'?"
    )
    pytest.importorskip("segmentation_models_pytorch", reason="an extra: pip install -e .[zoo]")
    smp = {"_target_": "segmentation_models_pytorch.Unet", "encoder_name": "resnet1888", "encoder_weights": None}
    said = message(smp, trust=["segmentation_models_pytorch"])
    assert said.startswith("model.encoder_name: Wrong encoder name `resnet1888`, supported encoders: ")
    assert said.endswith(" Did you mean 'resnet18'?")
    assert len(said) < 200
