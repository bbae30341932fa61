# Wayleave. The two commands are `make run` and `make test`; both do all their
# own set-up and are quick when nothing has changed.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.SILENT:

# What tests/setup installs for plugins in Python and Go.
export PATH := $(CURDIR)/target/tools/bin:$(PATH)

CARGO ?= cargo
PYTHON ?= python3
VENV := target/venv
FUZZ_SECONDS ?= 120
SEEDS ?= 10000
SECONDS ?= 60
RATE ?= 1
ROUNDS ?= 3
SEED ?= $(shell date +%s)
# Languages whose tools tests/setup could not get. It is asked when a recipe runs.
LEFT_OUT = $(shell cat target/left-out 2>/dev/null)
# In every language that has them; plugins/cases says what all of them answer.
EXAMPLES = $(filter-out $(LEFT_OUT:%=plugins/%/%),$(foreach name,moderation members-only mentions,$(wildcard plugins/*/$(name))))
CONFIGURED := $(shell sed -n 's/^path = "\(plugins\/[^"]*\)".*/\1/p' config.toml)
PLUGINS = $(sort $(CONFIGURED) $(EXAMPLES))
TEMPLATES = $(filter-out $(LEFT_OUT:%=plugins/templates/%),$(wildcard plugins/templates/*))
# Built for tests and benches alone.
PROBES := plugins/fixtures/probe plugins/fixtures/three-hooks

# Installs a folder's packages if its lock file is newer than what is there.
npm = [ $(1)/node_modules/.package-lock.json -nt $(1)/package-lock.json ] || npm --prefix $(1) ci --no-audit --no-fund --silent

.PHONY: help run cluster test lint bench bench-peers fuzz chaos simulate soak setup setup-run build plugins test-rust test-instructions test-autobahn test-plugins test-clients test-browser

help:
	sed -n 's/^## //p' Makefile

## make run      build everything and serve config.toml, with a page to try it
run: setup-run build
	exec env CARGO_TARGET_DIR=$(CURDIR)/plugins/target target/debug/wayleave dev --config config.toml

## make cluster  three gateways behind a load balancer, with a Redis (PORT=8000)
cluster: setup build plugins
	exec deploy/cluster $(PORT)

## make test     every test
test: lint test-rust test-instructions test-autobahn plugins test-plugins test-clients test-browser
	echo "all tests passed"

## make lint     format and lints, as errors
lint: setup
	echo "== lint"
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --all-targets --quiet -- -D warnings

## make bench    what parts of the gateway cost, beside their floors (some minutes)
bench: setup plugins
	echo "== bench"
	$(CARGO) bench --bench codecs --bench fanout --bench idle --bench hooks --bench languages --bench reload --bench traffic

## make bench-peers   the gateway beside its peers, into docs/benchmarks.md (an hour and a half; ROUNDS=1 a third of it)
bench-peers: setup plugins
	benches/peers/setup
	echo "== the gateway beside its peers"
	$(CARGO) bench --bench peers -- --rounds $(ROUNDS) --out target/peers/results.jsonl
	benches/peers/report target/peers/results.jsonl --page docs/benchmarks.md --images docs/images

## make fuzz     all that reads what others write, two minutes each
fuzz: setup
	$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-fuzz
	for target in codec protobuf api bus config plugin; do
		echo "== fuzzing $$target for $(FUZZ_SECONDS) s"
		$(CARGO) +nightly fuzz run --sanitizer none $$target -- -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1
	done

## make chaos    three gateways and Redis under random faults (SECONDS=60, SEED=any)
chaos: setup
	echo "== chaos"
	env SECONDS=$(SECONDS) SEED=$(SEED) $(CARGO) test --quiet --test it -- --ignored --exact faults::chaos::chaos --nocapture

## make simulate   many instances, with a Redis that fails, under 10,000 seeds (SEEDS=a-b)
simulate: setup
	echo "== simulating, seeds $(SEEDS)"
	WAYLEAVE_SEEDS=$(SEEDS) $(CARGO) test --quiet --lib cluster::simulation -- --nocapture

## make soak     two gateways under load for an hour, with a plot in target/soak (SECONDS=3600 RATE=1)
soak: SECONDS = 3600
soak: setup plugins
	echo "== soak, $(SECONDS) s"
	$(CARGO) build --release --bin wayleave
	mkdir -p target/soak
	# A copy: who builds meanwhile changes the other.
	cp target/release/wayleave target/soak/wayleave
	finish() { $(PYTHON) tests/soak/plot target/soak/samples.jsonl target/soak/soak.svg; }
	trap finish EXIT
	env SECONDS=$(SECONDS) RATE=$(RATE) GATEWAY=$(CURDIR)/target/soak/wayleave \
		$(CARGO) test --quiet --test it -- --ignored --exact faults::soak::soak --nocapture

setup:
	tests/setup

setup-run:
	tests/setup run

# With the tests and examples, so that the libraries are built once for both: alone, the
# program would want them with other features.
build:
	echo "== the gateway"
	$(CARGO) build --bins --tests --examples

plugins: setup build
	echo "== the example plugins"
	# One folder for all: the standard library is then built once.
	CARGO_TARGET_DIR=$(CURDIR)/plugins/target target/debug/wayleave plugin build $(PLUGINS) $(TEMPLATES) $(PROBES)

test-rust: setup plugins
	echo "== Rust tests"
	$(CARGO) test --quiet

## make test-instructions   the hot paths, in instructions, beside the record (WAYLEAVE_UPDATE=1: anew)
test-instructions: setup plugins
	echo "== the instructions of the hot paths"
	CARGO="$(CARGO)" $(PYTHON) tests/instructions

# Against the reader and the outbox; left out, loudly, without a Python 2.7.
test-autobahn: build
	echo "== Autobahn's WebSocket suite"
	PYTHON=$(PYTHON) tests/autobahn/run

test-plugins: plugins
	echo "== the example plugins' own tests"
	for folder in $(PLUGINS) $(TEMPLATES); do
		if [ -f $$folder/Cargo.toml ]; then
			echo "-- $$folder"
			CARGO_TARGET_DIR=target/plugins $(CARGO) test --quiet --manifest-path $$folder/Cargo.toml
		elif [ -f $$folder/src/plugin.c ]; then
			echo "-- $$folder"
			$$folder/src/lib/test $$folder
		elif [ -f $$folder/go.mod ]; then
			echo "-- $$folder"
			(cd $$folder && go test .)
		elif [ -f $$folder/pyproject.toml ]; then
			echo "-- $$folder"
			(cd $$folder && $(PYTHON) -m unittest --quiet)
		elif [ -f $$folder/package.json ]; then
			echo "-- $$folder"
			npm --prefix $$folder test --silent --if-present
		fi
	done
	echo "== the examples, by the same cases in every language"
	for cases in plugins/cases/*.toml; do
		name=$$(basename $$cases .toml)
		target/debug/wayleave plugin test --cases $$cases $$(printf '%s\n' $(EXAMPLES) | grep "/$$name$$")
	done
	echo "== new plugins, as the templates make them"
	made=$$(mktemp -d)
	trap 'rm -rf $$made' EXIT
	for language in $(notdir $(TEMPLATES)); do
		target/debug/wayleave plugin new $$language $$made/new-$$language >/dev/null
		CARGO_TARGET_DIR=$(CURDIR)/plugins/target target/debug/wayleave plugin test $$made/new-$$language
	done
	echo "== the tutorials, as they stand"
	$(CARGO) test --quiet --test it -- --ignored tutorials::

test-clients: build
	echo "== the official clients"
	[ -x $(VENV)/bin/python ] || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement tests/clients/python/requirements.txt
	$(VENV)/bin/python -m pytest --quiet tests/clients/python
	$(call npm,tests/clients/js)
	npm --prefix tests/clients/js test --silent

test-browser: plugins
	echo "== the page, in a browser"
	$(call npm,web)
	npm --prefix web test --silent
	$(call npm,tests/browser)
	export CHROMIUM=$${CHROMIUM:-$$(command -v chromium || command -v chromium-browser || command -v google-chrome)}
	npm --prefix tests/browser test --silent
