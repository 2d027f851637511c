"""Export of a trained run as one file that needs no Runcard: preprocessing, network and probabilities in one graph."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as read_safetensors
from safetensors.torch import save as write_safetensors
from torch import Tensor, nn
from torch.export import Dim

from runcard.data.datamodule import open_source
from runcard.data.preprocessing import LETTERBOX, normalizer, read_sample, with_channels
from runcard.errors import UserError
from runcard.fileio import atomic_write
from runcard.inference.onnx_file import METADATA
from runcard.inference.predictor import Predictor
from runcard.training.evaluation import probabilities
from runcard.training.restore import open_run

LUMINANCE = (0.299, 0.587, 0.114)  # of R, G and B, as OpenCV weighs them
TOLERANCE = 1e-4  # of a probability, between the file and PyTorch on the same graph
MAX_DIFFERING = 1e-3  # share of decisions, between the graph's resizing and OpenCV's, which rounds otherwise
EXAMPLE = torch.zeros(2, 71, 83, 3, dtype=torch.uint8)  # of one image, the number would be taken as fixed
DYNAMIC = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}  # N, H, W

Compute = Callable[[np.ndarray], np.ndarray]  # images -> probabilities, by the file
ToBytes = Callable[[str], bytes]  # metadata -> the file


class Exported(nn.Module):
    """RGB images (N, H, W, 3) uint8 of any size -> probabilities (N, K) or (N, K, S, S) float32, S the training size.

    A grey image is given as three equal channels. Resizing is OpenCV's, written as two matrix products: area averaging
    where no side grows, else linear; rows and columns of padding have no weights.
    """

    scale: Tensor
    shift: Tensor
    luminance: Tensor

    def __init__(self, model: nn.Module, size_px: int, channels: int, normalization: str, resize: str) -> None:
        super().__init__()
        self.model, self.size_px, self.channels, self.resize = model, size_px, channels, resize
        scale, shift = normalizer(normalization)
        self.register_buffer("scale", torch.from_numpy(scale))
        self.register_buffer("shift", torch.from_numpy(shift))
        self.register_buffer("luminance", torch.tensor(LUMINANCE).reshape(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Compute the probabilities."""
        pixels = images.permute(0, 3, 1, 2).float()
        if self.channels == 1:
            pixels = (pixels * self.luminance).sum(dim=1, keepdim=True).round()
        height, width = images.shape[1], images.shape[2]
        sides = torch.stack([torch.ones((), dtype=torch.float64) * length for length in (height, width)])
        inside = torch.full_like(sides, self.size_px)  # see preprocessing.place
        if self.resize == LETTERBOX:
            inside = (sides * self.size_px / sides.max() + 0.5).floor().clamp(min=1)
        area = (inside[0] <= sides[0]) & (inside[1] <= sides[1])
        rows, columns = (self._weights(n, inside[k].float(), area) for k, n in enumerate((height, width)))
        resized = (rows @ pixels @ columns.T).round()
        return probabilities(self.model(resized * self.scale + self.shift))

    def _weights(self, length: int, inside: Tensor, area: Tensor) -> Tensor:
        """Return (size_px, length): the weight of each pixel of a side in each pixel of the resized, padded side."""
        step = length / inside
        i = torch.arange(self.size_px, dtype=torch.float32)[:, None] - ((self.size_px - inside) / 2).floor()
        j = torch.arange(length, dtype=torch.float32)[None]
        overlap = torch.minimum((i + 1) * step, j + 1) - torch.maximum(i * step, j)
        centre = torch.minimum(((i + 0.5) * step - 0.5).clamp(min=0), j[:, -1:])
        weights = torch.where(area, overlap.clamp(min=0) / step, (1 - (centre - j).abs()).clamp(min=0))
        return torch.where((i >= 0) & (i < inside), weights, 0)


@dataclass(frozen=True)
class Agreement:
    """How two ways of computing the validation images' probabilities compare."""

    images: int
    decisions: int  # of images, or of their pixels at the training size
    differing: int
    largest_difference: float  # of a probability

    @classmethod
    def of(cls, one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> Agreement:
        """Compare probabilities (K, …) of the same images."""
        differing = [int((a.argmax(axis=0) != b.argmax(axis=0)).sum()) for a, b in zip(one, other, strict=True)]
        largest = max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))
        return cls(len(one), sum(a[0].size for a in one), sum(differing), largest)

    def __str__(self) -> str:
        return (
            f"{self.differing:,} of {self.decisions:,} decisions on {self.images} validation images differ, "
            f"probabilities by {self.largest_difference:.1g} at most"
        )


