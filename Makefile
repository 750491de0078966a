# Everything a developer runs. Needs Python 3.11, make and a package index; `make` alone lists the targets.
#
#   make dev PYTHON=/opt/python3.11/bin/python3     another interpreter
#   make bench ONLY=match/network                   the benchmark rows whose name starts so

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
TOOLS  := .venv-tools
PIP    := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore $(BIN)/python -m pip install --quiet

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help dev test lint types imports proto proto-check buf-lint buf-breaking format bench month torture fuzz clean compiler stores

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' Makefile

dev: $(VENV)/.stamp-server ## Install what it needs, then run service, sample rulebase and a simulated province
	@exec $(BIN)/opportune dev $(ARGS)

test: stores lint types imports proto-check buf-lint ## Install what it needs, then run every check and every test
	@echo "== tests"
	@$(BIN)/pytest --numprocesses 3 --dist worksteal $(ARGS)

lint: $(VENV)/.stamp-dev ## Style and likely mistakes
	@echo "== lint"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "badly formatted; run: make format"; exit 1; }

types: $(VENV)/.stamp-dev ## Types, strictly
	@echo "== types"
	@$(BIN)/mypy

imports: $(VENV)/.stamp-dev ## Who may import whom
	@echo "== imports"
	@$(BIN)/lint-imports --no-logo

proto: $(VENV)/.stamp-dev ## Write the gRPC stubs anew from the contract
	@$(BIN)/buf format -w proto
	@$(BIN)/python proto/generate.py

proto-check: $(VENV)/.stamp-dev ## Are the committed stubs what the contract says?
	@echo "== stubs"
	@$(BIN)/python proto/generate.py --check

buf-lint: $(VENV)/.stamp-dev ## Style of the contract
	@echo "== contract"
	@$(BIN)/buf lint proto
	@$(BIN)/buf format --diff --exit-code proto

buf-breaking: $(VENV)/.stamp-dev ## Does the contract still serve callers of the main branch?
	@if git rev-parse --quiet --verify main:proto/buf.yaml >/dev/null; then \
		$(BIN)/buf breaking proto --against "$$(git rev-parse --git-common-dir)#branch=main,subdir=proto"; \
	else \
		echo "the main branch has no contract yet: nothing to compare with"; \
	fi

format: $(VENV)/.stamp-dev ## Format the code and the contract
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .
	@$(BIN)/buf format -w proto

bench: stores $(VENV)/.stamp-dev ## Benchmarks, as tables and build/bench.json (ONLY=match: rows whose name starts so)
	@mkdir -p build
	@PYTHONPATH=tests $(BIN)/python tests/bench/run.py $(if $(ONLY),--only $(ONLY))

month: $(VENV)/.stamp-dev ## A simulated month of a small province and its report, checked (ARGS="--people 1000")
	@$(BIN)/python tests/bench/month.py $(ARGS)

torture: stores $(VENV)/.stamp-dev ## Break things at random while events stream, and check every promise (ARGS="--seed 7 --minutes 10")
	@PYTHONPATH=tests $(BIN)/python tests/torture/run.py $(ARGS)

fuzz: $(VENV)/.stamp-dev ## Hostile bytes to every method of a running service (ARGS="--seed 7 --minutes 10")
	@PYTHONPATH=tests $(BIN)/python tests/fuzz/run.py $(ARGS)

# No index is named in what this writes: installing asks whichever is configured.
UV_LOCK := $(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" $(ARGS)

lock: $(TOOLS)/.stamp ## Pin every dependency with its hashes, in requirements/ (ARGS=--upgrade: newest releases)
	@$(UV_LOCK) --extra dev pyproject.toml -o requirements/dev.lock
	@$(UV_LOCK) --extra server --extra postgres --extra redis --extra otel --constraint requirements/dev.lock \
		--no-annotate pyproject.toml -o requirements/image.lock
	@$(TOOLS)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(UV_LOCK) --no-annotate - -o requirements/build.lock

sbom: $(TOOLS)/.stamp ## What the image consists of: build/opportune.cdx.json, in CycloneDX
	@rm -rf build/sbom && $(PYTHON) -m venv --without-pip build/sbom
	@$(TOOLS)/bin/python -m pip --python build/sbom install --quiet --disable-pip-version-check \
		--require-hashes -r requirements/image.lock
	@$(TOOLS)/bin/cyclonedx-py environment build/sbom/bin/python --pyproject pyproject.toml --mc-type application \
		--output-reproducible --output-format JSON --output-file build/opportune.cdx.json
	@rm -rf build/sbom

clean: ## Remove everything that was made
	rm -rf $(VENV) $(TOOLS) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "Python 3.11 or newer is needed; name it with PYTHON=..."; exit 1; }
	@echo "== creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# durable-rules, the second engine, comes as C source only.
compiler:
	@echo "== installing a C compiler (durable-rules has to be built)"
	@command -v apt-get >/dev/null || { echo "no C compiler: install gcc and the Python headers, then run this again"; exit 1; }
	@SUDO=$$([ "$$(id -u)" = 0 ] || echo sudo); $$SUDO apt-get update -qq \
		&& $$SUDO env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends gcc g++ libc6-dev python3-dev >/dev/null

# Tests start PostgreSQL and Redis themselves. The packages would start servers of the machine as well, now and
# after each boot: policy-rc.d forbids the first, and systemd is told of the second.
stores:
	@command -v redis-server >/dev/null && { command -v initdb || ls /usr/lib/postgresql/*/bin/initdb; } >/dev/null 2>&1 || { \
		echo "== installing PostgreSQL and Redis (the tests start servers of their own)"; \
		command -v apt-get >/dev/null || { echo "no PostgreSQL or no Redis: install both servers, then run this again"; exit 1; }; \
		SUDO=$$([ "$$(id -u)" = 0 ] || echo sudo); policy=/usr/sbin/policy-rc.d; ours=; \
		[ -e $$policy ] || { ours=$$policy; printf '#!/bin/sh\nexit 101\n' | $$SUDO tee $$policy >/dev/null && $$SUDO chmod +x $$policy; }; \
		$$SUDO apt-get update -qq && $$SUDO env DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends postgresql redis-server >/dev/null; status=$$?; \
		[ -z "$$ours" ] || $$SUDO rm -f $$ours; \
		[ ! -d /run/systemd/system ] || $$SUDO systemctl disable --quiet --now postgresql redis-server; \
		exit $$status; \
	}

# A stamp that is older than pyproject.toml means that dependencies may have changed: install again.
$(VENV)/.stamp-server: pyproject.toml | $(BIN)/python
	@echo "== installing (once; a minute or so)"
	@$(PIP) --editable '.[server]'
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml | $(BIN)/python
	@command -v cc >/dev/null || $(MAKE) --no-print-directory compiler
	@echo "== installing, with the tools for development (once; a minute or two)"
	@$(PIP) --editable '.[dev]'
	@touch $(VENV)/.stamp-server $@

# Tools that the service does not need, apart: what they need must not change what it gets.
$(TOOLS)/.stamp:
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check 'cyclonedx-bom>=7' 'uv>=0.9'
	@touch $@
