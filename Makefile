# What can be done with this project. Every verb first sets up what it needs.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

TOOLS := .tools
BIN := $(TOOLS)/dev/bin
SAM := PATH="$(CURDIR)/$(TOOLS)/sam/bin:$$PATH" SAM_CLI_TELEMETRY=0 sam
UV := $(TOOLS)/uv/bin/uv
LOCK := $(UV) pip compile --quiet --universal --python-version 3.13 --generate-hashes \
	--custom-compile-command "make lock"

# Bytecode pays: the tools start many times.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: dev sam emulator ## deploy to an embedded AWS and watch a new repository become pullable
	@$(BIN)/python -m local.demo

.PHONY: test
test: check unit e2e ## run everything that checks the project

.PHONY: check
check: dev sam ## check format, lint, types and template
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(SAM) validate --lint

.PHONY: unit
unit: dev ## run the tests that need no AWS
	$(BIN)/pytest tests/unit

.PHONY: e2e
e2e: dev sam emulator ## run the tests of the stack, deployed to an embedded AWS
	$(BIN)/pytest tests/e2e

.PHONY: audit
audit: audit-tools ## scan the template (checkov), what ships for known weaknesses, and the docs for dead links (needs the internet)
	$(TOOLS)/audit/bin/checkov --file template.yaml --framework cloudformation --compact --quiet --skip-download
	$(TOOLS)/audit/bin/pip-audit --requirement src/requirements.txt --disable-pip --require-hashes
	$(TOOLS)/audit/bin/python -m local.links

.PHONY: audit-tools
audit-tools: $(TOOLS)/audit/.ready

.PHONY: mutants
mutants: rigor ## break the code on purpose, everywhere, and see which tests do not notice (takes an hour)
	rm -rf mutants && $(TOOLS)/rigor/bin/mutmut run
	$(TOOLS)/rigor/bin/mutmut results

.PHONY: fuzz
fuzz: rigor ## send nonsense through both doors of the function for five minutes
	@mkdir -p .fuzz && cp events/*.json .fuzz
	PYTHONPATH=src $(TOOLS)/rigor/bin/python tests/fuzz.py .fuzz -max_total_time=300 -timeout=10 -max_len=12000

.PHONY: format
format: dev ## format the code and mend what can be mended by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: hooks
hooks: dev ## have git check format, lint, types and docs before each commit
	$(BIN)/pre-commit install

.PHONY: docs
docs: dev sam emulator ## write the page and the pictures that are made from the code
	$(BIN)/python -m local.permissions
	$(BIN)/python -m local.picture
	@$(BIN)/python -m local.demo docs/run.svg

.PHONY: build
build: sam ## build the function for `sam deploy` and `sam local invoke`
	$(SAM) build

.PHONY: bench
bench: dev sam runtime custodian build ## measure beside others, 40 minutes (BENCH_QUICK=1: two, to try it)
	@$(BIN)/python -m bench

.PHONY: lock
lock: $(UV) ## pin the dependencies anew after a change in pyproject.toml (UPGRADE=1: to the newest)
	$(LOCK) $(if $(UPGRADE),--upgrade) pyproject.toml -o src/requirements.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) pyproject.toml --group dev -c src/requirements.txt -o requirements/dev.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --group sam -o requirements/sam.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --group emulator -o requirements/emulator.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --group runtime -o requirements/runtime.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --group custodian -o requirements/custodian.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) pyproject.toml --group rigor -c requirements/dev.txt -o requirements/rigor.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --group audit -o requirements/audit.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --group uv -o requirements/uv.txt

.PHONY: clean
clean: ## remove what the other verbs made
	rm -rf $(TOOLS) .aws-sam .fuzz mutants .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests local bench -name __pycache__ -exec rm -rf {} +

# Environments: one each, from its lock.

.PHONY: dev sam emulator rigor runtime custodian
dev sam emulator rigor runtime custodian: %: $(TOOLS)/%/.ready

$(TOOLS)/%/.ready: requirements/%.txt $(UV)
	@echo "Setting up $(TOOLS)/$*"
	@$(UV) venv --quiet --clear --python 3.13 $(TOOLS)/$* 2>$(TOOLS)/error || { \
		if $(UV) python find 3.13 >/dev/null 2>&1; then cat $(TOOLS)/error; else \
			echo "Python 3.13 was not found and could not be fetched: install it (pyenv install 3.13," \
				"brew install python@3.13 or your system's package), then try again."; \
		fi >&2; exit 1; \
	}
	@$(UV) pip sync --quiet --python $(TOOLS)/$* --require-hashes --compile-bytecode $<
	@touch $@

$(UV): requirements/uv.txt requirements/bootstrap.sh
	@echo "Setting up $(TOOLS)/uv"
	@sh requirements/bootstrap.sh $(TOOLS)/uv
	@touch $@
