"""Compiled programs that jobs leave to each other: found by the next one, the same to the bit, and never torn."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest
from experiments import prepared
from jax.experimental.compilation_cache import compilation_cache

from jaxrnn import compilation, jobs, plan

FOLDER = compilation.FOLDER


@pytest.fixture
def alone() -> Iterator[None]:
    """JAX without a folder for compiled programs, as users have it."""
    before = {name: getattr(jax.config, name) for name in (FOLDER, *compilation.SETTINGS)}
    jax.config.update(FOLDER, None)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compile_each(file: Path, *scales: float) -> list[str]:
    """Compiles a program for each scale, as a job does; returns what was said."""
    said: list[str] = []
    x = jax.device_put(1.0)
    with compilation.shared(file, said.append):
        for scale in scales:
            assert float(jax.jit(lambda x, scale=scale: x * scale + scale)(x)) == 2 * scale
    return said


def found(said: list[str]) -> tuple[int, int]:
    numbers = [match for line in said for match in re.findall(r"compiled programs: (\d+) of (\d+) found", line)]
    assert len(numbers) == 1, said
    return int(numbers[0][0]), int(numbers[0][1])


def train(config: Path, results: Path, temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    """Starts a job as users do, without a folder for compiled programs."""
    temporary.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"TMPDIR": str(temporary), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    command = [sys.executable, "-m", "jaxrnn", "train", "--config", str(config), "--results", str(results), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def ended(process: subprocess.Popen[str]) -> list[str]:
    _, text = process.communicate()
    assert process.returncode == 0, text
    return text.splitlines()


def models(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((output / "models").iterdir())}


def test_what_a_killed_job_compiled_is_found_and_trains_the_same_bits(tmp_path: Path) -> None:
    small = {"units": 3, "depth": 1, "cell": "simple", "dense_units": 2}
    _, at, made = prepared(tmp_path, training__epochs=2, training__length_buckets=1, model=small)
    config, results = at.job("tiny", made.jobs[0].name) / "config.yaml", at.root
    process = train(config, results, tmp_path / "1")
    while not (files := [*(results / "compiled").glob("[!.]*")]):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.kill()
    process.communicate()

    (file,) = files
    killed = file.read_bytes()
    lines = ended(train(config, results, tmp_path / "2"))
    assert [*(results / "compiled").iterdir()] == [file], lines
    some, all_of_them = found(lines)
    assert 0 < some < all_of_them, (lines, len(killed))
    before = file.read_bytes()

    output = ["--retrain", "--output", str(tmp_path / "with")]
    lines = ended(train(config, results, tmp_path / "another place", *output))
    assert found(lines) == (all_of_them, all_of_them)
    assert file.read_bytes() == before
    # what loads them adds no noise of its own
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines), lines
    # and within these tests JAX has a folder already
    said: list[str] = []
    jobs.train(plan.load_job(config), at, tmp_path / "without", said.append, retrain=True)
    assert not any("compiled programs" in line for line in said)
    assert models(tmp_path / "without") == models(tmp_path / "with") == models(config.parent)
    assert not any((tmp_path / "2").iterdir()) and not any((tmp_path / "another place").iterdir())


@pytest.mark.usefixtures("alone")
def test_programs_come_together_in_one_file(tmp_path: Path) -> None:
    file = tmp_path / "compiled" / "key"
    assert found(compile_each(file, 2.0)) == (0, 1)
    assert found(compile_each(file, 2.0, 3.0)) == (1, 2)
    assert found(compile_each(file, 3.0, 4.0)) == (1, 2)
    assert found(compile_each(file, 4.0, 3.0, 2.0)) == (3, 3)
    assert [path.name for path in file.parent.iterdir()] == ["key"]


@pytest.mark.usefixtures("alone")
def test_what_another_job_added_meanwhile_stays(tmp_path: Path) -> None:
    file, said = tmp_path / "compiled" / "key", []
    with compilation.shared(file, said.append) as publish:
        jax.jit(lambda x: x * 5 + 5)(1.0)
        compilation._replace(file, compilation._read(file) | {"of-another-job": b"1"})
        publish()
        assert len(compilation._read(file)) == 2
        jax.jit(lambda x: x * 6 + 6)(1.0)
    assert len(compilation._read(file)) == 3


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b"x" * 1000, lambda b: bytes(len(b))])
def test_a_damaged_file_is_not_read_and_does_not_stay(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = tmp_path / "compiled" / "key"
    compile_each(file, 2.0)
    file.write_bytes(damage(file.read_bytes()))
    assert found(compile_each(file, 2.0)) == (0, 1)
    assert found(compile_each(file, 2.0)) == (1, 1)


@pytest.mark.usefixtures("alone")
def test_a_program_that_jax_cannot_use_does_not_stay(tmp_path: Path) -> None:
    """A full disk lets JAX write half a program, which then is whole for all that a sum can tell."""
    file = tmp_path / "compiled" / "key"
    compile_each(file, 2.0)
    compilation._replace(file, {name: content[:50] for name, content in compilation._read(file).items()})
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache entry"):
        assert found(compile_each(file, 2.0, 3.0)) == (0, 2)
    assert found(compile_each(file, 2.0, 3.0)) == (1, 2)
    assert found(compile_each(file, 2.0, 3.0)) == (2, 2)


PUBLISH_FOR_EVER = """
import os, pathlib, sys
from jaxrnn import compilation

