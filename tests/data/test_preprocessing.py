"""From files to batches: decoding, and loaders that give the same batches everywhere."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import compose_config
from PIL import Image

import runcard.data.preprocessing
from runcard import IGNORED
from runcard.config.instantiate import build
from runcard.config.schema import DatasetConfig, TrainConfig, parse_section
from runcard.data.loaders import Loaders, SampleDataset, make_loaders, num_workers
from runcard.data.preprocessing import normalizer, place, prepare, resize_image, resize_mask, restore_size
from runcard.data.seeding import derive
from runcard.data.source import Samples
from runcard.datasets.image_mask import ImageMaskFolder
from runcard.datasets.synthetic.bone import PhantomBone
from runcard.datasets.synthetic.chest import PhantomChest
from runcard.errors import DataError, UserError
from runcard.transforms import AlbumentationsTransform

HOLDOUT = {"kind": "holdout", "val_fraction": 0.2, "test_fraction": 0.0, "seed": 0, "group_regex": None}
HOLDOUT |= {"num_folds": 5, "fold": 0}
CHESTS = prepare(PhantomChest(20, 32), image_size_px=32, channels=1)
SPLIT = {"train": [2, 3, 5, 6, 7, 8, 9, 11, 12, 13], "val": [0, 1, 4, 10, 14, 19], "test": [15, 16, 17, 18]}
CPU = torch.device("cpu")
SETTINGS = TrainConfig(**compose_config("train.batch_size=4").train)


def augmentation(choice: str) -> AlbumentationsTransform:
    return build("config", compose_config(f"augmentation={choice}").augmentation)


def loaders_of(
    samples: Samples = CHESTS, augment: str = "light", normalization: str = "unit", seed: int = 0, **settings: object
) -> Loaders:
    scale = normalizer(normalization)
    images, augmented = (SampleDataset(samples, scale, change, seed) for change in (None, augmentation(augment)))
    return make_loaders(images, augmented, SPLIT, SETTINGS.model_copy(update=settings), seed, CPU)


def epochs(loaders: Loaders, num_epochs: int) -> list[tuple[torch.Tensor, ...]]:
    """Returns (images, targets, indices) of each training epoch, in the order of the loader."""
    seen = []
    for epoch in range(1, num_epochs + 1):
        loaders.train_sampler.set_epoch(epoch)
        seen.append(tuple(torch.cat(parts) for parts in zip(*(batch[:3] for batch in loaders.train), strict=True)))
    return seen


def plain(samples: Samples, indices: list[int]) -> torch.Tensor:
    """Returns the images of these indices, normalised by hand as unit says."""
    return torch.from_numpy(samples.images[indices]).permute(0, 3, 1, 2).float() / 255


# prepare


class Pictures:
    """A dataset of arrays, without files."""

    given_split = None
    faults = ()
    on_disk = None
    spacings_mm = None
    classes = ("a", "b")

    def __init__(self, *items: tuple[np.ndarray, np.ndarray | int]) -> None:
        self.items = items
        self.ids = [str(i) for i in range(len(items))]
        self.files: list[tuple[Path, ...]] = [() for _ in items]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray | int, str]:
        return *self.items[i], self.ids[i]


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOUR = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def test_images_shrink_by_the_mean_of_their_blocks():
    samples = prepare(Pictures((GREY, 0)), image_size_px=4, channels=1)
    assert samples.images.shape == (1, 4, 4, 1)
    assert samples.images.dtype == np.uint8
    blocks = GREY.reshape(4, 2, 4, 2).mean(axis=(1, 3))
    assert np.abs(samples.images[0, ..., 0] - blocks).max() <= 0.5


def test_images_grow_linearly_and_lose_their_proportions():
    samples = prepare(Pictures((GREY[:, :4], 1)), image_size_px=16, channels=1)
    assert samples.images.shape == (1, 16, 16, 1)
    assert len(np.unique(samples.images)) > len(np.unique(GREY[:, :4])), "values in between"


def test_areas_are_averaged_only_where_no_side_grows():
    image = np.random.default_rng(0).integers(0, 256, (35, 90), dtype=np.uint8)
    linear = cv2.resize(image, (51, 51), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resize_image(image, 51)[..., 0], linear)
    area = cv2.resize(image, (35, 35), interpolation=cv2.INTER_AREA)
    assert np.array_equal(resize_image(image, 35)[..., 0], area)


@pytest.mark.parametrize("size_px", [4, 5, 8, 13])
def test_masks_keep_their_values_at_any_size(size_px):
    mask = np.repeat(np.array([0, 2, 1, 2], np.uint8), 2)[None].repeat(8, axis=0)
    pictures = Pictures((GREY, mask))
    pictures.classes = ("a", "b", "c")
    samples = prepare(pictures, image_size_px=size_px, channels=1)
    assert samples.has_masks
    assert samples.targets.shape == (1, size_px, size_px)
    assert samples.targets.dtype == np.uint8
    assert set(np.unique(samples.targets)) == {0, 1, 2}
    if size_px == 4:
        assert samples.targets[0, 0].tolist() == [0, 2, 1, 2]


@pytest.mark.parametrize(
    ("height", "width", "resize", "expected"),
    [
        (100, 50, "stretch", (0, 0, 20, 20)),
        (100, 50, "letterbox", (0, 5, 20, 10)),
        (5, 10, "letterbox", (5, 0, 10, 20)),
        (100, 65, "letterbox", (0, 3, 20, 13)),  # 3 columns on the left, 4 on the right
        (40, 39, "letterbox", (0, 0, 20, 20)),  # 19.5 columns
        (8000, 10, "letterbox", (0, 9, 20, 1)),
    ],
)
def test_where_an_image_lies_in_its_square(height, width, resize, expected):
    assert place(height, width, 20, resize) == expected


@pytest.mark.parametrize(("size", "how"), [((90, 60, 3), cv2.INTER_AREA), ((15, 10, 3), cv2.INTER_LINEAR)])
def test_a_letterboxed_image_keeps_its_proportions_between_black(size, how):
    image = np.random.default_rng(0).integers(1, 256, size, np.uint8)
    square = resize_image(image, 30, "letterbox")
    assert np.array_equal(square[:, 5:25], cv2.resize(image, (20, 30), interpolation=how))
    assert not square[:, :5].any()
    assert not square[:, 25:].any()
    assert resize_image(image[..., 0], 30, "letterbox").shape == (30, 30, 1)
    mask = resize_mask(np.ones(size[:2], np.uint8), 30, "letterbox")
    assert mask.sum() == mask[:, 5:25].sum() == 20 * 30


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (240, 180), (100, 301), (37, 200), (20, 31), (40, 40), (500, 9), (65, 63)]
)
def test_masks_go_there_and_back_but_for_a_pixel_at_their_edge(height, width, resize):
    """Every pixel that differs lies within one pixel, of the coarser of the two grids, of the mask's edge."""
    y, x = np.indices((height, width))
    ellipse = ((y / height - 0.4) / 0.3) ** 2 + ((x / width - 0.6) / 0.35) ** 2 < 1
    mask = ellipse.astype(np.uint8)
    square = resize_mask(mask, 64, resize)
    assert square.shape == (64, 64)
    probs = np.stack([square == 0, square == 1]).astype(np.float32)
    back = restore_size(probs, height, width, resize).argmax(axis=0)
    assert back.shape == mask.shape
    inside = place(height, width, 64, resize)
    reach = [max(1, int(np.ceil(side / small))) for side, small in ((height, inside.height), (width, inside.width))]
    neighbourhood = np.ones([2 * each + 1 for each in reach], np.uint8)
    near_edge = cv2.dilate(mask, neighbourhood) != cv2.erode(mask, neighbourhood)
    assert near_edge[back != mask].all()
    if resize == "letterbox" and max(height, width) == 64:
        assert np.array_equal(back, mask), "cropped, not resized"


