#!/bin/sh
# Renew requirements.lock and the peers': exact versions with hashes, and no addresses.
# Needs uv.
set -eu
cd "$(dirname "$0")/.."
uv pip compile pyproject.toml --extra server --extra cli --extra fast --extra httpx2 \
    --extra postgres --extra metrics --group dev \
    --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --upgrade \
    --no-emit-package agentpay-sdk --output-file requirements.lock
uv pip compile tests/peers/requirements.in --universal --python-version 3.11 \
    --generate-hashes --no-annotate --no-header --upgrade \
    --output-file tests/peers/requirements.lock
uv pip compile tests/peers/mpp-requirements.in --universal --python-version 3.11 \
    --generate-hashes --no-annotate --no-header --upgrade \
    --output-file tests/peers/mpp-requirements.lock
uv pip compile tests/postgres-requirements.in --no-deps --universal \
    --python-version 3.11 --generate-hashes --no-annotate --no-header --upgrade \
    --output-file tests/postgres-requirements.lock
