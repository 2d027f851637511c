"""The shortcut probe: test whether a classifier uses printed markers and frames instead of the anatomy.

Radiographs contain letters, labels, rulers and frames. If these are associated with the class (one hospital, one
machine, one side), a network learns them, and validation on similar images rewards it. The probe evaluates each image
twice more: with such a region painted over, and with only that region kept. A model that uses the region is less
certain of the true class in the first case, and still predicts it in the second. Regions are detected from the image.

Accuracy at the usual threshold would not show either effect: a model that uses both markers and fractures is still
right without one of them, and the average image around an isolated region may look to the model like one class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, wilcoxon

from runcard.explain.regions import REGIONS, left_alone, painted_over

Predict = Callable[[np.ndarray], np.ndarray]  # images (N, H, W, C) uint8 -> probabilities (N, K)

ALPHA = 0.01  # of each of the two tests that an alarm needs
TINY = 1e-30  # replaces a probability of 0 before a logarithm or a division
LEAST_LOST = 0.2  # of the evidence, for an alarm. On phantoms: at least 0.6 if a marker is used, else 0.08


@dataclass(frozen=True)
class Finding:
    """The probe's result for one kind of region."""

    region: str
    num_images: int
    num_units: int  # patients; images where no patients are known. The tests count these
    num_showing: int  # images with such a region
    area: dict[str, float | None]  # class -> mean share of the image; None without images of the class
    heat: dict[str, float | None]  # class -> mean share of a map's heat; None if no map of the class has any
    accuracy: float  # of the unchanged images
    accuracy_masked: float  # with the region painted over
    accuracy_alone: float  # with only the region kept; see of_regions_alone
    majority: str
    majority_share: float  # the accuracy of always predicting majority
    num_losable: int  # units with an image that shows the region and is classified correctly unchanged
    evidence_lost: float  # mean loss of the true class's log-odds by painting over, as a share of their mean size
    p_masked: float  # of such mean losses per unit if gains were as likely: Wilcoxon's signed-rank test, one-sided

    @property
    def p_alone(self) -> float:
        """The probability that always predicting majority does as well as the region alone: exact, one-sided."""
        return _chance(round(self.accuracy_alone * self.num_units), self.num_units, self.majority_share)

    @property
    def alarm(self) -> bool:
        """Whether the model uses the region: it predicts the class alone, and removing it weakens the evidence.

        Both are required, because a frame contains some anatomy, and painting over may itself weaken the evidence.
        """
        return self.p_alone < ALPHA and self.p_masked < ALPHA and self.evidence_lost >= LEAST_LOST

    @property
    def blind(self) -> bool:
        """Whether even a model that uses only the region would raise no alarm, so that its absence means nothing.

        The region alone would give such a model its full accuracy, and painting it over would lower the evidence of
        every unit, each with probability one half under the null hypothesis.
        """
        p_alone = _chance(round(self.accuracy * self.num_units), self.num_units, self.majority_share)
        return max(p_alone, 0.5**self.num_losable) >= ALPHA

    @property
    def sentence(self) -> str:
        """The finding as text."""
        name, always = self.region, f"(always '{self.majority}': {self.majority_share:.2f})"
        if not self.num_showing:
            return f"no {name} found on these {self.num_images} images."
        if self.blind and not self.alarm:
            return (
                f"too few images to say, or too low an accuracy: {self.accuracy:.2f} {always} on {self.num_images} "
                f"images, {self.num_showing} with {name}. A model that read nothing but the {name} would go unnoticed."
            )
        measured = (
            f"from the {name} alone accuracy is {self.accuracy_alone:.2f} {always}; with the {name} painted over it is "
            f"{self.accuracy_masked:.2f} instead of {self.accuracy:.2f}, and the truth's log-odds are "
            f"{max(0.0, self.evidence_lost):.0%} lower."
        )
        if self.alarm:
            return f"shortcut: {measured} The model reads the {name}."
        if self.p_alone < ALPHA:
            return f"not clear: {measured} The model tells the class by the {name}, but was not seen to lean on that."
        return f"no shortcut seen: {measured}"

    def to_json(self) -> dict[str, Any]:
        """Convert the fields and derived properties to plain values."""
        derived = ("p_alone", "alarm", "blind", "sentence")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def probe(
    images: np.ndarray,
    targets: np.ndarray,
    probs: np.ndarray,
    maps: np.ndarray,
    classes: Sequence[str],
    predict: Predict,
    groups: Sequence[str] | None = None,
) -> list[Finding]:
    """Run the probe for every kind of region, on at least one image that the model was not trained on.

    images (N, H, W, C) uint8; targets (N,) class indices; probs (N, K) of the unchanged images; maps (N, H, W) >= 0,
    the evidence for the predicted classes; predict normalises images as for training. groups are the images' patients,
    None where every image stands for itself: images of one patient are alike, so the tests count patients.
    """
    units = np.unique(groups if groups is not None else range(len(images)), return_inverse=True)[1]
    shares = np.bincount(targets, minlength=len(classes)) / len(targets)
    total_heat = maps.sum(axis=(1, 2), dtype=np.float64)
    total_heat[total_heat == 0] = np.nan
    right, evidence = probs.argmax(axis=1) == targets, log_odds(probs, targets)
    findings = []
    for name, find in REGIONS.items():
        regions = np.stack([find(image) for image in images])
        showing = regions.any(axis=(1, 2))
        masked = np.stack([painted_over(image, region) for image, region in zip(images, regions, strict=True)])
        average = masked.mean(axis=0).round().astype(np.uint8)
        alone = left_alone(images[showing], regions[showing], average)
        said = predict(np.concatenate([masked[showing], alone, average[None]]))
        probs_masked, probs_alone = probs.copy(), np.repeat(said[-1:], len(images), axis=0)
        probs_masked[showing], probs_alone[showing] = np.split(said[:-1], 2)
        loss = (evidence - log_odds(probs_masked, targets))[showing]
        decisions = of_regions_alone(probs_alone, shares)
        findings.append(
            Finding(
                region=name,
                num_images=len(images),
                num_units=len(set(units.tolist())),
                num_showing=int(showing.sum()),
                area=_per_class(regions.mean(axis=(1, 2)), targets, classes),
                heat=_per_class((maps * regions).sum(axis=(1, 2)) / total_heat, targets, classes),
                accuracy=float(right.mean()),
                accuracy_masked=float((probs_masked.argmax(axis=1) == targets).mean()),
                accuracy_alone=float((decisions == targets).mean()),
                majority=classes[int(shares.argmax())],
                majority_share=float(shares.max()),
                num_losable=len(set(units[right & showing].tolist())),
                evidence_lost=float(loss.sum() / max(np.abs(evidence[showing]).sum(), TINY)),
                p_masked=_p_of_losses(loss, units[showing]),
            )
        )
    return findings


