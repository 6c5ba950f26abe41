"""Everything that is drawn. A figure is data first: a Vega-Lite chart, rendered to SVG and PNG without a network.

Class names and grid values enter the charts as values of fixed fields and never as field names or expressions, whose
dots, brackets and quotes Vega-Lite would interpret.

One SVG serves both colour schemes: every colour is a token of `TOKENS`, and `stylesheet` maps the light colour that
the SVG carries to the dark one where the page is dark.
"""

import base64
import math
import re
import struct
import textwrap
import xml.etree.ElementTree as ElementTree
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import altair as alt
import numpy as np
import vl_convert
from numpy.typing import NDArray

from jaxrnn.config import LOWER_IS_BETTER
from jaxrnn.early import SINCE_FIRST, STEPS
from jaxrnn.errors import plural
from jaxrnn.examples import MOST_LINES
from jaxrnn.readers import SPLITS
from jaxrnn.transcripts import DELETED, INSERTED

if TYPE_CHECKING:
    from jaxrnn.describe import Described

# token: (light, dark). Data colours are from Okabe & Ito (2008), "Color Universal Design", lightened where it is dark.
TOKENS = {
    "surface": ("#ffffff", "#181b20"),
    "ink": ("#1d2127", "#e4e7eb"),
    "muted": ("#5a626d", "#a3abb6"),
    "rule": ("#dde1e6", "#343a43"),
    "pale": ("#b4bbc4", "#5d6672"),
    "first": ("#0072b2", "#56b4e9"),
    "second": ("#d55e00", "#f0904a"),
    "third": ("#009e73", "#35c79c"),
    "fourth": ("#a8437f", "#e59bc6"),
    "fifth": ("#a87300", "#e9b53c"),
    # Cells of a matrix: one colour whose opacity is the share. Their text is `on_pale` up to DARK_TEXT and `on_heat`
    # above, so that it has a contrast of at least 4.5 (WCAG 2.2, 1.4.3) with the cell in both schemes.
    "heat": ("#08519c", "#2f78bd"),
    "on_pale": ("#000000", "#e8ebee"),
    "on_heat": ("#fefefe", "#fdfdfd"),
}
LIGHT = {name: colours[0] for name, colours in TOKENS.items()}
DARK_TEXT = 0.77
# Arial, Liberation Sans and Helvetica share their widths: text is as wide where it is read as where it was measured.
FONT = "Arial, Liberation Sans, Helvetica, sans-serif"
LONGEST_LABEL = 28  # characters
MOST_ROWS = 40  # grid points drawn
MOST_BLOCKS = 45  # of steps, along one side of a map of attention
MOST_STEP_BLOCKS, MOST_ATTRIBUTED = 20, 8  # of a map of attributions
SHADES = 50  # in the strip that says what its colours are
ATTRIBUTION_SHADES = 20  # of each sign
SERIES_TOKENS = ("first", "second", "third", "fourth", "fifth")  # of lines against a grid axis: no more are drawn
# Of grid points, with their colour and, for those who can't see it, their shape.
KINDS = ("chosen", "others", "halted early")
KIND_TOKENS = ("second", "first", "muted")
KIND_SHAPES = ("diamond", "circle", "cross")
PANELS = 3  # beside each other, of the ranges that were searched
# How an audit's finding is named and marked.
AUDIT_MARKS = {
    "passed": ("holds", "first", "circle"),
    "note": ("remark", "fifth", "diamond"),
    "warning": ("leak or shortcut", "second", "triangle-up"),
}
SERIES_DASHES = ([], [6, 3], [2, 3], [8, 3, 2, 3], [4, 4])
MOST_PIXELS = 60e6  # of a PNG
MOST_PANELS = 12  # of classes, each with a curve
COLUMNS = 3  # objects beside each other
MOST_SERIES = 12  # classes whose probabilities are drawn
MOST_MARKERS = 8  # on a line of probabilities
LEVELS = 15  # of colour, in an image
REPEATED = 12  # times that a symbol is drawn, to be defined once
PANEL = 180  # px, of these
MOST_POINTS = 20_000  # of all pale curves of a panel together
# A passband's colour and, for those who can't see it, its shape: 42 different pairs.
BAND_TOKENS = ("first", "third", "second", "fourth", "fifth", "muted")
BAND_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "triangle-right", "triangle-left")
MOST_KEY = 860  # px, of a line that says what colours and shapes stand for
CROSS = "M-1,-1L1,1M-1,1L1,-1"
SCORES = {
    "macro_auc": "macro AUC",
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "log_loss": "log loss",
    "plasticc_log_loss": "class-averaged log loss",
    "figure_of_merit": "figure of merit",
    "label_error_rate": "label error rate",
    "sequence_error_rate": "sequence error rate",
}

# What a layer does decides the colour of its edge.
LAYER_TOKENS = {
    **dict.fromkeys(("simple", "gru", "lstm"), "first"),
    **dict.fromkeys(("conv", "max_pool", "average_pool"), "third"),
    **dict.fromkeys(("input_normalisation", "batch_norm", "layer_norm"), "fifth"),
    **dict.fromkeys(("pool", "flatten"), "fourth"),
    **dict.fromkeys(("dense", "decoder"), "second"),
}

# Of an element in an SVG, what it is without being said; the font is the whole image's.
SAID_ANYWAY = {"opacity": "1", "stroke-width": "1", "font-family": FONT, "font-weight": "normal",
               "pointer-events": "none"}  # fmt: skip
_SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


@dataclass(frozen=True)
class Figure:
    """A drawn figure.

    name: of its files, and the prefix of its ids in a page.
    description: what it shows, for a reader who can't see it.
    width: in CSS pixels, as `svg` states it.
    """

    name: str
    description: str
    svg: str
    width: float

    def write(self, folder: Path) -> None:
        """Writes it as SVG and as PNG into a folder, which need not be there."""
        folder.mkdir(exist_ok=True)
        (folder / f"{self.name}.svg").write_text(self.svg, encoding="utf-8")
        (folder / f"{self.name}.png").write_bytes(self.png())

    def png(self) -> bytes:
        """Returns the figure with two pixels for each CSS pixel; fewer where that were more than `MOST_PIXELS`."""
        height = float(ElementTree.fromstring(self.svg).get("height", "1"))
        return vl_convert.svg_to_png(self.svg, scale=min(2.0, (MOST_PIXELS / (self.width * height)) ** 0.5))

    def inline(self) -> str:
        """Returns the SVG for a page: an image with a spoken label, with ids that are no other figure's."""
        root = ElementTree.fromstring(self.svg)
        root.set("role", "img")
        root.set("aria-label", self.description)
        ids = {element.get("id") for element in root.iter()} - {None}
        for element in root.iter():
            element.attrib.pop("aria-roledescription", None)
            if element is not root:  # the whole is one image: its parts are no symbols of their own
                element.attrib.pop("role", None)
            for key, value in list(element.attrib.items()):
                if key == "id":
                    element.set(key, f"{self.name}-{value}")
                elif (found := re.fullmatch(r"(url\()?#([\w-]+)(\))?", value)) and found[2] in ids:
                    element.set(key, f"{found[1] or ''}#{self.name}-{found[2]}{found[3] or ''}")
        return ElementTree.tostring(root, encoding="unicode")


def stylesheet() -> str:
    """Returns the CSS that gives inline figures, inside `.drawn`, the colours of the page's scheme."""
    light = "".join(f"--{name}:{colours[0]};" for name, colours in TOKENS.items())
    dark = "".join(f"--{name}:{colours[1]};" for name, colours in TOKENS.items())
    rules = "".join(
        f'.drawn [{kind}="{colours[0]}"]{{{kind}:var(--{name})}}\n'
        for name, colours in TOKENS.items()
        for kind in ("fill", "stroke")
    )
    # images have their colours from no sheet: `heat` becomes about its dark one
    images = ".drawn image{filter:saturate(.72) brightness(1.45)}"
    # paper is light whatever the screen is
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}{images}}}\n{rules}"


