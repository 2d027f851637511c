"""The report's charts as Vega-Lite, rendered by the browser, and by vl-convert as PNG and SVG.

Charts refer to their tables by name; a page holds each table once, as CSV, however many charts share it. Lines and text
are drawn in currentColor, so that a chart follows the page's light or dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt
import numpy as np
import vl_convert

from runcard.compare import learning_curves
from runcard.compare.arms import Arm
from runcard.compare.contrasts import Answer, Paired
from runcard.compare.measures import title
from runcard.fileio import csv_text

VEGA_LITE = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
# Safe for colour-blind readers, on white and on black (Okabe and Ito 2008, without black and yellow).
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
NEITHER = "#888888"
HEIGHT_PX = 260
PNG_WIDTH_PX = 560
MAX_NAMED = 5  # images at one point of a chart that are listed by name
PAIRS = ("\0name0", "\0name1", "\0colour0", "\0colour1")  # see _blanks
NUMBERS = ("\0low", "\0high", "\0most")
INK = ("labelColor", "titleColor", "domainColor", "tickColor", "gridColor")
CONFIG: dict[str, Any] = {
    "font": "Liberation Sans, Arial, sans-serif",
    "view": {"stroke": None},
    "axis": dict.fromkeys(INK, "currentColor")
    | {
        "gridOpacity": 0.12,
        "domainOpacity": 0.4,
        "tickOpacity": 0.4,
        "titleFontWeight": "normal",
        "tickCount": 6,
        "labelOverlap": True,
    },
    "legend": {"labelColor": "currentColor", "labelLimit": 260, "orient": "top", "title": None}
    | {"symbolType": "stroke", "symbolStrokeWidth": 3, "symbolOpacity": 1},
}
PAGE_CONFIG = CONFIG | {"background": None, "legend": {"disable": True}}  # one legend serves all charts of a pair


@dataclass(frozen=True)
class Chart:
    """A chart as a Vega-Lite spec without the tables that charts share."""

    key: str  # unique among the charts of a pair of arms: curves-dice
    title: str
    caption: str  # what it shows, as text
    spec: dict[str, Any]


def colours(names: Sequence[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Assign each arm a colour for the whole report.

    An arm gets the least used colour among those that none of its partners has, or among all where none is left.
    """
    partners: dict[str, set[str]] = {name: set() for name in names}
    for first, second in pairs:
        partners[first].add(second)
        partners[second].add(first)
    chosen: dict[str, str] = {}
    for name in names:
        taken, used = {chosen[other] for other in partners[name] if other in chosen}, list(chosen.values())
        chosen[name] = min(PALETTE, key=lambda colour: (colour in taken, used.count(colour)))
    return chosen


def curve_table(arms: Sequence[Arm], name: str) -> str:
    """Tabulate a metric's curves as CSV: arm, images, epoch, mean, lowest and highest run, and each run's value.

    Curves end with the arm's shortest run: see learning_curves.band.
    """
    rows: list[tuple[Any, ...]] = []
    for arm in arms:
        for images, prefix in (("training", "train_eval"), ("validation", "val")):
            if not (band := learning_curves.band(arm, f"{prefix}/{name}")):
                continue
            epochs = zip(band.epochs.astype(int), band.mean, band.lowest, band.highest, band.runs, strict=True)
            for epoch, *shown, values in epochs:
                rows.append((arm.name, images, epoch, *map(_short, shown), ", ".join(map(_short, values))))
    return csv_text(("arm", "images", "epoch", "mean", "lowest", "highest", "each run"), rows)


def curves(metric: str, arms: Mapping[str, str], threshold: float | None = None) -> Chart:
    """Draw the curves of arms (name -> colour) from the table named metric, with a line at the threshold."""
    caption = "Mean of the runs; the band reaches from the lowest to the highest run on the validation images."
    caption += "" if threshold is None else f" Dotted: {threshold:g}."
    names, shades = _blanks("name", len(arms)), _blanks("colour", len(arms))
    known = dict(zip((*names, *shades), (*arms, *arms.values()), strict=True))
    spec = _filled(_curves(metric, names, shades, threshold), known)
    return Chart(f"curves-{metric}", f"{title(metric)} over the epochs", caption, spec)


