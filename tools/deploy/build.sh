#!/bin/sh
# Build the pinned helm and kustomize (go.mod, go.sum beside this file) into the directory $1.
# Needs Go; fetches modules through the Go module proxy the first time.
set -eu

into=$1
here=$(dirname "$0")
wanted=$(sed -n 's/^go //p' "$here/go.mod")

if ! command -v go >/dev/null 2>&1; then
    echo "error: checking deploy/ needs helm and kustomize, which are built with Go $wanted or newer; there is no go here." >&2
    echo "Install Go; nothing else in this repository needs it." >&2
    exit 1
fi

into=$(cd "$into" && pwd)
cd "$here"
echo "building helm and kustomize with $(GOTOOLCHAIN=local go env GOVERSION) (minutes, the first time)" >&2
# local: a toolchain that Go fetched by itself would be pinned by nobody.
# helm takes itself for one of an old Kubernetes, which it asks where no cluster is named, unless it is told.
chartutil=helm.sh/helm/v3/pkg/chartutil
if ! GOTOOLCHAIN=local GOFLAGS= GOWORK=off \
    go build -mod=readonly -trimpath -buildvcs=false \
    -ldflags "-s -w -X $chartutil.k8sVersionMajor=1 -X $chartutil.k8sVersionMinor=37" -o "$into/" tool; then
    echo "error: helm and kustomize could not be built: Go $wanted or newer and its module proxy are needed." >&2
    exit 1
fi