def test_prepare_letterboxes_images_and_masks():
    samples = prepare(Pictures((GREY[:, :4] + 1, np.full((8, 4), 1, np.uint8))), 8, 1, resize="letterbox")
    assert np.array_equal(samples.images[0, :, 2:6, 0], GREY[:, :4] + 1)
    assert np.array_equal(samples.targets[0] == 1, samples.images[0, ..., 0] > 0)


def test_grey_becomes_rgb_by_repetition_and_rgb_grey_by_luminance():
    to_rgb = prepare(Pictures((GREY, 0), (COLOUR, 1)), image_size_px=8, channels=3).images
    assert np.array_equal(to_rgb[0], np.repeat(GREY[..., None], 3, axis=-1))
    assert np.array_equal(to_rgb[1], COLOUR)
    to_grey = prepare(Pictures((GREY, 0), (COLOUR, 1)), image_size_px=8, channels=1)
    assert np.array_equal(to_grey.images[0, ..., 0], GREY)
    assert np.abs(to_grey.images[1, ..., 0] - COLOUR @ [0.299, 0.587, 0.114]).max() <= 1
    assert to_grey.targets.tolist() == [0, 1]
    assert not to_grey.has_masks


@pytest.mark.parametrize(
    ("name", "channels", "black", "white"),
    [
        ("unit", 1, [0], [1]),
        ("unit", 3, [0, 0, 0], [1, 1, 1]),
        ("symmetric", 1, [-1], [1]),
        (
            "imagenet",
            3,
            [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
            [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225],
        ),
    ],
)
def test_normalizations(name, channels, black, white):
    scale, shift = normalizer(name)
    ends = np.broadcast_to(np.array([0, 255], np.float32), (channels, 1, 2)) * scale + shift
    assert ends.dtype == np.float32
    np.testing.assert_allclose(ends[:, 0, 0], black, atol=1e-6)
    np.testing.assert_allclose(ends[:, 0, 1], white, atol=1e-6)


def test_a_dataset_that_cannot_be_is_refused():
    content = {"image_size_px": "abc", "channels": 2, "positive": None, "normalization": "imagnet", "split": HOLDOUT}
    with pytest.raises(UserError) as caught:
        parse_section(DatasetConfig, content, "dataset.")
    assert str(caught.value).splitlines() == [
        "dataset.image_size_px must be an integer >= 1, got 'abc'.",
        "dataset.channels must be 1 or 3, got 2.",
        "dataset.normalization must be one of unit, symmetric, imagenet, got 'imagnet'. Did you mean 'imagenet'?",
    ]
    with pytest.raises(UserError, match=r"normalization=imagenet is for 3 channels. Set dataset.channels=3"):
        parse_section(DatasetConfig, {**content, "image_size_px": 4, "channels": 1, "normalization": "imagenet"})


@pytest.mark.parametrize("kind", ["Image", "Mask"])
def test_one_byte_of_one_file_changes_its_digest_alone(kind, tmp_path):
    for folder, value in (("Image", 7), ("Mask", 1)):
        (tmp_path / folder).mkdir()
        for stem in "abc":
            Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / folder / f"{stem}.png")

    def read() -> Samples:
        return prepare(ImageMaskFolder(str(tmp_path), None, ["background", "lung"]), 4, 1)

    before, again = read(), read()
    assert before.digests == again.digests
    with (tmp_path / kind / "b.png").open("ab") as file:
        file.write(b"\0")  # after the end of the picture: the pixels stay
    after = read()
    assert np.array_equal(before.images, after.images)
    assert [a == b for a, b in zip(before.digests, after.digests, strict=True)] == [True, False, True]


