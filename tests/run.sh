#!/usr/bin/env bash
# All of the project's checks, on a fresh Debian 12 with a Rust toolchain. What
# is missing is installed; what can not be is said, with the reason, at the end.

set -euo pipefail

usage() {
  cat <<'TEXT'
Runs all checks: formatting, lints, and the tests on the embedded broker, on
RabbitMQ 3.10.8 and on RabbitMQ 4.0.5 (private nodes, started for this run).

usage: bash tests/run.sh [--full] [--fast] [--only FILTER]...

  --full         kill the broker and the tool more often (20 times, not 3)
  --fast         no RabbitMQ: the embedded broker only
  --only FILTER  only tests with FILTER in their name; no formatting, no lints
  -h, --help     this text

Installing needs root, or sudo without a password. Without either, the tests
that need a RabbitMQ are skipped and listed at the end; with CI=true in the
environment that is a failure, unless --fast asked for it.

NEXUSCTL_TEST_RABBITMQ_3_10 and NEXUSCTL_TEST_RABBITMQ_4_0 name a node of yours
to use (a directory of tests/broker.sh start) instead of starting one.

Exit status: 0 all passed, 1 something failed, 64 wrong usage.
TEXT
}

say() { printf '%s\n' "== $*" >&2; }

fast='' only=() kills=${NEXUSCTL_TEST_KILLS:-3}
while (($# > 0)); do
  case $1 in
    --full) kills=20 ;;
    --fast) fast=yes ;;
    --only)
      (($# > 1)) || { usage >&2; exit 64; }
      only+=("$2")
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      printf 'unknown argument: %s\n\n' "$1" >&2
      usage >&2
      exit 64
      ;;
  esac
  shift
done

# Relative to where the caller is, as cargo would take it.
if [[ -n ${CARGO_TARGET_DIR:-} && $CARGO_TARGET_DIR != /* ]]; then
  export CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}

# ------------------------------------------------------- groups of processes

# Everything that takes time runs in the background, in a process group of its
# own, and is waited for: only so a signal to this script is handled at once,
# and only so all descendants can be ended. The groups that have not ended yet:
declare -A groups=()

# Starts `"$@"` as a group. Monitor mode is what gives it one; without it the
# command would also ignore Ctrl-C, and with it all that the tests start.
start_group() {
  set -m
  "$@" </dev/null &
  set +m
  groups[$!]=running
}

# Waits for a group's leader, with its exit status. What it has left behind ends.
wait_group() {
  local status=0
  wait "$1" || status=$?
  if kill -0 -- "-$1" 2>/dev/null; then
    say "processes were left behind, and are ended now:"
    ! command -v ps >/dev/null ||
      ps -e -o pgid=,pid=,args= | awk -v group="$1" '$1 == group' >&2
    end_group "$1" 5
  fi
  unset "groups[$1]"
  return "$status"
}

end_group() {
  local deadline=$((SECONDS + $2))
  kill -TERM -- "-$1" 2>/dev/null || return 0
  while kill -0 -- "-$1" 2>/dev/null; do
    ((SECONDS < deadline)) || { kill -KILL -- "-$1" 2>/dev/null || true; return 0; }
    sleep 0.1
  done
}

# All temporary files of this run, those of the tests and of the nodes included.
work=$(mktemp -d "${TMPDIR:-/tmp}/nexusctl-test.XXXXXX")
mkdir "$work/tmp"
# A test runs the tool as another user, who has to get to the files made for it.
chmod 711 "$work" "$work/tmp"

clean_up() {
  local status=$? group dir
  trap '' HUP INT TERM
  # apt-get is not interrupted in the middle of dpkg: that much patience.
  for group in "${!groups[@]}"; do
    end_group "$group" 120
  done
  for dir in "$work"/nexusctl-rabbitmq-*; do
    [[ ! -d $dir ]] || bash tests/broker.sh stop "$dir" &
  done
  wait
  # What cannot be removed is said by rm, and is no verdict on what was tested.
  rm -rf "$work" || true
  exit "$status"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# -------------------------------------------------------------------- phases

report=() failed=''

note() { report+=("$(printf '%-9s %-24s %s' "$1" "$2" "$3")"); }

note_failure() {
  failed=yes
  note "FAILED:" "$@"
}

# Notes that something did not run. In continuous integration that is a failure.
note_skip() {
  report+=("skipped: $1: $2")
  [[ ${CI:-} != true ]] || failed=yes
}

# Runs a phase in the foreground: NAME COMMAND...
phase() {
  local name=$1 began=$SECONDS status=0
  shift
  say "$name: $*"
  start_group "$@"
  wait_group "$!" || status=$?
  if ((status == 0)); then
    note "passed:" "$name" "$((SECONDS - began)) s"
  else
    note_failure "$name" "$((SECONDS - began)) s, exit status $status: $*"
  fi
  return "$status"
}

# ------------------------------------------------------------------ RabbitMQ

# Installs and starts a node. Its lines for the environment go to $work/VERSION.env
# when it answers, and all that is said meanwhile to $work/VERSION.log.
bring_up() {
  local version=$1 began=$SECONDS
  {
    bash tests/broker.sh install "$version" &&
      TMPDIR=$work bash tests/broker.sh start "$version" >"$work/$version.starting" &&
      echo "$((SECONDS - began))" >"$work/$version.seconds" &&
      mv "$work/$version.starting" "$work/$version.env"
  } 2>"$work/$version.log"
}

variable_of() { echo "NEXUSCTL_TEST_RABBITMQ_${1/./_}"; }

full_version() {
  case $1 in
    3.10) echo 3.10.8 ;;
    4.0) echo 4.0.5 ;;
  esac
}

# Waits for the node of VERSION, whose group is $2, and tells the tests of it.
await_node() {
  local version=$1 name status=0
  name="RabbitMQ $(full_version "$version")"
  say "waiting for $name"
  wait_group "$2" || status=$?
  if ((status == 0)); then
    local NODE_DIR='' NODE_VERSION=''
    # shellcheck source=/dev/null
    . "$work/$version.env"
    export "$(variable_of "$version")=$NODE_DIR"
    note "ran:" "RabbitMQ $NODE_VERSION" "up after $(<"$work/$version.seconds") s"
    return
  fi
  tail -n 40 "$work/$version.log" >&2
  local reason
  reason=$(sed -n 's/^broker\.sh: //p' "$work/$version.log" | tail -n 1)
  if ((status == 69)); then
    note_skip "$name" "$reason"
  else
    note_failure "$name" "${reason:-exit status $status}"
  fi
}

# Keeps what the nodes have logged, since their directories are about to go.
keep_logs() {
  local dir version
  for dir in "$work"/nexusctl-rabbitmq-*; do
    [[ -d $dir/log ]] || continue
    version=$(basename "$dir" | sed 's/^nexusctl-\(.*\)\.[^.]*$/\1/')
    rm -rf "$target/test-logs/$version"
    mkdir -p "$target/test-logs/$version"
    cp "$dir"/log/*.log "$target/test-logs/$version/"
    say "log of the node: $target/test-logs/$version"
  done
}

# ---------------------------------------------------------------------- main

if ! command -v cargo >/dev/null; then
  say "cargo is missing: install a Rust toolchain (https://rustup.rs)"
  exit 1
fi

began=$SECONDS
export NEXUSCTL_TEST_KILLS=$kills

jobs_of_nodes=()
for version in 3.10 4.0; do
  variable=$(variable_of "$version")
  if [[ -n $fast ]]; then
    unset "$variable"
    say "--fast: the tests do NOT run on RabbitMQ $(full_version "$version")"
    report+=("skipped: RabbitMQ $(full_version "$version"): --fast")
  elif [[ -n ${!variable:-} ]]; then
    [[ -r ${!variable}/env ]] || {
      say "$variable=${!variable}: there is no node (no readable file env)"
      exit 1
    }
    export "${variable?}"
    note "ran:" "RabbitMQ $(full_version "$version")" "your node in ${!variable}"
  else
    say "RabbitMQ $(full_version "$version"): installing what is missing and starting, meanwhile:"
    start_group bring_up "$version"
    jobs_of_nodes+=("$version:$!")
  fi
done

# SQLite and ring are compiled from C.
command -v cc >/dev/null ||
  phase "C compiler" bash tests/broker.sh packages cc:gcc,libc6-dev || true

# Their completions are tried in the shells themselves.
bash tests/broker.sh packages zsh:zsh fish:fish ||
  note_skip "completions in zsh and fish" "the shells could not be installed"

locked=()
# A lock file that does not fit is an error where nobody commits the new one.
[[ ${CI:-} != true ]] || locked=(--locked)

# A minimal toolchain has neither.
if ((${#only[@]} == 0)); then
  if cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt; then
    phase "formatting" cargo fmt --check || true
  else
    note_skip "formatting" "cargo fmt is missing"
  fi
  if cargo clippy --version >/dev/null 2>&1 || rustup component add clippy; then
    phase "lints" cargo clippy "${locked[@]}" --all-targets -- -D warnings || true
  else
    note_skip "lints" "cargo clippy is missing"
  fi
fi

if phase "build" cargo test "${locked[@]}" --no-run; then
  for job in "${jobs_of_nodes[@]}"; do
    await_node "${job%%:*}" "${job#*:}"
  done
  export TMPDIR=$work/tmp
  phase "tests" cargo test "${locked[@]}" --no-fail-fast -- "${only[@]}" || keep_logs
  # A package of its own: see its Cargo.toml.
  phase "interleavings" env CARGO_TARGET_DIR="$target/loom" \
    cargo test "${locked[@]}" --manifest-path tests/loom/Cargo.toml -- "${only[@]}" || true
else
  note_skip "tests" "they do not compile"
fi

# On standard error like everything that this script says itself, so that
# standard output ends as cargo test ended it.
{
  echo
  say "summary, after $((SECONDS - began)) s"
  printf '%s\n' "${report[@]}"
  if [[ -n $failed ]]; then echo "result: FAILED"; else echo "result: passed"; fi
} >&2
[[ -z $failed ]]
