# Development targets. Every target first installs the tools that it needs.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

TOOLS := .tools
BIN := $(TOOLS)/dev/bin
SAM := PATH="$(CURDIR)/$(TOOLS)/sam/bin:$$PATH" SAM_CLI_TELEMETRY=0 sam
UV := $(TOOLS)/uv/bin/uv
LOCK := $(UV) pip compile --quiet --universal --python-version 3.13 --generate-hashes \
	--custom-compile-command "make lock"

# Tests wait, most of all the end-to-end tests, so more workers than processors finish earlier.
WORKERS = $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

# A command-line option for a variable that was given to make. One in the environment is left to the SDK.
option = $(if $(findstring command line,$(origin $2)),$1 '$($2)')

# The tools start many times: bytecode makes each start faster.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: dev sam emulator ## demo: deploy to an embedded AWS and watch a new repository become pullable
	@$(BIN)/python -m devstack.demo

.PHONY: playground
playground: dev sam emulator awscli ## try the stack on an embedded AWS until Ctrl-C (PORT=4570)
	@$(BIN)/python -m devstack.playground $(call option,--port,PORT)

.PHONY: test
test: check unit e2e ## run all checks and tests

.PHONY: check
check: dev sam ## check formatting, lint, types and the template
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(SAM) validate --lint

.PHONY: unit
unit: dev ## run the unit tests
	$(BIN)/pytest -n $(WORKERS) --dist worksteal tests/unit

.PHONY: e2e
e2e: dev sam emulator awscli ## run the end-to-end tests on an embedded AWS
	$(BIN)/pytest -n 5 --dist loadfile --no-loadscope-reorder tests/e2e

.PHONY: acceptance
acceptance: dev sam ## prove every promise in an AWS account (YES=1, CLEANUP=prefix, COMPARE=report.json)
	@$(BIN)/python -m acceptance $(if $(YES),--yes) $(if $(LARGE_REGISTRY),--large-registry) \
		$(if $(SKIP_PERMISSION_CHECK),--skip-permission-check) $(call option,--cleanup,CLEANUP) \
		$(call option,compare,COMPARE)

.PHONY: audit
audit: audit-tools ## check the template (AWS's schemas, checkov), the dependencies and links; needs internet access
	PYTHONPATH=src $(TOOLS)/audit/bin/python -m scripts.check_template
	$(TOOLS)/audit/bin/checkov --file template.yaml --framework cloudformation --compact --quiet --skip-download
	$(TOOLS)/audit/bin/pip-audit --requirement src/requirements.txt --disable-pip --require-hashes --strict
	$(TOOLS)/audit/bin/python -m scripts.check_links

.PHONY: audit-tools
audit-tools: $(TOOLS)/audit/.ready

.PHONY: mutants
mutants: rigor ## run mutation tests of the code (an hour)
	rm -rf mutants && HYPOTHESIS_PROFILE=quick $(TOOLS)/rigor/bin/mutmut run
	$(TOOLS)/rigor/bin/mutmut results

.PHONY: fuzz
fuzz: rigor ## fuzz both entry points of the function for five minutes
	@mkdir -p .fuzz && cp events/*.json .fuzz
	PYTHONPATH=src $(TOOLS)/rigor/bin/python tests/fuzz.py .fuzz -max_total_time=300 -timeout=10 -max_len=12000

.PHONY: format
format: dev ## format the code and fix lint errors automatically
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: hooks
hooks: dev ## install the git pre-commit hooks
	$(BIN)/pre-commit install

.PHONY: docs
docs: dev sam emulator ## generate the permissions and evidence pages, and the pictures of the demo and the plan
	$(BIN)/python -m scripts.permissions_page
	$(BIN)/python -m scripts.evidence_page
	PYTHONPATH=src $(BIN)/python -m scripts.plan_picture
	@$(BIN)/python -m devstack.demo docs/run.svg

.PHONY: build
build: sam ## build the function package for `sam deploy` and `sam local invoke`
	$(SAM) build

.PHONY: release
release: dev sam ## make the files of a release in dist/ (TAG=v1.2.3: refuse another version)
	@$(BIN)/python -m scripts.release $(call option,--tag,TAG)

.PHONY: bench
bench: dev sam runtime custodian build ## run the benchmark, an hour (BENCH_QUICK=1: a two-minute trial)
	@$(BIN)/python -m bench

.PHONY: lock
lock: $(UV) ## update the lock files after a change in pyproject.toml (UPGRADE=1: to the latest versions)
	$(LOCK) $(if $(UPGRADE),--upgrade) pyproject.toml -o src/requirements.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) pyproject.toml --group dev -c src/requirements.txt -o requirements/dev.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --group sam -o requirements/sam.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --group emulator -o requirements/emulator.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --group awscli -o requirements/awscli.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --group runtime -o requirements/runtime.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --group custodian -o requirements/custodian.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) pyproject.toml --group rigor -c requirements/dev.txt -o requirements/rigor.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --group audit -o requirements/audit.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --group uv -o requirements/uv.txt

.PHONY: clean
clean: ## delete all tools, caches and build output
	rm -rf $(TOOLS) .aws-sam dist .fuzz mutants .hypothesis .mypy_cache .pytest_cache .ruff_cache acceptance-report.*
	find src acceptance cli tests devstack scripts bench -name __pycache__ -exec rm -rf {} +

# Virtual environments, one per lock file. An update keeps what is unchanged, because a command may be using it.

.PHONY: dev sam emulator awscli rigor runtime custodian
dev sam emulator awscli rigor runtime custodian: %: $(TOOLS)/%/.ready

$(TOOLS)/%/.ready: requirements/%.txt $(UV)
	@echo "Installing $(TOOLS)/$*" >&2
	@$(UV) venv --quiet $(if $(wildcard $@),--allow-existing,--clear) --python 3.13 $(TOOLS)/$* 2>$(TOOLS)/error || { \
		if $(UV) python find 3.13 >/dev/null 2>&1; then cat $(TOOLS)/error; else \
			echo "Python 3.13 was not found and uv could not download it. Install Python 3.13" \
				"(pyenv install 3.13, brew install python@3.13 or your system's package), then try again."; \
		fi >&2; exit 1; \
	}
	@$(UV) pip sync --quiet --python $(TOOLS)/$* --require-hashes --compile-bytecode $<
	@touch $@

$(UV): requirements/uv.txt requirements/bootstrap.sh
	@echo "Installing $(TOOLS)/uv" >&2
	@sh requirements/bootstrap.sh $(TOOLS)/uv
	@touch $@
