"""Inference: a model bundle on a survey that it was not trained on. Survey files in, one table of predictions out.

The survey is ingested into shards beside the output, as the training survey was; ranks share the shards, and the
predictions of each stand in a file of their own until all are there, so that a killed run goes on. What the table holds
follows from files and bundle alone, never from the number of ranks.
"""

import csv
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxrnn import (
    blueprint,
    ensembles,
    features,
    ingest,
    lock,
    readers,
    results,
    shards,
    tables,
    transcripts,
)
from jaxrnn.blueprint import Blueprint
from jaxrnn.bundles import Bundle
from jaxrnn.config import Data, digest, parsed_data, read_yaml
from jaxrnn.ensembles import Together
from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.ingest import Progress
from jaxrnn.ranks import Ranks
from jaxrnn.readers import READERS, Survey
from jaxrnn.shards import Shard

CUT = "cut: `data.cuts` left no observation"


class Told(NamedTuple):
    """What became of a survey's objects, whose number is predicted + rejected + cut. unreadable: files, or pieces of
    them, whose objects nobody knows. rejected_file: None where nothing was left out."""

    objects: int
    predicted: int
    rejected: int
    cut: int
    unreadable: int
    rejected_file: Path | None


def data_for(bundle: Bundle, path: Path, override: Path | None = None, reader: str | None = None) -> Data:
    """Returns the `data` section that new files are read by: the bundle's, but for the path, and that what is faulty is
    rejected.

    override: a YAML file whose `data` section says what else is different, such as `options`. reader: another one than
    the bundle's. Raises JaxrnnError where neither names a reader, and the bundle's is one's own: no bundle has code
    imported.
    """
    values, given = bundle.data.model_dump(mode="json") | {"on_error": "reject", "most_rejected": 1.0}, {}
    if override is not None:
        given = read_yaml(override)
        if set(given) != {"data"} or not isinstance(given["data"], dict):
            raise JaxrnnError(f"{override}: expected one section, `data`, with what differs from the training survey's")
        given = given["data"]
    given = given if reader is None else {**given, "reader": reader}
    if "reader" not in given and bundle.data.reader not in READERS:
        own = bundle.data.reader
        raise JaxrnnError(
            f"{override or path}: the model was trained on what a reader of one's own read, {own!r}, whose code is not "
            f"run because a model names it; if you trust it, name it yourself: --reader {shlex.quote(own)}"
        )
    values |= given | {"path": str(path), "simulation": None, "evaluation": []}
    return parsed_data(values, override or f"--reader {reader}") if given else Data.model_validate(values)


def check_alike(bundle: Bundle, data: Data, survey: Survey) -> None:
    """Raises JaxrnnError, which says all that differs, where new data has not the inputs that the model takes."""
    metadata = {column.name: column for column in survey.metadata}
    found = [vars(column) for column in features.describe(data, survey)]
    known = [vars(metadata[name]) for name in data.metadata]
    wrong = [*_differences("input", found, bundle.features), *_differences("metadata", known, bundle.metadata)]
    if survey.passbands != bundle.survey.passbands:
        wrong.append(
            f"the passbands are {listed(survey.passbands) or 'none'}, and the model's "
            f"{listed(bundle.survey.passbands) or 'none'}"
        )
    if survey.time_unit != bundle.survey.time_unit:
        wrong.append(f"time is in {survey.time_unit}, and the model's in {bundle.survey.time_unit}")
    if wrong:
        raise JaxrnnError(
            f"{data.path}: not what the model was trained on: {'; '.join(wrong)}. Read it by the same reader and "
            "options, or give what differs by --data FILE.yaml"
        )


