# clients/typescript: needs Node.js with npm, and Python for the real pairs of its tests.
TYPESCRIPT := clients/typescript

# Once, and again when the lock changes.
$(TYPESCRIPT)/node_modules/.installed: $(TYPESCRIPT)/package-lock.json $(TYPESCRIPT)/package.json $(TYPESCRIPT)/.npmrc
	cd $(TYPESCRIPT) && npm ci --loglevel=error
	@touch $@

# What `buf generate` reads: the error details, which are no protos of ours.
.venv/google-rpc.binpb: $(INSTALLED)
	@$(PY) -m grpc_tools.protoc --include_imports --descriptor_set_out=$@ \
	    --proto_path="$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	    google/rpc/error_details.proto google/rpc/status.proto

.PHONY: client-typescript-generate
client-typescript-generate: .venv/google-rpc.binpb $(TYPESCRIPT)/node_modules/.installed ## regenerate the TypeScript code of proto/
	.venv/bin/buf generate --template $(TYPESCRIPT)/buf.gen.yaml
	.venv/bin/buf generate --template $(TYPESCRIPT)/conformance/buf.gen.yaml

.PHONY: client-typescript
client-typescript: $(TYPESCRIPT)/node_modules/.installed ## build the TypeScript client, its driver and bench program (Node.js)
	cd $(TYPESCRIPT) && npm run --silent build

.PHONY: client-typescript-check
client-typescript-check: client-typescript .venv/google-rpc.binpb ## check it: generated code, style, types, tests against a real pair
	rm -rf $(TYPESCRIPT)/build/fresh
	.venv/bin/buf generate --template $(TYPESCRIPT)/buf.gen.yaml --output $(TYPESCRIPT)/build/fresh
	.venv/bin/buf generate --template $(TYPESCRIPT)/conformance/buf.gen.yaml --output $(TYPESCRIPT)/build/fresh
	diff -r $(TYPESCRIPT)/build/fresh/$(TYPESCRIPT)/src/gen $(TYPESCRIPT)/src/gen
	diff -r $(TYPESCRIPT)/build/fresh/$(TYPESCRIPT)/conformance/gen $(TYPESCRIPT)/conformance/gen
	rm -rf $(TYPESCRIPT)/build/fresh
	cd $(TYPESCRIPT) && npm run --silent check && npm run --silent test
	@$(MAKE) --no-print-directory example-express-check

examples/express-app/node_modules/.installed: examples/express-app/package-lock.json examples/express-app/package.json
	cd examples/express-app && npm ci --loglevel=error
	@touch $@

.PHONY: example-express
example-express: client-typescript examples/express-app/node_modules/.installed ## run examples/express-app beside a pair of its own (Node.js)
	@node examples/express-app/demo.js

.PHONY: example-express-check
example-express-check: client-typescript examples/express-app/node_modules/.installed ## check its style and types, and try it over HTTP
	$(TYPESCRIPT)/node_modules/.bin/biome ci --config-path=$(TYPESCRIPT)/biome.json examples/express-app
	cd examples/express-app && npm run --silent check && npm run --silent test