def printable(text: str) -> str:
    """Returns text on one line, without characters that would hide or turn what stands around them."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def labels(names: Sequence[str]) -> list[str]:
    """Returns short, different, printable labels for `names`, in their order."""
    result: list[str] = []
    for name in names:
        text = printable(name) or "(empty)"
        if len(text) > LONGEST_LABEL:
            text = f"{text[: LONGEST_LABEL - 9]}…{text[-8:]}"
        label, copies = text, 1
        while label in result:
            copies += 1
            label = f"{text} ({copies})"
        result.append(label)
    return result


def class_counts(counts: Mapping[str, Mapping[str, int]], counted: str = "objects") -> Figure:
    """Draws the number of objects, or of what else is counted, of each class (the keys) in each split (the keys of its
    mapping)."""
    names = labels(list(counts))
    rows = [
        {"class": name, "split": split, "objects": own[split], "text": f"{own[split]:,}"}
        for name, own in zip(names, counts.values(), strict=True)
        for split in SPLITS
    ]
    drawn = [row for row in rows if row["objects"] > 0]
    largest = max((row["objects"] for row in drawn), default=1)
    smallest = min((row["objects"] for row in drawn), default=1)
    logarithmic = largest > 30 * smallest
    if logarithmic:
        first = 10.0 ** np.floor(np.log10(smallest))
        powers = [10.0**k for k in range(round(np.log10(first)), int(np.log10(largest)) + 1)]
        x = alt.X(
            "objects:Q",
            title=f"{counted} (logarithmic)",
            scale=alt.Scale(type="log", nice=False, domain=[first, 1.5 * largest]),
            axis=alt.Axis(values=powers, format="~s"),
        )
    else:
        x = alt.X("objects:Q", title=counted, scale=alt.Scale(zero=True), axis=alt.Axis(format="~s", tickCount=6))
    base = alt.Chart(_rows(rows)).encode(
        y=alt.Y("class:N", title=None, scale=alt.Scale(domain=names, paddingInner=0.25, paddingOuter=0.12)),
        yOffset=alt.YOffset("split:N", scale=alt.Scale(domain=list(SPLITS))),
    )
    seen = base.transform_filter("datum.objects > 0").encode(
        x=x,
        color=alt.Color("split:N", scale=_colours(SPLITS, ("first", "second", "third")), legend=_legend()),
        shape=alt.Shape("split:N", scale=alt.Scale(domain=list(SPLITS), range=["circle", "square", "triangle-up"])),
    )
    points = seen.mark_point(filled=True, size=46, opacity=1)
    numbers = base.transform_filter("datum.objects > 0").mark_text(
        align="left", dx=8, fontSize=10.5, color=LIGHT["muted"]
    )
    chart = (points + numbers.encode(x=x, text="text:N")).properties(width=430, height=alt.Step(15))
    return _drawn(
        "class_counts",
        f"{counted.capitalize()} of each class, by split",
        f"Number of {counted} of {len(names)} classes in the training, validation and test split, from {smallest:,} to "
        f"{largest:,}. The table beside holds the numbers.",
        chart,
    )


def sequence_lengths(edges: Sequence[float], counts: Sequence[int]) -> Figure:
    """Draws the distribution of steps a sequence. counts: one between each two of the edges."""
    return _histogram("sequence_lengths", "Length of the sequences", "length of a sequence (steps)", edges, counts)


def _histogram(name: str, title: str, axis: str, edges: Sequence[float], counts: Sequence[int]) -> Figure:
    rows = [{"from": a, "to": b, "sequences": n} for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]
    widths = np.diff(np.asarray(edges, float))
    logarithmic = len(widths) > 2 and edges[0] > 0 and widths[-1] > 8 * widths[0]
    ticks: dict[str, Any] = {"values": list(edges)} if len(edges) <= 9 else {"tickCount": 8}
    scale = alt.Scale(type="log", nice=False) if logarithmic else alt.Scale(zero=False, nice=False)
    whole = all(float(edge).is_integer() for edge in edges)
    chart = (
        alt.Chart(_rows(rows))
        .mark_bar(orient="vertical", color=LIGHT["first"], stroke=LIGHT["surface"], strokeWidth=1)
        .encode(
            x=alt.X(
                "from:Q",
                title=axis,
                scale=scale.copy(),
                axis=alt.Axis(format=",d" if whole else ".3~g", grid=False, **ticks),
            ),
            x2="to:Q",
            y=alt.Y("sequences:Q", title="sequences", axis=alt.Axis(tickCount=5, tickMinStep=1, format=",d")),
            y2=alt.Y2Datum(0),
        )
        .properties(width=430, height=190)
    )
    return _drawn(
        name,
        title,
        f"Histogram of the {axis}, between {edges[0]:.4g} and {edges[-1]:.4g}, of {sum(counts):,} sequences.",
        chart,
    )


def grid_scores(
    points: Sequence[Mapping[str, Any]], seeds: Sequence[tuple[str, float]], metric: str, keys: Sequence[str]
) -> Figure:
    """Draws each grid point's validation score: a ring a seed, the mean, the interval of the mean.

    points: best first, with label, mean, low, high, chosen, halted. seeds: a point's label and the score of one of its
    seeds. keys: what the parts of a label are.
    """
    chosen = [point for point in points[MOST_ROWS:] if point["chosen"]]
    shown = [*points[: MOST_ROWS - len(chosen)], *chosen]
    names = labels([point["label"] for point in shown])
    name_of = {point["label"]: name for point, name in zip(shown, names, strict=True)}
    kinds = _kinds(shown)
    rows = [
        {
            "point": name,
            "kind": _kind(point),
            **{part: _finite(point[part]) for part in ("mean", "low", "high")},
        }
        for name, point in zip(names, shown, strict=True)
    ]
    rings = [
        {"point": name_of[label], "score": score} for label, score in seeds if label in name_of and np.isfinite(score)
    ]
    y = alt.Y("point:N", title=None, scale=alt.Scale(domain=names))

    values = [row["mean"] for row in rows if row["mean"] is not None] + [ring["score"] for ring in rings]
    same = bool(values) and max(values) - min(values) < 1e-6
    # where all scores are one, a frame of no width would have no ticks
    most = np.inf if metric in LOWER_IS_BETTER else 1.0
    domain = [max(values[0] - 0.05, 0.0), min(values[0] + 0.05, most)] if same else alt.Undefined

    def x(field: str) -> alt.X:
        return alt.X(
            f"{field}:Q",
            title=f"validation {SCORES[metric]}",
            scale=alt.Scale(zero=False, domain=domain),
            axis=alt.Axis(tickCount=6),
        )

    colour = alt.Color("kind:N", scale=_colours(kinds, KIND_TOKENS[: len(kinds)]), legend=_legend())
    base = alt.Chart(_rows(rows)).encode(y=y, color=colour)
    interval = base.transform_filter("isValid(datum.low) && isValid(datum.high)").mark_rule(strokeWidth=3, opacity=0.45)
    mean = base.transform_filter("isValid(datum.mean)").mark_point(filled=True, shape="diamond", size=95, opacity=1)
    dots = alt.Chart(_rows(rings)).mark_point(size=26, strokeWidth=1.2, opacity=0.9, color=LIGHT["muted"])
    missing = alt.Chart(_rows([row for row in rows if row["mean"] is None])).mark_text(
        align="left", color=LIGHT["muted"], text="diverged: no score", fontStyle="italic"
    )
    layers = [interval.encode(x=x("low"), x2="high:Q"), dots.encode(y=y, x=x("score")), mean.encode(x=x("mean"))]
    if any(row["mean"] is None for row in rows):
        layers.append(missing.encode(y=y, x=alt.value(6)))
    chart = alt.layer(*layers).properties(width=430, height=alt.Step(22))
    cut = f"{len(shown)} of {len(points)} grid points, the best first. " if len(points) > len(shown) else ""
    rows_are = f"A row: {' · '.join(keys)}." if keys else ""
    return _drawn(
        "grid_scores",
        f"Validation {SCORES[metric]} of each grid point",
        f"Validation {SCORES[metric]} of {len(shown)} grid points, best first, with the mean over seeds, its 95 % "
        f"interval, and each seed. {cut}The table below holds the numbers.",
        chart,
        f"{cut}Diamond: mean; bar: its 95 % interval; ring: one seed.",
        *([rows_are] if rows_are else []),
    )


def effects(rows: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """Draws what each key does to the metric: of its values the mean over grid points and their middle half.

    rows: of effects.csv."""
    panels, known = [], [row[part] for row in rows for part in ("low", "high", "mean")]
    scale = alt.Scale(domain=[min(known), max(known)] if min(known) < max(known) else [0, 1], nice=True, zero=False)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=f"validation {SCORES[metric]}", scale=scale, axis=alt.Axis(tickCount=5))

    keys = list(dict.fromkeys(row["key"] for row in rows))
    for key in keys:
        own = [row for row in rows if row["key"] == key]
        share = own[0]["explained"]
        head = printable(key) + (f": {_percent(share)} of the variance" if math.isfinite(share) else "")
        panels.append(_measured_panel("value", head, own, "mean", x))
    return _drawn(
        "effects",
        "What each key does",
        f"Validation {SCORES[metric]} by the values of {len(keys)} keys. effects.csv holds the numbers.",
        alt.concat(*panels, columns=2, spacing={"row": 26, "column": 30}),
        "Dot: mean over the grid points with that value; bar: the middle half of them.",
    )


def searched(points: Sequence[Mapping[str, Any]], ranges: Mapping[str, str], metric: str) -> Figure:
    """Draws the validation score of each grid point against each key whose values were drawn from a range.

    points: with mean, chosen, halted and, by each key, its value. ranges: the scale, `linear` or `log`, by key.
    """
    shown = [point for point in points if _finite(point["mean"]) is not None]
    kinds = _kinds(shown)
    y = alt.Y("mean:Q", title=f"validation {SCORES[metric]}", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6))
    colour = alt.Color("kind:N", scale=_colours(kinds, KIND_TOKENS[: len(kinds)]), legend=_legend())
    shapes = alt.Scale(domain=list(kinds), range=[*KIND_SHAPES[: len(kinds)]])
    shape = alt.Shape("kind:N", scale=shapes, legend=_legend())
    panels = []
    for key, scale in ranges.items():
        rows = [
            {"at": float(point[key]), "mean": float(point["mean"]), "kind": _kind(point)}
            # the chosen one is drawn last, over the others
            for point in sorted(shown, key=lambda point: point["chosen"])
        ]
        logarithmic = scale == "log"
        ticks = _decades([row["at"] for row in rows]) if logarithmic and rows else alt.Undefined
        x = alt.X(
            "at:Q",
            title=f"{key} (logarithmic)" if logarithmic else key,
            scale=alt.Scale(type="log", nice=False, padding=10) if logarithmic else alt.Scale(zero=False, padding=10),
            axis=alt.Axis(format="~g", tickCount=4, values=ticks, grid=False),
        )
        marks = alt.Chart(_rows(rows)).mark_point(filled=True, size=60, opacity=0.85)
        panels.append(marks.encode(x=x, y=y, color=colour, shape=shape).properties(width=215, height=200))
    halted = " Halted points trained for fewer epochs." if len(kinds) == 3 else ""
    return _drawn(
        "searched",
        f"Validation {SCORES[metric]} against what was drawn",
        f"Validation {SCORES[metric]} of {len(shown)} grid points against {', '.join(ranges)}.{halted} The table below "
        "holds the numbers.",
        alt.concat(*panels, columns=PANELS, spacing=24),
        f"A mark: the mean of a grid point.{halted}",
    )


def _kind(point: Mapping[str, Any]) -> str:
    return KINDS[0] if point["chosen"] else KINDS[2] if point["halted"] else KINDS[1]


def _kinds(points: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Returns the kinds that a legend names: the last one where there are such points."""
    return KINDS if any(_kind(point) == KINDS[2] for point in points) else KINDS[:2]


def _decades(values: Sequence[float]) -> list[float]:
    """Returns ticks for values on a logarithmic axis: powers of ten, and threes between them where they are few."""
    low, high = min(values), max(values)
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    tens = [10.0**power for power in powers if low <= 10.0**power <= high]
    finer = [step * 10.0**power for power in powers for step in (1, 3) if low <= step * 10.0**power <= high]
    return tens if len(tens) > 2 else finer or [low, high]


def score_curves(
    points: Sequence[Mapping[str, Any]], metric: str, key: str, split: str, *, without_null: bool = False
) -> Figure:
    """Draws the validation or test score (`split`) against a grid key of numbers: means over seeds, with intervals.

    points: at (the key's value), series (what the other keys are, "" where there are none), mean, low, high; of at most
    as many series as there are `SERIES_TOKENS`. without_null: whether the key was `null` at a point too, which has
    no place on an axis of numbers.
    """
    series = list(dict.fromkeys(point["series"] for point in points))
    name_of = dict(zip(series, labels(series), strict=True))
    rows = [
        {
            "at": float(point["at"]),
            "series": name_of[point["series"]],
            **{part: _finite(point[part]) for part in ("mean", "low", "high")},
        }
        for point in points
    ]
    values = sorted({row["at"] for row in rows})
    logarithmic = values[0] > 0 and values[-1] > 20 * values[0]
    x = alt.X(
        "at:Q",
        title=f"{key} (logarithmic)" if logarithmic else key,
        scale=alt.Scale(type="log", nice=False, padding=12) if logarithmic else alt.Scale(zero=False, padding=12),
        axis=alt.Axis(values=values, format="~r", grid=False),
    )
    ends = [row[part] for row in rows for part in ("mean", "low", "high") if row[part] is not None]
    # where all scores are one, a frame of no height would have no ticks
    same = bool(ends) and max(ends) - min(ends) < 1e-6
    most = np.inf if metric in LOWER_IS_BETTER else 1.0
    domain = [max(ends[0] - 0.05, 0.0), min(ends[0] + 0.05, most)] if same else alt.Undefined
    scale = alt.Scale(zero=False, domain=domain)
    shown = list(name_of.values())
    legend = None if len(series) == 1 else alt.Legend(title=None, orient="top", direction="vertical", symbolOpacity=1)
    colour = alt.Color("series:N", scale=_colours(shown, SERIES_TOKENS[: len(shown)]), legend=legend)
    dashes = alt.Scale(type="ordinal", domain=shown, range=[*SERIES_DASHES[: len(shown)]])

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", title=f"{split} {SCORES[metric]}", scale=scale, axis=alt.Axis(tickCount=6))

    base = alt.Chart(_rows(rows)).encode(x=x, color=colour)
    known = base.transform_filter("isValid(datum.mean)")
    lines = known.mark_line().encode(y=y("mean"), strokeDash=alt.StrokeDash("series:N", scale=dashes, legend=None))
    bars = base.transform_filter("isValid(datum.low) && isValid(datum.high)").mark_rule(strokeWidth=3, opacity=0.35)
    dots = known.mark_point(filled=True, size=50, opacity=1).encode(y=y("mean"))
    chart = alt.layer(bars.encode(y=y("low"), y2="high:Q"), lines, dots).properties(width=500, height=240)
    others = f", for {len(series)} settings of the other keys" if len(series) > 1 else ""
    return _drawn(
        f"score_curves_{split}_{key.replace('.', '_')}",
        f"{split.capitalize()} {SCORES[metric]} against {key}",
        f"{split.capitalize()} {SCORES[metric]} against {key} from {values[0]:g} to {values[-1]:g}, mean over seeds "
        f"with its 95 % interval{others}. The table below holds the numbers.",
        chart,
        "Dot: mean; bar: its 95 % interval." + (" The point with null is in the table alone." if without_null else ""),
    )


