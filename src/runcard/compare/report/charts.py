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

import numpy as np
import vl_convert

from runcard.compare import learning_curves
from runcard.compare.answers import Answer
from runcard.compare.arms import Arm
from runcard.compare.contrasts import Paired
from runcard.compare.measures import title
from runcard.fileio import csv_text

VEGA_LITE = "6.4"  # the newest of vl_convert.get_vegalite_versions()
Spec = dict[str, Any]  # Vega-Lite's JSON, or a part of it
# Safe for colour-blind readers, on white and on black (Okabe and Ito 2008, without black and yellow).
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
NEITHER = "#888888"
HEIGHT_PX = 260
PNG_WIDTH_PX = 560
MAX_NAMED = 5  # images at one point of a chart that are listed by name
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
    """A chart as a Vega-Lite spec (https://vega.github.io/vega-lite/docs), without the tables that charts share."""

    key: str  # unique among the charts of a pair of arms: curves-dice
    title: str
    caption: str  # what it shows, as text
    spec: Spec


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
    data = {"name": metric, "format": _csv_format("epoch", "mean", "lowest", "highest")}
    of_arms = {"filter": {"field": "arm", "oneOf": list(arms)}}
    colour = _nominal("arm", domain=list(arms), range=list(arms.values()))
    # More ticks than epochs would fall between them; Vega's tickMinStep allows one too many.
    ticks = {"expr": "max(1, min(6, domain('x')[1] - domain('x')[0]))"}
    epoch = _number("epoch", axis={"title": "epoch", "grid": False, "tickCount": ticks})
    value = {"axis": {"title": title(metric)}, "scale": {"zero": False}}
    dashes = _nominal("images", domain=["validation", "training"], range=[[1, 0], [4, 3]])
    shown = {"condition": {"param": "near", "empty": False, "value": 1}, "value": 0}
    pointed = {"type": "point", "on": "pointerover", "clear": "pointerout", "nearest": True}
    mean, bounds = _number("mean", **value), {"y": _number("lowest", **value), "y2": {"field": "highest"}}
    layers: list[Spec] = [
        {
            "transform": [of_arms, {"filter": "datum.images == 'validation'"}],
            "mark": {"type": "area", "opacity": 0.18},
            "encoding": {"x": epoch, **bounds, "color": colour},
        },
        {
            "transform": [of_arms],
            "mark": {"type": "line", "strokeWidth": 1.8},
            "encoding": {"x": epoch, "y": mean, "color": colour, "strokeDash": dashes},
        },
        {
            "name": "points",
            "transform": [of_arms],
            # The whole row: with nearest, Vega-Lite 6.4 loses the texts of a tooltip that names its fields.
            "mark": {"type": "point", "size": 50, "filled": True, "tooltip": {"content": "data"}},
            "encoding": {"x": epoch, "y": mean, "color": colour, "opacity": shown},
        },
    ]
    if threshold is not None:
        layers.append(_rule(0.6, [2, 3], y=threshold))
    near = {"name": "near", "select": pointed | {"fields": ["arm", "images", "epoch"]}, "views": ["points"]}
    return Chart(f"curves-{metric}", f"{title(metric)} over the epochs", caption, _spec(data, layers, params=[near]))


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
    table = csv_text(("x", "y", "images", "ids", "better"), rows)
    low, high = (float(end(np.concatenate([paired.first, paired.second]))) for end in (np.min, np.max))
    axes = {
        axis: _number(
            axis, scale={"domain": [low, high], "nice": True, "zero": False}, axis={"title": f"{measure.title}, {name}"}
        )
        for axis, name in (("x", first), ("y", second))
    }
    colour = _nominal("better", domain=[first, second, "neither"], range=[*arms.values(), NEITHER])
    most = max(10, *map(len, places.values()))
    size = _number("images", scale={"domain": [1, most], "range": [45, 500]}, legend=None)
    tooltip = [
        {"field": "ids", "type": "nominal", "title": "image"},
        _number("x", title=first, format=".4~g"),
        _number("y", title=second, format=".4~g"),
        {"field": "better", "type": "nominal"},
    ]
    points: Spec = {
        "mark": {"type": "point", "filled": True, "opacity": 0.8},
        "encoding": {**axes, "color": colour | {"legend": None}, "size": size, "tooltip": tooltip},
    }
    caption = (
        "A point is an image, or several where it is larger, at the mean over the runs of each arm. "
        "Its colour is that of the better arm."
    )
    data = {"values": table, "format": _csv_format("x", "y", "images")}
    spec = _spec(data, [_rule(0.5, [1, 0], x=low, y=low, x2=high, y2=high), points])
    return Chart(f"pairs-{measure.key}", f"{measure.title}, image by image", caption, spec)


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
    columns = ("seeds", "difference", "low", "high")
    table = csv_text((*columns, "p"), rows)
    seeds = [look.num_seeds for look in answer.path]
    x = _number(
        "seeds",
        axis={"title": "seeds of each arm", "grid": False, "values": seeds, "format": "d"},
        scale={"domain": [seeds[0] - 1, seeds[-1] + 1]},
    )
    up = f"{measure.title}, {answer.question.first} {'/' if measure.is_ratio else '−'} {answer.question.second}"
    y = _number("difference", axis={"title": up}, scale={"zero": False})
    tooltip = [*map(_number, columns), {"field": "p", "type": "nominal"}]
    lines = [_rule(0.5, [1, 0], y=back(0.0))]
    if margin is not None:
        lines += [_rule(0.5, [2, 3], y=back(end)) for end in (-margin, margin)]
    bars: Spec = {
        "mark": {"type": "rule", "strokeWidth": 3, "color": colour},
        "encoding": {"x": x, "y": _number("low"), "y2": {"field": "high"}, "tooltip": tooltip},
    }
    points: Spec = {
        "mark": {"type": "point", "filled": True, "size": 90, "color": colour, "opacity": 1},
        "encoding": {"x": x, "y": y, "tooltip": tooltip},
    }
    caption = "Difference and interval over all looks, after as many seeds as each look had."
    caption += "" if margin is None else f" Dotted: the margin, {margin:g}."
    spec = _spec({"values": table, "format": _csv_format(*columns)}, [*lines, bars, points])
    return Chart(f"path-{answer.question.key}", f"{measure.title}, look by look", caption, spec)


