"""The cases. Each is a function of (lab, folder); what it needs beside that it starts itself, bounded in time.

`shared_dht` is one network of libtorrent nodes that most cases use together, each with torrents of its own.
"""

import os
import pty
import random
import re
import select
import shutil
import socket
import struct
import time

import torrents
from clients import Aria2, Dhtget, Libtorrent, Transmission, dhtget_binary
from dht import DhtgetDht, LibtorrentDht
from lab import SIGINT, SIGKILL, SIGTERM, Failed, Traffic, Watch, connections, wait_until
from wire import HAVE_ALL, HAVE_NONE, INTERESTED, PIECE, REQUEST, UNCHOKE, Wire

# Transmission 3.00 refuses a piece length that halving does not bring to a block size; its blocks are 10,000 bytes here.
ODD_PIECE = 49_157
ODD_PIECE_TRANSMISSION = 40_000
SLOW = 240

CASES = []


def case(function):
    CASES.append(function)
    return function


def shared_dht(lab):
    return lab.shared_dht


# ---- the DHT itself, first because slowest ----


@case
def dht_of_dhtget_nodes(lab, folder):
    """Twelve dhtget nodes carry the announces and lookups of every client."""
    dht = DhtgetDht(lab, folder, dhtget_binary())
    try:
        everyone_finds_everyone(lab, folder, dht.wait_ready())
    finally:
        dht.stop()


@case
def dht_of_libtorrent_nodes(lab, folder):
    """Twelve libtorrent nodes carry the announces and lookups of every client."""
    dht = LibtorrentDht(lab, folder)
    try:
        everyone_finds_everyone(lab, folder, dht.wait_ready())
    finally:
        dht.stop()


def everyone_finds_everyone(lab, folder, dht):
    """Each of four clients shares a torrent of its own; each of the four fetches the other three's."""
    shares, sharers = {}, []
    for kind in (Transmission, Aria2, Libtorrent):
        torrent = torrents.small(lab.folder(folder, f"payload {kind.name}"), f"of {kind.name} in {folder}").pack(ODD_PIECE_TRANSMISSION)
        sharers.append(kind(lab, folder, dht.bootstrap, f"sharer {kind.name}").seed([torrent]))
        shares[kind.name] = torrent
    own = torrents.small(lab.folder(folder, "payload dhtget"), f"of dhtget in {folder}")
    sharers.append(Dhtget(lab, folder, dht.bootstrap, "sharer dhtget").share(own))
    shares["dhtget"] = own

    def others(name):
        return [t for n, t in shares.items() if n != name]

    def fetched_by(kind):
        return kind(lab, folder, dht.bootstrap).leech([t.magnet for t in others(kind.name)]), others(kind.name)

    # Transmission looks for peers once, half a minute after its start; it can start before the rest is announced.
    fetches = [fetched_by(Transmission)]
    for sharer in reversed(sharers[1:]):
        until_announced(dht, sharer, shares[sharer.name])
    fetches += [fetched_by(Aria2), fetched_by(Libtorrent)]
    for torrent in others("dhtget"):
        getter = Dhtget(lab, folder, dht.bootstrap, f"dhtget gets {torrent.name}")
        fetches.append((getter.fetch(torrent.magnet, "--seed"), [torrent]))
    seen_by_libtorrent(lab, folder, dht, own, sharers[-1])
    seen_by_dhtget(lab, folder, dht, {s.name: (s, shares[s.name]) for s in sharers if s.name != "transmission"})

    for leecher, wanted in reversed(fetches):
        leecher.wait_done(wanted, SLOW)


def until_announced(dht, sharer, torrent, seconds=60):
    """Other clients may lose their one announce to a node's rate limit and try again only after a quarter of an hour:
    those are started again, twice at most. dhtget gets one chance."""
    for attempt in (1, 2, 3):
        try:
            return dht.wait_announced(torrent.info_hash, sharer.address, seconds, [sharer.process, *dht.processes])
        except Failed:
            if isinstance(sharer, Dhtget) or attempt == 3 or sharer.process.exit_code is not None:
                raise
        print(f"    {sharer.name} has not announced itself within {seconds} s and is started again", flush=True)
        sharer.stop()
        sharer.seed([torrent])


