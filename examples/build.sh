#!/bin/sh
# Builds the examples' programs into a directory: digits.wasm, hello.wasm, ticker.wasm, and service, which runs in a container. Needs Go only. The
# same sources and the same Go give the same bytes, wherever the checkout is; what is up to date costs no compilation.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: $0 OUTDIR" >&2
    exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
examples=$(cd "$(dirname "$0")" && pwd)

build() {
    (cd "$examples/$2" && GOOS=wasip1 GOARCH=wasm GOWORK=off GOFLAGS= CGO_ENABLED=0 \
        go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$out/$1" .)
}

build digits.wasm digits/program
build hello.wasm hello/program
build ticker.wasm deployment/program

# One file without libraries, for this machine: its image has nothing else in it.
(cd "$examples/service/program" && GOOS=linux GOWORK=off GOFLAGS= CGO_ENABLED=0 \
    go build -trimpath -buildvcs=false -ldflags '-s -w -buildid=' -o "$out/service" .)
