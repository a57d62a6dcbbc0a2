#!/usr/bin/env bash
# Trains one of the five winning systems of SIIM-ACR Pneumothorax as its authors did, run after run, to its submission.
#
#     bash pneumothorax_places.sh first                             three networks: 512 pixels, then 1,024 twice, with
#                                                                   fewer and fewer positives
#     bash pneumothorax_places.sh second                            three classifiers, a segmenter, the stack
#     bash pneumothorax_places.sh third                             lungs, cut images, predicted masks learned, too
#     bash pneumothorax_places.sh fourth                            one small network
#     bash pneumothorax_places.sh fifth --unlabelled ../nih/images  ASPP and, with a folder of PNGs, the mean teacher
#
# Further flags go to every step and win, such as --demo, --input ../my/data, --fold 0, --max-hours 8. The runs are
# named after the place. What is finished already is kept, so the same command continues after a stop of any kind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

case "${1:-}" in
    first | second | third | fourth | fifth) place=$1; shift ;;
    --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' pneumothorax_places.sh; exit 0 ;;
    *) echo "error: say which place: first, second, third, fourth or fifth (--help tells more)" >&2; exit 1 ;;
esac
. ./environment.sh
flags=("$@")

# step TASK NUMBER [FLAG ...]: one of the five steps; --max-hours ends all
step() {
    local status=0 task=$1 name=$2
    shift 2
    echo "== $name $*"
    "$python" "$name.py" --task "$task" "$@" ${flags[@]+"${flags[@]}"} || status=$?
    if [ "$status" -eq 75 ]; then  # STOPPED of cxr/system/errors.py
        echo "stopped by --max-hours: run the same command again to go on"
        exit 0
    elif [ "$status" -ne 0 ]; then
        exit "$status"
    fi
}

# prepare PRESET: data and pictures
prepare() {
    step pneumothorax 01_download --preset "$1"
    step pneumothorax 02_preprocess --preset "$1"
}

# train PRESET RUN [FLAG ...]
train() {
    step pneumothorax 03_train --preset "$1" --run "$2" "${@:3}"
}

# predict PRESET RUN
predict() {
    step pneumothorax 04_predict --preset "$1" --run "$2"
}

# answer PRESET RUN [FLAG ...]: thresholds, submission, report
answer() {
    step pneumothorax 05_postprocess --preset "$1" --run "$2" "${@:3}"
}

later=(--image-size 1024 --lr 1e-5 --schedule waves --patience 12)  # the first place's second and third run
case $place in
first)
    prepare first-albunet
    for model in first-albunet first-resnet50 first-scse; do
        train "$model" "$model-1"
        train "$model" "$model-2" --start "$model-1" --positive-share 0.6 --freeze-epochs 1 "${later[@]}"
        train "$model" "$model-3" --start "$model-2" --positive-share 0.4 "${later[@]}"
        predict "$model" "$model-3"
        answer "$model" "$model-3"
    done
    ;;
second)
    prepare second-classifier
    train second-classifier second-classifier
    train second-classifier second-classifier-1024 --image-size 1024 --batch-size 8
    train second-classifier second-classifier-b3 --image-size 1024 --encoder efficientnet-b3
    train second-segmenter second-segmenter
    for run in second-classifier second-classifier-1024 second-classifier-b3; do
        predict second-classifier "$run"
    done
    predict second-segmenter second-segmenter
    answer second-segmenter second-segmenter --stack second-classifier second-classifier-1024 second-classifier-b3
    ;;
third)
    step lungs 01_download --preset paper
    step lungs 02_preprocess --preset paper
    step lungs 03_train --preset paper --run for-third
    prepare third
    train third third-1 --lungs for-third
    train third third-2 --lungs for-third --pseudo third-1
    predict third third-2
    answer third third-2
    ;;
fourth | fifth)
    prepare "$place"
    train "$place" "$place"
    predict "$place" "$place"
    answer "$place" "$place"
    ;;
esac
