#!/usr/bin/env bash
# Runs the tests: bash run_tests.sh, or some of them: bash run_tests.sh tests/unit/test_kaggle_map.py -k golden
# Builds .venv first if the active Python lacks something of requirements.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./environment.sh
# In two processes, a file at a time, since its tests share what is slow to make. In more: -n 4. In this one: -n 0.
exec "$python" -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder "$@"
