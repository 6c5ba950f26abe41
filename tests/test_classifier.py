"""The model in Python: what the command gives, and a stream whose every observation costs one step."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from invented import bundle, observations, saved, write_survey

import jaxrnn
from jaxrnn import inference, tables
from jaxrnn.classifier import Classifier
from jaxrnn.errors import JaxrnnError
from jaxrnn.ranks import Ranks


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_survey(tmp_path_factory.mktemp("survey"), *observations())


def table(**observed: Any) -> pd.DataFrame:
    """Returns the observations as `Classifier.predict` takes them."""
    rows, stars = observations()
    joined = rows.merge(stars, on="star").rename(columns={"star": "id", "mjd": "time", "band": "passband"})
    return joined.assign(**observed)


def test_to_import_it_loads_nothing_heavy() -> None:
    code = "import sys, jaxrnn; jaxrnn.load; assert not {'jax', 'flax', 'pandas', 'numpy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_predicts_what_the_command_does(survey: Path, tmp_path: Path) -> None:
    model = jaxrnn.load(saved(tmp_path / "best", bundle(survey)))
    data = inference.data_for(model.bundle, survey)
    inference.run(model.bundle, data, tmp_path / "p.parquet", Ranks(), lambda done, total: None)
    expected = tables.read(tmp_path / "p.parquet").set_index("id")
    found = model.predict(table()).set_index("id")
    assert list(found.index) == table()["id"].unique().tolist()
    assert found["class"].tolist() == expected.loc[found.index, "class"].tolist()
    numbers = expected.columns.drop("class")
    np.testing.assert_allclose(found[numbers], expected.loc[found.index, numbers], atol=1e-6)


MODELS: dict[str, dict[str, Any]] = {
    "simple": {"cell": "simple", "depth": 2, "input_normalisation": True, "normalisation": "layer"},
    "gru, mean": {"cell": "gru", "normalisation": "batch", "pooling": "mean"},
    "lstm, attention, binary": {"cell": "lstm", "depth": 2, "pooling": "attention", "outputs": 1},
    "lstm, prefixes, maximum": {"cell": "lstm", "pooling": "max", "kind": "prefix"},
    "prefixes, attention": {"pooling": "attention", "kind": "prefix"},
    "a list, steps": {
        "kind": "step",
        "layers": [
            {"layer": "metadata"},
            {"layer": "conv", "filters": 4, "kernel": 3, "padding": "causal"},
            {"layer": "residual", "layers": [{"layer": "gru", "units": 6}, {"layer": "dense", "units": 5}]},
            {"layer": "pool", "kind": "mean", "running": True},
        ],
    },
    "no metadata": {"data": {"metadata": []}},
}


@pytest.mark.parametrize("name", MODELS)
def test_one_more_observation_gives_what_all_of_them_do(survey: Path, name: str) -> None:
    model = Classifier(bundle(survey, members=1 + (name == "simple"), **MODELS[name]))
    rows: Any = table().sort_values("time", kind="stable")
    own = rows[rows["id"] == rows["id"].value_counts().index[0]].head(7)
    prefixes = pd.concat([own.head(count).assign(id=str(count)) for count in range(1, len(own) + 1)])
    expected = model.predict(prefixes).groupby("id").tail(1).set_index("id")
    other = rows[rows["id"] != own["id"].iloc[0]].iloc[0].to_dict()
    for count, observation in enumerate(own.to_dict("records"), start=1):
        found = model.update("a", observation)
        model.update("b", {**other, "time": 59000.0 + count})  # another object, which is no concern of it
        assert found is not None and found.pop("id") == "a"
        known = expected.loc[str(count)]
        assert found.pop("class") == known["class"]
        for column, value in found.items():
            assert value == pytest.approx(known[column], abs=1e-5), (count, column)
    model.forget("a")
    again = model.update("a", own.iloc[0].to_dict())
    assert again is not None and again["class"] == expected.loc["1", "class"]


@settings(max_examples=15, deadline=None)
@given(flags=st.lists(st.sampled_from([0, 1]), min_size=1, max_size=8))
def test_what_is_cut_is_no_step(marked: tuple[Classifier, pd.DataFrame], flags: list[int]) -> None:
    model, rows = marked
    own = rows.head(len(flags)).assign(quality=flags, id="x")
    model.forget("x")
    answers = [model.update("x", observation) for observation in own.to_dict("records")]
    whole = model.predict(own)
    if not len(whole):
        assert answers == [None] * len(flags)
        return
    (expected,) = whole.to_dict("records")
    assert answers[-1] is not None and answers[-1]["class"] == expected["class"]
    assert answers[-1]["entropy"] == pytest.approx(expected["entropy"], abs=1e-5)


@pytest.fixture(scope="module")
def marked(survey: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, pd.DataFrame]:
    """A model whose data has quality flags and at most three steps, and eight observations of one object."""
    from invented import DATA

    rows, stars = observations()
    folder = write_survey(tmp_path_factory.mktemp("marked"), rows.assign(quality=0), stars)
    options = DATA["options"] | {"values": DATA["options"]["values"] | {"quality": ""}, "flags": ["quality"]}
    cuts = {"flags": [{"column": "quality", "reject_bits": 1}], "max_steps": 3}
    model = Classifier(bundle(folder, members=1, data={"options": options, "cuts": cuts}))
    return model, table().sort_values("time", kind="stable").assign(redshift=0.3).head(8)


def conv(**changes: Any) -> dict[str, Any]:
    return {"layers": [{"layer": "conv", "padding": "causal", **changes}, {"layer": "pool"}]}


REFUSED = {
    "reads backwards": {"bidirectional": True},
    "is centred": conv(padding="same"),
    "has a stride": conv(stride=2),
    "pools a window": {"layers": [{"layer": "max_pool", "causal": True, "stride": 1}, {"layer": "pool"}]},
    "takes all steps at once": {"layers": [{"layer": "flatten", "steps": 12}]},
    "decoder attends": {"kind": "step", "decoder": {"units": 4, "attention": "general"}, "metadata": None},
    "labels of a sequence": {"kind": "label_sequence", "outputs": 4},
    "a night's step": {"data": {"steps": "night"}},
    "known once there was a detection": {
        "data": {"features": ["time_since_detection", "flux"], "detection": {"signal_to_noise": 5}}
    },
    "outliers": {"data": {"cuts": {"sigma_clip": [{"column": "flux", "sigma": 3}]}}},
    "cuts.keep: last": {"data": {"cuts": {"max_steps": 5, "keep": "last"}}},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_causal_is_refused_with_the_reason(survey: Path, reason: str) -> None:
    changes = {name: value for name, value in REFUSED[reason].items() if value is not None}
    model = Classifier(bundle(survey, members=1, **changes))
    with pytest.raises(JaxrnnError, match="can't be updated by single observations") as refusal:
        model.update("a", table().iloc[0].to_dict())
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (table().drop(columns="flux"), "no column 'flux'"),
        (table().rename(columns={"redshift": "redshft"}), "did you mean 'redshft'"),
        (table(flux="bright"), "the column 'flux' holds what is no number"),
        (table(flux=np.nan), "flux not finite"),
        (table(flux_error=0.0), "flux_error not positive"),
        (table(passband="z"), "passband is none of g, r"),
        (table(redshift=lambda rows: rows["time"]), "has several values of 'redshift'"),
        (table(redshift=np.nan), "redshift missing or not finite"),
        (table(id=None), "row 0 has no id"),
        ([1, 2], "expected a table of pandas"),
    ],
)
def test_a_faulty_table_is_one_message(survey: Path, wrong: Any, said: str) -> None:
    with pytest.raises(JaxrnnError) as refusal:
        Classifier(bundle(survey, members=1)).predict(wrong)
    assert said in str(refusal.value)


def test_a_faulty_observation_leaves_the_stream_as_it_was(survey: Path) -> None:
    model = Classifier(bundle(survey, members=1))
    rows = table().sort_values("time", kind="stable").assign(id="a", redshift=0.2)
    first, second = rows.iloc[0].to_dict(), rows.iloc[1].to_dict()
    model.update("a", first)
    with pytest.raises(JaxrnnError, match="expected them in order of time"):
        model.update("a", {**second, "time": first["time"] - 1})
    for time in ("noon", [1]):
        with pytest.raises(JaxrnnError, match="'time' holds what is no number"):
            model.update("a", {**second, "time": time})
    with pytest.raises(JaxrnnError, match="time not finite"):
        model.update("a", {**second, "time": None})
    with pytest.raises(JaxrnnError, match="flux not finite"):
        model.update("a", {**second, "flux": np.inf})
    del second["redshift"]
    found = model.update("a", second)
    (expected,) = model.predict(rows.iloc[:2]).to_dict("records")
    assert found is not None and found["entropy"] == pytest.approx(expected["entropy"], abs=1e-5)
    with pytest.raises(JaxrnnError, match="no column 'redshift'"):
        model.update("new", second)
    # an id is text, whatever it is given as
    number: Any = 7
    begun, again = model.update(number, first), model.update("7", second)
    assert begun is not None and begun["id"] == "7"
    assert again is not None and again["entropy"] == found["entropy"]
