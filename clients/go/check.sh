#!/bin/sh
# Check the Go client from the top of the repository: `make client-go-check`. Goes on to the end, then says what failed.
set -u
export GOTOOLCHAIN=local GOFLAGS= GOWORK=off
failed=0

step() {
    echo "== $*" >&2
    "$@" || { echo "failed: $*" >&2; failed=1; }
}

formatted() {
    unformatted=$(gofmt -l clients/go examples/go-app)
    [ -z "$unformatted" ] || { echo "not formatted: $unformatted"; return 1; }
}

generated() {
    fresh=$(mktemp -d)
    .venv/bin/buf generate --template clients/go/buf.gen.yaml --output "$fresh" &&
        .venv/bin/buf generate --template clients/go/conformance/buf.gen.yaml --output "$fresh" &&
        diff -rq "$fresh/clients/go/trustlayerv1" clients/go/trustlayerv1 &&
        diff -rq "$fresh/clients/go/conformance/conformancev1" clients/go/conformance/conformancev1
    same=$?
    rm -rf "$fresh"
    return $same
}

staticcheck_in() {
    (cd "$1" && "$top/.venv/bin/staticcheck" ./...)
}

top=$PWD
step formatted
step generated
for module in clients/go clients/go/conformance clients/go/bench examples/go-app; do
    step go -C "$module" mod tidy -diff
    step go -C "$module" vet ./...
    step staticcheck_in "$module"
    # One package after the other: each starts programs of its own.
    step go -C "$module" test -count=1 -race -p 1 ./...
done
exit $failed
