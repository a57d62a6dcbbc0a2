#!/usr/bin/env bash
# Runs the tests; builds .venv first if the active Python lacks something of requirements.txt.
#
#     bash run_tests.sh                                           all of them, some minutes
#     bash run_tests.sh -m "not slow"                             the fast lane: what runs no step and no server
#     bash run_tests.sh tests/unit/test_kaggle_map.py -k golden   some of them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./environment.sh
# In two processes, a file at a time, since its tests share what is slow to make. In more: -n 4. In this one: -n 0.
exec "$python" -m pytest -q -rs -n 2 --dist loadfile --no-loadscope-reorder "$@"