def learning_curves(history: Sequence[Mapping[str, Any]], chosen: str, best_epoch: int, metric: str) -> Figure:
    """Draws loss and `metric` against the epoch, of every trial, with the chosen one on top.

    history: the rows of history.csv. metric: macro AUC stands in for one that was not watched.
    """
    score = metric if is_watched(history, metric) else "macro_auc"
    trials = len({row["trial"] for row in history})
    kinds = ("chosen, validation", "chosen, training", "other trials, validation")
    panels, data = [], {}

    def by_kind(values: Sequence[Any]) -> alt.Scale:
        # widths and opacities would be interpolated otherwise
        return alt.Scale(type="ordinal", domain=kinds, range=values)

    for name, title in (("loss", "loss"), (score, SCORES[score])):
        rows, top = _curves(history, chosen, name, kinds)
        data[name] = rows
        scale = alt.Scale(zero=False) if top is None else alt.Scale(domainMax=top, zero=False, nice=False)
        values = [row["value"] for row in rows]
        axis = alt.Axis(tickCount=6)
        if name == "loss" and values and 0 < 30 * min(values) < max(values):
            scale.type, title = "log", "loss (logarithmic)"
            powers = range(int(np.floor(np.log10(min(values)))), int(np.ceil(np.log10(max(values)))) + 1)
            axis = alt.Axis(values=[factor * 10.0**power for power in powers for factor in (1, 3)], format="~g")
        x = alt.X(
            "epoch:Q",
            title="epoch",
            scale=alt.Scale(zero=False, nice=False),
            axis=alt.Axis(tickMinStep=1, tickCount=8, format="d"),
        )
        y = alt.Y("value:Q", title=title, scale=scale, axis=axis)
        lines = (
            alt.Chart(alt.NamedData(name=name))
            .mark_line()
            .encode(
                x=x,
                y=y,
                detail=["trial:N", "series:N"],
                color=alt.Color("series:N", scale=_colours(kinds, ("first", "second", "pale")), legend=_legend()),
                strokeDash=alt.StrokeDash("series:N", scale=by_kind([[], [5, 3], []])),
                strokeWidth=alt.StrokeWidth("series:N", scale=by_kind([2.4, 2, 0.9])),
                strokeOpacity=alt.StrokeOpacity(
                    "series:N", scale=by_kind([1, 1, 0.8 if trials < 20 else 0.5]), legend=None
                ),
            )
        )
        at = [row for row in rows if row["series"] == kinds[0] and row["epoch"] == best_epoch]
        mark = alt.Chart(_rows([{**row, "text": f"best epoch {best_epoch}"} for row in at]))
        line = mark.mark_rule(color=LIGHT["muted"], strokeDash=[2, 3]).encode(x=x)
        dot = mark.mark_point(filled=True, size=70, color=LIGHT["ink"], opacity=1).encode(x=x, y=y)
        word = mark.mark_text(color=LIGHT["ink"], fontSize=11.5).encode(x=x, y=alt.value(-9), text="text:N")
        layers = [line, lines, dot, word] if at and name == "loss" else [line, lines, dot] if at else [lines]
        panels.append(alt.layer(*layers).properties(width=500, height=205))
    chart = alt.vconcat(*panels, spacing=18)
    return _drawn(
        "learning_curves",
        "Learning curves",
        f"Loss and {SCORES[score]} against the epoch for {trials} trials; the chosen trial is drawn "
        f"on top and was best at epoch {best_epoch}.",
        chart,
        data=data,
    )


def is_watched(history: Sequence[Mapping[str, Any]], metric: str) -> bool:
    """Returns whether history.csv has a score's values: those that the task defines were watched if monitored."""
    return any(np.isfinite(row.get(f"validation_{metric}", np.nan)) for row in history)


def _curves(
    history: Sequence[Mapping[str, Any]], chosen: str, name: str, kinds: tuple[str, str, str]
) -> tuple[list[dict[str, Any]], float | None]:
    """Returns the rows of one panel, pale curves first, and where its frame ends (None: where the data does)."""
    curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in history:
        own = {kinds[0]: f"validation_{name}", kinds[1]: f"train_{name}"}
        for kind, column in (own if row["trial"] == chosen else {kinds[2]: f"validation_{name}"}).items():
            if np.isfinite(row.get(column, np.nan)):
                curves.setdefault((kind, row["trial"]), []).append((int(row["epoch"]), row[column]))
    most = max(20, MOST_POINTS // max(1, len(curves)))
    rows: list[dict[str, Any]] = []
    for (kind, trial), curve in sorted(curves.items(), key=lambda item: -kinds.index(item[0][0])):
        size = min(most, len(curve)) if kind == kinds[2] else len(curve)
        # one epoch in so many: more than the frame has pixels would only make the file large
        kept = [curve[at] for at in np.unique(np.linspace(0, len(curve) - 1, size).round().astype(int))]
        rows += [{"trial": trial, "series": kind, "epoch": epoch, "value": value} for epoch, value in kept]
    values = np.array([row["value"] for row in rows])
    if name != "loss" or not len(values):
        return rows, None
    # a trial that diverges must not press the others into a line
    top = 1.15 * max(
        float(np.quantile(values, 0.97)), max((row["value"] for row in rows if row["series"] != kinds[2]), default=0.0)
    )
    if top >= values.max():
        return rows, None
    # cut here: each clip path of a drawn curve costs a tenth of a second in the PNG
    return [{**row, "value": min(row["value"], top)} for row in rows], top


def confusion_matrix(counts: NDArray[np.int64], classes: Sequence[str], split: str, counted: str = "objects") -> Figure:
    """Draws counts `[truth, predicted]`, each with its share of the true class, which is also the cell's colour; of
    objects, or of what else is counted."""
    names = labels(classes)
    right = int(np.trace(counts))
    return _matrix(
        f"confusion_matrix_{split}",
        f"Confusion matrix, {split}",
        f"Confusion matrix of the {split} split: {right:,} of {int(counts.sum()):,} {counted} lie on the diagonal. "
        "The table below holds the numbers.",
        counts,
        (names, names),
        ("true class", "predicted class"),
        counted.capitalize(),
    )


def edit_operations(counts: NDArray[np.int64], classes: Sequence[str], split: str) -> Figure:
    """Draws how often each label became each, `[truth, decoded]`, with its share of the true label; the last row is
    what was inserted, the last column what was deleted."""
    names = labels(classes)
    right, all_labels = int(np.trace(counts)), int(counts[:-1].sum())
    return _matrix(
        f"edit_operations_{split}",
        f"Edits, {split}",
        f"Edits of the {split} split: {right:,} of {all_labels:,} labels are decoded as they are. The table below "
        "holds the numbers.",
        counts,
        (labels([*names, INSERTED]), labels([*names, DELETED])),
        ("true label", "decoded label"),
        "Labels",
    )


def _matrix(
    name: str,
    title: str,
    description: str,
    counts: NDArray[np.int64],
    of: tuple[Sequence[str], Sequence[str]],
    titles: tuple[str, str],
    what: str,
) -> Figure:
    """Draws counts, each with its share of its row. of: what rows and columns stand for."""
    (names, columns), totals = of, counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    rows = [
        {
            "truth": names[t],
            "predicted": columns[p],
            "share": float(shares[t, p]),
            "count": f"{counts[t, p]:,}",
            "percent": _percent(shares[t, p]) if counts[t, p] else "",
        }
        for t in range(len(names))
        for p in range(len(names))
    ]
    # the fewest classes leave room for the title
    size = max(78, 240 // len(names)) if len(names) <= 4 else 62 if len(names) <= 7 else 46 if len(names) <= 16 else 34
    font = 13 if size >= 62 else 11 if size >= 46 else 9
    longest = 7 * max(map(len, columns))  # px
    x = alt.X(
        "predicted:N",
        title=titles[1],
        scale=alt.Scale(domain=columns, padding=0),
        axis=_class_axis(-40 if longest > size else 0),
    )
    y = alt.Y("truth:N", title=titles[0], scale=alt.Scale(domain=names, padding=0), axis=_class_axis(0))
    base = alt.Chart(_rows(rows)).encode(x=x, y=y)
    cells = base.mark_rect(fill=LIGHT["heat"]).encode(
        fillOpacity=alt.FillOpacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.02, 1]), legend=None)
    )
    frame = base.mark_rect(fillOpacity=0, stroke=LIGHT["rule"], strokeWidth=1)
    colour = alt.condition(f"datum.share > {DARK_TEXT}", alt.value(LIGHT["on_heat"]), alt.value(LIGHT["on_pale"]))
    some, none = "datum.percent != ''", "datum.percent == ''"
    both = size >= 46
    text = base.transform_filter(some).mark_text(fontSize=font, fontWeight="bold", dy=-font * 0.6 if both else 0)
    layers = [
        cells,
        frame,
        base.transform_filter(none).mark_text(fontSize=font - 1, color=LIGHT["muted"]).encode(text="count:N"),
        text.encode(text="count:N", color=colour),
    ]
    if both:
        share = base.transform_filter(some).mark_text(fontSize=font - 1.5, dy=font * 0.7)
        layers.append(share.encode(text="percent:N", color=colour))
    chart = alt.layer(*layers).properties(width=size * len(names), height=size * len(names))
    share_of = titles[0].replace("true", "the true")
    told = f"{what}, and their share of {share_of}." if both else f"{what}. Colour: share of {share_of}."
    return _drawn(name, title, description, chart, told)


