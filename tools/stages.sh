#!/bin/sh
# Run stages of the tests, every one whatever those before it found. The last line says which failed;
# the exit code is the first one's.
#   tools/stages.sh VENV STAGE...
# style: ruff. types: mypy. imports: import-linter. unit, slow, browser: the three parts of the tests.
bin="$1/bin"
shift
workers="-n 2 --dist worksteal"
# The longest of the slow tests start first (tests/conftest.py). Handed out one at a time, they
# stand on both cores, and none runs alone at the end.
one_by_one="-n 2 --dist load --maxschedchunk 1"

run() {
    case $1 in
        style) "$bin/ruff" check . && "$bin/ruff" format --check . ;;
        types) "$bin/mypy" ;;
        imports) "$bin/lint-imports" ;;
        unit) "$bin/pytest" -m "not slow and not e2e" $workers ;;
        slow) "$bin/pytest" -m slow $one_by_one ;;
        browser) "$bin/pytest" tests/e2e -m e2e $workers ;;
        *) echo "no stage is called $1" && return 2 ;;
    esac
}

failed=
code=0
for stage in "$@"; do
    echo "== $stage"
    began=$(date +%s)
    run "$stage"
    result=$?
    echo "== $stage: exit code $result after $(($(date +%s) - began)) s"
    [ "$result" = 0 ] && continue
    [ "$code" = 0 ] && code=$result
    failed="$failed, $stage (exit code $result)"
done
if [ "$code" = 0 ]; then
    echo "passed: $*"
else
    echo "failed: ${failed#, }"
fi
exit "$code"
