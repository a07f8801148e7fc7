# Everything a newcomer or the CI needs; each target may be run on a fresh clone. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
target := $(or $(CARGO_TARGET_DIR),target)
# Programs that scripts/setup fetched without a package manager (Node.js, promtool).
export PATH := $(CURDIR)/.tools/bin:$(PATH)

.PHONY: help serve test lint bench setup model
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

serve: setup ## set up, fetch the starter model, build, and serve with the default config
	cargo build --release --bin spectra
	$(target)/release/spectra model pull starter
	$(target)/release/spectra serve

test: ## set up, fetch the starter model, run every test (development profile: llama.cpp is built once)
	scripts/setup --tests
	cargo build --workspace --bins --tests
	$(target)/debug/spectra model pull starter
	cargo nextest run --workspace $(if $(CI),--profile ci)
	cargo test --doc --workspace
	cargo test --quiet --manifest-path grafana/check/Cargo.toml --target-dir $(target)/grafana-check

lint: setup ## formatting, clippy and docs, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

bench: setup model ## the gateway's own time per request and per chunk (release build)
	cargo bench --workspace --benches

setup: ## find or install what the build needs
	scripts/setup

model: setup ## fetch the starter model (98 MB)
	cargo run --release --bin spectra -- model pull starter