def class_scores(scores: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws precision, recall and F1 of each class with their intervals on the test split.

    scores: class, score (precision, recall, F1), value, low, high.
    """
    kinds = ("precision", "recall", "F1")
    classes = list(dict.fromkeys(row["class"] for row in scores))
    names = labels(classes)
    name_of = dict(zip(classes, names, strict=True))
    rows = [
        {**row, "class": name_of[row["class"]], **{part: _finite(row[part]) for part in ("value", "low", "high")}}
        for row in scores
    ]
    base = alt.Chart(_rows(rows)).encode(
        y=alt.Y("class:N", title=None, scale=alt.Scale(domain=names, paddingInner=0.25, paddingOuter=0.12)),
        yOffset=alt.YOffset("score:N", scale=alt.Scale(domain=list(kinds))),
        color=alt.Color("score:N", scale=_colours(kinds, ("first", "second", "third")), legend=_legend()),
    )
    title = "score on the test split"
    scale = alt.Scale(domain=[0, 1])
    rule = base.transform_filter("isValid(datum.low) && isValid(datum.high)").mark_rule(strokeWidth=3, opacity=0.45)
    point = base.transform_filter("isValid(datum.value)").mark_point(filled=True, size=50, opacity=1)
    chart = (
        rule.encode(x=alt.X("low:Q", title=title, scale=scale), x2="high:Q")
        + point.encode(
            x=alt.X("value:Q", title=title, scale=scale),
            shape=alt.Shape("score:N", scale=alt.Scale(domain=list(kinds), range=["circle", "square", "triangle-up"])),
        )
    ).properties(width=430, height=alt.Step(14))
    return _drawn(
        "class_scores",
        "Scores of each class, test",
        f"Precision, recall and F1 of {len(names)} classes on the test split, with 95 % intervals. The table beside "
        "holds the numbers.",
        chart,
        "Bar: 95 % interval.",
    )


def class_curves(
    rows: Sequence[Mapping[str, Any]], areas: Mapping[str, float], kind: Literal["roc", "recall"]
) -> Figure:
    """Draws each class's ROC curve (`roc`) or precision against recall (`recall`) on test, each in a frame of its own.

    rows: of roc_test.csv or precision_recall_test.csv. areas: the area under a class's curve, or its average precision.
    """
    x, y = ("false_positive_rate", "true_positive_rate") if kind == "roc" else ("recall", "precision")
    titles = {
        "false_positive_rate": "false positive rate", "true_positive_rate": "true positive rate (recall)",
        "recall": "recall (completeness)", "precision": "precision (purity)",
    }  # fmt: skip
    curves: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        own = curves.setdefault(row["class"], [])
        own.append({"x": row[x], "y": row[y], "order": len(own)})
    shown = dict(zip(curves, labels(list(curves)), strict=True))
    panels, data = [], {}
    for place, name in enumerate([*curves][:MOST_PANELS]):
        data[f"curve-{place}"] = curves[name]
        axis = alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1], format="~g")
        scale = alt.Scale(domain=[0, 1], nice=False)
        across, up = (
            alt.X("x:Q", title=titles[x], scale=scale, axis=axis),
            alt.Y("y:Q", title=titles[y], scale=scale, axis=axis),
        )
        line = alt.Chart(alt.NamedData(name=f"curve-{place}")).mark_line(
            color=LIGHT["first"], strokeWidth=2, interpolate="linear" if kind == "roc" else "step-before"
        )
        chance = alt.Chart(_rows([{"x": 0, "y": 0, "order": 0}, {"x": 1, "y": 1, "order": 1}]))
        layers = [line.encode(x=across, y=up, order="order:Q")]
        if kind == "roc":
            diagonal = chance.mark_line(color=LIGHT["muted"], strokeWidth=1, strokeDash=[3, 3])
            layers.insert(0, diagonal.encode(x=across, y=up, order="order:Q"))
        area = f"{'area' if kind == 'roc' else 'average precision'} {areas[name]:.3f}" if name in areas else ""
        head = alt.Title(shown[name], subtitle=area, fontSize=12.5, subtitleFontSize=11.5, subtitleColor=LIGHT["muted"],
                         offset=6, limit=PANEL + 40, frame="group")  # fmt: skip
        panels.append(alt.layer(*layers).properties(width=PANEL, height=PANEL, title=head))
    words = "ROC curves" if kind == "roc" else "Precision against recall"
    cut = f" The first {MOST_PANELS} of {len(curves)} classes." if len(curves) > MOST_PANELS else ""
    dashed = "Dashed: guessing." if kind == "roc" else ""
    return _drawn(
        "roc_curves" if kind == "roc" else "precision_recall_curves",
        f"{words}, test",
        f"{words} of {len(panels)} classes on the test split, each against the rest.{cut} The table below holds the "
        "areas.",
        alt.concat(*panels, columns=3, spacing={"row": 26, "column": 26}),
        *([f"{dashed}{cut}".strip()] if dashed or cut else []),
        data=data,
    )


def reliability(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws how often predictions of each stated probability are right, with intervals, and how many there are; before
    and after temperature scaling. rows: of calibration.csv."""
    panels = []
    largest = max(row["objects"] for row in rows)
    for name in dict.fromkeys(row["probabilities"] for row in rows):
        own = [
            {part: _finite(row[part]) for part in ("left", "right", "objects", "confidence", "accuracy", "low", "high")}
            for row in rows
            if row["probabilities"] == name
        ]
        scale = alt.Scale(domain=[0, 1], nice=False)
        axis = alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1], format="~g")
        x = alt.X("confidence:Q", title="probability of the prediction", scale=scale, axis=axis)

        def y(field: str, scale: alt.Scale = scale, axis: alt.Axis = axis) -> alt.Y:
            return alt.Y(f"{field}:Q", title="share that is right", scale=scale, axis=axis)

        ideal = alt.Chart(_rows([{"confidence": 0, "accuracy": 0}, {"confidence": 1, "accuracy": 1}]))
        ideal = ideal.mark_line(color=LIGHT["muted"], strokeDash=[3, 3], strokeWidth=1).encode(x=x, y=y("accuracy"))
        base = alt.Chart(_rows(own)).encode(x=x)
        known = base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        bars = known.mark_rule(strokeWidth=3, opacity=0.45, color=LIGHT["first"]).encode(y=y("low"), y2="high:Q")
        dots = base.mark_point(filled=True, size=45, opacity=1, color=LIGHT["first"]).encode(y=y("accuracy"))
        head = alt.Title(name, fontSize=12.5, offset=6, frame="group")
        upper = alt.layer(ideal, bars, dots).properties(width=240, height=240, title=head)
        # a bar from the bin's left to its right; one object is seen beside thousands
        counts = (
            alt.Chart(_rows(own))
            .mark_bar(color=LIGHT["pale"], stroke=LIGHT["surface"], strokeWidth=1)
            .encode(
                x=alt.X("left:Q", title=None, scale=scale, axis=alt.Axis(labels=False, ticks=False, grid=False)),
                x2="right:Q",
                y=alt.Y("objects:Q", title="how many", scale=alt.Scale(type="symlog", domain=[0, largest], nice=False),
                        axis=alt.Axis(values=_counts_ticks(largest), format="~s")),
                y2=alt.Y2Datum(0),
            )
            .properties(width=240, height=56)
        )  # fmt: skip
        panels.append(alt.vconcat(counts, upper, spacing=8))
    return _drawn(
        "reliability",
        "Reliability, test",
        f"How often predictions are right against the probability that they state, in {len(rows)} bins, as predicted "
        "and after temperature scaling. The table below holds the numbers.",
        alt.hconcat(*panels, spacing=30),
        "Dot: a bin, at its mean probability; bar: 95 % interval. Dashed: as promised.",
    )


def entropies(rows: Sequence[Mapping[str, Any]], shown: Mapping[str, str]) -> Figure:
    """Draws the distribution of the entropy on each kind of made-up inputs beside that of test objects, for each of the
    predictions. rows: of entropies.csv; shown: the kinds in words, the test objects' first."""
    test, *kinds = shown
    predictions = list(dict.fromkeys(row["predictions"] for row in rows))
    counts: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        counts.setdefault((row["predictions"], row["inputs"]), []).append(row["places"])
    shares = {key: np.array(own) / max(sum(own), 1) for key, own in counts.items()}
    edges = [row["to"] for row in rows[: len(counts[predictions[0], test])]]
    # the first bin begins at 0, which has no place on the axis: it is drawn as wide as the others
    edges = [edges[0] ** 2 / edges[1], *edges]
    across = alt.Scale(type="log", domain=[edges[0], edges[-1]], nice=False)
    up = alt.Scale(domain=[0, 1.2 * max(own.max() for own in shares.values())], nice=False)
    panels = []
    for kind in kinds:
        for name, label in zip(predictions, labels(predictions), strict=True):
            x = alt.X(
                "at:Q",
                title="entropy / its largest value" if kind == kinds[-1] else None,
                scale=across,
                axis=alt.Axis(
                    values=[0.001, 0.01, 0.1, 1],
                    format="~g",
                    grid=False,
                    labels=kind == kinds[-1],
                    ticks=kind == kinds[-1],
                ),
            )
            first = name == predictions[0]
            y = alt.Y(
                "share:Q",
                title=textwrap.wrap(shown[kind], 11) if first else None,
                scale=up,
                axis=alt.Axis(tickCount=2, format=".0%", labels=first, ticks=first, grid=False),
            )
            of_kind, of_test = (
                alt.Chart(
                    _rows(
                        [
                            {"at": at, "share": round(float(share), 4)}
                            for at, share in zip(edges, [*shares[name, own], 0], strict=True)
                        ]
                    )
                ).encode(x=x, y=y)
                for own in (kind, test)
            )
            area = of_kind.mark_area(interpolate="step-after", color=LIGHT["first"], opacity=0.55)
            line = of_test.mark_line(interpolate="step-after", color=LIGHT["second"], strokeWidth=1.6)
            head = {"title": alt.Title(label, fontSize=12.5, offset=6, frame="group")} if kind == kinds[0] else {}
            panels.append(alt.layer(area, line).properties(width=165, height=64, **head))
    return _drawn(
        "entropies",
        "How unsure it is of what it never saw",
        f"Distribution of the predictive entropy on {len(kinds)} kinds of made-up inputs and on test objects, for "
        f"{len(predictions)} kinds of predictions. The table below holds the numbers.",
        # aligned by their frames, whatever is written beside these
        alt.concat(*panels, columns=len(predictions), bounds="flush", spacing=20),
        "Blue: made-up inputs; orange line: test objects. Entropy as a share of its largest value,",
        "logarithmic: 0 is certainty, 1 a toss-up among all classes; what is below 0.0001 stands in the first bin.",
    )


def _counts_ticks(largest: float) -> list[float]:
    """Returns 0 and the powers of ten up to the largest; at most 4."""
    powers = [10.0**power for power in range(int(np.floor(np.log10(max(largest, 1)))) + 1)]
    return [0, *powers[-3:]]


def slices(rows: Sequence[Mapping[str, Any]], accuracy: float, counted: str) -> Figure:
    """Draws the accuracy of each slice of each property with its interval. rows: of slices_test.csv with `label`;
    accuracy: of all together."""
    panels = []
    known = [row[part] for row in rows for part in ("low", "high", "accuracy") if _finite(row[part]) is not None]
    domain = [min([*known, accuracy]), max([*known, accuracy])]
    scale = alt.Scale(domain=domain if domain[0] < domain[1] else [0, 1], nice=True, zero=False)
    names = list(dict.fromkeys((row["property"], row["unit"]) for row in rows))
    heads = labels([f"{name} ({unit})" if unit else name for name, unit in names])
    for (name, unit), head in zip(names, heads, strict=True):
        own = [row for row in rows if (row["property"], row["unit"]) == (name, unit)]

        def x(field: str) -> alt.X:
            return alt.X(f"{field}:Q", title="accuracy on test", scale=scale, axis=alt.Axis(tickCount=5))

        every = alt.Chart(_rows([{"accuracy": accuracy}]))
        line = every.mark_rule(color=LIGHT["muted"], strokeDash=[3, 3]).encode(x=x("accuracy"))
        panels.append(_measured_panel("slice", head, own, "accuracy", x, line))
    return _drawn(
        "slices",
        "Accuracy in slices, test",
        f"Accuracy of test {counted} in {len(rows)} slices of {len(names)} properties, with 95 % intervals. The table "
        "below holds the numbers.",
        alt.concat(*panels, columns=2, spacing={"row": 26, "column": 30}),
        "Dot: accuracy of a slice; bar: its 95 % interval. Dashed: all together.",
    )


def comparisons(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Figure:
    """Draws by how much the chosen trial is better than others on test, with intervals. rows: of comparisons.csv with
    `label`, best on validation first. keys: what the parts of a label are."""
    shown = rows[:MOST_ROWS]

    def x(field: str) -> alt.X:
        title = "accuracy of the chosen trial minus the other's, test"
        return alt.X(f"{field}:Q", title=title, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=6, format="+~g"))

    zero = alt.Chart(_rows([{"difference": 0}])).mark_rule(color=LIGHT["muted"], strokeDash=[3, 3])
    measured = _measured("point", labels([row["label"] for row in shown]), shown, "difference", x)
    chart = alt.layer(zero.encode(x=x("difference")), *measured).properties(width=430, height=alt.Step(22))
    cut = f"{len(shown)} of {len(rows)} grid points, the best on validation first. " if len(rows) > len(shown) else ""
    return _drawn(
        "comparisons",
        "The chosen trial beside others, test",
        f"Difference of accuracy on test between the chosen trial and the best one of {len(shown)} other grid points, "
        f"with paired 95 % intervals. {cut}The table below holds the numbers.",
        chart,
        f"{cut}Dot: difference; bar: its paired 95 % interval, not corrected for their number.",
        *([f"A row: {' · '.join(keys)}."] if keys else []),
    )