def seen_by_libtorrent(lab, folder, dht, torrent, sharer):
    asker = Libtorrent(lab, folder, dht.bootstrap, "asker libtorrent").look_up([torrent.info_hash])
    wait_until(lambda: sharer.address in asker.peers_seen(torrent.info_hash), 30,
               f"libtorrent's dht_get_peers found dhtget at {sharer.address}", [asker.process, sharer.process])
    asker.stop()


def seen_by_dhtget(lab, folder, dht, shares):
    """`dhtget lookup` prints each sharer's address."""
    for name, (sharer, torrent) in shares.items():
        asker = Dhtget(lab, folder, dht.bootstrap, f"asker of {name}")
        known = [f"--bootstrap={b}" for b in dht.bootstrap]
        asker.run("lookup", torrent.info_hash, "--listen", asker.address, *known, "--no-state")
        wait_until(lambda: sharer.address in asker.process.stdout().split(), 30,
                   f"dhtget lookup printed {name} at {sharer.address}", [asker.process])
        asker.stop()


# ---- a mixed swarm ----


@case
def mixed_swarm(lab, folder):
    """One slow libtorrent seeder, five leechers of four kinds: all finish, each fed by at least two others."""
    dht = shared_dht(lab)
    torrent = torrents.large(lab.folder(folder, "payload"), "mixed", 24).pack(ODD_PIECE_TRANSMISSION)
    seeder = Libtorrent(lab, folder, dht.bootstrap, "seeder").seed([torrent], upload_limit=600_000)
    dht.wait_announced(torrent.info_hash, seeder.address, 20, [seeder.process])
    leechers = [
        Transmission(lab, folder, dht.bootstrap).leech([torrent.magnet]),
        Aria2(lab, folder, dht.bootstrap).leech([torrent.magnet]),
        Libtorrent(lab, folder, dht.bootstrap).leech([torrent.magnet]),
        Dhtget(lab, folder, dht.bootstrap, "dhtget 1").fetch(torrent.magnet, "--seed"),
        Dhtget(lab, folder, dht.bootstrap, "dhtget 2").fetch(torrent.magnet, "--seed"),
    ]
    traffic = Traffic({c.process.pid: c.label for c in [seeder, *leechers]})
    traffic.start()
    for leecher in leechers[::-1]:
        leecher.wait_done([torrent], SLOW)
    received = traffic.finish()
    for client in [*leechers, seeder]:
        client.stop()
    for leecher in leechers:
        sources = {name: count for name, count in received.get(leecher.label, {}).items() if count >= 65_536}
        print(f"    {leecher.label} got KiB from: " + ", ".join(f"{n} {c >> 10}" for n, c in sorted(sources.items())), flush=True)
    for leecher in leechers:
        sources = [n for n, count in received.get(leecher.label, {}).items() if count >= 65_536]
        if len(sources) < 2:
            raise Failed(f"{leecher.label} got 64 KiB or more only from {sources}")


# ---- each real client as the only source, each as the only taker ----


def fetch_from(kind, piece_length):
    def run(lab, folder):
        dht = shared_dht(lab)
        torrent = torrents.album(lab.folder(folder, "payload"), folder).pack(piece_length)
        seeder = kind(lab, folder, dht.bootstrap, f"seeder {kind.name}").seed([torrent])
        getter = Dhtget(lab, folder, dht.bootstrap).fetch(torrent.magnet)
        getter.wait_exit(torrent, SLOW)
        seeder.stop()

    run.__name__ = f"fetch_from_{kind.name}"
    run.__doc__ = f"A bare magnet, {kind.name} the only seeder: many files, odd pieces, unicode names, an empty file."
    return run


