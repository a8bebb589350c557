#!/usr/bin/env bash
# Real RabbitMQ nodes for the tests: installs 3.10.8 and 4.0.5, starts private
# ones on free ports of 127.0.0.1, restarts them after a kill, stops them.
#
# A node is one directory. Everything it has is in there (settings, data, log,
# certificates, cookie), and each of its processes carries the directory's name
# in its environment. So `stop` finds them all, even after an interrupted run,
# and touches nothing that belongs to somebody else.

set -euo pipefail

usage() {
  cat <<'TEXT'
Real RabbitMQ nodes for tests.

usage: tests/broker.sh install 3.10|4.0|all   install what is missing
       tests/broker.sh packages CMD:PACKAGE[,PACKAGE]... where CMD is missing
       tests/broker.sh start 3.10|4.0 [DIR]   start a new node; prints DIR/env
       tests/broker.sh restart DIR            start it again: same ports, same data
       tests/broker.sh stop DIR               end all of its processes

`start` and `restart` return when the node answers, and print lines for a shell:

  eval "$(tests/broker.sh start 4.0)"
  curl -u guest:guest "$NODE_MANAGEMENT_URL/api/overview"
  kill -9 "$NODE_PID" && tests/broker.sh restart "$NODE_DIR"
  tests/broker.sh stop "$NODE_DIR"

DIR must be new or empty. Without DIR, `start` makes a temporary one, which
`stop` removes; a DIR that you name stays, and can be started again.

Exit status: 0 done, 64 wrong usage, 69 this machine can not do it (the reason
is on standard error), 1 anything else.
TEXT
}

readonly EX_USAGE=64 EX_UNAVAILABLE=69

# How long a node may take to answer. Ten seconds is usual; a machine that
# compiles on all of its cores at the same time needs several times that.
readonly START_SECONDS=180
# How long a node may take to end by itself before it is killed.
readonly STOP_SECONDS=10

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
readonly repo

say() { printf 'broker.sh: %s\n' "$*" >&2; }

die() {
  say "$*"
  exit 1
}

unavailable() {
  say "$*"
  exit "$EX_UNAVAILABLE"
}

wrong_usage() {
  say "$*"
  usage >&2
  exit "$EX_USAGE"
}

# ---------------------------------------------------------------- installing

# The Debian release that ships a version: `3.10` -> bookworm.
release_of() {
  case $1 in
    3.10) echo bookworm ;;
    4.0) echo trixie ;;
    *) wrong_usage "unknown version: $1 (3.10 or 4.0)" ;;
  esac
}

