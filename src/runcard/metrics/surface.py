"""Distances between the outlines of predicted and true masks: Hausdorff 95 and the average surface distance.

The surface of a mask is its pixels that touch its outside through one of their four sides; beyond the image's border
is outside, so that a lung cut off by the border has a surface there too (as in MedPy and MONAI). With P and T the
surfaces of prediction and truth, d(p, T) is the Euclidean distance of a pixel p to the nearest pixel of T.

Hausdorff's distance, the largest of all d (Huttenlocher, Klanderman and Rucklidge 1993,
https://doi.org/10.1109/34.232073), depends on a single pixel; a quantile in place of the maximum does not (Taha and
Hanbury 2015, https://doi.org/10.1186/s12880-015-0068-x).

Both metrics receive probabilities (N, K, H, W) with K >= 2 and targets (N, H, W) int64, the predicted class being the
most probable one, and compute a vector (N,): the mean over the foreground classes 1 .. K-1. Distances are in mm where
pixel_size gives the height and width of each image's pixels, else in pixels. Two empty masks give 0. One empty mask
gives the image's diagonal, more than any distance of two pixels but finite, so that an early epoch that predicts
nothing still has a mean. Pixels whose target is ignore_index are background in both masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from runcard.errors import check_number

Mask = NDArray[np.bool_]  # (H, W)
Distances = NDArray[np.float64]  # (surface pixels,)
SMALLEST_PIXEL_MM = 1e-6  # a nanometre


def surface(mask: Mask) -> NDArray[np.int64]:
    """Find the pixels (P, 2) of a mask that have one of their four neighbours outside the mask or the image."""
    return np.argwhere(mask & ~binary_erosion(mask))


def surface_distances(
    prediction: Mask, truth: Mask, pixel_size: NDArray[np.float64] | Sequence[float] = (1.0, 1.0)
) -> tuple[Distances, Distances]:
    """Compute d(p, T) of every surface pixel p of the prediction, and d(t, P) of the truth, in the unit of pixel_size.

    pixel_size is the height and width of a pixel. With an empty mask both are a single distance: 0 where both masks are
    empty, else the image's diagonal.
    """
    if not prediction.any() or not truth.any():
        apart = math.hypot(*np.multiply(truth.shape, pixel_size)) if prediction.any() or truth.any() else 0.0
        return np.array([apart]), np.array([apart])
    ours, theirs = surface(prediction) * pixel_size, surface(truth) * pixel_size
    # Trees of the surfaces give the same distances as transforms of the image, in a third of the time at 256 px.
    return KDTree(theirs).query(ours)[0], KDTree(ours).query(theirs)[0]


class _SurfaceDistances(Metric):
    """Both distances of each image and class. A MetricCollection shares this one state.

    pixel_mm: the side of a pixel in mm, at the size that the model sees, of data without a spacing of their own. The
    attribute pixel_size is set before each update, see training.evaluation.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    per_image = True
    bounds = (0.0, None)  # None: no bound
    ignore_index: int | None = None  # set by training.evaluation.leave_out_ignored
    pixel_size: Tensor | None = None  # (N, 2): height and width of the pixels of each image of a batch; None: 1
    # (N, K-1, 2) each, in the unit of pixel_size: hausdorff 95, average. A unique name, see runcard.metrics.log_loss.
    surface_distances: list[Tensor]

    def __init__(self, pixel_mm: float | None) -> None:
        super().__init__()
        self.pixel_mm = None if pixel_mm is None else check_number("pixel_mm", pixel_mm, SMALLEST_PIXEL_MM)
        self.add_state("surface_distances", default=[], dist_reduce_fx="cat")

    def update(self, probs: Tensor, targets: Tensor) -> None:
        """Add a batch: probabilities (N, K, H, W), targets (N, H, W) int64."""
        predicted = probs.max(dim=1).indices
        if self.ignore_index is not None:
            predicted = predicted.where(targets != self.ignore_index, 0)
        predictions = predicted.cpu().numpy()
        sizes = np.ones((len(targets), 2)) if self.pixel_size is None else self.pixel_size.numpy()
        measured = [
            [_summary(*surface_distances(prediction == k, truth == k, size)) for k in range(1, probs.shape[1])]
            for prediction, truth, size in zip(predictions, targets.cpu().numpy(), sizes, strict=True)
        ]
        self.surface_distances.append(torch.tensor(measured, device=probs.device))

    def measured(self) -> tuple[Tensor, Tensor]:
        """Return Hausdorff 95 and average distance, each (N,), foreground means, in mm where a size is known."""
        hausdorff, average = dim_zero_cat(self.surface_distances).mean(dim=1).unbind(dim=1)
        unit = 1.0 if self.pixel_mm is None else self.pixel_mm
        return hausdorff * unit, average * unit


def _summary(of_prediction: Distances, of_truth: Distances) -> tuple[float, float]:
    """Compute the larger of the two 95th percentiles, and the mean over all surface pixels of both."""
    hausdorff = max(np.percentile(distances, 95) for distances in (of_prediction, of_truth))
    return float(hausdorff), float(np.concatenate([of_prediction, of_truth]).mean())


class HausdorffDistance95(_SurfaceDistances):
    """Per image: max(q95 of d(p, T) over P, q95 of d(t, P) over T), foreground mean, with q95 the 95th percentile.

    The larger of the two directed percentiles, as in MONAI; MedPy's hd95 is one percentile of both directions' pixels.
    """

    def compute(self) -> Tensor:
        """Compute one value per image, (N,), >= 0."""
        return self.measured()[0]


class AverageSurfaceDistance(_SurfaceDistances):
    """Per image: (sum of d(p, T) over P + sum of d(t, P) over T) / (|P| + |T|), foreground mean.

    The symmetric form (Heimann et al. 2009, https://doi.org/10.1109/TMI.2009.2013851), also called ASSD.
    """

    def compute(self) -> Tensor:
        """Compute one value per image, (N,), >= 0."""
        return self.measured()[1]
