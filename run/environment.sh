# shellcheck shell=sh
# make_environment DIR EXTRAS: a virtual environment with this checkout in it.
#
# For scripts that work in the checkout's root and say `. run/environment.sh`. An environment that
# is there already is used again, and brought up to date if setup.cfg has changed. PYTHON names the
# interpreter that a new one is made with; without it, python3.

make_environment() {
    _dir=$1 _extras=$2 _base=${PYTHON:-python3}
    if ! "$_dir/bin/python" -m pip --version >/dev/null 2>&1; then
        if ! "$_base" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
            echo "error: $_base is not Python 3.10 or newer; PYTHON=/path/to/python3 names another" >&2
            return 1
        fi
        # Debian's python3 comes without the part of venv that brings pip: take pip's own way then.
        if "$_base" -c 'import ensurepip' 2>/dev/null; then
            "$_base" -m venv "$_dir" || return 1
        else
            "$_base" -m venv --without-pip "$_dir" &&
                "$_base" -m pip --python "$_dir/bin/python" install -qq pip || return 1
        fi
    fi
    _wanted="$PWD [$_extras] $(cat setup.py setup.cfg trpo_mpi/__init__.py | cksum)"
    if [ "$(cat "$_dir/installed" 2>/dev/null)" != "$_wanted" ]; then
        echo "installing into $_dir: a few minutes, 3 GB of disk"
        if ! "$_dir/bin/python" -m pip install -qq --upgrade pip ||
            ! "$_dir/bin/python" -m pip install -qq -e ".[$_extras]"; then
            echo "error: pip could not install into $_dir; its own words are above" >&2
            return 1
        fi
        echo "$_wanted" >"$_dir/installed"
    fi
}