def experiments(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws each score of several experiments on test with its interval. rows: experiment, score (in words), value, low
    and high."""
    own = list(dict.fromkeys(row["experiment"] for row in rows))
    names = labels(own)
    panels = []
    for score in dict.fromkeys(row["score"] for row in rows):
        shown = {row["experiment"]: row for row in rows if row["score"] == score}

        def x(field: str, score: str = score) -> alt.X:
            return alt.X(f"{field}:Q", title=f"{score}, test", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))

        known = [shown[experiment] for experiment in own if experiment in shown]
        measured = _measured("experiment", [names[own.index(row["experiment"])] for row in known], known, "value", x)
        panels.append(alt.layer(*measured).properties(width=260, height=alt.Step(24)))
    return _drawn(
        "experiments",
        "Experiments on test",
        f"Scores of {len(own)} experiments on test, with 95 % intervals. The table below holds the numbers.",
        alt.concat(*panels, columns=2, spacing={"row": 22, "column": 30}),
        "Dot: the chosen trial's score; bar: its 95 % interval.",
    )


def audits(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws what audits found beside what they find where their hypothesis holds. rows: audit, score (in words; one for
    all), expected, low, high, found and level: `passed`, `note` or `warning`."""
    levels = [level for level in AUDIT_MARKS if any(row["level"] == level for row in rows)]
    words, tokens, shapes = zip(*(AUDIT_MARKS[level] for level in levels), strict=True)
    names = labels([row["audit"].replace("_", " ") for row in rows])
    data = [
        {"audit": name, "verdict": AUDIT_MARKS[row["level"]][0]}
        | {part: _finite(row[part]) for part in ("expected", "low", "high", "found")}
        for name, row in zip(names, rows, strict=True)
    ]

    def x(field: str) -> alt.X:
        scale = alt.Scale(zero=False, padding=8)
        return alt.X(f"{field}:Q", title=rows[0]["score"], scale=scale, axis=alt.Axis(tickCount=6))

    base = alt.Chart(_rows(data)).encode(y=alt.Y("audit:N", title=None, scale=alt.Scale(domain=names)))
    bars = base.mark_rule(strokeWidth=9, color=LIGHT["pale"], opacity=0.6).encode(x=x("low"), x2="high:Q")
    middles = base.mark_tick(thickness=2, size=13, color=LIGHT["muted"]).encode(x=x("expected"))
    found = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=x("found"),
        color=alt.Color("verdict:N", scale=_colours(words, tokens), legend=_legend()),
        shape=alt.Shape("verdict:N", scale=alt.Scale(domain=list(words), range=list(shapes)), legend=_legend()),
    )
    return _drawn(
        "audits",
        "Audits",
        f"What {plural(len(rows), 'audit')} found, beside what each finds where its hypothesis holds. The table below "
        "holds the numbers.",
        alt.layer(bars, middles, found).properties(width=430, height=alt.Step(24)),
        "Mark: found. Bar: the interval of it where the hypothesis holds; line: the mean.",
    )


def _measured_panel(
    noun: str, head: str, rows: Sequence[Mapping[str, Any]], field: str, x: Callable[[str], alt.X], *behind: Any
) -> Any:
    """Returns a panel of what `_measured` draws of rows with a `label`; behind: what stands behind it."""
    measured = _measured(noun, labels([row["label"] for row in rows]), rows, field, x)
    title = alt.Title(head, fontSize=12.5, offset=6, frame="group", limit=300)
    return alt.layer(*behind, *measured).properties(width=230, height=alt.Step(22), title=title)


def _measured(
    noun: str, names: Sequence[str], rows: Sequence[Mapping[str, Any]], field: str, x: Callable[[str], alt.X]
) -> tuple[Any, Any]:
    """Returns the bars of intervals and the dots of a field, one under the other by the rows' names, which are of a
    noun. rows: the field, low and high; x: the axis for a field."""
    data = [
        {noun: name, **{part: _finite(row[part]) for part in (field, "low", "high")}}
        for name, row in zip(names, rows, strict=True)
    ]
    y = alt.Y(f"{noun}:N", title=None, scale=alt.Scale(domain=list(names)))
    base = alt.Chart(_rows(data)).encode(y=y)
    bars = base.transform_filter("isValid(datum.low) && isValid(datum.high)")
    bars = bars.mark_rule(strokeWidth=3, opacity=0.45, color=LIGHT["first"]).encode(x=x("low"), x2="high:Q")
    dots = base.transform_filter(f"isValid(datum.{field})")
    dots = dots.mark_point(filled=True, size=55, opacity=1, color=LIGHT["first"]).encode(x=x(field))
    return bars, dots


def cadences(rows: Sequence[Mapping[str, Any]], unit: str) -> Figure:
    """Draws the distribution of the median gap between steps; rows: from, to, sequences."""
    edges, counts = [rows[0]["from"], *(row["to"] for row in rows)], [int(row["sequences"]) for row in rows]
    title = f"median gap between two steps ({unit})" if unit else "median gap between two steps"
    return _histogram("cadences", "Cadence of the sequences", title, edges, counts)


def early_curves(rows: Sequence[Mapping[str, Any]], unit: str) -> Figure:
    """Draws accuracy, macro AUC and calibration error of growing sequences against steps and time; rows: of
    early_test.csv, of one trial."""
    scores = {"accuracy": "accuracy", "macro_auc": SCORES["macro_auc"], "calibration_error": "calibration error"}
    titles = {STEPS: "steps observed at most", SINCE_FIRST: f"time since the first step ({unit})"}
    names = list(scores.values())
    panels = []
    for by, title in titles.items():
        data = [
            {"at": row["at"], "score": row[score], "series": name}
            for row in rows
            if row["by"] == by
            for score, name in scores.items()
            if np.isfinite(row[score])
        ]
        lines = (
            alt.Chart(_rows(data))
            .mark_line(point=alt.OverlayMarkDef(size=26))
            .encode(
                x=alt.X("at:Q", title=title, axis=alt.Axis(tickCount=8)),
                y=alt.Y("score:Q", title="score on test", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=6)),
                color=alt.Color("series:N", scale=_colours(names, ("first", "second", "muted")), legend=_legend()),
                strokeDash=alt.StrokeDash(
                    "series:N", scale=alt.Scale(type="ordinal", domain=names, range=[[], [6, 3], [2, 3]])
                ),
            )
        )
        panels.append(lines.properties(width=500, height=205))
    description = (
        "Accuracy, macro AUC and calibration error of growing sequences on the test split, against the number "
    )
    return _drawn(
        "early_curves",
        "Scores of growing sequences",
        f"{description}of steps and the time since the first one.",
        alt.vconcat(*panels, spacing=18),
    )


def attention(weights: Mapping[str, NDArray[np.floating[Any]]], *, positions: bool = False) -> Figure:
    """Draws the attention weights `[target, source step]` of some sequences, by id, side by side. positions: whether
    targets are positions of label sequences, and else the steps themselves.

    Of longer sequences a cell is a block of steps: the weight of all its source steps, mean over its targets.
    """
    maps = {name: _blocks(values) for name, values in weights.items()}
    largest = max((float(blocks.max(initial=0)) for blocks, _, _ in maps.values()), default=0) or 1.0
    scale = alt.Scale(domain=[0, largest], range=[0.02, 1])
    opacity = alt.FillOpacity("weight:Q", scale=scale, legend=None)
    labelled = "labelled position (positions)" if positions else "labelled step (steps)"
    charts, data = [], {}
    for place, (label, (name, (blocks, down, across))) in enumerate(zip(labels(list(maps)), maps.items(), strict=True)):
        height, width = weights[name].shape
        # a weight that would be paper is left out
        targets, sources = np.nonzero(blocks > 0.005 * largest)
        data[f"weights-{place}"] = [
            {
                "x": int(source * across), "x2": int(min((source + 1) * across, width)),
                "y": int(target * down), "y2": int(min((target + 1) * down, height)),
                "weight": float(f"{blocks[target, source]:.3g}"),
            }
            for target, source in zip(targets, sources, strict=True)
        ]  # fmt: skip
        axis = alt.Axis(tickCount=5, tickMinStep=1, grid=False, format="d")
        chart = (
            alt.Chart(alt.NamedData(name=f"weights-{place}"))
            .mark_rect(fill=LIGHT["heat"])
            .encode(
                x=alt.X("x:Q", title="attended step (steps)", scale=_frame((0, width)), axis=axis),
                x2="x2:Q",
                y=alt.Y("y:Q", title=labelled, scale=_frame((0, height), turned=True), axis=axis),
                y2="y2:Q",
                fillOpacity=opacity,
            )
        )
        head = alt.Title(label, fontSize=12.5, offset=6, limit=230)
        charts.append(
            chart.properties(width=210, height=210, title=head, view=alt.ViewBackground(stroke=LIGHT["pale"]))
        )
    maps_drawn = alt.concat(*charts, columns=3, spacing={"row": 20, "column": 24})
    together = alt.vconcat(_shades("attention weight", 0, largest), maps_drawn, spacing=14)
    rows = "positions" if positions else "steps"
    sizes = sorted({(down, across) for _, down, across in maps.values() if max(down, across) > 1})
    blocked = [f"{down} {rows} by {across} steps" for down, across in sizes]
    cells = f"A cell is a block of {' or '.join(blocked)}: their weight together." if blocked else ""
    return _drawn(
        "attention",
        "What the decoder attends to",
        f"Attention weights of {len(maps)} test sequences: for each labelled {'position' if positions else 'step'}, "
        f"downwards, how much each step of the sequence weighs, to the right. The largest is {largest:.2g}.",
        together,
        *([cells] if cells else []),
        data=data,
    )


@dataclass(frozen=True)
class Attributed:
    """What is drawn of an object's attributions. told: what it was taken for; values: [step, feature]; metadata: by
    column."""

    name: str
    told: str
    features: Sequence[str]
    values: NDArray[np.floating[Any]]
    metadata: Mapping[str, float]


