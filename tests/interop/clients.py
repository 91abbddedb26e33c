"""Each real client as seeder and as leecher, and dhtget beside them, behind one small interface.

A client owns one address and one process. `seed(torrents)` shares folders in place, `leech(magnets)` fetches,
`wait_done` waits for every one of them. PEX, local discovery and uTP are off where a case does not ask for them: what is
found is found through the DHT or was named. Encryption stays at each client's default.
"""

import base64
import http.client
import json
import os
import shutil
import sys

from lab import Failed, Process, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
PORT = 6881


def interop_home():
    """Where setup.sh puts what does not come from apt."""
    return os.environ.get("DHTGET_INTEROP_HOME") or os.path.expanduser("~/.cache/dhtget-interop")


# Read before any process gets a HOME of its own.
NODE_HOME = f"{interop_home()}/node"


def dhtget_binary():
    path = os.environ.get("DHTGET") or os.path.join(HERE, "..", "..", "target", "release", "dhtget")
    return os.path.abspath(path)


class Client:
    """What all have in common. `slow_dht`: it needs half a minute before its first lookup."""

    name = ""
    ignores = ()  # endings of files of its own that it leaves beside the payload
    makes_empty_files = True

    def __init__(self, lab, folder, bootstrap=(), label=None):
        self.lab, self.bootstrap = lab, list(bootstrap)
        self.label = label or self.name
        self.ip = lab.address()
        self.port = PORT
        self.work = lab.folder(folder, self.label)
        self.out = lab.folder(folder, self.label, "out")
        self.process = None

    @property
    def address(self):
        return f"{self.ip}:{self.port}"

    def _start(self, command, env=None):
        self.process = Process(self.lab, command, self.work, self.label.replace(" ", "-"), env)

    def wait_done(self, torrents, seconds):
        """Waits until all are complete, then compares every byte."""
        wait_until(lambda: all(self.is_done(t) for t in torrents), seconds,
                   f"{self.label} fetched {', '.join(t.name for t in torrents)}", [self.process])
        self.check(torrents)

    def check(self, torrents):
        from torrents import differences
        for torrent in torrents:
            said = differences(torrent.path, f"{self.out}/{torrent.name}", self.ignores, self.makes_empty_files)
            if said:
                raise Failed(f"{self.label}: {'; '.join(said)}")

    def stop(self):
        if self.process:
            self.process.stop()


class Libtorrent(Client):
    name = "libtorrent"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.config = {"role": "peer", "listen": self.address, "bootstrap": self.bootstrap, "save": self.out,
                       "direct": not self.bootstrap}

    def seed(self, torrents, **config):
        return self._run(torrents=[[t.file, t.parent] for t in torrents], **config)

    def leech(self, magnets, peers=(), **config):
        return self._run(magnets=magnets, connect=list(peers), **config)

    def look_up(self, info_hashes):
        return self._run(lookup=info_hashes)

    def _run(self, **config):
        self._start([sys.executable, f"{HERE}/libtorrent_peer.py", json.dumps({**self.config, **config})])
        return self

    def is_done(self, torrent):
        return any(e["event"] == "done" and e["hash"] == torrent.info_hash for e in self.process.events())

    def peers_seen(self, info_hash):
        return {p for e in self.process.events() if e["event"] == "peers" and e["hash"] == info_hash for p in e["peers"]}

    def uploaded(self, torrent):
        stats = [e["torrents"] for e in self.process.events() if e["event"] == "stats"]
        return stats[-1].get(torrent.info_hash, [0, 0, 0])[1] if stats else 0


