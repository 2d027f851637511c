"""How well one property of an image predicts its class, or its split."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import chi2_contingency
from scipy.stats.contingency import crosstab

MAX_BINS = 6  # for numbers with more distinct values
MAX_P = 1e-4  # strict, because a dozen properties of many datasets are tested
MIN_GAIN = 0.15  # of balanced accuracy above chance
MIN_SPREAD = 0.02  # range of numbers, relative to the largest magnitude; at or below it they count as equal


class Association(NamedTuple):
    """The association of a property with the label."""

    balanced_accuracy: float  # of predicting for every value the label of which it holds the largest share
    chance: float  # the same of guessing
    p: float  # of the chi-squared test of independence (Pearson 1900)

    def __str__(self) -> str:
        return f"balanced accuracy {self.balanced_accuracy:.2f}, a guess {self.chance:.2f}, p = {self.p:.0e}"

    @property
    def is_predictive(self) -> bool:
        """Whether the property predicts the label better than chance, and well enough to matter."""
        return self.p < MAX_P and self.balanced_accuracy - self.chance > MIN_GAIN


def association(values: np.ndarray, labels: np.ndarray) -> Association | None:
    """Measure how well values (N,) predict labels (N,), one of each per image; None where either are all the same.

    Numbers with many distinct values are cut into MAX_BINS bins of equal size. Numbers that hardly differ give None.
    """
    if not len(values):
        return None
    if np.issubdtype(values.dtype, np.number):
        if np.ptp(values) <= MIN_SPREAD * np.abs(values).max():
            return None
        if len(np.unique(values)) > MAX_BINS:
            edges = np.unique(np.quantile(values, np.linspace(0, 1, MAX_BINS + 1)[1:-1]))
            values = np.searchsorted(edges, values, side="right")
    table = crosstab(values, labels).count  # a row for each value, a column for each label
    if min(table.shape) < 2:
        return None
    share_of_label = table / table.sum(axis=0)
    accuracy = share_of_label.max(axis=1).sum() / table.shape[1]  # each value predicts the label of its largest share
    return Association(float(accuracy), 1 / table.shape[1], float(chi2_contingency(table).pvalue))
