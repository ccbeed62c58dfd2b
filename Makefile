# Thin: every target is one command of lib.reproduce, which decides what is current.
# PYTHON=...  use an environment you have (conda, Colab) instead of .venv
# PROFILE=quick|compact|paper|...   SEEDS=1-5   DATA=cifar100:FOLDER|digits|file.npz|FOLDER   STYLE=<matplotlib style>   ENGINE=local|here|ray
PROFILE ?= quick
BASE ?= python3
# what was given reaches a command through its environment: no quote or backtick in it is ever the shell's
export PROFILE SEEDS DATA ONLY STYLE SECTION NETWORK SLOW
ARGS = --profile="$$PROFILE" $(if $(SEEDS),--seeds="$$SEEDS") $(if $(DATA),--data="$$DATA")

ifdef PYTHON
ready = able
else
PYTHON = .venv/bin/python
ready = .venv/ready
endif

.PHONY: able help setup oracles reproduce tune readings compare record publish restore figures report readme verify test torture bench trace lab repository clean
help:            ## this list
	@echo "usage: make TARGET [PROFILE=quick|compact|compact_two_heads|paper|paper_batch_norm|paper_two_heads] [SEEDS=1-5] [DATA=...] [PYTHON=...]"
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(ready)  ## a local virtual environment from requirements.txt (TORCH=cpu takes PyTorch's smaller CPU wheels)
	@echo "ready: $(PYTHON)"

.venv/ready: requirements.txt
	@command -v "$(BASE)" > /dev/null || \
	  { echo "error: no program $(BASE): expected Python 3.11 or newer; name one with BASE=python3.11" >&2; exit 1; }
	@$(BASE) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(BASE) --version 2>&1) is too old: expected Python 3.11 or newer; name one with BASE=python3.11" >&2; exit 1; }
	$(BASE) -m venv .venv
	$(if $(filter cpu,$(TORCH)),.venv/bin/python -m pip install --quiet --index-url https://download.pytorch.org/whl/cpu $$(grep -E '^torch(vision)?==' requirements.txt))
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

oracles: $(ready) ## what is compared with other people's code needs: Quantus (notebook 06, two tests)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check quantus==0.6.0

able:
	@command -v $(firstword $(PYTHON)) > /dev/null || \
	  { echo "error: no program $(PYTHON): expected the Python of an environment you have; make setup, or name it with PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version 2>&1) is too old: expected Python 3.11 or newer; name one with PYTHON=" >&2; exit 1; }

reproduce: $(ready) ## run the notebooks of a profile that are not current
	@$(PYTHON) -m lib.reproduce run $(ARGS) $(if $(ONLY),--only="$$ONLY")

tune: $(ready)  ## settings by the profile's grids, on tuning seeds and held-out training images
	@$(PYTHON) -m lib.study $(ARGS) --tune

readings: $(ready) ## the grid over what the paper leaves open: which recipes learn, then every reading; hours
	@$(PYTHON) -m lib.study --profile="$(if $(filter file,$(origin PROFILE)),compact_readings,$$PROFILE)" $(if $(SEEDS),--seeds="$$SEEDS") $(if $(DATA),--data="$$DATA") --readings grid

compare: $(ready) ## your own run of a profile beside the published record
	@$(PYTHON) -m lib.reproduce compare $(ARGS)

record: $(ready) ## run whatever the published plan still lacks, most valuable first; publishes its rows seed by seed
	@$(PYTHON) -m lib.reproduce record $(ARGS)

publish: $(ready) ## copy rows, tables, figures and notebooks of a finished profile to results/published (ROWS=1: rows alone)
	@$(PYTHON) -m lib.reproduce publish $(ARGS) $(if $(ROWS),--rows)

restore: $(ready) ## put published rows back, so that a fresh clone goes on from there
	@$(PYTHON) -m lib.reproduce restore $(ARGS)

figures: $(ready) ## draw the figures of a profile again from its tables, without training (STYLE=...)
	@$(PYTHON) -m lib.reproduce figures $(ARGS) $(if $(STYLE),--style="$$STYLE")

report: $(ready) ## one HTML file of a profile, from tables alone; without PROFILE of all that is published
	@$(PYTHON) -m lib.reproduce report $(if $(filter file,$(origin PROFILE)),--published,$(ARGS))

readme: $(ready) ## write the generated parts of README.md, GUIDE.md and bench/README.md
	@$(PYTHON) -m lib.reproduce readme

verify: $(ready) ## does the published record follow from its rows by today's code? (WRITE=1 puts it right)
	@$(PYTHON) -m lib.reproduce verify $(ARGS) $(if $(WRITE),--write)

test: $(ready)   ## unit tests, and the smoke profile through papermill once (SLOW=1: the long ones too)
	@$(PYTHON) -m pytest -n $(or $(JOBS),2) --dist loadfile

torture: $(ready) ## kills at random moments, a full disk, damaged products, bad inputs: about fifteen minutes, ends with a table
	@$(PYTHON) -m tests.torture $(if $(ONLY),--only="$$ONLY")

bench: $(ready)  ## speed against the plain baselines in bench/ (SECTION=train|freeze|filters|fullgrad|scores|...)
	@$(PYTHON) -m bench $(if $(SECTION),--section="$$SECTION")

trace: $(ready)  ## a profiler trace of one training step, for chrome://tracing (NETWORK=compact)
	@$(PYTHON) -m bench --trace results/bench/step.json $(if $(NETWORK),--network="$$NETWORK")

lab: $(ready)    ## JupyterLab on the project, notebooks/ first
	@$(PYTHON) -m jupyterlab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks \
	  $(if $(filter 0,$(shell id -u)),--allow-root)

repository: $(ready) ## say where the project's public place is, in badges, first cells and links (NAME=owner/name)
	@$(PYTHON) -m lib.reproduce repository --name "$$NAME"

clean: able      ## remove a profile's unpublished results, under RESULTS if set (asks nothing; keeps .venv, data, the record)
	@$(PYTHON) -m lib.reproduce clean $(ARGS)
