#!/usr/bin/env python3
"""One DHT node after the other, interleaved, flooded on loopback from 256 addresses; beside them a bare echo in batches.

  dht_flood.py [--runs 3] [--seconds 3] [--kinds ping,find_node,get_peers,announce] [--targets dhtget,libtorrent,echo]

Needs Linux, two processors or more, and what tests/interop/setup.sh installs; the binaries are $DHTGET, else
target/release/dhtget, and $DHT_FLOOD, else target/release/examples/dht_flood. Each node first fills its table with 200
others that the flood plays. `announce` is get_peers and, with its token, announce_peer; both answers count. Prints, for each kind, medians (min-max) of answers a second and of answers for each CPU second of the node (user and
system, all threads), then dhtget's ratio to the others.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
from installed import DHTGET, FLOOD, PYTHON

NODES = [f"127.1.0.{n}:7000" for n in range(1, 9)]
WARM_UP_S = 2

# Without its limits on strangers and on addresses alike, which would decide the comparison; its answers stay the same.
LIBTORRENT = """
import sys, time, libtorrent as lt
s = lt.session({"listen_interfaces": sys.argv[1], "enable_dht": True, "enable_lsd": False, "enable_upnp": False,
                "enable_natpmp": False, "dht_bootstrap_nodes": sys.argv[2], "dht_upload_rate_limit": 100_000_000,
                "dht_block_ratelimit": 100_000, "dht_restrict_routing_ips": False, "dht_restrict_search_ips": False,
                "dht_enforce_node_id": False, "dht_prefer_verified_node_ids": False, "dht_ignore_dark_internet": False,
                "alert_mask": 0})
for node in sys.argv[2].split(","):
    ip, port = node.rsplit(":", 1)
    s.add_dht_node((ip, int(port)))
time.sleep(3600)
"""


def commands(name):
    """Where it listens, and what starts it."""
    if name == "dhtget":
        boot = [f"--bootstrap={node}" for node in NODES]
        return "127.0.0.1:7101", [DHTGET, "node", "--listen", "127.0.0.1:7101", "--no-state", "-q", *boot]
    if name == "libtorrent":
        return "127.0.0.1:7102", [PYTHON, "-W", "ignore", "-c", LIBTORRENT, "127.0.0.1:7102", ",".join(NODES)]
    return "127.0.0.1:7103", [FLOOD, "echo", "127.0.0.1:7103"]


def measure(name, kinds, seconds):
    addr, command = commands(name)
    flood_on, node_on = sorted(os.sched_getaffinity(0))[:2]
    node = subprocess.Popen(command, preexec_fn=lambda: os.sched_setaffinity(0, {node_on}))
    try:
        time.sleep(WARM_UP_S)
        if node.poll() is not None:
            sys.exit(f"{name} ended with {node.returncode}")
        kinds = ["echo"] if name == "echo" else kinds
        flood = [FLOOD, "load", addr, str(node.pid), str(seconds), *kinds]
        pin = lambda: os.sched_setaffinity(0, {flood_on})
        out = subprocess.run(flood, check=True, stdout=subprocess.PIPE, text=True, preexec_fn=pin).stdout
    finally:
        node.kill()
        node.wait()
    return [json.loads(line) for line in out.splitlines()]


def spread(values):
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--kinds", default="ping,find_node,get_peers,announce")
    parser.add_argument("--targets", default="dhtget,libtorrent,echo")
    args = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two processors are needed: one floods, the other answers")
    kinds, targets = args.kinds.split(","), args.targets.split(",")
    rates, per_cpu = {}, {}
    for _ in range(args.runs):
        for target in targets:
            for one in measure(target, kinds, args.seconds):
                if one["errors"] or not one["answered"]:
                    sys.exit(f"{target} refused or was silent: {one}")
                key = (target, one["kind"])
                rates.setdefault(key, []).append(one["answered"] / one["seconds"])
                per_cpu.setdefault(key, []).append(one["answered"] / max(one["cpu_s"], 0.01))
    print("| target | query | answers a second | answers a CPU second |\n|---|---|---|---|")
    for target, kind in rates:
        key = (target, kind)
        print(f"| {target} | {kind} | {spread(rates[key])} | {spread(per_cpu[key])} |")
    best = {key: statistics.median(values) for key, values in per_cpu.items()}
    for kind in kinds if "dhtget" in targets else []:
        others = {t: best.get((t, kind), best.get((t, "echo"))) for t in targets if t != "dhtget"}
        ratios = ", ".join(f"{best['dhtget', kind] / value:.2f} x {t}" for t, value in others.items() if value)
        print(f"{kind}: {ratios}")


if __name__ == "__main__":
    main()