def _number(field: str, **options: Any) -> Spec:
    """Encode a column of numbers."""
    return {"field": field, "type": "quantitative", **options}


def _nominal(field: str, **scale: Any) -> Spec:
    """Encode a column of names by the range of a scale."""
    return {"field": field, "type": "nominal", "scale": scale}


def _rule(opacity: float, dash: Sequence[int], **ends: float) -> Spec:
    """Draw one line, at or between constants."""
    mark = {"type": "rule", "color": "currentColor", "opacity": opacity, "strokeDash": dash}
    return {"data": {"values": [{}]}, "mark": mark, "encoding": {axis: {"datum": end} for axis, end in ends.items()}}


def _spec(data: Spec, layers: Sequence[Spec], **options: Any) -> Spec:
    return {"data": data, "layer": layers, "width": "container", "height": HEIGHT_PX, **options}


def to_png(chart: Chart, tables: Mapping[str, str]) -> bytes:
    """Render the chart as PNG."""
    return bytes(vl_convert.vegalite_to_png(_still(chart, tables), vl_version=VEGA_LITE, scale=1.5, config=CONFIG))


def to_svg(chart: Chart, tables: Mapping[str, str]) -> str:
    """Render the chart as SVG."""
    return str(vl_convert.vegalite_to_svg(_still(chart, tables), vl_version=VEGA_LITE, config=CONFIG))


def _still(chart: Chart, tables: Mapping[str, str]) -> Spec:
    """Make the spec static: white background, its own legend, and no points that only serve the pointer."""
    still = {key: value for key, value in chart.spec.items() if key != "params"}
    still["layer"] = [layer for layer in chart.spec["layer"] if "name" not in layer]  # params name their layers
    return still | {"width": PNG_WIDTH_PX, "background": "white", "datasets": tables}


@cache
def library() -> str:
    """Bundle Vega, Vega-Lite and Vega-Embed as one script that needs no network."""
    script = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE))
    return script.replace("</script", "<\\/script")


def _csv_format(*numbers: str) -> Spec:
    return {"type": "csv", "parse": dict.fromkeys(numbers, "number")}


def _short(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"
