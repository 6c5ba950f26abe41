"""The report: one self-contained page that answers which classifier, how good, how sure, and whether to believe it.

It reads what the other commands wrote (`inputs`), computes nothing that they measured, and draws through `figures`.
Each section of the page is a module here: its `section` returns what its part of `page.html.j2` shows, its `drawn` the
figures.
"""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from jaxrnn.report import (
    attributions,
    audits,
    data,
    figures,
    objects,
    pages,
    performance,
    reproduce,
    search,
    trust,
    verdict,
)
from jaxrnn.report.audits import Audits
from jaxrnn.report.figures import Figure
from jaxrnn.report.inputs import Inputs, read
from jaxrnn.results import write_text, written_whole

__all__ = ["write"]


def write(experiment_folder: Path, dataset_folder: Path) -> Path:
    """Writes `figures/` and `report.html` into an experiment's folder, each whole or not at all; returns the page.

    Raises JaxrnnError for an input that is missing or broken, with the command that makes it.
    """
    inputs = read(experiment_folder, dataset_folder)
    curves, audited = search.score_curves(inputs), audits.read(inputs.folder)
    sections = [data.drawn(inputs), search.drawn(inputs), performance.drawn(inputs), trust.drawn(inputs),
                objects.drawn(inputs), audits.drawn(audited),
                attributions.drawn(inputs)]  # fmt: skip
    every = [figure for section in sections for figure in section] + [figure for _, _, figure in curves]
    drawn = {figure.name: figure for figure in every}
    page = _page(inputs, audited, drawn, curves)
    with written_whole(experiment_folder / "figures") as folder:
        folder.mkdir()
        for figure in drawn.values():
            figure.write(folder)
    path = experiment_folder / "report.html"
    write_text(path, page)
    return path


def _page(
    inputs: Inputs, audited: Audits | None, drawn: dict[str, Figure], curves: Sequence[tuple[str, str, Figure]]
) -> str:
    template = pages.environment().get_template("page.html.j2")
    return template.render(
        name=inputs.config["experiment"],
        figure_style=Markup(figures.stylesheet()),
        figures={name: {"svg": Markup(figure.inline()), "width": figure.width} for name, figure in drawn.items()},
        verdict=verdict.section(inputs),
        data=data.section(inputs),
        search=search.section(inputs),
        curves=[{"key": key, "split": split, "name": figure.name} for key, split, figure in curves],
        training=search.training(inputs),
        objects=objects.section(inputs),
        early=performance.early_section(inputs),
        audits=audits.section(audited),
        attended=len(inputs.attention),
        attributed=attributions.section(inputs),
        performance=performance.section(inputs),
        trust=trust.section(inputs),
        reproduce=reproduce.section(inputs),
    )
