"""The augmentation probe: it finds what is broken, and nothing else; and parameters without effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import compose_config
from omegaconf import OmegaConf

from runcard.audit.checks.augmentation import find, no_op_parameters
from runcard.audit.detectors.augmentation_probe import Pair, probe
from runcard.caching import open_cache
from runcard.config.instantiate import build
from runcard.data.loaders import BatchLoader, SampleDataset, unaugmented
from runcard.data.preprocessing import normalizer, prepare
from runcard.datasets.synthetic.chest import PhantomChest
from runcard.errors import UserError

SIZE_PX = 128
AFFINE = {"rotate": [-10, 10], "scale": [0.8, 1.2], "p": 1.0}
PHOTOMETRIC: dict[str, dict[str, Any]] = {
    "RandomBrightnessContrast": {"brightness_limit": 0.5, "contrast_limit": 0.5},
    "GaussianBlur": {},
    "GaussNoise": {},
    "CLAHE": {},
    "InvertImg": {},
    "RandomGamma": {},
}

Image = np.ndarray


def node(**transforms: dict[str, Any]) -> dict[str, Any]:
    """An augmentation's part of a config; of each transform: library=its class, and its parameters."""
    nodes = {
        name: {
            "_target_": f"albumentations.{parameters['library']}",
            **{k: v for k, v in parameters.items() if k != "library"},
        }
        for name, parameters in transforms.items()
    }
    return {"_target_": "runcard.transforms.AlbumentationsTransform", "transforms": nodes}


def pipeline(**transforms: dict[str, Any]) -> Callable[..., tuple[Image, Image]]:
    return build(
        "augmentation", node(**{name: {"library": name, **parameters} for name, parameters in transforms.items()})
    )


def shipped(name: str) -> dict[str, Any]:
    return OmegaConf.to_container(compose_config(f"augmentation={name}").augmentation, resolve=True)


@pytest.fixture(scope="module")
def chests() -> tuple[Image, Image]:
    """Three films (3, H, W, 1) and their masks (3, H, W)."""
    films = PhantomChest(3, SIZE_PX)
    return np.stack([films[i][0] for i in range(3)])[..., None], np.stack([films[i][1] for i in range(3)])


def shifted(image: Image, mask: Image, seed: int) -> tuple[Image, Image]:
    """Moves the image by 3 px in a direction that the seed draws, and leaves the mask."""
    x, y = 3 * np.exp(1j * seed).real, 3 * np.exp(1j * seed).imag
    moved = cv2.warpAffine(image, np.float32([[1, 0, x], [0, 1, y]]), image.shape[:2], borderMode=cv2.BORDER_REPLICATE)
    return moved.reshape(image.shape), mask


FLIP, WILD = pipeline(HorizontalFlip={"p": 0.5}), pipeline(Affine=AFFINE, **PHOTOMETRIC)


def image_alone(image: Image, mask: Image, seed: int) -> tuple[Image, Image]:
    return FLIP(image, None, seed)[0], mask


def mask_alone(image: Image, mask: Image, seed: int) -> tuple[Image, Image]:
    return image, np.ascontiguousarray(mask[:, ::-1])


def separately(image: Image, mask: Image, seed: int) -> tuple[Image, Image]:
    return WILD(image, None, seed)[0], WILD(image, mask, seed + 1000)[1]


def blank(image: Image, mask: Image, seed: int) -> tuple[Image, Image]:
    return image, np.zeros_like(mask)


@pytest.mark.parametrize("broken", [shifted, image_alone, mask_alone, separately, blank])
def test_an_image_and_a_mask_that_part_are_found(broken, chests):
    found = probe(broken, *chests)
    assert not found.moves_together
    image, mask = (array[found.worst_seed % 3].copy() for array in chests)
    after = broken(image, mask, found.worst_seed)
    assert not (np.array_equal(after[0], image) and np.array_equal(after[1], mask)), "the named draw is a broken one"


