"""The cases of the DHT's extensions: items, pointers, scrapes, samples, ids bound to addresses, IPv6, odd questions.

Each is a function of (lab, folder), as in `cases`, and has a DHT of its own: libtorrent waits fifteen seconds for each node
that has left, so that cases which come and go in one DHT would slow down each other.
"""

import hashlib
import os
import time

import ed25519
import torrents
from cases import ODD_PIECE, case
from clients import BittorrentDhtNodes, Dhtget, Libtorrent, LibtorrentNodes, dhtget_binary
from dht import PORT, DhtgetDht, LibtorrentDht, Probe, bloom, bound_id, estimate, is_bound, node_ids, union
from lab import SIGTERM, Failed, Process, wait_until
from torrents import bencode


def expect(what, got, wanted):
    if got != wanted:
        raise Failed(f"{what}: {got!r}, not {wanted!r}")


def sha1(*parts):
    return hashlib.sha1(b"".join(parts)).digest()


def dhtget(lab, folder, dht, label, *arguments, expect=0):
    """A command of dhtget that asks the DHT and ends; its output is in `.event()`."""
    asker = Dhtget(lab, folder, dht.bootstrap, label)
    asker.ip = lab.probe_address()
    return asker.ask(*arguments, expect=expect)


def key_file(lab, folder, name="key"):
    """A secret key as dhtget keeps it, and (file, seed, public key)."""
    seed = sha1(folder.encode(), name.encode()) + bytes(12)
    path = f"{lab.folder(folder)}/{name}"
    with open(path, "w") as out:
        out.write(seed.hex() + "\n")
    return path, seed, ed25519.public(seed)


def libtorrent_dht(lab, folder):
    return LibtorrentDht(lab, f"{folder}/dht").wait_ready()


def dhtget_dht(lab, folder):
    return DhtgetDht(lab, f"{folder}/dht", dhtget_binary()).wait_ready()


def for_each_dht(name, doc):
    """Makes two cases of one: among libtorrent's nodes and among dhtget's."""
    def register(function):
        for kind, dht_of in (("libtorrent", libtorrent_dht), ("dhtget", dhtget_dht)):
            def run(lab, folder, dht_of=dht_of):
                function(lab, folder, dht_of(lab, folder))
            run.__name__, run.__doc__ = f"{name}_{kind}", f"{doc}, in a DHT of {kind} nodes."
            case(run)
        return function
    return register


# ---- BEP 46: a link that moves; first because slowest ----


@case
def published_link(lab, folder):
    """A urn:btpk link leads to a libtorrent seed's payload, then to another; `follow` prints both in order."""
    dht = libtorrent_dht(lab, folder)
    file, _, key = key_file(lab, folder)
    link = f"magnet:?xs=urn:btpk:{key.hex()}"
    old = torrents.small(lab.folder(folder, "payload"), f"old {folder}").pack(ODD_PIECE)
    new = torrents.small(lab.folder(folder, "payload"), f"new {folder}").pack(ODD_PIECE)
    seeder = Libtorrent(lab, folder, dht.bootstrap, "seeder").seed([old, new])
    reader = LibtorrentNodes(lab, folder, dht.bootstrap).start()
    follower = Dhtget(lab, folder, dht.bootstrap, "follower")
    for number, torrent in enumerate((old, new), 1):
        publisher = Dhtget(lab, folder, dht.bootstrap, f"publisher {number}")
        publisher.run("publish", "--key", file, torrent.file, *publisher._common())
        told = wait_until(lambda: publisher.event("pointer"), 30, "dhtget publish printed its link", [publisher.process])
        expect("published", (told["magnet"], told["info_hash"], told["seq"]), (link, torrent.info_hash, number))
        libtorrent_gets(reader, key, b"", number, {"ih": bytes.fromhex(torrent.info_hash)})
        if number == 1:
            follower.run("follow", "--interval", "1s", link, *follower._common())
        wait_until(lambda: followed(follower)[-1:] == [(torrent.info_hash, number)], 30, f"follow printed version {number}",
                   [follower.process])
        dht.wait_announced(torrent.info_hash, seeder.address, 40, [seeder.process])
        getter = Dhtget(lab, folder, dht.bootstrap, f"getter {number}").fetch(link)
        getter.wait_exit(torrent, 60)
        publisher.process.signal(SIGTERM)
        expect("exit code of dhtget publish on SIGTERM", publisher.process.wait(10), 143)
    expect("all that follow printed", followed(follower), [(old.info_hash, 1), (new.info_hash, 2)])
    again = Dhtget(lab, folder, dht.bootstrap, "publisher again").ask("publish", "--once", "--key", file, new.file)
    expect("a torrent that is published already keeps its version", again.event("pointer")["seq"], 2)


