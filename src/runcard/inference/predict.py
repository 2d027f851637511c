"""The command `runcard predict`: images to masks or a table of classes, in a folder that says how they were made."""

from __future__ import annotations

import importlib.util
import io
import json
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import Any

import cv2
import numpy as np
from PIL import Image
from rich.console import Console

from runcard.audit.profiles import differences
from runcard.console import counted, show_progress
from runcard.data.image_io import (
    file_of,
    ignore_reader_warnings,
    is_dicom,
    is_nifti,
    read_header,
    read_image,
    windowed,
    without_suffix,
)
from runcard.data.medical_io import nifti_mask
from runcard.errors import DataError, UserError, how_to_install, join_first
from runcard.figures.overlays import outlined
from runcard.fileio import (
    NOT_USABLE,
    atomic_write,
    cannot_write,
    csv_text,
    is_temporary,
    sha256,
    write_json,
    write_text,
)
from runcard.inference.dicom_seg import encode_segmentation
from runcard.inference.inputs import PATTERN, Input, find_inputs
from runcard.inference.prediction import ImagePredictor, Prediction
from runcard.runs.environment import versions
from runcard.runs.folders import BEST, run_folders
from runcard.runs.hold import OWN_FILES, Hold

RECORD = "predictions.json"
WRITE_EVERY_SECONDS = 10.0  # how often the record is written, so that an interrupted prediction goes on
MAX_LISTED = 10
MIN_ALIKE = 5  # images, before it is said that they all have the same answer
ONNX = ".onnx"
SWEEP = ("*/run.json", "*/*/run.json")  # a run of a folder that holds runs


@dataclass(frozen=True)
class Options:
    """What is written, and how images are predicted."""

    values: Sequence[int] = ()  # the grey value of each class in the masks; empty: the class's index
    probabilities: bool = False
    overlay: bool = False
    flips: bool = False
    batch_size: int = 16


@dataclass
class Outcome:
    """What became of the images."""

    predicted: int = 0
    skipped: int = 0  # done before
    failed: list[str] = field(default_factory=list)  # a message each


@dataclass(frozen=True)
class _Read:
    """One image as it was read."""

    wanted: Input
    sha256: str
    image: np.ndarray
    prepared: list[np.ndarray]  # of each run
    kind: str  # "8-bit grey PNG"
    is_done: bool  # its prediction is there