def share_to(kind):
    def run(lab, folder):
        dht = shared_dht(lab)
        torrent = torrents.album(lab.folder(folder, "payload"), folder)
        sharer = Dhtget(lab, folder, dht.bootstrap, "sharer").share(torrent)
        dht.wait_announced(torrent.info_hash, sharer.address, 20, [sharer.process])
        leecher = kind(lab, folder, dht.bootstrap).leech([torrent.magnet])
        leecher.wait_done([torrent], SLOW)
        leecher.stop()
        sharer.process.signal(SIGTERM)
        code = sharer.process.wait(10)
        if code not in (0, 143):
            raise Failed(f"dhtget share ended with {code} on SIGTERM\n{sharer.process.tail()}")

    run.__name__ = f"share_to_{kind.name}"
    run.__doc__ = f"{kind.name} fetches by bare magnet from dhtget share."
    return run


for _kind, _piece in ((Transmission, ODD_PIECE_TRANSMISSION), (Aria2, ODD_PIECE), (Libtorrent, ODD_PIECE)):
    case(fetch_from(_kind, _piece))
    case(share_to(_kind))


# ---- peers that were named, a DHT that is dead ----


def named_peer(kind, piece_length, how):
    def run(lab, folder):
        torrent = torrents.album(lab.folder(folder, "payload"), folder).pack(piece_length)
        seeder = kind(lab, folder, (), f"seeder {kind.name}").seed([torrent])
        with DeadDht(lab) as dead:
            getter = Dhtget(lab, folder, dead.addresses)
            if how == "peer":
                getter.fetch(torrent.magnet, peers=[seeder.address])
            else:
                getter.fetch(f"{torrent.magnet}&x.pe={seeder.address}")
            getter.wait_exit(torrent, 40)
        seeder.stop()

    run.__name__ = f"dead_dht_{how}_{kind.name}"
    run.__doc__ = f"The DHT never answers; {kind.name} is named by {'--peer' if how == 'peer' else 'x.pe'}."
    return run


for _kind, _piece in ((Libtorrent, ODD_PIECE), (Aria2, ODD_PIECE), (Transmission, ODD_PIECE_TRANSMISSION)):
    case(named_peer(_kind, _piece, "peer"))
case(named_peer(Libtorrent, ODD_PIECE, "xpe"))


class DeadDht:
    """One address that refuses and one that takes every datagram and stays silent."""

    def __init__(self, lab):
        self.silent = lab.probe_address()
        self.addresses = [f"{lab.probe_address()}:6881", f"{self.silent}:6881"]

    def __enter__(self):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((self.silent, 6881))
        return self

    def __exit__(self, *_):
        self._socket.close()


@case
def torrent_file_target(lab, folder):
    """A .torrent path as the target, found through the DHT."""
    dht = shared_dht(lab)
    torrent = torrents.album(lab.folder(folder, "payload"), folder).pack(ODD_PIECE)
    seeder = Libtorrent(lab, folder, dht.bootstrap, "seeder").seed([torrent])
    Dhtget(lab, folder, dht.bootstrap).fetch(torrent.file).wait_exit(torrent, 40)
    seeder.stop()


@case
def info_of_a_bare_hash(lab, folder):
    """dhtget info: the metadata of a bare hash, and a .torrent with the same info dictionary."""
    dht = shared_dht(lab)
    torrent = torrents.album(lab.folder(folder, "payload"), folder).pack(ODD_PIECE)
    seeder = Libtorrent(lab, folder, dht.bootstrap, "seeder").seed([torrent])
    asker = Dhtget(lab, folder, dht.bootstrap)
    out = f"{asker.work}/out.torrent"
    known = [f"--bootstrap={b}" for b in dht.bootstrap]
    asker.run("info", torrent.info_hash, "--torrent", out, "--listen", asker.address, *known, "--no-state", "--json")
    code = asker.process.wait(40)
    if code:
        raise Failed(f"dhtget info ended with {code}\n{asker.process.tail()}")
    told = asker.event("metadata")
    if not told or told["name"] != torrent.name or told["info_hash"] != torrent.info_hash or told["size"] != torrent.bytes:
        raise Failed(f"metadata says {told}")
    with open(out, "rb") as got, open(torrent.file, "rb") as made:
        if torrents.bdecode(got.read())[b"info"] != torrents.bdecode(made.read())[b"info"]:
            raise Failed("the written .torrent has another info dictionary")
    seeder.stop()


# ---- what peers say of each other, and the local network ----

