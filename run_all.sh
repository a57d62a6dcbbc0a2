#!/usr/bin/env bash
# Runs all five steps, from the data to submission.csv and report.html.
#
#     bash run_all.sh --demo                                  synthetic data, some minutes on two cores
#     bash run_all.sh                                         the real thing: input/<slug>/, else a download from Kaggle
#     bash run_all.sh --input ../my/data --preset small       ../my/data/<slug>/, settings for a small data set
#
# Builds .venv first if the active Python lacks something of requirements.txt. Every flag goes to every step; all of them:
# python 03_train.py --help. Relative paths are seen from this folder. What is finished already is kept, so the same
# command continues after a stop of any kind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

for word in "$@"; do
    if [ "$word" = --help ] || [ "$word" = -h ]; then
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' run_all.sh
        exit 0
    fi
done

. ./environment.sh
for step in 01_download 02_preprocess 03_train 04_predict 05_postprocess; do
    echo
    echo "== $step"
    status=0
    "$python" "$step.py" "$@" || status=$?
    if [ "$status" -eq 75 ]; then  # --max-hours was reached: STOPPED of cxr/system/errors.py
        echo "stopped by --max-hours: run the same command again to go on"
        exit 0
    elif [ "$status" -ne 0 ]; then
        exit "$status"
    fi
done
