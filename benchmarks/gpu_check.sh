#!/usr/bin/env bash
# Half an hour on a GPU: everything that cannot be shown without one, what proves most first.
#
#     benchmarks/gpu_check.sh [PART…]        all parts by default; by number or by name
#
#   1 tests       tests/engines/test_cuda.py                                            at most 200 s
#   2 warmup      warm-up of every GPU suite's speeds; cuDNN's attention on and off            170 s
#   3 smoke       suites/smoke.yaml, every precision                                           130 s
#   4 shapes-1b   random weights of Llama-3.2-1B's shape: bytes by arithmetic, speeds          230 s
#   5 shapes-8b   the same of Llama-3.1-8B's; writes a checkpoint of 16 GB under WORK once     390 s
#   6 model       suites/llama-1b.yaml at PRECISIONS with the model MODEL, if one is given     120 s
#   7 overhead    benchmarks/overhead.py: what the harness adds                                110 s
#   8 scoring     our scoring beside a plain batched forward pass                               60 s
#   9 nightly     suites/nightly.yaml with what is here in place of the hub's                   90 s
#
# A part that fails or takes too long does not stop the next one; the command then ends with 1.
# Needs no network and changes no installed package. Variables:
#
#   DEVICE      cuda:0; or cpu
#   SIZE        full; or small, a rehearsal whose figures are worth nothing (on a CPU the default)
#   OUT         results/gpu-check: a folder per part with run files, logs, thresholds and figures,
#               and summary.md and summary.json of all parts that have run into it
#   WORK        /tmp/gpu-check: packages, random checkpoints, caches; kept from call to call
#   PYTHON      python3, with torch
#   WHEELS      a folder; wheels in it of packages that PYTHON lacks are installed under WORK
#   MODEL, DATA a checkpoint's folder, and one as benchmarks/README.md describes; none by default
#   PRECISIONS  of parts 4, 5 and 6, in this order: "bf16 nf4 int8"
#   STRETCH     1: multiplies every limit
set -uo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# absolute PATH: as seen from here, since everything runs in ROOT.
absolute() {
    case $1 in /* | '') printf '%s' "$1" ;; *) printf '%s' "$PWD/$1" ;; esac
}

PYTHON=${PYTHON:-python3}
case $PYTHON in */*) PYTHON=$(absolute "$PYTHON") ;; esac
DEVICE=${DEVICE:-cuda:0}
if [ "$DEVICE" = cpu ]; then SIZE=${SIZE:-small}; else SIZE=${SIZE:-full}; fi
OUT=$(absolute "${OUT:-$ROOT/results/gpu-check}")
WORK=$(absolute "${WORK:-/tmp/gpu-check}")
WHEELS=$(absolute "${WHEELS:-}")
MODEL=$(absolute "${MODEL:-}")
DATA=$(absolute "${DATA:-}")
read -ra PRECISIONS <<<"${PRECISIONS:-bf16 nf4 int8}"
STRETCH=${STRETCH:-1}
PACKAGES=$WORK/packages

PARTS=(tests warmup smoke shapes-1b shapes-8b model overhead scoring nightly)
declare -A LIMITS=([tests]=200 [warmup]=170 [smoke]=130 [shapes-1b]=230 [shapes-8b]=390
    [model]=120 [overhead]=110 [scoring]=60 [nightly]=90)
SMALL=()
[ "$SIZE" = small ] && SMALL=(--small)
# Speeds of a model whose quality is the subject: those of every batch size are in parts 4 and 5.
BRIEFLY=(throughput.processes=1 'throughput.batch_sizes=[1]' throughput.new_tokens=16
    throughput.also_compiled=null)
FAILED=()
PART='' FOLDER='' ENDS=0

export PYTHONPATH="$PACKAGES:$ROOT:$ROOT/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export PRECISION_HARNESS_CACHE=$WORK/cache PRECISION_HARNESS_TEST_DEVICE=$DEVICE

# keep STEP RESULT SECONDS LIMIT: a line of the part's table.
keep() {
    printf '%s\t%s\t%s\t%s\n' "$@" >>"$FOLDER/steps.tsv"
    printf '== %s %s: %s (%s s of %s)\n' "$PART" "$@"
}

