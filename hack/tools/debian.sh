#!/usr/bin/env bash
# Prints the folder that holds a program of a Debian package, which is unpacked into the cache. Nothing is installed.
#
#   hack/tools/debian.sh PACKAGE PROGRAM
#
# For what the tests want as a distribution builds it: runc with libseccomp, and the containerd that cars may come with.
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: hack/tools/debian.sh PACKAGE PROGRAM" >&2; exit 2; }
package=$1
program=$2
cache=${KERBSIDE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kerbside}
dir=$cache/tools/$package

# folder: where the program is among what was unpacked; a package has it in one of two places.
folder() {
  local place
  for place in "$dir/unpacked/usr/bin" "$dir/unpacked/usr/sbin"; do
    if [ -x "$place/$program" ]; then echo "$place"; return 0; fi
  done
  return 1
}

if [ ! -e "$dir/.complete" ]; then
  command -v apt-get >/dev/null ||
    { echo "hack/tools: there is no apt-get to get $program by (the package is called $package; runc may also be on the PATH)" >&2; exit 1; }
  mkdir -p "$dir"
  exec 9>"$dir/lock"
  flock 9
  if [ ! -e "$dir/.complete" ]; then
    # What an interrupted run has left.
    rm -rf "$dir"/*.deb "$dir/unpacked"
    (cd "$dir" && { apt-get download -q "$package" || { apt-get update -q && apt-get download -q "$package"; }; } && dpkg -x "${package}"_*.deb unpacked) >"$dir/log" 2>&1 ||
      { echo "hack/tools: failed to get $program by apt-get; install it (the package is called $package)" >&2; tail -5 "$dir/log" >&2; exit 1; }
    place=$(folder) || { echo "hack/tools: Debian's package $package has no $program" >&2; exit 1; }
    "$place/$program" --version >/dev/null ||
      { echo "hack/tools: Debian's $program does not run here; does it lack a library (for runc, libseccomp2)?" >&2; exit 1; }
    touch "$dir/.complete"
  fi
fi
folder || { echo "hack/tools: $dir has no $program; remove it, and it is unpacked again" >&2; exit 1; }
