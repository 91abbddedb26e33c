#!/usr/bin/env python3
"""What the seal of a keyed network costs: dhtget fetches from dhtget on loopback, in an open and in a keyed network by turns.

  sealing.py [--size 1024] [--runs 5] [--dir /dev/shm]

Needs root and what tests/interop/setup.sh installs; the binary is $DHTGET, else target/release/dhtget. Prints for each kind the median
(min-max) of wall seconds from exec to exit, MiB/s, CPU seconds a GiB of both sides together, then the ratio.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
from installed import DHTGET, ROOT
from leech import LEECHER, SEEDER, make_payload, stop

KINDS = ("open", "keyed")


def cpu(pid):
    """Seconds of processor time that a process has used."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def network(folder, kind):
    path = f"{folder}/{kind}.network"
    flags = ["--open"] if kind == "open" else []
    subprocess.run([DHTGET, "network", "create", kind, "--bootstrap", SEEDER, "-o", path, "-q", *flags],
                   check=True, stdout=subprocess.DEVNULL)
    return path


def fetch(folder, payload, kind, size):
    """One download; wall seconds and CPU seconds of both sides."""
    common = ["--network", f"{folder}/{kind}.network", "--no-state"]
    seeder = subprocess.Popen([DHTGET, "share", payload, "--listen", SEEDER, *common, "-q"], stdout=subprocess.PIPE, text=True)
    try:
        magnet = seeder.stdout.readline().strip()
        time.sleep(0.5)
        target, before, start = f"{folder}/got", cpu(seeder.pid), time.monotonic()
        leecher = subprocess.Popen([DHTGET, magnet, "--listen", LEECHER, "--peer", SEEDER, "-d", target, "-q", *common])
        _, status, usage = os.wait4(leecher.pid, 0)
        wall = time.monotonic() - start
        if status:
            raise SystemExit(f"the {kind} download failed: {status}")
        if os.path.getsize(f"{target}/{os.path.basename(payload)}") != size << 20:
            raise SystemExit("the copy has another size")
        shutil.rmtree(target)
        return wall, usage.ru_utime + usage.ru_stime + cpu(seeder.pid) - before
    finally:
        stop(seeder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="MiB")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dir", default="/dev/shm")
    options = parser.parse_args()
    sys.path.insert(0, f"{ROOT}/tests/interop")
    from lab import Lab
    lab = Lab()
    folder = f"{options.dir}/dhtget-sealing-{os.getpid()}"
    os.makedirs(folder)
    seen = {kind: [] for kind in KINDS}
    try:
        payload = make_payload(folder, options.size)
        for kind in KINDS:
            network(folder, kind)
        for run in range(options.runs):
            for kind in KINDS if run % 2 == 0 else reversed(KINDS):
                seen[kind].append(fetch(folder, payload, kind, options.size))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lab.close()
    medians = {}
    for kind, runs in seen.items():
        walls, cpus = ([r[n] for r in runs] for n in (0, 1))
        wall, used = statistics.median(walls), statistics.median(cpus) * 1024 / options.size
        medians[kind] = wall, used
        print(f"{kind:6} {wall:6.2f} s ({min(walls):.2f}-{max(walls):.2f})  {options.size / wall:6.0f} MiB/s  {used:5.2f} CPU s/GiB")
    (open_wall, open_cpu), (keyed_wall, keyed_cpu) = medians["open"], medians["keyed"]
    print(f"keyed: {open_wall / keyed_wall:.2f} of the throughput, {keyed_cpu / open_cpu:.2f} times the processor time")


if __name__ == "__main__":
    main()
