"""PLAsTiCC's files, against pandas on the same real ones."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from workflows import CHECKOUT

from jaxrnn import config, describe, ingest, plan, shards, splits
from jaxrnn.errors import JaxrnnError
from jaxrnn.ranks import Ranks
from jaxrnn.readers import RowReader, open_reader
from jaxrnn.results import Results

FULL, METADATA = "training_set_metadata_full.csv", "training_set_metadata_10obj.csv"


def opened(path: Path, **options: object) -> RowReader:
    reader = open_reader("plasticc", path, options)
    assert isinstance(reader, RowReader)
    return reader


@pytest.mark.data
def test_the_real_light_curves_are_what_pandas_reads(data_folder: Path) -> None:
    reader = opened(data_folder / "plasticc", metadata=FULL)
    table = pd.read_csv(data_folder / "plasticc/training_set_10obj.csv")
    pieces = [piece for part in reader.observation_parts(20_000) for piece in reader.read_observations(part)]
    assert len(pieces) > 3 and all(piece.faults is None for piece in pieces)
    ids = np.concatenate([piece.object_ids for piece in pieces])
    np.testing.assert_array_equal(ids.astype(int), table["object_id"])
    np.testing.assert_array_equal(np.concatenate([piece.time for piece in pieces]), table["mjd"])
    np.testing.assert_array_equal(np.concatenate([piece.passband for piece in pieces]), table["passband"])
    values = np.concatenate([piece.values for piece in pieces])
    np.testing.assert_array_equal(values, table[["flux", "flux_err", "detected"]].to_numpy())
    rows = [reader.rows_at(piece.file, piece.row_numbers) for piece in pieces]
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(len(table)))


@pytest.mark.data
def test_the_real_objects_are_what_pandas_reads(data_folder: Path) -> None:
    reader = opened(data_folder / "plasticc", metadata=FULL)
    table = pd.read_csv(data_folder / "plasticc" / FULL)
    pieces = [piece for part in reader.object_parts(100_000) for piece in reader.read_objects(part)]
    np.testing.assert_array_equal(np.concatenate([piece.ids for piece in pieces]).astype(int), table["object_id"])
    np.testing.assert_array_equal(np.concatenate([piece.labels for piece in pieces]), table["target"].astype(str))
    columns = [column.name for column in reader.describe().metadata]
    np.testing.assert_array_equal(np.concatenate([piece.metadata for piece in pieces]), table[columns])
    assert set(columns) == set(table.columns) - {"object_id", "target"}
    named = opened(data_folder / "plasticc", metadata=FULL, names=True)
    labels = np.concatenate([p.labels for part in named.object_parts(10**6) for p in named.read_objects(part)])
    # the challenge's paper counts 2313 SNIa, 30 SLSN-I... of the 7848
    assert len(set(labels)) == table["target"].nunique() and (labels == "SNIa").sum() == (table["target"] == 90).sum()


@pytest.mark.data
def test_two_tables_of_objects_ask_for_a_choice(data_folder: Path) -> None:
    with pytest.raises(JaxrnnError, match=r"name it by data.options.metadata"):
        opened(data_folder / "plasticc")


def test_the_files_published_after_the_challenge(tmp_path: Path) -> None:
    (tmp_path / "test_metadata.csv").write_text("object_id,ra,ddf_bool,target,true_target\n13,1.0,1,0,90\n")
    (tmp_path / "test_lightcurves_01.csv").write_text(
        "object_id,mjd,passband,flux,flux_err,detected_bool\n13,59798.3,5,1.5,2.5,1\n"
    )
    reader = opened(tmp_path, label="true_target", names=True)
    (objects,) = reader.read_objects(reader.object_parts(10**6)[0])
    (rows,) = reader.read_observations(reader.observation_parts(10**6)[0])
    assert objects.labels.tolist() == ["SNIa"] and objects.metadata.tolist() == [[1.0, 1.0]]
    assert [column.name for column in reader.describe().metadata] == ["ra", "ddf"]
    assert rows.values.tolist() == [[1.5, 2.5, 1.0]] and rows.passband.tolist() == [5]


def test_a_test_set_has_no_labels(tmp_path: Path) -> None:
    (tmp_path / "test_set_metadata.csv").write_text("object_id,ra\n13,1.0\n")
    (tmp_path / "test_set_batch1.csv").write_text("object_id,mjd,passband,flux,flux_err,detected\n")
    assert not opened(tmp_path).describe().labelled


def test_a_folder_without_observations_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test_set_metadata.csv").write_text("object_id,ra\n13,1.0\n")
    with pytest.raises(JaxrnnError, match="no file of observations"):
        opened(tmp_path)


@pytest.mark.data
def test_the_networks_of_the_experiment_fit_the_real_objects(tmp_path: Path, data_folder: Path) -> None:
    experiment = config.load(CHECKOUT / "config" / "lsst_hybrid.yaml")
    for name, source in (("training_set.csv", "training_set_10obj.csv"), ("training_set_metadata.csv", METADATA)):
        (tmp_path / name).symlink_to(data_folder / "plasticc" / source)
    at = Results(tmp_path / "results")
    dataset = at.dataset(plan.dataset_key(experiment))
    counts = ingest.ingest(experiment.data, tmp_path, dataset, Ranks(), lambda done, total: None)["counts"]
    assert (counts["objects_in"], counts["objects_out"]) == (10, 10)
    lengths = np.concatenate([shards.read(path).lengths for path in splits.shard_paths(dataset)])
    assert lengths.max() == 36 and len(lengths) == 10
    inputs = describe.inputs_of(experiment, at, classes=14)
    # three times, of which a flux and its error in each passband, and which passbands a night has
    assert inputs.features == 2 + 3 * 6
    hybrid, *plain = describe.networks(experiment, inputs)
    layers = [row.kind for row in hybrid.rows]
    assert layers.count("simple") == 3 and layers.count("dropout") == 2 and layers.count("conv") == 1
    assert [row.gives for row in hybrid.rows if row.kind == "flatten"] == [f"[batch, {18 * 64}]"]
    assert [network.rows[2].kind for network in plain] == ["simple", "lstm", "gru"]
