# Everything a person runs. `make up` and `make test` install what is missing first. `make help` lists the commands: the
# text after `##` on a target's line is its help.
PYTHON ?= python3
PY := .venv/bin/python
JOBS ?= 4
# The tests of a file stay together, for what they share (tests/conftest.py). Bytecode is kept, whatever this shell says:
# hundreds of processes are started.
TESTS := env -u PYTHONDONTWRITEBYTECODE $(PY) -m pytest --dist loadgroup
SOURCES := core placement llm image vision prompts orchestrator training compose bench tests

.PHONY: help up test check install format lint types imports house unit e2e lock docs clean

help: ## List these commands.
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | awk -F '\t' '{ printf "make %-12s %s\n", $$1, $$2 }'

up: ## Install what is missing, start everything, show a chat answer and a picture, then serve.
	@$(PYTHON) compose/ports.py
	@$(PYTHON) compose/install.py app vllm
	@exec $(PY) -m compose.up

test: ## Install what is missing, then run every check and test.
	@$(PYTHON) compose/install.py tests vllm
	@$(MAKE) --no-print-directory -j3 static
	@$(MAKE) --no-print-directory unit e2e

check: ## Format, lint, types, import rules, the code's numbers and the fast tests.
	@$(PYTHON) compose/install.py tests
	@$(MAKE) --no-print-directory -j3 static
	@$(MAKE) --no-print-directory quick

install: ## Install what the studio and its tests need.
	@$(PYTHON) compose/install.py tests vllm

.PHONY: static
static: lint types imports house

lint: ## Check format and lint.
	@$(PY) -m ruff format --check --quiet $(SOURCES) || { echo "Run: make format"; exit 1; }
	@$(PY) -m ruff check --quiet $(SOURCES)

types: ## Check types.
	@$(PY) -m mypy $(SOURCES)

imports: ## Check the import rules.
	@.venv/bin/lint-imports --no-logo 2>/dev/null || .venv/bin/lint-imports

house: ## Check the size and order of the code.
	@$(PY) -m tests.house

.PHONY: quick
quick:
	@exec $(TESTS) -m "not e2e and not slow" -n $(JOBS)

unit: ## Run the tests that start no real engine.
	@exec $(TESTS) -m "not e2e" -n $(JOBS)

# The property tests with new examples, many of them; what fails becomes an @example and is mended.
.PHONY: fuzz
fuzz: ## Run the property tests with many new examples.
	@HYPOTHESIS_PROFILE=searching $(PY) -m pytest -m "hypothesis and not e2e and not slow" -n 2
	@HYPOTHESIS_PROFILE=searching $(PY) -m pytest tests/orchestrator/test_openapi.py -o timeout=3600
	@$(PY) -m tests.endurance.fuzz 20 --seed $$(date +%s)

# One process keeps the studio busy, the other runs what starts programs of its own.
e2e: ## Run the tests that start real engines.
	@exec $(TESTS) -m e2e -n 2

# Clients that have no place in our environment, for the tests that use them where they are there.
.PHONY: clients
clients: ## Install third-party clients for the tests that use them.
	@$(PY) -m bench.clients.install

format: ## Format the code and mend what the linter can.
	@$(PY) -m ruff format $(SOURCES)
	@$(PY) -m ruff check --fix $(SOURCES)

# The small picture model that is shipped, trained anew: hours on a CPU. Run again, it goes on where it stopped.
.PHONY: tiny-model
tiny-model: ## Train the small picture model that ships: hours on a CPU.
	@$(PYTHON) compose/install.py tiny
	@exec $(PY) -m training.tiny $(TINY)

# Pins by name and version alone; what only a CUDA torch wants is left out.
lock: ## Resolve the pinned versions again.
	@$(PY) compose/lock.py

# Looks at this machine and the studio on it, and says what to do.
.PHONY: doctor
doctor: ## Look at this machine and the studio on it, and say what to do.
	@test -x $(PY) || $(PYTHON) compose/install.py app
	@exec $(PY) -m orchestrator doctor

clean: ## Remove the environments and the data.
	rm -rf .venv .venv-* data

docs: ## Write the generated pages again.
	@$(PY) -m compose.settings_doc
	@$(PY) -m compose.metrics_doc
	@$(PY) -m compose.env_example
	@$(PY) -m compose.environment
	@$(PY) -m compose.api_doc
