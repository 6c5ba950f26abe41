"""The model card of a bundle (Mitchell et al. 2019, arXiv 1810.03993), made from the run.

Whatever a file or the experiment says (names of classes, columns, paths) stands in it as text: nothing of it is
Markdown or HTML.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from jaxrnn.bundles import Bundle
from jaxrnn.config import to_yaml
from jaxrnn.errors import LONGEST_WORD
from jaxrnn.readers import SPLITS

Scores = dict[str, dict[str, float | None]]
# What Markdown gives a meaning to within a line, GitHub's too (CommonMark 0.31, section 2.4).
MEANINGFUL = re.compile(r"([\\`*_\[\]<>|&~#!@$])")
FEW_OBJECTS = 100  # of test: fewer leave intervals that are too wide for a claim


def card(
    name: str,
    bundle: Bundle,
    best: dict[str, Any],
    class_counts: dict[str, dict[str, int]],
    objects: dict[str, int],
    software: dict[str, str],
) -> str:
    """Returns the card in Markdown.

    name: of the experiment. best: what `best.json` holds. class_counts: by class and split. objects: `counts` of the
    dataset's manifest.
    """
    # of the training split, `training.sequences` may take a part
    trained = zip(bundle.statistics.classes, bundle.statistics.class_counts.tolist(), strict=True)
    class_counts = {name: class_counts.get(name, {}) | {"train": count} for name, count in trained}
    parts = (
        _head(name, bundle, best),
        _scores(bundle, best),
        _data(bundle, class_counts, objects),
        _use(bundle, best, class_counts),
        _made(bundle, best, software),
    )
    return "\n".join(line for part in parts for line in part) + "\n"


def text(value: object) -> str:
    """Returns a value as text in Markdown, on one line, cut where it is long."""
    words = " ".join(str(value).split())
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in words[:LONGEST_WORD])
    return MEANINGFUL.sub(r"\\\1", shown) + ("..." if len(words) > LONGEST_WORD else "")


def _head(name: str, bundle: Bundle, best: dict[str, Any]) -> Iterator[str]:
    classes, kind = bundle.statistics.classes, bundle.task.kind
    answers = {
        "sequence": "an object's class",
        "prefix": "an object's class, anew after each of its steps",
        "step": "the class of each step of an object",
        "label_sequence": "the labels of an object, in their order",
    }
    yield f"# Model card of {text(name)}"
    yield ""
    yield f"It tells {answers[kind]}, one of {len(classes)}: {', '.join(map(text, classes))}."
    yield ""
    members = len(bundle.members)
    if members > 1:
        yield (
            f"It is an ensemble of {members} networks, which differ in their seeds: trial {text(best['trial'])}, which "
            f"validation {text(best['metric'])} chose, and the others of its grid point."
        )
    else:
        yield f"It is trial {text(best['trial'])}, which validation {text(best['metric'])} chose."
    shown = ", ".join(f"{member.temperature:.3g}" for member in bundle.members)
    yield (
        f"Probabilities are calibrated by temperature scaling, fitted on validation ({shown}; above 1 the network was "
        "too sure of itself)."
    )
    yield ""
    yield "To use it: `jaxrnn predict --model <this folder> --input <survey> --output predictions.parquet`."
    yield ""


def _scores(bundle: Bundle, best: dict[str, Any]) -> Iterator[str]:
    yield "## Scores on test"
    yield ""
    yield f"Of {best['objects']['test']} test objects, which chose nothing and fitted nothing."
    yield f"Intervals: {best['interval']}."
    yield ""
    ensemble: Scores | None = best.get("ensemble", {}).get("test")
    columns = ["score", "chosen trial", *(["ensemble, as it predicts"] if ensemble else [])]
    yield from _row(columns)
    yield from _row(["---"] * len(columns))
    for score, found in best["test"].items():
        if isinstance(found, dict) and "value" in found:
            entries = [found, *([ensemble[score]] if ensemble else [])]
            yield from _row([text(score), *map(_interval, entries)])
    yield ""


def _interval(score: dict[str, float | None]) -> str:
    value, low, high = (score[key] for key in ("value", "low", "high"))
    if value is None:
        return "none"
    return f"{value:.3f}" + ("" if low is None or high is None else f" ({low:.3f} to {high:.3f})")


def _data(bundle: Bundle, class_counts: dict[str, dict[str, int]], objects: dict[str, int]) -> Iterator[str]:
    counted = {"step": "steps", "label_sequence": "labels"}.get(bundle.task.kind, "objects")
    yield "## Data"
    yield ""
    yield (
        f"Of {objects['objects_in']} objects, {objects['objects_rejected']} were rejected and {objects['objects_cut']} "
        f"cut. Trained on {sum(entry['train'] for entry in class_counts.values())} {counted}."
    )
    yield ""
    yield from _row(["class", *SPLITS])
    yield from _row(["---"] * 4)
    for name in bundle.statistics.classes:
        entry = class_counts.get(name, {})
        yield from _row([text(name), *(str(entry.get(split, 0)) for split in SPLITS)])
    yield ""
    yield "Inputs at each step, and what is known of an object once:"
    yield ""
    yield from _row(["input", "unit"])
    yield from _row(["---"] * 2)
    for column in (*bundle.features, *bundle.metadata):
        yield from _row([text(column["name"]), text(column["unit"])])
    yield ""
    yield "The `data` section:"
    yield ""
    yield from _literal(bundle.data.model_dump(mode="json", exclude_defaults=True))
    yield ""


def _use(bundle: Bundle, best: dict[str, Any], class_counts: dict[str, dict[str, int]]) -> Iterator[str]:
    yield "## Intended use and limits"
    yield ""
    yield "- For objects of the survey that it was trained on, read, cut and normalised in the same way."
    yield (
        "- It knows these classes alone: an object of another kind gets one of them. High `entropy`, and above all "
        "`mutual_information` of an ensemble, are a hint, no proof."
    )
    yield (
        "- Probabilities hold where classes are as frequent as in training (the table above). Where new data has other "
        "shares, they must be weighted anew."
    )
    least = min((entry["train"] for entry in class_counts.values()), default=0)
    yield f"- The smallest class had {least} to train on."
    if best["objects"]["test"] < FEW_OBJECTS:
        yield f"- {best['objects']['test']} test objects are too few for a claim: see the intervals."
    if bundle.statistics.sequence_features.size:
        yield "- Some inputs are normalised by each sequence's own mean and deviation, which change as it grows."
    yield ""


def _made(bundle: Bundle, best: dict[str, Any], software: dict[str, str]) -> Iterator[str]:
    yield "## How it was made"
    yield ""
    seeds = ", ".join(str(member.seed) for member in bundle.members)
    yield f"Seeds {seeds}; best epoch {text(bundle.trial.get('best_epoch', ''))}; data {bundle.statistics.data_digest}."
    if best["missing_jobs"]:
        yield f"{len(best['missing_jobs'])} jobs of the experiment failed, and took no part in the choice."
    yield f"Software: {', '.join(f'{text(key)} {text(value)}' for key, value in software.items() if value)}."
    yield ""
    yield "The network and the task:"
    yield ""
    yield from _literal(
        {
            "model": bundle.model.model_dump(mode="json", exclude_defaults=True),
            "task": bundle.task.model_dump(mode="json", exclude_defaults=True),
        }
    )
    yield ""


def _row(cells: Sequence[str]) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"


def _literal(values: dict[str, Any]) -> Iterator[str]:
    """Yields values as indented code, which nothing in them ends."""
    for line in to_yaml(values).splitlines():
        yield f"    {line}"