def attributions(found: Sequence[Attributed]) -> Figure:
    """Draws what each input adds to the probability of what is predicted, a map an object, features by steps.

    Of longer sequences a cell is a block of steps, of many features the last row is all others: their sum.
    """
    features = list(found[0].features)
    sizes = [np.abs(own.values).sum(axis=0) for own in found]
    weights = np.sum([own / max(own.sum(), 1e-12) for own in sizes], axis=0)
    most = len(features) if len(features) <= MOST_ATTRIBUTED + 1 else MOST_ATTRIBUTED
    shown = np.sort(np.argsort(-weights, kind="stable")[:most])
    others = np.setdiff1d(np.arange(len(features)), shown)
    names = labels([features[place] for place in shown])
    names += [f"{len(others)} others"] if len(others) else []
    maps, sizes = [], []
    for own in found:
        rows = own.values[:, shown].T
        rows = np.concatenate([rows, own.values[:, others].sum(axis=1)[None]]) if len(others) else rows
        sizes.append(max(-(-rows.shape[1] // MOST_STEP_BLOCKS), 1))
        maps.append(np.add.reduceat(rows, np.arange(0, rows.shape[1], sizes[-1]), axis=1))
    largest = max(float(np.abs(blocks).max(initial=0)) for blocks in maps) or 1.0
    sides = ("towards", "against")
    # few shades, whose cells beside each other are one: what would be paper is left out
    shades = {
        "fill": alt.Fill("side:N", scale=_colours(sides, ("first", "second")), legend=None),
        "fillOpacity": alt.FillOpacity("shade:Q", scale=None, legend=None),
    }
    charts, data = [], {}
    for place, (label, own, blocks, size) in enumerate(
        zip(labels([own.name for own in found]), found, maps, sizes, strict=True)
    ):
        data[f"cells-{place}"] = [
            {
                "x": start * size, "x2": min(stop * size, len(own.values)), "feature": name,
                "shade": abs(level) / ATTRIBUTION_SHADES, "side": sides[int(level < 0)],
            }
            for name, row in zip(names, np.rint(blocks / largest * ATTRIBUTION_SHADES).astype(int), strict=True)
            for level, start, stop in _runs(row)
            if level
        ]  # fmt: skip
        left = place % 2 == 0
        cells = alt.Chart(alt.NamedData(name=f"cells-{place}")).mark_rect()
        chart = cells.encode(
            x=alt.X("x:Q", title="step" if place >= len(found) - 2 else None, scale=_frame((0, len(own.values))),
                    axis=alt.Axis(tickCount=5, tickMinStep=1, grid=False, format="d")),
            x2="x2:Q",
            y=alt.Y("feature:N", title=None, scale=alt.Scale(domain=names, padding=0),
                    axis=alt.Axis(labels=left, ticks=False, domain=False)),
            **shades,
        )  # fmt: skip
        added = ", ".join(f"{name} {value:+.2f}" for name, value in own.metadata.items() if abs(value) >= 0.005)
        told = textwrap.wrap(own.told, 38)[:3]
        told += [textwrap.shorten(f"metadata: {added}", 42, placeholder=" …")] if added else []
        head = alt.Title(label, subtitle=told, fontSize=12.5, subtitleFontSize=11.5, subtitleColor=LIGHT["muted"],
                         offset=6, limit=250, frame="group")  # fmt: skip
        charts.append(chart.properties(width=236, height=alt.Step(17), title=head,
                                       view=alt.ViewBackground(stroke=LIGHT["pale"])))  # fmt: skip
    levels = range(-ATTRIBUTION_SHADES, ATTRIBUTION_SHADES + 1)
    ends = [max(-1, min(1, (level + side / 2) / ATTRIBUTION_SHADES)) * largest for level in levels for side in (-1, 1)]
    strip = (
        alt.Chart(
            _rows(
                [
                    {"x": a, "x2": b, "shade": abs(level) / ATTRIBUTION_SHADES, "side": sides[int(level < 0)]}
                    for level, a, b in zip(levels, ends[::2], ends[1::2], strict=True)
                ]
            )
        )
        .mark_rect()
        .encode(
            x=alt.X(
                "x:Q",
                title="against what is predicted · attribution · towards it",
                scale=_frame((-largest, largest)),
                axis=alt.Axis(orient="top", tickCount=5, grid=False, format="+.2~g"),
            ),
            x2="x2:Q",
            **shades,
        )
        .properties(width=300, height=10, view=alt.ViewBackground(stroke=LIGHT["pale"]))
    )
    together = alt.vconcat(strip, alt.concat(*charts, columns=2, spacing={"row": 22, "column": 22}), spacing=16)
    blocked = sorted({size for size in sizes if size > 1})
    cells_are = f"A cell is a block of {' or '.join(map(str, blocked))} steps: their sum." if blocked else ""
    return _drawn(
        "attributions",
        "What decisions rest on, test",
        f"Attributions to what is predicted of {len(found)} test objects, features downwards and steps to the right. "
        f"The largest of a cell is {largest:.2g}. attributions_test.csv holds the numbers.",
        together,
        *([cells_are] if cells_are else []),
        data=data,
    )


def _runs(levels: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Returns each run of equal levels, and where it begins and ends."""
    starts = np.flatnonzero(np.diff(levels, prepend=levels[0] - 1))
    return list(zip(levels[starts].tolist(), starts.tolist(), [*starts[1:].tolist(), len(levels)], strict=True))


def _shades(title: str, low: float, high: float) -> Any:
    """Returns a strip that says what colours stand for: legends show no fill opacity."""
    shades = [low + (high - low) * place / SHADES for place in range(SHADES)]
    scale = alt.Scale(domain=[low, high], range=[0.02, 1])
    axis = alt.Axis(orient="top", tickCount=4, grid=False, format=".3~g")
    return (
        alt.Chart(_rows([{"x": shade, "x2": shade + (high - low) / SHADES, "weight": shade} for shade in shades]))
        .mark_rect(fill=LIGHT["heat"])
        .encode(
            x=alt.X("x:Q", title=title, scale=_frame((low, high)), axis=axis),
            x2="x2:Q",
            fillOpacity=alt.FillOpacity("weight:Q", scale=scale, legend=None),
        )
        .properties(width=210, height=10, view=alt.ViewBackground(stroke=LIGHT["pale"]))
    )


def _blocks(weights: NDArray[np.floating[Any]]) -> tuple[NDArray[np.floating[Any]], int, int]:
    """Returns the weights in at most `MOST_BLOCKS` blocks a side, and how many steps a block has, down and across."""
    sizes = [max(-(-steps // MOST_BLOCKS), 1) for steps in weights.shape]
    rows, columns = (np.arange(0, steps, size) for steps, size in zip(weights.shape, sizes, strict=True))
    together = np.add.reduceat(np.add.reduceat(weights, columns, axis=1), rows, axis=0)
    return together / np.diff(np.append(rows, len(weights)))[:, None], sizes[0], sizes[1]


@dataclass(frozen=True)
class Shown:
    """An object of examples.csv, drawn small among others.

    name: what its row is called, its class. steps: how many it has, of which these are drawn: step [step] from 1,
    since_first [step], values [step, input], NaN where there is none. told: lines below its title. marked: the step
    that is meant. predicted, probabilities [step, class]: what a trial said of it as it grew, where that is drawn.
    """

    drawn_as: str
    name: str
    id: str
    steps: int
    step: NDArray[np.int64]
    since_first: NDArray[np.float64]
    values: NDArray[np.float64]
    told: Sequence[str] = ()
    marked: int | None = None
    predicted: str | None = None
    probabilities: NDArray[np.float64] | None = None

    @property
    def length(self) -> str:
        thinned = f"{len(self.step)} of " if len(self.step) < self.steps else ""
        return thinned + plural(self.steps, "step")


@dataclass(frozen=True)
class Sheet:
    """How the objects of a figure are drawn alike. inputs: names with units. classes: whose probabilities are drawn,
    by their places. size: of what was observed (px). levels: the values of the palest and the strongest colour of a
    map. downwards: whether its steps go from top to bottom."""

    inputs: Sequence[str]
    time_unit: str
    size: tuple[int, int]
    classes: Mapping[int, str]
    levels: tuple[float, float]
    downwards: bool


def objects(
    name: str,
    title: str,
    rows: Mapping[str, Sequence[Shown]],
    inputs: Sequence[str],
    time_unit: str,
    classes: Sequence[str] = (),
) -> Figure:
    """Draws objects side by side in rows that have names: few inputs as lines against time, many as a map of input
    against time; below them the probabilities of the classes, where objects have them."""
    every = [shown for row in rows.values() for shown in row]
    known = np.concatenate([shown.values[np.isfinite(shown.values)] for shown in every])
    # a single value must not take all colour from the others
    low, high = np.percentile(known, [1, 99]).tolist() if len(known) else (0.0, 1.0)
    grown = [shown.probabilities for shown in every if shown.probabilities is not None]
    most = np.max([found.max(axis=0) for found in grown], axis=0) if grown else np.zeros(0)
    largest = sorted(np.argsort(-most, kind="stable")[:MOST_SERIES].tolist())
    lines, longest = len(inputs) <= MOST_LINES, max(shown.steps for shown in every)
    downwards = not lines and not grown and longest <= len(inputs)
    # the cells of a map are square where its steps go down, as the rows of a picture do
    size = (380 if grown else 236, 96) if not downwards else (min(160, max(60, round(96 * len(inputs) / longest))), 96)
    across = 2 if downwards and len(rows) > MOST_LINES and size[0] < 110 else 1
    colours = {at: own for at, own in enumerate(labels(classes)) if at in largest}
    sheet = Sheet(inputs, time_unit, size, colours, (low, high if low < high else low + 1), downwards)
    key = _key(inputs, "inputs" if grown else "") if lines else _shades(_quantity(inputs), *sheet.levels)
    if grown:
        key = alt.vconcat(key, _key(list(sheet.classes.values()), "classes"), spacing=6)
    blocks, data = [], {}
    for place, (head, row) in enumerate(zip(labels(list(rows)), rows.values(), strict=True)):
        last = place >= len(rows) - across
        cells = [_object(shown, sheet, f"-{place}-{at}", at % COLUMNS == 0, last, data) for at, shown in enumerate(row)]
        named = {"title": alt.Title(head, fontSize=13.5, offset=6).to_dict()} if len(rows) > 1 else {}
        blocks.append({"concat": cells, "columns": COLUMNS, "spacing": {"row": 20, "column": 22}, **named})
    cut = grown and len(classes) > len(sheet.classes)
    told = (
        [f"{len(sheet.classes)} of {len(classes)} classes, those whose probability is highest at any step."]
        if cut
        else []
    )
    below = {"concat": blocks, "columns": across, "spacing": {"row": 18, "column": 26}}
    return _drawn(
        name,
        title,
        f"{title}: {plural(len(every), 'object')}, {', '.join(labels(inputs[:MOST_LINES]))}"
        f"{' and others' * (not lines)} against time. examples.csv holds the numbers.",
        {"vconcat": [_spec(key, data), below], "spacing": 18},
        *told,
        data=data,
    )


def _spec(chart: Any, data: dict[str, Any]) -> dict[str, Any]:
    """Returns a chart as Vega-Lite has it and puts its rows into `data`: altair copies what it is to put together
    again and again."""
    spec = chart.to_dict(context={"pre_transform": False})
    data |= spec.pop("datasets", {})
    return {key: value for key, value in spec.items() if key not in ("$schema", "config")}


def _object(shown: Shown, sheet: Sheet, name: str, first: bool, last: bool, data: dict[str, Any]) -> Any:
    """Returns the panels of an object below each other and puts their rows into `data`, by names that end with
    `name`. first, last: whether it stands where the titles of the axes do."""
    time = "time since the first step" + (f" ({sheet.time_unit})" if sheet.time_unit else "")
    grown = shown.probabilities is not None
    if len(sheet.inputs) > MOST_LINES:
        panels = [_image(shown, sheet, first, last and not grown, time, name, data)]
    else:
        units: dict[str, list[int]] = {}
        for at, title in enumerate(sheet.inputs):
            units.setdefault(_parts(title)[1], []).append(at)
        panels = []
        for number, own in enumerate(units.values()):
            series = {sheet.inputs[at]: shown.values[:, at] for at in own}
            frame = _domain(shown.values[:, own])
            y = _quantity([sheet.inputs[at] for at in own])
            titles = time if last and number == len(units) - 1 and not grown else None, y if first else None
            panels.append(_lines(shown, series, sheet.inputs, frame, titles, sheet.size, f"{name}-{number}", data))
    if shown.probabilities is not None:
        series = {own: shown.probabilities[:, at] for at, own in sheet.classes.items()}
        titles = time if last else None, "probability" if first else None
        size = sheet.size[0], 120
        panels.append(_lines(shown, series, list(series), (0, 1), titles, size, f"{name}-p", data, MOST_MARKERS))
    head = alt.Title(
        f"{labels([shown.id])[0]} · {shown.length}",
        subtitle=[printable(line) for line in shown.told] or alt.Undefined,
        subtitleColor=LIGHT["muted"],
        fontSize=11.5,
        fontWeight="normal",
        subtitleFontSize=11.5,
        offset=5,
        limit=sheet.size[0] + 40,
    )
    return {"vconcat": [_spec(panel, data) for panel in panels], "spacing": 8, "title": head.to_dict()}


def _lines(
    shown: Shown,
    series: Mapping[str, NDArray[np.floating[Any]]],
    every: Sequence[str],
    frame: tuple[float, float],
    titles: tuple[str | None, str | None],
    size: tuple[int, int],
    name: str,
    data: dict[str, Any],
    most: int | None = None,
) -> Any:
    """Returns lines with points, as many points as `most` on each. every: all that a colour stands for."""
    shown_as = dict(zip(every, labels(every), strict=True))
    rows, points = [], []
    for title, values in series.items():
        seen = np.flatnonzero(np.isfinite(values))
        own = [
            {"x": float(shown.since_first[at]), "y": float(values[at]), "band": shown_as[title]} for at in seen.tolist()
        ]
        rows += own
        marks = len(own) if most is None else min(most, len(own))
        points += [own[at] for at in np.unique(np.linspace(0, len(own) - 1, marks).round().astype(int))]
    data[f"rows{name}"], data[f"points{name}"] = rows, points
    x_domain = _domain(shown.since_first)
    axis = {"tickCount": 3, "labelOverlap": True, "labelFontSize": 11, "titleFontSize": 11.5}
    above = shown.probabilities is not None and most is None
    x_axis = alt.Axis(grid=False, format=_ticks(x_domain), labels=not above, labelFlush=False, titlePadding=5, **axis)
    y_axis = alt.Axis(format=_ticks(frame), minExtent=40, maxExtent=40, titlePadding=4, titleLimit=size[1] + 20, **axis)
    x = alt.X("x:Q", title=titles[0], scale=_frame(x_domain), axis=x_axis)
    y = alt.Y("y:Q", title=titles[1], scale=_frame(frame), axis=y_axis)
    channels = _band_channels(every)
    lines = alt.Chart(alt.NamedData(name=f"rows{name}")).mark_line(
        strokeWidth=1 if most is None else 1.7, strokeOpacity=0.7 if most is None else 1
    )
    marks = alt.Chart(alt.NamedData(name=f"points{name}")).mark_point(
        filled=True, size=15 if most is None else 28, opacity=1
    )
    layers = [lines.encode(x=x, y=y, color=channels["color"]), marks.encode(x=x, y=y, **channels)]
    if shown.marked is not None:
        at = [{"x": float(time)} for time in shown.since_first[shown.step == shown.marked]]
        layers.insert(0, alt.Chart(_rows(at)).mark_rule(color=LIGHT["ink"], strokeDash=[3, 3]).encode(x=x))
    return alt.layer(*layers).properties(width=size[0], height=size[1])


def _image(shown: Shown, sheet: Sheet, first: bool, last: bool, time: str, name: str, data: dict[str, Any]) -> Any:
    """Returns a map of the inputs against time, or against the steps where these are no even stretches of time. An
    image, for thousands of cells as shapes of their own would make the page large."""
    steps, inputs = shown.values.shape
    last_time = float(shown.since_first[-1])
    gap = last_time / max(steps - 1, 1)
    # no step stands half a cell beside its time
    even = gap > 0 and np.abs(shown.since_first - np.linspace(0, last_time, steps)).max() <= 0.5 * gap
    if sheet.downwards:
        time = f"time ({sheet.time_unit})" if sheet.time_unit else "time"
    along = (time, (0, gap * steps)) if even else ("step", (0.5, steps + 0.5))
    if not even and steps < shown.steps:
        along = ("drawn step", along[1])
    marked = [steps_at for steps_at, step in enumerate(shown.step.tolist()) if step == shown.marked]
    across = (_begun(sheet.inputs) or "input", (0.5, inputs + 0.5))
    low, high = sheet.levels
    shares = np.clip((shown.values - low) / (high - low), 0, 1)
    levels = np.where(np.isfinite(shares), 1 + np.nan_to_num(shares) * (LEVELS - 1), 0).round().astype(np.uint8)
    (x_title, x_domain), (y_title, y_domain) = (across, along) if sheet.downwards else (along, across)
    width, height = sheet.size
    data[f"image{name}"] = [{"url": _png(levels if sheet.downwards else levels.T)}]
    axis = {"tickCount": 3, "labelOverlap": True, "labelFontSize": 11, "titleFontSize": 11.5, "grid": False}
    x = alt.X(
        "x:Q",
        title=x_title if last else None,
        scale=_frame(x_domain),
        axis=alt.Axis(labelFlush=False, titlePadding=5, titleLimit=width + 40, **axis),
    )
    y = alt.Y(
        "y:Q",
        title=y_title if first else None,
        scale=_frame(y_domain, turned=True),
        axis=alt.Axis(minExtent=40, maxExtent=40, titlePadding=4, titleLimit=height + 30, **axis),
    )
    frame = {"x": x_domain[0], "x2": x_domain[1], "y": y_domain[0], "y2": y_domain[1]}
    layers = [
        alt.Chart(alt.NamedData(name=f"image{name}"))
        .mark_image(width=width, height=height, align="left", baseline="top", aspect=False, smooth=False)
        .encode(x=alt.value(0), y=alt.value(0), url="url:N"),
        alt.Chart(_rows([frame])).mark_rect(fillOpacity=0, stroke=LIGHT["pale"]).encode(x=x, y=y, x2="x2:Q", y2="y2:Q"),
    ]
    if marked:
        at = along[1][0] + (marked[0] + 0.5) * (along[1][1] - along[1][0]) / steps
        rule = alt.Chart(_rows([{"x": at, "y": at}])).mark_rule(color=LIGHT["ink"], strokeDash=[3, 3])
        layers.append(rule.encode(y=y) if sheet.downwards else rule.encode(x=x))
    return alt.layer(*layers).properties(width=width, height=height)


def _png(levels: NDArray[np.uint8]) -> str:
    """Returns an image of levels [row, column], 0 (nothing) to `LEVELS` (full colour), as the address that holds it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = levels.shape
    opacities = [0, *np.linspace(0.02, 1, LEVELS)]
    # a palette of one colour, more or less of it
    content = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
    content += chunk(b"PLTE", bytes.fromhex(LIGHT["heat"][1:]) * len(opacities))
    content += chunk(b"tRNS", bytes(round(255 * opacity) for opacity in opacities))
    content += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in levels), 9))
    image = b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _parts(title: str) -> tuple[str, str]:
    """Returns the name and the unit of an input that is called `name (unit)`."""
    found = re.fullmatch(r"(.*) \((.*)\)", title, re.DOTALL)
    return (found[1], found[2]) if found else (title, "")


def _quantity(inputs: Sequence[str]) -> str:
    """Returns what these inputs measure: what their names begin with, and their unit where they have one in common."""
    units, begun = {_parts(title)[1] for title in inputs}, _begun(inputs) or "value"
    unit = printable(units.pop()) if len(units) == 1 else ""
    return f"{begun} ({unit})" if unit else begun


def _begun(inputs: Sequence[str]) -> str:
    """Returns what the names of inputs begin with, "" for nothing in common."""
    names = [_parts(title)[0] for title in inputs]
    begun = names[0]
    while not all(name.startswith(begun) for name in names):
        begun = begun[:-1].rstrip("0123456789")
    return printable(begun).strip(" _-")


def _domain(values: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Returns the ends of a frame a little wider than those of the values that are numbers."""
    seen = values[np.isfinite(values)]
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    return low - margin, high + margin


def _key(names: Sequence[str], title: str) -> Any:
    """Returns which colour and shape stand for which name, in lines of the page's width."""
    key = _band_key(names)
    return key.properties(title=alt.Title(title, fontSize=12, offset=2)) if title else key


@dataclass(frozen=True)
class Panel:
    """One frame of the drawing of an object.

    kind: `points` (with error bars), `line`, `marks` (what was observed, by passband) or `map` (cells). x, y: titles of
    the axes. x_domain, y_domain: the ends of the frame; rows lie inside.
    rows: x, y, text (shown on hover) and, where there are any, low, high (of the error bar), band; of a map: x, x2, y,
    y2, share (of full colour), text. faults: x, y, text of observations that are drawn as crosses.
    """

    kind: Literal["points", "line", "marks", "map"]
    x: str
    y: str
    x_domain: tuple[float, float]
    y_domain: tuple[float, float]
    rows: Sequence[dict[str, Any]]
    faults: Sequence[dict[str, Any]] = ()
    y_reversed: bool = False


@dataclass(frozen=True)
class Drawing:
    """An object as it is drawn: a title, lines of facts, remarks on what is faulty or left out, panels below each
    other; metadata: names and values with their units."""

    title: str
    facts: Sequence[str]
    metadata: Sequence[tuple[str, str]]
    remarks: Sequence[str]
    panels: Sequence[Panel] = field(repr=False)
    description: str = ""


def passbands(names: Sequence[str]) -> Figure:
    """Draws which colour and shape stand for which passband."""
    chart = _band_key(names)
    return _drawn("passbands", "", f"Colours and shapes of the passbands {', '.join(labels(names))}.", chart)


def _band_key(names: Sequence[str]) -> Any:
    rows, at, line = [], 0, 0
    for name in labels(names):
        width = 26 + 7 * len(name)
        if rows and at + width > MOST_KEY:
            at, line = 0, line + 1
        rows.append({"band": name, "at": at, "end": at + width, "line": line})
        at += width
    widest = max(row["end"] for row in rows)
    height = 18 * (line + 1)
    x = alt.X("at:Q", scale=alt.Scale(domain=[-8, widest], nice=False, zero=False), axis=None)
    y = alt.Y("line:Q", scale=alt.Scale(domain=[-0.5, line + 0.5], nice=False, zero=False, reverse=True), axis=None)
    base = alt.Chart(_rows(rows)).encode(x=x, y=y)
    points = base.mark_point(filled=True, size=70, opacity=1).encode(**_band_channels(names))
    words = base.mark_text(align="left", dx=9).encode(text="band:N")
    return alt.layer(points, words).properties(width=widest + 8, height=height)


def _band_channels(names: Sequence[str]) -> dict[str, Any]:
    shown = labels(names)
    tokens = [BAND_TOKENS[index % len(BAND_TOKENS)] for index in range(len(names))]
    shapes = [BAND_SHAPES[index % len(BAND_SHAPES)] for index in range(len(names))]
    return {
        "color": alt.Color("band:N", scale=_colours(shown, tokens), legend=None),
        "shape": alt.Shape("band:N", scale=alt.Scale(domain=shown, range=shapes), legend=None),
    }


def panels(name: str, drawn: Drawing, bands: Sequence[str]) -> list[Figure]:
    """Draws the panels of one object without its title and facts, for a page that tells them beside them."""
    figures = []
    for index, panel in enumerate(drawn.panels):
        data: dict[str, Any] = {}
        chart = _panel(panel, bands, 300, 170, "", data)
        figures.append(_drawn(f"{name}-{index}", "", f"{panel.y}. {drawn.description}", chart, data=data))
    return figures


def drawings(title: str, sections: Mapping[str, Sequence[Drawing]], bands: Sequence[str], subtitle: str) -> Figure:
    """Draws many objects as one image, below the name of their section: objects of one panel side by side, those of
    several below each other."""
    every = [drawn for group in sections.values() for drawn in group]
    columns = 3 if len(every) <= 12 else 4 if len(every) <= 60 else 6
    if any(len(drawn.panels) > 1 for drawn in every):
        columns = 1
    width, height = (560, 300) if len(every) == len(every[0].panels) == 1 else (260, 150)
    data: dict[str, Any] = {}
    blocks: list[Any] = [_band_key(bands)] if bands else []
    for place, (section, group) in enumerate(sections.items()):
        cells = []
        for index, drawn in enumerate(group):
            charts = [
                _panel(panel, bands, width, height, f"-{place}-{index}-{number}", data)
                for number, panel in enumerate(drawn.panels)
            ]
            head = _head(drawn, round((width + 40) * min(4, len(charts)) / 6))
            cells.append(alt.concat(*charts, columns=4, spacing={"row": 12, "column": 20}, title=head))
        block = alt.concat(*cells, columns=columns, spacing={"row": 26, "column": 22})
        blocks.append(block.properties(title=alt.Title(section, fontSize=17, offset=12)) if section else block)
    chart = alt.vconcat(*blocks, spacing=30)
    return _drawn("objects", title, title, chart, *([subtitle] if subtitle else []), data=data)


def networks(found: Sequence["Described"]) -> Figure:
    """Draws networks side by side, each as its layers from the input down; layers within a residual are indented."""
    charts = [_network(network) for network in found]
    chart = alt.concat(*charts, columns=3, spacing={"row": 36, "column": 40})
    told = [f"{', '.join(row.name for row in network.rows)} ({network.parameters:,} parameters)" for network in found]
    return _drawn("networks", "", f"Layers in their order: {'; '.join(told)}.", chart)


def _network(network: "Described", width: int = 340, height: int = 40, gap: int = 14, indent: int = 18) -> Any:
    rows, arrows = [], []
    for place, row in enumerate(network.rows):
        top, left = place * (height + gap), row.depth * indent
        parameters = f"{row.parameters:,}" if row.parameters else ""
        rows.append({
            "x": left, "x2": width, "edge": left + 4, "y": top, "y2": top + height, "kind": row.kind,
            "name": row.name, "gives": row.gives, "parameters": parameters,
            "settings": textwrap.shorten(row.settings, 62 - 3 * row.depth, placeholder=" …"),
            "upper": top + (14 if row.settings or parameters else height / 2), "lower": top + 29,
        })  # fmt: skip
        if place:
            arrows.append({"x": 24 + left, "y": top - gap, "y2": top - 4, "tip": top - 3})
    total = len(network.rows) * (height + gap) - gap
    x = alt.Scale(domain=[0, width], nice=False)
    y = alt.Scale(domain=[0, total], nice=False, reverse=True)

    def at(field: str, scale: Any, channel: Any = alt.X) -> Any:
        return channel(f"{field}:Q", scale=scale, axis=None)

    boxes = alt.Chart(_rows(rows))
    corners = {"x2": "x2:Q", "y": at("y", y, alt.Y), "y2": "y2:Q"}
    frames = boxes.mark_rect(fill=LIGHT["surface"], stroke=LIGHT["pale"]).encode(x=at("x", x), **corners)
    kinds = ["", *LAYER_TOKENS, "dropout", "metadata", "residual"]
    colours = _colours(kinds, [LAYER_TOKENS.get(kind, "muted") for kind in kinds])
    edges = boxes.mark_rect().encode(
        x=at("x", x), **(corners | {"x2": "edge:Q"}), color=alt.Color("kind:N", scale=colours, legend=None)
    )
    small = {"fontSize": 10.5, "color": LIGHT["muted"]}

    def words(field: str, across: str, down: str, **style: Any) -> Any:
        right = across == "x2"
        mark = boxes.mark_text(align="right" if right else "left", dx=-8 if right else 12, baseline="middle", **style)
        return mark.encode(x=at(across, x), y=at(down, y, alt.Y), text=f"{field}:N")

    texts = [
        words("name", "x", "upper", fontWeight="bold"),
        words("gives", "x2", "upper"),
        words("settings", "x", "lower", **small),
        words("parameters", "x2", "lower", **small),
    ]
    lines = alt.Chart(_rows(arrows)).encode(x=at("x", x))
    stems = lines.mark_rule(color=LIGHT["muted"]).encode(y=at("y", y, alt.Y), y2="y2:Q")
    tips = lines.mark_point(shape="triangle-down", size=30, filled=True, opacity=1, color=LIGHT["muted"])
    layers = [frames, edges, *texts, stems, tips.encode(y=at("tip", y, alt.Y))]
    facts = [f"{network.parameters:,} parameters, each layer's at its right", *network.told]
    title = alt.Title(
        textwrap.shorten(network.name, 52, placeholder="…") or "The network",
        subtitle=[line for fact in facts for line in textwrap.wrap(fact, 60)],
        subtitleColor=LIGHT["muted"],
        fontSize=13,
        subtitleFontSize=11,
        offset=10,
    )
    return alt.layer(*layers).properties(width=width, height=total, title=title)


def _head(drawn: Drawing, letters: int) -> alt.Title:
    """Returns an object's title and, in lines of at most so many letters, what is told of it."""
    known = " · ".join(f"{name} {value}" for name, value in drawn.metadata)
    lines = [line for text in (" · ".join(drawn.facts), *drawn.remarks, known) for line in textwrap.wrap(text, letters)]
    if len(lines) > 7:
        lines = [*lines[:6], f"… and {len(lines) - 6} more lines, which .html shows"]
    cut = drawn.title if len(drawn.title) <= letters - 8 else f"{drawn.title[: letters - 9]}…"
    return alt.Title(
        cut,
        subtitle=lines or alt.Undefined,
        subtitleColor=LIGHT["muted"],
        fontSize=13,
        subtitleFontSize=11,
        offset=8,
        limit=6 * letters,
    )


def _panel(panel: Panel, bands: Sequence[str], width: int, height: int, name: str, data: dict[str, Any]) -> Any:
    """Returns a panel's chart and puts its rows into `data`, by names that end with `name`."""
    data[f"rows{name}"], data[f"faults{name}"] = list(panel.rows), list(panel.faults)
    whole = panel.kind == "map"
    if whole:  # square cells, where there is room
        width = round(min(width, max(60, height * panel.x_domain[1] / panel.y_domain[1])))
    least = 1 if whole else alt.Undefined  # between two ticks
    x_axis = alt.Axis(
        tickCount=4, tickMinStep=least, labelOverlap=True, grid=False, format=_ticks(panel.x_domain), labelFlush=False
    )
    x = alt.X("x:Q", title=panel.x, scale=_frame(panel.x_domain), axis=x_axis)
    y_axis = alt.Axis(
        tickCount=4,
        tickMinStep=least,
        labelOverlap=True,
        grid=not whole,
        titleLimit=height + 30,
        format=_ticks(panel.y_domain),
        minExtent=44,  # so that frames below each other begin at one place
    )
    y_scale = _frame(panel.y_domain, panel.y_reversed or whole)
    # a long title takes two lines: the quantity, and its unit
    y_title = re.split(r" (?=\()", panel.y, maxsplit=1) if 7 * len(panel.y) > height else panel.y
    y = alt.Y("y:Q", title=y_title, scale=y_scale, axis=y_axis)
    if panel.kind == "marks":
        y = alt.Y("band:N", title=panel.y, scale=alt.Scale(domain=labels(bands)))
    channels = _band_channels(bands) if bands and any("band" in row for row in panel.rows) else {}
    base = alt.Chart(alt.NamedData(name=f"rows{name}")).encode(x=x, y=y)
    layers: list[Any] = []
    if whole:
        opacity = alt.FillOpacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.02, 1]), legend=None)
        cells = base.mark_rect(fill=LIGHT["heat"])
        layers.append(cells.encode(x2="x2:Q", y2="y2:Q", fillOpacity=opacity, description="text:N"))
    if panel.kind == "line":
        layers.append(base.mark_line(strokeWidth=1.2, color=LIGHT["first"]).encode(order="x:Q"))
    if any("low" in row for row in panel.rows):
        bars = base.mark_rule(strokeWidth=1.1, opacity=0.55, color=LIGHT["first"])
        colour = {"color": channels["color"]} if channels else {}
        layers.append(bars.encode(y=alt.Y("low:Q", title=y_title, scale=y_scale, axis=y_axis), y2="high:Q", **colour))
    if not whole:
        size = 8 if panel.kind == "line" and len(panel.rows) > 60 else 26
        dots = base.mark_point(filled=True, size=size, opacity=1, color=LIGHT["first"])
        layers.append(dots.encode(**channels, description="text:N"))
    if panel.faults:
        crosses = alt.Chart(alt.NamedData(name=f"faults{name}")).mark_point(
            filled=False, shape=CROSS, size=70, strokeWidth=2, opacity=1, color=LIGHT["ink"]
        )
        layers.append(crosses.encode(x=x, y=y, description="text:N"))
    if not panel.rows and not panel.faults:
        nothing = alt.Chart(_rows([{}])).mark_text(text="no observations", color=LIGHT["muted"], fontStyle="italic")
        layers = [nothing.encode(x=alt.value(width / 2), y=alt.value(height / 2))]
    return alt.layer(*layers).properties(width=width, height=height)


