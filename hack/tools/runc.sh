#!/usr/bin/env bash
# Prints the folder that holds runc, for the real kubelet node of the cluster tests.
#
# It is not built from its Go module: without libseccomp, which needs C headers, it refuses every Pod with a seccomp profile. The machine's
# own is taken; without one, Debian's package is unpacked into the cache. Nothing is installed.
set -euo pipefail
if command -v runc >/dev/null; then
  dirname "$(command -v runc)"
  exit 0
fi
cache=${KERBSIDE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kerbside}
dir=$cache/tools/runc
if [ ! -e "$dir/.complete" ]; then
  command -v apt-get >/dev/null || { echo "hack/tools: runc is not on the PATH; install it (the package is called runc)" >&2; exit 1; }
  mkdir -p "$dir"
  exec 9>"$dir/lock"
  flock 9
  if [ ! -e "$dir/.complete" ]; then
    (cd "$dir" && { apt-get download -q runc || { apt-get update -q && apt-get download -q runc; }; } && dpkg -x runc_*.deb unpacked) >"$dir/log" 2>&1 ||
      { echo "hack/tools: failed to get runc by apt-get; install it (the package is called runc)" >&2; tail -5 "$dir/log" >&2; exit 1; }
    "$dir/unpacked/usr/sbin/runc" --version >/dev/null ||
      { echo "hack/tools: Debian's runc does not run here; is libseccomp2 installed?" >&2; exit 1; }
    touch "$dir/.complete"
  fi
fi
echo "$dir/unpacked/usr/sbin"
