# Needs Python 3.11 or newer and make; everything else goes into .venv. Nothing is written outside this tree
# and the temporary directory.
#
#   make demo                  sets up and shows the main job
#   make PYTHON=/path/to/python test
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?=
PY := .venv/bin/python
INSTALLED := .venv/.installed
WORKERS ?= 3

# One way to behave whatever the caller's own settings are, and caches inside the tree.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_CACHE_DIR := 1
export PIP_USER := 0
export PYTHONNOUSERSITE := 1
export BUF_CACHE_DIR := $(CURDIR)/.venv/.cache/buf
export UV_CACHE_DIR := $(CURDIR)/.venv/.cache/uv
# Without compiled code every start of a process compiles all of ours again.
unexport PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## ---- set up and try ----

.PHONY: setup
setup: $(INSTALLED) ## create .venv with everything that the other targets need

# Once, and again when the lock or the project's metadata changes.
$(INSTALLED): requirements/dev.txt pyproject.toml clients/python/pyproject.toml
	@sh tools/venv.sh .venv "$(PYTHON)"
	@echo "installing requirements/dev.txt into .venv" >&2
# --no-deps: the lock has all of them; and only so is opentelemetry-proto installed after xds-protos, which holds older
# files of the same names. tests/unit/test_installs.py looks.
	@$(PY) -m pip install --quiet --no-deps --require-hashes --requirement requirements/dev.txt
	@$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable clients/python --editable .
	@touch $@

.PHONY: demo
demo: $(INSTALLED) ## walk the main job through two real processes, with measured times
	@$(PY) -m tools.demo

.PHONY: run
run: $(INSTALLED) ## leave both programs running in the foreground, with commands to try
	@$(PY) -m tools.run

.PHONY: demo-web
demo-web: $(INSTALLED) ## run both programs and the example app with its pages for browsers, until Ctrl-C (PORT=8000)
	@$(PY) -m tools.demo_web $(if $(PORT),--port $(PORT))

## ---- checks ----

.PHONY: test
test: $(INSTALLED) ## run the tests, but those that take long; what failed once more, alone
	$(PY) -m tools.run_tests --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder -m "not long"

.PHONY: test-long
test-long: $(INSTALLED) ## run the tests that `make test` leaves out: under load, abuse and outages, with many starts
	$(PY) -m tools.run_tests --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder -m long

.PHONY: coverage
coverage: $(INSTALLED) ## run all tests with branch coverage, which takes half as long again
	$(PY) -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder --cov --cov-report=term

.PHONY: test-fast
test-fast: $(INSTALLED) ## run the unit tests only, without coverage
	$(PY) -m pytest tests/unit

.PHONY: check
check: lint types imports proto-check ## run every check that is not a test

.PHONY: lint
lint: $(INSTALLED) ## check format and style (ruff)
	$(PY) -m ruff format --check --quiet
	$(PY) -m ruff check --quiet --output-format concise

.PHONY: types
types: $(INSTALLED) ## check types (mypy --strict)
	$(PY) -m mypy

.PHONY: imports
imports: $(INSTALLED) ## check the dependency rule (import-linter)
	.venv/bin/lint-imports --no-cache

.PHONY: proto-check
proto-check: $(INSTALLED) ## lint proto/, compare it with the last release and with the generated code
	.venv/bin/buf lint
	.venv/bin/buf format --diff --exit-code
	.venv/bin/buf breaking proto --against proto/released.binpb
	$(PY) tools/generate.py --check
	$(PY) tools/envoy_descriptor.py --check

# Once, and again when their versions change.
.venv/.deploy-tools: tools/deploy/go.mod tools/deploy/go.sum tools/deploy/build.sh | $(INSTALLED)
	@sh tools/deploy/build.sh .venv/bin
	@touch $@

.PHONY: deploy-tools
deploy-tools: .venv/.deploy-tools ## build helm and kustomize into .venv (needs Go)