def _differences(noun: str, found: Sequence[dict[str, Any]], wanted: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields what the columns that are found lack of those that are wanted, or have otherwise."""
    names, wanted_names = ([column["name"] for column in columns] for columns in (found, wanted))
    if missing := [name for name in wanted_names if name not in names]:
        yield f"{noun} {listed(missing)} missing"
    if extra := [name for name in names if name not in wanted_names]:
        yield f"{noun} {listed(extra)} unknown to the model"
    if not missing and not extra and names != wanted_names:
        yield f"{noun} in the order {listed(names, 20)}, and the model's in {listed(wanted_names, 20)}"
    by_name = {column["name"]: column for column in wanted}
    for column in found:
        other = by_name.get(column["name"], column)
        if column["unit"] != other["unit"]:
            yield f"{noun} {column['name']} in '{column['unit']}', and the model's in '{other['unit']}'"
        elif column.get("kind") != other.get("kind"):
            yield f"{noun} {column['name']} is of kind {column.get('kind')}, and the model's {other.get('kind')}"


# ---------------------------------------------------------------- one shard


@dataclass(frozen=True)
class Answers:
    """A bundle's answers to a shard. table: see docs/predictions.md. too_long: ids of objects that have more steps than
    the network takes."""

    table: pd.DataFrame
    too_long: list[str]


def network(bundle: Bundle) -> Blueprint:
    """Returns the blueprint of the bundle's networks."""
    columns = len(bundle.features), len(bundle.metadata)
    return blueprint.of(bundle.model, bundle.task.kind, *columns, bundle.outputs)


def answers(bundle: Bundle, shard: Shard) -> Answers:
    """Returns the predictions for all sequences of a shard."""
    from jaxrnn import predict
    from jaxrnn.batches import Examples

    made = network(bundle)
    fits = _fits(made, shard.lengths)
    kept = shard if fits.all() else _some(shard, fits)
    inputs = bundle.statistics.normalised(kept.features, kept.metadata, kept.offsets)
    members = predict.by_batches(bundle, Examples(kept.ids, kept.labels, kept.offsets, *inputs))
    places = made.places(kept.lengths)
    if bundle.task.kind == "label_sequence":
        table = _label_sequences(bundle, kept.ids, members[0], places)
    else:
        table = _classes(bundle, made, kept, members, places)
    return Answers(table, shard.ids[~fits].tolist())


def _fits(made: Blueprint, lengths: np.ndarray) -> np.ndarray:
    return np.ones(len(lengths), dtype=bool) if made.longest is None else lengths <= made.longest


def _some(shard: Shard, chosen: np.ndarray) -> Shard:
    """Returns the chosen sequences of a shard."""
    steps = np.repeat(chosen, shard.lengths)
    return replace(
        shard,
        ids=shard.ids[chosen],
        labels=shard.labels[chosen],
        offsets=np.concatenate([[0], np.cumsum(shard.lengths[chosen])]).astype(np.int64),
        time=shard.time[steps],
        features=shard.features[steps],
        metadata=shard.metadata[chosen],
    )


def _classes(
    bundle: Bundle, made: Blueprint, shard: Shard, members: Sequence[np.ndarray], places: np.ndarray
) -> pd.DataFrame:
    together = ensembles.together(members, [member.temperature for member in bundle.members])
    table = described(bundle, shard.ids, together, places)
    if not made.gives.has_steps:
        return table
    # an answer at an output step stands at the first of the steps that its strides join
    before = np.repeat(np.cumsum(places) - places, places)
    steps = (np.arange(len(before)) - before) * (made.gives.stride or 1)
    return placed(table, steps + 1, shard.time[np.repeat(shard.offsets[:-1], places) + steps])


def described(bundle: Bundle, ids: np.ndarray, together: Together, places: np.ndarray) -> pd.DataFrame:
    """Returns a row for each place: whose it is, its class, how sure that is. places: [object], how many each has."""
    names = np.array([str(name) for name in bundle.statistics.classes], dtype=object)
    columns: dict[str, np.ndarray] = {
        "id": np.repeat(ids.astype(object), places),
        "class": names[together.probabilities.argmax(axis=1)],
        "entropy": together.entropy,
        "mutual_information": together.mutual_information,
    }
    columns |= {f"probability_{name}": together.probabilities[:, place] for place, name in enumerate(names)}
    return pd.DataFrame(columns)


def placed(table: pd.DataFrame, steps: np.ndarray, times: np.ndarray) -> pd.DataFrame:
    """Returns the table with the step of each row, counted from 1, and its time."""
    table.insert(1, "step", steps.astype(np.int64))
    table.insert(2, "time", times.astype(np.float64))
    return table


def _label_sequences(bundle: Bundle, ids: np.ndarray, probabilities: np.ndarray, places: np.ndarray) -> pd.DataFrame:
    """Returns a row for each object: its labels by the probabilities [place, label] as predicted, of which it has
    `places`, and by those that are calibrated how sure that is."""
    by_decoder, temperature = bundle.model.decoder is not None, bundle.members[0].temperature
    pieces = np.split(probabilities, np.cumsum(places)[:-1]) if len(places) else []
    decoded = transcripts.decode(pieces, by_decoder, bundle.task.beam_width)
    own = np.exp(-transcripts.surprises(pieces, decoded, by_decoder, temperature))
    entropy = ensembles.together([probabilities], [temperature]).entropy
    return pd.DataFrame({
        "id": ids.astype(object),
        "labels": transcripts.texts(decoded, bundle.statistics.classes, bundle.task.separator),
        "probability": own.astype(np.float32),
        "entropy": transcripts.means(entropy, places, decoded, by_decoder),
    })  # fmt: skip


# ---------------------------------------------------------------- a whole survey


def run(
    bundle: Bundle, data: Data, output: Path, ranks: Ranks, progress: Progress, predicting: Progress | None = None
) -> Told:
    """Writes the predictions for the survey in `data.path` to `output`, and beside it, in `<output>.rejected.csv`, what
    has none, with reasons.

    progress: of ingest; predicting: of the shards, `progress` where left out. What is on the way lies in the folder
    `<output>.work`, which a later call goes on from, and which is removed at the end.
    """
    assert data.path is not None
    survey_folder, work = Path(data.path), _work(output)

    def look() -> None:
        tables.check(output)
        _check_place(output, survey_folder)
        reader, survey = ingest.opened(data, survey_folder, to_predict=True)
        with readers.blamed(data.reader, str(survey_folder)):
            _check_place(output, survey_folder, reader.files())
        check_alike(bundle, data, survey)

    ranks.here(look)
    with ranks.holding(lambda: lock.held(work)):
        dataset = work / digest(data.model_dump(mode="json"))
        manifest = ingest.ingest(data, survey_folder, dataset, ranks, progress, to_predict=True)
        entries = manifest["shards"]
        parts = work / "parts"
        paths = [parts / f"{bundle.digest}-{entry['sha256'][:32]}.parquet" for entry in entries]
        # of equal shards the first: one file does for all
        places = {path: place for place, path in reversed([*enumerate(paths)])}
        missing: list[int] = ranks.first(lambda: sorted(place for path, place in places.items() if not path.exists()))

        def predict_own() -> None:
            own = ranks.share([entries[place]["steps"] + 1 for place in missing])
            for done, place in enumerate(own):
                ranks.heed()
                name = missing[place]
                found = answers(bundle, shards.read(dataset / entries[name]["file"]))
                with tables.writing(paths[name], {}) as write:
                    write(found.table)
                (predicting or progress)(done + 1, len(own))

        ranks.each(predict_own)

        def finish() -> Told:
            told = _account(bundle, manifest, dataset, output)
            with tables.writing(output, {"bundle": bundle.digest}) as write:
                for path in paths:
                    write(tables.read(path))
            for entry in work.iterdir():
                if entry.name != lock.NAME:
                    results.remove(entry)
            return told

        return ranks.first(finish)


def _work(output: Path) -> Path:
    return output.with_name(f"{output.name}.work")


def _rejected(output: Path) -> Path:
    return output.with_name(f"{output.name}.rejected.csv")


def _check_place(output: Path, survey: Path, files: Sequence[Path] = ()) -> None:
    """Raises JaxrnnError where what is written would replace a folder, or lie in the survey or where it has a file."""
    place = survey.resolve()
    for path in (output, _rejected(output), _work(output)):
        found = path.resolve()
        if path != _work(output) and path.is_dir():
            raise JaxrnnError(f"{path}: is a folder, and a table is to be written there; give another --output")
        if found.is_relative_to(place) or place.is_relative_to(found):
            raise JaxrnnError(f"{path}: is in the place of the survey, {survey}; give an --output outside of it")
        if path.exists() and any(file.exists() and path.samefile(file) for file in files):
            raise JaxrnnError(f"{path}: is a file of the survey, {survey}; give an --output outside of it")


def _account(bundle: Bundle, manifest: dict[str, Any], dataset: Path, output: Path) -> Told:
    """Writes what has no prediction, with reasons; returns the counts."""
    counts, made = manifest["counts"], network(bundle)
    target = _rejected(output)
    too_long = 0
    with results.written_whole(target) as temporary:
        shutil.copyfile(dataset / "rejected.csv", temporary)
        with temporary.open("a", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
            for entry in manifest["shards"]:
                path = dataset / entry["file"]
                shard = shards.read(path, steps=False)
                for name in shard.cut_ids.tolist():
                    table.writerow([name, "", "", CUT])
                for place in np.flatnonzero(~_fits(made, shard.lengths)).tolist():
                    reason = f"{shard.lengths[place]} steps, and the network takes at most {made.longest}"
                    table.writerow([shard.ids[place], "", "", reason])
                    too_long += 1
        is_empty = not (manifest["rejected_by_reason"] or counts["objects_cut"] or too_long)
    if is_empty:
        target.unlink()
    return Told(
        objects=counts["objects_in"],
        predicted=counts["objects_out"] - too_long,
        rejected=counts["objects_rejected"] + too_long,
        cut=counts["objects_cut"],
        unreadable=counts["parts_rejected"],
        rejected_file=None if is_empty else target,
    )
