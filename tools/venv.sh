# Create the virtual environment $1, unless a working one is there, with the interpreter $2 or the first that is
# new enough. Prints to standard error only.
set -eu

venv=$1
wanted=${2:-}

if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

python=
if [ -n "$wanted" ]; then
    set -- "$wanted"
else
    set -- python3.11 python3 python3.12 python3.13 python3.14 python
fi
for candidate; do
    if new_enough "$candidate"; then
        python=$candidate
        break
    fi
done

if [ -z "$python" ]; then
    if [ -n "$wanted" ]; then
        echo "error: PYTHON=$wanted is not a Python 3.11 or newer." >&2
    else
        echo "error: no Python 3.11 or newer found (python3 is $(python3 --version 2>/dev/null || echo missing))." >&2
        echo "Install one, or name it: make PYTHON=/path/to/python3.11 …" >&2
    fi
    exit 1
fi

if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
    echo "error: $python has no venv or ensurepip module." >&2
    echo "On Debian and Ubuntu install python3-venv (or python3.11-venv); elsewhere use a complete Python." >&2
    exit 1
fi

echo "creating $venv with $("$python" --version)" >&2
"$python" -m venv --clear "$venv"