def of_regions_alone(probs: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Decide the classes (N,) of images from left_alone, by probs (N, K) and the classes' shares (K,).

    The log-probabilities are centred over the images, which removes what they have in common, and the classes' shares
    are added as a prior. Regions without evidence then give the majority class.
    """
    logs = np.log(np.maximum(probs.astype(np.float64), TINY))
    decisions: np.ndarray = (logs - logs.mean(axis=0) + np.log(np.maximum(shares, TINY))).argmax(axis=1)
    return decisions


def log_odds(probs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Compute (N,) float64: the log-odds of the true class against all others in probs (N, K), in nats."""
    is_true = np.eye(probs.shape[1], dtype=bool)[targets]
    true, others = (np.where(where, probs, 0).sum(axis=1, dtype=np.float64) for where in (is_true, ~is_true))
    odds: np.ndarray = np.log(np.maximum(true, TINY)) - np.log(np.maximum(others, TINY))
    return odds


def _p_of_losses(loss: np.ndarray, units: np.ndarray) -> float:
    """Test whether the losses (N,) are above 0, averaged over the images of each unit (N,)."""
    means = np.bincount(units, loss)[np.unique(units)] / np.bincount(units)[np.unique(units)] if len(units) else loss
    return float(wilcoxon(means, alternative="greater").pvalue) if means.any() else 1.0


def _chance(successes: int, trials: int, rate: float) -> float:
    """Compute the probability of at least so many successes."""
    return float(binomtest(successes, trials, rate, alternative="greater").pvalue)


def _per_class(shares: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> dict[str, float | None]:
    """Average shares (N,) over the images of each class, leaving out NaN."""
    known = [shares[(targets == index) & ~np.isnan(shares)] for index in range(len(classes))]
    return {name: float(of.mean()) if of.size else None for name, of in zip(classes, known, strict=True)}
