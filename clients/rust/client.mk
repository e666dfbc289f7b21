## ---- the client in Rust: needs cargo (with rustfmt and clippy) and a C compiler ----

RUST := clients/rust
RUST_TOOLS := $(RUST)/target/tools
RUST_LOCK := $(RUST)/Cargo.lock
RUST_ALL := --manifest-path $(RUST)/Cargo.toml --locked --workspace --all-targets --all-features
# Writes all generated code below a directory: the library's, with the descriptors of the standard, and the driver's.
RUST_GENERATE = .venv/bin/buf generate --template $(RUST)/buf.gen.yaml --output $(1) \
	&& .venv/bin/buf build proto --path proto/trustlayer/v1 --exclude-source-info --exclude-imports --as-file-descriptor-set \
		--output $(1)/$(RUST)/src/generated/trustlayer.v1.binpb \
	&& .venv/bin/buf generate --template $(RUST)/conformance/buf.gen.yaml --output $(1)

# By version, with the lock that each was published with.
$(RUST_TOOLS)/.installed: $(RUST)/client.mk
	@cargo install --quiet --locked --root $(RUST_TOOLS) --target-dir $(RUST)/target/tools-build \
		protoc-gen-prost@0.5.0 protoc-gen-tonic@0.5.0
	@touch $@

# Cargo's lock names a registry, so it is not committed: see tools/rust_lock.py.
$(RUST_LOCK): $(RUST)/Cargo.pins tools/rust_lock.py | $(INSTALLED)
	@$(PY) -m tools.rust_lock restore
	@touch $@

.PHONY: client-rust-generate
client-rust-generate: $(INSTALLED) $(RUST_TOOLS)/.installed ## generate the Rust code of proto/
	$(call RUST_GENERATE,.)

.PHONY: client-rust
client-rust: $(RUST_LOCK) ## build the Rust client, its conformance driver and its bench program
	cargo build --release $(RUST_ALL)

.PHONY: client-rust-lock
client-rust-lock: $(INSTALLED) ## resolve the Rust client's dependencies anew
	cargo update --manifest-path $(RUST)/Cargo.toml
	$(PY) -m tools.rust_lock save

# Tests start real processes with the Python of .venv, and the README's example as client-rust builds it: cargo test alone
# would leave an old one there.
.PHONY: client-rust-check
client-rust-check: client-rust $(INSTALLED) $(RUST_TOOLS)/.installed ## check the Rust client: format, lints, tests on a real pair, README, generated code
	cargo fmt --manifest-path $(RUST)/Cargo.toml --all --check
	cargo clippy --release $(RUST_ALL) -- --deny warnings
	cargo clippy --release --manifest-path $(RUST)/Cargo.toml --locked --package trustlayer --no-default-features -- --deny warnings
	cargo test --release $(RUST_ALL)
	@rm -rf $(RUST)/target/fresh
	$(call RUST_GENERATE,$(RUST)/target/fresh)
	diff -r $(RUST)/target/fresh/$(RUST)/src/generated $(RUST)/src/generated
	diff -r $(RUST)/target/fresh/$(RUST)/conformance/src/generated $(RUST)/conformance/src/generated
