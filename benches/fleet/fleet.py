#!/usr/bin/env python3
"""One image to a whole fleet, three ways: dhtget in a keyed network, dhtget in an open one, and one HTTP server with curl.

  fleet.py [--machines 2,5,10,20,40] [--ways keyed,open,http] [--runs 3] [--rate 20] [--size 64] [--stagger 0]
           [--json OUT] [--svg OUT]
  fleet.py --first-byte 11                  from exec to the first verified piece, on a LAN without limits
  fleet.py --from A.json,B.json --svg OUT   table and plot of earlier runs

Each machine is a network namespace with an address and a link of --rate Mbit/s each way (tc tbf) to one switch; one more shares
the image, and one more is the network's bootstrap. Nothing is on any other machine before. All start at once, or one each --stagger seconds, and
stay until the last has the image; every copy is compared by SHA-256. Seconds are from the common start (with --stagger from
each one's own) until a machine said that it is done.

Needs root, nginx, curl and iproute2, and the memory for all copies in --dir. Our binary is $DHTGET, else target/release/dhtget.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import statistics
import sys
import time

sys.dont_write_bytecode = True
ROOT = os.path.abspath(f"{os.path.dirname(os.path.abspath(__file__))}/../..")
sys.path.insert(0, f"{ROOT}/tests/interop")
from lab import Failed, wait_until  # noqa: E402
from machines import Machines  # noqa: E402

import links  # noqa: E402
import plot  # noqa: E402

DHTGET = os.path.abspath(os.environ.get("DHTGET") or f"{ROOT}/target/release/dhtget")
MIB = 1 << 20
PORT = 6881
TICKS = os.sysconf("SC_CLK_TCK")
# Events are read this often; what is measured is late by no more.
LOOK_S = 0.04


class Dhtget:
    """dhtget, in whatever kind of network."""

    def __init__(self, fleet, network):
        self.fleet, self.network = fleet, network
        self._read = {}

    def serve(self, image):
        """Bootstrap node and sharer; returns once the sharer is announced."""
        boot, sharer = self.fleet.boot, self.fleet.sharer
        self.arguments = self.network(boot)
        node = boot.start(DHTGET, "node", "--listen", f"{boot.ip}:{PORT}", "--json", *self.arguments(boot), name="node")
        wait_until(lambda: event(node, "started"), 10, "the bootstrap node listens", [node], LOOK_S)
        share = sharer.start(DHTGET, "share", image, "--json", *self.arguments(sharer), name="share")
        wait_until(lambda: event(share, "dht", lambda e: e.get("announced_to")), 30, "the sharer is announced", [share, node])
        self.magnet = event(share, "shared")["magnet"]
        return [node, share]

    def take(self, machine):
        """The command that fetches, and stays to serve until it is ended."""
        return [DHTGET, self.magnet, "-d", f"{machine.folder}/out", "--seed", "--json", *self.arguments(machine)]

    def done(self, process):
        """Reads only what is new: forty are looked at twenty-five times a second."""
        before = self._read.get(process, 0)
        with open(process.out_path, "rb") as stream:
            stream.seek(before)
            new = stream.read()
        self._read[process] = before + new.rfind(b"\n") + 1
        if process.exit_code is not None:
            raise Failed(f"{process.name} ended with {process.exit_code}\n{process.tail()}")
        return b'"event":"finished"' in new

    def told(self, process):
        """What it says of itself, for the raw results."""
        events = process.events()
        first = next((e["elapsed_s"] for e in events if e["event"] == "progress" and e["downloaded"]), None)
        ends = next((e for e in events if e["event"] == "finished"), {})
        return {
            "started_s": next((e["elapsed_s"] for e in events if e["event"] == "started"), None),
            "metadata_s": next((e["elapsed_s"] for e in events if e["event"] == "metadata"), None),
            "first_piece_s": first,
            "finished_s": ends.get("elapsed_s"),
            "wasted": ends.get("wasted"),
            "uploaded": max((e["uploaded"] for e in events if e["event"] == "progress"), default=0),
            "causes": [[round(e["elapsed_s"], 2), e["cause"], e["why"]] for e in events if e["event"] == "explain"],
        }


def open_network(boot):
    """Plain BitTorrent with a bootstrap address of its own."""
    return lambda machine: ["--bootstrap", f"{boot.ip}:{PORT}"]


def keyed_network(boot):
    """The default kind: made on the bootstrap machine, its file copied to the others."""
    shutil.rmtree(f"{boot.folder}/made", ignore_errors=True)
    os.makedirs(f"{boot.folder}/made")
    made = boot.run("sh", "-c", 'cd made && exec "$@"', "sh", DHTGET, "network", "create", "fleet", "--bootstrap", f"{boot.ip}:{PORT}")
    if made.returncode:
        raise Failed(f"network create ended with {made.returncode}: {made.stderr.strip()}")

    def arguments(machine):
        path = f"{machine.folder}/fleet.network"
        shutil.copy(f"{boot.folder}/made/fleet.network", path)
        return ["--network", path]
    return arguments


class Http:
    """nginx on the sharer, curl on the others."""

    def __init__(self, fleet):
        self.fleet = fleet

    def serve(self, image):
        sharer = self.fleet.sharer
        path = f"{sharer.folder}/nginx.conf"
        with open(path, "w") as out:
            out.write(f"""
                daemon off; user root; worker_processes 1; pid {sharer.folder}/nginx.pid; error_log stderr warn;
                events {{ worker_connections 512; }}
                http {{ access_log off; sendfile on; tcp_nopush on; send_timeout 1h; default_type application/octet-stream;
                    client_body_temp_path {sharer.folder}; proxy_temp_path {sharer.folder}; fastcgi_temp_path {sharer.folder};
                    uwsgi_temp_path {sharer.folder}; scgi_temp_path {sharer.folder};
                    server {{ listen {sharer.ip}:80; root {os.path.dirname(image)}; }} }}""")
        nginx = sharer.start("nginx", "-p", sharer.folder, "-c", path, name="nginx")
        wait_until(lambda: links.reachable(sharer, 80), 10, "nginx listens", [nginx])
        self.url = f"http://{sharer.ip}/{os.path.basename(image)}"
        return [nginx]

    def take(self, machine):
        return ["curl", "-sS", "--create-dirs", "-o", f"{machine.folder}/out/{os.path.basename(self.url)}", self.url]

    def done(self, process):
        if process.exit_code:
            raise Failed(f"curl ended with {process.exit_code}\n{process.tail()}")
        return process.exit_code == 0

    def told(self, _process):
        return {}


WAYS = {
    "keyed": ("dhtget, keyed", lambda fleet: Dhtget(fleet, keyed_network)),
    "open": ("dhtget, open", lambda fleet: Dhtget(fleet, open_network)),
    "http": ("nginx and curl", Http),
}


class Fleet:
    """The machines, and the image on one of them."""

    def __init__(self, network, count, rate, mebibytes):
        self.network = network
        self.boot = network.add("boot", rate, rate)
        self.sharer = network.add("sharer", rate, rate)
        self.machines = [network.add(f"machine-{n + 1}", rate, rate) for n in range(count)]
        network.acquaint()
        self.image = f"{network.folder('image')}/image.bin"
        self.digest = make_image(self.image, mebibytes)
        self.goodput = links.goodput(self.sharer, self.machines[0], 4) if rate else None

    def run(self, way, count, stagger, patience):
        """One delivery to the first `count` machines: what was measured, raw."""
        machines = self.machines[:count]
        for machine in [self.boot, self.sharer, *machines]:
            # Nobody remembers an earlier run.
            shutil.rmtree(machine.folder, ignore_errors=True)
            os.makedirs(machine.folder)
        served = way.serve(self.image)
        try:
            return self._deliver(way, machines, stagger, patience, served)
        finally:
            self.network.stop_processes()

    def _deliver(self, way, machines, stagger, patience, served):
        gates = [Gate(self.network, f"gate-{n}") for n in range(len(machines) if stagger else 1)]
        takers = [gates[n if stagger else 0].start(m, way.take(m)) for n, m in enumerate(machines)]
        for gate in gates:
            gate.wait_full()
        meter, load, busy = links.Meter(self.network, self.goodput), os.getloadavg(), links.processor()
        begun = time.monotonic()
        started, done, next_sample = [None] * len(machines), [None] * len(machines), 0
        while None in done:
            now = time.monotonic() - begun
            for n in range(len(machines)):
                if started[n] is None and now >= n * stagger:
                    gates[n if stagger else 0].open()
                    started[n] = now if stagger else 0.0
                if done[n] is None and started[n] is not None and way.done(takers[n]):
                    done[n] = now
            if now >= next_sample:
                meter.sample(now)
                next_sample += 0.5
            if now > patience:
                raise Failed(f"not within {patience} s: " + "\n".join(t.tail(3) for t, d in zip(takers, done) if d is None))
            time.sleep(LOOK_S)
        meter.sample(now)
        spent = sum(cpu_seconds(p.pid) for p in takers + served if p.exit_code is None)
        result = {
            "seconds": [d - s for s, d in zip(started, done)],
            "load_before": round(load[0], 1),
            "processor": links.processor_share(busy, links.processor()),
            "cpu_s": round(spent, 2),
            "told": [way.told(t) for t in takers],
            "links": meter.report(),
        }
        for taker in takers:
            taker.stop()
        for machine in machines:
            self._compare(machine)
        return result

    def _compare(self, machine):
        path = f"{machine.folder}/out/{os.path.basename(self.image)}"
        if sha256(path) != self.digest:
            raise Failed(f"{machine.name} has other bytes than the sharer")
        shutil.rmtree(f"{machine.folder}/out")


class Gate:
    """Holds commands back just before their exec, and lets them all go at once."""

    SCRIPT = 'exec < "$0"; read -r _; exec < /dev/null "$@"'

    def __init__(self, network, name):
        self.path = f"{network.root}/{name}"
        if not os.path.exists(self.path):
            os.mkfifo(self.path)
        self._held = os.open(self.path, os.O_RDWR)
        self._waiting = []

    def start(self, machine, command):
        process = machine.start("sh", "-c", self.SCRIPT, self.path, *command, name="take")
        self._waiting.append(process)
        return process

    def wait_full(self):
        for process in self._waiting:
            wait_until(lambda: self._stands_at(process.pid), 20, "a command waits for its start", [process], 0.01)

    def _stands_at(self, pid):
        try:
            return os.readlink(f"/proc/{pid}/fd/0") == self.path
        except OSError:
            return False

    def open(self):
        if self._held is not None:
            os.close(self._held)
            self._held = None


def make_image(path, mebibytes):
    """Incompressible, the same on any machine, and its digest."""
    block, whole = b"dhtget fleet", hashlib.sha256()
    with open(path, "wb") as out:
        for _ in range(mebibytes):
            stream = hashlib.shake_128(block).digest(MIB)
            out.write(stream)
            whole.update(stream)
            block = stream[:32]
    return whole.hexdigest()


def sha256(path):
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def event(process, name, fits=lambda _: True):
    return next((e for e in process.events() if e["event"] == name and fits(e)), None)


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stream:
        fields = stream.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def bound(size, goodput, count):
    """Nobody can be faster (Kumar and Ross, 2006): all links alike here."""
    return max(size / goodput, count * size / (goodput + count * goodput))


def measure(options):
    counts = sorted(int(n) for n in options.machines.split(","))
    rate = round(options.rate * 1e6)
    results = []
    with Machines(options.dir, options.keep) as network:
        fleet = Fleet(network, counts[-1], rate, options.size)
        goodput = fleet.goodput
        print(f"a link of {options.rate:g} Mbit/s carries {goodput * 8 / 1e6:.2f} Mbit/s of one TCP stream's payload ({fleet.sharer.congestion})", flush=True)
        for count in counts:
            for run in range(options.runs):
                for key in options.ways.split(","):
                    if key == "http" and run >= options.http_runs:
                        continue
                    result = fleet.run(WAYS[key][1](fleet), count, options.stagger, 300 + 2 * count * options.size * MIB / goodput)
                    result |= {"way": key, "machines": count, "size": options.size * MIB, "goodput": goodput, "rate": rate,
                               "stagger": options.stagger, "congestion": fleet.sharer.congestion, "at": time.strftime("%Y-%m-%d %H:%M")}
                    results.append(result)
                    say_run(result)
                    if options.json:
                        save(options.json, results)
    return results


def save(path, results):
    with open(path + ".new", "w") as out:
        json.dump(results, out, indent=1)
    os.replace(path + ".new", path)


def say_run(r):
    best = bound(r["size"], r["goodput"], r["machines"])
    last = max(r["seconds"])
    first = [t["first_piece_s"] for t in r["told"] if t.get("first_piece_s")]
    print(f"{r['machines']:3} machines, {r['way']:5}: median {statistics.median(r['seconds']):.2f} s, last {last:.2f} s, "
          f"{last / best:.3f} of the bound {best:.2f} s; first piece {max(first, default=0):.2f} s at the latest; "
          f"uplink of the sharer {r['links']['sharer']['up_busy']:.0%} busy, of the machines {r['links']['machines']['up_busy']:.0%}; "
          f"processor {r['processor']['busy']:.0%} busy, load {r['load_before']}", flush=True)


def table(results):
    print("\n| machines | bound, s | " + " | ".join(f"{name}: median, last, s | of the bound" for key, (name, _) in WAYS.items()) + " |")
    print("|---|---|" + "---|---|" * len(WAYS))
    for count in sorted({r["machines"] for r in results}):
        cells = []
        for key in WAYS:
            runs = [r for r in results if r["machines"] == count and r["way"] == key]
            if not runs:
                cells.append("- | -")
                continue
            middle = statistics.median(statistics.median(r["seconds"]) for r in runs)
            lasts = [max(r["seconds"]) for r in runs]
            ratios = [max(r["seconds"]) / bound(r["size"], r["goodput"], count) for r in runs]
            spread = f" ({min(ratios):.2f}-{max(ratios):.2f})" if len(runs) > 1 else ""
            cells.append(f"{middle:.1f}, {statistics.median(lasts):.1f} | {statistics.median(ratios):.2f}{spread}")
        one = next(r for r in results if r["machines"] == count)
        print(f"| {count} | {bound(one['size'], one['goodput'], count):.1f} | " + " | ".join(cells) + " |")


def draw(path, results):
    one = results[0]
    counts = sorted({r["machines"] for r in results})
    size, goodput = one["size"], one["goodput"]
    lines = []
    for key, (name, _) in WAYS.items():
        points = {"median": [], "last": []}
        for count in counts:
            runs = [r["seconds"] for r in results if r["way"] == key and r["machines"] == count]
            if runs:
                points["median"].append((count, statistics.median(statistics.median(s) for s in runs)))
                points["last"].append((count, statistics.median(max(s) for s in runs)))
        if points["last"]:
            lines.append((key, name, points))
    theory = {"bound": [(n, bound(size, goodput, n)) for n in range(1, counts[-1] + 1)],
              "server": [(n, n * size / goodput) for n in range(1, counts[-1] + 1)]}
    with open(path, "w") as out:
        out.write(plot.fleet(counts, lines, theory, size // MIB, one["rate"] / 1e6))
    print(f"drawn: {path}")


def first_byte(options):
    """How long it takes from exec to the first verified piece, where links are no limit and a sharer is there."""
    got = {key: [] for key in options.ways.split(",") if key != "http"}
    with Machines(options.dir, options.keep) as network:
        fleet = Fleet(network, 1, None, options.size)
        for key in got:
            for run in range(options.first_byte):
                result = fleet.run(WAYS[key][1](fleet), 1, 0, 60)
                got[key].append(result["told"][0] | {"load": result["load_before"]})
    for key, runs in got.items():
        for what in ("started_s", "metadata_s", "first_piece_s"):
            values = sorted(1000 * r[what] for r in runs)
            print(f"{WAYS[key][0]}: {what[:-2]:12} after {statistics.median(values):4.0f} ms ({values[0]:.0f}-{values[-1]:.0f}), "
                  f"{len(values)} runs, load {min(r['load'] for r in runs)}-{max(r['load'] for r in runs)}")
    if options.json:
        save(options.json, got)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", default="2,5,10,20,40", help="how many take it")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--http-runs", type=int, default=1, help="of these, so many with HTTP: it takes long and varies little")
    parser.add_argument("--rate", type=float, default=20, help="Mbit/s of each link, each way")
    parser.add_argument("--size", type=int, default=64, help="MiB of the image")
    parser.add_argument("--stagger", type=float, default=0, help="seconds from one machine's start to the next")
    parser.add_argument("--dir", default="/dev/shm", help="a folder in memory, for all copies")
    parser.add_argument("--json", metavar="OUT", help="keep the raw results")
    parser.add_argument("--svg", metavar="OUT", help="draw them")
    parser.add_argument("--from", dest="earlier", metavar="FILES", help="measure nothing: results that --json kept")
    parser.add_argument("--first-byte", type=int, metavar="RUNS", help="measure the start instead")
    parser.add_argument("--keep", action="store_true", help="keep the machines' folders")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the machines are put away
    missing = [p for p in ("nsenter", "tc", "ip", "nginx", "curl", DHTGET) if not shutil.which(p)]
    if missing and not options.earlier:
        raise SystemExit(f"not here: {', '.join(missing)}")
    if options.first_byte:
        return first_byte(options)
    if options.earlier:
        results = []
        for path in options.earlier.split(","):
            with open(path) as stream:
                results += json.load(stream)
    else:
        results = measure(options)
    table(results)
    if options.svg:
        draw(options.svg, results)


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        raise SystemExit(f"failed: {failure}") from None
