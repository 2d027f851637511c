"""Activation maps: Grad-CAM as in its paper, the model untouched, errors that name what there is; and their sheets."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from runcard.errors import UserError
from runcard.explain.cam import activation_maps, last_convolution
from runcard.explain.cam_sheet import MAX_PANEL_TILES, MAX_TILES, TILE_PX, Tile, by_class, overlay, panel, sheet


class Small(nn.Module):
    """A convolution, its global average and a dense layer: Grad-CAM can be worked out by hand."""

    def __init__(self, out_channels: int, inplace: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv2d(1, 3, kernel_size=3, padding=1)
        self.last = nn.Conv2d(3, 4, kernel_size=3, padding=1)
        self.relu = nn.ReLU(inplace)
        self.head = nn.Linear(4, out_channels)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.relu(self.last(self.first(images))).mean(dim=(2, 3)))
        return logits


IMAGES = torch.rand(5, 1, 8, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("out_channels", [1, 3])
@pytest.mark.parametrize("inplace", [False, True])
def test_grad_cam_is_the_papers(out_channels, inplace):
    classes = torch.tensor([0, 1, 1, 0, 1])
    model = Small(out_channels, inplace)
    maps = activation_maps(model, IMAGES, classes)
    with torch.no_grad():
        activations = model.last(model.first(IMAGES))
        rows = classes if out_channels > 1 else torch.zeros(5, dtype=torch.long)
        sign = torch.where(classes == 1, 1.0, -1.0) if out_channels == 1 else torch.ones(5)
        # d score / d activation is weight / 48 where the ReLU lets it through; its mean over the pixels is alpha.
        alpha = sign[:, None] * model.head.weight[rows] * (activations > 0).float().mean(dim=(2, 3)) / 48
        expected = (alpha[:, :, None, None] * activations).sum(dim=1).relu()
    expected -= expected.amin(dim=(1, 2), keepdim=True)
    expected /= expected.amax(dim=(1, 2), keepdim=True)
    assert maps.shape == (5, 8, 6)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected.numpy(), atol=1e-4)


def test_another_layer_and_another_method_give_another_map():
    usual = activation_maps(Small(2), IMAGES, torch.ones(5, dtype=torch.long))
    assert last_convolution(Small(2)) == "last"
    np.testing.assert_array_equal(usual, activation_maps(Small(2), IMAGES, torch.ones(5).long(), "GradCAM", "last"))
    for changed in ({"layer": "first"}, {"method": "EigenCAM"}, {"method": "pytorch_grad_cam.hirescam.HiResCAM"}):
        maps = activation_maps(Small(2), IMAGES, torch.ones(5, dtype=torch.long), **changed)
        assert maps.shape == usual.shape
        assert np.abs(maps - usual).max() > 0.01


def test_the_model_is_left_as_it_was():
    model = Small(2)
    model.first.requires_grad_(False)
    model.train()
    model.head.eval()
    model(IMAGES).sum().backward()
    before = copy.deepcopy(model)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():  # as in the middle of an evaluation
        maps = activation_maps(model, IMAGES, torch.zeros(5, dtype=torch.long))
    assert maps.max() > 0.9
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(gradients)
    assert all(torch.equal(gradients[n], p.grad) for n, p in model.named_parameters() if p.grad is not None)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"layer": "lost"}, ["layer must be a name", "first, last", "got 'lost'", "Did you mean 'last'?"]),
        ({"layer": "head"}, ["layer must give maps", "got 'head' with output (1, 2)"]),
        ({"method": "GradCMA"}, ["method must be", "got 'GradCMA'", "Did you mean 'GradCAM'?", "EigenCAM, "]),
        ({"method": "nowhere.GradCAM"}, ["got 'nowhere.GradCAM'"]),
        ({"method": "numpy.ndarray"}, ["got 'numpy.ndarray'"]),
    ],
)
def test_a_mistake_is_named_with_what_there_is(wrong, words):
    with pytest.raises(UserError) as error:
        activation_maps(Small(2), IMAGES, torch.zeros(5, dtype=torch.long), **wrong)
    assert all(word in str(error.value) for word in words), error.value


def test_without_a_convolution_a_layer_must_be_named():
    with pytest.raises(UserError, match=r"no nn\.Conv2d"):
        last_convolution(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)))


def tile(id: str, true: str | None, predicted: str, probability: float) -> Tile:
    return Tile(id, np.zeros((8, 8, 1), np.uint8), np.zeros((8, 8), np.float32), true, predicted, probability)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_a_tile_is_six_parts_image_and_four_parts_colour():
    image = np.full((4, 8, 1), 200, np.uint8)
    heat = np.tile(np.float32([0, 0, 0, 0, 1, 1, 1, 1]), (4, 1))
    shown = overlay(image, heat)
    assert shown.shape == (TILE_PX // 2, TILE_PX, 3)
    cold, hot = np.float32([48, 18, 59]), np.float32([122, 4, 3])  # turbo's ends
    np.testing.assert_allclose(shown[0, 0], 0.6 * 200 + 0.4 * cold, atol=1)
    np.testing.assert_allclose(shown[-1, -1], 0.6 * 200 + 0.4 * hot, atol=1)


def test_a_sheet_per_true_class_right_and_wrong_apart_and_the_surest_first():
    tiles = [
        tile("a", "AFF", "AFF", 0.6),
        tile("b", "AFF", "AFF", 0.9),
        tile("c", "AFF", "NFF", 0.8),
        tile("d", "NFF", "NFF", 0.7),
        tile("e", None, "NFF", 0.5),
    ]
    groups = {key: [tile.id for tile in of] for key, of in by_class(tiles).items()}
    assert groups == {
        ("AFF", "correct"): ["b", "a"],
        ("AFF", "wrong"): ["c"],
        ("NFF", "correct"): ["d"],
        ("NFF", "unlabelled"): ["e"],
    }


def test_a_sheet_shows_the_first_tiles_and_counts_all():
    drawn = words(sheet([tile(f"im{i}", "AFF", "NFF", 0.9) for i in range(MAX_TILES + 3)], "AFF, wrong"))
    assert drawn[0] == f"AFF, wrong (the surest {MAX_TILES} of {MAX_TILES + 3})"
    assert drawn[1:3] == ["im0", "AFF → NFF 0.90"]
    assert len(drawn) == 1 + 2 * MAX_TILES + 1
    assert words(sheet([tile("im0", None, "NFF", 0.9)], "new"))[:3] == ["new (1)", "im0", "NFF 0.90"]


def test_the_panel_begins_with_the_surest_mistakes_and_shows_every_class():
    wrong = [tile(f"w{i}", "AFF", "NFF", 0.5 + i / 20) for i in range(6)]
    right = [tile(f"{name}{i}", name, name, 0.9 - i / 20) for name in ("AFF", "NFF") for i in range(4)]
    ids = words(panel([*right, *wrong], "validation"))[1:-1:2]
    assert ids == ["w5", "w4", "w3", "w2", "AFF0", "NFF0", "AFF1", "NFF1"]
    assert len(ids) == MAX_PANEL_TILES


@pytest.mark.parametrize("num_tiles", [1, 5])
def test_long_names_and_the_key_stay_on_their_tile(num_tiles):
    long = [
        tile(f"validation/Osteoporosis/a_long_name_of_a_patient_{i}.jpg", "NFF", "AFF", 1) for i in range(num_tiles)
    ]
    figure = sheet(long, "NFF")
    figure.draw_without_rendering()
    assert "patient_0.jpg" in words(figure)[1]
    widths = [text.get_window_extent().width for text in figure.texts]
    assert max(widths[1:-1]) <= TILE_PX
    assert max(text.get_window_extent().x1 for text in figure.texts) <= figure.bbox.width
