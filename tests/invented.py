"""Model bundles without training: networks as they begin, and new surveys in CSV that they can be asked about."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from flax import nnx

from jaxrnn import bundles, features, ingest, predict, training
from jaxrnn.bundles import Bundle, Member
from jaxrnn.config import Data, Model, Task
from jaxrnn.splits import Statistics

HOSTILE = ["<script>alert(1)</script>", 'a,"b" c', "=1+1", "in between", "naïve/…", "NA", "007", "x" * 200]
CLASSES = ("<b>Ia</b>", "II|x", "other")
DATA: dict[str, Any] = {
    "reader": "table",
    "options": {
        "object": "star",
        "time": "mjd",
        "values": {"flux": "uJy", "flux_error": "uJy"},
        "errors": ["flux_error"],
        "passband": "band",
        "passbands": ["g", "r"],
        "label": "class",
        "metadata": {"file": "stars.csv", "columns": {"redshift": ""}},
    },
    "features": ["time_since_first", "time_difference", "passband", "flux", "flux_error"],
    "metadata": ["redshift"],
    "shard_mb": 0.001,
}


def observations(objects: int = 30, steps: int = 12, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns a table of observations, unlabelled and in no order, and one of objects; the first have odd ids."""
    rng = np.random.default_rng(seed)
    ids = np.array([*HOSTILE[:objects], *(f"star-{n}" for n in range(objects - len(HOSTILE)))], dtype=object)
    lengths = rng.integers(1, steps + 1, objects)
    count = int(lengths.sum())
    table = pd.DataFrame(
        {
            "star": np.repeat(ids, lengths),
            "mjd": 59000 + rng.uniform(0, 100, count).round(3),
            "flux": rng.normal(10, 30, count).round(4),
            "flux_error": rng.uniform(1, 5, count).round(4),
            "band": rng.choice(["g", "r"], count),
        }
    )
    return table.sample(frac=1, random_state=0), pd.DataFrame({"star": ids, "redshift": rng.uniform(0, 1, objects)})


def write_survey(folder: Path, table: pd.DataFrame, stars: pd.DataFrame) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "observations.csv", index=False)
    stars.to_csv(folder / "stars.csv", index=False)
    return folder


def bundle(
    survey: Path,
    *,
    kind: str = "sequence",
    members: int = 2,
    outputs: int = 3,
    data: dict[str, Any] | None = None,
    task: dict[str, Any] | None = None,
    **model: Any,
) -> Bundle:
    """Returns a bundle for a survey like the one at `survey`; model: its `model` section."""
    section = Data.model_validate({**DATA, **(data or {}), "path": str(survey)})
    _, known = ingest.opened(section, survey, to_predict=True)
    known = replace(known, labelled=True)
    inputs = [vars(column) for column in features.describe(section, known)]
    columns = {column.name: column for column in known.metadata}
    metadata = [vars(columns[name]) for name in section.metadata]
    small = {} if "layers" in model else {"units": 5, "depth": 1, "dense_units": 4}
    settings = Model.model_validate({**small, **model})
    rng = np.random.default_rng(1)
    indicators = np.array([column["indicator"] for column in inputs])
    return Bundle(
        model=settings,
        task=Task.model_validate({"kind": kind, **(task or {})}),
        outputs=outputs,
        data=section,
        survey=known,
        features=inputs,
        metadata=metadata,
        statistics=Statistics(
            CLASSES if outputs > 1 else CLASSES[:2],
            np.array([5, 5, 5][: max(outputs, 2)]),
            np.where(indicators, 0.0, rng.normal(5, 1, len(inputs))),
            np.where(indicators, 1.0, rng.uniform(5, 20, len(inputs))),
            np.full(len(metadata), 0.4),
            np.full(len(metadata), 0.3),
            "settings",
            "data",
        ),
        members=tuple(
            Member(f"seed-{seed}", seed, 0.7 + 0.5 * seed, arrays(settings, inputs, metadata, outputs, kind, seed))
            for seed in range(members)
        ),
        trial={"best_epoch": 3},
    )


def arrays(model: Model, inputs: list[Any], metadata: list[Any], outputs: int, kind: Any, seed: int) -> Any:
    """Returns the parameters of a network as it begins, its statistics as if it had seen something."""
    made = training.network(model, len(inputs), len(metadata), outputs, kind, jax.random.key(seed))
    _, parameters, statistics = nnx.split(made, nnx.Param, nnx.BatchStat)
    rng = np.random.default_rng(seed)
    found = predict.flattened(parameters, statistics)
    for name, values in found.items():
        if name.endswith("/mean"):
            found[name] = rng.normal(0, 0.3, values.shape).astype(np.float32)
        elif name.endswith("/var"):
            found[name] = rng.uniform(0.5, 2, values.shape).astype(np.float32)
    return {name: 2 * values if "kernel" in name else values for name, values in found.items()}


def saved(folder: Path, made: Bundle) -> Path:
    bundles.save(folder, made, "# A card\n")
    return folder
