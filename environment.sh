# Sourced by run_all.sh and run_tests.sh from the project's folder: sets $python to an interpreter that has everything in
# requirements.txt. That is, in this order: the active environment (or whatever `python` is) if it has all of it, the
# project's own .venv, or a .venv built now. In a Kaggle kernel nothing is ever built. Works with bash 3.2 (macOS).

# Prints what `$1` lacks of requirements.txt and fails, or prints nothing. In a Kaggle kernel nobody needs what further steps
# and the tests do, which stands last.
lacking() {
    "$1" - 2>/dev/null <<'CODE' || return 1
import importlib.metadata as installed
import os
import sys


def stop(what):
    print(what)
    sys.exit(1)


if sys.version_info < (3, 11):
    stop("Python 3.11")
try:
    from packaging.requirements import Requirement  # comes with matplotlib
except ImportError:
    stop("most of requirements.txt")
with open("requirements.txt", encoding="utf-8") as file:
    text = file.read()
if os.environ.get("KAGGLE_KERNEL_RUN_TYPE"):
    text = text.split("# Beyond steps 01 to 05")[0]
lines = [line.split("#")[0].strip() for line in text.splitlines()]
for line in filter(None, lines):
    wanted = Requirement(line)
    # opencv-python is the same module as opencv-python-headless, and Kaggle's image has that one
    versions = []
    for name in (wanted.name, wanted.name.removesuffix("-headless")):
        versions += [package.version for package in installed.distributions(name=name)]
    if not any(wanted.specifier.contains(version, prereleases=True) for version in versions):
        stop(wanted)
CODE
}

# Prints the python of .venv, whose place depends on the system.
venv_python() {
    if [ -x .venv/Scripts/python.exe ]; then echo .venv/Scripts/python.exe; else echo .venv/bin/python; fi
}

# Builds .venv, or completes one whose building was interrupted. The stamp is written last, so a half-built .venv has none.
build_venv() {
    local candidate base=""
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            base=$candidate
            break
        fi
    done
    if [ -z "$base" ]; then
        echo "error: Python 3.11 or newer is needed and none was found: install it from https://www.python.org/downloads/" >&2
        return 1
    fi
    echo "building .venv from requirements.txt with $("$base" --version), once; this takes some minutes and gigabytes ..."
    if ! "$(venv_python)" -m pip --version >/dev/null 2>&1; then
        if ! "$base" -m venv --clear .venv; then
            echo "error: $base cannot make virtual environments: on Debian and Ubuntu, apt install python3-venv" >&2
            return 1
        fi
    fi
    if ! "$(venv_python)" -m pip install --disable-pip-version-check --quiet -r requirements.txt; then
        echo "error: the packages of requirements.txt could not be installed (see above): run the same command again" >&2
        return 1
    fi
    cksum < requirements.txt > .venv/requirements.cksum
}

choose_python() {
    local missing=""
    python=$(command -v python || command -v python3 || true)
    if [ -n "${KAGGLE_KERNEL_RUN_TYPE:-}" ]; then
        if ! missing=$(lacking "$python"); then
            echo "warning: this kernel lacks ${missing:-Python 3.11}: attach the wheels as kaggle_kernel/README.md tells" >&2
        fi
        return
    fi
    if [ -n "$python" ] && missing=$(lacking "$python"); then
        return
    fi
    if [ -n "${VIRTUAL_ENV:-${CONDA_PREFIX:-}}" ]; then
        echo "the active environment lacks ${missing:-Python 3.11}, so .venv is used"
    fi
    if [ "$(cat .venv/requirements.cksum 2>/dev/null)" != "$(cksum < requirements.txt)" ]; then
        build_venv || exit 1
    fi
    python=$(venv_python)
}

choose_python
