"""The report of 1,000 trials: how long it takes, how much memory, how large it is.

    python benchmarks/report.py

The results are invented, as tests/test_report.py does it: 1,000 grid points of one seed, 40 epochs each, 5 classes,
20,000 objects. What is timed is `jaxrnn report` as a process of its own, start-up included. Results go to
benchmarks/results/report.json.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import record

CHECKOUT = Path(__file__).resolve().parents[1]
GRID = {
    "model.units": [8, 16, 32, 64, 128],
    "model.dropout": [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7],
    "training.learning_rate": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
    "loss.gamma": [0, 0.5, 1, 2, 5],
}
WRITE = "import sys; from pathlib import Path; from jaxrnn import report; report.write(*map(Path, sys.argv[1:]))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    sys.path.insert(0, str(CHECKOUT / "tests"))
    from test_report import make

    begun = record.begun()
    with tempfile.TemporaryDirectory() as folder:
        made = make(Path(folder), grid=GRID, seeds=1, epochs=40, objects=20_000)
        start = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        subprocess.run([sys.executable, "-c", WRITE, made.folder, made.dataset], check=True, env=environment)
        seconds = time.perf_counter() - start
        bytes_written = (made.folder / "report.html").stat().st_size
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {"trials": 1000, "seconds": seconds, "processor_seconds": usage.ru_utime + usage.ru_stime,
             "peak_memory_mb": usage.ru_maxrss / 1024, "page_mb": bytes_written / 1e6}  # fmt: skip
    record.keep(record.RESULTS / "report.json", begun | found)


if __name__ == "__main__":
    main()
