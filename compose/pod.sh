#!/usr/bin/env bash
# One service of the studio on a rented pod, from a bare image (Debian or Ubuntu, with or without CUDA).
#
#   compose/pod.sh orchestrator|chat|image|selfie            install, start, register; again: update and restart
#   compose/pod.sh orchestrator|chat|image|selfie stop       finish what runs, then stop
#   compose/pod.sh orchestrator|chat|image|selfie status     0 where it is ready, else 1
#   compose/pod.sh orchestrator|chat|image|selfie log        follow its log
#   --dry-run before the service's name: say what would be done, do nothing
#
# Settings come from the environment (docs/settings.md). A worker needs ORCHESTRATOR_URL and WAN_WORKER_API_KEY. DATA_DIR
# is /workspace/soundstage where there is a /workspace, as on RunPod, else ./data.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly FIRST_WAIT="${POD_FIRST_WAIT:-1}" LONGEST_WAIT="${POD_LONGEST_WAIT:-60}" HEALTHY_AFTER=60
readonly LOG_BYTES="${POD_LOG_BYTES:-52428800}" # of the log, and of the one before it

usage() {
  sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit "$1"
}

say() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*"; }

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

# Run a command, or say it.
act() {
  if [[ -n "$dry" ]]; then printf '+ %s\n' "$*"; else "$@"; fi
}

check_settings() {
  [[ "$service" == orchestrator ]] && return
  [[ -n "${WAN_WORKER_API_KEY:-}" ]] || fail "Set WAN_WORKER_API_KEY to the orchestrator's worker key."
  [[ -n "${ORCHESTRATOR_URL:-}" ]] || fail "Set ORCHESTRATOR_URL to where the orchestrator is."
}

update() {
  if [[ -d .git && -z "${POD_KEEP_VERSION:-}" ]] && git symbolic-ref --quiet HEAD >/dev/null; then
    act git pull --ff-only --quiet || say "the update failed; going on with what is here"
  fi
}

# Triton compiles small kernels at the first start: it needs a compiler and Python's headers.
can_compile() {
  command -v cc >/dev/null && [[ -f "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]]
}

install() {
  local packages=()
  if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    [[ "$(id -u)" == 0 ]] || fail "Python 3.11 with venv is missing, and only root can install it."
    packages+=(python3 python3-venv ca-certificates)
  fi
  if [[ "$service" == chat || "$service" == image ]] && command -v nvidia-smi >/dev/null && ! can_compile; then
    [[ "$(id -u)" == 0 ]] || fail "A C compiler and Python's headers are missing, and only root can install them."
    packages+=(build-essential python3-dev)
  fi
  if ((${#packages[@]})); then
    act apt-get update --quiet
    act apt-get install --yes --quiet --no-install-recommends "${packages[@]}"
  fi
  if [[ "$service" != chat ]]; then
    act python3 compose/install.py "$service"
    return
  fi
  act python3 compose/install.py chat vllm
  if ! command -v nvidia-smi >/dev/null; then
    act python3 compose/install.py small-model
    act .venv-small-model/bin/python -m compose.small_model "$DATA_DIR/models"
  fi
}

running() { [[ -f "$pid_file" ]] && kill -0 "$(<"$pid_file")" 2>/dev/null; }

start() {
  act mkdir -p "$DATA_DIR/logs" "$DATA_DIR/run"
  if [[ -n "$dry" ]]; then
    act "$0" "$service" keep
    return
  fi
  setsid "$0" "$service" keep >>"$log" 2>&1 </dev/null &
  echo $! >"$pid_file"
  say "$service starts; its log: $log"
}

# Keep the service alive: after an end that nobody asked for, wait, longer each time, and start it again.
keep() {
  local wait="$FIRST_WAIT" child="" began status
  mkdir -p "$DATA_DIR/logs"
  exec > >(
    trap "" TERM INT # it ends with the last who writes
    exec python3 -I -S core/process/log_file.py "$log" "$LOG_BYTES"
  ) 2>&1
  trap 'trap "" TERM INT; kill -TERM "$child" 2>/dev/null && wait "$child" || true; exit 0' TERM INT
  while true; do
    began=$SECONDS
    "$python" -m "$module" &
    child=$!
    status=0
    wait "$child" || status=$?
    ((SECONDS - began < HEALTHY_AFTER)) || wait="$FIRST_WAIT"
    say "$service ended with status $status; starting again in $wait s"
    sleep "$wait" &
    child=$!
    wait "$child" || true
    wait=$((wait * 2 < LONGEST_WAIT ? wait * 2 : LONGEST_WAIT))
  done
}

stop() {
  running || return 0
  local pid deadline
  pid="$(<"$pid_file")"
  deadline=$((SECONDS + ${STOP_DELAY_SECONDS%.*} + STOP_SECONDS + 60)) # an image worker drains before it stops
  if [[ -n "$dry" ]]; then
    act kill -TERM "$pid"
    return
  fi
  kill -TERM "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null && ((SECONDS < deadline)); do sleep 0.2; done
  kill -KILL -- "-$pid" 2>/dev/null || true
  rm -f "$pid_file"
  say "$service has stopped"
}

status() {
  if "$python" -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5)' \
    "http://127.0.0.1:$PORT/readyz" 2>/dev/null; then
    say "$service is ready"
  else
    say "$service is not ready; its log: $log"
    return 1
  fi
}

dry=""
if [[ "${1:-}" == --dry-run ]]; then
  dry=yes
  shift
fi
service="${1:-}"
case "$service" in
orchestrator) module=orchestrator port=8000 ;;
chat) module=llm port=7861 ;;
image) module=image port=8001 ;;
selfie) module=vision port=8003 ;;
-h | --help) usage 0 ;;
*) usage 2 >&2 ;;
esac

if [[ -z "${DATA_DIR:-}" ]]; then
  if [[ -d /workspace ]]; then DATA_DIR=/workspace/soundstage; else DATA_DIR="$PWD/data"; fi
fi
export DATA_DIR HOST="${HOST:-0.0.0.0}" PORT="${PORT:-$port}" STOP_SECONDS="${STOP_SECONDS:-60}"
export STOP_DELAY_SECONDS="${STOP_DELAY_SECONDS:-3}" # what sends requests here learns that it goes before it goes
python="${POD_PYTHON:-.venv-$service/bin/python}"
log="$DATA_DIR/logs/$service.log"
pid_file="$DATA_DIR/run/$service.pid"

case "${2:-start}" in
start)
  check_settings
  update
  install
  stop
  start
  ;;
keep) keep ;;
stop) stop ;;
status) status ;;
log) exec tail -n 100 -F "$log" ;;
*) usage 2 >&2 ;;
esac
