"""The CLAIM 2024 checklist, and what the record of a run says to each of its items.

Items are paraphrased. Their numbers and order are from a transcription of the checklist by others, not from
the article itself; the card asks its author to check them there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

SOURCE = (
    "Tejani A S, Klontzas M E, Gatti A A, et al. Checklist for Artificial Intelligence in Medical Imaging (CLAIM): "
    "2024 Update. Radiology: Artificial Intelligence 6 (2024) e240300. https://doi.org/10.1148/ryai.240300"
)


class Item(NamedTuple):
    """An item of the checklist, paraphrased, with a template that rows of a model card fill."""

    number: int
    section: str
    item: str
    template: str

    def fill(self, texts: Mapping[str, str]) -> str:
        """Replace each {name} of the template by the card's row of that name."""
        return self.template.format_map(texts)


CHECKLIST = (
    Item(
        1,
        "Title",
        "names the study as one of AI, and the technique",
        "author; technique: deep learning, {technique}",
    ),
    Item(2, "Abstract", "summary of design, methods, results and conclusions", "author"),
    Item(3, "Introduction", "background, intended use and role of the model", "author"),
    Item(4, "Introduction", "aims, objectives, hypotheses", "author"),
    Item(5, "Study design", "prospective or retrospective", "author"),
    Item(6, "Study design", "goal of the study", "author"),
    Item(7, "Data", "sources of the data", "{dataset}; data hash {data hash}; author: origin, links, dates"),
    Item(8, "Data", "inclusion and exclusion criteria", "author"),
    Item(9, "Data", "preprocessing", "{preprocessing}"),
    Item(10, "Data", "selection of parts of the data", "author"),
    Item(11, "Data", "de-identification", "author"),
    Item(12, "Data", "missing data", "{left out} left out for faults of their files; author: all else"),
    Item(13, "Data", "image acquisition", "training files: {files}; author: devices and protocol"),
    Item(14, "Reference standard", "definition", "{targets}; author: how it was obtained"),
    Item(15, "Reference standard", "why this one", "author"),
    Item(16, "Reference standard", "annotators and their qualification", "author"),
    Item(17, "Reference standard", "annotation of the test images", "author"),
    Item(18, "Reference standard", "variability between and within annotators", "author"),
    Item(
        19,
        "Data partitions",
        "how images were assigned to partitions",
        "{split}; training: {training}; validation: {validation}; test: {test}",
    ),
    Item(20, "Data partitions", "level at which partitions are disjoint", "{disjoint}"),
    Item(21, "Testing data", "intended sample size", "evaluated on {evaluated on}; author: how the size was chosen"),
    Item(22, "Model", "architecture, inputs and outputs", "{architecture}; input {input}; output {output}"),
    Item(23, "Model", "software and versions", "{packages}"),
    Item(24, "Model", "initial values of the parameters", "{initial weights}"),
    Item(
        25,
        "Training",
        "training approach and hyperparameters",
        "{loss}; {optimizer}; {scheduler}; augmentation: {augmentation}; {batches}; epochs: {epochs}; seed {seed}",
    ),
    Item(26, "Training", "selection of the final model", "{selection}"),
    Item(27, "Training", "ensembling", "none: this card describes one network"),
    Item(28, "Evaluation", "metrics of performance", "{metrics}"),
    Item(29, "Evaluation", "uncertainty and significance", "{intervals}"),
    Item(30, "Evaluation", "robustness or sensitivity analysis", "not recorded"),
    Item(31, "Evaluation", "explainability", "{explanation}"),
    Item(32, "Evaluation", "internal testing", "{evaluated on}; {primary result}"),
    Item(33, "Evaluation", "external testing", "not recorded"),
    Item(34, "Evaluation", "trial registration", "author"),
    Item(
        35,
        "Results: data",
        "numbers included and excluded",
        "training: {training}; validation: {validation}; test: {test}; left out: {left out}; author: before that",
    ),
    Item(36, "Results: data", "demographic and clinical characteristics by partition", "author"),
    Item(37, "Results: performance", "performance on each partition", "{primary result}; the table under Results"),
    Item(38, "Results: performance", "diagnostic performance and its precision", "the table under Results"),
    Item(39, "Results: performance", "analysis of failures", "{failures}; author: their causes"),
    Item(40, "Discussion", "limitations", "{limits}; author: all else"),
    Item(41, "Discussion", "implications for practice, intended use", "author"),
    Item(42, "Other information", "full protocol or technical details", "run.json, config hash {config hash}; author"),
    Item(
        43,
        "Other information",
        "availability of software, model and data",
        "commit {commit}; weights SHA-256 {weights SHA-256}; author: where they are",
    ),
    Item(44, "Other information", "funding", "author"),
)
