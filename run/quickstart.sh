#!/bin/sh
# Trains Hopper-v4 on two ranks and draws its learning curve. Needs Python 3.10+ with pip; no MPI,
# no root: an MPI library is installed as a wheel, into the virtual environment .venv.
#
#   sh run/quickstart.sh                           1,000,000 time steps
#   sh run/quickstart.sh --num-timesteps 100000    any flag of trpo_mpi.run_mujoco
set -u
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
. "$root/run/environment.sh"

venv=$root/.venv
(cd "$root" && make_environment "$venv" mpich) || exit 1
unset MPI4PY_LIBMPI MPI4PY_MPIABI # the wheel's library goes with the wheel's mpirun

directory=
resume=
previous=
for argument in "$@"; do
    case $argument in
    --outdir=* | --resume=*) name=${argument%%=*} value=${argument#*=} ;;
    *) name=$previous value=$argument ;;
    esac
    case $name in
    --outdir) directory=$value ;;
    --resume) resume=$value ;;
    esac
    previous=$argument
done
case $resume in
'' | never | auto) ;;
*) directory=$resume ;; # whatever --outdir says
esac
if [ -z "$directory" ]; then
    directory=runs/quickstart
    number=2
    while [ "$resume" != auto ] && [ -e "$directory" ]; do
        directory=runs/quickstart-$number
        number=$((number + 1))
    done
    set -- --outdir "$directory" "$@"
fi

trap : INT # Ctrl-C ends the training, not this script: what there is gets drawn
"$venv/bin/mpirun" -np 2 "$venv/bin/python" -m trpo_mpi.run_mujoco --env Hopper-v4 "$@"
code=$?
trap - INT
[ -f "$directory/model.zip" ] || exit $code # --help, --check, or a refused flag

"$venv/bin/python" -m trpo_mpi.plot "$directory" --output "$directory/curve.png" >/dev/null ||
    exit 1
echo "results:        $directory"
echo "learning curve: $directory/curve.png"
exit $code
