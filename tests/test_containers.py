"""Dockerfile and slurm/jaxrnn.def: read here, because no container engine is at hand, and what they run is run.

The whole Dockerfile is followed by `test_what_dockerfile_does_makes_a_jaxrnn_that_works`, in an empty Debian that
debootstrap makes, by a user without a name or a home.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from workflows import CHECKOUT, LOCAL, Workflow

DOCKERFILE = CHECKOUT / "Dockerfile"
DEFINITION = CHECKOUT / "slurm" / "jaxrnn.def"
INSTALL = CHECKOUT / "slurm" / "install.sh"
SCRIPTS = [*sorted((CHECKOUT / "slurm").glob("*.sh")), CHECKOUT / ".ci" / "run"]
SECTIONS = {"arguments", "files", "post", "environment", "runscript", "test", "help"}
INSTRUCTIONS = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "CMD"}
SWITCH = "JAXRNN_EMPTY_ROOT"
CERTIFICATES = "certificates.crt"


def instructions() -> list[tuple[str, str]]:
    """Returns Dockerfile's instructions with their arguments, lines that go on joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def arguments(instruction: str) -> list[str]:
    return [rest for word, rest in instructions() if word == instruction]


def sections() -> dict[str, list[str]]:
    """Returns the lines of each section of the definition file, without comments; "" is its header."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in DEFINITION.read_text().splitlines():
        if line.startswith("%"):
            name = line[1:].strip()
            assert name not in found, f"%{name} stands twice"
            found[name] = []
        elif line.strip() and not line.strip().startswith("#"):
            found[name].append(line.strip())
    return found


def copied() -> dict[str, str]:
    """Returns what Dockerfile copies: from where in the checkout to where in the folder."""
    files: dict[str, str] = {}
    for words in map(str.split, arguments("COPY")):
        *sources, target = words
        files |= {source: source if target == "./" else target for source in sources}
    return files


def base() -> str:
    (image,) = arguments("FROM")
    return image


def test_dockerfile_has_known_instructions_and_a_base_of_one_version() -> None:
    assert {word for word, _ in instructions()} == INSTRUCTIONS
    assert instructions()[0][0] == "FROM"
    assert re.fullmatch(r"[a-z]+:\d[\w.-]*", base()), "a name and a version, without a registry"
    assert isinstance(json.loads(arguments("CMD")[0]), list)


def test_the_image_gets_what_jaxrnn_needs_and_nothing_that_is_not_there() -> None:
    files = copied()
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    needed = {"pyproject.toml", "requirements.lock", project["readme"], *project["license-files"], "jaxrnn", "slurm"}
    # to run from: rules name environment.yml
    assert set(files) == needed | {"Snakefile", "workflow", "config", "environment.yml"}
    tracked = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    assert set(files) <= {path.partition("/")[0] for path in tracked.splitlines()}
    allowed = {line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == set(files)


def test_both_files_make_the_same() -> None:
    found = sections()
    assert set(found) == {"", *SECTIONS}
    assert dict(line.split(": ") for line in found[""]) == {"Bootstrap": "docker", "From": base()}
    assert found["arguments"] == arguments("ARG")
    (folder,) = arguments("WORKDIR")
    assert dict(map(str.split, found["files"])) == {source: f"{folder}/{to}" for source, to in copied().items()}
    (run,) = arguments("RUN")
    steps = [step.strip("{ };") for step in run.replace('"$EXTRAS"', '"{{ EXTRAS }}"').split(" && ")]
    assert found["post"] == [f"cd {folder}", *steps]
    path = next(word for word in arguments("ENV")[0].split() if word.startswith("PATH="))
    assert found["environment"] == [f"export {path}"]


def test_both_run_the_script_that_make_and_so_ci_runs() -> None:
    assert "slurm/install.sh .venv mpi\n" in (CHECKOUT / "Makefile").read_text()
    assert "make demo test" in (CHECKOUT / ".ci" / "run").read_text()
    assert arguments("RUN")[0].startswith('INSTALL=1 slurm/install.sh .venv "$EXTRAS" && ')


@pytest.mark.parametrize("file", [DOCKERFILE, DEFINITION, INSTALL, CHECKOUT / "requirements.lock"], ids=str)
def test_no_file_names_a_host_or_holds_a_secret(file: Path) -> None:
    assert not re.search(r"://|index-url|find-links|password|token[ =]|secret|@[a-z]", file.read_text(), re.I)


def test_conda_installs_the_same_versions() -> None:
    environment = yaml.safe_load((CHECKOUT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["--constraint requirements.lock", "--editable .[mpi]"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_one_for_bash(script: Path) -> None:
    assert os.access(script, os.X_OK) or script.parent.name == ".ci"
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.shellcheck
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck on PATH; on Debian: apt-get install shellcheck")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("words", "environment", "code", "said"),
    [
        ([], {}, 2, "slurm/install.sh FOLDER [EXTRAS]"),
        (["new", "mpi", "test"], {}, 2, "slurm/install.sh FOLDER [EXTRAS]"),
        (["new"], {"PYTHON": "false"}, 1, "no Python 3.11 or newer (looked for false)"),
    ],
)
def test_the_script_says_what_it_needs(
    words: list[str], environment: dict[str, str], code: int, said: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "INSTALL": "", **environment}
    done = subprocess.run([INSTALL, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_mpi4py_is_built_for_the_sites_mpi_unless_one_is_installed(tmp_path: Path) -> None:
    # a Python and an mpicc that only say how they are called
    for name in ("folder/bin/python", "bin/mpicc"):
        program = tmp_path / name
        program.parent.mkdir(parents=True)
        program.write_text('#!/bin/sh\necho "$@"\n')
        program.chmod(0o755)
    here, elsewhere = f"{tmp_path}/bin:/usr/bin:/bin", "/usr/bin:/bin"

    def called(path: str, *extras: str) -> str:
        command = [INSTALL, tmp_path / "folder", *extras]
        done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[-1]

    assert called(here).endswith("--constraint requirements.lock --no-binary mpi4py --editable .")
    assert called(here, "cuda12").endswith("--no-binary mpi4py --editable .[cuda12]")
    assert called(here, "mpi,cuda12").endswith("--constraint requirements.lock --editable .[mpi,cuda12]")
    if not shutil.which("mpicc", path=elsewhere):
        assert called(elsewhere).endswith("--constraint requirements.lock --editable .")


@pytest.mark.skipif(
    not (os.environ.get(SWITCH) or os.environ.get("CI")),
    reason=f"takes three minutes, 3 GB and the internet; as root: {SWITCH}=1 pytest tests/test_containers.py",
)
@pytest.mark.timeout(1800)
def test_what_dockerfile_does_makes_a_jaxrnn_that_works(tmp_path: Path) -> None:
    assert os.geteuid() == 0
    assert shutil.which("debootstrap"), "on Debian: apt-get install debootstrap"
    with empty_root(tmp_path / "root") as root:
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        folder = Path("/")
        for word, rest in instructions():
            if word == "WORKDIR":
                folder = Path(rest)
                within(root, folder).mkdir(parents=True)
            elif word == "COPY":
                *sources, target = rest.split()
                for source in sources:
                    copy(CHECKOUT / source, within(root, folder) / (source if target == "./" else target))
            elif word == "ARG":
                name, _, value = rest.partition("=")
                environment[name] = value
            elif word == "RUN":
                run(root, folder, environment | pip_settings(), "sh", "-c", rest)
            elif word == "ENV":
                words = (entry.partition("=") for entry in rest.split())
                environment |= {name: value.replace("$PATH", environment["PATH"]) for name, _, value in words}
        command = json.loads(arguments("CMD")[0])
        assert "Usage: jaxrnn" in run(root, folder, environment, *command, user=12345)

        # by a user without a name or a home, from a folder of their own
        home = Path("/home/work")
        within(root, home).mkdir()
        os.chown(within(root, home), 12345, 12345)
        workflow = Workflow(within(root, home), tmp_path)
        workflow.configure({"grid": {"loss.gamma": [0, 1]}, "training.epochs": 2})
        command = ["snakemake", "--snakefile", f"{folder}/Snakefile", "--profile", f"{folder}/{LOCAL}"]
        output = run(root, home, environment, *command, "--configfile", "tiny.yaml", user=12345)
        assert "jaxrnn ingest" in output and "--ranks 2" in output
        assert "<html" in (workflow.results / "report.html").read_text()
        kernels = within(root, Path(environment["HOME"], ".cache", "jaxrnn"))
        assert list(kernels.glob("recurrence-*.so")), "the compiler was there"


@contextmanager
def empty_root(root: Path) -> Iterator[Path]:
    """Yields a minimal Debian of the base image's version; it is gigabytes later, and removed again."""
    release = {"12": "bookworm", "13": "trixie"}[base().partition(":")[2].partition("-")[0]]
    try:
        command = ["unshare", "--mount", "debootstrap", "--variant=minbase", release, str(root)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        if source := certificates():  # not in its place, which a package of Debian writes to
            shutil.copy(source, root / CERTIFICATES)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def mounts(root: Path) -> str:
    """Returns the commands that show in the root what is this machine's: devices, and what pip goes by."""
    lines = []
    for source in map(Path, ["/proc", "/dev", "/dev/shm", "/etc/resolv.conf", *pip_files()]):
        target = within(root, source)
        if not source.is_relative_to("/dev/"):
            (target if source.is_dir() else target.parent).mkdir(parents=True, exist_ok=True)
            if source.is_file():
                target.touch()
        lines.append(f"mount --bind {shlex.quote(str(source))} {shlex.quote(str(target))}")
    return "; ".join(lines)


def pip_settings() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    return own | ({"PIP_CERT": f"/{CERTIFICATES}"} if certificates() else {})


def pip_config(*words: str) -> str:
    command = [sys.executable, "-m", "pip", "config", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def certificates() -> Path | None:
    """Returns the file of certificates that pip here goes by, where that is not its own."""
    found = re.search(r"\bcert='([^']+)'", pip_config("list"))
    return Path(found[1]) if found else None


def pip_files() -> list[Path]:
    """Returns the files and folders of this machine that pip's settings are in, or name."""
    text = pip_config("list") + pip_config("debug")
    # the pages of an index name files beside them
    paths = {Path(path).parent for path in re.findall(r"file://(/[\w./-]+)", text)}
    paths |= {Path(path) for path in re.findall(r"(?<![/\w:.-])(/[\w./-]+)", text)} - {certificates()}
    found = sorted(path for path in paths if path.exists() and len(path.parts) > 2 and not _is_private(path))
    return [path for path in found if not any(other in path.parents for other in found)]


def _is_private(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in (Path.home(), Path(sys.prefix)))


def within(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)


def run(root: Path, folder: Path, environment: dict[str, str], *command: str, user: int = 0) -> str:
    """Returns what a command says that runs in the root, in a folder there, with this environment alone."""
    values = [f"{name}={value}" for name, value in environment.items()]
    words = ["chroot", f"--userspec={user}:{user}", str(root)]
    words += ["env", "--ignore-environment", f"--chdir={folder}", *values, *command]
    # mounts that end with the command, however that ends: nobody who removes the root meets this machine's files
    mounted = ["unshare", "--mount", "sh", "-e", "-c", f'{mounts(root)}; exec "$@"', "sh", *words]
    done = subprocess.run(mounted, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}"
    return done.stdout
