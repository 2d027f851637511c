"""U-Net: the lab's parameter counts, any image size, every option visible, and weights that stay when they should."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from runcard.losses.bce import BCE
from runcard.models.unet import UNet


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The models here are tiny: on a busy machine threads that wait for each other take a hundred times their work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seeded(**options: Any) -> UNet:
    torch.manual_seed(0)
    return UNet(**{"in_channels": 1, "out_channels": 1, "base": 4, "depth": 2, **options})


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("upsample", "base", "expected"),
    [
        ("transpose3", 8, 540_073),
        ("transpose3", 16, 2_158_417),
        ("transpose3", 32, 8_629_921),
        ("transpose2", 8, 485_673),
        ("transpose2", 16, 1_940_817),
        ("transpose2", 32, 7_759_521),
        ("bilinear", 16, 2_158_417),  # as transpose3: a comparison of the two is not one of sizes
    ],
)
def test_parameter_count_is_the_labs(upsample: str, base: int, expected: int) -> None:
    with torch.device("meta"):  # shapes without memory
        assert num_parameters(UNet(1, 1, base=base, upsample=upsample)) == expected


def test_base_sets_the_widths_from_the_first_convolution_to_the_bottleneck() -> None:
    with torch.device("meta"):
        model = UNet(1, 1, base=32)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert convs[0].out_channels == 32
    assert max(conv.out_channels for conv in convs) == 512


@pytest.mark.parametrize("upsample", ["transpose3", "transpose2", "bilinear"])
@pytest.mark.parametrize(("height", "width"), [(96, 128), (97, 131), (3, 5)])
def test_logits_have_the_images_size(upsample: str, height: int, width: int) -> None:
    model = seeded(in_channels=2, out_channels=3, depth=4, upsample=upsample).eval()
    assert model(torch.rand(1, 2, height, width)).shape == (1, 3, height, width)


def test_padding_repeats_the_last_row_and_column() -> None:
    model = seeded().eval()
    image = torch.rand(1, 1, 5, 7)
    by_hand = torch.cat([image, image[..., -1:]], dim=3)
    by_hand = torch.cat([by_hand, *[by_hand[..., -1:, :]] * 3], dim=2)
    assert torch.equal(model(image), model(by_hand)[..., :5, :7])


@pytest.mark.parametrize(
    "options",
    [
        {"base": 5},
        {"depth": 3},
        {"batchnorm": True},
        {"upsample": "transpose2"},
        {"upsample": "bilinear"},
        {"dropout": 0.5, "dropout_at": ["pool"]},
        {"dropout": 0.5, "dropout_at": ["concat"]},
        {"dropout": 0.5, "dropout_at": ["bottleneck"]},
        {"init": "kaiming"},
        {"init": "default"},
    ],
)
def test_every_option_changes_the_output_in_training(options: dict[str, Any]) -> None:
    images = torch.rand(2, 1, 16, 16)
    before, after = seeded().train(), seeded(**options).train()
    torch.manual_seed(1)
    assert not torch.allclose(before(images), after(images))


@pytest.mark.parametrize(
    ("place", "num_calls"),
    [("pool", 2), ("concat", 2), ("bottleneck", 1)],  # with depth 2
)
def test_dropout_acts_at_each_of_the_named_places_and_nowhere_else(place: str, num_calls: int) -> None:
    model = seeded(dropout=0.5, dropout_at=[place])
    calls: list[Tensor] = []
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    for dropout in dropouts:
        dropout.register_forward_hook(lambda module, inputs, output: calls.append(output))
    model(torch.rand(1, 1, 16, 16))
    assert len(calls) == num_calls


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"batchnorm": True}])
def test_dropout_and_batchnorm_leave_the_initial_convolutions_as_they_were(options: dict[str, Any]) -> None:
    def convolutions(model: UNet) -> list[Tensor]:
        return [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]

    # The head is drawn from where the body stopped, so it is the same too.
    for one, other in zip(convolutions(seeded()), convolutions(seeded(**options)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("init", ["glorot", "kaiming", "default"])
def test_another_number_of_logits_changes_the_head_alone(init: str) -> None:
    one, three = seeded(init=init).state_dict(), seeded(init=init, out_channels=3).state_dict()
    assert list(one)[-2:] == ["head.weight", "head.bias"]
    for name in list(one)[:-2]:
        assert torch.equal(one[name], three[name]), name


def test_glorot_is_uniform_within_its_bound_and_biases_are_zero() -> None:
    weight = seeded(base=16).bottleneck[2].weight  # 64 -> 64, 3 x 3
    bound = (6 / (64 * 9 + 64 * 9)) ** 0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert all((p == 0).all() for name, p in seeded(base=16).named_parameters() if name.endswith("bias"))


def test_kaiming_has_the_variance_of_he() -> None:
    weight = seeded(base=16, init="kaiming").bottleneck[2].weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("batchnorm", [False, True])
@pytest.mark.parametrize("upsample", ["transpose3", "transpose2", "bilinear"])
def test_every_parameter_gets_a_gradient(upsample: str, batchnorm: bool) -> None:
    model = seeded(upsample=upsample, batchnorm=batchnorm)
    model(torch.randn(2, 1, 16, 16)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # batch norm subtracts the bias of the convolution before it, whose gradient is then zero to rounding
        if not (batchnorm and name.endswith("bias")):
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("batchnorm", [False, True])
def test_one_batch_can_be_overfitted(batchnorm: bool) -> None:
    model = seeded(batchnorm=batchnorm)
    images = torch.randn(2, 1, 16, 16)
    targets = (images[:, 0] + images[:, 0].roll(1, dims=-1) > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        loss = BCE()(model(images), targets)
        loss.backward()
        optimizer.step()
    assert loss < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "abc"}, "base must be an integer >= 1, got 'abc'"),
        ({"in_channels": 0}, "in_channels must be an integer >= 1, got 0"),
        ({"out_channels": 1.0}, "out_channels must be"),
        ({"depth": 0}, "depth must be"),
        ({"dropout": 1.5}, r"dropout must be a number in \[0, 1\], got 1.5"),
        ({"dropout_at": ["pol"]}, "dropout_at must be one of .*Did you mean 'pool'"),
        ({"dropout_at": "pool"}, "dropout_at must be a list"),
        ({"dropout": 0.2, "dropout_at": []}, "dropout_at must name a place"),
        ({"batchnorm": "yes"}, "batchnorm must be true or false"),
        ({"upsample": "bilinaer"}, "upsample must be one of .*Did you mean 'bilinear'"),
        ({"init": "xavier"}, "init must be one of"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        seeded(**options)
