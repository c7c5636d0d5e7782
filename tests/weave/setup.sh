#!/usr/bin/env bash
# Installs what tests/weave.rs needs into .cache (1.4 GB, a few minutes; a moment the second time):
# the published trace server, and the newest client, which has no server in it any more. With --run
# it then runs the tests, and a missing server is a failure instead of a skip.
set -euo pipefail
cd "$(dirname "$0")/../.."

client=weave==0.54.0
wanted=$(cat tests/weave/requirements.txt; echo "$client")
if [ "$(cat .cache/weave-installed 2>/dev/null)" != "$wanted" ]; then
    python=
    for candidate in python3.12 python3.11 python3.13 python3.10 python3; do
        if "$candidate" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo 'Python 3.10 or later is needed, with venv' >&2
        exit 1
    fi
    rm -rf .cache/weave-venv .cache/weave-client
    mkdir -p .cache
    "$python" -m venv .cache/weave-venv
    .cache/weave-venv/bin/pip install -q -r tests/weave/requirements.txt
    .cache/weave-venv/bin/pip install -q --no-deps --target .cache/weave-client "$client"
    printf '%s\n' "$wanted" >.cache/weave-installed
fi

if [ "${1:-}" = --run ]; then
    shift
    WEAVE_WAL_NO_SKIP=1 cargo test --locked --no-default-features --test weave -- "$@"
fi
