"""The page of experiments side by side."""

import math
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from jaxrnn import __version__
from jaxrnn.report import figures, pages
from jaxrnn.report.figures import SCORES, Figure
from jaxrnn.report.tables import Cell, Table, believed, count_cell, measured_cell, p_cell, score_cell, text_cell

if TYPE_CHECKING:
    from jaxrnn.compare import Comparison


def drawn(found: "Comparison") -> Figure:
    """Returns the page's figure."""
    rows = found.scores.to_dict("records")
    return figures.experiments([believed(row | {"score": SCORES[row["score"]]}) for row in rows])


def page(found: "Comparison", drawn: Figure) -> str:
    """Returns the page."""
    return (
        pages.environment()
        .get_template("comparison.html.j2")
        .render(
            names=found.names,
            remarks=found.remarks,
            figure_style=Markup(figures.stylesheet()),
            figures={drawn.name: {"svg": Markup(drawn.inline()), "width": drawn.width}},
            scores=_scores(found),
            pairs=_pairs(found),
            settings=_settings(found),
            made_by=__version__,
        )
    )


def _scores(found: "Comparison") -> Table:
    rows = found.scores.to_dict("records")
    known = {(row["experiment"], row["score"]): row for row in rows}
    names = list(dict.fromkeys(row["score"] for row in rows))
    cells = []
    for experiment in found.names:
        scores = [known.get((experiment, name)) for name in names]
        cells.append([text_cell(experiment), *(_score(row) for row in scores)])
    caption = "The chosen trials on test, each on its own experiment's objects"
    return Table.of("scores", caption, ["Experiment", *(SCORES[name] for name in names)], cells)


def _score(row: dict[str, Any] | None) -> Any:
    return measured_cell(row) if row else score_cell(math.nan)


def _pairs(found: "Comparison") -> Table | None:
    if not len(found.pairs):
        return None
    first = found.names[0]
    rows = [
        [
            text_cell(row["other"]),
            count_cell(row["objects"]),
            _difference(row, ("difference", "low", "high")),
            count_cell(row["chosen_alone"]),
            count_cell(row["other_alone"]),
            _difference(row, ("log_loss_difference", "log_loss_low", "log_loss_high")),
            p_cell(row["p_holm"]),
        ]
        for row in found.pairs.to_dict("records")
    ]
    columns = [
        "Other",
        "Common objects",
        "Accuracy",
        f"{first} alone right",
        "Other alone right",
        "Log loss",
        "p (Holm)",
    ]
    return Table.of("pairs", f"{first} minus each other one, on the test objects that both have", columns, rows)


def _difference(row: dict[str, Any], columns: tuple[str, ...]) -> Cell:
    value, low, high = (row[column] for column in columns)
    return measured_cell({"value": value, "low": low, "high": high, "objects": row["objects"]})


def _settings(found: "Comparison") -> Table:
    rows = [[text_cell(value) for value in row] for row in found.settings.to_numpy().tolist()]
    return Table.of("settings", "Keys in which the experiment files differ", ["Key", *found.names], rows)