.PHONY: deploy-check
deploy-check: .venv/.deploy-tools ## render deploy/ with helm and kustomize; hold it against schemas and policy
	$(PY) -m tools.chart_schema --check
	TRUSTLAYER_DEPLOY_CHECK=1 $(PY) -m pytest --numprocesses=$(WORKERS) --dist=loadfile tests/deploy

.PHONY: lock-check
lock-check: $(INSTALLED) ## check that requirements/ follows from pyproject.toml (asks the package index)
	$(PY) tools/lock.py --check

## ---- generate ----

.PHONY: proto
proto: $(INSTALLED) client-python-generate ## regenerate the Python code of the protos, and what Envoy loads
	$(PY) tools/envoy_descriptor.py

.PHONY: deploy-schema
deploy-schema: $(INSTALLED) ## write the charts' values.schema.json, which knows Flowless' settings
	$(PY) -m tools.chart_schema

.PHONY: proto-release
proto-release: $(INSTALLED) ## record proto/ as released: later changes must stay compatible with it
	.venv/bin/buf build proto --output proto/released.binpb

.PHONY: lock
lock: $(INSTALLED) ## resolve pyproject.toml into requirements/ (LOCK_ARGS=--upgrade for newer versions)
	$(PY) tools/lock.py $(LOCK_ARGS)

.PHONY: prometheus-check
prometheus-check: $(INSTALLED) ## try the alerts with promtool, and every panel of the dashboards with a real Prometheus (Debian: prometheus)
	promtool check rules deploy/prometheus/rules.yaml
	promtool test rules deploy/prometheus/rules_test.yaml
	$(PY) -m tools.dashboard_pictures --check

.PHONY: dashboards
dashboards: $(INSTALLED) ## write deploy/grafana/*.json from tools/dashboards.py
	$(PY) -m tools.dashboards

.PHONY: dashboard-pictures
dashboard-pictures: $(INSTALLED) ## run both programs with faults under a real Prometheus and draw each panel (two minutes)
	$(PY) -m tools.dashboard_pictures

.PHONY: metrics-doc
metrics-doc: $(INSTALLED) ## write the tables of docs/operations/metrics.md from what the programs declare
	$(PY) -m tools.metrics_doc

## ---- faults ----

# MINUTES= how long to go on, or SCHEDULES= how many; FAULTS_ARGS= whatever `python -m tests.faults --help` lists.
SCHEDULES ?=
MINUTES ?= $(if $(SCHEDULES),,30)
.PHONY: faults
faults: $(INSTALLED) ## random faults on real processes until MINUTES=30 are over, or SCHEDULES=N: is the guarantee kept?
	@$(PY) -m tests.faults $(if $(SCHEDULES),--schedules $(SCHEDULES),--minutes $(MINUTES)) $(FAULTS_ARGS)

.PHONY: faults-quick
faults-quick: $(INSTALLED) ## the same in two minutes: every group of faults briefly, and five random schedules
	@$(PY) -m tests.faults --quick

.PHONY: faults-by-kind
faults-by-kind: $(INSTALLED) ## a thousand revocations under each kind of fault, and the table in docs/guarantee.md
	@$(PY) -m tests.faults --by-kind --write $(FAULTS_ARGS)

.PHONY: faults-delay
faults-delay: $(INSTALLED) ## time from a revoke to its refusal at 50 sidecars, and the table in docs/guarantee.md
	@$(PY) -m tests.faults.delay --write

## ---- soak ----

# MINUTES= or HOURS= how long; SOAK_ARGS= whatever `python -m tests.soak --help` lists.
HOURS ?=
.PHONY: soak
soak: $(INSTALLED) ## both programs at work with faults for MINUTES=3, or HOURS=N: does memory, or anything else, grow?
	@$(PY) -m tests.soak $(if $(HOURS),--hours $(HOURS),--minutes $(if $(filter file,$(origin MINUTES)),3,$(MINUTES))) $(SOAK_ARGS)

