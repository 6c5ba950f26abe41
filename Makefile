# demo, test, lint, bench: the commands that a newcomer needs. The environment is .venv in this folder, made on first use.
#   make demo             simulates a small survey, trains, and writes results/demo/report.html
#   make test             lint and every test that this machine can run; says at the end what was left out
#   make test INSTALL=1   installs what the SLURM and browser tests need first (Debian, as root or with sudo)
#   make test-slurm       of these, the faults on a real SLURM: minutes
#   make soak             more faults on a real SLURM, an hour and more; INSTALL=1 installs what its accounting needs
#   make bench            measures, hours on a quiet machine, and writes benchmarks/RESULTS.md; says what it left out
#   make bench KERAS=PYTHON SUPERNNOVA=PYTHON SCRATCH=FOLDER    with the peers, which are installed elsewhere

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help env demo test test-slurm soak lint bench system-packages soak-packages

export PATH := $(CURDIR)/.venv/bin:$(PATH)
APT := DEBIAN_FRONTEND=noninteractive apt-get --quiet --quiet
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo --non-interactive --preserve-env)
TEST_PROGRAMS := slurmctld slurmd sbatch munged chromium g++ shellcheck debootstrap
TEST_PACKAGES := slurmctld slurmd slurm-client munge chromium g++ shellcheck debootstrap
# The soak's cluster has accounting besides, which would cost every other run a minute of installing.
SOAK_PROGRAMS := slurmdbd mariadbd
SOAK_PACKAGES := slurmdbd mariadb-server
INSTALL := $(CI)
# Each test file is run by one of them. One more than the cores that CI has: who has the cluster mostly waits.
TEST_PROCESSES := 3

help:
	sed -n 's/^#   //p' Makefile

env: .venv/installed

.venv/installed: pyproject.toml requirements.lock slurm/install.sh
	INSTALL='$(INSTALL)' slurm/install.sh .venv mpi
	touch $@

.venv/installed-for-tests: .venv/installed
	INSTALL='$(INSTALL)' slurm/install.sh .venv mpi,test
	touch $@

# What is missing of a list of programs and packages is installed where that was asked for.
define install
	missing=0
	for program in $(1); do command -v $$program >/dev/null || missing=1; done
	if [ $$missing = 1 ] && [ -n '$(INSTALL)' ]; then
	    echo 'Installing $(2)'
	    $(SUDO) $(APT) update && $(SUDO) $(APT) install --yes --no-install-recommends $(2) >/dev/null
	fi
endef

system-packages:
	$(call install,$(TEST_PROGRAMS),$(TEST_PACKAGES))

soak-packages:
	$(call install,$(SOAK_PROGRAMS),$(SOAK_PACKAGES))

demo: .venv/installed
	snakemake --profile workflow/profiles/local --configfile config/demo.yaml
	echo
	echo 'The report: $(CURDIR)/results/demo/report.html'

lint: .venv/installed-for-tests
	ruff check .
	ruff format --check .
	pyright
	snakefmt --check Snakefile workflow
	snakemake --lint --configfile config/demo.yaml

test: system-packages lint
	pytest --numprocesses $(TEST_PROCESSES) --dist loadfile

test-slurm: system-packages .venv/installed-for-tests
	JAXRNN_SLURM=required pytest --durations=0 tests/test_slurm_faults.py

soak: system-packages soak-packages .venv/installed-for-tests
	JAXRNN_SOAK=1 pytest --durations=0 tests/test_slurm_soak.py tests/test_resuming.py

# Each is measured alone. Of Keras and PyTorch so many trials of GOTO's 32 are, and the page says so.
KERAS_TRIALS := 8
TORCH_TRIALS := 32
DATA := ../shared/data
bench: .venv/installed-for-tests
	if [ -d $(DATA)/goto ]; then
	    python benchmarks/goto.py --data $(DATA)/goto/sample_data --torch-trials $(TORCH_TRIALS) \
	        $(if $(KERAS),--keras $(KERAS) --keras-trials $(KERAS_TRIALS))
	    python benchmarks/scaling.py
	    python benchmarks/dag.py
	else
	    python benchmarks/scaling.py trials steps objects device
	fi
	python benchmarks/recurrence.py
	python benchmarks/convolution.py
	python benchmarks/report.py
	python benchmarks/coverage.py
	python benchmarks/audit.py planted clean
	no_slurm=$$(PYTHONPATH=tests python -c 'import slurm_cluster; print(slurm_cluster.obstacle())')
	if [ -z "$$no_slurm" ]; then
	    python benchmarks/slurm.py
	fi
	if [ -n '$(SCRATCH)' ]; then
	    python benchmarks/predict.py --folder $(SCRATCH)/predict
	fi
	if [ -n '$(SUPERNNOVA)' ] && [ -n '$(SCRATCH)' ] && [ -d $(DATA)/spcc ]; then
	    python benchmarks/supernnova.py --data $(DATA) --folder $(SCRATCH)/epoch --supernnova $(SUPERNNOVA)
	    python benchmarks/ingest.py --data $(DATA) --folder $(SCRATCH)/ingest --supernnova $(SUPERNNOVA)
	    python benchmarks/early.py --data $(DATA) --folder $(SCRATCH)/early --supernnova $(SUPERNNOVA)
	fi
	python benchmarks/page.py
	echo
	if [ ! -d $(DATA)/goto ]; then
	    echo 'Left out: goto.py, dag.py, and the start in scaling.py. They need the GOTO sample under $(DATA)/goto.'
	elif [ -z '$(KERAS)' ]; then
	    echo 'Left out: Keras in goto.py. Make an environment: python3 -m venv FOLDER && FOLDER/bin/pip install'
	    echo 'tensorflow-cpu, and name its Python: make bench KERAS=FOLDER/bin/python'
	fi
	if [ -z '$(SUPERNNOVA)' ] || [ -z '$(SCRATCH)' ] || [ ! -d $(DATA)/spcc ]; then
	    echo 'Left out: supernnova.py, ingest.py, early.py. They need SPCC under $(DATA)/spcc, 25 GB of scratch, and an'
	    echo 'environment: python3 -m venv FOLDER && FOLDER/bin/pip install supernnova torch. Then:'
	    echo 'make bench SUPERNNOVA=FOLDER/bin/python SCRATCH=FOLDER'
	fi
	if [ -n "$$no_slurm" ]; then
	    echo "Left out: slurm.py: $$no_slurm"
	fi
	if [ -z '$(SCRATCH)' ]; then
	    echo 'Left out: predict.py, which needs a folder for its survey: make bench SCRATCH=FOLDER'
	fi
	echo 'What was left out stands in the page as it was measured before, or as not measured yet.'