def followed(follower):
    return [(e["info_hash"], e["seq"]) for e in follower.process.events() if e["event"] == "pointer"]


# ---- BEP 44: items ----


# libtorrent takes whoever puts for a node, even one who asks with ro=1, and then waits for it: so these take a while.


@for_each_dht("mutable_items", "libtorrent and dhtget follow each other's versions under one key")
def mutable_items(lab, folder, dht):
    libtorrent = LibtorrentNodes(lab, folder, dht.bootstrap).start()
    file, seed, key = key_file(lab, folder, "unsalted")
    for seq, value in ((1, "one"), (2, "the second")):
        stored = dhtget(lab, folder, dht, f"puts version {seq}", "item", "put", "--key", file, value).event("stored")
        expect("what dhtget put", [stored["key"], stored["seq"]], [key.hex(), seq])
        libtorrent_gets(libtorrent, key, b"", seq, value)
    with Probe(lab) as probe:
        told = [probe.query(node, "get", {"target": sha1(key)}) or {} for node in dht.nodes]
    # Whoever has come or gone meanwhile shifts who is closest: a node that is no longer asked keeps what it has.
    versions = [reply[b"r"][b"seq"] for reply in told if b"seq" in reply.get(b"r", {})]
    expect("the newest version in store", max(versions, default=None), 2)
    # The same key in another program goes on counting.
    libtorrent_puts(libtorrent, seed, key, b"", 3, "third")
    dhtget_gets(lab, folder, dht, (key.hex(),), 3, "third")


@for_each_dht("salted_items", "the same with a salt, and a put that comes too late is refused")
def salted_items(lab, folder, dht):
    libtorrent = LibtorrentNodes(lab, folder, dht.bootstrap).start()
    file, seed, key = key_file(lab, folder, "salted")
    salt = f"salt of {folder}"
    for seq, value in ((1, "libtorrent's first"), (2, "libtorrent's second")):
        libtorrent_puts(libtorrent, seed, key, salt.encode(), seq, value)
        dhtget_gets(lab, folder, dht, (key.hex(), "--salt", salt), seq, value)
    named = ("item", "put", "--key", file, "--salt", salt)
    dhtget(lab, folder, dht, "replaces", *named, "--cas", "2", "dhtget's third")
    libtorrent_gets(libtorrent, key, salt.encode(), 3, "dhtget's third")
    refuses_old_cas(lab, folder, dht, *named, "--cas", "2", "lost")
    dhtget_gets(lab, folder, dht, (key.hex(), "--salt", salt), 3, "dhtget's third")
    dhtget(lab, folder, dht, "gets without salt", "item", "get", key.hex(), expect=3)


@for_each_dht("immutable_items", "libtorrent and dhtget get what the other put")
def immutable_items(lab, folder, dht):
    libtorrent = LibtorrentNodes(lab, folder, dht.bootstrap).start()
    ours, theirs = f"dhtget says in {folder}", f"libtorrent says in {folder}".encode() + bytes(range(256))
    target = sha1(bencode(ours)).hex()
    stored = dhtget(lab, folder, dht, "puts immutable", "item", "put", ours).event("stored")
    expect("the name of what dhtget put", stored["target"], target)
    # An unknown item comes as null: then it is asked again, for the last node may still be taking it.
    found = wait_until(lambda: libtorrent.do("get", "item", {"target": target}, target=target)["value"], 10,
                       f"libtorrent got what dhtget put on {stored['nodes']} nodes")
    expect("libtorrent got", bytes.fromhex(found), bencode(ours))
    target = sha1(bencode(theirs)).hex()
    put = libtorrent.do("put", "put", {"target": target}, value=theirs.hex())
    if put["nodes"] < 1:
        raise Failed(f"libtorrent put its item on no node: {put}")
    item = dhtget(lab, folder, dht, "gets immutable", "item", "get", target).event("item")
    expect("dhtget got", bytes.fromhex(item["bencoded_hex"]), bencode(theirs))


def refuses_old_cas(lab, folder, dht, *arguments):
    """Where version 3 is in store, a put in place of another one ends with 1 and says why."""
    error = dhtget(lab, folder, dht, "replaces too late", *arguments, expect=1).event("error")
    if "version 4 is not stored: version 3 or a newer one is there already" not in error["message"] or not error["hint"]:
        raise Failed(f"the refused put says {error}")


def libtorrent_puts(libtorrent, seed, key, salt, seq, value):
    secret, salt = ed25519.expanded(seed).hex(), salt.hex()

    def put():
        return libtorrent.do("put", "put", {"key": key.hex(), "salt": salt}, secret=secret, key=key.hex(), salt=salt,
                             value=value.encode().hex())
    # On a busy machine some of its queries time out, now and then all: then nothing is stored and it is told again.
    stored = wait_until(lambda: (told := put())["nodes"] and told, 60, f"libtorrent put {value!r} on a node at all")
    expect("the version libtorrent put", stored["seq"], seq)


