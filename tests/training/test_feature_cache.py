"""Cached features: bit for bit the uncached run, found again by their key, refused where they would be wrong."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from threading import Thread

import pytest
import torch
from conftest import TINY, build_setup, compose_config
from filelock import FileLock
from rich.console import Console
from safetensors.torch import load_file, save_file
from torchvision.models.vgg import cfgs, make_layers

from runcard.errors import UserError
from runcard.experiment.setup import ExperimentSetup, with_cached_features
from runcard.training import feature_cache
from runcard.training.feature_cache import feature_key

BONE = [o for o in TINY if not o.startswith("model.")] + ["dataset=phantom_bone", "model=vgg16_pretrained", "loss=bce"]
BONE += ["model.head=[8]", "optimizer.lr=1e-2", "train.explain_images=0"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of convolutions, so that the frozen part is the same for every seed."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "convolutions.safetensors"
    save_file({f"features.{name}": tensor for name, tensor in make_layers(cfgs["D"]).state_dict().items()}, path)
    return f"model.weights={path}"


def numbers(folder: Path) -> list[dict[str, str]]:
    """Return metrics.csv without what it says of time."""
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "checkpoints" / "best.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize(
    ("freeze", "precision"), [("features", "32"), ("features", "bf16"), ("first_3_blocks", "bf16")]
)
def test_cached_is_uncached_and_the_second_use_is_the_first(run_config, weights, freeze, precision):
    common = [*BONE, weights, f"model.freeze={freeze}", f"train.precision={precision}"]
    common += ["dataset.num_images=10"]  # bfloat16 is emulated on most processors, ten times slower
    plain = run_config("plain", *common, "train.cache_features=never")
    first, second = run_config("first", *common), run_config("second", *common)
    assert len(numbers(plain)) == 2
    assert numbers(plain) == numbers(first) == numbers(second)
    assert (plain / "per_image.csv").read_text() == (first / "per_image.csv").read_text()
    assert same_weights(plain, first)
    assert same_weights(first, second)
    assert "features" not in record(plain)
    assert [record(f)["features"]["reused"] for f in (first, second)] == [False, True]
    assert record(first)["seconds"]["caching"] >= record(second)["seconds"]["caching"] > 0
    assert record(plain)["seconds"]["caching"] == 0


def test_another_seed_reuses_the_features_and_trains_another_head(run_config, weights):
    first, other = run_config("first", *BONE, weights), run_config("other", *BONE, weights, "seed=1")
    assert record(other)["features"]["reused"]
    assert numbers(first) != numbers(other)


def test_a_run_trained_longer_equals_one_that_long(run_config, weights):
    """So a resumed run does: both start from last.ckpt, which holds the whole model."""
    run_config("short", *BONE, weights)
    longer = run_config("longer", *BONE, weights, "train.epochs=4", "train.extend=short")
    straight = run_config("straight", *BONE, weights, "train.epochs=4")
    assert numbers(longer) == numbers(straight)
    assert same_weights(longer, straight)


def test_damaged_file_of_features_is_computed_again(run_config, weights):
    first = run_config("first", *BONE, weights)
    (path,) = (first.parent / "outputs" / ".features").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    second = run_config("second", *BONE, weights)
    assert not record(second)["features"]["reused"]
    assert numbers(first) == numbers(second)


def composed(*overrides: str) -> ExperimentSetup:
    return build_setup(compose_config(*BONE, *overrides), {"model": "vgg16_pretrained", "augmentation": "light"})


def key(*overrides: str) -> str:
    setup = composed(*overrides)
    front, _ = setup.model.frozen_and_trained()
    return feature_key(front, setup.images, setup.precision, setup.fabric.device.type)


def test_key_covers_all_that_the_features_depend_on_and_nothing_else(weights, tmp_path):
    content = load_file(weights.partition("=")[2])
    content["features.28.bias"][5] += 1e-6
    save_file(content, tmp_path / "changed.safetensors")
    first = key(weights)
    assert key(weights, "seed=1", "loss=cross_entropy", "model.head=[4]", "dataset.split.seed=3") == first
    others = [
        key(f"model.weights={tmp_path / 'changed.safetensors'}"),
        key(weights, "dataset.seed=1"),
        key(weights, "dataset.image_size_px=64", "dataset.size_px=32"),
        key(weights, "dataset.normalization=symmetric"),
        key(weights, "dataset.channels=3"),
        key(weights, "train.precision=bf16"),
        key(weights, "model.freeze=first_4_blocks"),
    ]
    assert len({first, *others}) == len(others) + 1


def test_two_concurrent_runs_compute_the_features_once(weights, tmp_path):
    setup = composed(weights, f"train.cache_dir={tmp_path}")
    front, _ = setup.model.frozen_and_trained()
    lock = FileLock(tmp_path / f"{feature_key(front, setup.images, setup.precision, setup.fabric.device.type)}.lock")
    reported, found = StringIO(), []
    with lock:
        other = Thread(target=lambda: found.append(with_cached_features(setup, Console(file=reported))[1]))
        other.start()
        other.join(1)
        assert other.is_alive(), "it waits for the one that has begun"
    other.join()
    assert "another run makes the same features" in reported.getvalue()
    again = with_cached_features(setup, Console(file=reported))[1]
    assert (found[0]["reused"], again["reused"]) == (False, True)


def test_features_are_the_same_whether_made_kept_removed_or_too_large(weights, tmp_path):
    def features(limit_gb: float | None) -> tuple[torch.Tensor, bool]:
        train = setup.train.model_copy(update={"cache_gb": limit_gb})
        cached, metadata = with_cached_features(replace(setup, train=train), Console(file=reported))
        return cached.loaders.val.dataset.features, metadata["reused"]

    setup, reported = composed(weights, f"train.cache_dir={tmp_path}"), StringIO()
    made, kept = features(1), features(None)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(bytes(path.stat().st_size))  # not a map of the file, which another machine may remove
    path.unlink()
    too_large, again = features(1e-5), features(1)
    assert [reused for _, reused in (made, kept, too_large, again)] == [False, True, False, False]
    assert all(torch.equal(tensor, made[0]) for tensor, _ in (kept, too_large, again))
    assert "train.cache_gb=1e-05: the features of frozen layers take 41." in reported.getvalue()


def test_folder_that_cannot_hold_the_features_is_reported_before_they_are_computed(weights, tmp_path):
    (tmp_path / "file").write_text("")
    setup = composed(weights, f"train.cache_dir={tmp_path / 'file'}")
    with pytest.raises(UserError, match=r"train.cache_dir: .* cannot be written: .*train.cache_features=never"):
        with_cached_features(setup, Console(file=StringIO()))


def test_features_too_large_to_keep_are_not_cached(monkeypatch):
    monkeypatch.setattr(feature_cache, "MEMORY_LIMIT_BYTES", 20 * 512 * 4)
    assert composed("model.weights=random").cache_features, "20 images of 512 features"
    monkeypatch.setattr(feature_cache, "MEMORY_LIMIT_BYTES", 20 * 512 * 4 - 1)
    assert not composed("model.weights=random").cache_features
    with pytest.raises(UserError, match=r"the features would take \d.* GiB"):
        composed("model.weights=random", "train.cache_features=always")


def test_saved_config_has_the_weights_and_not_the_environment_variable(run_config, monkeypatch):
    monkeypatch.setenv("RUNCARD_VGG16", "random")
    folder = run_config("a", *BONE)
    assert "weights: random" in (folder / ".hydra" / "config.yaml").read_text()
    assert "${derived.in_channels}" in (folder / ".hydra" / "config.yaml").read_text()


def test_auto_caches_only_where_it_is_exact():
    assert composed("model.weights=random").cache_features
    assert not composed("model.weights=random", "train.cache_features=never").cache_features
    assert not composed("model.weights=random", "augmentation=light").cache_features
    assert not composed("model.weights=random", "model.freeze=none").cache_features
    assert not build_setup(compose_config(*TINY), {}).cache_features


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augmentation=light", "augmentation=light makes every image anew in every epoch"),
        ("model.freeze=none", "nothing of model=vgg16_pretrained is frozen"),
    ],
)
def test_caching_that_would_be_wrong_is_refused_with_the_reason(override, message):
    with pytest.raises(UserError, match=message):
        composed("model.weights=random", "train.cache_features=always", override)


def test_only_the_head_is_trained(run_config, weights):
    folder = run_config("a", *BONE, weights)
    content, after = load_file(weights.partition("=")[2]), load_file(folder / "checkpoints" / "best.safetensors")
    for name, tensor in content.items():
        expected = tensor.sum(dim=1, keepdim=True) if name == "features.0.weight" else tensor
        assert torch.equal(after[name], expected), name
    found = record(folder)
    assert found["num_parameters"] - found["num_trained_parameters"] == sum(
        t.numel() for n, t in after.items() if n.startswith("features.")
    )
