"""Decoded images with their profiles, kept for the next run: the same files are decoded once at each size."""

from __future__ import annotations

import hashlib
import json
import math
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
from runcard.data.preprocessing import MEMORY_LIMIT_BYTES, prepare_process, read_only
from runcard.data.source import Original, Sample, Samples, Source
from runcard.errors import DataError
from runcard.fileio import digest
from runcard.runs.environment import code_hash

# What the content depends on, beside the files: our code, and the libraries that decode, those that pydicom finds too.
CODE = ("__init__.py", "fileio.py", "data", "datasets", "audit/profiles.py", "audit/decoded.py")
LIBRARIES = (
    *("numpy", "opencv-python-headless", "pillow", "nibabel", "pydicom"),
    *("pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls", "python-gdcm"),
)
ARRAYS = ("images", "targets", "pixel_mm")  # of Samples
OF_FAULT = ("check", "place", "what", "fix", "detail")  # of DataError


@dataclass(frozen=True)
class Decoded:
    """The images of a source, and the profile of each that could be read, by its position in the source."""

    samples: Samples
    profiles: dict[int, Profile]


def read_decoded(source: Source, dataset: DatasetConfig, allowed: Sequence[str], cache: Cache) -> Decoded:
    """Decode the images of a config, whose source is open, or take what an earlier run decoded of the same files.

    Only what our own datasets read from files is kept, up to MEMORY_LIMIT_BYTES. Raises UserError; see
    data.preprocessing.prepare.
    """
    prepare_process()

    def decode() -> Decoded:
        profiles: dict[int, Profile] = {}

        def look(i: int, sample: Sample) -> None:  # while it is there at full size
            profiles[i] = profile_of(source, i, sample)

        samples = read_samples(source, dataset, allowed, look)
        return Decoded(samples, dict(sorted(profiles.items())))  # several threads look

    key = _key(source, dataset, allowed, cache)
    if key is None:
        return decode()

    def dump(decoded: Decoded) -> bytes | None:
        unchanged = _key(source, dataset, allowed, cache) == key  # no file was replaced while they were read
        return _dump(decoded) if unchanged else None

    decoded, _ = cache.load_or_make(key, partial(_load, source=source), decode, dump, partial(print, flush=True))
    return decoded


def decoded_before(source: Source, dataset: DatasetConfig, allowed: Sequence[str], cache: Cache) -> Decoded | None:
    """Return what an earlier run kept of the images of a config, whose source is open; None where there is nothing."""
    if key := _key(source, dataset, allowed, cache):
        with suppress(OSError, ValueError):
            return cache.load(key, partial(_load, source=source))
    return None


def _key(source: Source, dataset: DatasetConfig, allowed: Sequence[str], cache: Cache) -> str | None:
    """Hash all that the decoded images depend on; None where that is not known, or they would not be kept."""
    limit = min(MEMORY_LIMIT_BYTES, math.inf if cache.limit_gb is None else cache.limit_gb * 1e9)
    if len(source) * dataset.image_size_px**2 * dataset.channels > limit:
        return None
    if not type(source).__module__.startswith("runcard.") or not all(source.files):
        return None
    files = {file_of(path) for paths in source.files for path in paths}
    try:
        contents = {str(file): digest([file]) for file in sorted(files)}
    except OSError:
        return None
    how = dataset.model_dump(mode="json", exclude={"split", "normalization", "positive"})
    versions = {name: _version(name) for name in LIBRARIES}
    listed = [source.ids, list(source.classes), getattr(source, "targets", None), source.spacings_mm]  # by a table, say
    listed += [[list(map(str, paths)) for paths in source.files], list(map(str, source.faults)), sorted(allowed)]
    parts = [code_hash(CODE), versions, how, *listed, contents]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _version(library: str) -> str | None:
    try:
        return version(library)
    except ModuleNotFoundError:
        return None


def _dump(decoded: Decoded) -> bytes:
    samples, profiles = decoded.samples, [decoded.profiles[i] for i in decoded.samples.positions]
    masks = [profile.mask.thumb for profile in profiles if profile.mask]
    arrays = {name: getattr(samples, name) for name in ARRAYS if getattr(samples, name) is not None}
    arrays["thumbs"] = np.stack([profile.thumb for profile in profiles])
    if masks:
        arrays["masks"] = np.stack(masks)
    faults = [[getattr(fault, name) for name in OF_FAULT] for fault in samples.faults]
    content = {"digests": samples.digests, "faults": faults, "profiles": [_plain(profile) for profile in profiles]}
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
            _profile(source, plain, arrays["thumbs"][row], arrays["masks"][row] if "masks" in arrays else None)
            for row, plain in enumerate(content["profiles"])
        ]
        faults = [DataError(*fault) for fault in content["faults"]]
    except (SafetensorError, LookupError, RecursionError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from None
    samples = Samples(
        images=read_only(arrays["images"]),
        targets=read_only(arrays["targets"]),
        ids=[profile.id for profile in profiles],
        digests=content["digests"],
        originals=[profile.original for profile in profiles],
        positions=[profile.position for profile in profiles],
        faults=faults,
        pixel_mm=arrays.get("pixel_mm"),
    )
    return Decoded(samples, {profile.position: profile for profile in profiles})


def _profile(source: Source, plain: dict[str, Any], thumb: np.ndarray, mask: np.ndarray | None) -> Profile:
    files, original, of_mask = source.files[plain["position"]], _with_tuples(plain["original"]), None
    if plain["mask"]:
        of_mask = Mask(**_with_tuples(plain["mask"]), thumb=np.asarray(mask))
    original["files"] = list(original["files"])
    arrays = {"files": files, "inode": inode_of(files), "thumb": thumb}
    return Profile(**plain | {"original": Original(**original), "mask": of_mask} | arrays)


def _with_tuples(plain: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