def libtorrent_gets(libtorrent, key, salt, seq, value):
    fields = {"key": key.hex(), "salt": salt.hex(), "authoritative": True}
    found = libtorrent.do("get", "item", fields, key=key.hex(), salt=salt.hex())
    expect("libtorrent got", (found["seq"], bytes.fromhex(found["value"])), (seq, bencode(value)))


def dhtget_gets(lab, folder, dht, name, seq, value):
    item = dhtget(lab, folder, dht, f"gets {value}", "item", "get", *name).event("item")
    expect("dhtget got", (item["seq"], item["text"]), (seq, value))


# ---- odd questions, to a dhtget node and to a libtorrent node ----


def outcome(message):
    """A reply, the error's code, or silence."""
    return "silence" if message is None else message[b"e"][0] if b"e" in message else "reply"


@case
def questions_to_dhtget(lab, folder):
    """Errors, transaction ids, odd datagrams, `want`, `ip`: what a dhtget node answers to each."""
    node = dhtget_dht(lab, folder).nodes[3]
    expect("answers", simple_questions(lab, node), {
        **COMMON_ANSWERS, "no method": 203, "unknown method": 204, "port 0": 203, "only implied_port": "reply",
        "bytes behind": "reply", "want []": ["nodes"], "want ['?']": ["nodes"],
    })
    expect("answers about items", item_questions(lab, node), {**COMMON_ITEM_ANSWERS, "other value, same seq": 302, "same again": "reply"})


@case
def questions_to_libtorrent(lab, folder):
    """The same asked of a libtorrent node: where it differs from dhtget is written down here."""
    node = lab.shared_dht.nodes[3]
    expect("answers", simple_questions(lab, node), {
        **COMMON_ANSWERS, "no method": 203, "unknown method": 203, "port 0": "reply", "only implied_port": 203,
        "bytes behind": "silence", "want []": [], "want ['?']": [],
    })
    expect("answers about items", item_questions(lab, node), {**COMMON_ITEM_ANSWERS, "other value, same seq": "reply", "same again": "reply"})


COMMON_ANSWERS = {
    "no id": 203, "short id": 203, "no arguments": 203, "no target": 203, "no info_hash": 203, "sample without target": 203,
    "no token": 203, "bad token": 203, "port 70000": 203, "no port": 203,
    "unknown method with target": "reply", "unknown method with info_hash": "reply", "cut off": "silence",
    "an answer nobody asked for": "silence", "unsorted keys": "reply",
    **{f"transaction id of {n} bytes": "reply" for n in (1, 2, 16, 40)},
    "want ['n4']": ["nodes"], "want ['n6']": [], "want ['n4', 'n6']": ["nodes"], "no want": ["nodes"],
}


def simple_questions(lab, node):
    told = {}
    with Probe(lab) as probe:
        def raw(message, seconds=5.0):
            return outcome(probe.exchange(node, message if isinstance(message, bytes) else bencode(message), b"aa", seconds))
        query = {"t": "aa", "y": "q", "q": "ping", "a": {"id": probe.id}}
        told["no id"] = raw({**query, "a": {}})
        told["short id"] = raw({**query, "a": {"id": "short"}})
        told["no arguments"] = raw({k: v for k, v in query.items() if k != "a"})
        told["no method"] = raw({k: v for k, v in query.items() if k != "q"})
        told["cut off"] = raw(bencode(query)[:-5], 0.7)
        told["an answer nobody asked for"] = raw({"t": "aa", "y": "r", "r": {"id": probe.id}}, 0.7)
        told["bytes behind"] = raw(bencode(query) + b"\r\n\0junk", 1.5)
        told["unsorted keys"] = raw(b"d1:y1:q1:t2:aa1:q4:ping1:ad4:zzzzi1e2:id20:" + probe.id + b"ee")
        for length in (1, 2, 16, 40):
            transaction = os.urandom(length)
            answer = probe.exchange(node, bencode({**query, "t": transaction}), transaction)
            told[f"transaction id of {length} bytes"] = outcome(answer)
    with Probe(lab) as probe:
        some = os.urandom(20)
        told["no target"] = outcome(probe.query(node, "find_node"))
        told["no info_hash"] = outcome(probe.query(node, "get_peers"))
        told["sample without target"] = outcome(probe.query(node, "sample_infohashes"))
        told["unknown method"] = outcome(probe.query(node, "juggle", {"x": 1}))
        for name in ("target", "info_hash"):
            answer = probe.query(node, "juggle", {name: some})
            told[f"unknown method with {name}"] = outcome(answer)
            # What follows it up is what find_node would have said.
            expect(f"closest to {name}", answer[b"r"][b"nodes"], probe.query(node, "find_node", {"target": some})[b"r"][b"nodes"])
        for want in (["n4"], ["n6"], ["n4", "n6"], [], ["?"], None):
            answer = probe.query(node, "find_node", {"target": some, **({} if want is None else {"want": want})})
            told["no want" if want is None else f"want {want}"] = sorted(k.decode() for k in answer[b"r"] if k.startswith(b"nodes"))
            expect("ip", answer[b"ip"], bytes(map(int, probe.address.split("."))) + probe.port.to_bytes(2, "big"))
    with Probe(lab) as probe:
        token = probe.query(node, "get_peers", {"info_hash": some})[b"r"][b"token"]
        for name, arguments in {
            "no token": {"port": 7}, "bad token": {"port": 7, "token": b"wrong"}, "no port": {"token": token},
            "port 70000": {"port": 70_000, "token": token}, "port 0": {"port": 0, "token": token},
            "only implied_port": {"implied_port": 1, "token": token},
        }.items():
            told[name] = outcome(probe.query(node, "announce_peer", {"info_hash": some, **arguments}))
    return told


