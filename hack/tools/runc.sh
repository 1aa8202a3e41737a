#!/usr/bin/env bash
# Prints the folder that holds runc, for the real kubelet node of the cluster tests and for the cars' container engines.
#
# It is not built from its Go module: without libseccomp, which needs C headers, it refuses every Pod with a seccomp profile. The machine's
# own is taken; without one, Debian's package is unpacked into the cache. Nothing is installed.
set -euo pipefail
if command -v runc >/dev/null; then
  dirname "$(command -v runc)"
  exit 0
fi
exec bash "$(dirname "${BASH_SOURCE[0]}")/debian.sh" runc runc
