# Vitrine, from an event log to a ranked feed. Targets stand in the order of the funnel; `make help` prints them.
#
#   make run                                          simulated world, then the server on http://127.0.0.1:8000
#   make run DATASET=kuairand DATA_DIR=path           the KuaiRand log
#   make run DATASET=shop DATA_DIR=path MAPPING=file  your own data (docs/guides/own-data.md)
#
# A stage runs again only when its inputs changed: code of its room, an earlier stage, or the variables below.

PYTHON   ?= python3.11
DATASET  ?= world
SCALE    ?= 1
DATA_DIR ?=
MAPPING  ?=
PORT     ?= 8000
VAR      ?= var
SEEDS    ?= 5
QUICK    ?=
EVERY    ?=

export VITRINE_DATASET := $(DATASET)
export VITRINE_VAR_DIR := $(VAR)
export PYTHONWARNINGS  := ignore
export OMP_NUM_THREADS := 2
# Waiting threads sleep: on a busy machine, spinning ones slow everybody down several times over.
export OMP_WAIT_POLICY := PASSIVE

VENV := .venv
BIN  := $(VENV)/bin
PY   := $(BIN)/python
W    := $(VAR)/$(DATASET)
S    := $(W)/.stages

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---------------------------------------------------------------- the whole job
.PHONY: run
run: pipeline serve ## every stage below, then the server (PORT=8000)

.PHONY: pipeline
pipeline: $(S)/first-stage ## every stage up to the server
	@echo "Data Docs: $(W)/docs/index.html   experiments: make mlflow-ui   state: make status"

# ---------------------------------------------------------------- 0 ground
.PHONY: setup
setup: $(VENV)/.installed ## .venv with the locked requirements

$(VENV)/bin/pip:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or say PYTHON=path"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.lock pyproject.toml | $(VENV)/bin/pip
	@echo "installing $$(grep -c == requirements.lock) locked packages into $(VENV), 2 to 4 minutes"
	@$(BIN)/pip install --disable-pip-version-check --quiet --no-deps -r requirements.lock
	@$(BIN)/pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	@echo "installing $$(grep -c == requirements-dev.lock) packages for checks and tests"
	@$(BIN)/pip install --disable-pip-version-check --quiet --no-deps -r requirements-dev.lock
	@touch $@

# ---------------------------------------------------------------- 1 what happened
.PHONY: data
data: $(S)/data ## the event log: simulated world, KuaiRand or own data

# The variables that decide the data; rewritten only when they change, so that make sees a new world.
$(S)/data.config: FORCE
	@mkdir -p $(S)
	@echo "$(DATASET) $(SCALE) $(DATA_DIR) $(MAPPING)" | cmp -s - $@ || echo "$(DATASET) $(SCALE) $(DATA_DIR) $(MAPPING)" > $@
.PHONY: FORCE