COMMON_ITEM_ANSWERS = {
    "1000 bytes": "reply", "1001 bytes": 205, "put with a bad token": 203, "put without token": 203, "put without v": 203,
    "get without target": 203, "bad signature": 206, "salt of 65 bytes": 207, "salt of 64 bytes": "reply",
    "version 5": "reply", "cas of another version": 301, "version 4 after 5": 302,
    "cas of this version": "reply", "seq in get": {None: [6, b"six"], 5: [6, b"six"], 6: [6, None], 7: [6, None]},
}


def item_questions(lab, node):
    told = {}
    with Probe(lab) as probe:
        def put(value, token=None):
            target = sha1(bencode(value))
            token = token or probe.query(node, "get", {"target": target})[b"r"][b"token"]
            return outcome(probe.query(node, "put", {"v": value, "token": token}))
        value = os.urandom(996)
        told["1000 bytes"] = put(value)
        expect("the largest item", probe.query(node, "get", {"target": sha1(bencode(value))})[b"r"][b"v"], value)
        told["1001 bytes"] = put(os.urandom(997))
        told["put with a bad token"] = put(b"some", b"wrong")
        told["put without token"] = outcome(probe.query(node, "put", {"v": "some"}))
        told["put without v"] = outcome(probe.query(node, "put", {"token": "some"}))
        told["get without target"] = outcome(probe.query(node, "get"))
    with Probe(lab) as probe:
        seed = os.urandom(32)
        key = ed25519.public(seed)

        def put_version(seq, value, salt=b"", signature=None, **more):
            token = probe.query(node, "get", {"target": sha1(key, salt)})[b"r"][b"token"]
            signed = (b"4:salt" + bencode(salt) if salt else b"") + b"3:seq" + bencode(seq) + b"1:v" + bencode(value)
            arguments = {"k": key, "seq": seq, "v": value, "token": token, "sig": signature or ed25519.sign(seed, signed), **more}
            return outcome(probe.query(node, "put", {**arguments, **({"salt": salt} if salt else {})}))
        told["bad signature"] = put_version(1, b"one", signature=bytes(64))
        told["salt of 65 bytes"] = put_version(1, b"one", b"s" * 65)
        told["salt of 64 bytes"] = put_version(1, b"one", b"s" * 64)
        told["version 5"] = put_version(5, b"five")
        told["same again"] = put_version(5, b"five")
        told["cas of another version"] = put_version(6, b"six", cas=4)
        told["version 4 after 5"] = put_version(4, b"four")
        told["cas of this version"] = put_version(6, b"six", cas=5)
        told["seq in get"] = {}
        for seq in (None, 5, 6, 7):
            reply = probe.query(node, "get", {"target": sha1(key), **({} if seq is None else {"seq": seq})})[b"r"]
            told["seq in get"][seq] = [reply[b"seq"], reply.get(b"v")]
            expect(f"key and signature come with the value only (seq {seq})", {b"k" in reply, b"sig" in reply}, {b"v" in reply})
        told["other value, same seq"] = put_version(6, b"another six")
    return told