@cache
def _curves(metric: str, names: tuple[str, ...], shades: tuple[str, ...], threshold: float | None) -> dict[str, Any]:
    data = alt.Chart(alt.NamedData(metric, format=_format("epoch", "mean", "lowest", "highest"))).transform_filter(
        alt.FieldOneOfPredicate("arm", list(names))
    )
    colour = alt.Color("arm:N", scale=alt.Scale(domain=list(names), range=list(shades)))
    dashes = alt.Scale(domain=["validation", "training"], range=[[1, 0], [4, 3]])
    epoch = alt.X("epoch:Q", axis=alt.Axis(title="epoch", grid=False, tickMinStep=1))
    mean = alt.Y("mean:Q", axis=alt.Axis(title=None), scale=alt.Scale(zero=False))
    row = ["arm", "images", "epoch"]
    near = alt.selection_point(on="pointerover", clear="pointerout", nearest=True, empty=False, fields=row)
    band = data.transform_filter("datum.images == 'validation'").mark_area(opacity=0.18)
    # The tooltip shows the whole row: with nearest, Vega-Lite 6.4 loses the texts of a tooltip that names its fields.
    points = data.mark_point(size=50, filled=True, tooltip=alt.TooltipContent("data")).add_params(near)
    layers = [
        band.encode(x=epoch, y="lowest:Q", y2="highest:Q", color=colour),
        data.mark_line(strokeWidth=1.8).encode(
            x=epoch, y=mean, color=colour, strokeDash=alt.StrokeDash("images:N", scale=dashes)
        ),
        points.encode(
            x=epoch,
            y=mean,
            color=colour,
            opacity=alt.when(near).then(alt.value(1)).otherwise(alt.value(0)),
        ),
    ]
    if threshold is not None:
        rule = alt.Chart().mark_rule(strokeDash=[2, 3], color="currentColor", opacity=0.6)
        layers.append(rule.encode(y=alt.datum(threshold)))
    return _spec(alt.layer(*layers))


def pairs(paired: Paired, arms: Mapping[str, str]) -> Chart:
    """Draw two arms (first, second; name -> colour) image by image, with the diagonal: the first along x."""
    first, second = arms
    measure = paired.measure
    sign = {"max": 1, "min": -1, None: 0}[measure.better]
    places: dict[tuple[float, float], list[str]] = {}  # where values are 0 or 1, many images share a point
    for name, x, y in zip(paired.ids, paired.first.tolist(), paired.second.tolist(), strict=True):
        places.setdefault((x, y), []).append(name)
    words = {1: first, -1: second, 0: "neither"}
    rows = [
        (x, y, len(ids), ", ".join(ids[:MAX_NAMED]) + ", …" * (len(ids) > MAX_NAMED), words[sign * ((x > y) - (x < y))])
        for (x, y), ids in places.items()
    ]
    low, high = (float(end(np.concatenate([paired.first, paired.second]))) for end in (np.min, np.max))
    known = {
        **dict(zip(PAIRS, (first, second, *arms.values()), strict=True)),
        "\0table": csv_text(("x", "y", "images", "ids", "better"), rows),
        "\0along": f"{title(measure.title)}, {first}",
        "\0up": f"{title(measure.title)}, {second}",
        **dict(zip(NUMBERS, (low, high, max(10, *map(len, places.values()))), strict=True)),
    }
    caption = (
        "A point is an image, or several where it is larger, at the mean over the runs of each arm. "
        "Its colour is that of the better arm."
    )
    spec = _filled(_pairs(), known)
    return Chart(f"pairs-{measure.key}", f"{title(measure.title)}, image by image", caption, spec)


@cache
def _pairs() -> dict[str, Any]:
    low, high, most = NUMBERS
    first, second, *shades = PAIRS
    data = alt.InlineData("\0table", format=_format("x", "y", "images"))
    scale = alt.Scale(domain=[low, high], nice=True, zero=False)
    colour = alt.Scale(domain=[first, second, "neither"], range=[*shades, NEITHER])
    points = alt.Chart(data).mark_point(filled=True, opacity=0.8)
    points = points.encode(
        x=alt.X("x:Q", scale=scale, axis=alt.Axis(title="\0along")),
        y=alt.Y("y:Q", scale=scale, axis=alt.Axis(title="\0up")),
        color=alt.Color("better:N", scale=colour, legend=None),
        size=alt.Size("images:Q", scale=alt.Scale(domain=[1, most], range=[45, 500]), legend=None),
        tooltip=[
            alt.Tooltip("ids:N", title="image"),
            alt.Tooltip("x:Q", title=first, format=".4~g"),
            alt.Tooltip("y:Q", title=second, format=".4~g"),
            "better:N",
        ],
    )
    diagonal = alt.Chart().mark_rule(color="currentColor", opacity=0.5)
    diagonal = diagonal.encode(x=alt.datum(low), y=alt.datum(low), x2=alt.datum(high), y2=alt.datum(high))
    return _spec(alt.layer(diagonal, points))


