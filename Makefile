# Everything a person runs. `make up` and `make test` install what is missing first.
PYTHON ?= python3
PY := .venv/bin/python
JOBS ?= 4
# The tests of a file stay together, for what they share (tests/conftest.py). Bytecode is kept, whatever this shell says:
# hundreds of processes are started.
TESTS := env -u PYTHONDONTWRITEBYTECODE $(PY) -m pytest --dist loadgroup
SOURCES := core llm image vision prompts orchestrator compose bench tests

.PHONY: up test check install format lint types imports unit e2e lock docs clean

up:
	@$(PYTHON) compose/ports.py
	@$(PYTHON) compose/install.py app vllm
	@exec $(PY) -m compose.up

test:
	@$(PYTHON) compose/install.py app test vllm
	@$(MAKE) --no-print-directory -j3 static
	@$(MAKE) --no-print-directory unit e2e

check:
	@$(PYTHON) compose/install.py app test
	@$(MAKE) --no-print-directory -j3 static
	@$(MAKE) --no-print-directory quick

install:
	@$(PYTHON) compose/install.py app test vllm

.PHONY: static
static: lint types imports

lint:
	@$(PY) -m ruff format --check --quiet $(SOURCES) || { echo "Run: make format"; exit 1; }
	@$(PY) -m ruff check --quiet $(SOURCES)

types:
	@$(PY) -m mypy $(SOURCES)

imports:
	@.venv/bin/lint-imports --no-logo 2>/dev/null || .venv/bin/lint-imports

.PHONY: quick
quick:
	@exec $(TESTS) -m "not e2e and not slow" -n $(JOBS)

unit:
	@exec $(TESTS) -m "not e2e" -n $(JOBS)

# The property tests with new examples, many of them; what fails becomes an @example and is mended.
.PHONY: fuzz
fuzz:
	@HYPOTHESIS_PROFILE=searching $(PY) -m pytest -m "hypothesis and not e2e and not slow" -n 2
	@HYPOTHESIS_PROFILE=searching $(PY) -m pytest tests/orchestrator/test_openapi.py -o timeout=3600

# One process keeps the studio busy, the other runs what starts programs of its own.
e2e:
	@exec $(TESTS) -m e2e -n 2

# Clients that have no place in our environment, for the tests that use them where they are there.
.PHONY: clients
clients:
	@$(PY) -m bench.clients.install

format:
	@$(PY) -m ruff format $(SOURCES)
	@$(PY) -m ruff check --fix $(SOURCES)

# The small picture model that is shipped, trained anew: hours on a CPU. Run again, it goes on where it stopped.
.PHONY: tiny-model
tiny-model:
	@$(PYTHON) compose/install.py app tiny
	@exec $(PY) -m image.tiny $(TINY)

# Pins by name and version alone; what only a CUDA torch wants is left out.
lock:
	@$(PY) compose/lock.py

# Looks at this machine and the studio on it, and says what to do.
.PHONY: doctor
doctor:
	@test -x $(PY) || $(PYTHON) compose/install.py app
	@exec $(PY) -m orchestrator doctor

clean:
	rm -rf .venv .venv-vllm data

docs:
	@$(PY) -m compose.settings_doc
	@$(PY) -m compose.metrics_doc
	@$(PY) -m compose.env_example
	@$(PY) -m compose.environment
	@$(PY) -m compose.api_doc
