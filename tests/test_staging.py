"""Copies of training data on the node's own disk: where there are any, that they change nothing, and leave nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from experiments import prepared
from test_distributed import Experiment, ended
from test_ingest import MPIRUN, needs_mpi
from test_jobs import IN_WINDOWS, assert_equal, outputs, quiet, train_all

from jaxrnn import batches, ranks, shards, staging
from jaxrnn.results import Results

DISK, SERVER = ("/dev/nvme0n1", "xfs"), ("10.0.0.1@o2ib:/fred", "lustre")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a site gives a job on its node's disk. What was copied there is gone in the end."""
    folder = tmp_path / "jobfs"
    folder.mkdir()
    given(monkeypatch, folder)
    yield folder
    assert not list(folder.iterdir())


def given(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(staging.tempfile, "tempdir", str(folder))
    monkeypatch.setattr(staging, "slurm", SimpleNamespace(own_job=lambda: 7))
    monkeypatch.setattr(staging, "mount_of", lambda path: DISK if path.is_relative_to(folder) else SERVER)


@pytest.fixture
def dataset(tmp_path: Path) -> list[Path]:
    """The shards of a dataset with its manifest. What is in them is nothing to who copies them."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    paths = [folder / f"0000{number}.h5" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(np.random.default_rng(number).bytes(1000 * number))
    entries = [{"file": path.name, "sha256": shards.checksum(path)} for path in paths]
    (folder / "manifest.json").write_text(
        json.dumps({"jaxrnn_version": staging.results.__version__, "shards": entries})
    )
    return paths


def test_whole_copies_lie_in_a_folder_that_goes(scratch: Path, dataset: list[Path]) -> None:
    said: list[str] = []
    with staging.copies(dataset, said.append) as first, staging.copies(dataset, said.append) as second:
        for copies in (first, second):
            assert [copy.read_bytes() for copy in copies] == [path.read_bytes() for path in dataset]
        # of two processes each has its own
        assert first[0].parent.parent == second[0].parent.parent == scratch and first[0].parent != second[0].parent
    assert len(said) == 2 and f"0 MB copied to {scratch / 'jaxrnn-'}" in said[0]


@pytest.mark.parametrize(
    ("folder", "of_folder", "of_dataset", "job"),
    [
        ("/local/7", DISK, SERVER, None),  # a laptop, or a login node
        ("/tmp", DISK, SERVER, 7),  # what the site gives nobody
        ("/local/7", ("tmpfs", "tmpfs"), SERVER, 7),  # the node's memory
        ("/local/7", ("server:/scratch", "nfs4"), SERVER, 7),
        ("/local/7", DISK, DISK, 7),  # nothing is nearer
    ],
)
def test_nothing_is_copied_where_the_site_gives_no_disk_of_the_node(
    folder: str,
    of_folder: tuple[str, str],
    of_dataset: tuple[str, str],
    job: int | None,
    dataset: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given(monkeypatch, Path(folder))
    assert staging.scratch(dataset[0].parent) == Path(folder) or folder == "/tmp"
    monkeypatch.setattr(staging.slurm, "own_job", lambda: job)
    monkeypatch.setattr(staging, "mount_of", lambda path: of_folder if str(path) == folder else of_dataset)
    said: list[str] = []
    assert staging.scratch(dataset[0].parent) is None
    with staging.copies(dataset, said.append) as read_from:
        assert (read_from, said) == (dataset, [])


@pytest.mark.parametrize("fault", ["no room", "disk full", "other bytes", "not in the manifest", "shard missing"])
def test_what_cannot_be_copied_is_read_where_it_is(
    fault: str, scratch: Path, dataset: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = {
        "no room": "they are 0 MB, and 1,000 MB are free, of which 1,000 MB are to stay so",
        "disk full": "No space left on device",
        "shard missing": "No such file or directory",
    }.get(fault, "00002.h5: its bytes are not those that ingest wrote (SHA-256 differs)")
    if fault == "no room":
        monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_002_999))
    elif fault == "disk full":
        copy = staging._copy

        def full(path: Path, to: Path, sha256: str | None) -> None:
            copy(path, Path("/dev/full") if to.name == dataset[1].name else to, sha256)

        monkeypatch.setattr(staging, "_copy", full)
    elif fault == "other bytes":
        dataset[2].write_bytes(b"\0" + dataset[2].read_bytes()[1:])
    elif fault == "not in the manifest":
        path = dataset[0].parent / "manifest.json"
        path.write_text(path.read_text().replace(dataset[2].name, "another"))
    else:
        dataset[1].unlink()
    said: list[str] = []
    with staging.copies(dataset, said.append) as read_from:
        assert read_from == dataset
        assert not list(scratch.iterdir()), "what was copied takes no more room"
    assert len(said) == 1 and said[0].startswith(f"training data are not copied to {scratch} and read where they are")
    assert reason in said[0]


def test_whatever_ends_a_job_while_it_copies_or_reads_the_copies_go(
    scratch: Path, dataset: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        ranks.Ranks().listening()
        for number in (signal.SIGTERM, signal.SIGINT):
            with pytest.raises(KeyboardInterrupt), staging.copies(dataset, quiet):
                signal.raise_signal(number)
        with monkeypatch.context() as patch:
            patch.setattr(staging, "_copy", lambda path, to, _: to.touch() or signal.raise_signal(signal.SIGTERM))
            with pytest.raises(KeyboardInterrupt), staging.copies(dataset, quiet):
                pass
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(ZeroDivisionError), staging.copies(dataset, quiet):
        raise ZeroDivisionError


def test_a_job_that_reads_in_every_epoch_reads_copies_and_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"grid": {"loss.gamma": [0, 1]}, "training__epochs": 2}
    _, at, made = prepared(tmp_path, **IN_WINDOWS | settings)
    read: list[Path] = []
    whole = batches.shards.read

    def watched(path: Path, **options: Any) -> Any:
        if options.get("steps", True):
            read.append(path)
        return whole(path, **options)

    monkeypatch.setattr(batches.shards, "read", watched)
    train_all(at, made)
    expected, names = outputs(at, made), {path.name for path in read}
    assert {path.parent for path in read} == {at.dataset(made.dataset_key)}
    shutil.rmtree(at.experiment("tiny") / "trials")
    read.clear()
    folder, said = tmp_path / "jobfs", []
    folder.mkdir()
    given(monkeypatch, folder)
    train_all(at, made, said.append)
    assert_equal(expected, outputs(at, made))
    assert {path.name for path in read} == names and {path.parent.parent for path in read} == {folder}
    assert len([line for line in said if " copied to " in line]) == 1
    assert not list(folder.iterdir())


def test_a_job_whose_data_fit_copies_nothing(tmp_path: Path, scratch: Path) -> None:
    _, at, made = prepared(tmp_path, training__epochs=1, training__length_buckets=1)
    said: list[str] = []
    train_all(at, made, said.append)
    assert not any("copied to" in line for line in said)


# On a node with a disk, where a process is stopped, or not, once it trains from copies.
ON_A_NODE = """
import os, signal
from jaxrnn import cli, jobs, staging
os.environ["SLURM_JOB_ID"], os.environ["PATH"] = "7", "/nowhere"
place = os.environ["TMPDIR"]
staging.mount_of = lambda path: ("", "xfs" if str(path).startswith(place) else "lustre")
some_steps = jobs._Pack.some_steps

def watched(pack):
    folders = os.listdir(place)
    if {stops} and pack.epoch == 1:
        jobs.AGAIN_SECONDS = 0
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    some_steps(pack)
    assert len([name for name in folders if name.startswith("jaxrnn-") and "00000.h5" in
                os.listdir(os.path.join(place, name))]) == {copies}, folders

jobs._Pack.some_steps = watched
cli.main()
"""


def test_a_job_that_is_told_twice_to_end_leaves_no_copies(tmp_path: Path) -> None:
    _, at, made = prepared(tmp_path, **IN_WINDOWS)
    (tmp_path / "jobfs").mkdir()
    config = at.job("tiny", made.jobs[0].name) / "config.yaml"
    code = ON_A_NODE.format(stops=True, copies=1)
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--config", str(config), "--results", str(at.root)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path / "jobfs"), "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 130, done.stderr
    assert f"copied to {tmp_path / 'jobfs'}" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "jobfs").iterdir())


@pytest.mark.mpi
@needs_mpi
def test_processes_of_one_node_have_copies_of_their_own(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path / "experiment", **{name: IN_WINDOWS[name] for name in IN_WINDOWS if "mb" in name})
    code, messages = ended(experiment.start(experiment.at, 2))
    assert code == 0 and "copied to" not in messages, messages
    at = Results(tmp_path / "copied")
    shutil.copytree(experiment.at.root, at.root)
    shutil.rmtree(at.experiment("tiny") / "trials")
    (tmp_path / "jobfs").mkdir()
    config = at.job("tiny", experiment.job) / "config.yaml"
    command = [str(MPIRUN), "-n", "2", sys.executable, "-c", ON_A_NODE.format(stops=False, copies=2), "train"]
    environment = os.environ | {"TMPDIR": str(tmp_path / "jobfs"), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(
        [*command, "--config", str(config), "--results", str(at.root)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(" copied to ") == 1, "one speaks for all"
    assert not [path for path in (tmp_path / "jobfs").iterdir() if path.name.startswith("jaxrnn-")]
    expected, found = experiment.arrays(experiment.at), experiment.arrays(at)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
