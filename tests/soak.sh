#!/usr/bin/env bash
# A real node for an hour among nodes that come and go on loopback: prints its memory as time passes, and fails
# if the second half of the run needs more than the first by a quarter.
#
#   tests/soak.sh [MINUTES [NODES]]      default: 60 minutes, 12 nodes; DHTGET names the program
set -euo pipefail

minutes=${1:-60}
nodes=${2:-12}
root=$(cd "$(dirname "$0")/.." && pwd)
dhtget=${DHTGET:-${CARGO_TARGET_DIR:-$root/target}/release/dhtget}
[ -x "$dhtget" ] || { echo "no $dhtget: cargo build --release" >&2; exit 2; }
dir=$(mktemp -d)
pids=()

stop_all() {
    for pid in "${pids[@]}" "${observed:-}"; do
        [ -n "$pid" ] && kill "$pid" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap stop_all EXIT

port=$((20000 + RANDOM % 20000))
start() { # NAME PORT
    mkdir -p "$dir/$1"
    XDG_STATE_HOME="$dir/$1" XDG_CACHE_HOME="$dir/$1" HOME="$dir/$1" \
        "$dhtget" node --listen "127.0.0.1:$2" --bootstrap "127.0.0.1:$port" -q >"$dir/$1/log" 2>&1 &
    started=$!
}

start observed "$port"
observed=$started
for n in $(seq 1 "$nodes"); do
    start "node$n" $((port + n))
    pids[n]=$started
done

rss() { awk '/^VmRSS:/ { print $2 }' "/proc/$observed/status"; }
half=0
later=0
end=$((SECONDS + minutes * 60))
middle=$((SECONDS + minutes * 30))
report=$SECONDS
churned=0
while [ "$SECONDS" -lt "$end" ]; do
    sleep 2
    kill -0 "$observed" || { echo "the node has died" >&2; exit 1; }
    # One leaves and comes back at once, as itself or as a stranger.
    n=$((1 + RANDOM % nodes))
    kill "${pids[n]}" 2>/dev/null || true
    wait "${pids[n]}" 2>/dev/null || true
    [ $((RANDOM % 2)) = 0 ] && rm -rf "$dir/node$n"
    start "node$n" $((port + n))
    pids[n]=$started
    churned=$((churned + 1))
    # Somebody searches.
    hash=$(printf '%040x' $((RANDOM * RANDOM)))
    HOME="$dir" XDG_STATE_HOME="$dir" timeout 5 "$dhtget" lookup --bootstrap "127.0.0.1:$port" -q "$hash" >/dev/null 2>&1 || true
    now=$(rss)
    if [ "$SECONDS" -lt "$middle" ]; then
        half=$((now > half ? now : half))
    else
        later=$((now > later ? now : later))
    fi
    if [ "$SECONDS" -ge "$report" ]; then
        echo "$(((minutes * 60 - end + SECONDS) / 60)) min: $now KiB resident, $churned restarts of others"
        report=$((SECONDS + 60))
    fi
done
echo "at most $half KiB in the first half, $later KiB in the second"
[ "$later" -le $((half + half / 4)) ]