# Where installed trees are kept. They cost a minute and 370 MB each, so they
# live with the build's other products and go with `cargo clean`.
cache_dir() {
  local target=${CARGO_TARGET_DIR:-$repo/target}
  [[ $target == /* ]] || target=$PWD/$target
  printf '%s/rabbitmq' "$target"
}

# The directory tree that holds a version: `/` for the machine's own packages,
# a chroot otherwise; nothing and status 1 when it is not installed.
root_of() {
  local lib
  for lib in /usr/lib/rabbitmq/lib/rabbitmq_server-"$1".*; do
    [[ -d $lib ]] && echo / && return
  done
  lib=$(cache_dir)/$1/root
  [[ -d $lib ]] && echo "$lib"
}

# Runs a command as root: directly, or through sudo where that asks nothing.
as_root() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo -n "$@"
  else
    unavailable "root is needed to install packages: run as root, or let sudo work without a password"
  fi
}

# What an installation has to take back, also when it fails or is interrupted:
# a signal is handled when the command in the foreground has ended.
made_policy='' partial_tree=''

undo_install() {
  trap '' HUP INT TERM
  forbid_services_no_more
  [[ -z $partial_tree ]] || as_root rm -rf --one-file-system "$partial_tree"
}

# Lets packages start their services again, if it was us who forbade it.
forbid_services_no_more() {
  [[ -z $made_policy ]] || as_root rm -f "$made_policy"
  made_policy=''
}

forbid_services() {
  local policy=/usr/sbin/policy-rc.d
  [[ ! -e $policy ]] || return 0
  made_policy=$policy
  # The exit status 101 is what forbids invoke-rc.d to start anything.
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
  as_root chmod 755 "$policy"
}

# Installs Debian packages without starting their services. Package lists are
# fetched only when the first attempt fails, which is so on a fresh image.
apt_install() {
  command -v apt-get >/dev/null ||
    unavailable "apt-get is missing (this is no Debian); install by hand: $*"

  # One at a time: apt waits for one of its locks, not for all of them.
  mkdir -p "$(cache_dir)"
  exec 8>"$(cache_dir)/apt.lock"
  flock 8
  local status=0
  forbid_services
  # In a session of its own, since an interrupted dpkg has to be repaired by hand.
  apt_get install --no-install-recommends "$@" || {
    apt_get update || true
    apt_get install --no-install-recommends "$@" || status=$?
  }
  forbid_services_no_more
  exec 8>&-
  ((status == 0)) || unavailable "apt-get could not install: $*"
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive setsid --wait \
    apt-get -y -q -o DPkg::Lock::Timeout=300 "$@" >&2 </dev/null 8>&- 9>&-
}

# Installs packages where a command is missing: COMMAND:PACKAGE[,PACKAGE]...
need_commands() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  IFS=, read -r -a missing <<<"$(IFS=, && echo "${missing[*]}")"
  ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
}

# The version of rabbitmq-server that this machine's own packages offer.
candidate_version() {
  command -v apt-cache >/dev/null || return 0
  LC_ALL=C apt-cache policy rabbitmq-server 2>/dev/null |
    sed -n 's/^ *Candidate: *//p'
}

# The archive that this machine takes Debian from, or nothing: a tree of another
# release comes from there too. The first address that serves a plain release
# (not security, not updates), in either of the two formats of apt's lists.
debian_mirror() {
  local codename
  # shellcheck source=/dev/null
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  [[ -n $codename ]] || return 0
  cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list \
    /etc/apt/sources.list.d/*.sources 2>/dev/null |
    awk -v codename="$codename" '
      # deb [options] URI SUITE COMPONENT...
      $1 == "deb" {
        gsub(/\[[^]]*\]/, "")
        if ($3 == codename && / main/) { print $2; exit }
      }
      # URIs: and Suites: lines of one stanza
      $1 == "Types:" { uri = ""; suite = "" }
      $1 == "URIs:" { uri = $2 }
      $1 == "Suites:" { for (i = 2; i <= NF; i++) if ($i == codename) suite = $i }
      uri != "" && suite != "" { print uri; exit }
    ' | grep -E '^https?://.*/debian/?$' || true
}

# Installs a version as a tree of its own release. The tree appears under its
# name only when it is complete, so an interrupted run is simply done again.
install_tree() {
  local version=$1 release mirror dir
  release=$(release_of "$version")
  dir=$(cache_dir)/$version
  need_commands debootstrap:debootstrap flock:util-linux
  [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] ||
    apt_install debian-archive-keyring
  mkdir -p "$dir"

  # One installation at a time; whoever waited finds it done.
  exec 9>"$dir/lock"
  flock 9
  if [[ ! -d $dir/root ]]; then
    as_root rm -rf --one-file-system "$dir"/partial.*
    local partial=$dir/partial.$$
    partial_tree=$partial
    mirror=$(debian_mirror)
    say "installing RabbitMQ $version from Debian $release into $dir"
    # Where that is allowed, in a mount namespace of its own: an interrupted
    # debootstrap leaves /proc and /sys mounted in its tree.
    local command=(debootstrap --variant=minbase --include=rabbitmq-server
      "$release" "$partial" ${mirror:+"$mirror"}) status=0
    ! as_root unshare --mount true 2>/dev/null ||
      command=(unshare --mount --propagation private "${command[@]}")
    as_root env DEBIAN_FRONTEND=noninteractive "${command[@]}" \
      >"$dir/install.log" 2>&1 </dev/null 9>&- || status=$?
    if ((status != 0)); then
      tail -n 15 "$dir/install.log" >&2
      unavailable "debootstrap failed with status $status; the whole log: $dir/install.log"
    fi
    # Node names end in @localhost. A node's directory appears as /node, or is
    # made in /nodes where nothing can be mounted.
    grep -qw localhost "$partial/etc/hosts" 2>/dev/null ||
      echo '127.0.0.1 localhost' | as_root tee -a "$partial/etc/hosts" >/dev/null
    as_root mkdir -p "$partial/node" "$partial/nodes"
    as_root rm -rf "$partial/var/cache/apt" "$partial/var/lib/apt/lists"
    as_root mv -T "$partial" "$dir/root"
    partial_tree=''
  fi
  exec 9>&-
}

install_version() {
  local version=$1
  release_of "$version" >/dev/null
  need_commands openssl:openssl setsid:util-linux
  if root_of "$version" >/dev/null; then
    return
  fi
  # The machine's own package where it is the right one, a tree where not.
  if [[ $(candidate_version) == "$version".* ]]; then
    apt_install rabbitmq-server
  else
    install_tree "$version"
  fi
  root_of "$version" >/dev/null || unavailable "RabbitMQ $version is still missing after its installation"
}

# ------------------------------------------------------------------ processes

# The process ids that belong to the node in $1: those with its mark in their
# environment. Zombies have no environment any more and do not count.
processes() {
  local file
  grep -lszxF "NEXUSCTL_NODE_DIR=$1" /proc/[0-9]*/environ 2>/dev/null |
    while IFS=/ read -r _ _ file _; do echo "$file"; done || true
}

# The Erlang machine among them: what a test kills or stops.
beam_pid() {
  local pid name
  for pid in $(processes "$1"); do
    name=$(cat "/proc/$pid/comm" 2>/dev/null) || continue
    [[ $name == beam.smp ]] && echo "$pid" && return
  done
  return 1
}

# Waits until `"$@"` succeeds, at most $1 seconds.
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

all_gone() { [[ -z $(processes "$1") ]]; }

# Ends all processes of the node in $1. Status 1 when some do not go.
end_processes() {
  local dir=$1 pids
  pids=$(beam_pid "$dir") || pids=''
  if [[ -n $pids ]]; then
    # CONT, since a process that a test has stopped does not see the TERM.
    kill -TERM "$pids" 2>/dev/null || true
    kill -CONT "$pids" 2>/dev/null || true
    wait_for "$STOP_SECONDS" beam_gone "$dir" || true
  fi
  end_now "$dir"
}

beam_gone() { ! beam_pid "$1" >/dev/null; }

end_now() {
  local dir=$1 deadline=$((SECONDS + STOP_SECONDS)) pids
  # Again and again, since a process may start another while it is looked for.
  until all_gone "$dir"; do
    ((SECONDS < deadline)) || return 1
    pids=$(processes "$dir")
    # shellcheck disable=SC2086 # a list of numbers
    kill -KILL $pids 2>/dev/null || true
    sleep 0.05
  done
}

# -------------------------------------------------------------------- a node

# A port that nothing uses, from below the range the kernel hands out itself.
# The caller passes the ports it has chosen already.
free_port() {
  local port taken
  taken=$(awk 'FNR > 1 { sub(/.*:/, "", $2); print $2 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null)
  while :; do
    port=$((10240 + (RANDOM * 32768 + RANDOM) % 22000))
    [[ " $* " == *" $port "* ]] && continue
    grep -qixF "$(printf '%04X' "$port")" <<<"$taken" || break
  done
  echo "$port"
}

choose_ports() {
  amqp_port=$(free_port)
  amqps_port=$(free_port "$amqp_port")
  management_port=$(free_port "$amqp_port" "$amqps_port")
  dist_port=$(free_port "$amqp_port" "$amqps_port" "$management_port")
  epmd_port=$(free_port "$amqp_port" "$amqps_port" "$management_port" "$dist_port")
}

# An authority, a certificate for the server and one for a client, in $1.
make_certificates() {
  local tls=$1 key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
  mkdir -p "$tls"
  {
    openssl req -x509 "${key[@]}" -days 3650 -subj '/CN=nexusctl test authority' \
      -addext 'keyUsage=critical,keyCertSign,cRLSign' \
      -keyout "$tls/ca.key" -out "$tls/ca.pem"
    local who purpose subject
    for who in server client; do
      case $who in
        server) purpose=serverAuth subject=/CN=localhost ;;
        client) purpose=clientAuth subject=/CN=guest ;;
      esac
      openssl req "${key[@]}" -subj "$subject" -keyout "$tls/$who.key" -out "$tls/$who.csr"
      printf '%s\n' 'basicConstraints=critical,CA:FALSE' \
        'keyUsage=critical,digitalSignature' "extendedKeyUsage=$purpose" \
        'subjectAltName=DNS:localhost,IP:127.0.0.1' >"$tls/$who.ext"
      openssl x509 -req -in "$tls/$who.csr" -days 3650 -extfile "$tls/$who.ext" \
        -CA "$tls/ca.pem" -CAkey "$tls/ca.key" -CAcreateserial -out "$tls/$who.pem"
      rm -f "$tls/$who.csr" "$tls/$who.ext"
    done
  } 2>"$tls/openssl.log" || {
    cat "$tls/openssl.log" >&2
    die "openssl could not make the certificates"
  }
}

# Sets how the version is run here, and where its tree is:
#   host    the machine's own package
#   mounts  a chroot, with /proc, /dev and the node's directory mounted in it
#   bare    a chroot with nothing mounted, since containers mostly forbid that;
#           the node's directory is then inside the tree. RabbitMQ does without
#           /proc and /dev but for what it knows of the machine's memory and disk.
choose_way() {
  root=$(root_of "$version") ||
    unavailable "RabbitMQ $version is not installed: tests/broker.sh install $version"
  namespace=(unshare --mount --propagation private)
  # Without root: a user namespace in which we are root.
  ((EUID == 0)) || namespace+=(--map-root-user)
  if [[ $root == / ]]; then
    way=host
  elif "${namespace[@]}" true 2>/dev/null; then
    way=mounts
  elif chroot "$root" /bin/true 2>/dev/null; then
    way=bare
  else
    unavailable "RabbitMQ $version runs in a chroot, which this user may not enter: run as root"
  fi
}

# Writes the settings of a new node.
# `store` is where its files really are; `at` is the same for the node itself.
configure() {
  local dir=$1
  store=$dir at=$dir
  case $way in
    mounts) at=/node ;;
    bare)
      at=/nodes/$node_name
      store=$root$at
      rm -rf "$store"
      ;;
  esac
  mkdir -p "$store/home" "$store/data" "$store/log" "$store/tls"
  make_certificates "$store/tls"
  echo '[rabbitmq_management,rabbitmq_shovel,rabbitmq_auth_mechanism_ssl].' >"$store/enabled_plugins"
  # An empty file, so that none of the machine's own settings are read.
  : >"$store/rabbitmq-env.conf"
  cat >"$store/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$amqp_port