def _frame(domain: tuple[float, float], turned: bool = False) -> alt.Scale:
    return alt.Scale(domain=list(domain), zero=False, nice=False, reverse=turned)


def _ticks(domain: tuple[float, float]) -> Any:
    largest, apart = max(abs(domain[0]), abs(domain[1])), domain[1] - domain[0]
    if 1e4 <= largest < 1e8 and apart > 1e-3:
        return "~f"  # a date, without commas
    return "~e" if largest >= 1e8 or largest < 1e-4 else alt.Undefined


def _rows(rows: Sequence[dict[str, Any]]) -> alt.InlineData:
    # plain values: no limit on their number, no guess of their types
    return alt.InlineData(values=list(rows))


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _percent(share: float) -> str:
    if 0 < share < 0.005:
        return "<1 %"
    return ">99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"


def _colours(domain: Sequence[str], tokens: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(domain), range=[LIGHT[token] for token in tokens])


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="top", direction="horizontal", symbolOpacity=1, columns=3)


def _class_axis(angle: float) -> alt.Axis:
    return alt.Axis(labelAngle=angle, ticks=False, domain=False, labelPadding=6, titlePadding=8)


def _drawn(
    name: str, title: str, description: str, chart: Any, *subtitle: str, data: dict[str, Any] | None = None
) -> Figure:
    text = LIGHT["ink"]
    head = alt.Title(
        title,
        subtitle=list(subtitle) if subtitle else alt.Undefined,
        subtitleColor=LIGHT["muted"],
        subtitlePadding=4,
    )
    whole = chart if isinstance(chart, dict) else chart.to_dict(context={"pre_transform": False})
    spec = {
        **whole,
        **({"title": head.to_dict()} if title else {}),
        "background": LIGHT["surface"],
        "padding": {"left": 14, "right": 14, "top": 10, "bottom": 10},
    }
    # many rows stay out of the chart itself, which altair copies and validates again and again
    spec["datasets"] = {**spec.get("datasets", {}), **(data or {})}
    axis = {
        "labelColor": text, "titleColor": text, "domainColor": LIGHT["pale"], "tickColor": LIGHT["pale"],
        "gridColor": LIGHT["rule"], "labelFontSize": 12, "titleFontSize": 12.5, "titleFontWeight": "normal",
        "labelLimit": 250, "titleLimit": 460, "labelOverlap": False, "titlePadding": 10,
    }  # fmt: skip
    spec["config"] = {
        "font": FONT,
        "aria": False,  # the whole is one image with one label
        "view": {"stroke": None},
        "axis": axis,
        "axisQuantitative": {"labelOverlap": True},
        "legend": {
            "labelColor": text, "labelFontSize": 12, "labelLimit": 300, "padding": 0, "offset": 20, "columnPadding": 22,
        },
        "title": {
            "color": text, "fontSize": 15, "subtitleFontSize": 12, "anchor": "start", "frame": "bounds", "offset": 12,
            "limit": 560,
        },
        "text": {"color": text, "fontSize": 12},
    }  # fmt: skip
    return _figure(name, description, vl_convert.vegalite_to_svg(spec))


