#!/usr/bin/env bash
# Runs what takes long, and keeps the figures: docs/figures/COMMIT.jsonl, one JSON object a line, each with its name.
#
#   hack/nightly.sh TESTBED
#
# The property tests with many more random worlds, a night of ten thousand cars, the start of Pods, the return of a driver, the forecasts of
# simulated cars, an attacker's guesses, the demo; then
# every cluster test REPEAT times (2) on one control plane, so that a test which fails now and then is found, what is for the night only, the
# tests of containers once more on Debian's containerd, and every cluster test once more with results in an S3-compatible server. What measures
# comes first: a machine that is too busy, or a change that made something slow, shows within half an hour. Run on a commit, not on a changed
# tree: the figures carry its id.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
testbed=$1
repeat=${REPEAT:-2}
commit=$(git rev-parse --short=12 HEAD)
[ -z "$(git status --porcelain --untracked-files=no)" ] || commit=$commit-changed
figures=docs/figures/$commit.jsonl
mkdir -p docs/figures
: >"$figures"
failed=0

# keep NAME JSON: the object with its name in front.
keep() { printf '{"figure":"%s",%s\n' "$1" "${2#\{}" | tee -a "$figures"; }

# measure NAME COMMAND...: how long it took and whether it passed.
measure() {
  local name=$1 started=$SECONDS passed=true
  shift
  "$@" || { passed=false; failed=1; }
  keep "$name" "{\"passed\":$passed,\"seconds\":$((SECONDS - started))}"
}

# measured: the figures that the cluster tests have kept.
measured() { if [ -f out/test/logs/figures.jsonl ]; then tee -a "$figures" <out/test/logs/figures.jsonl; fi; }

PROPTEST_CASES=${PROPTEST_CASES:-20000} measure properties hack/step.sh properties hack/nextest.sh properties --profile nightly --workspace -E 'test(/simulation|properties/)'
for bench in bench-pods bench-return bench-privacy; do
  if STEP_TAIL=40 hack/step.sh "$bench" "$testbed" "$bench"; then
    # It says its own name.
    tail -1 "out/logs/$bench.log" | tee -a "$figures"
  else
    failed=1
  fi
done
if STEP_TAIL=40 hack/step.sh forecast "$(dirname "$testbed")/kerbside-forecast"; then
  keep forecast "$(tail -1 out/logs/forecast.log)"
else
  failed=1
fi
if STEP_TAIL=40 hack/step.sh chaos "$testbed" chaos --dir out/chaos; then
  keep chaos "$(tail -1 out/logs/chaos.log)"
else
  failed=1
fi
if hack/step.sh demo "$testbed" demo --dir out/demo; then
  keep demo "$(tail -1 out/logs/demo.log)"
else
  failed=1
fi
"$testbed" down --dir out/demo >>out/logs/demo.log 2>&1
for _ in $(seq "$repeat"); do
  measure cluster hack/cluster-tests.sh "$testbed"
  measured
done
measure night hack/cluster-tests.sh "$testbed" --ignore-default-filter -E 'kind(test) & not default()'
KERBSIDE_TEST_ENGINE=debian measure cluster-debian hack/cluster-tests.sh "$testbed" -E 'test(/^(alone::)?engine::/)'
if hack/step.sh tools-s3 hack/tools/build.sh s3; then
  STORE=s3 measure cluster-s3 hack/cluster-tests.sh "$testbed"
else
  failed=1
fi
echo "nightly: figures in $figures"
exit "$failed"
