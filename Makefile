# `make help` lists the targets. Everything that CI runs is `make check`.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The services' addresses and this checkout's secrets, for what runs against them.
WITH_ENV = set -a; eval "$$(scripts/dev-env)"; set +a;
# Tests answer what they are asked, not what a developer's shell says.
WITH_SERVICES = set -a; eval "$$(scripts/services env)"; set +a;

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: services
services: ## Start PostgreSQL, Redis and RabbitMQ (installs Debian packages where permitted)
	@scripts/services up

.PHONY: run
run: services ## Build and serve http://localhost:8000 as API and worker
	@[ -x target/debug/user-service ] || echo 'Building; the first time takes minutes.'
	@cargo build --quiet --bin user-service
	@$(WITH_ENV) scripts/welcome & \
	 $(WITH_ENV) exec target/debug/user-service serve --role both

.PHONY: demo
demo: services ## Against the running service: a delivery, a skip and a dead letter
	@cargo build --quiet --example demo
	@$(WITH_ENV) BASE_URL=$${BASE_URL:-http://localhost:$${PORT:-8000}} target/debug/examples/demo

.PHONY: admin
admin: services ## Make an admin for /admin/: make admin EMAIL=you@example.com
	@[ -n "$(EMAIL)" ] || { echo 'make admin EMAIL=you@example.com' >&2; exit 2; }
	@cargo build --quiet --bin user-service
	@$(WITH_ENV) target/debug/user-service admin create --email "$(EMAIL)"

.PHONY: stop
stop: ## Stop PostgreSQL, Redis and RabbitMQ; their data stays
	@scripts/services down

.PHONY: check
check: fmt-check lint doc deny deploy-check schema-check test ## All that CI runs

.PHONY: test
test: unit integration clients documents browser fuzz-short chaos-short ## Every test there is, on the real services

.PHONY: unit
unit: ## Tests of pure decisions, of the architecture, and what the fuzzer kept; need no service
	@cargo test --quiet --lib --test architecture --test corpus

.PHONY: integration
integration: services ## The service on real PostgreSQL, Redis and RabbitMQ
	@cargo build --quiet --bin user-service --examples
	@$(WITH_SERVICES) cargo test --quiet --test it
	@$(WITH_SERVICES) cargo test --quiet --test timing -- --test-threads=1 --nocapture

.PHONY: clients
clients: services ## What sibling services ask, by httpx and axios
	@$(WITH_SERVICES) scripts/clients

.PHONY: documents
documents: services links ## Every command and program that README and docs show, and their links
	@$(WITH_SERVICES) scripts/documents

.PHONY: links
links:
	@scripts/links

.PHONY: site
site: ## README and docs as a book, target/site
	@scripts/site

.PHONY: pictures
pictures: ## Draw docs/images anew from their sources
	@scripts/tools graphviz
	@for source in docs/images/*.dot; do dot -Tsvg "$$source" -o "$${source%.dot}.svg"; done

.PHONY: browser
browser: services ## The operators' pages in a real browser; pictures in target/screenshots
	@$(WITH_SERVICES) scripts/browser

.PHONY: timing
timing: services ## What a clock can tell from outside, with 2,000 samples a class at production's cost (an hour)
	@$(WITH_SERVICES) TIMING_SAMPLES=2000 TIMING_BCRYPT_COST=11 cargo test --quiet --test timing -- --test-threads=1 --nocapture

# With a seed of its own: what CI says depends on the code only.
.PHONY: fuzz-short
fuzz-short: services
	@$(WITH_SERVICES) scripts/fuzz 5000 1

.PHONY: fuzz
fuzz: services ## 100,000 requests made from the served document, good and bad (half an hour)
	@$(WITH_SERVICES) scripts/fuzz 100000

FUZZ_SECONDS ?= 60
.PHONY: fuzz-parsers
fuzz-parsers: ## libFuzzer on messages, tokens, headers and addresses, FUZZ_SECONDS each
	@scripts/tools cargo-fuzz
	@scripts/fuzz-parsers $(FUZZ_SECONDS)

.PHONY: mutants
mutants: ## Whether a unit test notices when a rule is broken (cargo-mutants, half an hour)
	@scripts/tools cargo-mutants
	@scripts/mutants

# Its kills would break what runs beside it, so it has services of its own.
.PHONY: chaos-short
chaos-short: ## The fault laboratory's short form: kills, a bad network, every crash point
	@scripts/chaos

.PHONY: chaos
chaos: ## Its long form: 10,000 messages and 40 kills, three times; ten minutes of outage (an hour)
	@CHAOS=long scripts/chaos

.PHONY: upgrade
upgrade: ## A million users migrated under the version before (FROM=commit), and no request fails
	@scripts/upgrade $(FROM)

.PHONY: bench
bench: services ## Requests and messages a second next to bare counterparts, as ratios
	@$(WITH_SERVICES) cargo bench --quiet --bench throughput

.PHONY: fmt
fmt: ## Format the code
	@cargo fmt

.PHONY: fmt-check
fmt-check:
	@cargo fmt --check

.PHONY: lint
lint: ## Clippy, warnings are errors
	@cargo clippy --quiet --all-targets --all-features -- -D warnings

.PHONY: doc
doc: ## Build the documentation; broken links are errors
	@RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --lib

.PHONY: deny
deny: ## Licences, sources, banned crates; advisories where their database can be reached
	@scripts/tools cargo-deny
	@.local/tools/bin/cargo-deny --log-level error check bans licenses sources
	@scripts/advisories

.PHONY: deploy-check
deploy-check: ## Workflows, Kubernetes objects, compose file and systemd unit against their schemas
	@scripts/deploy-check

.PHONY: hooks
hooks: ## Have git check format and lints before each commit
	@git config core.hooksPath scripts/hooks
	@echo "git runs scripts/hooks/pre-commit from now on"

.PHONY: migrate
migrate: services ## Apply the migrations to the development database
	@$(WITH_ENV) cargo run --quiet --bin user-service -- migrate

.PHONY: schema
schema: services ## Write src/infra/schema.rs from the migrations
	@scripts/tools diesel
	@scripts/schema write

.PHONY: schema-check
schema-check: services
	@scripts/tools diesel
	@scripts/schema check

.PHONY: openapi
openapi: ## Write the OpenAPI document to openapi.json
	@cargo run --quiet --bin user-service -- openapi > openapi.json
	@echo openapi.json

.PHONY: snapshots
snapshots: services ## Accept changed snapshots of answers and of the OpenAPI document
	@cargo build --quiet --bin user-service --examples
	@$(WITH_SERVICES) INSTA_UPDATE=always cargo test --quiet --test it

.PHONY: image
image: ## Build the container image, by docker or buildah; the same commit makes the same image
	@scripts/image

.PHONY: sbom
sbom: ## What the binary is built from, as CycloneDX: target/user-service.cdx.json
	@scripts/tools cargo-cyclonedx
	@PATH="$$PWD/.local/tools/bin:$$PATH" cargo cyclonedx --quiet --format json --override-filename user-service.cdx
	@mv user-service.cdx.json target/ && echo target/user-service.cdx.json
