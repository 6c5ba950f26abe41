# demo, test, lint: the commands that a newcomer needs. The environment is .venv in this folder, made on first use.
#   make demo             simulates a small survey, trains, and writes results/demo/report.html
#   make test             lint and every test that this machine can run; says at the end what was left out
#   make test INSTALL=1   installs what the SLURM and browser tests need first (Debian, as root or with sudo)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help env demo test lint system-packages

export PATH := $(CURDIR)/.venv/bin:$(PATH)
PIP := python -m pip install --quiet --no-compile --disable-pip-version-check --no-input --use-pep517 --constraint requirements.lock
APT := DEBIAN_FRONTEND=noninteractive apt-get --quiet --quiet
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo --non-interactive --preserve-env)
TEST_PROGRAMS := slurmctld slurmd sbatch munged chromium
TEST_PACKAGES := slurmctld slurmd slurm-client munge chromium
INSTALL := $(CI)
# Each test file is run by one of them.
TEST_PROCESSES := 2

help:
	sed -n 's/^#   //p' Makefile

env: .venv/installed

.venv/bin/python:
	for python in python3.11 python3.12 python3.13 python3 none; do
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi
	done
	if [ $$python = none ]; then
	    echo 'No Python 3.11 or newer on PATH. On Debian 12 and later: apt-get install python3 python3-venv' >&2
	    exit 1
	fi
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then
	    package=$$($$python -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
	    if [ -z '$(INSTALL)' ]; then
	        echo "$$python cannot make environments. On Debian: apt-get install $$package" >&2
	        exit 1
	    fi
	    $(SUDO) $(APT) update && $(SUDO) $(APT) install --yes --no-install-recommends $$package >/dev/null
	fi
	echo "Making .venv with $$($$python --version)"
	$$python -m venv --clear .venv

.venv/installed: pyproject.toml requirements.lock | .venv/bin/python
	echo 'Installing jaxrnn and what it needs into .venv; this takes one to three minutes, once'
	$(PIP) --editable '.[mpi]'
	touch $@

.venv/installed-for-tests: .venv/installed
	echo 'Installing what the tests need into .venv'
	$(PIP) --editable '.[mpi,test]'
	touch $@

system-packages:
	missing=0
	for program in $(TEST_PROGRAMS); do command -v $$program >/dev/null || missing=1; done
	if [ $$missing = 1 ] && [ -n '$(INSTALL)' ]; then
	    echo 'Installing $(TEST_PACKAGES)'
	    $(SUDO) $(APT) update && $(SUDO) $(APT) install --yes --no-install-recommends $(TEST_PACKAGES) >/dev/null
	fi

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
