"""The verdict: what was chosen, how good it is, and the reasons to believe or doubt it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrnn import plan, search
from jaxrnn.config import Loss, Model, Training, substituted
from jaxrnn.errors import listed, plural
from jaxrnn.evaluation import AS_PREDICTED, SCALED
from jaxrnn.metrics import FEWEST_OBJECTS
from jaxrnn.report.audits import check as check_of_audits
from jaxrnn.report.audits import read as read_audits
from jaxrnn.report.data import leaks
from jaxrnn.report.figures import SCORES
from jaxrnn.report.inputs import Inputs, Row
from jaxrnn.report.tables import measured_cell, percent, score_cell, sentence, value_text
from jaxrnn.report.uncertainty import by_inputs
from jaxrnn.results import DIVERGED, HALTED
from jaxrnn.uncertainty import RANDOM, SURE, TEST

CHANCE = 0.01  # below this, a calibration error is no chance
EDGE = 0.05  # of a range, at each of its ends
LARGE_GAP = 0.05  # of accuracy between training and validation
MANY_REJECTED = 0.01  # share of objects
FOLDS_DEPEND = "Folds share training objects, so that intervals over them are too narrow."


@dataclass(frozen=True)
class Check:
    """One reason to believe or doubt. level: warning, note or passed."""

    level: str
    title: str
    text: str


def section(inputs: Inputs) -> dict[str, Any]:
    test, validation = inputs.best["test"], inputs.best["validation"]
    scores = []
    for score, name in inputs.scores.items():
        scores.append(
            {"name": name, "test": measured_cell(test[score]), "validation": measured_cell(validation[score])}
        )
    checks = _checks(inputs)
    warnings = sum(check.level == "warning" for check in checks)
    return {
        "scores": scores,
        "objects": int(inputs.best["objects"]["test"]),
        "scored": "" if inputs.counted != "steps" else f"{int(inputs.confusion['test'].sum()):,} steps of ",
        "interval": str(inputs.best.get("interval", "95 %")),
        "model": _model(inputs),
        "point": [(key, value_text(inputs.chosen[key])) for key in inputs.keys],
        "tried": f"{plural(len(inputs.trials), 'trial')} of {plural(len(inputs.grid), 'grid point')}",
        "metric": SCORES[inputs.metric],
        "confusions": _edits(inputs) if inputs.spells else _confusions(inputs),
        "checks": checks,
        "warnings": warnings,
        "doubts": [check.title[0].lower() + check.title[1:] for check in checks if check.level == "warning"],
        "spells": inputs.spells,
    }


def _model(inputs: Inputs) -> str:
    """Returns the chosen network and loss in words."""
    values = substituted(inputs.config, inputs.best["grid_point"])
    model = _model_values(inputs.config, inputs.best)
    loss = {**Loss().model_dump(), **(values["loss"] or {})}
    training = {**Training().model_dump(), **(values["training"] or {})}
    kind = f"focal loss (gamma {value_text(loss['gamma'])})" if loss["gamma"] else "cross-entropy"
    kind = f"binary {kind}" if loss["kind"] == "binary" else kind
    if loss["kind"] == "ctc":
        kind = "connectionist temporal classification (CTC)"
    smoothing = f"label smoothing {value_text(loss['label_smoothing'])}, " if loss["label_smoothing"] else ""
    effective = f"class weights by effective number (beta {value_text(loss['beta'])})"
    weights = {"balanced": "balanced class weights", "effective": effective}.get(
        loss["class_weights"], "no class weights"
    )
    weights = "" if loss["kind"] == "ctc" else f"{weights}, "
    optimiser = {"adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "sgd": "SGD"}[training["optimiser"]]
    schedule = {"cosine": ", falling in a cosine", "plateau": ", falling on plateaus"}.get(training["schedule"], "")
    return (
        f"{_network(model)}, trained with {kind}, {smoothing}{weights}{optimiser} and learning rate "
        f"{value_text(training['learning_rate'])}{schedule}"
    )


def _model_values(config: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    """Returns the keys of `model` as the chosen trial has them; lists of layers and decoders in words, if of a grid."""
    return {**Model().model_dump(), **(substituted(config, best["grid_point"])["model"] or {})}


def _network(model: dict[str, Any]) -> str:
    decoder = plan.cell("model.decoder", model["decoder"])
    return _encoder(model) + (f" with a decoder ({decoder})" if decoder else "")


def _encoder(model: dict[str, Any]) -> str:
    if model["layers"] is not None:
        return f"the network {plan.cell('model.layers', model['layers'])}"
    cell = {"gru": "GRU", "lstm": "LSTM", "simple": "simple recurrent"}.get(model["cell"], str(model["cell"]))
    direction = "bidirectional " if model["bidirectional"] else ""
    article = "an" if cell == "LSTM" and not direction else "a"
    layers = f"{plural(model['depth'], 'layer')} of {plural(model['units'], 'unit')}"
    return f"{article} {direction}{cell} network, {layers}"


def _baseline(inputs: Inputs) -> dict[str, Any]:
    """Returns the scores of always answering the commonest class of the test split."""
    totals = inputs.confusion["test"].sum(1)
    share = float(totals.max() / totals.sum()) if totals.sum() else 0.0
    present = int((totals > 0).sum())
    return {
        "class": inputs.classes[int(totals.argmax())],
        "accuracy": share,
        "macro_f1": 2 * share / (1 + share) / max(1, present),
    }


def _confusions(inputs: Inputs, most: int = 3) -> list[dict[str, Any]]:
    """Returns the commonest mistakes on the test split."""
    counts = inputs.confusion["test"]
    wrong = [
        (int(counts[t, p]), t, p) for t in range(len(counts)) for p in range(len(counts)) if t != p and counts[t, p]
    ]
    return [
        {
            "count": f"{count:,}",
            "total": f"{int(counts[t].sum()):,}",
            "share": percent(count, counts[t].sum()),
            "truth": inputs.classes[t],
            "predicted": inputs.classes[p],
        }
        for count, t, p in sorted(wrong, key=lambda entry: (-entry[0], entry[1], entry[2]))[:most]
    ]


def _edits(inputs: Inputs, most: int = 3) -> list[dict[str, Any]]:
    """Returns the commonest edits on the test split, as `_confusions` does."""
    counts, names = inputs.confusion["test"], inputs.classes
    totals, last = counts.sum(1), len(inputs.classes)
    wrong = [(int(n), int(t), int(p)) for (t, p), n in np.ndenumerate(counts) if t != p and n]
    return [
        {
            "count": f"{count:,}",
            "total": f"{int(totals[t]):,}",
            "share": percent(count, totals[t]),
            "truth": names[t] if t < last else None,
            "predicted": names[p] if p < last else None,
        }
        for count, t, p in sorted(wrong, key=lambda entry: (-entry[0], entry[1], entry[2]))[:most]
    ]


def _checks(inputs: Inputs) -> list[Check]:
    of_classes = [] if inputs.spells else [_check_baseline(inputs)]
    found = [
        _check_missing(inputs), *of_classes, _check_perfect(inputs), _check_transfer(inputs), _check_objects(inputs),
        _check_margin(inputs), _check_overfit(inputs), _check_epochs(inputs), _check_edges(inputs),
        _check_diverged(inputs), _check_halted(inputs), _check_packs(inputs), _check_attempts(inputs),
        _check_leaks(inputs), _check_rejected(inputs), _check_calibration(inputs),
        _check_noise(inputs), _check_audits(inputs),
    ]  # fmt: skip
    order = ("warning", "note", "passed")
    return sorted((check for check in found if check), key=lambda check: order.index(check.level))


def _check_missing(inputs: Inputs) -> Check | None:
    missing: dict[str, str] = inputs.best.get("missing_jobs", {})
    if not missing:
        return None
    said = listed([f"{job} ({line or 'it said nothing'})" for job, line in missing.items()], 4)
    return Check(
        "warning",
        f"{sentence(plural(len(missing), 'job'))} failed, and this report is of the others",
        f"Its trials are in no table, and the choice was made without them: {said}. Their `log.txt` says more. The "
        "command that trained the others trains them again, and then writes the whole report.",
    )


def _check_baseline(inputs: Inputs) -> Check | None:
    score, base = inputs.best["test"]["macro_f1"], _baseline(inputs)
    if score["value"] is None:
        return None
    low = score["low"] if score.get("low") is not None else score["value"]
    text = (
        f"Always answering “{base['class']}”, the commonest class of the test split, would have macro F1 "
        f"{base['macro_f1']:.3f} and accuracy {base['accuracy']:.3f}; the classifier has "
        f"{score['value']:.3f} and {inputs.best['test']['accuracy']['value']:.3f}."
    )
    if low > base["macro_f1"]:
        return Check("passed", "Better than guessing", text)
    return Check("warning", "No better than guessing", text)


def _check_perfect(inputs: Inputs) -> Check | None:
    counts = inputs.confusion["test"]
    if not counts.sum() or np.trace(counts) < counts.sum():
        return None
    return Check(
        "warning",
        "The test score is perfect",
        f"All {int(counts.sum()):,} {inputs.counted} of the test split are classified "
        "correctly. That is more often a leak than a perfect classifier: look for features that follow from the label.",
    )


def _check_transfer(inputs: Inputs) -> Check | None:
    name = SCORES[inputs.metric]
    test, validation = inputs.best["test"].get(inputs.metric), inputs.best["validation"].get(inputs.metric)
    if not test or not validation or None in (validation["value"], test["value"], test.get("low"), test.get("high")):
        return None
    if test.get("objects", FEWEST_OBJECTS) < FEWEST_OBJECTS:
        return None  # an interval of so few says nothing
    worse = validation["value"] < test["low"] if inputs.lower_is_better else validation["value"] > test["high"]
    shown = f"{measured_cell(test).text} {measured_cell(test).note}"
    text = f"The {name} was {validation['value']:.3f} on validation, which chose the trial, and is {shown} on test"
    if worse:
        return Check(
            "warning",
            "Worse on test than on validation",
            f"{text}: the validation score is outside the test interval. The choice among "
            f"{len(inputs.trials):,} trials was partly luck, or the splits differ. Only the test score "
            "says what to expect.",
        )
    return Check("passed", "Validation and test agree", f"{text}.")


def _check_objects(inputs: Inputs) -> Check:
    if inputs.spells:
        what, totals = inputs.counted, inputs.confusion["test"].sum(1)[: len(inputs.classes)]
    else:  # steps of one object depend on each other: what counts is how many objects have the class
        what = "objects"
        totals = np.array([inputs.best["test"].get(f"recall_{name}", {}).get("objects", 0) for name in inputs.classes])
    few = [(name, int(n)) for name, n in zip(inputs.classes, totals, strict=True) if n < FEWEST_OBJECTS]
    if not few:
        return Check(
            "passed",
            f"Enough test {what}",
            f"Every class has at least {int(totals.min()):,} {what} in the test split.",
        )
    names = listed([f"“{name}” ({count})" for name, count in few], 5)
    which = "how often it is mistaken is" if inputs.spells else "a class's scores, and the macro scores with them, are"
    return Check(
        "warning",
        f"Too few test {what} for {plural(len(few), 'class')}",
        f"{names}: with fewer than {FEWEST_OBJECTS} {what} {which} uncertain.",
    )


def _check_margin(inputs: Inputs) -> Check | None:
    points = [point for point in inputs.points() if math.isfinite(point["mean"])]
    name = SCORES[inputs.metric]
    if not inputs.drawn:
        return Check(
            "note",
            "One seed a grid point",
            "How far the scores depend on the seed is unknown, and so is whether the chosen grid point is better than "
            "the next. `seeds: 3` in the experiment file shows it.",
        )
    if len(points) < 2:
        return None
    # the chosen one first, whatever parted equals
    first, second, *rest = sorted(points, key=lambda point: not point["chosen"])
    text = (
        f"The chosen grid point has mean validation {name} {_with_interval(first)} over its {inputs.drawn}, "
        f"the next ({second['label']}) {_with_interval(second)}"
    )

    def apart(point: Row) -> bool:
        # false where an interval is unknown, as for seeds with equal scores
        return first["high"] < point["low"] if inputs.lower_is_better else first["low"] > point["high"]

    if apart(second):
        dependent = f" {FOLDS_DEPEND}" if inputs.in_folds else ""
        return Check("note" if inputs.in_folds else "passed", "The choice is clear", f"{text}.{dependent}")
    near = [point for point in (second, *rest) if not apart(point)]
    return Check(
        "note",
        "The choice is close",
        f"{text}. The intervals do not part {plural(len(near), 'other grid point')} from the chosen one: another "
        "choice might do as well.",
    )


def _with_interval(row: Any) -> str:
    cell = score_cell(row["mean"], row["low"], row["high"])
    return f"{cell.text} {cell.note}".strip()


def _check_overfit(inputs: Inputs) -> Check | None:
    chosen = (inputs.chosen["trial"], inputs.chosen["best_epoch"])
    best = [row for row in inputs.history if (row["trial"], row["epoch"]) == chosen]
    if not best:
        return None
    train, validation = best[0]["train_accuracy"], best[0]["validation_accuracy"]
    if math.isnan(train):
        return None  # of label sequences: what is decoded in training is not watched
    text = f"At its best epoch the accuracy is {train:.3f} on training and {validation:.3f} on validation"
    if train - validation > LARGE_GAP:
        return Check(
            "warning",
            "Overfit",
            f"{text}: the network knows its training objects better than new ones. More dropout, a smaller network or "
            "more data would help.",
        )
    return Check("passed", "Little overfitting", f"{text}.")


def _check_epochs(inputs: Inputs) -> Check:
    best, epochs = int(inputs.chosen["best_epoch"]), int(inputs.chosen["epochs"])
    if best >= epochs:
        return Check(
            "warning",
            "Still improving when training ended",
            f"The best epoch is the last one, {best} of {epochs}. Raise `training.epochs`.",
        )
    return Check("passed", "Trained long enough", f"The best epoch is {best} of {epochs}.")


def _check_edges(inputs: Inputs) -> Check | None:
    edges = []
    for key in inputs.varied:
        values = inputs.config["grid"][key]
        if key in inputs.ranges:
            place = search.share(inputs.ranges[key], float(inputs.chosen[key]))
            if min(place, 1 - place) < EDGE and float(inputs.chosen[key]) != 0:
                edges.append(f"`{key}: {value_text(inputs.chosen[key])}`")
            continue
        if len(values) < 3 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
            continue
        chosen = value_text(inputs.chosen[key])
        # 0 is where a rate or a penalty ends, not where the grid does
        if chosen != "0" and chosen in (value_text(min(values)), value_text(max(values))):
            edges.append(f"`{key}: {chosen}`")
    if not edges:
        return None
    return Check(
        "note",
        "The choice lies at the edge of the grid",
        f"Smallest or largest of what was tried: {listed(edges)}. A better one may lie beyond.",
    )


def _check_diverged(inputs: Inputs) -> Check:
    diverged = [row["trial"] for row in inputs.trials if row["outcome"] == DIVERGED]
    total = len(inputs.trials)
    if not diverged:
        return Check("passed", "No trial diverged", f"{sentence(plural(total, 'trial'))} ended with finite scores.")
    return Check(
        "warning",
        f"{sentence(plural(len(diverged), 'trial'))} diverged",
        f"{len(diverged):,} of {total:,} trials ended with a loss that is not finite: {listed(diverged, 4)}. "
        "Grid points are summarised without them; a lower learning rate or `training.gradient_clip` helps.",
    )


def _check_halted(inputs: Inputs) -> Check | None:
    if inputs.chosen["outcome"] != HALTED:
        return None
    return Check(
        "warning",
        "The chosen trial was not trained to the end",
        f"Successive halving ended it after {int(inputs.chosen['epochs'])} epochs, and all trials that went on have "
        "diverged. A lower learning rate or `training.gradient_clip` helps.",
    )


def _check_packs(inputs: Inputs) -> Check | None:
    halved = [row for row in inputs.trials if row["pack_halvings"]]
    if not halved:
        return None
    often = {row["job"]: int(row["pack_halvings"]) for row in halved}
    jobs = listed([f"{job} ({plural(count, 'time')})" for job, count in often.items()], 4)
    return Check(
        "note",
        "A pack did not fit the device's memory",
        f"It began anew with half as many trials at once: {jobs}. A lower `training.trials_per_job` saves "
        "what was lost.",
    )


def _check_attempts(inputs: Inputs) -> Check | None:
    if not inputs.attempts:
        return None
    jobs = listed([f"{job} ({plural(count, 'attempt')})" for job, count in inputs.attempts.items()], 4)
    return Check(
        "note",
        "A job was started again",
        f"It failed, or had too little memory or time: {jobs}. It went on from its last checkpoint, with more memory "
        "where the profile doesn't say how much, and gave what it would have given; its `log.txt` and SLURM's say "
        "more. More `mem_mb` or `runtime` in the profile saves what was lost.",
    )


def _check_leaks(inputs: Inputs) -> Check:
    count, text = inputs.leaks["objects"], leaks(inputs)
    if not count:
        return Check("passed", "No leak between splits", f"{sentence(text)}.")
    listed_in = "`leaks.csv` lists them."
    if inputs.leaks["action"] == "drop_from_training":
        title = f"{plural(count, 'leaking object')} taken out"
        return Check("note", title, f"{sentence(text)}. They are in no split any more; {listed_in}")
    return Check(
        "warning",
        f"{plural(count, 'object')} leak{'s' * (count == 1)} between splits",
        f"{sentence(text)}. The network may remember instead of classify: scores are too good. {listed_in} "
        "`leaks: drop_from_training` takes them out.",
    )


def _check_calibration(inputs: Inputs) -> Check | None:
    rows = inputs.evaluation.get("calibration_scores", [])
    of = ", of one step a sequence," if inputs.counted == "steps" else ""
    errors = {row["probabilities"]: row for row in rows if row["score"] == "calibration_error"}
    if not errors:
        return None
    before, after = errors[AS_PREDICTED], errors[SCALED]

    def told(row: Row) -> str:
        rare = f"{row['p_value']:.3f}" if row["p_value"] >= 0.001 else "0.001"
        return (
            f"{row['value']:.3f}, where {row['by_chance']:.3f} would be expected of probabilities that are right "
            f"(p {'=' if row['p_value'] > 0.001 else '<='} {rare})"
        )

    text = f"The calibration error{of} is {told(before)}"
    scaling = f"After temperature scaling by {after['temperature']:.2f}, fitted on validation, it is {told(after)}."
    if after["p_value"] < CHANCE:
        return Check("warning", "Probabilities are not to be taken at their word", f"{text}. {scaling}")
    if before["p_value"] < CHANCE:
        return Check("note", "Probabilities need temperature scaling", f"{text}. {scaling}")
    return Check("passed", "Probabilities are calibrated, as far as the test split can tell", f"{text}.")


def _check_noise(inputs: Inputs) -> Check | None:
    """Warns unless entropy is larger on random values than on test objects beyond chance, which is when the interval of
    the AUC lies above 0.5, and a high probability rarer: a slight difference of entropies tells nobody anything."""
    found = by_inputs(inputs)
    noise = found.get(RANDOM)
    if noise is None or noise["objects"] < FEWEST_OBJECTS or math.isnan(noise["auc"]):
        return None
    shown = score_cell(noise["auc"], noise["low"], noise["high"])
    sure = (
        f"{percent(noise['sure'], 1)} of them get a probability above {SURE:g}, and {percent(found[TEST]['sure'], 1)}"
    )
    text = (
        f"Of an input of random values and a test object, the random one has the larger entropy with a chance of "
        f"{shown.text} {shown.note}".strip()
        + f" (0.5: as sure of either; the interval should be above it). {sure} of the test objects."
    )
    least = noise["low"] if math.isfinite(noise["low"]) else noise["auc"]
    if least > 0.5 and noise["sure"] < found[TEST]["sure"]:
        return Check("passed", "Less sure of noise than of test objects", text)
    return Check(
        "warning",
        "As sure of noise as of test objects",
        f"{text} Its probabilities don't show when an object is of no class that it knows.",
    )


def _check_audits(inputs: Inputs) -> Check | None:
    found = check_of_audits(read_audits(inputs.folder), str(inputs.best["trial"]))
    return Check(*found) if found else None


def _check_rejected(inputs: Inputs) -> Check:
    counts = inputs.manifest["counts"]
    objects, observations = int(counts["objects_rejected"]), int(counts["observations_rejected"])
    parts, bytes_share = int(counts["parts_rejected"]), counts["bytes_rejected"] / max(1, counts["bytes_in"])
    if parts:
        # how many objects they held, nobody knows
        share = max(parts / counts["parts_in"], bytes_share, objects / max(1, counts["objects_in"]))
        return Check(
            "warning" if share > MANY_REJECTED else "note",
            f"{plural(parts, 'file')}, or pieces of them, could not be read",
            f"{parts:,} of {int(counts['parts_in']):,} ({percent(parts, counts['parts_in'])}; "
            f"{percent(counts['bytes_rejected'], counts['bytes_in'])} of the bytes) were left out with all that they "
            f"hold. Of what could be read, {objects:,} of {int(counts['objects_in']):,} objects and {observations:,} "
            f"of {int(counts['observations_in']):,} observations were rejected; the reasons stand under Data. The "
            "scores hold for objects like those that were kept.",
        )
    if not objects and not observations:
        return Check(
            "passed",
            "Nothing was rejected",
            f"No object of the survey's {int(counts['objects_in']):,} was left out as faulty.",
        )
    share = objects / max(1, counts["objects_in"])
    return Check(
        "warning" if share > MANY_REJECTED else "note",
        f"{plural(objects, 'object')} rejected" if objects else "Observations were rejected",
        f"{objects:,} of {int(counts['objects_in']):,} objects ({percent(objects, counts['objects_in'])}) and "
        f"{observations:,} of {int(counts['observations_in']):,} observations were left out; the reasons stand under "
        "Data. The scores hold for objects like those that were kept.",
    )
