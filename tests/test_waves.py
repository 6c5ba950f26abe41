"""Simulated waves: the form and the statistics of the ADACS files, the same from any number of ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from workflows import CHECKOUT

from jaxrnn import config, ingest, plan, splits, waves
from jaxrnn.errors import JaxrnnError
from jaxrnn.ranks import Ranks
from jaxrnn.readers import SequenceReader, joined, open_reader
from jaxrnn.waves import Waves


def quiet(done: int, total: int) -> None:
    pass


def parameters(**values: Any) -> Waves:
    return Waves.model_validate({"kind": "waves", **values})


def written(folder: Path, ranks: int = 1, **values: Any) -> Waves:
    simulation = parameters(**values)
    for rank in range(ranks):
        waves.simulate(simulation, folder, rank, ranks, quiet)
    waves.finish(simulation, folder)
    return simulation


def frequency(samples: np.ndarray) -> float:
    """Returns the frequency of a sine or square wave, radians a step, from its changes of sign."""
    turns = np.flatnonzero(np.diff(np.sign(samples)) != 0) + 1.5
    return float(np.pi * len(turns) / turns[-1])


def adacs(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    files = sorted((folder / "adacs" / "Train").glob("X_*.dat"))
    labels = [np.fromfile(file.with_name(file.name.replace("X", "Y")))[0] for file in files]
    return np.array([np.fromfile(file) for file in files]), np.array(labels)


@pytest.mark.data
def test_the_adacs_files_are_such_waves(data_folder: Path) -> None:
    samples, labels = adacs(data_folder)
    steps = np.arange(1, 129)
    for own, label in zip(samples, labels, strict=True):
        # one frequency in the stated range gives all samples
        if label == waves.SINE:
            found = np.arcsin(own[0])
            np.testing.assert_allclose(own, np.sin(found * steps), atol=1e-9)
            assert 0.1 <= found <= 0.4
        else:
            tried = np.linspace(0.1, 0.4, 30_001)
            same = [np.array_equal(waves.square(f * steps), own) for f in tried[np.abs(tried - frequency(own)) < 0.02]]
            assert any(same)


@pytest.mark.data
def test_fresh_waves_are_statistically_like_the_adacs_files(data_folder: Path) -> None:
    samples, labels = adacs(data_folder)
    simulation = parameters(seed=3)
    fresh = [waves.wave(simulation, "test", number) for number in range(2000)]
    fresh_samples, fresh_labels = np.array([s for s, _ in fresh]), np.array([label for _, label in fresh])
    assert stats.binomtest(int(fresh_labels.sum()), 2000).pvalue > 1e-3
    assert stats.binomtest(int(labels.sum()), 200).pvalue > 1e-3
    for label in (waves.SINE, waves.SQUARE):
        ours, theirs = fresh_samples[fresh_labels == label], samples[labels == label]
        for told in (frequency, np.mean, np.std, lambda s: s[64]):
            compared: Any = stats.ks_2samp([told(s) for s in ours], [told(s) for s in theirs])
            assert compared.pvalue > 1e-3
        # of the lowest frequency to the highest, evenly
        uniform = stats.uniform(waves.LOWEST, waves.SPREAD)
        assert stats.kstest([frequency(s) for s in ours], uniform.cdf).pvalue > 1e-3


def test_any_number_of_ranks_writes_the_same_files_for_the_reader(tmp_path: Path) -> None:
    written(tmp_path / "one", train=7, validation=0, test=5, seed=1)
    simulation = written(tmp_path / "three", ranks=3, train=7, validation=0, test=5, seed=1)
    contents = [
        {str(file.relative_to(tmp_path / name)): file.read_bytes() for file in (tmp_path / name).glob("**/*.*")}
        for name in ("one", "three")
    ]
    assert contents[0] == contents[1] and len(contents[0]) == 2 * 12 + 1
    reader = open_reader("dat", tmp_path / "one", {"labels": {"0": "sine", "1": "square"}})
    assert isinstance(reader, SequenceReader)
    found = joined([reader.read(part) for part in reader.parts(10**6)])
    assert found.splits is not None and found.splits.tolist() == ["train"] * 7 + ["test"] * 5
    for index, name in enumerate(found.ids.tolist()):
        split, number = name.split("/")
        samples, label = waves.wave(simulation, split, int(number))
        np.testing.assert_array_equal(found.values[128 * index : 128 * (index + 1), 0], samples)
        assert found.labels[index] == ("square" if label else "sine")
    # more waves, or of other splits, change none of these
    more = parameters(seed=1, train=9, validation=3, test=5)
    np.testing.assert_array_equal(waves.wave(more, "train", 7)[0], waves.wave(simulation, "train", 7)[0])
    assert not np.array_equal(waves.wave(more, "test", 7)[0], waves.wave(more, "train", 7)[0])


def test_other_waves_in_the_folder_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "survey", train=2, validation=0, test=2)
    for changes, match in (
        ({"seed": 1}, "survey.json: of a survey with other"),
        ({"test": 1}, "with other parameters"),
    ):
        with pytest.raises(JaxrnnError, match=match):
            written(tmp_path / "survey", **{"train": 2, "validation": 0, "test": 2, **changes})
    (tmp_path / "survey" / "survey.json").unlink()
    with pytest.raises(JaxrnnError, match=r"X_2.dat: no file of this survey; nothing was changed"):
        written(tmp_path / "survey", train=1, validation=0, test=2)
    (tmp_path / "file").touch()
    with pytest.raises(JaxrnnError, match="is a file; expected a folder"):
        written(tmp_path / "file")
    simulation = parameters(train=2, validation=0, test=2)
    (tmp_path / "survey" / "test" / "Y_1.dat").unlink()
    with pytest.raises(JaxrnnError, match=r"Y_1.dat: not written, and 0 files more"):
        waves.finish(simulation, tmp_path / "survey")


def test_an_experiment_asks_for_waves(tmp_path: Path) -> None:
    def experiment(simulation: Any, reader: str = "dat") -> Path:
        file = tmp_path / "waves.yaml"
        data = {"reader": reader, "simulation": simulation, "features": ["value"]}
        sections = {name: {} for name in ("task", "model", "loss", "training", "selection", "grid")}
        file.write_text(yaml.safe_dump({"experiment": "waves", "seed": 1, "data": data, **sections}))
        return file

    loaded = config.load(experiment({"kind": "waves", "seed": 4}))
    assert loaded.data.simulation == {"kind": "waves", "seed": 4, "train": 200, "validation": 50, "test": 2000}
    found = config.load_simulation(experiment({"kind": "waves", "seed": 4}))
    assert found == parameters(seed=4)
    assert plan.make(loaded).survey_key == plan.survey_key(found)
    for simulation, reader, match in (
        ({"kind": "wave"}, "dat", "data.simulation.kind: expected one of light_curves, clips, waves.*'waves'"),
        ({"kind": "waves"}, "goto", "data.simulation: `waves` goes with `reader: dat`, not with 'goto'"),
        ({}, "dat", "data.simulation: `light_curves` goes with `reader: simulated`, not with 'dat'"),
        ({"kind": "waves", "train": 0, "validation": 0, "test": 0}, "dat", "all are 0; expected at least one wave"),
        ({"kind": "waves", "days": 3}, "dat", "days"),
    ):
        with pytest.raises(JaxrnnError, match=match):
            config.load(experiment(simulation, reader))


def contents(folder: Path, split: str) -> dict[str, bytes]:
    return {f"{split}/{file.stem[2:]}": file.read_bytes() for file in (folder / "adacs" / split).glob("X_*.dat")}


@pytest.mark.data
def test_the_workshops_own_split_is_refused(tmp_path: Path, data_folder: Path) -> None:
    experiment = config.load(CHECKOUT / "config" / "sine_square_original.yaml")
    dataset = tmp_path / "dataset"
    ingest.ingest(experiment.data, data_folder / "adacs", dataset, Ranks(), quiet)
    with pytest.raises(JaxrnnError) as caught:
        splits.split(experiment, dataset, tmp_path)
    assert "split: what stands in one split stands in another too" in str(caught.value)
    assert "of train equal to one of test" in str(caught.value) and "leaks.csv lists them all" in str(caught.value)
    listed = pd.read_csv(tmp_path / "leaks.csv")
    listed = listed[(listed["kind"] == "equal") & (listed["other_split"] == "test")]
    train, test = contents(data_folder, "Train"), contents(data_folder, "Test")
    assert set(listed["object"]) == {name for name, content in train.items() if content in test.values()}
    # every one of the 50 is a copy of a file that is named
    named = {train[name] for name in listed["object"]}
    assert len(test) == 50 and all(content in named for content in test.values())
    assert not (tmp_path / "splits.csv").exists()


@pytest.mark.data
def test_142_files_are_no_copies(data_folder: Path) -> None:
    train, test = contents(data_folder, "Train"), contents(data_folder, "Test")
    for name in (
        "sine_square",
        "sine_square_epochs",
        "sine_square_depth",
        "sine_square_width",
        "sine_square_activation",
    ):
        left_out = config.load(CHECKOUT / "config" / f"{name}.yaml").split.leave_out
        kept = [content for wave, content in train.items() if wave not in left_out]
        assert len(kept) == len(set(kept)) == 142 and not set(kept) & set(test.values())
        assert set(kept) == set(train.values()) - set(test.values())
