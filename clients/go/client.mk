# The Go client; see clients/go/README.md. Needs Go; modules come through the Go module proxy.
# local: a toolchain that Go fetched by itself would be pinned by nobody.
GO := GOTOOLCHAIN=local GOFLAGS= GOWORK=off go
GO_MODULES := clients/go clients/go/conformance clients/go/bench

.venv/.go-tools: clients/go/tools/go.mod clients/go/tools/go.sum | $(INSTALLED)
	@$(GO) build -C clients/go/tools -mod=readonly -trimpath -o "$(CURDIR)/.venv/bin/" tool
	@touch $@

.PHONY: client-go-generate
client-go-generate: .venv/.go-tools ## regenerate the Go code of proto/ and of the conformance driver's messages
	rm -rf clients/go/trustlayerv1 clients/go/conformance/conformancev1
	.venv/bin/buf generate --template clients/go/buf.gen.yaml
	.venv/bin/buf generate --template clients/go/conformance/buf.gen.yaml

.PHONY: client-go
client-go: ## build the Go client, its conformance driver and app, and its bench program (needs Go)
	$(GO) build -C clients/go -mod=readonly -trimpath ./...
	$(GO) build -C clients/go/conformance -mod=readonly -trimpath -o ../build/driver .
	$(GO) build -C clients/go/conformance -mod=readonly -trimpath -o ../build/app ./app
	$(GO) build -C clients/go/bench -mod=readonly -trimpath -o ../build/bench .

.PHONY: client-go-check
client-go-check: .venv/.go-tools client-go ## check the Go client: generated code, format, vet, staticcheck, -race tests against a real pair
	sh clients/go/check.sh