for number in range(4):
    child = os.fork()
    while child == 0:
        entries = {f"{number}-{entry}": os.urandom(50_000) for entry in range(10)}
        compilation._replace(pathlib.Path(sys.argv[1]), entries)
    print(child, flush=True)
"""


def test_many_jobs_and_killed_ones_leave_whole_files_alone(tmp_path: Path) -> None:
    file = tmp_path / "compiled" / "key"
    command = [sys.executable, "-W", "ignore", "-c", PUBLISH_FOR_EVER, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        processes = [int(started.stdout.readline()) for _ in range(4)]
    writers: set[str] = set()
    try:
        end = time.monotonic() + 60
        while len(writers) < 4 and time.monotonic() < end:
            if file.exists():
                names = compilation._read(file).keys()
                assert len(names) == 10
                writers |= {name.partition("-")[0] for name in names}
    finally:
        for process in processes:
            os.kill(process, signal.SIGKILL)
            assert len(compilation._read(file)) == 10
    assert len(writers) == 4
    left = [path.name for path in file.parent.iterdir() if path != file]
    assert all(name.startswith(".key.") and name.endswith(".part") for name in left)


@pytest.mark.usefixtures("alone")
def test_a_folder_that_is_refused_stops_no_job(tmp_path: Path) -> None:
    (tmp_path / "compiled").write_text("a file where a folder should be")
    for file in (tmp_path / "compiled" / "key", Path("/proc/compiled/key")):
        said: list[str] = []
        with compilation.shared(file, said.append) as publish:
            jax.jit(lambda x: x * 7 + 7)(1.0)
            publish()
            jax.jit(lambda x: x * 8 + 8)(1.0)
        refusals = [line for line in said if "cannot be shared in" in line]
        assert len(refusals) == 1 and str(file.parent) in refusals[0] and refusals[0].endswith("goes on without"), said


@pytest.mark.usefixtures("alone")
def test_no_place_for_temporary_files_stops_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    said = compile_each(tmp_path / "compiled" / "key", 2.0)
    assert len(said) == 1 and "goes on without" in said[0]


@pytest.mark.usefixtures("alone")
def test_an_error_in_a_job_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="of the job"), compilation.shared(tmp_path / "key", pytest.fail):
        raise OSError("of the job")
    assert getattr(jax.config, FOLDER) is None


@pytest.mark.usefixtures("alone")
def test_the_least_recently_used_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "compiled" / name for name in ("first", "second", "third")]
    for age, file in zip((300, 200, 100), files, strict=True):
        compile_each(file, 2.0)
        os.utime(file, (time.time() - age, time.time() - age))
    compile_each(files[0], 2.0)  # used
    monkeypatch.setattr(compilation, "MOST_BYTES", 3.5 * files[0].stat().st_size)
    compile_each(tmp_path / "compiled" / "fourth", 2.0)
    assert {path.name for path in files[0].parent.iterdir()} == {"first", "third", "fourth"}


def test_a_folder_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    before = {name: getattr(jax.config, name) for name in (FOLDER, *compilation.SETTINGS)}
    assert before[FOLDER]
    with compilation.shared(tmp_path / "compiled" / "key", pytest.fail) as publish:
        assert before == {name: getattr(jax.config, name) for name in before}
        publish()
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("alone")
def test_where_jax_is_told_to_keep_nothing_nothing_is_kept(tmp_path: Path) -> None:
    jax.config.update(compilation.ENABLED, False)
    try:
        assert compile_each(tmp_path / "compiled" / "key", 2.0) == []
    finally:
        jax.config.update(compilation.ENABLED, True)
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("alone")
def test_settings_of_the_environment_stay_and_others_are_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, ours = compilation.SETTINGS
    monkeypatch.setenv(own.upper(), "0")
    jax.config.update(own, 3.0)
    monkeypatch.delenv(ours.upper(), raising=False)
    before = getattr(jax.config, ours)
    with compilation.shared(tmp_path / "key", pytest.fail):
        assert (getattr(jax.config, own), getattr(jax.config, ours)) == (3.0, "none")
    assert getattr(jax.config, ours) == before
    assert getattr(jax.config, FOLDER) is None


def test_other_processors_have_other_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(cpuinfo: str | None, values: object = 1) -> str:
        monkeypatch.setattr(compilation, "CPUINFO", tmp_path / "cpuinfo")
        (tmp_path / "cpuinfo").unlink(missing_ok=True)
        if cpuinfo is not None:
            (tmp_path / "cpuinfo").write_text(cpuinfo)
        return compilation.key(values)

    one = "processor\t: 0\nmodel\t\t: 1\ncpu MHz\t\t: 800\nflags\t\t: avx avx2\n"
    keys = [key(one), key(one.replace(": 1", ": 2")), key(one + "\nflags\t\t: avx\n"), key(one, values=2), key(None)]
    assert len(set(keys)) == len(keys)
    assert key(one.replace("800", "900") + one.replace(": 0", ": 1")) == keys[0]
    monkeypatch.setattr("platform.node", lambda: "another node")
    assert key(None) != keys[-1] and key(one) == keys[0]


def test_a_key_of_real_parts() -> None:
    assert re.fullmatch("[0-9a-f]{12}", compilation.key(jobs._software()))
    assert compilation._processor()