.PHONY: soak-quick
soak-quick: $(INSTALLED) ## the same in about a minute: finds what leaks grossly
	@$(PY) -m tests.soak --minutes 1 $(SOAK_ARGS)

## ---- images ----

.PHONY: image-root
image-root: $(INSTALLED) ## do what the Dockerfiles say in clean roots, without a container engine, and print sizes (as root; needs mmdebstrap)
	@$(PY) -m tools.image_root

.PHONY: image-lint
image-lint: $(INSTALLED) ## check the Dockerfiles (hadolint)
	.venv/bin/hadolint deploy/images/*.Dockerfile

.PHONY: image-check
image-check: image-lint image-root ## the same, then run what they hold as a cluster would, read-only and unprivileged
	TRUSTLAYER_IMAGES=1 $(PY) -m pytest tests/images

.PHONY: sbom
sbom: image-root ## list what is in the images: build/images/NAME/sbom.cdx.json (CycloneDX)
	@$(PY) -m tools.sbom

## ---- the example app in a browser: needs Debian's chromium and chromium-driver ----

# ROUNDS= how often a device is thrown out while its clicks are watched.
ROUNDS ?= 30
.PHONY: web-check
web-check: $(INSTALLED) ## try the example app in real browsers; measure how fast a revoked one is thrown out
	TRUSTLAYER_WEB=1 $(PY) -m pytest tests/web
	@$(PY) -m tests.web.delay --rounds $(ROUNDS)

.PHONY: web-pictures
web-pictures: $(INSTALLED) ## draw each page of the example app for its README, on a desktop and a phone
	@$(PY) -m tests.web.pictures

## ---- clients in other languages: what is theirs stands in clients/LANGUAGE/client.mk ----

include $(wildcard clients/*/client.mk)

.PHONY: clients-generate
clients-generate: proto client-typescript-generate client-go-generate client-rust-generate ## regenerate the code of proto/ in every language that commits it (needs Node.js, Go and cargo)

# CONFORMANCE_ARGS= whatever `python -m clients.conformance --help` lists, for example --only go or --require-all.
.PHONY: conformance
conformance: $(INSTALLED) ## build each language's conformance driver and hold all clients to the same cases
	@$(PY) -m clients.conformance $(CONFORMANCE_ARGS)

## ---- measure ----

.PHONY: bench
bench: $(INSTALLED) ## measure the hit path beside its alternatives, the sidecar's memory, storage, a storm of logins, and requests through Envoy
	@$(PY) -m bench
	@$(PY) -m bench.storage
	@$(PY) -m bench.login_storm
	@$(PY) -m bench.envoy
	@$(PY) -m bench.languages $(LANGUAGES_ARGS)

.PHONY: bench-quick
bench-quick: $(INSTALLED) ## the same with few samples: shows that it runs, not how fast
	@$(PY) -m bench --quick
	@$(PY) -m bench.storage --quick
	@$(PY) -m bench.login_storm --quick
	@$(PY) -m bench.envoy --quick
	@$(PY) -m bench.languages --quick $(LANGUAGES_ARGS)

# LANGUAGES_ARGS= whatever `python -m bench.languages --help` lists.
LANGUAGES_ARGS ?=
.PHONY: bench-languages
bench-languages: $(INSTALLED) ## measure each language's client beside Redis and a JWT in that language (the toolchains that are there)
	@$(PY) -m bench.languages $(LANGUAGES_ARGS)

.PHONY: bench-languages-quick
bench-languages-quick: $(INSTALLED) ## the same with few samples: shows that it runs, not how fast
	@$(PY) -m bench.languages --quick $(LANGUAGES_ARGS)

.PHONY: bench-server-model
bench-server-model: $(INSTALLED) ## compare server models for the sidecar (docs/decisions)
	@$(PY) -m bench.server_model

.PHONY: clean
clean: ## remove everything that make made, .venv included
	rm -rf .venv bench/loadgen/loadgen .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .coverage .coverage.* build clients/*/build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
