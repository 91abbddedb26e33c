#!/usr/bin/env python3
"""One leecher after the other, interleaved: dhtget and libtorrent fetch the same payload from the same seeder on loopback.

  leech.py [--size 1024] [--runs 5] [--seeder dhtget|libtorrent] [--dir /dev/shm]

Needs root and what tests/interop/setup.sh installs; the binary is $DHTGET, else target/release/dhtget. The leecher is given
the seeder's address, so that the DHT has no part in it. Prints, for each leecher, the median (min-max) of wall seconds from
exec to exit, MiB/s, CPU seconds a GiB and peak MiB, then the ratios to libtorrent.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
from installed import DHTGET, PYTHON, ROOT

SEEDER, LEECHER = "198.18.1.1:6881", "198.18.2.1:6881"
PATIENCE = 300

LIBTORRENT = """
import json, os, sys, libtorrent as lt
role, listen, source, folder, peer = sys.argv[1:6]
s = lt.session({"listen_interfaces": listen, "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
                "enable_outgoing_utp": False, "enable_incoming_utp": False, "out_enc_policy": 2, "in_enc_policy": 2,
                "alert_mask": lt.alert.category_t.status_notification})
if role == "seed":
    p = lt.add_torrent_params(); p.ti = lt.torrent_info(source); p.flags |= lt.torrent_flags.seed_mode
else:
    p = lt.parse_magnet_uri(source)
p.save_path = folder
p.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
h = s.add_torrent(p)
if role == "leech":
    ip, port = peer.rsplit(":", 1); h.connect_peer((ip, int(port)))
while True:
    s.wait_for_alert(1000)
    for a in s.pop_alerts():
        if isinstance(a, lt.torrent_finished_alert) and role == "leech":
            h.flush_cache(); s.pause(); del h, s; os._exit(0)
"""


def leechers(magnet, folder):
    return {
        "dhtget": [DHTGET, magnet, "--no-dht", "--no-state", "--listen", LEECHER, "--peer", SEEDER, "-d", folder, "-q"],
        "libtorrent": [PYTHON, "-c", LIBTORRENT, "leech", LEECHER, magnet, folder, SEEDER],
    }


def make_payload(folder, mebibytes):
    """Incompressible and the same on any machine."""
    path, block = f"{folder}/payload.bin", b"dhtget"
    with open(path, "wb") as out:
        for _ in range(mebibytes):
            stream = hashlib.shake_128(block).digest(1 << 20)
            out.write(stream)
            block = stream[:32]
    return path


def share(folder, path, kind):
    """Starts the seeder and returns it with its magnet link."""
    torrent = f"{folder}/payload.torrent"
    command = [DHTGET, "share", path, "--torrent", torrent, "--no-dht", "--no-state", "--listen", SEEDER, "--json"]
    seeder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in seeder.stdout:
        event = json.loads(line)
        if event["event"] == "shared":
            break
    else:
        raise SystemExit("dhtget share ended before it shared")
    if kind == "libtorrent":
        stop(seeder)
        seeder = subprocess.Popen([PYTHON, "-c", LIBTORRENT, "seed", SEEDER, torrent, folder, "-"])
        time.sleep(2)
    return seeder, event["magnet"]


def stop(process):
    process.terminate()
    process.wait(20)


def measure(command, seeded, target):
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target)
    begun = time.monotonic()
    child = subprocess.Popen(command)
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - begun > PATIENCE:
            child.kill()
        time.sleep(0.002)
    took = time.monotonic() - begun
    child.returncode = os.waitstatus_to_exitcode(status)
    same = child.returncode == 0 and subprocess.run(["cmp", "-s", seeded, f"{target}/payload.bin"]).returncode == 0
    if not same:
        raise SystemExit(f"{command[0]} ended with {child.returncode} or other bytes")
    return took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def shown(values, form):
    return f"{form.format(statistics.median(values))} ({form.format(min(values))}-{form.format(max(values))})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seeder", choices=["dhtget", "libtorrent"], default="dhtget")
    parser.add_argument("--dir", default="/dev/shm")
    options = parser.parse_args()
    sys.path.insert(0, f"{ROOT}/tests/interop")
    from lab import Lab
    lab = Lab()
    folder = f"{options.dir}/dhtget-bench-{os.getpid()}"
    os.makedirs(folder)
    seeder = None
    try:
        path = make_payload(folder, options.size)
        seeder, magnet = share(folder, path, options.seeder)
        got = {name: [] for name in leechers("", "")}
        # The first to write that much pays for the machine's memory being touched at all.
        measure(leechers(magnet, f"{folder}/out")["libtorrent"], path, f"{folder}/out")
        for run in range(options.runs):
            for name, command in leechers(magnet, f"{folder}/out").items():
                got[name].append(measure(command, path, f"{folder}/out"))
                print(f"run {run + 1} {name:10} {got[name][-1][0]:.2f} s", file=sys.stderr, flush=True)
    finally:
        if seeder:
            stop(seeder)
        shutil.rmtree(folder, ignore_errors=True)
        lab.close()
    gib = options.size / 1024
    print(f"{options.size} MiB to {options.dir} from {options.seeder}, {options.runs} interleaved runs")
    print("| leecher | seconds | MiB/s | CPU s/GiB | peak MiB |\n|---|---|---|---|---|")
    for name, runs in got.items():
        seconds, cpu, peak = zip(*runs)
        print(f"| {name} | {shown(seconds, '{:.2f}')} | {shown([options.size / s for s in seconds], '{:.0f}')} "
              f"| {shown([c / gib for c in cpu], '{:.2f}')} | {shown(peak, '{:.0f}')} |")
    ours, theirs = ([statistics.median(c) for c in zip(*got[name])] for name in ("dhtget", "libtorrent"))
    print(f"dhtget / libtorrent: speed {theirs[0] / ours[0]:.2f}, CPU {ours[1] / theirs[1]:.2f}, memory {ours[2] / theirs[2]:.2f}")


if __name__ == "__main__":
    main()
