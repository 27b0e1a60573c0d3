# make demo   train four methods on embedded data, test their robustness, write a report
# make test   the quick tests
# Both install into EVALKIT_VENV first if that is needed, and need nothing else. SEEDS="0 1 2" makes the demo train each method three times.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
EVALKIT_VENV ?= .venv
DEMO ?= demo
SEEDS ?= 0
JOBS ?= 2

BIN := $(EVALKIT_VENV)/bin
METHODS := vanilla deit transmix mixpro
RUNS := $(foreach seed,$(SEEDS),$(foreach method,$(METHODS),$(DEMO)/$(method)$(patsubst %,-%,$(filter-out 0,$(seed)))))
PROTOCOLS := $(patsubst %,$(DEMO)/%/results.jsonl,occlusion imagenet-a imagenet-o)
# Several commands run side by side, one thread each; every line says which of them speaks.
RUN := OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 $(BIN)/evalkit
NAMED = 2>&1 | sed -u 's/^/[$(notdir $(@D))] /'

.PHONY: demo results test install
.SECONDARY:
.DELETE_ON_ERROR:

demo: install
	@$(MAKE) --no-print-directory -j$(JOBS) results
	@$(BIN)/evalkit report $(DEMO) --out $(DEMO)/report > /dev/null
	@awk '/^## /{n++} n==1' $(DEMO)/report/report.md
	@echo "The whole report: $(DEMO)/report/report.html"

results: $(RUNS:=/results.jsonl) $(PROTOCOLS)

test: install
	$(BIN)/python -m pytest

install: $(EVALKIT_VENV)/.evalkit-installed

$(EVALKIT_VENV)/.evalkit-installed: pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(EVALKIT_VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev,downstream]'
	touch $@

$(DEMO)/occlusion/results.jsonl: $(RUNS:=/results.jsonl)
	@rm -f $@
	$(RUN) robustness occlusion $(RUNS) saliency=$(firstword $(RUNS)) limit=500 --out $(@D) $(NAMED)

$(DEMO)/imagenet-%/results.jsonl: $(RUNS:=/results.jsonl)
	@rm -f $@
	$(RUN) robustness imagenet-$* $(RUNS) --out $(@D) $(NAMED)

# A run that was interrupted has its config but no results yet: it goes on where it was.
$(DEMO)/%/results.jsonl:
	$(RUN) train $(if $(wildcard $(@D)/config.yaml),--resume $(@D),\
	  digits-photo-$(firstword $(subst -, ,$*)) seed=$(or $(word 2,$(subst -, ,$*)),0) --out $(@D)) $(NAMED)
