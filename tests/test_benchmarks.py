"""The benchmarks start, and their page is what their results say. Nothing is measured here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from workflows import CHECKOUT

FOLDER = CHECKOUT / "benchmarks"
# without arguments: one command each
BARE = {"convolution.py", "recurrence.py"}
# of parts that several share
SHARED = {"record.py", "goto_grid.py", "reservoir.py"}
SCRIPTS = sorted(file.name for file in FOLDER.glob("*.py") if file.name not in BARE | SHARED)


def in_benchmarks(code: str) -> Any:
    """Returns what code that imports benchmarks prints, as JSON."""
    command = [sys.executable, "-c", f"import json, sys; sys.path.insert(0, {str(FOLDER)!r})\n{code}"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_scripts_say_what_they_do_without_any_peer() -> None:
    """In one process, which loads what they share once."""
    code = f"""
from importlib.abc import MetaPathFinder
import contextlib, io, runpy
class Refused(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "tensorflow", "keras", "supernnova"):
            raise ImportError(name)
sys.meta_path.insert(0, Refused())
found = {{}}
for script in {SCRIPTS}:
    sys.argv, said = [script, "--help"], io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        runpy.run_path({str(FOLDER)!r} + "/" + script, run_name="__main__")
    found[script] = said.getvalue()
print(json.dumps(found))
"""
    for script, said in in_benchmarks(code).items():
        assert len(said) > 100, script


def test_the_page_is_what_the_results_say() -> None:
    page = in_benchmarks("import page; print(json.dumps(page.render()))")
    assert (FOLDER / "RESULTS.md").read_text() == page, "run `python benchmarks/page.py`"


def test_every_figure_of_the_page_is_there() -> None:
    for line in (FOLDER / "RESULTS.md").read_text().splitlines():
        if line.startswith("!["):
            assert (FOLDER / line.rpartition("(")[2].removesuffix(")")).exists(), line


def test_commands_are_shown_without_paths() -> None:
    words = ["/here/goto.py", "--keras", "/there/python", "--output=/tmp/x", "--runs", "5", "--level=2"]
    assert in_benchmarks(f"import record; print(json.dumps(record.command({words})))") == (
        "python benchmarks/goto.py --keras PATH --output=PATH --runs 5 --level=2"
    )


def test_some_trials_stand_for_all() -> None:
    code = "import goto_grid as g; print(json.dumps([[g.TRIALS[i][:2] for i in g.some(n)] for n in (4, 8, 32)]))"
    for count, found in zip((4, 8, 32), in_benchmarks(code), strict=True):
        shares = [found.count(kind) for kind in (["gru", 25], ["gru", 50], ["lstm", 25], ["lstm", 50])]
        assert shares == [count // 4] * 4


def test_the_grid_of_the_dag_has_as_many_trials_as_asked_for() -> None:
    code = "import dag, math; print(json.dumps([math.prod(map(len, dag.grid(n).values())) for n in (2000, 10000)]))"
    assert in_benchmarks(code) == [2000, 10000]


def test_operations_of_the_layer_are_those_of_its_products() -> None:
    """By hand, for a GRU of one unit, one row and one step on the benchmark's five features."""
    code = "import scaling; print(json.dumps([scaling.counted('gru', (1, 1, 1), backward=b) for b in (False, True)]))"
    (forward, read), (both, moved) = in_benchmarks(code)
    assert forward == 2 * 3 * (5 + 1) and both == 3 * forward
    # input read and state written; backward input, state and its gradient read, the input's gradient written, and what
    # a GRU saves, 4 arrays, written and read
    assert read == 4 * (5 + 1) and moved == read + 4 * (2 * 5 + 2 + 2 * 4)


def test_no_path_of_a_machine_in_what_is_kept() -> None:
    for file in [FOLDER / "RESULTS.md", *Path(FOLDER / "results").glob("*.json")]:
        # an absolute path: a name that begins with a slash, and has another one
        found = re.search(r"(?<![\w./:)*])/[A-Za-z]\w*/?[\w.]", file.read_text())
        assert found is None, (file, found)
