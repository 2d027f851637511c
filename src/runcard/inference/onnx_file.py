"""An exported .onnx file as a predictor: onnxruntime computes it, and torch need not be installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runcard.data.image_io import check_window, windowed
from runcard.data.preprocessing import STRETCH, restore_size, with_channels
from runcard.errors import UserError, first_line
from runcard.fileio import parse_json
from runcard.inference.prediction import Prediction, combine
from runcard.runs.schema import ExportedFile, faults

METADATA = "runcard"  # the key of an exported file's metadata


class OnnxPredictor:
    """One exported file; see prediction.ImagePredictor."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises UserError where it is no export of a run."""
        import onnxruntime

        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
        except Exception as error:  # onnxruntime has an exception class of its own for every kind of damage
            raise UserError(f"{path}: cannot be read as ONNX: {first_line(error)}") from None
        written = self.session.get_modelmeta().custom_metadata_map.get(METADATA)
        if written is None:
            raise UserError(f"{path}: not exported by Runcard, so it does not say what it predicts: runcard export RUN")
        try:
            metadata = parse_json(written)
            wrong = faults(metadata, ExportedFile)
            self.window = check_window(metadata["window"])
        except (ValueError, LookupError, TypeError) as error:
            wrong = [str(error)]
        if wrong:
            raise UserError(f"{path}: what Runcard wrote into it is damaged: {wrong[0]}.")
        self.classes: list[str] = metadata["classes"]
        self.trained_on: dict[str, Any] = metadata["images"] or {}
        self.resize: str = metadata.get("resize", STRETCH)  # absent in files of older versions

    def prepare(self, image: np.ndarray) -> list[np.ndarray]:
        """Return the image as the graph takes it, (H, W, 3) uint8."""
        pixels = image if image.dtype == np.uint8 else windowed(image, self.window)
        return [with_channels(pixels, 3)]

    def predict_batch(self, prepared: Sequence[list[np.ndarray]], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Return the prediction of each image: one at a time, since their sizes differ."""
        outputs = [self.session.run(None, {"images": images[0][None]})[0][0] for images in prepared]
        at_size = [restore_size(output, *size, self.resize) for output, size in zip(outputs, sizes, strict=True)]
        return [combine(self.classes, [output]) for output in at_size]
