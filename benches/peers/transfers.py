#!/usr/bin/env python3
"""The same work done by each client in turn, interleaved: dhtget, libtorrent, aria2, rqbit, Transmission on loopback.

  transfers.py [--rows one,big,disk,four,small,seed,eight] [--clients dhtget,libtorrent,aria2,rqbit,transmission] [--runs 3]

As leecher, from dhtget seeders: `one` 1 GiB in one file to tmpfs, `big` 4 GiB, `disk` 1 GiB to --disk, `four` 1 GiB from four
seeders, `small` 5,000 files of 50 KiB. As seeder, for dhtget leechers: `seed` 1 GiB to one, `eight` 256 MiB to eight.
Prints, for each row and client, the median (min-max) of seconds from exec to the last verified byte, MiB/s, CPU seconds a GiB
(user and system, all threads) and peak MiB, and how we compare with the best of the others. A seeder's rate is what all takers
received; its processor is charged to what it sent itself, as eight takers give each other a part.

Needs root, the memory for what it moves, and what tests/interop/setup.sh installs; our binary is $DHTGET, else
target/release/dhtget. rqbit is $RQBIT, else `rqbit` on the path (`cargo install rqbit`), and left out where there is none. Whoever
takes no peer by hand (aria2, Transmission) gets the seeders from a tracker in this script.
"""

import argparse
import hashlib
import http.client
import http.server
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
from installed import DHTGET, PYTHON, ROOT

if os.path.realpath(sys.prefix) != os.path.realpath(os.path.dirname(os.path.dirname(PYTHON))):
    os.execv(PYTHON, [PYTHON, os.path.abspath(__file__), *sys.argv[1:]])
os.environ["DHTGET"] = DHTGET
sys.path.insert(0, f"{ROOT}/tests/interop")
import clients  # noqa: E402
from lab import Failed, Lab  # noqa: E402
from torrents import Torrent, bdecode, bencode  # noqa: E402

# The program, read before any process gets a HOME of its own.
RQBIT = os.environ.get("RQBIT") or shutil.which("rqbit") or shutil.which("rqbit", path=os.path.expanduser("~/.cargo/bin"))
PATIENCE = 400
MIB = 1 << 20
PIECE = MIB
TICKS = os.sysconf("SC_CLK_TCK")


class Tracker:
    """Answers every announce with all seeders (BEP 23)."""

    def __init__(self, ip, seeders):
        peers = b"".join(bytes(map(int, a.split(":")[0].split("."))) + int(a.split(":")[1]).to_bytes(2, "big") for a in seeders)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = bencode({"interval": 1800, "peers": peers})
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((ip, 8000), Handler)
        self.url = f"http://{ip}:8000/announce"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def payload(folder, name, files, each):
    """Incompressible and the same on any machine: `files` files of `each` bytes."""
    os.makedirs(f"{folder}/{name}")
    block = name.encode()
    for number in range(files):
        with open(f"{folder}/{name}/{number:05}", "wb") as out:
            left = each
            while left:
                stream = hashlib.shake_128(block).digest(min(left, MIB))
                out.write(stream)
                block, left = stream[:32] + bytes([number % 251]), left - len(stream)
    with open(f"{folder}/{name}/tail", "wb") as out:
        out.write(b"the last piece is a short one")
    torrent = Torrent(folder, name).pack(PIECE)
    torrent.packed = (torrent.file, torrent.info_hash)
    return torrent


def tracked(torrent, url):
    """The same torrent with a tracker, beside the first."""
    with open(torrent.file, "rb") as stream:
        meta = bdecode(stream.read())
    path = torrent.file.replace(".torrent", ".tracked.torrent")
    with open(path, "wb") as out:
        out.write(bencode({**{k.decode(): v for k, v in meta.items()}, "announce": url}))
    return path