def split_arguments(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Tell run folders, and folders of runs, from images. Raise UserError where either is missing."""
    runs: list[Path] = []
    images: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if path.suffix == ONNX:
            runs.append(path)
        elif (path / "run.json").is_file():
            runs.append(path)  # where its weights are gone, opening it says so
        elif path.is_dir() and any(next(path.glob(each), None) for each in SWEEP):
            runs += [folder for folder in run_folders(path) if (folder / BEST).is_file()]
        else:
            images.append(argument)
    if lost := [each for each in images if not Path(each).exists() and not PATTERN & set(each)]:
        raise UserError(f"{lost[0]}: no such file or folder.")
    if not runs or not images:
        lacking = "no images are" if runs else "no run is"
        raise UserError(f"{lacking} named: runcard predict outputs/<name>/<stamp> images/ -o predictions")
    return runs, images


def predict(
    runs: Sequence[Path], images: Sequence[str], output: Path, options: Options, trust: Sequence[str], console: Console
) -> Outcome:
    """Predict images by the mean of runs, into the folder output; images that are done there are skipped.

    An image that cannot be read is reported at the end and stops nothing. Raises UserError for a mistake in the
    arguments, and where output holds predictions of other runs or with other options.
    """
    ignore_reader_warnings()
    cv2.setNumThreads(0)  # the pool below is the parallelism
    wanted = find_inputs(images)
    if not options.values and any(is_dicom(each.path) for each in wanted) and not importlib.util.find_spec("highdicom"):
        raise UserError(how_to_install(ModuleNotFoundError(name="highdicom")))
    predictor = _open(runs, options, trust)
    if options.values and len(options.values) != len(predictor.classes):
        raise UserError(f"--values must be one grey value for each of {', '.join(predictor.classes)}.")
    if output.exists() and not output.is_dir():
        raise UserError(f"-o {output}: is no folder. Name another one.")
    try:
        hold = Hold.take(output)
    except OSError as error:
        raise UserError(cannot_write(output, error, NOT_USABLE) or f"-o {output}: {error.strerror}.") from None
    try:
        return _predict(predictor, wanted, output, _made_by(runs, predictor.classes, options), options, console)
    finally:
        hold.release()


def _predict(
    predictor: ImagePredictor,
    wanted: Sequence[Input],
    output: Path,
    made_by: dict[str, Any],
    options: Options,
    console: Console,
) -> Outcome:
    """Predict images into a folder that this process holds."""
    folder = _Folder.open(output, made_by)
    outcome = Outcome()
    seen = _Differences(predictor)
    try:
        with ThreadPoolExecutor() as pool:
            batches = [wanted[i : i + options.batch_size] for i in range(0, len(wanted), options.batch_size)]
            ahead = _ahead(pool, batches, predictor, folder)
            for reads in show_progress(ahead, "predicting", len(batches), console):
                batch = [read for read in reads if isinstance(read, _Read)]
                faults = dict.fromkeys(str(read) for read in reads if isinstance(read, DataError))
                outcome.failed += [fault for fault in faults if fault not in outcome.failed]  # of a volume, once
                outcome.skipped += reads.count(None)
                if all(read.is_done for read in batch):  # those that are not cannot be read
                    outcome.skipped += len(batch)
                    continue
                sizes = [(read.image.shape[0], read.image.shape[1]) for read in batch]
                predictions = predictor.predict_batch([read.prepared for read in batch], sizes)
                missing = [(read, each) for read, each in zip(batch, predictions, strict=True) if not read.is_done]
                # In threads: to wait for the disk after each file costs more than to encode it.
                written = pool.map(lambda pair: folder.write(pair[0], pair[1], options=options), missing)
                for (read, _), (entry, mask) in zip(missing, written, strict=True):
                    folder.add(read.wanted, entry, mask)
                    seen.add(read)
                outcome.predicted += len(missing)
                outcome.skipped += len(batch) - len(missing)
    finally:
        folder.finish([each.name for each in wanted])
    for line in (*seen.lines(), *folder.lines()):
        console.print(f"warning: {line}", style="yellow")
    return outcome


@dataclass
class _Folder:
    """The folder of predictions, and its record."""

    path: Path
    made_by: dict[str, Any]
    images: dict[str, dict[str, Any]]
    slices: dict[str, list[tuple[dict[str, Any], np.ndarray]]] = field(default_factory=dict)  # of incomplete volumes
    refused: dict[str, str] = field(default_factory=dict)  # DICOM files without a DICOM segmentation, and why
    written: float = field(default_factory=monotonic)  # when the record was

    @classmethod
    def open(cls, path: Path, made_by: dict[str, Any]) -> _Folder:
        """Open a folder: a new one, or one with predictions that were made in the same way."""
        record: dict[str, Any] = {}
        if any(each.name not in OWN_FILES and not is_temporary(each.name) for each in path.iterdir()):
            with suppress(OSError, ValueError):
                record = json.loads((path / RECORD).read_text(encoding="utf-8"))
            if not isinstance(record, dict) or record.get("made_by") != made_by:
                what = "predictions of other runs, or with other options" if record else "something else"
                raise UserError(f"-o {path}: holds {what}. Name another folder.")
        folder = cls(path, made_by, record.get("images", {}))
        if not record:
            folder._write_record()  # before any prediction, which would look like somebody else's without it
        return folder

    def is_done(self, names: Sequence[str], sha256: str) -> bool:
        """Whether the same file, with these images, was predicted before, and all its output is there."""
        done = [self.images.get(name) for name in names]
        if not all(entry and entry["sha256"] == sha256 for entry in done):
            return False
        return all((self.path / mask).exists() for mask in {entry["mask"] for entry in done if entry} - {None})

    def write(self, read: _Read, prediction: Prediction, options: Options) -> tuple[dict[str, Any], np.ndarray | None]:
        """Write the files of one image's prediction; return its entry in the record, and a mask still to be written.

        That is one of several in its file, which are written together. May be called from threads.
        """
        name, shown = read.wanted.name, None
        entry: dict[str, Any] = {"file": str(read.wanted.path), "sha256": read.sha256, "mask": None}
        if prediction.probs.ndim == 1:
            entry |= {"label": prediction.label, "probabilities": prediction.probs.tolist()}
            entry |= {} if prediction.spread is None else {"spread": prediction.spread.tolist()}
        else:
            mask = prediction.mask
            counts = np.bincount(mask.ravel(), minlength=len(prediction.classes))
            entry["pixels"] = dict(zip(prediction.classes, counts.tolist(), strict=True))
            if prediction.spread is not None:
                spread = prediction.spread.max(axis=0)  # at most 1/2, of probabilities
                self._write_png(f"disagreement/{name}.png", np.rint(510 * spread).astype(np.uint8))
            if options.overlay:
                image = read.image
                if image.dtype != np.uint8:  # its own smallest value becomes black, its largest white
                    low, high = float(image.min()), float(image.max())
                    image = windowed(image, (low, max(high, low + 1e-6)))
                self._write_png(f"overlay/{name}.png", outlined(image.reshape(*image.shape[:2], -1), mask))
            shown = np.asarray(options.values, np.uint8)[mask] if options.values else mask
        if prediction.spread is not None:
            entry["disagreement"] = prediction.disagreement
        if options.probabilities:
            content = io.BytesIO()
            np.savez_compressed(content, probabilities=prediction.probs, classes=np.array(prediction.classes))
            self._write_bytes(f"probabilities/{name}.npz", content.getvalue())
        if shown is None or len(read.wanted.in_file) > 1:
            return entry, shown
        (entry["mask"],) = self._write_masks(read.wanted, [shown], read.sha256)
        return entry, None

    def add(self, wanted: Input, entry: dict[str, Any], mask: np.ndarray | None) -> None:
        """Add an entry to the record, with the mask that write() left to be written; in the order of the images."""
        if mask is None:
            self.images[wanted.name] = entry
        else:
            self._add_slice(wanted, entry, mask)
        if monotonic() - self.written > WRITE_EVERY_SECONDS:
            self._write_record()

    def finish(self, order: Sequence[str]) -> None:
        """Write the record and, for classes, predictions.csv, in the order of the images."""
        place = {name: i for i, name in enumerate(order)}
        self.images = dict(sorted(self.images.items(), key=lambda item: place.get(item[0], len(place))))
        self._write_record()
        labelled = {name: entry for name, entry in self.images.items() if "label" in entry}
        if not labelled:
            return
        classes = self.made_by["classes"]
        several = len(self.made_by["runs"]) > 1
        header = ["image", "label", *classes, *([f"{each}_sd" for each in classes] if several else [])]
        rows = ([n, e["label"], *e["probabilities"], *e.get("spread", [])] for n, e in labelled.items())
        write_text(self.path / "predictions.csv", csv_text(header, rows))

    def lines(self) -> Iterator[str]:
        """Yield a sentence where DICOM files have masks as PNG, and where all images have the same answer."""
        if self.refused:
            names, files = sorted(self.refused), counted(len(self.refused), "DICOM file")
            masks = f"PNG masks of {files} that no DICOM segmentation can be made of ({self.refused[names[0]]})"
            yield f"{masks}: {join_first(names, MAX_LISTED)}"
        answers = {
            each.get("label") or ", ".join(name for name, count in each["pixels"].items() if count)
            for each in self.images.values()
        }
        if len(self.images) >= MIN_ALIKE and len(answers) == 1 and answers <= {*self.made_by["classes"]}:
            alike = f"all {len(self.images)} images are called {answers.pop()} and nothing else"
            yield f"{alike}. If they are not, the network has learnt nothing: runcard evaluate measures it"

    def _add_slice(self, wanted: Input, entry: dict[str, Any], mask: np.ndarray) -> None:
        """Keep the mask of a slice until the last one of its file comes: then write the masks and record all slices."""
        slices = self.slices.setdefault(wanted.volume, [])
        slices.append((entry, mask))
        if len(slices) == len(wanted.in_file):
            entries, masks = zip(*self.slices.pop(wanted.volume), strict=True)
            files = self._write_masks(wanted, masks, entry["sha256"])
            self.images |= {n: e | {"mask": f} for n, e, f in zip(wanted.in_file, entries, files, strict=True)}

    def _write_masks(self, wanted: Input, masks: Sequence[np.ndarray], sha256: str) -> list[str]:
        """Write the masks of all images in a file, together where its format can hold them; return the file of each."""
        file = file_of(wanted.path)
        if is_nifti(file):
            whole = wanted.volume + file.name.removeprefix(without_suffix(file.name))
            self._write_bytes(whole, nifti_mask(file, masks))
            return [whole] * len(masks)
        if is_dicom(file) and not self.made_by["options"]["values"]:
            whole = f"{wanted.volume}.dcm"
            try:
                self._write_bytes(whole, encode_segmentation(file, masks, self.made_by, sha256))
                return [whole] * len(masks)
            except ValueError as error:
                self.refused[wanted.volume] = str(error)
        files = [f"{name}.png" for name in wanted.in_file]
        for name, mask in zip(files, masks, strict=True):
            self._write_png(name, mask)
        return files

    def _write_record(self) -> None:
        write_json(self.path / RECORD, {"made_by": self.made_by, "images": self.images})
        self.written = monotonic()

    def _write_png(self, name: str, pixels: np.ndarray) -> None:
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        self._write_bytes(name, content.getvalue())

    def _write_bytes(self, name: str, content: bytes) -> None:
        with atomic_write(self.path / name) as temporary:
            temporary.write_bytes(content)


class _Differences:
    """Notes which images differ from those that the first run was trained on."""

    def __init__(self, predictor: ImagePredictor) -> None:
        self.trained, self.window = predictor.trained_on, predictor.window
        self.found: defaultdict[str, list[str]] = defaultdict(list)  # the images, by what differs

    def add(self, read: _Read) -> None:
        """Note one image."""
        if not self.trained:
            return
        modes = {kind.rpartition(" ")[0] for kind in self.trained["kinds"]}  # "8-bit grey" of "8-bit grey PNG"
        if modes and read.kind.rpartition(" ")[0] not in modes:
            self.found["kind"].append(f"{read.wanted.name} ({read.kind})")
        height, width = read.image.shape[:2]
        low, high = self.trained["smallest_px"], self.trained["largest_px"]
        if not low[0] / 2 <= width <= 2 * high[0] or not low[1] / 2 <= height <= 2 * high[1]:
            self.found["size"].append(f"{read.wanted.name} ({width}×{height})")
        shown = read.image if read.image.dtype == np.uint8 else windowed(read.image, self.window)
        for difference in differences(shown, self.trained):
            self.found[difference].append(read.wanted.name)

    def lines(self) -> Iterator[str]:
        """Yield a sentence for each kind of difference."""
        if not self.found:
            return
        sizes = " to ".join(f"{w}×{h}" for w, h in (self.trained["smallest_px"], self.trained["largest_px"]))
        texts = {
            "kind": f"of another kind than in training ({', '.join(self.trained['kinds'])})",
            "size": f"far from the sizes of training ({sizes} px)",
            "inverted": "with inverted greys relative to training (MONOCHROME1 read as MONOCHROME2?)",
            "unusual": "of a brightness, contrast or texture far from those of training",
        }
        for difference, text in texts.items():
            if names := self.found[difference]:
                yield f"{counted(len(names), 'image')} {text}: {join_first(names, MAX_LISTED)}"


def _open(runs: Sequence[Path], options: Options, trust: Sequence[str]) -> ImagePredictor:
    """Open an exported file without torch, or runs with it."""
    if exported := [run for run in runs if run.suffix == ONNX]:
        from runcard.inference.onnx_file import OnnxPredictor

        if len(runs) > 1 or options.flips:
            raise UserError(f"{exported[0]}: an exported file predicts alone and without --tta.")
        return OnnxPredictor(exported[0])
    from runcard.inference.predictor import load

    return load(*runs, trust=trust, flips=options.flips)


def _made_by(runs: Sequence[Path], classes: Sequence[str], options: Options) -> dict[str, Any]:
    """Describe what decides a prediction, for the record."""
    weights = [path if path.suffix == ONNX else path / BEST for path in runs]
    return {
        "runs": [
            {"run": run.as_posix(), "weights_sha256": sha256(path)} for run, path in zip(runs, weights, strict=True)
        ],
        "classes": list(classes),
        "options": {
            "values": list(options.values),
            "probabilities": options.probabilities,
            "overlay": options.overlay,
            "flips": options.flips,
        },
        "versions": versions(),
    }


def _ahead(
    pool: ThreadPoolExecutor, batches: Sequence[Sequence[Input]], predictor: ImagePredictor, folder: _Folder
) -> Iterator[list[_Read | DataError | None]]:
    """Read the images of each batch in threads, two batches ahead of their use, which bounds memory.

    None stands for an image of a batch that is done. Of a batch that is not, those that are done are read too: in a
    smaller batch the others would get probabilities that differ in the last bit.
    """
    num_kept = 8 * len(batches[0])
    hash_once = lru_cache(num_kept)(sha256)
    is_done = lru_cache(num_kept)(folder.is_done)  # not again for every slice of a volume

    @lru_cache(8)
    def is_batch_done(number: int) -> bool:
        with suppress(DataError, OSError):
            return all(is_done(each.in_file, hash_once(file_of(each.path))) for each in batches[number])
        return False

    def read(number: int, each: Input) -> _Read | DataError | None:
        try:
            hashed = hash_once(file_of(each.path))
            if is_batch_done(number):
                return None
            image, done = read_image(each.path), is_done(each.in_file, hashed)
            return _Read(each, hashed, image, predictor.prepare(image), read_header(each.path).kind, done)
        except DataError as fault:
            return fault
        except OSError as error:
            return DataError("unreadable", each.path, error.strerror or str(error), "Replace or leave it out.")

    waiting: deque[list[Future[_Read | DataError | None]]] = deque()
    for number, batch in enumerate(batches):
        waiting.append([pool.submit(read, number, each) for each in batch])
        if len(waiting) > 2:
            yield [future.result() for future in waiting.popleft()]
    for futures in waiting:
        yield [future.result() for future in futures]