$(S)/data: $(S)/data.config $(wildcard core/schema.py events/*.py events/synthetic/*.py events/importers/*.py) $(MAPPING) | $(VENV)/.installed
ifeq ($(DATASET),kuairand)
	$(PY) -m events import-kuairand --data-dir "$(DATA_DIR)"
else ifneq ($(MAPPING),)
	$(PY) -m events import-own --mapping "$(MAPPING)" --data-dir "$(DATA_DIR)"
else
	$(PY) -m events generate --preset $(DATASET) --scale $(SCALE)
endif
	@touch $@

# ---------------------------------------------------------------- 2 what must be true of it
.PHONY: validate
validate: $(S)/validate ## Great Expectations gate over the log; bad rows go to quarantine

$(S)/validate: $(S)/data $(wildcard validation/*.py validation/suites/*.py)
	$(PY) -m validation events
	@touch $@

# ---------------------------------------------------------------- 3 what we know and when we knew it
.PHONY: features
features: $(S)/features ## hourly features with event and known time, and their gate

$(S)/features: $(S)/validate $(wildcard feature_repo/*.py feature_repo/building/*.py feature_repo/sql/*.sql)
	$(PY) -m feature_repo build
	$(PY) -m validation features
	@touch $@

.PHONY: apply
apply: $(S)/apply ## feast apply

$(S)/apply: $(S)/features feature_repo/feature_store.yaml $(wildcard feature_repo/stores/*.py feature_repo/stores/packed/*.py)
	$(PY) -m feature_repo apply
	@touch $@

.PHONY: redis
redis: | $(VENV)/.installed ## the embedded Redis, unless VITRINE_REDIS_URL names yours
	@$(PY) -m feature_repo redis-start

.PHONY: materialize
materialize: $(S)/materialize ## newest feature values into Redis

$(S)/materialize: $(S)/apply
	$(PY) -m feature_repo materialize
	@touch $@

# ---------------------------------------------------------------- 4 how we learn
.PHONY: train
train: $(S)/first-stage ## point-in-time training sets and the three models

.PHONY: sets
sets: $(S)/sets ## training sets joined at impression time, and their gate

SETS := $(addprefix training/,sets.py set_files.py example_rows.py labels.py splits.py sampling.py catalogue.py recipe_features.py user_rows.py) core/held_out.py

$(S)/sets: $(S)/apply $(SETS)
	$(PY) -m training sets
	$(PY) -m validation training-set second_stage retrieval
	@touch $@

.PHONY: leaks
leaks: $(S)/sets ## audit of every training set: known times, label give-aways, a rebuild without the future
	$(PY) -m training leaks

.PHONY: retrieval second-stage first-stage
retrieval: $(S)/retrieval ## two-tower retrieval
second-stage: $(S)/second-stage ## multi-task second stage with calibrated heads
first-stage: $(S)/first-stage ## first stage distilled from the second

# Whether anything has to be trained again, the training's own key decides within seconds.
LEARNING := $(wildcard models/*.py training/*.py)

$(S)/retrieval: $(S)/sets $(LEARNING)
	$(PY) -m training retrieval
	@touch $@

$(S)/second-stage: $(S)/sets $(LEARNING)
	$(PY) -m training second-stage
	@touch $@

.PHONY: foundation
foundation: $(S)/apply ## foundation user model: train, export point-in-time as views, second stage on its vectors
	$(PY) -m training foundation --downstream
	$(PY) -m validation features
	$(PY) -m feature_repo materialize

.PHONY: index
index: $(S)/index ## FAISS index and serving's snapshot of the log

$(S)/index: $(S)/retrieval training/index.py $(wildcard serving/snapshot_build/*.py)
	$(PY) -m training index
	$(PY) -m serving snapshot
	@touch $@

.PHONY: snapshot
snapshot: | $(VENV)/.installed ## serving's snapshot of the log alone, made anew; running servers take it over
	$(PY) -m serving snapshot

.PHONY: candidates
candidates: $(S)/candidates ## requests ranked in full, from which the first stage learns

$(S)/candidates: $(S)/index $(S)/second-stage $(S)/materialize serving/draw_candidates.py serving/draw_requests.py
	$(PY) -m serving draw-candidates
	@touch $@

$(S)/first-stage: $(S)/candidates $(LEARNING)
	$(PY) -m training first-stage
	$(PY) -m validation training-set first_stage
	$(PY) -m training index
	@touch $@

# ---------------------------------------------------------------- 5 what the user gets
.PHONY: precompute
precompute: | $(VENV)/.installed ## slates for the most active users, served at overload and when ranking is down
	$(PY) -m serving precompute

.PHONY: support
support: | $(VENV)/.installed ## how much of the log an estimate of changed weights could use
	$(PY) -m serving support

.PHONY: serve
serve: | $(VENV)/.installed ## the server (PORT=8000)
	$(PY) -m serving serve --port $(PORT)

.PHONY: refresh
refresh: | $(VENV)/.installed ## the hourly job: posted events into log, features and Redis (EVERY=3600 repeats)
	$(PY) -m operations refresh $(if $(EVERY),--every $(EVERY))

# ---------------------------------------------------------------- 6 is it any good
.PHONY: evaluate
evaluate: $(VENV)/.installed-dev pipeline ## models against baselines, and the funnel in the world whose truth is known (SEEDS=5)
	$(PY) -m training evaluate
	$(PY) -m training survival
	$(PY) -m operations evaluate --seeds $(SEEDS)

.PHONY: skew
skew: | $(VENV)/.installed ## what was served against what training would join, value by value
	$(PY) -m operations skew

.PHONY: status
status: | $(VENV)/.installed ## what is where: freshness, model age, gates, disk, degradation
	@$(PY) -m operations status

# ---------------------------------------------------------------- looking inside
.PHONY: mlflow-ui feast-ui
mlflow-ui: | $(VENV)/.installed ## MLflow on http://127.0.0.1:5000
	$(BIN)/mlflow ui --backend-store-uri sqlite:///$(abspath $(W))/mlflow.db --host 127.0.0.1 --port 5000

feast-ui: | $(VENV)/.installed ## Feast on http://127.0.0.1:8888
	$(PY) -m feature_repo link
	cd feature_repo && ../$(BIN)/feast ui --host 127.0.0.1

# ---------------------------------------------------------------- for people who change it
.PHONY: check
check: $(VENV)/.installed-dev ## format, lint, types, layers, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/architecture

.PHONY: test
test: $(VENV)/.installed-dev ## the whole default suite
	$(BIN)/pytest -q -n 2 --dist loadfile

.PHONY: test-long
test-long: $(VENV)/.installed-dev ## the tests that take minutes
	$(BIN)/pytest -q -m long

.PHONY: test-system
test-system: $(VENV)/.installed-dev ## whole processes under faults, kill -9 and made-up calls (half an hour)
	$(BIN)/pytest -q -m "long or not long" tests/system

.PHONY: bench
bench: $(VENV)/.installed-dev ## speed and memory beside the stock way and the bare floor (QUICK=--quick)
	$(PY) -m benchmarks.online_read $(QUICK)
	$(PY) -m benchmarks.materialize $(QUICK)
	$(PY) -m benchmarks.materialize_memory $(QUICK)
	$(PY) -m benchmarks.point_in_time $(QUICK)
	$(PY) -m benchmarks.feature_build $(QUICK)
	$(PY) -m benchmarks.ann $(QUICK)
	$(PY) -m benchmarks.dedup $(QUICK)
	$(PY) -m benchmarks.train_speed $(QUICK)
	$(PY) -m benchmarks.hash_tables $(QUICK)

.PHONY: bench-serving
bench-serving: $(VENV)/.installed-dev ## the request path at a million posts, after `make pipeline` (QUICK=--quick)
	$(PY) -m benchmarks.serving $(QUICK)

.PHONY: stop clean
stop: ## stop the embedded Redis
	@$(PY) -m feature_repo redis-stop

clean: ## forget this dataset's workspace
	-@$(PY) -m feature_repo redis-stop 2>/dev/null
	rm -rf $(W)