@pytest.mark.parametrize("name", ["mine", "node"])
def test_a_cached_result_is_only_used_while_the_code_is_the_same(name, chests, tmp_path):
    """The code of the package and versions of libraries are in the key; that of a user's own transform is not."""
    samples = [Pair(*each) for each in zip(*chests, strict=True)]
    of = {"_target_": "mine.Crop"} if name == "mine" else node(flip={"library": "HorizontalFlip"})
    cache = open_cache("audit", str(tmp_path), None)
    first = [f.check for f in find(FLIP, of, samples, cache)]
    again = [f.check for f in find(mask_alone, of, samples, cache)]  # the same config after an edit of its code
    assert first == []
    assert again == (["augmentation_mask"] if name == "mine" else [])


def as_floats(image: Image, mask: Image, seed: int) -> tuple[Image, Image]:
    return image / np.float32(255), mask


def undrawn(image: Image, mask: Image, seed: int) -> tuple[Image, Image]:
    return np.roll(image, np.random.default_rng().integers(SIZE_PX), axis=1), mask


@pytest.mark.parametrize(
    ("broken", "check", "level"),
    [
        (as_floats, "augmentation_values", "error"),
        (undrawn, "augmentation_random", "error"),
        (blank, "augmentation_loses_mask", "warning"),
        (shifted, "augmentation_mask", "error"),
    ],
)
def test_each_fault_is_a_finding(broken, check, level, chests):
    found = find(broken, {}, [Pair(*each) for each in zip(*chests, strict=True)])
    assert (check, level) in [(each.check, each.level) for each in found]
    assert not [*find(FLIP, {}, [])], "without samples there is nothing to try"


def test_what_is_measured_is_the_shift(chests):
    assert probe(shifted, *chests).apart_px == pytest.approx(3, abs=0.5)
    assert probe(pipeline(), *chests).apart_px == 0


@pytest.mark.parametrize("name", ["none", "light", "strong"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_shipped_augmentations_are_sound(name, channels, chests):
    images, masks = np.repeat(chests[0], channels, axis=3), chests[1]
    found = probe(build("augmentation", shipped(name)), images, masks)
    assert found.moves_together
    assert found.apart_px is not None
    assert (found.faults, found.repeatable, found.lost) == ((), True, 0)
    assert list(no_op_parameters(shipped(name), "augmentation")) == []


@pytest.mark.parametrize(
    "transforms",
    [
        PHOTOMETRIC | {"Affine": AFFINE},
        {"ElasticTransform": {"alpha": 120, "sigma": 6}},
        {"GridDistortion": {}},
        {"RandomCrop": {"height": 64, "width": 64}, "Resize": {"height": SIZE_PX, "width": SIZE_PX}},
        {"Affine": {"rotate": [-45, 45], "fill": 255}},
        {"Perspective": {}},
        {"RandomRotate90": {}, "Transpose": {}},
        {"Downscale": {}},
    ],
    ids=lambda transforms: "+".join(transforms),
)
def test_no_usual_transform_is_suspected(transforms, chests):
    found = probe(pipeline(**{name: {"p": 1.0} | parameters for name, parameters in transforms.items()}), *chests)
    assert found.apart_px is not None
    assert found.moves_together
    assert found.faults == ()


def test_a_foreground_painted_over_has_not_moved(chests):
    assert probe(pipeline(CoarseDropout={"num_holes_range": [8, 8], "p": 1.0}), *chests).moves_together


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (
            pipeline(RandomCrop={"height": 64, "width": 32, "p": 1.0}),
            "an image of 128×128×1 uint8 comes out as 64×32×1",
        ),
        (pipeline(ToFloat={"p": 1.0}), "an image of 128×128×1 uint8 comes out as 128×128×1 float32"),
        (
            lambda image, mask, seed: (image, mask.astype(np.int64)),
            "a mask of 128×128 uint8 comes out as 128×128 int64",
        ),
        (lambda image, mask, seed: (image, mask * 3), "a mask of the classes 0, 1 comes out with 3"),
    ],
)
def test_what_comes_out_otherwise_than_it_went_in(broken, said, chests):
    before = chests[0].copy()
    faults = probe(broken, *chests).faults
    assert said in faults[0]
    assert np.array_equal(before, chests[0]), "the data themselves are left alone"