@case
def read_only_nodes(lab, folder):
    """One who asks with ro=1 enters no table, one who asks without does; a read-only dhtget says so and answers nothing."""
    node = dhtget_dht(lab, folder).nodes[5]
    with Probe(lab) as hidden, Probe(lab) as open_, Probe(lab) as witness:
        def knows(probe):
            # Asked by another address, for nobody is told of himself.
            return probe.id in node_ids(witness.query(node, "find_node", {"target": probe.id})[b"r"][b"nodes"])
        for _ in range(3):
            hidden.query(node, "find_node", {"target": os.urandom(20)})
            open_.send(node, {"t": b"aa", "y": "q", "q": "ping", "a": {"id": open_.id}})
            open_.answer_queries(1)
        wait_until(lambda: (open_.answer_queries(0.3), knows(open_))[1], 20, "one who asked and answers is in the table")
        expect("queries to one who asked with ro=1", hidden.answer_queries(0.5), [])
        expect("is in the table", [knows(hidden), knows(open_)], [False, True])
    with Probe(lab) as probe:
        work = lab.folder(folder, "ping")
        pinger = Process(lab, [dhtget_binary(), "ping", f"{probe.address}:{probe.port}"], work, "ping")
        query, sender = probe.receive(10) or ({}, None)
        expect("the ping of a read-only node", [query.get(b"q"), query.get(b"ro")], [b"ping", 1])
        answers = [probe.query(sender, q, {"target": probe.id, "info_hash": probe.id}, 0.5) for q in ("ping", "find_node", "get_peers", "x")]
        expect("its answers", answers, [None] * 4)
        probe.send(sender, {"t": query[b"t"], "y": "r", "r": {"id": probe.id}})
        expect("exit code of dhtget ping", pinger.wait(10), 0)


# ---- BEP 33: scrapes ----


@for_each_dht("scrape", "seeds and leechers of libtorrent counted, filters compared bit by bit")
def scrape(lab, folder, dht):
    info_hash = sha1(b"scraped", folder.encode())
    announcers = LibtorrentNodes(lab, folder, dht.bootstrap, size=9).start()
    seeds = {ip for ip, _ in announcers.nodes[:6]}
    leechers = {ip for ip, _ in announcers.nodes[6:]}
    everywhere = [*dht.nodes, *announcers.nodes]

    def announce():
        for session, (ip, port) in enumerate(announcers.nodes):
            announcers.do("announce", session=session, hash=info_hash.hex(), port=port, flags=int(ip in seeds))

    def all_announced():
        with Probe(lab) as probe:
            found = probe.peers(everywhere, info_hash.hex())
        if {p.rsplit(":", 1)[0] for p in found} == seeds | leechers:
            return True
        announce()
        return False
    announce()
    wait_until(all_announced, 40, "nine libtorrent sessions have announced themselves", [announcers.process], every=2)
    filters = each_nodes_filters(lab, everywhere, info_hash)
    expect("the seeds' filter", union([f[0] for f in filters]), bloom(seeds))
    expect("the leechers' filter", union([f[1] for f in filters]), bloom(leechers))
    counted = dhtget(lab, folder, dht, "scrapes", "lookup", "--scrape", info_hash.hex()).event("scrape")
    wanted = [round(estimate(bloom(seeds))), round(estimate(bloom(leechers)))]
    expect("dhtget counted", [counted["seeds"], counted["leechers"]], wanted)
    nobody = dhtget(lab, folder, dht, "scrapes nothing", "lookup", "--scrape", os.urandom(20).hex()).event("scrape")
    expect("dhtget counted of an unknown hash", [nobody["seeds"], nobody["leechers"]], [0, 0])
    announcers.stop()


def each_nodes_filters(lab, nodes, info_hash):
    """(BFsd, BFpe) of every node that has peers; each is compared with the peers that the node itself names."""
    found = []
    with Probe(lab) as probe:
        for node in nodes:
            def addresses(**wish):
                values = probe.query(node, "get_peers", {"info_hash": info_hash, **wish})[b"r"].get(b"values", [])
                return {".".join(map(str, v[:4])) for v in values}
            everyone, leechers = addresses(), addresses(noseed=1)
            if not everyone:
                continue
            reply = probe.query(node, "get_peers", {"info_hash": info_hash, "scrape": 1})[b"r"]
            filters = reply[b"BFsd"], reply[b"BFpe"]
            expect(f"the filters of {node[0]}", filters, (bloom(everyone - leechers), bloom(leechers)))
            found.append(filters)
    return found


@for_each_dht("scrape_of_share", "dhtget share and a libtorrent seed announce themselves as seeds")
def scrape_of_share(lab, folder, dht):
    torrent = torrents.small(lab.folder(folder, "payload"), folder)

    def seeds():
        filters = each_nodes_filters(lab, dht.nodes, bytes.fromhex(torrent.info_hash))
        return union([f[0] for f in filters])
    sharer = Dhtget(lab, folder, dht.bootstrap, "sharer").share(torrent)
    dht.wait_announced(torrent.info_hash, sharer.address, 40, [sharer.process])
    expect("the seeds' filter with dhtget in it", seeds(), bloom([sharer.ip]))
    seeder = Libtorrent(lab, folder, dht.bootstrap, "seeder").seed([torrent])
    wait_until(lambda: seeds() == bloom([sharer.ip, seeder.ip]), 60, "libtorrent is announced as a seed, too", [seeder.process], every=2)
    counted = dhtget(lab, folder, dht, "scrapes", "lookup", "--scrape", torrent.info_hash).event("scrape")
    expect("dhtget counted", counted["seeds"], round(estimate(bloom([sharer.ip, seeder.ip]))))


