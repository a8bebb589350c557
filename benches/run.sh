#!/usr/bin/env bash
# The benchmarks behind the README's figures: ratios, each taken in one run on one machine, against
# peers that this script installs (amqp-tools, pika, a C compiler). Prints a table; needs root or
# sudo for the packages. `benches/run.sh [3.10|4.0 [PART]...]` chooses the RabbitMQ, 4.0 by default,
# and the parts: version, cold, bulk, memory, embedded, plan, resilience, request, worker, queues; all
# by default.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:-4.0}
shift || true
work=$(mktemp -d)
trap 'bash tests/broker.sh stop "$work/node" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

need() { command -v "$1" >/dev/null 2>&1; }
if ! need amqp-publish || ! need cc || [ ! -x /usr/bin/time ]; then
    apt-get install -y --no-install-recommends amqp-tools gcc libc6-dev time >"$work/apt.log" 2>&1
fi
python3 -m venv "$work/venv" >/dev/null
"$work/venv/bin/pip" install --quiet pika
cc -O2 -o "$work/empty" benches/peers/empty.c

cargo build --release --quiet
cargo build --release --quiet --bench compare
bash tests/broker.sh install "$version"
bash tests/broker.sh start "$version" "$work/node" >/dev/null

BENCH_WORK="$work" BENCH_NODE="$work/node/env" cargo bench --quiet --bench compare -- "$@"