listeners.ssl.1 = 127.0.0.1:$amqps_port
ssl_options.cacertfile = $at/tls/ca.pem
ssl_options.certfile = $at/tls/server.pem
ssl_options.keyfile = $at/tls/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = AMQPLAIN
auth_mechanisms.3 = EXTERNAL
ssl_cert_login_from = common_name
management.tcp.ip = 127.0.0.1
management.tcp.port = $management_port
loopback_users = none
log.file = rabbit.log
log.file.level = info

# How old the counts in the management API may be. They pass two clocks, both of
# five seconds by default: queues report, and the API collects; a test would
# wait for both. The same code runs, only more often. (The third clock, that of
# quorum queues, has no name in this file: see RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS.)
collect_statistics_interval = 1000
management.sample_retention_policies.global.minute = 1
management.sample_retention_policies.basic.minute = 1
management.sample_retention_policies.detailed.minute = 1
CONF
  if [[ $way == bare ]]; then
    printf '%s\n' 'vm_memory_calculation_strategy = allocated' \
      'total_memory_available_override_value = 2GB' >>"$store/rabbitmq.conf"
    ln -sfn "$store"/* "$dir/"
  fi
}

# Starts the node in $1 in the background, in a session of its own, so that a
# signal for the test run's group does not reach it.
launch() {
  local dir=$1
  local environment=(
    "NEXUSCTL_NODE_DIR=$dir"
    "PATH=/usr/sbin:/usr/bin:/sbin:/bin" "LANG=C.UTF-8" "HOME=$at/home"
    "RABBITMQ_CONF_ENV_FILE=$at/rabbitmq-env.conf"
    "RABBITMQ_NODENAME=$node_name"
    "RABBITMQ_CONFIG_FILE=$at/rabbitmq.conf"
    "RABBITMQ_ENABLED_PLUGINS_FILE=$at/enabled_plugins"
    "RABBITMQ_MNESIA_BASE=$at/data"
    "RABBITMQ_LOG_BASE=$at/log"
    "RABBITMQ_DIST_PORT=$dist_port"
    "ERL_EPMD_PORT=$epmd_port" "ERL_EPMD_ADDRESS=127.0.0.1"
    "ERL_CRASH_DUMP=$at/log/erl_crash.dump"
    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} -rabbit quorum_tick_interval 1000"
  )
  local server=/usr/lib/rabbitmq/bin/rabbitmq-server command
  case $way in
    host) command=("$server") ;;
    bare) command=(chroot "$root" "$server") ;;
    mounts)
      # The mounts vanish with the namespace, which is to say with the node's
      # last process; another node of the same tree does not see them.
      # shellcheck disable=SC2016 # expanded by the inner shell
      command=("${namespace[@]}" /bin/bash -c '
        set -e
        mount --rbind /proc "$1/proc"
        mount --rbind /dev "$1/dev"
        mount --bind "$2" "$1/node"
        exec chroot "$1" "$3"' launch "$root" "$dir" "$server")
      ;;
  esac
  # The console says why a node did not come up when its log does not.
  setsid env -i -C / "${environment[@]}" "${command[@]}" \
    </dev/null >"$dir/log/console.log" 2>&1 &
}

# Ends a node whose start was interrupted. It is found by its environment, which
# it has from its first exec on: a moment after the fork.
abandon() {
  local dir=$1
  trap '' HUP INT TERM
  [[ -z ${!:-} ]] || wait_for 5 launched "$dir" "$!" || true
  end_now "$dir" || true
  remove_temporary "$dir"
}

launched() { ! all_gone "$1" || ! kill -0 "$2" 2>/dev/null; }

# Does AMQP answer on port $1? A broker that is up replies to the protocol
# header with connection.start: a method frame on channel 0, (10, 10).
amqp_answers() {
  local reply
  reply=$({
    exec 3<>"/dev/tcp/127.0.0.1/$1" &&
      printf 'AMQP\0\0\011\001' >&3 &&
      timeout 5 head -c 11 <&3 | od -An -tx1 | tr -d ' \n'
  } 2>/dev/null) || return 1
  [[ $reply == 010000????????000a000a ]]
}

# Does the management API on port $1 know guest, and the node as running?
management_answers() {
  local status
  status=$({
    exec 3<>"/dev/tcp/127.0.0.1/$1" &&
      printf 'GET /api/overview HTTP/1.0\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\r\n' >&3 &&
      timeout 5 head -n 1 <&3
  } 2>/dev/null) || return 1
  [[ $status == HTTP/1.?" 200"* ]]
}

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# 0 it answers on all ports; 1 not in time; 2 it has ended.
await_node() {
  local dir=$1 deadline=$((SECONDS + START_SECONDS)) seen='' missed=0
  until amqp_answers "$amqp_port" && port_open "$amqps_port" && management_answers "$management_port"; do
    if beam_pid "$dir" >/dev/null; then
      seen=yes missed=0
    elif [[ -n $seen ]] || all_gone "$dir"; then
      # A process that is about to become another one is not found for a moment,
      # and on a busy machine the first one takes its time: look again.
      ((++missed < 30)) || return 2
    fi
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

show_logs() {
  local file
  for file in "$1"/log/console.log "$1"/log/rabbit.log; do
    [[ -s $file ]] || continue
    say "the end of $file:"
    tail -n 25 "$file" >&2
  done
}

port_was_taken() { grep -qsE 'eaddrinuse|address already in use|nodistribution' "$1"/log/*.log; }

# The addresses of the node, for tests, in DIR/env and on standard output.
write_env() {
  local dir=$1 lib exact=$version
  for lib in "${root%/}/usr/lib/rabbitmq/lib/rabbitmq_server-$version".*; do
    exact=${lib##*-}
  done
  {
    printf 'NODE_%s=%q\n' \
      AMQP_URL "amqp://guest:guest@127.0.0.1:$amqp_port/%2f" \
      AMQPS_URL "amqps://guest:guest@127.0.0.1:$amqps_port/%2f" \
      MANAGEMENT_URL "http://127.0.0.1:$management_port" \
      PID "$(beam_pid "$dir")" \
      VERSION "$exact" \
      CA "$dir/tls/ca.pem" \
      CLIENT_CERT "$dir/tls/client.pem" \
      CLIENT_KEY "$dir/tls/client.key" \
      DIR "$dir"
  } >"$dir/env.new"
  mv "$dir/env.new" "$dir/env"
  cat "$dir/env"
}

# What `restart` and `stop` need to know.
write_identity() {
  local dir=$1 name
  for name in version store at node_name amqp_port amqps_port management_port dist_port epmd_port; do
    printf '%s=%q\n' "$name" "${!name}"
  done >"$dir/identity"
}

read_identity() {
  [[ -r $1/identity ]] || return 1
  # shellcheck source=/dev/null
  . "$1/identity"
}

# Removes what `configure` made.
remove_files() {
  local dir=$1
  read_identity "$dir" || return 0
  [[ $store == "$dir" ]] || rm -rf "$store"
  rm -rf "${dir:?}"/{home,data,log,tls,rabbitmq.conf,rabbitmq-env.conf,enabled_plugins,identity,env}
}

# Removes a directory that `start` has made.
remove_temporary() {
  local dir=$1
  [[ -e $dir/temporary ]] || return 0
  remove_files "$dir"
  rm -rf "$dir"
}

start_node() {
  version=$1
  local dir=${2:-} attempt status made=''
  release_of "$version" >/dev/null
  choose_way
  if [[ -z $dir ]]; then
    dir=$(mktemp -d "${TMPDIR:-/tmp}/nexusctl-rabbitmq-$version.XXXXXX")
    made=yes
  else
    mkdir -p "$dir"
    [[ -z $(ls -A "$dir") ]] || die "$dir is not empty; to start the node in it again: tests/broker.sh restart $dir"
  fi
  dir=$(cd "$dir" && pwd -P)
  [[ $dir != *[[:space:]]* ]] || die "the directory's name must have no blanks: $dir"
  # A start that fails or is interrupted leaves nothing behind that runs.
  # shellcheck disable=SC2064 # the value of now
  trap "abandon '$dir'" EXIT

  [[ -z $made ]] || : >"$dir/temporary"
  # Somebody may take a chosen port before the node does: then choose again.
  for attempt in 1 2 3; do
    choose_ports
    node_name=nexus-$amqp_port@localhost
    configure "$dir"
    write_identity "$dir"
    launch "$dir"
    status=0
    await_node "$dir" || status=$?
    ((status != 0)) || break
    end_now "$dir" || true
    if ((attempt == 3)) || ! port_was_taken "$dir"; then
      fail_start "$dir" "$status"
    fi
    remove_files "$dir"
  done
  write_env "$dir"
  trap - EXIT
}

fail_start() {
  show_logs "$1"
  case $2 in
    1) die "RabbitMQ $version did not answer within $START_SECONDS seconds" ;;
    *) die "RabbitMQ $version ended while it was starting" ;;
  esac
}

restart_node() {
  local dir status=0
  dir=$(realpath -m -- "$1")
  read_identity "$dir" || die "there is no node in $dir"
  choose_way
  end_processes "$dir" || die "some processes of $dir do not end: $(processes "$dir" | tr '\n' ' ')"
  launch "$dir"
  await_node "$dir" || status=$?
  if ((status != 0)); then
    end_now "$dir" || true
    fail_start "$dir" "$status"
  fi
  write_env "$dir"
}

stop_node() {
  local dir
  dir=$(realpath -m -- "$1")
  # A temporary node's data go with it: no need to end in good order.
  [[ ! -e $dir/temporary ]] || end_now "$dir" || true
  end_processes "$dir" || die "some processes of $dir do not end: $(processes "$dir" | tr '\n' ' ')"
  remove_temporary "$dir"
}

# ----------------------------------------------------------------------- main

main() {
  local verb=${1:-}
  shift || true
  # A signal ends the script as an error does: by way of EXIT.
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  case $verb in
    install)
      (($# == 1)) || wrong_usage "install takes a version"
      trap undo_install EXIT
      if [[ $1 == all ]]; then
        install_version 3.10
        install_version 4.0
      else
        install_version "$1"
      fi
      ;;
    packages)
      (($# > 0)) || wrong_usage "packages takes pairs COMMAND:PACKAGE[,PACKAGE]"
      trap undo_install EXIT
      need_commands "$@"
      ;;
    start)
      (($# == 1 || $# == 2)) || wrong_usage "start takes a version and at most a directory"
      start_node "$@"
      ;;
    restart)
      (($# == 1)) || wrong_usage "restart takes a directory"
      restart_node "$1"
      ;;
    stop)
      (($# == 1)) || wrong_usage "stop takes a directory"
      stop_node "$1"
      ;;
    -h | --help | help) usage ;;
    *) wrong_usage "unknown command: ${verb:-none}" ;;
  esac
}

main "$@"