def test_without_files_the_pixels_are_digested():
    digests = prepare(Pictures((GREY, 0), (GREY, 0), (GREY, 1), (GREY.T, 0)), 8, 1).digests
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_images_beyond_the_memory_limit_are_mapped_and_equal(monkeypatch, tmp_path):
    monkeypatch.setattr(runcard.data.preprocessing, "MEMORY_LIMIT_BYTES", 20 * 32 * 32 - 1)
    mapped = prepare(PhantomChest(20, 32), image_size_px=32, channels=1, scratch=tmp_path)
    for ours, theirs in ((mapped.images, CHESTS.images), (mapped.targets, CHESTS.targets)):
        assert isinstance(ours, np.memmap)
        assert not isinstance(theirs, np.memmap)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
        assert not ours.flags.writeable
    assert mapped.digests == CHESTS.digests
    assert not list(tmp_path.iterdir())
    for ours, theirs in zip(epochs(loaders_of(mapped, num_workers=1), 1)[0], epochs(loaders_of(), 1)[0], strict=True):
        assert torch.equal(ours, theirs)


class Gaps(PhantomChest):
    """Chest phantoms, each third one broken."""

    def __getitem__(self, i):
        if i % 3 == 0:
            raise DataError("unreadable", self.ids[i], "broken", "Replace it.")
        return super().__getitem__(i)