# ---- BEP 51: samples ----


@case
def samples(lab, folder):
    """dhtget samples a libtorrent node, libtorrent samples a dhtget node; both name what was announced there."""
    libtorrent = LibtorrentNodes(lab, folder, size=2).start()
    ours = Dhtget(lab, folder, [libtorrent.addresses[0]], "node")
    ours.run("node", *ours._common())
    wait_until(lambda: (ours.event("node") or {}).get("nodes_v4", 0) > 0, 20, "the dhtget node knows somebody", [ours.process])
    hashes = {sha1(folder.encode(), bytes([n])) for n in range(5)}
    with Probe(lab) as probe:
        for node in (libtorrent.nodes[1], (ours.ip, PORT)):
            for info_hash in hashes:
                expect("announce", outcome(probe.announce(node, info_hash, 7000)), "reply")
    sampler = Dhtget(lab, folder, label="samples")
    sampler.run("sample", libtorrent.addresses[1], "--json")
    expect("exit code of dhtget sample", sampler.process.wait(20), 0)
    told = sampler.event("samples")
    expect("dhtget was told", (set(told["hashes"]), told["num"]), ({h.hex() for h in hashes}, len(hashes)))
    expect("libtorrent's interval", told["interval_s"], 21_600)
    told = libtorrent.do("sample", "samples", {"node": ours.address}, session=0, node=ours.address, target=os.urandom(20).hex())
    expect("libtorrent was told", (set(told["hashes"]), told["num"]), ({h.hex() for h in hashes}, len(hashes)))
    expect("dhtget's interval", told["interval"], "0:10:00")
    libtorrent.stop()


# ---- BEP 42: ids bound to addresses ----


@case
def bound_ids(lab, folder):
    """libtorrent sessions that refuse ids of elsewhere: a public dhtget node takes an id of its address and is kept."""
    theirs = [f"{lab.public_address()}:{PORT}" for _ in range(8)]
    libtorrent = LibtorrentNodes(lab, folder, addresses=theirs).start()
    for session in range(len(theirs)):
        libtorrent.do("settings", session=session, settings={"dht_enforce_node_id": True})
    wait_until(lambda: all(ids_of(lab, libtorrent.nodes)), 20, "every libtorrent session has an id of its address", [libtorrent.process])
    ids = ids_of(lab, libtorrent.nodes)
    wait_until(lambda: all(refuses_ids_of_elsewhere(lab, node) for node in libtorrent.nodes), 20,
               "every libtorrent session refuses ids of elsewhere", [libtorrent.process], every=1)

    node = Dhtget(lab, folder, label="node")
    node.ip = lab.public_address()
    state = lab.folder(folder, "state")
    first = bytes([0xAA]) * 20
    expect("the saved id fits the address", is_bound(first, node.ip), False)
    contacts = b"".join(i + bytes(map(int, ip.split("."))) + port.to_bytes(2, "big") for i, (ip, port) in zip(ids, libtorrent.nodes))
    with open(f"{state}/dht.state", "wb") as out:
        out.write(bencode({"format": 1, "id": first, "nodes": contacts, "nodes6": b"", "saved_unix_s": int(time.time())}))
    # Without --bootstrap this is the public network to it; the names of its entry points do not resolve here.
    node.run("node", "--listen", node.address, "--state-dir", state, "--json")
    own = wait_until(lambda: next(iter(ids_of(lab, [(node.ip, PORT)])), None), 30, "dhtget's id follows its address", [node.process])
    keepers = wait_until(lambda: sessions_that_keep(libtorrent, ids, own, node.address), 60,
                         "libtorrent sessions keep the dhtget node", [libtorrent.process, node.process], every=1)
    print(f"    dhtget's bound id is kept by {len(keepers)} of {len(ids)} libtorrent sessions", flush=True)
    # Close to dhtget, so that everyone who searches asks it.
    info_hash = own[:18] + bytes([own[18] ^ 1, own[19]])
    announcer = Probe(lab)
    # A public node tells the public of no peer at an address that means nothing there.
    announcer.address = lab.public_address()
    with announcer as probe:
        expect("announce to dhtget", outcome(probe.announce((node.ip, PORT), info_hash, 7000)), "reply")
        peer = f"{probe.address}:7000"
    # Only dhtget was told of that peer: who finds it has asked dhtget.
    libtorrent.do("lookup", "peers", {"hash": info_hash.hex(), "peers": [peer]}, session=keepers[0], hash=info_hash.hex())
    node.process.signal(SIGTERM)
    expect("exit code of dhtget node on SIGTERM", node.process.wait(10), 143)
    with open(f"{state}/dht.state", "rb") as saved:
        expect("the id it saves", torrents.bdecode(saved.read())[b"id"], own)