class Aria2(Client):
    """Takes one DHT entry point; its first lookup comes after ten seconds, its announce up to ten more later."""

    name = "aria2"
    ignores = (".aria2",)

    def seed(self, torrents):
        for torrent in torrents:
            assert torrent.parent == torrents[0].parent
        return self._run(torrents[0].parent, [t.file for t in torrents], "--check-integrity=true", "--bt-hash-check-seed=true")

    def leech(self, magnets, peers=()):
        assert not peers, "aria2 takes no peer by hand, and ignores x.pe"
        return self._run(self.out, magnets)

    def _run(self, folder, uris, *options):
        dht = [f"--dht-entry-point={self.bootstrap[0]}", "--enable-dht=true"] if self.bootstrap else ["--enable-dht=false"]
        self._start([
            "aria2c", "--no-conf", "--no-netrc", f"--interface={self.ip}", "--disable-ipv6", f"--dir={folder}",
            "--enable-rpc", "--rpc-listen-all=true", "--rpc-listen-port=6800",
            *dht, "--enable-dht6=false", f"--dht-listen-port={PORT}", f"--dht-file-path={self.work}/dht.dat",
            f"--listen-port={PORT}", "--bt-enable-lpd=false", "--enable-peer-exchange=false", "--bt-max-peers=0",
            "--seed-ratio=0.0", "--file-allocation=none", "--force-sequential=false", "--max-concurrent-downloads=20",
            "--console-log-level=notice", "--summary-interval=0", *options, *uris,
        ])
        return self

    def _call(self, method, *params):
        connection = http.client.HTTPConnection(self.ip, 6800, timeout=5)
        try:
            connection.request("POST", "/jsonrpc", json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
            return json.loads(connection.getresponse().read())["result"]
        except (OSError, ValueError, KeyError):
            return []
        finally:
            connection.close()

    def is_done(self, torrent):
        keys = ["status", "totalLength", "completedLength", "infoHash", "bittorrent"]
        downloads = self._call("aria2.tellActive", keys) + self._call("aria2.tellStopped", 0, 100, keys)
        return any(
            d.get("infoHash") == torrent.info_hash and "info" in d.get("bittorrent", {})
            and int(d["totalLength"]) > 0 and d["completedLength"] == d["totalLength"]
            for d in downloads
        )


class Transmission(Client):
    """Reads `dht.bootstrap` from its folder; looks for peers once, 10 s (4.x) to 35 s (3.00) after its start.

    The next lookup comes 25 minutes later, so whoever it is to find must be announced by then.
    """

    name = "transmission"
    ignores = (".part",)
    makes_empty_files = False
    settings = {
        "dht-enabled": True, "lpd-enabled": False, "pex-enabled": False, "utp-enabled": False,
        "port-forwarding-enabled": False, "peer-port-random-on-start": False,
        "rpc-port": 9091, "rpc-authentication-required": False, "rpc-whitelist-enabled": False,
        "rpc-host-whitelist-enabled": False, "download-queue-enabled": False, "seed-queue-enabled": False,
        "rename-partial-files": False, "preallocation": 0, "message-level": 1,
    }

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Beside its own address it always binds the port on `::`, which all in this namespace share.
        self.port = PORT + int(self.ip.split(".")[2])

    def seed(self, torrents):
        return self._run([{"metainfo": _base64(t.file), "download-dir": t.parent} for t in torrents])

    def leech(self, magnets, peers=(), **settings):
        assert not peers, "Transmission takes no peer by hand"
        return self._run([{"filename": m, "download-dir": self.out} for m in magnets], settings)

    def _run(self, adds, more=None):
        settings = {**self.settings, **(more or {}), "peer-port": self.port, "dht-enabled": bool(self.bootstrap), "bind-address-ipv4": self.ip,
                    "rpc-bind-address": self.ip, "download-dir": self.out}
        with open(f"{self.work}/settings.json", "w") as out:
            json.dump(settings, out)
        with open(f"{self.work}/dht.bootstrap", "w") as out:
            out.writelines(b.replace(":", " ") + "\n" for b in self.bootstrap)
        self._session = ""
        self._start(["transmission-daemon", "--foreground", "--config-dir", self.work])
        for add in adds:
            wait_until(lambda: self._call("torrent-add", paused=False, **add), 20, "Transmission took a torrent", [self.process])
        return self

    def _call(self, method, **arguments):
        body = json.dumps({"method": method, "arguments": arguments})
        for _ in range(2):
            connection = http.client.HTTPConnection(self.ip, 9091, timeout=5)
            try:
                connection.request("POST", "/transmission/rpc", body, {"X-Transmission-Session-Id": self._session})
                response = connection.getresponse()
                data = response.read()
            except OSError:
                return None
            finally:
                connection.close()
            if response.status != 409:
                break
            self._session = response.getheader("X-Transmission-Session-Id")
        reply = json.loads(data)
        if method == "torrent-add" and reply["result"] != "success":
            raise Failed(f"Transmission refused a torrent: {reply['result']}")
        return reply["arguments"] or {"done": True}

    def is_done(self, torrent):
        fields = ["hashString", "metadataPercentComplete", "leftUntilDone", "sizeWhenDone", "haveValid", "errorString"]
        found = (self._call("torrent-get", fields=fields) or {}).get("torrents", [])
        return any(
            t["hashString"] == torrent.info_hash and t["metadataPercentComplete"] >= 1
            and t["sizeWhenDone"] > 0 and t["leftUntilDone"] == 0
            for t in found
        )


class Dhtget(Client):
    """The program under test. One process fetches one torrent."""

    name = "dhtget"

    def share(self, torrent, *options):
        """Shares a folder as a person would; the torrent is dhtget's own and its hash is learned from what it prints."""
        self.torrent = torrent
        file = f"{self.work}/{torrent.name}.torrent"
        self._start([dhtget_binary(), "share", torrent.path, "--torrent", file, *self._common(), *self._near(), *options])
        shared = wait_until(lambda: self.event("shared"), 30, "dhtget share printed its magnet link", [self.process])
        torrent.info_hash, torrent.file = shared["info_hash"].lower(), file
        if torrent.info_hash not in shared["magnet"].lower():
            raise Failed(f"the magnet link does not name the hash: {shared}")
        return self

    lsd = False

    def fetch(self, target, *options, peers=(), state=("--no-state",)):
        named = [f"--peer={p}" for p in peers]
        self.leaves_nothing = state == ("--no-state",)
        self._start([dhtget_binary(), target, "-d", self.out, *self._common(state), *named, *self._near(), *options])
        return self

    def _near(self):
        return [] if self.lsd else ["--no-lsd"]

    def ask(self, *arguments, expect=0, seconds=40):
        """A command that ends by itself, within the DHT; any other exit code than `expect` is a failure."""
        self.run(*arguments, *self._common())
        code = self.process.wait(seconds)
        if code != expect:
            raise Failed(f"dhtget {' '.join(arguments[:2])} ended with {code}, not {expect}\n{self.process.tail()}")
        return self

    def run(self, *arguments):
        """Any other command line, ended by itself."""
        self._start([dhtget_binary(), *arguments])
        return self

    def _common(self, state=("--no-state",)):
        known = [f"--bootstrap={b}" for b in self.bootstrap]
        return ["--listen", self.address, *known, *state, "--json"]

    def event(self, name):
        """The newest event of that name, or None."""
        return next((e for e in reversed(self.process.events()) if e["event"] == name), None)

    def is_done(self, torrent):
        return self.event("finished") is not None

    def wait_exit(self, torrent, seconds):
        """Without --seed it ends by itself, with 0, once the bytes are right."""
        code = self.process.wait(seconds)
        if code != 0:
            raise Failed(f"dhtget ended with {code}\n{self.process.tail()}")
        if not self.event("finished"):
            raise Failed(f"no finished event\n{self.process.tail()}")
        self.check([torrent])
        if self.leaves_nothing:
            # Its HOME and every XDG folder are `work`; the rest there is the harness's own.
            own = {"out", os.path.basename(self.process.out_path), os.path.basename(self.process.err_path)}
            left = sorted(set(os.listdir(self.work)) - own) + sorted(set(os.listdir(self.out)) - {torrent.name})
            if left:
                raise Failed(f"--no-state left behind {left}")


class Commanded:
    """A process with one or more DHT nodes that does what it is told, one command after the other."""

    name = ""

    def __init__(self, lab, folder, bootstrap=(), label=None, size=1, addresses=None):
        label = label or self.name
        self.addresses = addresses or [f"{lab.address()}:{PORT}" for _ in range(size)]
        self.nodes = [(a.rsplit(":", 1)[0].strip("[]"), int(a.rsplit(":", 1)[1])) for a in self.addresses]
        self.work = lab.folder(folder, label)
        self.commands = f"{self.work}/commands"
        open(self.commands, "w").close()
        self.config = {"listen": self.addresses, "bootstrap": list(bootstrap), "commands": self.commands}
        self._lab, self._label = lab, label

    def start(self, seconds=30, **config):
        """Starts it and waits until every node has joined."""
        command = self._command({**self.config, **config})
        self.process = Process(self._lab, command, self.work, self._label.replace(" ", "-"))
        self.wait_for("ready", seconds)
        return self

    def wait_for(self, event, seconds=30, since=0, **fields):
        """The first event of that name with these fields, of those after the first `since`."""
        def fits(e):
            return e["event"] == event and all(e.get(k) == v for k, v in fields.items())
        return wait_until(lambda: next((e for e in self.process.events()[since:] if fits(e)), None), seconds,
                          f"{self._label} told {event} {fields}", [self.process])

    def do(self, do, event=None, fields=None, seconds=60, **arguments):
        """Gives a command and, if an event is named, waits for the one it leads to."""
        since = len(self.process.events())
        with open(self.commands, "a") as out:
            out.write(json.dumps({"do": do, **arguments}) + "\n")
        return self.wait_for(event, seconds, since, **(fields or {})) if event else None

    def stop(self):
        self.process.stop()


class LibtorrentNodes(Commanded):
    name = "libtorrent nodes"

    def _command(self, config):
        return [sys.executable, f"{HERE}/libtorrent_peer.py", json.dumps({"role": "obeys", **config})]


class BittorrentDhtNodes(Commanded):
    """The npm package of WebTorrent. Answers with its whole table, which in a small network still fits a datagram."""

    name = "bittorrent-dht nodes"

    def _command(self, config):
        return ["node", f"{HERE}/bittorrent_dht.mjs", json.dumps({"home": NODE_HOME, **config})]


REAL = (Libtorrent, Aria2, Transmission)


def missing_programs():
    """Sentences about what is not installed; the tests fail for it, they never skip."""
    said = []
    for program in ("aria2c", "transmission-daemon", "node", "ip", "ss", "setpriv"):
        if not shutil.which(program):
            said.append(f"{program} is not installed")
    try:
        import libtorrent  # noqa: F401
    except ImportError:
        said.append(f"libtorrent does not load in {sys.executable}")
    if not os.path.isfile(f"{NODE_HOME}/node_modules/bittorrent-dht/index.js"):
        said.append(f"bittorrent-dht is not installed in {NODE_HOME}")
    if not os.access(dhtget_binary(), os.X_OK):
        said.append(f"no dhtget at {dhtget_binary()}")
    return said


def _base64(path):
    with open(path, "rb") as stream:
        return base64.b64encode(stream.read()).decode()
