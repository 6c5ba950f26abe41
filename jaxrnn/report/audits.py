"""The audits' part of the page: a section, a figure, and a check among those of the verdict."""

from pathlib import Path
from typing import Any, NamedTuple

import jaxrnn.report.figures as figures
from jaxrnn.errors import listed, plural
from jaxrnn.report.figures import Figure
from jaxrnn.report.pages import printable
from jaxrnn.report.tables import NOT_A_NUMBER, Cell, text_cell
from jaxrnn.results import read_json

LEVELS = {"leak": "warning", "shortcut": "warning", "remark": "note", "holds": "passed", "not told": "note"}


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
    told = _told(audits)
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


def drawn(audits: Audits | None) -> list[Figure]:
    """Returns the figure of those audits whose expectation was drawn; none where there are none."""
    rows = _by_draws(audits)
    return [figures.audits([entry | {"level": LEVELS[entry["verdict"]]} for entry in rows])] if rows else []


def section(audits: Audits | None) -> dict[str, Any] | None:
    """Returns what is said of the audits, None where there are none."""
    if audits is None:
        return None
    untold = [f"{entry['audit']} ({_reason(entry)})" for entry in audits.findings if entry["verdict"] == "not told"]
    return {
        "other": _of_another(audits, audits.chosen),
        "level": f"{audits.level:g}",
        "permutations": audits.permutations,
        "draws": audits.draws,
        "drawn": bool(_by_draws(audits)),
        "rows": [_row(entry) for entry in _told(audits)],
        "untold": listed(untold, 20) if untold else "",
    }


def _told(audits: Audits | None) -> list[dict[str, Any]]:
    return [] if audits is None else [entry for entry in audits.findings if entry["verdict"] != "not told"]


def _by_draws(audits: Audits | None) -> list[dict[str, Any]]:
    return [entry for entry in _told(audits) if None not in (entry["found"], entry["expected"], entry["p"])]


def _reason(entry: dict[str, Any]) -> str:
    return str(entry["words"]).removeprefix("Not applicable: ").rstrip(".")


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    expected = _number(entry["expected"])
    if entry["expected"] is not None and entry["p"] is not None:
        expected = _number(entry["expected"], f"[{entry['low']:.3f}, {entry['high']:.3f}]")
    elif entry["high"] is not None:
        expected = text_cell(f"at most {entry['high']:g}")
    numbers = {
        "found": _number(entry["found"], str(entry["score"])),
        "expected": expected,
        "p": _number(entry["p"] if entry["p_corrected"] is None else entry["p_corrected"]),
    }
    return {name: entry[name] for name in ("audit", "hypothesis", "verdict", "words")} | {
        "level": LEVELS[entry["verdict"]],
        "numbers": list(numbers.values()),
    }


def _number(value: float | None, note: str = "") -> Cell:
    if value is None:
        return text_cell(NOT_A_NUMBER)
    shown = f"{value:.3f}".rstrip("0").rstrip(".") if value else "0"
    return Cell(shown or "0", value, note)
