# Names for what people type often. The work itself is in scripts/, one file for each.
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup setup-test build up fmt lint test faults bench clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name text; \
	  do printf '  make %-12s %s\n' "$$name" "$$text"; done

setup: ## install what building and running needs (apt when root; else says what to type)
	@scripts/setup-build

setup-test: ## install what the tests start: RabbitMQ and PostgreSQL, without starting their services
	@scripts/setup-test

build: setup ## build all programs in release mode, into target/release
	cargo build --release --locked --workspace --bins

# exec: the program itself takes make's place as the receiver of signals, no shell stands between
up: setup ## build, then run server and worker in one process; ARGS='--listen 127.0.0.1:5001' are passed on
	cargo build --release --locked -p scitq-ctl
	@exec "$${CARGO_TARGET_DIR:-target}/release/scitq-ctl" up $(ARGS)

fmt: ## format all Rust files
	cargo fmt --all

lint: ## run all checks: format, clippy, rustdoc, dependencies and their licences, shell scripts
	@scripts/lint

test: ## run all tests; ARGS='-p scitq-worker' are passed to cargo test
	@scripts/test $(ARGS)

# the programs that it starts are those below target/debug
faults: setup setup-test ## kill, stop and cut parts of the system under series of tasks; ARGS='--only broker-kill --seed 7 --tasks 300'
	cargo build --locked --workspace --bins
	@exec "$${CARGO_TARGET_DIR:-target}/debug/scitq-faults" $(ARGS)

bench: setup setup-test ## build, then measure speed and memory on this machine; ARGS='--only spawn bulk' are passed on
	cargo build --release --locked --workspace --bins
	@exec "$${CARGO_TARGET_DIR:-target}/release/scitq-bench" $(ARGS)

clean: ## remove everything that was built (not ./data, which holds tasks)
	cargo clean
	rm -rf .tools