def _figure(name: str, description: str, svg: str) -> Figure:
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        # a tenth of a pixel is finer than any screen, and halves the file
        for key in ("d", "transform"):
            if value := element.get(key):
                element.set(key, re.sub(r"-?\d+\.\d{2,}(?!\d*e)", lambda number: f"{float(number[0]):.1f}", value))
    _shorten(root)
    return Figure(name, description, ElementTree.tostring(root, encoding="unicode"), float(root.get("width", "0")))


def _shorten(root: ElementTree.Element) -> None:
    """Leaves out what changes nothing of the picture, about a third of the bytes, and writes the shape of a symbol that
    is drawn many times once."""
    root.set("font-family", FONT)
    for element in list(root.iter()):
        for key, value in SAID_ANYWAY.items():
            if element is not root and element.get(key) == value:
                del element.attrib[key]
        for child in list(element):
            if child.get("class") in ("background", "foreground") and not child.attrib.keys() & {"fill", "stroke"}:
                element.remove(child)
    groups = [group for group in root.iter() if "mark-symbol" in group.get("class", "")]
    # those that say what they are stay as they are: a page finds them so
    symbols = [symbol for group in groups for symbol in group if symbol.get("aria-label") is None]
    counts = Counter(symbol.get("d", "") for symbol in symbols)
    names = {shape: f"s{at}" for at, shape in enumerate(own for own, count in counts.items() if count >= REPEATED)}
    for symbol in symbols:
        place = re.fullmatch(r"translate\(([-\d.e]+),([-\d.e]+)\)", symbol.get("transform", ""))
        if place and (name := names.get(symbol.get("d", ""))):
            # colours stay here: a sheet does not reach what is referred to
            kept = {key: value for key, value in symbol.attrib.items() if key not in ("d", "transform")}
            if "stroke" not in kept:
                kept.pop("stroke-width", None)
            symbol.tag, symbol.attrib = f"{{{_SVG}}}use", {"href": f"#{name}", "x": place[1], "y": place[2], **kept}
    if names:
        definitions = ElementTree.SubElement(root, f"{{{_SVG}}}defs")
        for shape, name in names.items():
            ElementTree.SubElement(definitions, f"{{{_SVG}}}path", {"d": shape, "id": name})