class Rqbit(clients.Client):
    """Takes peers by hand. Its port is open on every address of the namespace, so each has one of its own."""

    name = "rqbit"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.port = clients.PORT + int(self.ip.split(".")[2])

    def seed(self, torrents):
        return self._run(torrents[0].parent, "--overwrite", torrents[0].file)

    def leech(self, torrent, peers):
        return self._run(self.out, "--initial-peers", ",".join(peers), torrent.file)

    def _run(self, folder, *arguments):
        self._start([RQBIT, "-v", "warn", "--listen-ip", "0.0.0.0", "--listen-port", str(self.port), "--ipv4-only", "--disable-dht",
                     "--disable-lsd", "--disable-upnp-port-forward", "--http-api-listen-addr", f"{self.ip}:3030",
                     "download", "-o", folder, *arguments])
        return self

    def is_done(self, _torrent):
        connection = http.client.HTTPConnection(self.ip, 3030, timeout=5)
        try:
            connection.request("GET", "/torrents/0/stats/v1")
            return json.loads(connection.getresponse().read()).get("finished", False)
        except (OSError, ValueError):
            return False
        finally:
            connection.close()


def start_leecher(kind, lab, folder, torrent, seeders, url):
    if kind == "dhtget":
        return clients.Dhtget(lab, folder, (), kind).fetch(torrent.file, "--no-dht", "--seed", peers=seeders)
    if kind == "libtorrent":
        client = clients.Libtorrent(lab, folder, (), kind)
        # It would try an encrypted connection first, and come back after a second.
        plain = {"out_enc_policy": 2, "in_enc_policy": 2}
        return client._run(torrents=[[torrent.file, client.out]], connect=seeders, settings=plain)
    if kind == "aria2":
        return clients.Aria2(lab, folder, (), kind).leech([tracked(torrent, url)])
    if kind == "rqbit":
        return Rqbit(lab, folder, (), kind).leech(torrent, seeders)
    client = clients.Transmission(lab, folder, (), kind)
    return client._run([{"metainfo": clients._base64(tracked(torrent, url)), "download-dir": client.out}])


def start_seeder(kind, lab, folder, torrent):
    # `dhtget share` makes a torrent of its own; whoever comes after it needs the one that was packed.
    torrent.file, torrent.info_hash = torrent.packed
    if kind == "dhtget":
        return clients.Dhtget(lab, folder, (), kind).share(torrent, "--no-dht")
    seeder = {"libtorrent": clients.Libtorrent, "aria2": clients.Aria2, "rqbit": Rqbit, "transmission": clients.Transmission}[kind]
    return seeder(lab, folder, (), kind).seed([torrent])


def cpu(pid):
    with open(f"/proc/{pid}/stat") as stream:
        fields = stream.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak(pid):
    with open(f"/proc/{pid}/status") as stream:
        return next(int(line.split()[1]) / 1024 for line in stream if line.startswith("VmHWM"))


def until(condition, what):
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > PATIENCE:
            raise Failed(f"not within {PATIENCE} s: {what}")
        time.sleep(0.02)


class Row:
    def __init__(self, name, mebibytes, files=1, seeders=1, leechers=0, disk=False):
        self.name, self.files, self.seeders, self.leechers, self.disk = name, files, seeders, leechers, disk
        self.each = mebibytes * MIB // files

    def run(self, kind, lab, folder, torrent):
        """One measurement: seconds, CPU seconds, peak MiB, bytes moved by whom is measured, bytes that arrived."""
        return self.as_seeder(kind, lab, folder, torrent) if self.leechers else self.as_leecher(kind, lab, folder, torrent)

    def as_leecher(self, kind, lab, folder, torrent):
        seeders = [clients.Dhtget(lab, folder, (), f"seeder {n}").share(torrent, "--no-dht") for n in range(self.seeders)]
        tracker = Tracker(lab.address(), [s.address for s in seeders])
        begun = time.monotonic()
        leecher = start_leecher(kind, lab, folder, torrent, [s.address for s in seeders], tracker.url)
        until(lambda: leecher.is_done(torrent), f"{kind} fetched {torrent.name}")
        took = time.monotonic() - begun
        spent, most = cpu(leecher.process.pid), peak(leecher.process.pid)
        for client in [leecher, *seeders]:
            client.stop()
        tracker.stop()
        if kind != "transmission":  # it makes no empty files and ends in its own time
            leecher.check([torrent])
        return took, spent, most, torrent.bytes, torrent.bytes

    def as_seeder(self, kind, lab, folder, torrent):
        seeder = start_seeder(kind, lab, folder, torrent)
        if kind in ("rqbit", "transmission"):
            until(lambda: seeder.is_done(torrent), f"{kind} has read what it seeds")
        time.sleep(2 + torrent.bytes / (256 * MIB))
        before = cpu(seeder.process.pid)
        begun = time.monotonic()
        takers = [clients.Dhtget(lab, folder, (), f"taker {n}").fetch(torrent.file, "--no-dht", peers=[seeder.address])
                  for n in range(self.leechers)]
        until(lambda: all(t.is_done(torrent) for t in takers), f"{self.leechers} were fed by {kind}")
        took = time.monotonic() - begun
        # Takers find each other: what they gave each other did not come from the seeder.
        ends = [t.event("finished") for t in takers]
        moved = sum(e["downloaded"] - e["uploaded"] for e in ends)
        spent, most = cpu(seeder.process.pid) - before, peak(seeder.process.pid)
        for client in [*takers, seeder]:
            client.stop()
        return took, spent, most, moved, self.leechers * torrent.bytes


