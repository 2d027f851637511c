"""The shortcut probe: does a classifier read the anatomy, or what is printed and left around it?

Films carry letters, labels, rulers and frames. Where these go with the class (one hospital, one machine, one side), a
network learns them, and validation on the same films rewards it. The probe shows the model each image twice more: with
such a region painted over, and with nothing of its own but that region. A model that reads the region is less sure of
the truth in the first and still tells the class in the second. What counts as a region is seen from the image alone.

Neither is judged by accuracy at the usual threshold: a model that reads markers and fractures is still right without
either, and the film that surrounds a lone region, being nobody's, may look to the model like one class throughout.
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
TINY = 1e-30  # in place of a probability of 0, before a logarithm or a division
LEAST_LOST = 0.2  # of the evidence: less raises no alarm. On phantoms 0.6 or more where a marker is read, else 0.08


@dataclass(frozen=True)
class Finding:
    """What the probe found about one kind of region, and what follows from it."""

    region: str
    num_images: int
    num_showing: int  # images that have such a region
    area: dict[str, float | None]  # class -> mean share of the image; None where no image is of the class
    heat: dict[str, float | None]  # class -> mean share of a map's heat; None where no map of the class has any
    accuracy: float  # of the images as they are
    accuracy_masked: float  # with the region painted over
    accuracy_alone: float  # with nothing of the image but the region; see of_regions_alone
    majority: str
    majority_share: float  # the accuracy of always saying majority
    num_losable: int  # images that show the region and are right as they are
    evidence_lost: float  # mean loss of the true class's log-odds by painting over, as a share of their mean size
    p_masked: float  # the chance of such losses if they went either way alike: Wilcoxon's signed rank test, one-sided

    @property
    def p_alone(self) -> float:
        """Returns the chance that always saying majority does as well as the region alone: exact, one-sided."""
        return _chance(round(self.accuracy_alone * self.num_images), self.num_images, self.majority_share)

    @property
    def alarm(self) -> bool:
        """Whether the model reads the region: it tells the class by itself, and the rest is weaker evidence without it.

        Both, because a frame holds some anatomy, which may tell the class, and painting over may hurt by itself.
        """
        return self.p_alone < ALPHA and self.p_masked < ALPHA and self.evidence_lost >= LEAST_LOST

    @property
    def blind(self) -> bool:
        """Whether even a model that read nothing but the region would raise no alarm: silence then means nothing.

        Alone, the region would give such a model the accuracy that it has, and without it every image would lose, which
        has a chance of one half for each if losses go either way alike.
        """
        p_alone = _chance(round(self.accuracy * self.num_images), self.num_images, self.majority_share)
        return max(p_alone, 0.5**self.num_losable) >= ALPHA

    @property
    def sentence(self) -> str:
        """Returns the finding as text."""
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
        """Returns the fields and what follows from them, as numbers, words and dicts of these."""
        derived = ("p_alone", "alarm", "blind", "sentence")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def probe(
    images: np.ndarray,
    targets: np.ndarray,
    probs: np.ndarray,
    maps: np.ndarray,
    classes: Sequence[str],
    predict: Predict,
) -> list[Finding]:
    """Returns a finding per kind of region, for at least one image that the model was not trained on.

    images (N, H, W, C) uint8; targets (N,) class indices; probs (N, K) of the images as they are; maps (N, H, W) >= 0,
    what spoke for the predicted classes; predict normalises images as for training.
    """
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
                num_showing=int(showing.sum()),
                area=_per_class(regions.mean(axis=(1, 2)), targets, classes),
                heat=_per_class((maps * regions).sum(axis=(1, 2)) / total_heat, targets, classes),
                accuracy=float(right.mean()),
                accuracy_masked=float((probs_masked.argmax(axis=1) == targets).mean()),
                accuracy_alone=float((decisions == targets).mean()),
                majority=classes[int(shares.argmax())],
                majority_share=float(shares.max()),
                num_losable=int((right & showing).sum()),
                evidence_lost=float(loss.sum() / max(np.abs(evidence[showing]).sum(), TINY)),
                p_masked=float(wilcoxon(loss, alternative="greater").pvalue) if loss.any() else 1.0,
            )
        )
    return findings


def of_regions_alone(probs: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Returns the decisions (N,) on images that left_alone made, for probs (N, K) and the classes' shares (K,).

    What the average film itself speaks for is taken away from the log-probabilities, and the classes' shares are put
    in its place. Regions that say nothing then leave the majority.
    """
    logs = np.log(np.maximum(probs.astype(np.float64), TINY))
    decisions: np.ndarray = (logs - logs.mean(axis=0) + np.log(np.maximum(shares, TINY))).argmax(axis=1)
    return decisions


def log_odds(probs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns (N,) float64: how much probs (N, K) speak for the true class against all others, in nats."""
    is_true = np.eye(probs.shape[1], dtype=bool)[targets]
    true, others = (np.where(where, probs, 0).sum(axis=1, dtype=np.float64) for where in (is_true, ~is_true))
    odds: np.ndarray = np.log(np.maximum(true, TINY)) - np.log(np.maximum(others, TINY))
    return odds


def _chance(successes: int, trials: int, rate: float) -> float:
    """Returns the chance of at least so many successes."""
    return float(binomtest(successes, trials, rate, alternative="greater").pvalue)


def _per_class(shares: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> dict[str, float | None]:
    """Returns the mean share (N,) over the images of each class, leaving out NaN."""
    known = [shares[(targets == index) & ~np.isnan(shares)] for index in range(len(classes))]
    return {name: float(of.mean()) if of.size else None for name, of in zip(classes, known, strict=True)}
