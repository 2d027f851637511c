"""Damaged files, odd folders and wild split settings: each is read, or refused as text. No crash, hang or warning."""

from __future__ import annotations

import io
import os
import resource
import signal
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_image_io import png

from runcard.config.schema import SplitConfig, parse_section
from runcard.data.image_io import read_header, read_image, read_mask, windowed
from runcard.data.preprocessing import prepare
from runcard.data.splits import make_split
from runcard.datasets.image_folder import ImageFolder
from runcard.datasets.image_mask import ImageMaskFolder
from runcard.errors import UserError

LIMIT_SECONDS = 20  # of an example: what takes longer hangs
fuzz = settings(
    derandomize=True,  # the same examples in every run
    deadline=None,  # signals are the limit: a deadline would only be looked at afterwards
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def mostly(fine: st.SearchStrategy[object], odd: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """One time in ten it is odd: where everything is, the first check refuses it and the others see nothing."""
    return st.sampled_from([fine] * 9 + [odd]).flatmap(lambda strategy: strategy)


@contextmanager
def guarded() -> Iterator[None]:
    """Fails where its body warns, or does not end in time."""

    def stop(*_: object) -> None:
        pytest.fail(f"still busy after {LIMIT_SECONDS} seconds")  # no Exception: code that catches those lets it pass

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", module=r"PIL\.")  # as data/image_io.py says, but pytest forgets it
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def check_words(error: Exception, *starts: str) -> None:
    """What is wrong can be printed, a line for each fault, and starts with the file or the key."""
    lines = str(error).splitlines()
    assert lines
    assert lines[0].startswith(starts or "")
    assert all(line.isprintable() for line in lines), lines


# Files


@st.composite
def raw_pngs(draw: st.DrawFn) -> bytes:
    """PNGs whose pixels are as many as the header says, or more, or fewer."""
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    depth, colour = draw(st.sampled_from([1, 2, 4, 8, 8, 16, 16, 16])), draw(st.sampled_from([0, 2, 3, 4, 6]))
    content = draw(st.sampled_from([bytes(400 * height), bytes(400 * height), bytes([0, 7, 200, 9, 30]) * 800]))
    return png(width, height, depth, colour, draw(st.booleans()), content)


WRITABLE = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    "GIF": ("P",),
    "PPM": ("L", "RGB"),
}
SUFFIXES = ("png", "jpg", "bmp", "tif")
PACKINGS = {
    "TIFF": ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"),
    "TIFF 1": ("group3", "group4", "tiff_ccitt"),
    "TIFF L": ("jpeg",),
    "TIFF RGB": ("jpeg",),
}


@st.composite
def images(draw: st.DrawFn) -> bytes:
    """Whole files that Pillow writes, of any of its modes, turned or not."""
    kind, mode = draw(st.sampled_from([(kind, mode) for kind, modes in WRITABLE.items() for mode in modes]))
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    values = draw(st.sampled_from([2, 3, 256]))
    noise = np.random.default_rng(draw(st.integers(0, 99))).integers(0, values, 16 * width * height, np.uint8)
    image = Image.new(mode, (width, height))
    image.frombytes(noise.tobytes()[: len(image.tobytes())])
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    options: dict[str, object] = {}
    if kind in ("PNG", "JPEG", "TIFF") and draw(st.booleans()):
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = draw(st.integers(1, 8) if kind == "TIFF" else st.integers(0, 9))  # 0, 9: no meaning
    if kind == "TIFF":
        options["compression"] = draw(st.sampled_from((*PACKINGS[kind], *PACKINGS.get(f"TIFF {mode}", ()))))
        options["big_endian"] = draw(st.booleans())
    if kind == "JPEG":
        options |= {"quality": draw(st.integers(1, 100)), "progressive": draw(st.booleans())}
    if kind == "PNG":
        options["compress_level"] = draw(st.integers(0, 9))
        if mode == "P" and draw(st.booleans()):
            options["transparency"] = bytes(range(draw(st.integers(1, 40))))
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def claiming(content: bytes, width: int, height: int) -> bytes:
    """Return an image whose header says another size, each format in its own place; others come back as they are."""
    if content.startswith(b"\x89PNG"):
        header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
        return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    if content.startswith(b"BM"):
        return content[:18] + struct.pack("<ii", width, height) + content[26:]
    if content.startswith(b"\xff\xd8"):
        start = max(content.find(marker) for marker in (b"\xff\xc0", b"\xff\xc2")) + 5
        return content[:start] + struct.pack(">HH", height % 65536, width % 65536) + content[start + 4 :]
    if content[:2] in (b"II", b"MM"):
        order = "<" if content.startswith(b"II") else ">"
        (start,) = struct.unpack_from(f"{order}I", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, start)
        changed = bytearray(content)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            (tag,) = struct.unpack_from(f"{order}H", content, entry)
            if tag in (256, 257):
                struct.pack_into(f"{order}HII", changed, entry + 2, 4, 1, width if tag == 256 else height)
        return bytes(changed)
    return content


SIZES = st.sampled_from([0, 1, 7, 41, 300, 20_000, 60_000, 2**31 - 1])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Images, of which most lost their end, hold other bytes, claim another size or have more behind them."""
    content = draw(st.one_of(images(), raw_pngs()))
    if draw(st.integers(0, 7)) == 0:
        content = claiming(content, draw(SIZES), draw(SIZES))
    for how in draw(st.lists(st.sampled_from(["cut", "other bytes", "zeros", "junk"]), max_size=2)):
        place = draw(mostly(st.integers(len(content) // 8, len(content)), st.integers(0, len(content))))
        if how == "cut":
            content = content[:place]
        elif how == "other bytes":
            other = draw(st.binary(min_size=1, max_size=8))
            content = content[:place] + other + content[place + len(other) :]
        elif how == "zeros":
            length = draw(st.integers(1, 200))
            content = content[:place] + bytes(len(content[place : place + length])) + content[place + length :]
        elif how == "junk":
            content += draw(st.binary(max_size=64))
    return content


CONTENTS = mostly(damaged(), st.binary(max_size=300))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def written(folder: Path, suffix: str, content: bytes) -> Path:
    path = folder / f"x.{suffix}"
    path.write_bytes(content)
    return path


def read_or_refused(path: Path, read: Callable[[Path], np.ndarray]) -> np.ndarray | None:
    """Return what is read of a file, or None where it is refused by name."""
    try:
        with guarded():
            return read(path)
    except UserError as error:
        check_words(error, f"{path}: ")
        return None


@given(content=CONTENTS, suffix=st.sampled_from(SUFFIXES))
@settings(fuzz, max_examples=250)
def test_any_bytes_are_an_image_or_are_refused(folder, content, suffix):
    path = written(folder, suffix, content)
    image = read_or_refused(path, read_image)
    if image is None:
        return
    assert image.dtype in ("uint8", "uint16", "int32", "float32")
    assert image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3 and image.dtype in ("uint8", "uint16"))
    assert min(image.shape) >= 1
    with guarded():
        assert windowed(image, (0, 65535)).dtype == np.uint8
        assert read_header(path).kind.startswith(("8-bit", "1-bit")) == (image.dtype == np.uint8)


@given(
    content=CONTENTS,
    suffix=st.sampled_from(SUFFIXES),
    num_classes=st.integers(2, 5),
    levels=st.none() | st.lists(st.integers(0, 65535), min_size=5, max_size=5, unique=True),
)
@settings(fuzz, max_examples=250)
def test_any_bytes_are_a_mask_or_are_refused(folder, content, suffix, num_classes, levels):
    path = written(folder, suffix, content)
    mask = read_or_refused(path, lambda path: read_mask(path, num_classes, levels and levels[:num_classes]))
    if mask is not None:
        assert mask.dtype == np.uint8
        assert mask.ndim == 2
        assert mask.max() < num_classes


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("side_px", [11_000, 30_000])
def test_a_header_that_claims_a_huge_image_takes_no_memory(folder, kind, side_px):
    file = io.BytesIO()
    Image.new("RGB", (40, 40)).save(file, kind)
    path = written(folder, "png", claiming(file.getvalue(), side_px, side_px))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_or_refused(path, read_image) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


# Folders

UNPRINTABLE = st.sampled_from(["a\nb", "a\udcff", "\x1b"])
NAMES = st.sampled_from(
    ["Image", "image", "Mask", "train", "Train", "val", "test", "Mel", "mel", "Nev", "Nevi", "data", "1", "ü"]
) | st.sampled_from([".hidden", "x.png", "x.y", "x y"])
STEMS = mostly(
    st.sampled_from(["1", "2", "3", "Mel_1", "Nev_2", "MelNev", "x.y", " ", "ü", ".x"])
    | st.text(st.characters(exclude_characters="/.", exclude_categories=["C", "Z"]), min_size=1, max_size=8),
    UNPRINTABLE,
)
FILES = ("image", "image", "mask", "mask", "empty", "text", "pipe", "self", "nowhere", "up", "twin", "folder")


def save(kind: str, path: Path) -> None:
    """Write a small image, a mask, a file that is neither, a pipe, or a link to itself, nowhere, up or an image."""
    match kind:
        case "image" | "mask":
            values = np.arange(48, dtype=np.uint8) * 5 if kind == "image" else np.repeat(np.uint8([0, 255]), 24)
            Image.fromarray(values.reshape(6, 8)).save(path, "PNG")
        case "empty":
            path.touch()
        case "text":
            path.write_text("no image")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            targets = {"self": path.name, "nowhere": "nowhere", "up": "..", "twin": "1.png"}
            path.symlink_to(targets[kind])


@st.composite
def odd_files(draw: st.DrawFn, folders: list[str]) -> list[tuple[str, str]]:
    """Return up to four (path, kind), in the folders or in others."""
    places = st.sampled_from(folders) | st.lists(mostly(NAMES, UNPRINTABLE), max_size=3).map("/".join)
    names = st.tuples(STEMS, st.sampled_from([".png", ".png", ".PNG", ".jpg", ".txt", ""])).map("".join)
    paths = st.tuples(places, names).map("/".join)
    return draw(st.lists(st.tuples(paths, st.sampled_from(FILES)), max_size=4))


def planted(root: Path, files: list[tuple[str, str]]) -> None:
    """Write files, but those whose folder is a file or whose name is taken."""
    for name, kind in files:
        path = root / name.lstrip("/")
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(path):
                save(kind, path)


def image_and_mask(root: str, folder: str | None) -> ImageMaskFolder:
    return ImageMaskFolder(root, folder, ["background", "lung"])


def class_folders(root: str, folder: str | None) -> ImageFolder:
    return ImageFolder(root, folder, None)


def flat_files(root: str, folder: str | None) -> ImageFolder:
    return ImageFolder(root, folder, ["Mel", "Nev"])


LAYOUTS = [  # how it is opened, its folders, its files in each
    (image_and_mask, ["Image", "Mask"], ["1.png", "2.png"]),
    (class_folders, ["train/Mel", "train/Nev", "val/Mel", "val/Nev"], ["1.png", "2.png"]),
    (flat_files, ["train", "val"], ["Mel_1.png", "Nev_2.png"]),
]


@given(data=st.data(), wanted=mostly(st.none(), NAMES), with_folders=mostly(st.just(True), st.just(False)))
@pytest.mark.parametrize(("open_source", "folders", "names"), LAYOUTS, ids=["masks", "classes", "flat"])
@settings(fuzz, max_examples=50)
def test_any_folder_gives_samples_or_is_refused(open_source, folders, names, data, wanted, with_folders):
    odd = data.draw(odd_files(folders))
    clean = [(f"{place}/{name}", "mask" if place == "Mask" else "image") for place in folders for name in names]
    with tempfile.TemporaryDirectory() as top:
        root = Path(top) / "root"
        root.mkdir()
        planted(root, clean * with_folders + odd)
        try:
            with guarded():
                source = open_source(str(root), wanted)
                samples = prepare(source, 8, 1)
        except UserError as error:
            check_words(error)
        else:
            assert len(samples.ids) == len(set(samples.ids)) == len(samples.images) == len(samples.targets)
            assert len(samples.ids) > 0
            assert samples.targets.max() < len(source.classes)
            texts = (*samples.ids, *source.classes, source.on_disk.layout, *source.on_disk.left_out)
            assert all(text.isprintable() for text in texts)


# Splits

FRACTIONS = mostly(
    st.floats(0.05, 0.6),
    st.floats(0, 1) | st.sampled_from([0, 1, -0.1, 1e-9, 5e-324, float("nan"), float("inf"), "0.2", None, True]),
)
REGEXES = mostly(
    st.sampled_from([None, None, r"^p\d", r"^(p\d)", r"_(\d)", r"\d$", r"(?i)P", r"^[[p]\d"]),
    st.sampled_from([r"^(x)?p", r"(\d*)", "", "(", r"a{9999999999}", "(" * 3000 + ")" * 3000, 3]) | st.text(max_size=6),
)
INTEGERS = mostly(st.integers(0, 3), st.sampled_from([-1, 9, 2**32 - 1, 2**32, 2**80, 1.0, "0", None, True]))
IDS = mostly(st.from_regex(r"p[0-5]_[0-9]{1,2}", fullmatch=True), st.text("ab1 ü_", min_size=1, max_size=3))


@given(
    ids=mostly(st.lists(IDS, min_size=8, max_size=30, unique=True), st.lists(IDS, max_size=8, unique=True)),
    kind=mostly(st.sampled_from(["holdout", "kfold", "kfold", "given"]), st.sampled_from(["random", None])),
    fractions=st.tuples(FRACTIONS, st.just(0.0) | FRACTIONS),
    seed=INTEGERS,
    num_folds=INTEGERS,
    fold=INTEGERS,
    group_regex=REGEXES,
    data=st.data(),
)
@settings(fuzz, max_examples=250)
def test_any_split_has_every_image_once_or_is_refused(ids, kind, fractions, seed, num_folds, fold, group_regex, data):
    count = len(ids)
    labels = data.draw(st.none() | st.lists(st.integers(0, 2), min_size=count, max_size=count))
    parts = st.sampled_from(["train", "train", "val", "test"])
    given = data.draw(st.none() | st.lists(parts, min_size=count, max_size=count))
    content = {"kind": kind, "seed": seed, "num_folds": num_folds, "fold": fold, "group_regex": group_regex}
    content |= {"val_fraction": fractions[0], "test_fraction": fractions[1]}
    try:
        with guarded():
            config = parse_section(SplitConfig, content, "dataset.split.")
            split, groups = make_split(ids, labels, given, config)
            again = make_split(ids, labels, given, config)
    except UserError as error:
        check_words(error, "dataset.split")
        return
    assert again == (split, groups)
    assert list(split) == ["train", "val", "test"]
    assert sorted(chain.from_iterable(split.values())) == list(range(count))
    assert all(members == sorted(members) for members in split.values())
    assert all(type(i) is int for members in split.values() for i in members)
    assert split["train"]
    assert split["val"]
    groups_of = {part: {groups[i] for i in members} for part, members in split.items()}
    if kind != "given":
        assert groups_of["train"].isdisjoint(groups_of["val"])
        assert "test" in (given or []) or groups_of["test"].isdisjoint(groups_of["train"] | groups_of["val"])
    assert all(groups)
    if given and kind != "given":
        assert set(split["test"]) >= {i for i, part in enumerate(given) if part == "test"}
