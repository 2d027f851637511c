"""Decoded images with their profiles, kept for the next run: the same files are decoded once at each size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from runcard.audit.profiles import Mask, Profile, inode_of, profile_of
from runcard.caching import Cache
from runcard.config.schema import DatasetConfig
from runcard.data.datamodule import read_samples
from runcard.data.image_io import file_of
from runcard.data.preprocessing import MEMORY_LIMIT_BYTES, read_only
from runcard.data.source import Original, Sample, Samples, Source
from runcard.fileio import digest
from runcard.runs.environment import code_hash

CODE = ("data", "datasets", "audit/profiles.py", "audit/decoded.py")  # what the content depends on, beside the files
LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "nibabel", "pydicom")
ARRAYS = ("images", "targets", "pixel_mm")  # of Samples


@dataclass(frozen=True)
class Decoded:
    """The images of a source, and the profile of each that could be read, by its position in the source."""

    samples: Samples
    profiles: dict[int, Profile]


def read_decoded(source: Source, dataset: DatasetConfig, allowed: Sequence[str], cache: Cache) -> Decoded:
    """Decode the images of a config, whose source is open, or take what an earlier run decoded of the same files.

    Only what our own datasets read from files is kept, if all of it could be read. Raises UserError; see
    data.preprocessing.prepare.
    """

    def decode() -> Decoded:
        profiles: dict[int, Profile] = {}

        def look(i: int, sample: Sample) -> None:  # while it is there at full size
            profiles[i] = profile_of(source, i, sample)

        samples = read_samples(source, dataset, allowed, look)
        return Decoded(samples, dict(sorted(profiles.items())))  # several threads look

    key = _key(source, dataset)
    if key is None:
        return decode()
    decoded, _ = cache.load_or_make(key, partial(_load, source=source), decode, _dump, partial(print, flush=True))
    return decoded


def decoded_before(source: Source, dataset: DatasetConfig, cache: Cache) -> Decoded | None:
    """Return what an earlier run kept of the images of a config, whose source is open; None where there is nothing."""
    if key := _key(source, dataset):
        with suppress(OSError, ValueError):
            return cache.load(key, partial(_load, source=source))
    return None


def _key(source: Source, dataset: DatasetConfig) -> str | None:
    """Hash all that the decoded images depend on; None where that is not known, or something cannot be read."""
    if not type(source).__module__.startswith("runcard.") or source.faults or not all(source.files):
        return None
    files = {file_of(path) for paths in source.files for path in paths}
    try:
        contents = {str(file): digest([file]) for file in sorted(files)}
    except OSError:
        return None
    how = dataset.model_dump(mode="json", exclude={"split", "normalization", "positive"})
    versions = {name: _version(name) for name in LIBRARIES}
    parts = [code_hash(CODE), versions, how, source.ids, [list(map(str, paths)) for paths in source.files], contents]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _version(library: str) -> str | None:
    try:
        return version(library)
    except ModuleNotFoundError:
        return None


def _dump(decoded: Decoded) -> bytes | None:
    samples, profiles = decoded.samples, list(decoded.profiles.values())
    if samples.faults or len(profiles) != len(samples.ids) or samples.images.nbytes > MEMORY_LIMIT_BYTES:
        return None
    masks = [profile.mask.thumb for profile in profiles if profile.mask]
    arrays = {name: getattr(samples, name) for name in ARRAYS if getattr(samples, name) is not None}
    arrays |= {"thumbs": np.stack([profile.thumb for profile in profiles])} | (
        {"masks": np.stack(masks)} if masks else {}
    )
    content = {"digests": samples.digests, "profiles": [_plain(profile) for profile in profiles]}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return save(arrays, metadata={name: json.dumps(value) for name, value in content.items()})


def _plain(profile: Profile) -> dict[str, Any]:
    """Return a profile as JSON can hold it, without its arrays, and what its file's place decides."""
    plain = asdict(profile)
    for name in ("thumb", "files", "inode"):
        del plain[name]
    if plain["mask"]:
        del plain["mask"]["thumb"]
    return plain | {"original": profile.original._asdict()}


def _load(path: Path, source: Source) -> Decoded:
    """Read what _dump wrote. Raises OSError or ValueError."""
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            content = {name: json.loads(text) for name, text in file.metadata().items()}
        profiles = [
            _profile(source, i, plain, arrays["thumbs"][i], arrays["masks"][i] if "masks" in arrays else None)
            for i, plain in enumerate(content["profiles"])
        ]
    except (SafetensorError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from None
    samples = Samples(
        images=read_only(arrays["images"]),
        targets=read_only(arrays["targets"]),
        ids=list(source.ids),
        digests=content["digests"],
        originals=[profile.original for profile in profiles],
        positions=list(range(len(profiles))),
        faults=[],
        pixel_mm=arrays.get("pixel_mm"),
    )
    return Decoded(samples, {profile.position: profile for profile in profiles})


def _profile(source: Source, i: int, plain: dict[str, Any], thumb: np.ndarray, mask: np.ndarray | None) -> Profile:
    files, original, of_mask = source.files[i], _with_tuples(plain["original"]), None
    if plain["mask"]:
        of_mask = Mask(**_with_tuples(plain["mask"]), thumb=np.asarray(mask))
    original["files"] = list(original["files"])
    arrays = {"files": files, "inode": inode_of(files), "thumb": thumb}
    return Profile(**plain | {"original": Original(**original), "mask": of_mask} | arrays)


def _with_tuples(plain: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
