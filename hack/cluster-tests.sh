#!/usr/bin/env bash
# Brings up one testbed, runs the cluster tests on it, and takes it down again, whatever happens.
#
#   hack/cluster-tests.sh TESTBED [ARGUMENT of `cargo nextest run`...]
#
# KEEP=1 leaves the testbed up when a test has failed, to be looked at: `TESTBED status --dir out/test`, and `down` ends it.
# KERBSIDE_TEST_ENGINE=debian runs the tests of containers on Debian's containerd instead of the pinned one.
# STORE=s3 keeps results in an S3-compatible server instead of a directory; `hack/tools/build.sh s3` builds it.
set -uo pipefail
testbed=$1
shift
dir=out/test
down() { "$testbed" down --dir "$dir" >>out/logs/cluster-up.log 2>&1; }

mkdir -p out/logs
[ -d "$dir" ] && down
rm -rf "$dir"
trap 'down; exit 130' INT TERM
hack/step.sh cluster-up "$testbed" up --dir "$dir" --compiled --audit --engine --store "${STORE:-directory}" || exit
# What a test says that passes, nobody reads; so it is said here that the tests of that engine, with that client or that browser, are not run.
grep '^NO CONTAINER ENGINE' out/logs/cluster-up.log
hack/tools/kuksa.sh >/dev/null || echo "NOT TESTED with Eclipse KUKSA's client; in CI this is a failure of cluster::signals"
hack/tools/chromium.sh >/dev/null || echo "NOT TESTED in a browser; in CI this is a failure of cluster::page"
KERBSIDE_TESTBED=$PWD/$dir STEP_TAIL=200 hack/step.sh cluster hack/nextest.sh cluster --profile cluster --workspace --test cluster "$@"
code=$?
if [ "$code" -ne 0 ] && [ -n "${KEEP:-}" ]; then
  echo "  the testbed stays up: export KUBECONFIG=$PWD/$dir/kubeconfig; '$testbed down --dir $dir' ends it"
else
  down
fi
exit "$code"
