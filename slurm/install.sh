#!/usr/bin/env bash
# Makes an environment with jaxrnn and all that it needs, at the versions that were tested (requirements.lock):
#
#   slurm/install.sh FOLDER [EXTRAS]     for instance: slurm/install.sh .venv mpi,cuda12
#
# Extras stand in pyproject.toml: mpi (an MPI library, where the machine has none), cuda12 or cuda13 (GPUs), test.
# Without mpi, mpi4py is built for the MPI library whose mpicc is on PATH. It takes one to three minutes; called again,
# it brings FOLDER up to date. `make`, CI, Dockerfile and slurm/jaxrnn.def call it.
#
#   PYTHON=...   which Python; otherwise the first one on PATH that is 3.11 or newer
#   INSTALL=1    what is missing of Debian's packages is installed too, as root or with sudo
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    sed -n 's/^# \{0,1\}//; 2,11p' "$0" >&2
    exit 2
fi
folder=$(realpath --canonicalize-missing -- "$1")
extras=${2:-}
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."

fail() {
    printf '%s\n' "slurm/install.sh: $*" >&2
    exit 1
}

install_packages() {
    local sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo --non-interactive --preserve-env)
    echo "Installing $*"
    export DEBIAN_FRONTEND=noninteractive
    "${sudo[@]}" apt-get --quiet --quiet update
    "${sudo[@]}" apt-get --quiet --quiet install --yes --no-install-recommends "$@" >/dev/null
}

find_python() {
    for python in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then return 0; fi
    done
    return 1
}

if [ ! -x "$folder/bin/python" ]; then
    if [ -n "${INSTALL:-}" ] && ! find_python; then install_packages python3; fi
    find_python || fail "no Python 3.11 or newer (looked for ${PYTHON:-python3.11, python3.12, python3.13, python3}). Load a" \
        "module that has one, or use conda (environment.yml); on Debian 12 and later: apt-get install python3 python3-venv"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        [ -n "${INSTALL:-}" ] || fail "$python cannot make environments. On Debian: apt-get install $package"
        install_packages "$package"
    fi
    echo "Making $folder with $("$python" --version)"
    "$python" -m venv --clear "$folder"
fi
# recurrent layers run several times faster where there is a C++ compiler when they first run
if [ -n "${INSTALL:-}" ] && ! command -v g++ >/dev/null; then install_packages g++; fi

options=(--quiet --no-compile --disable-pip-version-check --no-input --use-pep517 --constraint requirements.lock)
case ,$extras, in
    *,mpi,*) ;;
    *) if command -v mpicc >/dev/null; then options+=(--no-binary mpi4py); fi ;;
esac
echo "Installing jaxrnn${extras:+ with $extras} and what it needs into $folder; this takes one to three minutes, once"
"$folder/bin/python" -m pip install "${options[@]}" --editable ".${extras:+[$extras]}"