SLOW_RATE = 20_000


def end_beside_slow(hub, torrent, *others):
    """Ends a case in which the one who was named must be no source itself."""
    if hub.is_done(torrent):
        raise Failed("the hub is done itself: its limit does not hold")
    for client in (hub, *others):
        client.stop()


@case
def peers_named_by_libtorrent(lab, folder):
    """No DHT; the one peer that was named gives next to nothing, but names the seeder (BEP 11), who hears of nobody."""
    torrent = torrents.large(lab.folder(folder, "payload"), folder, 8).pack(ODD_PIECE)
    seeder = Libtorrent(lab, folder, (), "seeder").seed([torrent])
    hub = Libtorrent(lab, folder, (), "hub").leech([torrent.magnet], [seeder.address], pex=True, download_limit=SLOW_RATE)
    getter = Dhtget(lab, folder).fetch(torrent.magnet, "--no-dht", peers=[hub.address])
    getter.wait_exit(torrent, 60)
    end_beside_slow(hub, torrent, seeder)


@case
def peers_named_by_dhtget(lab, folder):
    """The same the other way: libtorrent knows dhtget alone, which names the seeder."""
    torrent = torrents.large(lab.folder(folder, "payload"), folder, 8).pack(ODD_PIECE)
    seeder = Libtorrent(lab, folder, (), "seeder").seed([torrent])
    hub = Dhtget(lab, folder, (), "hub")
    hub.fetch(torrent.magnet, "--no-dht", "--limit-rate", str(SLOW_RATE), peers=[seeder.address])
    wait_until(lambda: hub.event("metadata"), 20, "the hub has the metadata", [hub.process])
    leecher = Libtorrent(lab, folder).leech([torrent.magnet], [hub.address], pex=True)
    leecher.wait_done([torrent], 60)
    end_beside_slow(hub, torrent, leecher, seeder)


@case
def allowed_fast(lab, folder):
    """A libtorrent seeder that unchokes nobody and allows ten pieces (BEP 6) of a torrent that has fewer."""
    torrent = torrents.large(lab.folder(folder, "payload"), folder, 4).pack(1 << 19)
    never = {"unchoke_slots_limit": 0, "allowed_fast_set_size": 10}
    seeder = Libtorrent(lab, folder, (), "seeder").seed([torrent], settings=never)
    Dhtget(lab, folder).fetch(torrent.magnet, "--no-dht", peers=[seeder.address]).wait_exit(torrent, 40)
    seeder.stop()


