# make demo   train four methods on embedded data, transfer to segmentation and detection, test their robustness, write a report
# make test   the quick tests
# make docs   the site, in docs/_build/html
# make types  mypy over the folders laid out as the package that is installed
# All install into EVALKIT_VENV first if that is needed, and need nothing else. SEEDS="0 1 2" makes the demo train each method three times.

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
SEGMENTATIONS := $(foreach head,linear segmenter,$(foreach method,vanilla mixpro,$(DEMO)/seg-$(head)-$(method)))
DETECTION := $(DEMO)/det-pvt
PROTOCOLS := $(patsubst %,$(DEMO)/%/results.jsonl,occlusion imagenet-a imagenet-o)
# Several commands run side by side, one thread each; every line says which of them speaks.
RUN := OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 $(BIN)/evalkit
NAMED = 2>&1 | sed -u 's/^/[$(notdir $(@D))] /'

.PHONY: demo results test docs types install
.SECONDARY:
.DELETE_ON_ERROR:

demo: install
	@$(MAKE) --no-print-directory -j$(JOBS) results
	@$(BIN)/evalkit report $(DEMO) --out $(DEMO)/report > /dev/null
	@awk '/^## /{show = /^## (Accuracy|Semantic|Object)/} show' $(DEMO)/report/report.md
	@echo "The whole report: $(DEMO)/report/report.html"

# The longest chain first.
results: $(patsubst %,%/results.jsonl,$(DETECTION) $(RUNS) $(SEGMENTATIONS)) $(PROTOCOLS)

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

docs: install
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "The site: docs/_build/html/index.html"

FOLDERS := train downstream robustness configs
PARTS := $(foreach folder,$(FOLDERS),-e 's,^evalkit/\($(folder)/\),\1,')
types: install
	@rm -rf .types/evalkit && mkdir -p .types/evalkit
	@ln -s $(CURDIR)/evalkit/* $(addprefix $(CURDIR)/,$(FOLDERS)) .types/evalkit
	@cd .types && $(abspath $(BIN))/python -m mypy --config-file ../pyproject.toml -p evalkit | sed $(PARTS)

install: $(EVALKIT_VENV)/.evalkit-installed

$(EVALKIT_VENV)/.evalkit-installed: pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(EVALKIT_VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[all,dev,docs]'
	touch $@

$(DEMO)/occlusion/results.jsonl: $(RUNS:=/results.jsonl)
	@rm -f $@
	$(RUN) robustness occlusion $(RUNS) saliency=$(firstword $(RUNS)) limit=500 --out $(@D) $(NAMED)

$(DEMO)/imagenet-%/results.jsonl: $(RUNS:=/results.jsonl)
	@rm -f $@
	$(RUN) robustness imagenet-$* $(RUNS) --out $(@D) $(NAMED)

# A run that was interrupted has its config but no results yet: it goes on where it was.
define SEGMENTATION
$(DEMO)/seg-$(1)-%/results.jsonl: $(DEMO)/%/results.jsonl
	$$(RUN) transfer seg $$(if $$(wildcard $$(@D)/config.yaml),--resume $$(@D),$(DEMO)/$$* head=$(1) ms=true --out $$(@D)) $$(NAMED)
endef
$(foreach head,linear segmenter,$(eval $(call SEGMENTATION,$(head))))

$(DEMO)/det-pvt/results.jsonl: $(DEMO)/pvt/results.jsonl
	$(RUN) transfer det $(if $(wildcard $(@D)/config.yaml),--resume $(@D),$(DEMO)/pvt --out $(@D)) $(NAMED)

$(DEMO)/pvt/results.jsonl:
	$(RUN) train $(if $(wildcard $(@D)/config.yaml),--resume $(@D),digits-photo model=pvt_nano label=pvt --out $(@D)) $(NAMED)

$(DEMO)/%/results.jsonl:
	$(RUN) train $(if $(wildcard $(@D)/config.yaml),--resume $(@D),\
	  digits-photo-$(firstword $(subst -, ,$*)) seed=$(or $(word 2,$(subst -, ,$*)),0) --out $(@D)) $(NAMED)
