#!/bin/sh
# Test and measure on a CUDA machine, in twelve minutes in all: first `pytest -m gpu`, then the parts of `python -m benchmarks.gpu`.
#   tools/gpu-run.sh [OUT [WHEELS]]
# OUT is the folder of the results (default: $OUT, or gpu-results), WHEELS what tools/gpu-wheels.sh made; without it, what is installed
# has to do. Each part has a process, a time limit and files of its own, so a part that hangs loses only itself:
#   OUT/run.tsv      a line for each part: exit code (124: stopped at its limit), seconds, how it ended
#   OUT/PART.log     what it printed; OUT/PART.json its results (pytest: OUT/pytest.xml)
# Called again with the same OUT, measurements go on where they stopped. PARTS="decode paper" runs only those, LIMIT=60 gives each part
# so many seconds, IN_ALL=300 all of them together, PYTHON names the interpreter.
set -u
cd "$(dirname "$0")/.."
out=${1:-${OUT:-gpu-results}}
wheels=${2:-}
python=${PYTHON:-python3}
started=$(date +%s)
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
mkdir -p "$out"
out=$(cd "$out" && pwd)
export HYBRID_DATA_DIR="$site/data" PYTHONUNBUFFERED=1 CUBLAS_WORKSPACE_CONFIG=:4096:8

install() { "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target "$site/$1" "$2"/*.whl; }
if [ -n "$wheels" ]; then
    install base "$wheels" && install mamba "$wheels/mamba" && install fla "$wheels/fla" || exit 1
fi
base="$site/base"
everything="$base:$site/mamba:$site/fla"

left() { echo $((${IN_ALL:-720} - $(date +%s) + started)); }
note() { printf '%s\t%s\t%s\t%s\n' "$@" | tee -a "$out/run.tsv"; }
# part NAME LIMIT PATH COMMAND...: run the command within LIMIT seconds, or what is left, with PATH as Python's; its exit code.
part() {
    name=$1 limit=${LIMIT:-$2} path=$3
    shift 3
    case " ${PARTS:-$name} " in *" $name "*) ;; *) return 0 ;; esac
    [ "$limit" -le "$(left)" ] || limit=$(left)
    if [ "$limit" -lt 1 ]; then
        note "$name" - 0 "not begun: the time is used up"
        return 124
    fi
    began=$(date +%s)
    PYTHONPATH="$path${PYTHONPATH:+:$PYTHONPATH}" timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
    code=$?
    case $code in
        0) words=done ;;
        124 | 137) words="stopped after $limit s" ;;
        *) words=$(tail -n 1 "$out/$name.log") ;;
    esac
    note "$name" "$code" $(($(date +%s) - began)) "$words"
    return $code
}
bench() {
    name=$1 limit=$2 path=$3
    shift 3
    part "$name" "$limit" "$path" "$python" -m benchmarks.gpu "$name" --out "$out" "$@" || failed="$failed $name"
}

known="devices pytest operations decode paper prefill calibrate niah transformers"
for name in ${PARTS:-}; do
    case " $known " in *" $name "*) ;; *) echo "PARTS: $name - must be among $known" >&2 && exit 2 ;; esac
done
for number in "${LIMIT:-1}" "${IN_ALL:-1}"; do
    case $number in '' | *[!0-9]*) echo "LIMIT, IN_ALL: $number - must be whole seconds" >&2 && exit 2 ;; esac
done
PARTS=${PARTS:+devices $PARTS} # without a device the others would be skipped, and look as if they had passed

failed=
bench devices 40 "$everything"
[ -z "$failed" ] || exit 1 # no device, or something that everything needs is missing: the line above says which
part pytest 180 "$base:$site/mamba" "$python" -m pytest -m gpu -v -rs -n 10 --dist worksteal --timeout 120 --junitxml "$out/pytest.xml" ||
    failed="$failed pytest"
bench operations 100 "$everything"
bench decode 80 "$base"
bench paper 100 "$base" --seconds 85
bench prefill 50 "$base"
bench calibrate 45 "$base"
bench niah 60 "$base" --seconds 48
bench transformers 30 "$base"
[ -z "$failed" ] || { echo "failed:$failed" && exit 1; }
