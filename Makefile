# Two commands: `make run` and `make test`. Both work on a bare Debian 12 with Rust.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Where the laboratory of `make run` lives, and the first of its ports.
LAB_DIR ?= lab
LAB_PORT ?= 8080
LAB_MEMBERS ?= 3

PREPARE = prepared="$$(deploy/build/prepare.sh)"; eval "$$prepared"
TARGET = $${CARGO_TARGET_DIR:-target}

.PHONY: help run stop test lint bench sim night torture

help:
	@echo "make run    set up and start a three-member cluster on this machine; a second run continues with its data"
	@echo "make stop   stop that cluster; its data stays in $(LAB_DIR)/"
	@echo "make test   set up and run all tests"
	@echo "make lint   formatting and lints"
	@echo "make bench  measure: proposals, registration, first maps, memory (minutes)"
	@echo "make torture  kill, cut off and corrupt real members; figures against the goals in torture.txt (an hour)"
	@echo "make sim    200 seeds of the simulation (minutes)"
	@echo "make night  $(NIGHT_SEEDS) seeds of the simulation and every error put in on purpose; report in night.md (hours)"

run:
	@$(PREPARE); \
	cargo build --release -p node --bin hsraft; \
	"$(TARGET)/release/hsraft" lab up --members $(LAB_MEMBERS) --dir "$(LAB_DIR)" --base-port $(LAB_PORT)

stop:
	@"$(TARGET)/release/hsraft" lab down --dir "$(LAB_DIR)"

test:
	@$(PREPARE); \
	cargo test --workspace --no-run; \
	HSRAFT_BIN="$$(cd "$(TARGET)" && pwd)/debug/hsraft" cargo test --workspace

lint:
	@$(PREPARE); \
	cargo fmt --all --check; \
	cargo clippy --workspace --all-targets -- --deny warnings

bench:
	@$(PREPARE); \
	cargo build --release -p node --bin hsraft; \
	HSRAFT_BIN="$$(cd "$(TARGET)" && pwd)/release/hsraft" cargo run --release -p chaos-tests --bin bench -- all

sim:
	@$(PREPARE); \
	cargo run --release -p chaos-tests --bin sim -- --seeds 200

# Thousands of seeds; each night its own: NIGHT_FIRST defaults to a number made of the date.
NIGHT_SEEDS ?= 5000
NIGHT_FIRST ?= $(shell date +%Y%m%d)00000

night:
	@$(PREPARE); \
	cargo run --release -p chaos-tests --bin sim -- night --count $(NIGHT_SEEDS) --first $(NIGHT_FIRST) \
		--of "$$(git describe --always --dirty 2>/dev/null || true)" --report night.md || failed=1; \
	cargo run --release -p chaos-tests --features mutants --bin sim -- mutants --table night-mutants.md || failed=1; \
	printf '\n' >> night.md; cat night-mutants.md >> night.md; rm night-mutants.md; \
	echo "night.md"; exit "$${failed:-0}"

# Kills, freezes, cuts off and corrupts real members while canaries write; figures against the goals in torture.txt.
# Failpoints are only in what is built together with the tests.
TORTURE_ROUNDS ?= 200

torture:
	@$(PREPARE); \
	cargo build --release -p node --bin hsraft; \
	cargo test --workspace --no-run; \
	"$(TARGET)/debug/torture" all --rounds $(TORTURE_ROUNDS) --program "$(TARGET)/release/hsraft" \
	--failing-program "$(TARGET)/debug/hsraft" --report torture.txt