# step NAME COMMAND…: within what is left of the part's time; its output to the terminal and to
# NAME.log. SIGINT at the end, so that pytest still writes what it has.
step() {
    local name=$1 left=$((ENDS - SECONDS)) started=$SECONDS code
    shift
    if [ "$left" -le 0 ]; then
        keep "$name" "NOT RUN: the part's time was spent" 0 0
        FAILED+=("$PART/$name")
        return 1
    fi
    printf '\n== %s %s: %s\n' "$PART" "$name" "$*"
    timeout --signal=INT --kill-after=20 "$left" "$@" 2>&1 | tee "$FOLDER/$name.log"
    code=${PIPESTATUS[0]}
    if [ "$code" -eq 0 ]; then
        keep "$name" ok $((SECONDS - started)) "$left"
    else
        [ "$code" -eq 124 ] && code="its time was up"
        keep "$name" "FAILED: $code" $((SECONDS - started)) "$left"
        FAILED+=("$PART/$name")
        return 1
    fi
}

# write SUITE NAME ARGUMENT…: a shipped suite as it can run here, named NAME.
write() {
    local suite=$1 name=$2
    shift 2
    step "write-$name" "$PYTHON" -m gpu.offline "suites/$suite.yaml" "$FOLDER/$name.yaml" \
        "${SMALL[@]}" "$@"
}

# measure: every suite that was written for this part, and the figures of its run files.
measure() {
    step measure "$PYTHON" -m harness.cli run "$FOLDER"/*.yaml --device "$DEVICE" -v \
        --results "$FOLDER/runs" --junitxml "$FOLDER/junit.xml" -p no:cacheprovider -W default
    # What was measured is read, also where that took all the time.
    [ $((ENDS - SECONDS)) -ge 30 ] || ENDS=$((SECONDS + 30))
    step figures "$PYTHON" -m gpu.figures "$FOLDER"
}

# judge: measure, and what the run files say. Thresholds are written where they are allowed to be.
judge() {
    local refused
    measure
    step plausible "$PYTHON" benchmarks/plausible.py "$FOLDER/runs"
    if "$PYTHON" -m harness.cli bless "$FOLDER"/runs/*/*.json --reason "first check of this GPU" \
        --root "$FOLDER" >"$FOLDER/thresholds.log" 2>&1; then
        keep thresholds written 0 0
    else
        refused=$(tail -n 1 "$FOLDER/thresholds.log" | tr '\t|' '  ')
        keep thresholds "none: $refused" 0 0
    fi
}

replacements() {
    if [ -n "$MODEL" ] && [ -d "$MODEL" ]; then
        printf '%s\n' --model "$MODEL"
        if [ -n "$DATA" ]; then printf '%s\n' --data "$DATA"; fi
    fi
}

part_tests() {
    local chosen=()
    [ "$SIZE" = small ] && chosen=(-k "attested or wrong_label or of_transformers")
    step cuda "$PYTHON" -m pytest tests/engines/test_cuda.py -v -p no:cacheprovider -W default \
        "${chosen[@]}" --junitxml "$FOLDER/cuda.xml"
}

# Of the rounds after a warm-up no more than must be: the warm-up is what is shown.
part_warmup() {
    local suite
    step attention "$PYTHON" -m gpu.attention "$DEVICE" "$FOLDER/attention.json" "${SMALL[@]}"
    for suite in llama-1b shapes nightly; do
        write shapes "warmup-$suite" --models llama-1b-shape --precisions bf16 \
            --measure-of "suites/$suite.yaml" --measure throughput --set throughput.processes=1 \
            throughput.roofline=false throughput.also_compiled=null throughput.min_rounds=3 \
            throughput.min_time_s=0
    done
    measure
}

part_smoke() {
    local few=()
    [ "$SIZE" = small ] && few=(--precisions fp32 nf4)
    write smoke smoke "${few[@]}"
    judge
}

