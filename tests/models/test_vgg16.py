"""VGG16: torchvision's keys, shapes and numbers, at the widths and image sizes of the lab."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from runcard.losses.cross_entropy import CrossEntropy
from runcard.models.vgg16 import VGG16


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The models here are tiny: on a busy machine threads that wait for each other take a hundred times their work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seeded(**options: Any) -> VGG16:
    torch.manual_seed(0)
    return VGG16(**{"in_channels": 1, "out_channels": 2, "image_size_px": 32, "base": 4, "head": (8, 8), **options})


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("num_classes", "expected"), [(1000, 138_357_544), (2, 134_268_738)])
def test_parameter_count_is_the_papers(num_classes: int, expected: int) -> None:
    with torch.device("meta"):  # shapes without memory
        assert num_parameters(VGG16(3, num_classes, 224, head=(4096, 4096))) == expected


def test_parameter_count_of_the_labs_pretrained_head() -> None:
    with torch.device("meta"):
        assert num_parameters(VGG16(3, 1, 224, head=(128,)).classifier) == 3_211_521


@pytest.mark.parametrize("batchnorm", [False, True])
def test_keys_and_shapes_are_torchvisions(batchnorm: bool) -> None:
    with torch.device("meta"):
        ours = VGG16(3, 1000, 224, head=(4096, 4096), batchnorm=batchnorm)
        theirs = torchvision.models.vgg16_bn() if batchnorm else torchvision.models.vgg16()
    shapes = [(name, tensor.shape) for name, tensor in ours.state_dict().items()]
    assert shapes == [(name, tensor.shape) for name, tensor in theirs.state_dict().items()]


@pytest.mark.parametrize("batchnorm", [False, True])
def test_torchvisions_weights_give_torchvisions_features(batchnorm: bool) -> None:
    torch.manual_seed(0)
    theirs = (torchvision.models.vgg16_bn if batchnorm else torchvision.models.vgg16)(num_classes=2).eval()
    with torch.device("meta"):
        ours = VGG16(3, 2, 224, head=(4096, 4096), batchnorm=batchnorm).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    images = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(ours(images), theirs(images))  # their adaptive pooling is the identity at 224 px


@pytest.mark.parametrize("base", [8, 64])
def test_keys_are_the_same_at_any_base(base: int) -> None:
    with torch.device("meta"):
        model = VGG16(1, 2, 128, base=base, head=(64, 64, 64))
    convs = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert list(convs) == [f"features.{i}" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)]
    assert [conv.out_channels // base for conv in convs.values()] == [1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8]
    dense = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert dense == ["classifier.0", "classifier.3", "classifier.6", "classifier.9"]


@pytest.mark.parametrize("image_size_px", [32, 97, 128])
def test_the_flattened_size_follows_from_the_image_size(image_size_px: int) -> None:
    model = seeded(image_size_px=image_size_px).eval()
    assert model(torch.rand(2, 1, image_size_px, image_size_px)).shape == (2, 2)


@pytest.mark.parametrize(
    "options",
    [
        {"base": 5},
        {"head": [8]},
        {"head": [], "dropout": 0.0},
        {"dropout": 0.0},
        {"batchnorm": True},
        {"init": "kaiming"},
        {"init": "default"},
    ],
)
def test_every_option_changes_the_output_in_training(options: dict[str, Any]) -> None:
    images = torch.rand(2, 1, 32, 32)
    before, after = seeded().train(), seeded(**options).train()
    torch.manual_seed(1)
    one = before(images)
    torch.manual_seed(1)
    assert not torch.allclose(one, after(images), rtol=1e-3, atol=0)


@pytest.mark.parametrize("init", ["glorot", "kaiming", "default"])
def test_another_number_of_classes_changes_the_last_layer_alone(init: str) -> None:
    two, nine = seeded(init=init).state_dict(), seeded(init=init, out_channels=9).state_dict()
    assert list(two)[-2:] == ["classifier.6.weight", "classifier.6.bias"]
    for name in list(two)[:-2]:
        assert torch.equal(two[name], nine[name]), name


@pytest.mark.parametrize("batchnorm", [False, True])
def test_every_parameter_gets_a_gradient(batchnorm: bool) -> None:
    model = seeded(batchnorm=batchnorm, head=(64,), image_size_px=64)
    model(torch.randn(4, 1, 64, 64)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # batch norm subtracts the bias of the convolution before it, whose gradient is then zero to rounding
        if not (batchnorm and name.endswith("bias")):
            assert parameter.grad.abs().max() > 0, name


def test_one_batch_can_be_overfitted() -> None:
    model = seeded(base=8, head=(64, 64), dropout=0.0)
    images, targets = torch.randn(4, 1, 32, 32), torch.tensor([0, 1, 1, 0])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        loss = CrossEntropy()(model(images), targets)
        loss.backward()
        optimizer.step()
    assert loss < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "abc"}, "base must be an integer >= 1, got 'abc'"),
        ({"in_channels": 0}, "in_channels must be"),
        ({"out_channels": 0}, "out_channels must be"),
        ({"image_size_px": 31}, "image_size_px must be an integer >= 32, because 5 poolings halve the image, got 31"),
        ({"head": [64, 0]}, "head must be an integer >= 1, got 0"),
        ({"head": 64}, "head must be a list"),
        ({"head": []}, "dropout must be 0 where head is"),
        ({"dropout": -0.1}, "dropout must be a number"),
        ({"batchnorm": 1}, "batchnorm must be true or false"),
        ({"init": "glorott"}, "init must be one of .*Did you mean 'glorot'"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        seeded(**{"dropout": 0.4, **options})
