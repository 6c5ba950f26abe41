"""The test cluster leaves a machine as it was, and touches no SLURM that is somebody's."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_cluster

USER = """
import time, slurm_cluster
with slurm_cluster.running():
    print("up", flush=True)
    time.sleep(600)
"""


def links() -> list[Path]:
    return [path for file in slurm_cluster.FILES if os.path.lexists(path := slurm_cluster.CONFIGURATION / file)]


@pytest.mark.slurm
def test_it_is_gone_with_the_process_that_asked_for_it_however_that_ended() -> None:
    if reason := slurm_cluster.obstacle():
        pytest.skip(reason)
    user = subprocess.Popen([sys.executable, "-c", USER], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent)
    assert user.stdout and user.stdout.readline() == "up\n"
    assert len(links()) == len(slurm_cluster.FILES)
    folder = Path(os.readlink(links()[0])).parent
    user.kill()
    user.communicate()
    end = time.monotonic() + 60
    while links() or folder.exists():
        assert time.monotonic() < end, [*links(), folder]
        time.sleep(0.1)
    assert subprocess.run(["squeue"], capture_output=True).returncode


@pytest.mark.parametrize("foreign", ["a file", "a link", "a link to nothing"])
def test_a_configuration_that_is_there_is_told_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreign: str
) -> None:
    monkeypatch.setattr(slurm_cluster, "CONFIGURATION", tmp_path / "slurm")
    monkeypatch.setattr(slurm_cluster.shutil, "which", lambda program: program)
    monkeypatch.setattr(slurm_cluster.os, "geteuid", lambda: 0)
    assert slurm_cluster.obstacle() == ""
    theirs, place = tmp_path / "theirs.conf", tmp_path / "slurm" / "slurm.conf"
    place.parent.mkdir()
    if foreign != "a link to nothing":
        theirs.write_text("ClusterName=theirs\n")
    if foreign == "a file":
        theirs.rename(place)
    else:
        place.symlink_to(theirs)
    assert slurm_cluster.obstacle() == f"{place} exists and is not a link of these tests; it is left alone"
    assert place.is_symlink() == (foreign != "a file")
    assert foreign == "a link to nothing" or place.read_text() == "ClusterName=theirs\n"
