# Two commands do everything: `make book` and `make test`. Both make the environment first, in .venv.
# Another interpreter: PYTHON=python3.12 make test

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
LAB_STAMP := $(VENV)/.installed-lab
VERSION_OF := -c 'import sys; print(sys.version.split()[0])'

.DEFAULT_GOAL := help
.PHONY: help book html test lint lab sync execute clean env

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-9s %s\n' "$$name" "$$text"; done

book: $(STAMP)  ## execute copies of the chapters, then build the HTML from them (minutes)
	@$(RUN) book/_tools/build.py --execute

html: $(STAMP)  ## build the HTML from the outputs stored in the chapters (seconds)
	@$(RUN) book/_tools/build.py

test: $(STAMP)  ## run all tests, then execute the chapters and compare their outputs
	@status=0; $(RUN) -m pytest || status=1; $(RUN) book/_tools/chapters.py test || status=1; exit $$status

lint: $(STAMP)  ## check the style of the code with ruff
	@$(RUN) -m ruff check .

lab: $(LAB_STAMP)  ## open the chapters in JupyterLab
	@$(RUN) -m jupyterlab --notebook-dir=.

sync: $(STAMP)  ## bring edited .md twins into the chapters, then compare the chapters with the package
	@$(RUN) book/_tools/chapters.py pair
	@$(RUN) book/_tools/mirror.py check

execute: $(STAMP)  ## execute the chapters in place and store their outputs (minutes)
	@$(RUN) book/_tools/chapters.py execute

clean:  ## remove the environment and everything that was built
	rm -rf $(VENV) build dist *.egg-info .ruff_cache .hypothesis
	find book cra_smra tests \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

env: $(STAMP)  ## make or update the environment only

# An interpreter named by the caller must be the one in .venv; otherwise the environment is made anew.
ifneq ($(origin PYTHON),file)
ifneq ($(shell $(PYTHON) $(VERSION_OF) 2>&1),$(shell $(RUN) $(VERSION_OF) 2>/dev/null))
.PHONY: $(STAMP)
endif
endif

# The stamp is removed first and written last: an interrupted install is made again.
$(STAMP): pyproject.toml
	@rm -f $(STAMP) $(LAB_STAMP)
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there; name another one: PYTHON=python3.12 make" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("cra_smra needs Python 3.11 or newer, $(PYTHON) is %s; name another one: PYTHON=python3.12 make" % sys.version.split()[0])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module; install it first (Debian, Ubuntu: the package python3-venv)" >&2; exit 1; }
	@have=$$($(RUN) -c 'import pip, sys; print(sys.version.split()[0])' 2>/dev/null); want=$$($(PYTHON) $(VERSION_OF)); \
	if [ "$$have" != "$$want" ]; then echo "making $(VENV) with Python $$want"; $(PYTHON) -m venv --clear $(VENV); fi
	@echo "installing into $(VENV): about three minutes and 5 GB the first time"
	@$(RUN) -m pip install --disable-pip-version-check --editable '.[book,test]'
	@touch $(STAMP)

$(LAB_STAMP): $(STAMP)
	@$(RUN) -m pip install --disable-pip-version-check --editable '.[book,test,lab]'
	@touch $(LAB_STAMP)
