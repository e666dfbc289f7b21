.PHONY: client-python-generate
client-python-generate: $(INSTALLED) ## regenerate the Python code of proto/ and clients/conformance/proto (buf)
	.venv/bin/buf format --write
	$(PY) tools/generate.py

.PHONY: client-python
client-python: $(INSTALLED) ## build the Python client into build/clients/python; its drivers and bench program run as they are
	cd clients/python && ../../$(PY) -m hatchling build --target wheel --directory ../../build/clients/python

.PHONY: client-python-check
client-python-check: $(INSTALLED) ## check the Python client: generated code, style, types, tests against a real pair
	$(PY) tools/generate.py --check
	$(PY) -m ruff format --check --quiet clients/python
	$(PY) -m ruff check --quiet --output-format concise clients/python
	$(PY) -m mypy
	$(PY) -m pytest tests/clients
