"""Which pictures of a run are made, and when: the first batch, predictions as training goes, previews at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from runcard.data.image_io import preview_name, without_suffix
from runcard.data.loaders import BatchLoader
from runcard.experiment.setup import ExperimentSetup
from runcard.figures.charts import confusion_figure
from runcard.figures.predictions import Example, batch_figure, class_figure, mask_figure, preview
from runcard.fileio import atomic_write, write_figure
from runcard.inference.evaluate import predicted_examples
from runcard.interrupts import unmasked
from runcard.training.types import Evaluation

MAX_PREVIEWS = 500
MAX_REASON = 120  # characters of a warning
MAX_PR_PIXELS = 4_000_000
MAX_TILES = 8  # images of a batch or of classes shown in one figure


def first_batch(setup: ExperimentSetup) -> Figure:
    """Draw the first training batch of the first epoch, augmented, exactly as it will be trained on."""
    setup.loaders.train_sampler.set_epoch(1)
    keys = islice(setup.loaders.train_sampler, min(setup.train.batch_size, MAX_TILES))
    loader = setup.loaders.train
    batch = loader.prepare(loader.dataset.__getitems__(list(keys)))
    return batch_figure(batch.images.cpu().numpy(), batch.targets.cpu().numpy(), setup.data.classes)


@contextmanager
def only_warned_of(what: str) -> Iterator[None]:
    """Print a warning where the block, which makes a picture, fails: no training is lost for a picture.

    An interrupt is none of its failures, even where a library has made another error of it.
    """
    try:
        with unmasked():
            yield
    except Exception as error:
        reason = str(error).partition("\n")[0]
        print(f"warning: no {what}: {type(error).__name__}: {reason[:MAX_REASON]}", flush=True)


@dataclass(frozen=True)
class Outcomes:
    """What a model makes of all validation images, or of all pixels where they have masks."""

    confusion: np.ndarray  # (K, K) int64: true class, predicted class
    # For a precision-recall curve: whether each belongs to the positive class, and its probability. Of masks an even
    # sample of at most MAX_PR_PIXELS; empty where there is no positive class.
    is_positive: np.ndarray  # bool
    scores: np.ndarray  # float32


class PredictionFigures:
    """Draws from the model as it is now; during training train.pictures times, evenly spread over its epochs."""

    def __init__(self, setup: ExperimentSetup) -> None:
        self.model = setup.network
        self.samples, self.loaders = setup.data.samples, setup.loaders
        self.val_indices = setup.data.split["val"][: len(setup.loaders.val.sampler)]  # type: ignore[arg-type]
        self.classes, self.positive = setup.data.classes, setup.data.positive
        self.metric, self.mode = setup.monitor.name.partition("/")[2], setup.monitor.mode
        evaluated = [epoch for epoch in range(1, setup.train.epochs + 1) if setup.train.is_evaluated(epoch)]
        times = 0 if setup.is_lean else min(setup.train.pictures, len(evaluated))
        self.epochs = {evaluated[i] for i in np.linspace(0, len(evaluated) - 1, times).round().astype(int)}

    def epoch(self, epoch: int, val: Evaluation) -> dict[str, Figure]:
        """Return the figures due after this epoch, by tag: best, median and worst of validation."""
        if epoch in self.epochs:
            with only_warned_of(f"predictions of epoch {epoch}"):
                return {"val/predictions": self.predictions(val)}
        return {}

    def predictions(self, val: Evaluation) -> Figure:
        """Draw the best, median and worst mask; or classified images from surest wrong to surest right."""
        if not self.samples.has_masks:
            assert val.probs is not None
            truth = val.probs[torch.arange(len(val.indices)), torch.as_tensor(self.samples.targets[val.indices])]
            order = truth.argsort(stable=True).tolist()
            chosen = np.linspace(0, len(order) - 1, min(MAX_TILES, len(order))).round().astype(int)
            examples = self._examples([val.indices[order[i]] for i in chosen])
            return class_figure(list(examples), self.classes)
        name, mode = (self.metric, self.mode) if self.metric in val.per_image else ("loss", "min")
        order = val.per_image[name].argsort(descending=mode == "max", stable=True).tolist()
        places = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
        titles = [f"{place}: {name} {val.per_image[name][i]:.3f}  " for place, i in places.items()]
        examples = self._examples([val.indices[i] for i in places.values()])
        return mask_figure([replace(e, title=t + e.title) for t, e in zip(titles, examples, strict=True)])

    def write(self, folder: Path, val: Evaluation, epoch: str) -> tuple[Outcomes, Figure | None]:
        """Write previews/ and figures/ with predictions and confusion; return what was counted, and its figure.

        epoch says of which epoch the weights are, for the title.
        """
        with only_warned_of("figures/predictions.png"):
            write_figure(folder / "figures" / "predictions.png", self.predictions(val))
        outcomes, confusion = self.write_previews(folder), None
        with only_warned_of("figures/confusion.png"):
            counted = f"{outcomes.confusion.sum():,} {'pixels' if self.samples.has_masks else 'images'}"
            confusion = confusion_figure(outcomes.confusion, self.classes, f"validation, {epoch}: {counted}")
            write_figure(folder / "figures" / "confusion.png", confusion)
        return outcomes, confusion

    def write_previews(self, folder: Path) -> Outcomes:
        """Write a preview of each validation image, and return what the same pass over them counts.

        Its name is the id without the suffix of an image file, unless two ids of the data would share it.
        """
        num_classes = len(self.classes)
        stride = 1 + len(self.val_indices) * self.samples.targets[0].size // MAX_PR_PIXELS
        confusion = np.zeros(num_classes**2, np.int64)
        truth, scores = [np.zeros(0, bool)], [np.zeros(0, np.float32)]
        stems = Counter(map(without_suffix, self.samples.ids))
        for i, example in enumerate(self._examples(self.val_indices)):
            if i < MAX_PREVIEWS:
                stem = without_suffix(example.title)
                name = stem if stems[stem] == 1 else example.title
                path = folder / "previews" / preview_name(name)
                with only_warned_of(f"preview of {name[:MAX_REASON]}"), atomic_write(path) as temporary:
                    picture = Image.fromarray(preview(example, self.classes))
                    picture.save(temporary, compress_level=1)  # twice as fast
            probs, target = example.labelled()
            cells = num_classes * target.astype(np.int64) + probs.argmax(axis=0)
            confusion += np.bincount(cells, minlength=num_classes**2)
            if self.positive is not None:
                truth.append(target[::stride] == self.positive)
                scores.append(probs[self.positive, ::stride])
        return Outcomes(confusion.reshape(num_classes, -1), np.concatenate(truth), np.concatenate(scores))

    def _examples(self, indices: Sequence[int]) -> Iterator[Example]:
        """Yield the named samples with the model's probabilities for them, titled by id."""
        val = self.loaders.val
        loader = BatchLoader(val.dataset, val.batch_size, [(0, i) for i in indices], val.device)
        return predicted_examples(self.model, loader, self.samples)