@pytest.mark.parametrize("limit", [0, 2**20])
def test_what_is_left_out_leaves_no_gap(monkeypatch, limit):
    monkeypatch.setattr(runcard.data.preprocessing, "MEMORY_LIMIT_BYTES", limit)
    left = prepare(Gaps(20, 32), image_size_px=32, channels=1, allowed=["unreadable"])
    assert isinstance(left.targets, np.memmap) == (limit == 0)
    assert left.positions == [i for i in range(20) if i % 3]
    assert np.array_equal(left.images, CHESTS.images[left.positions])
    assert np.array_equal(left.targets, CHESTS.targets[left.positions])


def test_a_disk_without_room_is_an_error_before_anything_is_decoded(monkeypatch, tmp_path):
    monkeypatch.setattr(runcard.data.preprocessing, "MEMORY_LIMIT_BYTES", 0)
    with pytest.raises(UserError, match=r"take 109\.3 TB, more than is free there"):
        prepare(PhantomChest(20, 32), image_size_px=2_338_000, channels=1, scratch=tmp_path)


def test_faults_of_all_images_come_in_one_error():
    class Broken(Pictures):
        def __getitem__(self, i):
            if i == 1:
                return super().__getitem__(i)
            raise DataError("unreadable", f"{i}.png", "broken", "Replace it.")

    with pytest.raises(UserError) as caught:
        prepare(Broken((GREY, 0), (GREY, 0), (GREY, 0)), 8, 1)
    assert str(caught.value) == (
        "0.png: broken. Replace it.\n2.png: broken. Replace it.\n"
        "runcard audit lists all faults, also those of the checks that follow. "
        "To train nevertheless, on record: 'audit.allow=[unreadable]'"
    )


@pytest.mark.parametrize(
    ("image", "target", "said"),
    [
        (GREY.astype(np.uint16), 0, r"the image is uint16 of shape \(8, 8\); it must be uint8"),
        (GREY / 255, 0, "the image is float64"),
        (GREY[..., None], 0, r"the image is uint8 of shape \(8, 8, 1\); .* H×W or H×W×3"),
        (np.dstack([COLOUR, GREY]), 0, r"the image is uint8 of shape \(8, 8, 4\)"),
        (GREY, np.array(0), "the mask is int64 of shape"),
        (GREY, "a", "the target is a str"),
        (GREY, 2, r"the class index 2 is not one of 0 to 1 \(a, b\)"),
        (GREY, -1, "the class index -1 is not"),
        (GREY, 255, "the class index 255 is not"),
        (GREY, np.full((8, 8), 2, np.uint8), "the class index 2 is not"),
        (GREY, np.zeros((4, 4), np.uint8), r"the mask is uint8 of shape \(4, 4\); it must be uint8 of shape \(8, 8\)"),
        (GREY, np.zeros((8, 8), bool), "the mask is bool"),
    ],
)
def test_an_item_that_is_no_image_with_its_target_is_named(image, target, said):
    with pytest.raises(UserError, match=rf"^Pictures\[1\] \(1\): {said}.* See docs/how-to/own-dataset.md\.$"):
        prepare(Pictures((GREY, 0), (image, target)), 8, 1)


def test_pixels_that_nobody_labelled_are_no_class():
    mask = np.where(GREY > 100, 1, IGNORED).astype(np.uint8)
    assert np.array_equal(prepare(Pictures((GREY, mask)), 8, 1).targets[0], mask)


def test_files_that_are_no_images_are_named(tmp_path):
    path = tmp_path / "0.npy"
    np.save(path, GREY)
    pictures = Pictures((GREY, 0))
    pictures.files = [(path,)]
    with pytest.raises(UserError, match=r"0\.npy: not an image\. .* Leave files out"):
        prepare(pictures, 8, 1)


def test_no_way_past_is_offered_where_no_image_would_be_left():
    class AllBroken(Pictures):
        def __getitem__(self, i):
            raise DataError("unreadable", f"{i}.png", "broken", "Replace it.")

    with pytest.raises(UserError) as caught:
        prepare(AllBroken((GREY, 0), (GREY, 0)), 8, 1)
    assert str(caught.value) == (
        "0.png: broken. Replace it.\n1.png: broken. Replace it.\n"
        "runcard audit lists all faults, also those of the checks that follow."
    )


# Loaders