part_shapes() {
    local precisions=("${PRECISIONS[@]}") options=('throughput.batch_sizes=[1, 8]')
    if [ "$SIZE$1" = small8b ]; then # the shape is 1b's; compiling takes long on a CPU: once
        precisions=(bf16)
        options+=(throughput.roofline=true 'throughput.also_compiled={batch_sizes: [1]}')
    fi
    write shapes "$PART" --models "llama-$1-shape" --precisions "${precisions[@]}" \
        --set "${options[@]}"
    judge
}

part_model() {
    local given
    mapfile -t given < <(replacements)
    if [ ${#given[@]} -eq 0 ]; then
        keep model "skipped: no MODEL is given" 0 0
        return
    fi
    write llama-1b model "${given[@]}" --precisions "${PRECISIONS[@]}" --set "${BRIEFLY[@]}"
    judge
}

part_overhead() {
    local sizes=(--parts start decode memory)
    sizes+=(--rounds 3 --processes 4 --decode-rounds 6 --new-tokens 32)
    [ "$SIZE" = small ] && # starts are measured on any machine, by `make overhead`
        sizes=(--parts decode memory --rounds 1 --processes 2 --decode-rounds 1 --new-tokens 4 --no-verdict)
    step overhead "$PYTHON" benchmarks/overhead.py --device "$DEVICE" --results "$FOLDER" \
        "${sizes[@]}"
}

part_scoring() {
    step scoring "$PYTHON" -m gpu.scoring "$DEVICE" "$FOLDER/scoring.json" "${SMALL[@]}"
}

part_nightly() {
    local given
    mapfile -t given < <(replacements)
    write nightly nightly "${given[@]}" --precisions bf16 nf4 --set "${BRIEFLY[@]}"
    judge
}

run_part() {
    PART=$1 FOLDER=$OUT/$1
    rm -rf "$FOLDER"
    mkdir -p "$FOLDER"
    ENDS=$((SECONDS + LIMITS[$PART] * STRETCH))
    case $PART in
        shapes-*) part_shapes "${PART#shapes-}" ;;
        *) "part_$PART" ;;
    esac
}

# install: of the wheels in WHEELS those that bring what is missing, again until nothing is.
install() {
    local wheels before=
    while mapfile -t wheels < <("$PYTHON" benchmarks/requirements.py --wheels "$WHEELS") &&
        [ -n "${wheels[*]}" ] && [ "${wheels[*]}" != "$before" ]; do
        "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --upgrade \
            --target "$PACKAGES" "${wheels[@]}" || return
        before=${wheels[*]}
    done
}

describe() {
    printf '%s, %s, commit %s\n\n' "$DEVICE" "$SIZE" \
        "$(git describe --always --dirty 2>/dev/null || echo unknown)"
    "$PYTHON" --version
    "$PYTHON" benchmarks/requirements.py "$DEVICE"
}

main() {
    local parts=() given
    for given in "$@"; do
        case $given in
            [1-9]) parts+=("${PARTS[given - 1]}") ;;
            *)
                if [[ -z ${LIMITS[$given]:-} ]]; then
                    echo "unknown part $given: ${PARTS[*]}, or their numbers from 1" >&2
                    return 2
                fi
                parts+=("$given")
                ;;
        esac
    done
    cd "$ROOT" || return 2
    mkdir -p "$OUT" "$PACKAGES"
    if [ -n "$WHEELS" ] && ! install; then
        FAILED+=(wheels)
    fi
    if ! describe >"$OUT/machine.txt" 2>&1; then
        FAILED+=(requirements)
    fi
    cat "$OUT/machine.txt"
    "$PYTHON" -m pip freeze >"$OUT/pip-freeze.txt" 2>&1
    nvidia-smi -q >"$OUT/nvidia-smi.txt" 2>&1 || echo "no nvidia-smi" >>"$OUT/nvidia-smi.txt"
    [ ${#parts[@]} -gt 0 ] || parts=("${PARTS[@]}")
    for given in "${parts[@]}"; do
        run_part "$given"
    done
    "$PYTHON" -m gpu.summary "$OUT" || FAILED+=(summary)
    if [ ${#FAILED[@]} -gt 0 ]; then
        echo "failed: ${FAILED[*]}"
        return 1
    fi
    echo "every part passed: $OUT/summary.md"
}

main "$@"
