"""Pretrained VGG16: which weights come from the file, what is frozen, and what is reported of an unsuitable file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_setup, compose_config
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from runcard.errors import UserError
from runcard.fileio import sha256
from runcard.models import vgg16_pretrained
from runcard.models.vgg16_pretrained import PretrainedVGG16


def pretrained(**options: Any) -> PretrainedVGG16:
    torch.manual_seed(0)
    given = {"in_channels": 3, "out_channels": 1, "image_size_px": 32, "weights": "random", "head": (8,), **options}
    return PretrainedVGG16(**given)


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """torchvision's convolutions, with weights of no training."""
    torch.manual_seed(1)
    return make_layers(cfgs["D"]).eval()


@pytest.fixture(scope="module")
def convolutions(theirs: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "convolutions.safetensors"
    save_file({f"features.{name}": tensor for name, tensor in theirs.state_dict().items()}, path)
    return path


def images(channels: int = 3) -> Tensor:
    return torch.rand(2, channels, 32, 32, generator=torch.Generator().manual_seed(2))


def test_the_file_gives_torchvisions_features_and_nothing_else(theirs, convolutions):
    model = pretrained(weights=str(convolutions))
    head = [p.clone() for p in model.classifier.parameters()]
    assert model.load_pretrained_weights() == sha256(convolutions)
    assert torch.equal(model.eval().features(images()), theirs(images()))
    assert all(torch.equal(a, b) for a, b in zip(head, model.classifier.parameters(), strict=True))


def test_a_whole_network_in_a_pth_file_gives_its_convolutions(theirs, tmp_path):
    whole = {f"features.{name}": tensor for name, tensor in theirs.state_dict().items()}
    torch.save(whole | {"classifier.0.weight": torch.zeros(3, 3)}, tmp_path / "vgg16.pth")
    model = pretrained(weights=str(tmp_path / "vgg16.pth"))
    model.load_pretrained_weights()
    assert torch.equal(model.eval().features(images()), theirs(images()))


def test_one_channel_is_the_grey_image_three_times(convolutions):
    grey, colour = (pretrained(weights=str(convolutions), in_channels=c) for c in (1, 3))
    for model in (grey, colour):
        model.load_pretrained_weights()
    one = images(channels=1)
    torch.testing.assert_close(grey.features(one), colour.features(one.repeat(1, 3, 1, 1)))


def test_one_channel_is_refused_where_channels_are_normalised_unlike():
    with pytest.raises(UserError, match=r"normalization=imagenet .* Set dataset.channels=3"):
        build_setup(
            compose_config("dataset=phantom_bone", "model=vgg16_pretrained", "dataset.normalization=imagenet"), {}
        )


@pytest.mark.parametrize(
    ("freeze", "num_frozen_convs"), [("none", 0), ("first_1_blocks", 2), ("first_3_blocks", 7), ("features", 13)]
)
def test_freezes_leading_blocks(freeze, num_frozen_convs):
    model = pretrained(freeze=freeze)
    convs = [layer for layer in model.features if isinstance(layer, nn.Conv2d)]
    assert [c.weight.requires_grad for c in convs] == [i >= num_frozen_convs for i in range(13)]
    assert all(p.requires_grad for p in model.classifier.parameters())
    divided = model.eval().frozen_and_trained()
    if not num_frozen_convs:
        assert divided is None
        return
    front, rest = divided
    assert isinstance(front[-1], nn.MaxPool2d), "the smallest features: after the pooling"
    assert not any(p.requires_grad for p in front.parameters())
    assert torch.equal(rest(front(images())), model(images()))
    assert {id(p) for p in rest.parameters()} <= {id(p) for p in model.parameters()}


def test_trains_the_labs_head():
    with torch.device("meta"):
        model = PretrainedVGG16(3, 1, 224)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 3_211_521


def test_random_weights_need_no_file_and_a_saved_model_neither():
    assert pretrained().load_pretrained_weights() is None
    assert pretrained(weights="gone.pth") is not None


def test_unsuitable_file_is_named_with_the_reason(theirs, tmp_path):
    def error(name: str) -> str:
        with pytest.raises(UserError) as raised:
            pretrained(weights=str(tmp_path / name)).load_pretrained_weights()
        return str(raised.value)

    assert error("absent.pth").endswith("absent.pth: no such file.")
    (tmp_path / "damaged.pth").write_bytes(b"PK no weights")
    assert "damaged.pth: weights cannot be read" in error("damaged.pth")
    (tmp_path / "empty.pth").touch()
    assert "empty.pth: weights cannot be read: the file ends too early" in error("empty.pth")
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    assert "damaged.safetensors: weights cannot be read" in error("damaged.safetensors")
    torch.save({"epoch": 3, "model": {}}, tmp_path / "training.pth")
    assert "must be a state dict" in error("training.pth")
    state = {f"features.{name}": tensor for name, tensor in theirs.state_dict().items()}
    save_file({**state, "features.0.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "narrow.safetensors")
    assert "not the convolutions of torchvision's vgg16: features.0.weight" in error("narrow.safetensors")


class Code:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_file_cannot_run_code(tmp_path, capsys):
    torch.save({"features.0.weight": Code()}, tmp_path / "hostile.pth")
    with pytest.raises(UserError, match="weights cannot be read"):
        pretrained(weights=str(tmp_path / "hostile.pth")).load_pretrained_weights()
    assert "code ran" not in capsys.readouterr().out


class Published:
    """Stands for torchvision's published weights: a file at an address, its checksum in its name."""

    def __init__(self, path: Path) -> None:
        self.url = path.as_uri()


@pytest.fixture
def published(theirs, tmp_path, monkeypatch):
    """A published file, an empty cache, and the path that the file has in it."""
    whole = tmp_path / "whole.pth"
    torch.save({f"features.{name}": tensor for name, tensor in theirs.state_dict().items()}, whole)
    source = whole.rename(tmp_path / f"vgg16-{sha256(whole)[:8]}.pth")
    monkeypatch.setattr(vgg16_pretrained, "IMAGENET", Published(source))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return source, tmp_path / "hub" / "checkpoints" / source.name


def test_imagenet_is_downloaded_once_and_verified(published, theirs):
    source, cached = published
    model = pretrained(weights="imagenet")
    model.load_pretrained_weights()
    assert torch.equal(model.eval().features(images()), theirs(images()))
    source.unlink()
    assert pretrained(weights="imagenet").load_pretrained_weights() == sha256(cached)
    content = bytearray(cached.read_bytes())
    content[len(content) // 2] ^= 1
    cached.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged or another file: its SHA-256 begins with \w{8}, not"):
        pretrained(weights="imagenet").load_pretrained_weights()


def test_offline_error_names_file_url_and_place(published):
    source, cached = published
    source.unlink()
    with pytest.raises(UserError) as raised:
        pretrained(weights="imagenet").load_pretrained_weights()
    for part in (str(cached), source.as_uri(), 'torchvision.models.vgg16(weights="IMAGENET1K_V1")', "model.weights"):
        assert part in str(raised.value)
    assert not list(cached.parent.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": 3}, "weights must be imagenet, random or the path of a file, got 3"),
        ({"freeze": "first_5_blocks"}, "freeze must be one of features, none, first_1_blocks"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        pretrained(**options)