def test_images_that_lie_on_the_device_give_the_same_batches():
    there, here = loaders_of(augment="none"), loaders_of(augment="none")
    for loader in (there.train, there.val):
        loader.dataset.augment = None
        loader.dataset.move(CPU)
    for ours, theirs in zip(epochs(there, 2), epochs(here, 2), strict=True):
        assert all(map(torch.equal, ours, theirs))
    for ours, theirs in zip(there.val, here.val, strict=True):
        assert all(map(torch.equal, ours, theirs))
    images = there.train.dataset
    assert (
        make_loaders(images, images, SPLIT, SETTINGS.model_copy(update={"num_workers": 2}), 0, CPU).train.num_workers
        == 0
    )


@pytest.mark.parametrize("way", ["spawn", "forkserver"])
def test_workers_that_are_not_forked_share_the_images(way):
    loaders = loaders_of(num_workers=2)
    loaders.train.multiprocessing_context = way
    for ours, theirs in zip(epochs(loaders, 1)[0], epochs(loaders_of(), 1)[0], strict=True):
        assert torch.equal(ours, theirs)
    sent = bytes(ForkingPickler.dumps(loaders.train.dataset))  # to each worker
    assert CHESTS.images[0].tobytes() not in sent


def test_workers_are_as_many_as_there_is_work_for(monkeypatch):
    gpu, cpu = torch.device("cuda"), CPU
    assert num_workers("auto", cpu, is_augmented=True) == 0
    assert num_workers("auto", gpu, is_augmented=False) == 0
    for threads, workers in ((1, 1), (4, 3), (64, 8)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert num_workers("auto", gpu, is_augmented=True) == workers
    assert num_workers(3, cpu, is_augmented=False) == 3


def test_images_travel_as_bytes_and_arrive_as_channels_last():
    loaders = loaders_of(augment="light")
    for loader in (loaders.train, loaders.val):
        stored = loader.dataset[1, 0]
        assert (stored.images.dtype, stored.targets.dtype) == (torch.uint8, torch.uint8)
        batch = next(iter(loader))
        assert (batch.images.dtype, batch.targets.dtype) == (torch.float32, torch.int64)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("persistent", [False, True])
def test_the_number_of_workers_changes_no_bit(persistent):
    alone = epochs(loaders_of(), 2)
    helped = epochs(loaders_of(num_workers=2, persistent_workers=persistent), 2)
    for epoch_alone, epoch_helped in zip(alone, helped, strict=True):
        for ours, theirs in zip(epoch_alone, epoch_helped, strict=True):
            assert torch.equal(ours, theirs)


def test_a_batch_has_the_shapes_and_types_of_the_contract():
    batch = next(iter(loaders_of().train))
    assert (batch.images.shape, batch.images.dtype) == ((4, 1, 32, 32), torch.float32)
    assert (batch.targets.shape, batch.targets.dtype) == ((4, 32, 32), torch.int64)
    assert (batch.indices.shape, batch.indices.dtype) == ((4,), torch.int64)
    batch = next(iter(loaders_of(prepare(PhantomBone(20, 32), 32, 3)).train))
    assert batch.images.shape == (4, 3, 32, 32)
    assert (batch.targets.shape, batch.targets.dtype) == ((4,), torch.int64)


def test_every_epoch_has_an_order_and_augmentations_of_its_own():
    first, second = epochs(loaders_of(), 2)
    assert first[2].tolist() != second[2].tolist()
    assert sorted(first[2].tolist()) == sorted(second[2].tolist()) == SPLIT["train"]
    for index in SPLIT["train"]:
        ours, theirs = (images[indices == index] for images, _, indices in (first, second))
        assert not torch.equal(ours, theirs)


def test_the_seed_decides_order_and_augmentations():
    first, again, other = (epochs(loaders_of(seed=seed), 1)[0] for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert first[2].tolist() != other[2].tolist()
    ours, theirs = (images[indices == 2] for images, _, indices in (first, other))
    assert not torch.equal(ours, theirs)


def test_an_augmentation_belongs_to_the_sample_not_to_its_place():
    """A sample's draw is of (seed, epoch, id): another batch size, and so another neighbourhood, leaves it alone."""
    narrow, wide = epochs(loaders_of(batch_size=3), 1)[0], epochs(loaders_of(batch_size=10), 1)[0]
    assert torch.equal(narrow[0], wide[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_loaders_leave_the_global_generators_alone(workers):
    torch.manual_seed(3)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    loaders = loaders_of(num_workers=workers)
    epochs(loaders, 1)
    for evaluation in (loaders.train_eval, loaders.val, loaders.test):
        assert list(evaluation)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


@pytest.mark.parametrize("part", ["val", "test", "train_eval"])
def test_evaluation_is_never_augmented_or_shuffled(part):
    loaders = loaders_of(augment="strong")
    loaders.train_sampler.set_epoch(5)
    batches = list(getattr(loaders, part))
    images, targets, indices = (torch.cat(parts) for parts in zip(*(batch[:3] for batch in batches), strict=True))
    assert indices.tolist() == sorted(indices.tolist())
    torch.testing.assert_close(images, plain(CHESTS, indices.tolist()), rtol=0, atol=1e-7)
    assert torch.equal(targets, torch.from_numpy(CHESTS.targets[indices].astype(np.int64)))
    assert (indices.tolist() == SPLIT[part]) if part != "train_eval" else set(indices.tolist()) <= set(SPLIT["train"])


def test_strong_augmentation_does_reach_training():
    images, _, indices = epochs(loaders_of(augment="strong"), 1)[0]
    assert (images - plain(CHESTS, indices.tolist())).abs().mean() > 0.05
    images, _, indices = epochs(loaders_of(augment="none"), 1)[0]
    torch.testing.assert_close(images, plain(CHESTS, indices.tolist()), rtol=0, atol=1e-7)


@pytest.mark.parametrize("choice", ["light", "strong"])
def test_the_mask_moves_with_its_image(choice):
    """The mask, pushed as an image through the same draw, lands where the mask lands."""
    transforms = {type(t).__name__: t for t in augmentation(choice).compose.transforms}
    pipeline = AlbumentationsTransform(
        {name: transforms[name] for name in ("Affine", "HorizontalFlip")}
    )  # brightness is no move
    agree, elsewhere = [], []
    for i in range(20):
        mask = CHESTS.targets[i]
        as_image, as_mask = pipeline(mask[..., None] * 255, mask, derive(0, i))
        assert set(np.unique(as_mask)) <= {0, 1}
        agree.append(((as_image[..., 0] > 127) == as_mask).mean())
        elsewhere.append((pipeline(mask[..., None] * 255, None, derive(1, i))[0][..., 0] > 127) == as_mask)
    assert min(agree) > 0.95
    assert np.mean(elsewhere) < 0.93, "another draw would not agree"


def test_an_image_is_changed_alike_with_and_without_a_mask():
    pipeline = augmentation("strong")
    for i in range(5):
        assert np.array_equal(
            pipeline(CHESTS.images[i], None, i)[0], pipeline(CHESTS.images[i], CHESTS.targets[i], i)[0]
        )


def test_train_eval_has_as_many_images_as_val_and_stays_the_same():
    loaders = loaders_of()
    first = torch.cat([batch.indices for batch in loaders.train_eval]).tolist()
    loaders.train_sampler.set_epoch(2)
    assert torch.cat([batch.indices for batch in loaders.train_eval]).tolist() == first
    assert len(first) == len(set(first)) == len(SPLIT["val"])
    assert set(first) != set(SPLIT["train"][: len(first)]), "drawn, not the first ones"


def test_the_last_smaller_batch_is_kept():
    loaders = loaders_of()
    sizes = {part: [len(batch.indices) for batch in getattr(loaders, part)] for part in ("train", "train_eval", "val")}
    assert sizes == {"train": [4, 4, 2], "train_eval": [4, 2], "val": [4, 2]}
    assert len(loaders.train) == 3


def test_limit_batches_shortens_every_split():
    loaders = loaders_of(limit_batches=1)
    for part in ("train", "train_eval", "val", "test"):
        assert [len(batch.indices) for batch in getattr(loaders, part)] == [4]
    assert len(loaders.train_sampler) == 4
    assert torch.cat([batch.indices for batch in loaders.val]).tolist() == SPLIT["val"][:4]
    first, second = epochs(loaders, 2)
    assert set(first[2].tolist()) != set(second[2].tolist()), "each epoch draws its images out of all"
    assert len(loaders_of(limit_batches=9).train) == 3


def test_without_a_test_split_there_is_no_test_loader():
    images = SampleDataset(CHESTS, normalizer("unit"), None, 0)
    loaders = make_loaders(images, images, {**SPLIT, "test": []}, SETTINGS, 0, CPU)
    assert loaders.test is None