def path(answer: Answer, colour: str) -> Chart:
    """Draw what was known of a question at each look: the difference, its interval over all looks, and the margin."""
    measure, margin = answer.measure, answer.question.margin
    back = math.exp if measure.is_ratio else float
    rows = [
        (
            look.num_seeds,
            *map(_short, map(back, (look.effect.estimate, *measure.clipped(look.interval)))),
            f"{look.p:.2g}",
        )
        for look in answer.path
        if look.effect
    ]
    table = csv_text(("seeds", "difference", "low", "high", "p"), rows)
    data = alt.Chart(alt.InlineData(table, format=_format("seeds", "difference", "low", "high")))
    seeds = [look.num_seeds for look in answer.path]
    x = alt.X(
        "seeds:Q",
        axis=alt.Axis(title="seeds of each arm", grid=False, values=seeds, format="d"),
        scale=alt.Scale(domain=[seeds[0] - 1, seeds[-1] + 1]),
    )
    up = f"{title(measure.title)}, {answer.question.first} {'/' if measure.is_ratio else '−'} {answer.question.second}"
    y = alt.Y("difference:Q", axis=alt.Axis(title=up), scale=alt.Scale(zero=False))
    tooltip = ["seeds:Q", "difference:Q", "low:Q", "high:Q", "p:N"]
    ends = [back(0.0)] if margin is None else [back(0.0), back(-margin), back(margin)]
    lines = [
        alt.Chart().mark_rule(color="currentColor", opacity=0.5, strokeDash=dash).encode(y=alt.datum(end))
        for end, dash in zip(ends, ([1, 0], [2, 3], [2, 3]), strict=False)
    ]
    bars = data.mark_rule(strokeWidth=3, color=colour).encode(x=x, y="low:Q", y2="high:Q", tooltip=tooltip)
    points = data.mark_point(filled=True, size=90, color=colour, opacity=1).encode(x=x, y=y, tooltip=tooltip)
    caption = "Difference and interval over all looks, after as many seeds as each look had."
    caption += "" if margin is None else f" Dotted: the margin, {margin:g}."
    spec = _spec(alt.layer(*lines, bars, points))
    return Chart(f"path-{answer.question.key}", f"{title(measure.title)}, look by look", caption, spec)


def _blanks(word: str, count: int) -> tuple[str, ...]:
    """Return texts that stand in a spec for values of one chart: Altair takes a tenth of a second for each spec."""
    return tuple(f"\0{word}{i}" for i in range(count))


def _filled(spec: Any, known: Mapping[str, Any]) -> Any:
    """Return spec with the values of one chart in place of the texts that stand for them."""
    if isinstance(spec, dict):
        return {key: _filled(value, known) for key, value in spec.items()}
    if isinstance(spec, list):
        return [_filled(value, known) for value in spec]
    return known.get(spec, spec) if isinstance(spec, str) else spec


def to_png(chart: Chart, tables: Mapping[str, str]) -> bytes:
    """Render the chart as PNG."""
    return bytes(vl_convert.vegalite_to_png(_still(chart, tables), vl_version=VEGA_LITE, scale=1.5, config=CONFIG))


def to_svg(chart: Chart, tables: Mapping[str, str]) -> str:
    """Render the chart as SVG."""
    return str(vl_convert.vegalite_to_svg(_still(chart, tables), vl_version=VEGA_LITE, config=CONFIG))


def _still(chart: Chart, tables: Mapping[str, str]) -> dict[str, Any]:
    """Make the spec static: white background, its own legend, and no points that only serve the pointer."""
    still = {key: value for key, value in chart.spec.items() if key != "params"}
    still["layer"] = [layer for layer in chart.spec["layer"] if "name" not in layer]  # params name their layers
    return still | {"width": PNG_WIDTH_PX, "background": "white", "datasets": chart.spec["datasets"] | tables}


@cache
def library() -> str:
    """Bundle Vega, Vega-Lite and Vega-Embed as one script that needs no network."""
    script = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE))
    return script.replace("</script", "<\\/script")


def _spec(chart: alt.LayerChart | alt.FacetChart) -> dict[str, Any]:
    spec = chart.properties(width="container", height=HEIGHT_PX).to_dict(validate=False)
    return {"datasets": {}} | {key: value for key, value in spec.items() if key != "config"}


def _format(*numbers: str) -> alt.CsvDataFormat:
    return alt.CsvDataFormat(type="csv", parse=dict.fromkeys(numbers, "number"))


def _short(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"
