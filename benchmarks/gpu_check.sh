#!/usr/bin/env bash
# The CUDA side of everything, in few calls of under ten minutes each; no network is needed.
#
#     benchmarks/gpu_check.sh [setup|check|smoke|shapes-1b|shapes-8b|peers|all]
#
#   setup      versions; installs wheels from WHEELS where something is missing
#   check      tests/engines/test_cuda.py, then benchmarks/overhead.py
#   smoke      suites/smoke.yaml
#   shapes-1b  suites/shapes.yaml, random weights of Llama-3.2-1B's shape, with PRECISIONS
#   shapes-8b  the same with Llama-3.1-8B's; writes a checkpoint of 16 GB under WORK once
#   peers      the same tasks by lm-evaluation-harness, if installed, with TOKENIZER and DATA given
#   all        each of them in turn (about half an hour)
#
# Variables: OUT (default ./gpu-out) receives summary.txt and one archive per step: run files, logs,
# JUnit XML, `pip freeze`, `nvidia-smi -q`. WORK (default /tmp/gpu-check) keeps installed wheels and
# random checkpoints from one call to the next. PYTHON, WHEELS (a folder; every wheel in it is
# installed for PYTHON under WORK), DEVICE (default cuda:0; cpu skips the shapes), PRECISIONS (default
# bf16,int8,nf4,nf4-dq). Ends with 1 where a step failed.
set -uo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# absolute PATH: as seen from here, since the steps run in ROOT.
absolute() {
    case $1 in /* | '') printf '%s' "$1" ;; *) printf '%s' "$PWD/$1" ;; esac
}

PYTHON=${PYTHON:-python3}
case $PYTHON in */*) PYTHON=$(absolute "$PYTHON") ;; esac
OUT=$(absolute "${OUT:-gpu-out}")
WORK=$(absolute "${WORK:-/tmp/gpu-check}")
WHEELS=$(absolute "${WHEELS:-}")
DEVICE=${DEVICE:-cuda:0}
PRECISIONS=${PRECISIONS:-bf16,int8,nf4,nf4-dq}
SITE=$WORK/site

export PYTHONPATH="$SITE:$ROOT${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1
export PRECISION_HARNESS_CACHE=$WORK/cache
export PRECISION_HARNESS_TEST_DEVICE=$DEVICE

STEPS=(setup check smoke shapes-1b shapes-8b peers)
FAILED=()
FOLDER=

say() { printf '\n== %s\n' "$*"; }

note() {
    printf '%s  %s\n' "$(date -u +%H:%M:%S)" "$*" | tee -a "$OUT/summary.txt"
}

# run NAME SECONDS COMMAND…: its output to the terminal and to NAME.log; SIGINT at the limit, so
# that pytest still writes what it has.
run() {
    local name=$1 limit=$2 started=$SECONDS code
    shift 2
    say "$name: $*"
    timeout --signal=INT --kill-after=30 "$limit" "$@" 2>&1 | tee "$FOLDER/$name.log"
    code=${PIPESTATUS[0]}
    if [ "$code" -eq 0 ]; then
        note "ok      $name ($((SECONDS - started)) s)"
    else
        [ "$code" -eq 124 ] && code="124, its limit of $limit s"
        note "FAILED  $name ($((SECONDS - started)) s, status $code)"
        FAILED+=("$name")
    fi
}

install_wheels() {
    if [ -n "$WHEELS" ] && [ ! -e "$SITE/.installed" ]; then
        "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --upgrade \
            --target "$SITE" "$WHEELS"/*.whl && touch "$SITE/.installed"
    fi
}

setup() {
    if ! install_wheels; then
        note "FAILED  wheels"
        FAILED+=(wheels)
    fi
    run requirements 60 "$PYTHON" benchmarks/requirements.py "$DEVICE"
    "$PYTHON" -m pip freeze >"$FOLDER/pip-freeze.txt" 2>&1
    nvidia-smi -q >"$FOLDER/nvidia-smi.txt" 2>&1 || echo "no nvidia-smi" >>"$FOLDER/nvidia-smi.txt"
}

check() {
    run test-cuda 330 "$PYTHON" -m pytest tests/engines/test_cuda.py -v -p no:cacheprovider \
        -W default --junitxml "$FOLDER/test-cuda.xml"
    run overhead 240 "$PYTHON" benchmarks/overhead.py --device "$DEVICE" --results "$FOLDER" \
        --parts start decode memory --rounds 3 --processes 4 --decode-rounds 6 --new-tokens 32
}

# suite NAME SECONDS ARGUMENT…: pytest on a suite, then whether its numbers can be true.
suite() {
    local name=$1 limit=$2
    shift 2
    run "$name" "$limit" "$PYTHON" -m pytest "$@" --device "$DEVICE" -v -p no:cacheprovider \
        --results "$FOLDER/runs" --junitxml "$FOLDER/$name.xml"
    run "$name-plausible" 60 "$PYTHON" benchmarks/plausible.py "$FOLDER/runs"
}

shapes() {
    if [ "$DEVICE" = cpu ]; then
        note "skipped $1: it needs a GPU"
    else
        suite "$1" 530 suites/shapes.yaml --model "$2" --precision "$PRECISIONS"
    fi
}

peers() {
    if "$PYTHON" -c 'import lm_eval' 2>/dev/null && [ -n "${TOKENIZER:-}" ] && [ -n "${DATA:-}" ]; then
        run peers 560 "$PYTHON" benchmarks/peers.py --tokenizer "$TOKENIZER" --data "$DATA" \
            --rounds 1 --tasks mmlu --results "$FOLDER"
    else
        note "skipped peers: lm_eval is not installed, or TOKENIZER or DATA is not given"
    fi
}

step() {
    FOLDER=$WORK/results/$1
    rm -rf "$FOLDER"
    mkdir -p "$FOLDER"
    case $1 in
        setup) setup ;;
        check) check ;;
        smoke) suite smoke 500 suites/smoke.yaml ;;
        shapes-1b) shapes shapes-1b llama-1b-shape ;;
        shapes-8b) shapes shapes-8b llama-8b-shape ;;
        peers) peers ;;
    esac
    tar -czf "$OUT/$1.tar.gz" -C "$WORK/results" "$1"
}

main() {
    local steps=("$@") each
    if [ $# -eq 0 ] || [ "$1" = all ]; then
        steps=("${STEPS[@]}")
    elif [ "$1" != setup ]; then
        steps=(setup "$@")
    fi
    for each in "${steps[@]}"; do
        [[ " ${STEPS[*]} " == *" $each "* ]] && continue
        echo "unknown step $each: ${STEPS[*]} or all" >&2
        return 2
    done
    mkdir -p "$OUT" "$WORK" "$SITE"
    cd "$ROOT" || return 1
    : >"$OUT/summary.txt"
    note "$(git rev-parse --short HEAD 2>/dev/null || echo 'no git'), $DEVICE, $("$PYTHON" --version 2>&1)"
    for each in "${steps[@]}"; do
        step "$each"
    done
    say "summary"
    cat "$OUT/summary.txt"
    if [ ${#FAILED[@]} -gt 0 ]; then
        echo "failed: ${FAILED[*]}"
        return 1
    fi
    echo "every step passed"
}

main "$@"
