#!/bin/sh
# Run stages of the tests, every one whatever those before it found. The last line says which failed; the exit code is the first one's.
#   tools/stages.sh VENV STAGE...
bin="$1/bin"
shift
workers="-n 2 --dist worksteal"

run() {
    case $1 in
        format) "$bin/ruff" check . && "$bin/ruff" format --check . ;;
        types) "$bin/mypy" ;;
        imports) "$bin/lint-imports" ;;
        unit) "$bin/pytest" -m "not slow and not e2e" $workers ;;
        slow) "$bin/pytest" -m slow $workers ;;
        browser) "$bin/pytest" -m e2e $workers ;;
        *) echo "no stage is called $1" && return 2 ;;
    esac
}

failed=
code=0
for stage in "$@"; do
    echo "== $stage"
    run "$stage"
    result=$?
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