def export_run(
    folder: Path, kind: str, output: Path, root: Path | None, trust: Sequence[str]
) -> tuple[Agreement, Agreement]:
    """Write a run's preprocessing and network, with the best epoch's weights in float32, to one file.

    Return how the graph in PyTorch agrees with Runcard's own preprocessing and network on the run's validation images,
    and the file with that graph; both are written into it. Raises UserError where they disagree; nothing is then
    written.
    """
    if output.suffix not in ("", f".{kind}"):
        raise UserError(
            f"--output={output}: does not end in .{kind}, which --format={kind} writes. Change one of them."
        )
    if output.exists():
        raise UserError(f"{output}: is there already. Name another file.")
    run = open_run(folder, trust)
    run.model.cpu().float()
    run.record["sessions"][-1]["precision"] = "32-true"  # compared in the precision of the file
    dataset = run.dataset(root)
    source = open_source(dataset, run.trust)
    images = [read_sample(source, i).image for i in run.members(source.ids, "val")[0]]  # at the size of their files
    predictor = Predictor([run])
    exported = Exported(
        run.model, dataset.image_size_px, dataset.channels, dataset.normalization, dataset.resize
    ).eval()
    own = [predictor.members[0].probabilities(predictor.prepare(image)[0][None])[0] for image in images]
    graph = _computed(_in_torch(exported), images)
    preprocessing = Agreement.of(own, graph)
    if preprocessing.differing > MAX_DIFFERING * preprocessing.decisions:
        raise UserError(f"{folder}: its preprocessing cannot be exported: {preprocessing}.")
    metadata = {
        "classes": predictor.classes,
        "resize": dataset.resize,
        "window": list(run.window),
        "images": predictor.trained_on,
        "config": run.config,
        "input": "images: uint8 (N, H, W, 3), RGB, a grey image as three equal channels; any size",
        "output": "probabilities: float32 (N, K), or (N, K, S, S) at the training size S; letterbox: with the padding",
    }
    compute, to_bytes = FORMATS[kind](exported)
    agreement = Agreement.of(graph, _computed(compute, images))
    if agreement.largest_difference > TOLERANCE:
        raise UserError(f"{output}: disagrees with PyTorch, so it was not written: {agreement}.")
    verified = {"graph": asdict(preprocessing), "file": asdict(agreement)}
    content = to_bytes(json.dumps(metadata | {"verified": verified}))
    with atomic_write(output) as temporary:
        temporary.write_bytes(content)
    return preprocessing, agreement


def _computed(compute: Compute, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Compute the probabilities of images one by one, since their sizes differ."""
    return [compute(with_channels(image, 3)[None])[0] for image in images]


def _onnx(exported: Exported) -> tuple[Compute, ToBytes]:
    import onnxruntime

    with _quiet():
        program = torch.onnx.export(
            exported,
            (EXAMPLE,),
            dynamo=True,
            dynamic_shapes=(DYNAMIC,),
            input_names=["images"],
            output_names=["probabilities"],
        )
    assert program is not None
    proto = program.model_proto
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])

    def to_bytes(metadata: str) -> bytes:
        entry = proto.metadata_props.add()
        entry.key, entry.value = METADATA, metadata
        return bytes(proto.SerializeToString())

    return lambda images: np.asarray(session.run(None, {"images": images})[0]), to_bytes


def _pt2(exported: Exported) -> tuple[Compute, ToBytes]:
    program = torch.export.export(exported, (EXAMPLE,), dynamic_shapes=(DYNAMIC,))

    def to_bytes(metadata: str) -> bytes:
        content = io.BytesIO()
        with warnings.catch_warnings():  # harmless: the weights lie on the CPU
            warnings.filterwarnings("ignore", "No complete tensor found in the group", UserWarning)
            torch.export.save(program, content, extra_files={METADATA: metadata})
        return content.getvalue()

    return _in_torch(program.module()), to_bytes


def _safetensors(exported: Exported) -> tuple[Compute, ToBytes]:
    """Write the weights alone; the metadata says which class of model they are of."""
    weights = {name: tensor.contiguous() for name, tensor in exported.model.state_dict().items()}
    exported.model.load_state_dict(read_safetensors(write_safetensors(weights)), strict=True)
    return _in_torch(exported), lambda metadata: write_safetensors(weights, {METADATA: metadata})


def _in_torch(module: nn.Module) -> Compute:
    @torch.no_grad()
    def compute(images: np.ndarray) -> np.ndarray:
        return np.asarray(module(torch.from_numpy(images)))

    return compute


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporter, which prints its progress and warns of its own internals, as that Triton is missing."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


FORMATS = {"onnx": _onnx, "pt2": _pt2, "safetensors": _safetensors}
