"""Decoded images with their profiles, kept for the next run: the same files are decoded once at each size.

A file of the cache is one of safetensors. Where images, or masks, exceed MEMORY_LIMIT_BYTES, it is mapped, not read:
they take no memory but what the system lends them as its cache of the disk.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from runcard.audit.profiles import Mask, Profile, inode_of, profile_of
from runcard.caching import Buffer, Cache, open_cache
from runcard.config.schema import Config, DatasetConfig
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
HEADER_BYTES, ALIGNMENT = 8, 8  # of a file of safetensors: of the header's length, and of what follows the header
DTYPES = {"U8": np.uint8, "I64": np.int64, "F64": np.float64}  # as safetensors calls them
OF_FAULT = ("check", "place", "what", "fix", "detail")  # of DataError


@dataclass(frozen=True)
class Decoded:
    """The images of a source, and the profile of each that could be read, by its position in the source."""

    samples: Samples
    profiles: dict[int, Profile]


def decode(config: Config, source: Source) -> Decoded:
    """Decode the images of a run's config, whose source is open, or take those that its cache keeps."""
    cache = open_cache("images", config.images.cache_dir, config.images.cache_gb)
    return read_decoded(source, config.dataset, config.audit.allow, cache)


def read_decoded(source: Source, dataset: DatasetConfig, allowed: Sequence[str], cache: Cache) -> Decoded:
    """Decode the images of a config, whose source is open, or take what an earlier run decoded of the same files.

    Only what our own datasets read from files is kept. Raises UserError; see data.preprocessing.prepare.
    """
    prepare_process()

    def decode() -> Decoded:
        profiles: dict[int, Profile] = {}

        def look(i: int, sample: Sample) -> None:  # while it is there at full size
            profiles[i] = profile_of(source, i, sample)

        samples = read_samples(source, dataset, allowed, look, cache.folder if cache.folder.is_dir() else None)
        return Decoded(samples, dict(sorted(profiles.items())))  # several threads look

    key = _key(source, dataset, allowed, cache)
    if key is None:
        return decode()

    def dump(decoded: Decoded) -> Sequence[Buffer] | None:
        unchanged = _key(source, dataset, allowed, cache) == key  # no file was replaced while they were read
        return _dump(decoded) if unchanged else None

    load = partial(_load, source=source)
    decoded, was_kept = cache.load_or_make(key, load, decode, dump, partial(print, flush=True))
    if not was_kept and isinstance(decoded.samples.images, np.memmap):
        with suppress(OSError, ValueError):  # not kept
            decoded = cache.load(key, load)  # so that the temporary files go, and the thumbs are mapped too
    return decoded


def decoded_before(source: Source, dataset: DatasetConfig, allowed: Sequence[str], cache: Cache) -> Decoded | None:
    """Return what an earlier run kept of the images of a config, whose source is open; None where there is nothing."""
    if key := _key(source, dataset, allowed, cache):
        with suppress(OSError, ValueError):
            return cache.load(key, partial(_load, source=source))
    return None


def _key(source: Source, dataset: DatasetConfig, allowed: Sequence[str], cache: Cache) -> str | None:
    """Hash all that the decoded images depend on; None where that is not known, or they would not be kept."""
    limit = math.inf if cache.limit_gb is None else cache.limit_gb * 1e9
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


def _dump(decoded: Decoded) -> list[Buffer]:
    """Return the parts of a file of safetensors, among them the arrays as they are, so that none is copied."""
    samples, profiles = decoded.samples, [decoded.profiles[i] for i in decoded.samples.positions]
    masks = [profile.mask.thumb for profile in profiles if profile.mask]
    arrays = {name: getattr(samples, name) for name in ARRAYS if getattr(samples, name) is not None}
    arrays["thumbs"] = np.stack([profile.thumb for profile in profiles])
    if masks:
        arrays["masks"] = np.stack(masks)
    faults = [[getattr(fault, name) for name in OF_FAULT] for fault in samples.faults]
    content = {"digests": samples.digests, "faults": faults, "profiles": [_plain(profile) for profile in profiles]}
    arrays["content"] = np.frombuffer(json.dumps(content).encode(), np.uint8)  # the header's size is limited
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    names, header, end = {dtype: name for name, dtype in DTYPES.items()}, {}, 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": names[array.dtype.type], "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return [len(text).to_bytes(HEADER_BYTES, "little"), text, *(array.data for array in arrays.values())]


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
        arrays = _arrays(path)
        content = json.loads(arrays["content"].tobytes())
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


def _arrays(path: Path) -> Mapping[str, np.ndarray]:
    """Read the arrays of a file of safetensors, or map them. Raises OSError, ValueError or SafetensorError."""
    with safe_open(path, framework="np"):  # checks the whole header
        pass
    with path.open("rb") as file:
        length = int.from_bytes(file.read(HEADER_BYTES), "little")
        header = json.loads(file.read(length))
    arrays = {}
    for name, described in header.items():
        offset = HEADER_BYTES + length + described["data_offsets"][0]
        arrays[name] = np.memmap(path, DTYPES[described["dtype"]], "r", offset, tuple(described["shape"]))
    if any(array.nbytes > MEMORY_LIMIT_BYTES for array in arrays.values()):
        return arrays
    return {name: np.array(array) for name, array in arrays.items()}


def _profile(source: Source, plain: dict[str, Any], thumb: np.ndarray, mask: np.ndarray | None) -> Profile:
    files, original, of_mask = source.files[plain["position"]], _with_tuples(plain["original"]), None
    if plain["mask"]:
        of_mask = Mask(**_with_tuples(plain["mask"]), thumb=np.asarray(mask))
    original["kinds"] = list(original["kinds"])
    arrays = {"files": files, "inode": inode_of(files), "thumb": np.asarray(thumb)}
    return Profile(**plain | {"original": Original(**original), "mask": of_mask} | arrays)


def _with_tuples(plain: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