def ids_of(lab, nodes):
    """Each node's id where it is bound to its address, else None."""
    with Probe(lab) as probe:
        probe.id = bound_id(probe.address)
        answers = [probe.query(node, "ping", seconds=1) or {} for node in nodes]
    ids = [answer.get(b"r", {}).get(b"id") for answer in answers]
    return [i if i and is_bound(i, ip) else None for i, (ip, _) in zip(ids, nodes)]


def refuses_ids_of_elsewhere(lab, node):
    with Probe(lab) as probe:
        probe.id = bound_id("198.51.100.7")
        refusal = probe.query(node, "ping")
        return outcome(refusal) == 203 and len(refusal[b"ip"]) == 6


def sessions_that_keep(libtorrent, ids, own, address):
    """Which sessions have that node in their table."""
    known = []
    for session, i in enumerate(ids):
        live = libtorrent.do("live", "live", {"target": i.hex()}, session=session, target=i.hex())
        if [own.hex(), address] in live["nodes"]:
            known.append(session)
    return known


# ---- BEP 32: IPv6 ----


@case
def ipv6(lab, folder):
    """Six libtorrent and six dhtget nodes on IPv6 only: each side finds what the other announced, and fetches it."""
    addresses = [f"[{lab.address6()}]:{PORT}" for _ in range(6)]
    libtorrent = LibtorrentNodes(lab, folder, addresses=addresses).start()
    ours = []
    for number in range(6):
        node = dhtget6(lab, folder, addresses[:2], f"node {number}")
        node.run("node", *node._common())
        ours.append(node)
    nodes = [*libtorrent.nodes, *((n.ip.strip("[]"), PORT) for n in ours)]
    with Probe(lab, lab.address6()) as probe:
        wait_until(lambda: min(probe.table_size(n) for n in nodes[6:]) >= 8, 40, "IPv6 nodes of both kinds know each other",
                   [libtorrent.process, *(n.process for n in ours)], every=1)
        reply = probe.query(nodes[-1], "find_node", {"target": os.urandom(20), "want": ["n6"]})
        expect("nodes6 of dhtget", (len(reply[b"r"][b"nodes6"]), b"nodes" in reply[b"r"], len(reply[b"ip"])), (8 * 38, False, 18))
    torrent = torrents.small(lab.folder(folder, "payload"), folder)
    sharer = dhtget6(lab, folder, addresses[:2], "sharer").share(torrent)
    found = {"hash": torrent.info_hash, "peers": [sharer.address]}
    wait_until(lambda: libtorrent_finds(libtorrent, found), 40, f"libtorrent found dhtget at {sharer.address}", [sharer.process])
    info_hash = sha1(folder.encode()).hex()
    announced = f"[{libtorrent.nodes[3][0]}]:7000"
    libtorrent.do("announce", session=3, hash=info_hash, port=7000)

    def dhtget_finds():
        asker = dhtget6(lab, folder, [ours[0].address], "asker")
        asker.run("lookup", info_hash, *asker._common())
        return asker.process.wait(40) == 0 and [e["address"] for e in asker.process.events() if e["event"] == "peer"]
    expect("dhtget found", wait_until(dhtget_finds, 40, "dhtget found libtorrent's announce"), [announced])
    dhtget6(lab, folder, addresses[:2], "getter").fetch(torrent.magnet).wait_exit(torrent, 60)
    both_families(lab, folder, addresses[:2])


