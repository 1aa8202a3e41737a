#!/usr/bin/env bash
# Compiles tests with the lints on, runs them with the pinned cargo-nextest, and ends with one line of its summary.
#
#   hack/nextest.sh NAME [ARGUMENT of `cargo nextest run`...]
#
# STATUS_LEVEL=pass lists each test with the time it took.
set -uo pipefail
name=$1
shift
PATH="$(hack/cargo-tools.sh cargo-nextest):$PATH"
# clippy's driver is rustc with lints. `cargo clippy` would check every dependency a second time, for nine minutes on a cold machine.
export RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings
export PATH NEXTEST_HIDE_PROGRESS_BAR=1 CARGO_TERM_COLOR=never
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo nextest run --locked --status-level "${STATUS_LEVEL:-fail}" --final-status-level fail "$@" 2>&1 | tee "$log"
code=${PIPESTATUS[0]}
echo "$name: $(sed -n 's/^ *Summary *\[[^]]*\] *//p' "$log" | tail -1)"
exit "$code"
