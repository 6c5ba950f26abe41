"""The audits' part of the page: a section, and a check among those of the verdict."""

from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from jaxrnn.errors import listed, plural
from jaxrnn.report.pages import printable
from jaxrnn.results import read_json

LEVELS = {"leak": "warning", "shortcut": "warning", "remark": "note", "holds": "passed", "not told": "note"}
SHOWN = {"warning": "\N{BLACK UP-POINTING TRIANGLE}", "note": "\N{BLACK CIRCLE}", "passed": "\N{CHECK MARK}"}
COLUMNS = ("Audit", "Hypothesis", "Found", "Expected", "p", "Verdict", "In words")


class Audits(NamedTuple):
    """What `audit.json` holds. trial: whose network was audited, None where none was chosen yet. chosen: the trial that
    is. current: whether the network was trained as the chosen one was, on the same data."""

    trial: str | None
    level: float
    permutations: int
    draws: int
    findings: list[dict[str, Any]]
    chosen: str
    current: bool


def read(folder: Path) -> Audits | None:
    """Returns an experiment's audits, None where there are none; text in them is fit to be shown."""
    path = folder / "audit.json"
    if not path.exists():
        return None
    values, best = read_json(path, "jaxrnn audit"), read_json(folder / "best.json", "jaxrnn aggregate")
    # neither stands in files of earlier versions
    current = all(name in values and values[name] == best.get(name) for name in ("fingerprint", "data_digest"))
    findings = [{name: printable(value) for name, value in entry.items()} for entry in values["findings"]]
    return Audits(
        values["trial"], values["level"], values["permutations"], values["draws"], findings, best["trial"], current
    )


def check(audits: Audits | None, trial: str) -> tuple[str, str, str] | None:
    """Returns level, title and text of a check; trial: the chosen one."""
    if audits is None:
        return None
    told = [entry for entry in audits.findings if entry["verdict"] != "not told"]
    held = [entry for entry in told if entry["verdict"] in ("holds", "remark")]
    doubted = [entry for entry in told if entry not in held]
    if other := _of_another(audits, trial):
        return "warning", "The audits are old", f"They are {other}; `jaxrnn audit` makes them of the chosen one."
    if not doubted:
        text = f"None of the {plural(len(told), 'audit')} found a leak or a shortcut (level {audits.level:g})."
        return "passed", "The audits found nothing", text
    leaks = [entry for entry in doubted if entry["verdict"] == "leak"]
    title = "The audits found a leak" if leaks else "The audits found a shortcut to the class"
    return "warning", title, " ".join(f"`{entry['audit']}`: {entry['words']}" for entry in doubted)


def _of_another(audits: Audits, trial: str) -> str:
    """Returns of what else than the chosen trial's run the audits are, nothing where they are of it."""
    if audits.trial is None:
        return "from before a trial was chosen"
    if audits.trial != trial:
        return f"of the trial {printable(audits.trial)}"
    return "" if audits.current else f"of another run of the trial {printable(audits.trial)}, or of other data"


def section(audits: Audits | None) -> Markup:
    """Returns the section of the page, nothing where there are no audits."""
    if audits is None:
        return Markup("")
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in COLUMNS)
    rows = Markup("\n").join(_row(entry) for entry in audits.findings if entry["verdict"] != "not told")
    other = _of_another(audits, audits.chosen)
    old = Markup('<p class="small">These audits are {}.</p>\n').format(other) if other else Markup("")
    untold = [f"{entry['audit']} ({_reason(entry)})" for entry in audits.findings if entry["verdict"] == "not told"]
    rest = Markup('<p class="small">Not told: {}.</p>').format(listed(untold, 20)) if untold else Markup("")
    return Markup(
        '<section id="audits" aria-labelledby="audits-title">\n<h2 id="audits-title">Audits</h2>\n{}'
        "<p>Each states what holds of a sound experiment, measures it, and says in words what the numbers support. "
        "Labels were shuffled {} times; intervals and p-values are of {} draws, and p-values are corrected by Holm's "
        "procedure: a sound experiment raises any alarm by chance with a probability of at most {}. After a leak no "
        "score is to be believed; a shortcut may be sound, if new objects have it too.</p>\n"
        '<div class="scroll" role="region" tabindex="0" aria-labelledby="audits-table-caption">\n'
        '<table id="audits-table" class="sortable">\n<caption id="audits-table-caption">Audits (audit.csv)</caption>\n'
        "<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody>\n</table>\n</div>\n{}\n</section>"
    ).format(old, audits.permutations, audits.draws, f"{audits.level:g}", head, rows, rest)


def _reason(entry: dict[str, Any]) -> str:
    return str(entry["words"]).removeprefix("Not applicable: ").rstrip(".")


def _row(entry: dict[str, Any]) -> Markup:
    level = LEVELS[entry["verdict"]]
    p = entry["p"] if entry["p_corrected"] is None else entry["p_corrected"]
    expected = _number(entry["expected"])
    if entry["expected"] is not None and entry["p"] is not None:
        interval = f"[{entry['low']:.3f}, {entry['high']:.3f}]"
        expected = _number(entry["expected"], interval)
    elif entry["high"] is not None:
        expected = Markup("<td>at most {}</td>").format(f"{entry['high']:g}")
    return Markup(
        '<tr><th scope="row">{}</th><td>{}</td>{}{}{}<td><span class="level {}">{} {}</span></td><td>{}</td></tr>'
    ).format(
        entry["audit"], entry["hypothesis"], _number(entry["found"], str(entry["score"])), expected, _number(p), level,
        SHOWN[level], entry["verdict"], entry["words"],
    )  # fmt: skip


def _number(value: float | None, note: str = "") -> Markup:
    if value is None:
        return Markup("<td>\N{EN DASH}</td>")
    shown = f"{value:.3f}".rstrip("0").rstrip(".") if value else "0"
    beside = Markup(' <span class="interval">{}</span>').format(note) if note else Markup("")
    return Markup('<td class="number" data-value="{}">{}{}</td>').format(value, shown or "0", beside)