def test_masks_that_are_interpolated_give_a_class_in_between(chests):
    parameters = {"rotate": [-10, 10], "mask_interpolation": 1, "p": 1.0}
    images, masks = chests
    assert probe(pipeline(Affine=parameters), images, masks * 2).faults == (
        "a mask of the classes 0, 2 comes out with 1",
    )


def test_a_seed_that_is_not_kept(chests):
    draws = np.random.default_rng(0)
    found = probe(lambda image, mask, seed: shifted(image, mask, draws.integers(1000)), *chests)
    assert not found.repeatable
    assert found.apart_px is None, "of two different draws nothing can be said"


def test_the_share_of_lost_masks(chests):
    images, masks = chests
    small = np.zeros_like(masks)
    small[:, :10, :10] = 1
    assert probe(pipeline(VerticalFlip={"p": 0.5}), images, small).lost == 0
    away = pipeline(Affine={"translate_percent": {"x": [-0.5, -0.5], "y": [0, 0]}, "p": 0.5})
    assert 0.2 < probe(away, images, small).lost < 0.8
    assert probe(away, images, small * 0).lost is None


def test_images_without_masks_are_probed_too(chests):
    found = probe(lambda image, mask, seed: (image[:64], mask), chests[0], None)
    assert "comes out as 64×128×1" in found.faults[0]
    assert (found.apart_px, found.lost, found.moves_together) == (None, None, True)


def test_a_draw_that_fails_names_the_image_and_what_the_library_says(chests):
    with pytest.raises(UserError, match=r"augmentation: fails on an image of 128×128×1 uint8: .*3.channel"):
        probe(pipeline(RandomFog={"p": 1.0}), *chests)


def test_parameters_that_switch_something_off_are_named():
    node = {
        "_target_": "runcard.transforms.AlbumentationsTransform",
        "transforms": {
            "turn": {"_target_": "albumentations.Affine", "rotate": [0, 0], "shear": [-5, 5], "fill": 0, "p": 1.0},
            "move": {"_target_": "albumentations.Affine", "translate_percent": {"x": [0, 0], "y": [-0.1, 0.1]}},
            "flip": {"_target_": "albumentations.HorizontalFlip", "p": 0},
            "one": {"_target_": "albumentations.OneOf", "transforms": [{"p": 1}, {"p": 0, "limit": [0, 1]}]},
        },
    }
    keys = ["turn.rotate", "move.translate_percent.x", "flip.p", "one.transforms[1].p"]
    assert list(no_op_parameters(node, "augmentation")) == [f"augmentation.transforms.{key}" for key in keys]


def test_unaugmented_is_bit_for_bit():
    samples, normalization = prepare(PhantomChest(4, 32), 32, 1), normalizer("symmetric")

    def is_plain(augment: Callable[..., Any] | None) -> bool:
        dataset = SampleDataset(samples, normalization, augment, seed=0)
        return unaugmented(BatchLoader(dataset, 2, [], torch.device("cpu")), samples, normalization, range(4))

    assert is_plain(None)
    assert is_plain(pipeline())
    assert not is_plain(pipeline(HorizontalFlip={"p": 0.5}))
    assert not is_plain(lambda image, mask, seed: (image, mask[::-1]))
    assert not is_plain(lambda image, mask, seed: (image + (seed % 8 == 0), mask))
    other = normalizer("unit")
    loader = BatchLoader(SampleDataset(samples, other, None, seed=0), 2, [], torch.device("cpu"))
    assert not unaugmented(loader, samples, normalization, [0])