@case
def peers_named_by_transmission(lab, folder):
    """No DHT; a slow Transmission, the one peer that was named, names the seeder (BEP 11)."""
    torrent = torrents.large(lab.folder(folder, "payload"), folder, 8).pack(ODD_PIECE_TRANSMISSION)
    hub = Transmission(lab, folder, (), "hub")
    hub.leech([torrent.magnet], **{"pex-enabled": True, "speed-limit-down-enabled": True, "speed-limit-down": SLOW_RATE // 1000})
    seeder = Libtorrent(lab, folder, (), "seeder").seed([torrent], connect=[hub.address])
    getter = Dhtget(lab, folder).fetch(torrent.magnet, "--no-dht", peers=[hub.address])
    getter.wait_exit(torrent, 200)
    end_beside_slow(hub, torrent, seeder)


@case
def transmission_is_named_peers(lab, folder):
    """The same the other way: Transmission is dialled by a slow dhtget, which names the seeder."""
    torrent = torrents.large(lab.folder(folder, "payload"), folder, 8).pack(ODD_PIECE_TRANSMISSION)
    seeder = Libtorrent(lab, folder, (), "seeder").seed([torrent])
    leecher = Transmission(lab, folder).leech([torrent.magnet], **{"pex-enabled": True})
    hub = Dhtget(lab, folder, (), "hub")
    hub.fetch(torrent.magnet, "--no-dht", "--limit-rate", str(SLOW_RATE), peers=[seeder.address, leecher.address])
    leecher.wait_done([torrent], 150)
    end_beside_slow(hub, torrent, leecher, seeder)


@case
def private_torrent(lab, folder):
    """Of a private torrent (BEP 27) neither the DHT nor the local network nor peers are told; of another they all are."""
    dht = shared_dht(lab)
    for private in (False, True):
        kind = "private" if private else "public"
        torrent = torrents.album(lab.folder(folder, f"payload {kind}"), f"{kind} {folder}").pack(ODD_PIECE, private)
        seeder = Libtorrent(lab, folder, (), f"seeder {kind}").seed([torrent], pex=True)
        getter = Dhtget(lab, folder, dht.bootstrap, f"getter {kind}")
        getter.lsd = True
        watch = Watch(getter.ip)
        watch.start()
        getter.fetch(torrent.file, "--limit-rate", "600K", peers=[seeder.address]).wait_exit(torrent, 60)
        seen = said_of(torrent, watch.finish())
        if private and any(seen.values()) or not private and not all(seen.values()):
            raise Failed(f"{kind}: {seen}")
        seeder.stop()


def said_of(torrent, watch):
    """Whether a torrent was told of, each way there is."""
    raw, text = bytes.fromhex(torrent.info_hash), torrent.info_hash.encode()
    group = [to for payload, to in watch.udp if text in payload.lower() and to.startswith("239.")]
    pex = re.findall(rb"6:ut_pexi(\d+)e", bytes(watch.tcp))
    if not pex:
        raise Failed("the extended handshake does not say whether peers are exchanged")
    return {
        "in the DHT": sum(raw in payload for payload, _ in watch.udp) > 0,
        "in the local network": len(group) > 0,
        "peers exchanged": any(int(number) for number in pex),
    }


@case
def upload_only(lab, folder):
    """Whoever wants nothing more is let go (BEP 21): a libtorrent with the one file of several that it wants leaves a
    complete dhtget, and a peer played by hand, since libtorrent says it to nobody here, is left when it says so."""
    torrent = torrents.large(lab.folder(folder, "payload"), folder, 4)
    sharer = Dhtget(lab, folder, (), "sharer").share(torrent, "--no-dht")
    one_file = [4] + [0] * (len(torrents.walk(torrent.path)) - 1)
    partial = Libtorrent(lab, folder, (), "partial")
    partial._run(torrents=[[torrent.file, partial.out]], priorities=one_file, connect=[sharer.address])
    wait_until(lambda: partial.is_done(torrent), 40, "libtorrent has the one file it wants", [partial.process])
    wait_until(lambda: not connections(sharer.address), 20, "the connection ended", [partial.process, sharer.process])
    for client in (partial, sharer):
        client.stop()
    by_hand = Wire(lab, torrent.info_hash)
    sharer.share(torrent, "--no-dht", f"--peer={by_hand.address}")
    by_hand.accept(20)
    by_hand.send(HAVE_NONE)
    by_hand.send(INTERESTED)
    until_said(by_hand, UNCHOKE)
    if by_hand.until_ended(3):
        raise Failed("dhtget left a peer that wants everything")
    by_hand.extended(by_hand.ids["upload_only"], b"\1")
    if not by_hand.until_ended(10):
        raise Failed("dhtget stays with a peer that wants nothing")
    by_hand.close()
    sharer.stop()


def until_said(peer, kind, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        said = peer.next(end - time.monotonic())
        if said is None:
            break
        if said[0] == kind:
            return said[1]
    raise Failed(f"dhtget does not say {kind}")


@case
def lost_piece(lab, folder):
    """A peer that had everything loses a piece (BEP 54): it is asked for all others, and libtorrent for that one."""
    torrent = torrents.large(lab.folder(folder, "payload"), folder, 2).pack(1 << 16)
    content, lost = torrents.content(torrent), 3
    by_hand = Wire(lab, torrent.info_hash)
    seeder = Libtorrent(lab, folder, (), "seeder")
    getter = Dhtget(lab, folder).fetch(torrent.file, "--no-dht", peers=[by_hand.address, seeder.address])
    by_hand.accept(20)
    by_hand.send(HAVE_ALL)
    until_said(by_hand, INTERESTED)
    by_hand.extended(by_hand.ids["lt_donthave"], struct.pack(">I", lost))
    by_hand.send(UNCHOKE)
    given = set()
    while len(given) < len(content) - min(1 << 16, len(content) - lost * (1 << 16)):
        index, begin, length = struct.unpack(">III", until_said(by_hand, REQUEST))
        if index == lost:
            raise Failed("dhtget asks for what the peer has lost")
        at = index * (1 << 16) + begin
        given.update(range(at, at + length))
        by_hand.send(PIECE, struct.pack(">II", index, begin) + content[at : at + length])
    seeder.seed([torrent])
    getter.wait_exit(torrent, 60)
    if seeder.uploaded(torrent) > 2 << 16:
        raise Failed(f"libtorrent gave {seeder.uploaded(torrent)} bytes of one piece of {1 << 16}")
    by_hand.close()
    seeder.stop()


def pass_on(torrent, sharer, leechers, seconds):
    """Two leechers get all of it, and a good part of it from each other."""
    for leecher in leechers:
        leecher.wait_done([torrent], seconds)
    for leecher in leechers:
        leecher.stop()
    sharer.process.signal(SIGTERM)
    sharer.process.wait(10)
    if not 1 <= (ratio := sharer.event("seeded")["ratio"]) <= 1.6:
        raise Failed(f"two copies had to go out, of which the seed sent {ratio}: the leechers did not share")


@case
def super_seed_to_libtorrent(lab, folder):
    """dhtget shows each of two libtorrent leechers a piece or two at a time (BEP 16); the rest they get from each other."""
    torrent = torrents.large(lab.folder(folder, "payload"), folder, 8)
    sharer = Dhtget(lab, folder, (), "sharer").share(torrent, "--no-dht", "--super-seed")
    first = Libtorrent(lab, folder, (), "first").leech([torrent.magnet], [sharer.address])
    second = Libtorrent(lab, folder, (), "second").leech([torrent.magnet], [sharer.address, first.address])
    pass_on(torrent, sharer, (first, second), 60)


@case
def super_seed_to_one_libtorrent(lab, folder):
    """A single libtorrent has nobody to pass anything on to, and is shown one piece after the other all the same."""
    torrent = torrents.large(lab.folder(folder, "payload"), folder, 8)
    sharer = Dhtget(lab, folder, (), "sharer").share(torrent, "--no-dht", "--super-seed")
    only = Libtorrent(lab, folder, (), "only").leech([torrent.magnet], [sharer.address])
    only.wait_done([torrent], 40)
    only.stop()
    sharer.stop()


@case
def super_seed_to_transmission(lab, folder):
    """The same with two Transmissions, which take no address: the sharer dials both and names each to the other (BEP 11)."""
    # Few pieces: Transmission looks at what it may ask for, and says what it has, every ten seconds only.
    torrent = torrents.write(torrents.Torrent(lab.folder(folder, "payload"), folder), folder, [("one.bin", 390_000)])
    # Once before, for the hash.
    Dhtget(lab, folder, (), "before").share(torrent, "--no-dht").stop()
    both = [Transmission(lab, folder, (), name).leech([torrent.magnet], **{"pex-enabled": True}) for name in ("first", "second")]
    named = [f"--peer={leecher.address}" for leecher in both]
    sharer = Dhtget(lab, folder, (), "sharer").share(torrent, "--no-dht", "--super-seed", *named)
    pass_on(torrent, sharer, both, 150)


@case
def local_discovery_of_libtorrent(lab, folder):
    """No DHT, nobody is named: dhtget hears a libtorrent seeder in the local network, or is heard by it (BEP 14)."""
    torrent = torrents.album(lab.folder(folder, "payload"), folder).pack(ODD_PIECE)
    seeder = Libtorrent(lab, folder, (), "seeder").seed([torrent], lsd=True)
    getter = Dhtget(lab, folder)
    getter.lsd = True
    getter.fetch(torrent.magnet, "--no-dht").wait_exit(torrent, 40)
    seeder.stop()


@case
def local_discovery_of_dhtget(lab, folder):
    """Two dhtget find each other in the local network."""
    torrent = torrents.album(lab.folder(folder, "payload"), folder)
    sharer, getter = Dhtget(lab, folder, (), "sharer"), Dhtget(lab, folder, (), "getter")
    sharer.lsd = getter.lsd = True
    sharer.share(torrent, "--no-dht")
    getter.fetch(torrent.info_hash, "--no-dht").wait_exit(torrent, 40)
    sharer.stop()


# ---- ends: killed, interrupted, in vain ----


@case
def enter_explains(lab, folder):
    """At a terminal, Enter is answered with what holds a fetch from libtorrent up, and Ctrl-C ends the run."""
    torrent = torrents.large(lab.folder(folder, "payload"), folder, 8).pack(ODD_PIECE)
    seeder = Libtorrent(lab, folder, (), "seeder").seed([torrent])
    options = ("--no-dht", "--no-lsd", "--no-state", "--limit-rate", "64K", "--peer", seeder.address, "--dir", folder)
    child, terminal = pty.fork()
    if child == 0:
        os.execve(dhtget_binary(), [dhtget_binary(), torrent.magnet, *options], {"HOME": folder, "TERM": "xterm"})
    # The limit, or, while the mean of the last seconds is below it, the one who sends.
    shown, answer = b"", re.compile(rb"our own limit|one peer sends all it can")

    def watch(seconds, enough):
        nonlocal shown
        end = time.monotonic() + seconds
        while not enough() and (left := end - time.monotonic()) > 0:
            if select.select([terminal], [], [], left)[0]:
                try:
                    shown += os.read(terminal, 4096)
                except OSError:
                    # The other end is closed.
                    return

    try:
        watch(10, lambda: b"downloading" in shown)
        watch(2, lambda: False)
        if answer.search(shown) or b"downloading" not in shown:
            raise Failed(f"it should download, and explain nothing unasked: {shown[-300:]!r}")
        os.write(terminal, b"\n")
        watch(5, lambda: answer.search(shown))
        if not answer.search(shown):
            raise Failed(f"Enter was not answered: {shown[-300:]!r}")
        os.write(terminal, b"\x03")
        watch(5, lambda: False)
        child, status = 0, os.waitpid(child, 0)[1]
        if (code := os.waitstatus_to_exitcode(status)) != 130:
            raise Failed(f"exit code {code}")
    finally:
        if child:
            os.kill(child, SIGKILL)
            os.waitpid(child, 0)
        os.close(terminal)
    seeder.stop()


@case
def killed_twice(lab, folder):
    """SIGKILL in mid-download, twice, then a byte of the first file damaged: the third run's bytes are right."""
    torrent = torrents.large(lab.folder(folder, "payload"), "killed", 8).pack(ODD_PIECE)
    seeder = Libtorrent(lab, folder, (), "seeder").seed([torrent])
    with DeadDht(lab) as dead:
        getter = Dhtget(lab, folder, dead.addresses)
        state = ("--state-dir", lab.folder(folder, "state"))
        for part in (1, 2):
            getter.fetch(torrent.magnet, "--limit-rate", "1500K", peers=[seeder.address], state=state)
            enough = torrent.bytes * part // 3
            wait_until(lambda: (getter.event("progress") or {}).get("verified", 0) >= enough, 40,
                       f"{enough} verified bytes in run {part}", [getter.process])
            getter.process.signal(SIGKILL)
            getter.process.wait(5)
            if getter.event("finished"):
                raise Failed("it was done before it could be killed: the rate limit does not hold")
        damage(f"{getter.out}/{torrent.name}/big.bin")
        getter.fetch(torrent.magnet, peers=[seeder.address], state=state)
        getter.wait_exit(torrent, 40)
        uploaded = seeder.uploaded(torrent)
        # From nothing each time it would be 2.0; what was under way when it was killed may come twice.
        if uploaded > torrent.bytes * 7 // 4:
            raise Failed(f"the seeder sent {uploaded} bytes for {torrent.bytes}: runs start from nothing")
        getter.fetch(torrent.magnet, peers=[seeder.address], state=state)
        getter.wait_exit(torrent, 40)
    seeder.stop()


def damage(path):
    with open(path, "r+b") as stream:
        stream.seek(1000)
        byte = stream.read(1)
        stream.seek(1000)
        stream.write(bytes([byte[0] ^ 0xFF]))


def ended_by(number, expected):
    def run(lab, folder):
        torrent = torrents.large(lab.folder(folder, "payload"), folder, 8).pack(ODD_PIECE)
        seeder = Libtorrent(lab, folder, (), "seeder").seed([torrent])
        with DeadDht(lab) as dead:
            getter = Dhtget(lab, folder, dead.addresses)
            getter.fetch(torrent.magnet, "--limit-rate", "500K", peers=[seeder.address])
            wait_until(lambda: (getter.event("progress") or {}).get("verified", 0) > 0, 30, "a verified piece", [getter.process])
            getter.process.signal(number)
            code = getter.process.wait(10)
            if code != expected or getter.process.died_of_signal:
                raise Failed(f"ended with {code}, not {expected} of its own accord\n{getter.process.tail()}")
            getter.fetch(torrent.magnet, peers=[seeder.address])
            getter.wait_exit(torrent, 40)
        seeder.stop()

    run.__name__ = f"signal_exit_{expected}"
    run.__doc__ = f"Signal {int(number)} in mid-download: leaves with {expected}, and the same command goes on."
    return run


case(ended_by(SIGINT, 130))
case(ended_by(SIGTERM, 143))


@case
def why_it_is_slow(lab, folder):
    """What holds a download up is named: a peer without data, our own limit, a seed that sends slowly, one that has nobody to serve."""
    torrent = torrents.large(lab.folder(folder, "payload"), "slow", 8).pack(ODD_PIECE_TRANSMISSION)

    def explains(client, cause):
        wait_until(lambda: any(e["event"] == "explain" and e["cause"] == cause for e in client.process.events()), 30,
                   f"the cause `{cause}` was named", [client.process])
        print("    " + next(e["why"] for e in client.process.events() if e["event"] == "explain" and e["cause"] == cause), flush=True)

    empty = Libtorrent(lab, folder, (), "empty").leech([torrent.magnet])
    seeder = Libtorrent(lab, folder, (), "seeder").seed([torrent], upload_limit=400_000)
    waiting = Dhtget(lab, folder, (), "waiting").fetch(torrent.file, "--no-dht", peers=[empty.address])
    explains(waiting, "nobody_has")
    limited = Dhtget(lab, folder, (), "limited").fetch(torrent.file, "--no-dht", "--limit-rate", "100k", peers=[seeder.address])
    explains(limited, "download_limit")
    limited.stop()
    fetching = Dhtget(lab, folder, (), "fetching").fetch(torrent.file, "--no-dht", "--explain", "--seed", peers=[seeder.address])
    explains(fetching, "senders")
    explains(fetching, "nobody_asks")
    for client in [waiting, fetching, empty, seeder]:
        client.stop()


@case
def nobody_has_it(lab, folder):
    """--stop-timeout without peers: exit 2 or 3, and a sentence why, on stderr and as an event."""
    info_hash = random.Random(folder).randbytes(20).hex()
    dht = shared_dht(lab)
    for json_flag in (["--json"], []):
        asker = Dhtget(lab, folder, dht.bootstrap, "asker" + "".join(json_flag))
        known = [f"--bootstrap={b}" for b in dht.bootstrap]
        asker.run(info_hash, "-d", asker.out, "--listen", asker.address, *known, "--no-state", "--stop-timeout", "5", *json_flag)
        code = asker.process.wait(25)
        if code not in (2, 3):
            raise Failed(f"ended with {code}, not 2 or 3\n{asker.process.tail()}")
        error = asker.event("error")
        if json_flag and (not error or error.get("code") != code or not re.search(r"peer", error.get("message", ""))):
            raise Failed(f"error event: {error}")
        if not json_flag and not re.search(r"\bpeers?\b", asker.process.stderr()):
            raise Failed(f"stderr does not say why\n{asker.process.tail()}")
        if os.listdir(asker.out):
            raise Failed(f"left behind: {os.listdir(asker.out)}")
        shutil.rmtree(asker.out)