def both_families(lab, folder, entries6):
    """A node with both sockets keeps a table of each family and hands on what `want` names."""
    entry, single = (Dhtget(lab, folder, label=f"IPv4 {n}") for n in (1, 2))
    entry.run("node", "--bootstrap", single.address, *entry._common())
    single.run("node", "--bootstrap", entry.address, *single._common())
    node = Dhtget(lab, folder, label="both families")
    # Without --listen it listens on every address of both families.
    node.run("node", *(f"--bootstrap={b}" for b in (entry.address, *entries6)), "--no-state", "--json")
    wait_until(lambda: (e := node.event("node")) and e["nodes_v4"] >= 2 and e["nodes_v6"] >= 8, 40,
               "a node of both families knows nodes of both", [node.process, entry.process, single.process])
    told = {}
    with Probe(lab) as probe:
        for want in (["n4"], ["n6"], ["n4", "n6"], None):
            wish = {} if want is None else {"want": want}
            # Its IPv4 socket is bound to no address: it answers from the first one of the namespace.
            reply = probe.query(("198.18.0.1", node.event("started")["port"]), "find_node", {"target": os.urandom(20), **wish})[b"r"]
            told[str(want)] = [len(reply.get(b"nodes", b"")) // 26, len(reply.get(b"nodes6", b"")) // 38]
    expect("nodes of each family", told, {"['n4']": [2, 0], "['n6']": [0, 8], "['n4', 'n6']": [2, 8], "None": [2, 0]})


def dhtget6(lab, folder, bootstrap, label):
    client = Dhtget(lab, folder, bootstrap, label)
    client.ip = f"[{lab.address6()}]"
    return client


def libtorrent_finds(libtorrent, fields):
    try:
        return libtorrent.do("lookup", "peers", fields, session=5, seconds=3, hash=fields["hash"])
    except Failed:
        return None


# ---- bittorrent-dht ----


@case
def bittorrent_dht_asks(lab, folder):
    """bittorrent-dht announces, looks up, puts and gets in a DHT of dhtget nodes; dhtget reads it, and is read."""
    dht = dhtget_dht(lab, folder)
    both_ways(lab, folder, dht, BittorrentDhtNodes(lab, folder, dht.bootstrap).start())


@case
def bittorrent_dht_serves(lab, folder):
    """dhtget announces, looks up, puts and gets in a DHT of bittorrent-dht nodes."""
    theirs = BittorrentDhtNodes(lab, folder, size=10).start()
    theirs.bootstrap = theirs.addresses[:3]
    both_ways(lab, folder, theirs, theirs)


def both_ways(lab, folder, dht, theirs):
    info_hash = sha1(folder.encode()).hex()
    announced = theirs.do("announce", "announced", {"hash": info_hash}, hash=info_hash, port=7000)
    expect("bittorrent-dht's announce", announced["error"], None)
    found = dhtget(lab, folder, dht, "looks up", "lookup", info_hash)
    peers = [e["address"] for e in found.process.events() if e["event"] == "peer"]
    expect("dhtget found", peers, [f"{theirs.nodes[0][0]}:7000"])
    torrent = torrents.small(lab.folder(folder, "payload"), folder)
    sharer = Dhtget(lab, folder, dht.bootstrap, "sharer").share(torrent)
    last = len(theirs.nodes) - 1

    def seen():
        theirs.do("lookup", "lookup", {"hash": torrent.info_hash}, node=last, hash=torrent.info_hash)
        return [e for e in theirs.process.events() if e["event"] == "peer" and e["hash"] == torrent.info_hash and e["peer"] == sharer.address]
    wait_until(seen, 30, f"bittorrent-dht found dhtget at {sharer.address}", [theirs.process, sharer.process], every=0.5)
    immutable_both_ways(lab, folder, dht, theirs, last)
    mutable_both_ways(lab, folder, dht, theirs, last)


def immutable_both_ways(lab, folder, dht, theirs, last):
    ours, value = f"dhtget says in {folder}", f"bittorrent-dht says in {folder}".encode() + bytes(range(256))
    stored = dhtget(lab, folder, dht, "puts immutable", "item", "put", ours).event("stored")
    found = theirs.do("get", "item", {"target": stored["target"]}, node=last, target=stored["target"])
    expect("bittorrent-dht got", found["value"], ours.encode().hex())
    put = theirs.do("put", "put", value=value.hex())
    expect("bittorrent-dht's put", (put["error"], put["target"]), (None, sha1(bencode(value)).hex()))
    item = dhtget(lab, folder, dht, "gets immutable", "item", "get", put["target"]).event("item")
    expect("dhtget got", bytes.fromhex(item["bencoded_hex"]), bencode(value))


def mutable_both_ways(lab, folder, dht, theirs, last):
    file, seed, key = key_file(lab, folder)
    for salt in ("", f"salt of {folder}"):
        salted = ("--salt", salt) if salt else ()
        target = sha1(key, salt.encode()).hex()

        def they_put(seq, value, **more):
            return theirs.do("put", "put", {"target": target}, seed=seed.hex(), salt=salt.encode().hex(), seq=seq,
                             value=value.encode().hex(), **more)
        expect("bittorrent-dht's put", they_put(1, "theirs")["error"], None)
        dhtget_gets(lab, folder, dht, (key.hex(), *salted), 1, "theirs")
        stored = dhtget(lab, folder, dht, "puts version 2", "item", "put", "--key", file, *salted, "ours").event("stored")
        expect("dhtget put version", stored["seq"], 2)
        found = theirs.do("get", "item", {"target": target}, node=last, target=target, salt=salt.encode().hex())
        expect("bittorrent-dht got", (found["seq"], found["value"]), (2, b"ours".hex()))
        expect("bittorrent-dht's put", they_put(3, "theirs again", cas=2)["error"], None)
        refuses_old_cas(lab, folder, dht, "item", "put", "--key", file, *salted, "--cas", "2", "lost")
        dhtget_gets(lab, folder, dht, (key.hex(), *salted), 3, "theirs again")