ROWS = {
    "one": Row("1 GiB, tmpfs", 1024),
    "big": Row("4 GiB, tmpfs", 4096),
    "disk": Row("1 GiB, disk", 1024, disk=True),
    "four": Row("1 GiB, four seeders", 1024, seeders=4),
    "small": Row("5,000 files of 50 KiB", 245, files=5000),
    "seed": Row("seeder of 1 GiB to one", 1024, leechers=1),
    "eight": Row("seeder of 256 MiB to eight", 256, leechers=8),
}


def shown(values, form):
    return f"{form.format(statistics.median(values))} ({form.format(min(values))}-{form.format(max(values))})"


def report(row, got):
    print(f"\n{row.name}\n| client | seconds | MiB/s | CPU s/GiB | peak MiB |\n|---|---|---|---|---|")
    medians = {}
    for kind, runs in got.items():
        seconds = [r[0] for r in runs]
        rates = [r[4] / MIB / r[0] for r in runs]
        costs = [r[1] / (r[3] / MIB / 1024) for r in runs]
        peaks = [r[2] for r in runs]
        medians[kind] = (statistics.median(rates), statistics.median(costs), statistics.median(peaks))
        print(f"| {kind} | {shown(seconds, '{:.2f}')} | {shown(rates, '{:.0f}')} | {shown(costs, '{:.2f}')} | {shown(peaks, '{:.0f}')} |")
    others = [m for kind, m in medians.items() if kind != "dhtget"]
    if "dhtget" in medians and others:
        ours = medians["dhtget"]
        print(f"dhtget to the best other of each column: speed {ours[0] / max(o[0] for o in others):.2f}, "
              f"CPU {ours[1] / min(o[1] for o in others):.2f}, memory {ours[2] / min(o[2] for o in others):.2f}", flush=True)


def measure_row(row, kinds, runs, base):
    place = base["disk" if row.disk else "memory"]
    tempfile.tempdir = place
    lab = Lab()
    got = {kind: [] for kind in kinds}
    try:
        torrent = payload(lab.folder("payload"), "payload", row.files, row.each)
        for run in range(-1, runs):
            for kind in kinds:
                # The first to write that much pays for the machine's memory being touched at all: not counted.
                if run < 0 and kind != kinds[0]:
                    continue
                folder = f"{kind}-{run}"
                got[kind].append(row.run(kind, lab, folder, torrent))
                if run < 0:
                    got[kind].pop()
                else:
                    print(f"{row.name}: run {run + 1} {kind:12} {got[kind][-1][0]:.2f} s", file=sys.stderr, flush=True)
                lab.end_of(folder)
    finally:
        lab.close()
    report(row, got)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--clients", default="dhtget,libtorrent,aria2,rqbit,transmission")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory", default="/dev/shm", help="a folder in memory")
    parser.add_argument("--disk", default="/var/tmp", help="a folder on disk")
    options = parser.parse_args()
    for name in options.rows.split(","):
        # Each row in a process of its own, since each enters a namespace of its own.
        if "," in options.rows:
            arguments = [a for a in sys.argv[1:] if not a.startswith("--rows")]
            if "--rows" in sys.argv:
                at = sys.argv.index("--rows")
                arguments = sys.argv[1:at] + sys.argv[at + 2:]
            subprocess.run([PYTHON, os.path.abspath(__file__), "--rows", name, *arguments], check=True)
        else:
            kinds = [kind for kind in options.clients.split(",") if kind != "rqbit" or RQBIT]
            measure_row(ROWS[name], kinds, options.runs, {"memory": options.memory, "disk": options.disk})


main()
