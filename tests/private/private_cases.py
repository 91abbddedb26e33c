"""The cases. Each is a function of a fresh set of machines; everything in it is bounded in time."""

import json
import os
import random
import re
import socket
import sys
import time

import torrents
from lab import SIGHUP, SIGTERM, Failed, wait_until
from machines import Packet
from office import DHTGET, PORT, copied, create, event, fetch, join, networked, node, same, secrets, share, status

CASES = []
LIBTORRENT = [sys.executable, f"{os.path.dirname(os.path.abspath(__file__))}/../interop/libtorrent_peer.py"]


def case(function):
    CASES.append(function)
    return function


def office(network, count, *options, name="corp"):
    """Machines, the first of them with a running bootstrap node, and the network's file and invite."""
    machines = [network.add() for _ in range(count)]
    path, invite = create(machines[0], name, [f"{machines[0].ip}:{PORT}"], *options)
    boot = node(machines[0], path, "--listen", f"{machines[0].ip}:{PORT}")
    return machines, path, invite, boot


@case
def five_commands(network):
    """Three machines go from nothing to a folder on all of them with create, node, share, get and check; by file, invite and name."""
    boot, sharer, third = (network.add() for _ in range(3))
    path, invite = create(boot, "corp", [f"{boot.ip}:{PORT}"])
    if os.stat(path).st_mode & 0o077:
        raise Failed(f"others may read {path}: mode {os.stat(path).st_mode & 0o777:o}")
    node(boot, path, "--listen", f"{boot.ip}:{PORT}")
    folder = torrents.album(sharer.folder, "of all")
    _, magnet = share(sharer, path, folder.path, announced=False)
    # The bootstrap machine by the file, the third by a name that it got with the invite.
    join(third, invite)
    if "corp" not in third.run(DHTGET, "network", "list").stdout:
        raise Failed("network list does not name the network that was joined")
    fetches = [fetch(boot, path, magnet, "--seed-time", "10m"), fetch(third, "corp", magnet, "--seed-time", "10m")]
    for machine, process in zip((boot, third), fetches):
        event(process, "finished", 30)
        same(folder.path, f"{machine.folder}/got/{folder.name}")
    for machine, name in ((boot, path), (sharer, path), (third, path)):
        done = machine.run(DHTGET, "network", "check", copied(name, machine), seconds=60)
        if done.returncode:
            raise Failed(f"network check on {machine.name} ended with {done.returncode}: {done.stdout}{done.stderr}")
    left = third.run(DHTGET, "network", "leave", "corp")
    if left.returncode or "corp" in third.run(DHTGET, "network", "list").stdout:
        raise Failed(f"network leave did not: {left.stderr}")


@case
def a_wrong_key_hears_nothing(network):
    """A machine with another key, an open one and raw probes get not one byte of an answer over UDP and TCP; the capture proves it."""
    (boot, sharer, taker), path, _, _ = office(network, 3)
    stranger = network.add("stranger")
    folder = torrents.small(sharer.folder, "of members")
    served, magnet = share(sharer, path, folder.path)
    wrong, _ = create(stranger, "corp", [f"{boot.ip}:{PORT}"])
    at_stranger, at_boot = stranger.capture(), boot.capture()
    members = {boot.ip: PORT, sharer.ip: served.port}
    commands = {}
    for label, options in (("another key", networked(stranger, wrong)), ("none", ["--bootstrap", f"{boot.ip}:{PORT}"])):
        commands[f"lookup with {label}"] = ["lookup", magnet, *options]
        commands[f"get with {label}"] = [magnet, "-d", f"{stranger.folder}/got", *options, "--stop-timeout", "4",
                                         *[f"--peer={ip}:{port}" for ip, port in members.items()]]
    for ip, port in members.items():
        commands[f"ping {ip} with another key"] = ["ping", f"{ip}:{port}", "--network", wrong]
        commands[f"ping {ip}"] = ["ping", f"{ip}:{port}"]
    commands["check with another key"] = ["network", "check", wrong]
    asking = [stranger.start(DHTGET, *command, "--json", name=label) for label, command in commands.items()]
    probe(stranger, members, magnet)
    # Members go on meanwhile.
    event(fetch(taker, path, magnet), "finished", 30)
    # A search gives up after half a minute.
    codes = {process.name: process.wait(60) for process in asking}
    time.sleep(1)
    at_stranger.finish()
    at_boot.finish()
    heard_nothing(at_stranger, stranger, {*members, taker.ip})
    if 0 in codes.values():
        raise Failed(f"a stranger's command ended well: {codes}")
    talk = [p for p in at_boot.packets(False) if p.protocol == Packet.UDP and p.target in (sharer.ip, taker.ip)]
    if len(talk) < 3:
        raise Failed(f"the capture saw only {len(talk)} datagrams from the bootstrap node to members: it proves nothing")


def probe(stranger, members, magnet):
    """What a scanner would send: queries in the clear, handshakes in the clear, noise of many lengths, over IPv4."""
    noise = random.Random("a stranger")
    info_hash = bytes.fromhex(re.search(r"btih:([0-9a-f]{40})", magnet)[1])
    ping = b"d1:ad2:id20:" + b"s" * 20 + b"e1:q4:ping1:t2:aa1:y1:qe"
    datagrams = [ping, b"", b"d", *(noise.randbytes(n) for n in (1, 12, 16, 28, 29, 40, 100, 600, 1400))]
    hellos = [b"\x13BitTorrent protocol" + bytes(8) + info_hash + b"-XX0000-" + b"x" * 12, b"GET / HTTP/1.0\r\n\r\n",
              b"\0" * 64, b"\0\x30" + noise.randbytes(48), noise.randbytes(2000), noise.randbytes(66_000)]
    udp = stranger.socket()
    for ip, port in members.items():
        for datagram in datagrams:
            udp.sendto(datagram, (ip, port))
        for hello in hellos:
            with stranger.socket(kind=socket.SOCK_STREAM) as tcp:
                tcp.settimeout(3)
                tcp.connect((ip, port))
                try:
                    tcp.sendall(hello)
                    tcp.shutdown(socket.SHUT_WR)
                    if answer := tcp.recv(1000):
                        raise Failed(f"{ip} answered {hello[:20]}… with {answer[:40]}…")
                except OSError:
                    pass
    udp.close()


def heard_nothing(capture, stranger, members):
    """No datagram at all, and no TCP segment that carries anything, from a member to the stranger; while it did ask, in both."""
    asked = [p for p in capture.packets(False) if p.target in members and p.payload]
    for protocol, name in ((Packet.UDP, "UDP"), (Packet.TCP, "TCP")):
        if sum(p.protocol == protocol for p in asked) < 5:
            raise Failed(f"the stranger hardly asked anything over {name}: the capture proves nothing")
    for packet in capture.packets(True):
        multicast = packet.target.startswith(("224.", "239.", "255.", "ff"))
        answers = packet.target in (stranger.ip, stranger.ip6) or (packet.source in members and multicast)
        carries = packet.protocol == Packet.UDP or (packet.protocol == Packet.TCP and packet.payload)
        if answers and carries:
            raise Failed(f"the stranger was told something: {packet}: {packet.payload[:60].hex()}")


@case
def a_replay_hears_nothing(network):
    """All that a member sent, UDP and TCP, sent again from a stranger's address: not one byte of an answer."""
    (boot, sharer, taker), path, _, _ = office(network, 3)
    stranger = network.add("stranger")
    folder = torrents.small(sharer.folder, "to be replayed")
    served, magnet = share(sharer, path, folder.path)
    at_taker = taker.capture()
    event(fetch(taker, path, magnet), "finished", 30)
    time.sleep(0.5)
    at_taker.finish()
    members = {boot.ip, sharer.ip}
    datagrams, streams = [], {}
    for packet in at_taker.packets(False):
        if packet.target in members and packet.protocol == Packet.UDP:
            datagrams.append((packet.payload, (packet.target, packet.target_port)))
        elif packet.target in members and packet.protocol == Packet.TCP:
            streams.setdefault((packet.source_port, packet.target, packet.target_port), bytearray()).extend(packet.payload)
    streams = {ends: bytes(said) for ends, said in streams.items() if said and ends[2] == served.port}
    if len(datagrams) < 3 or not streams:
        raise Failed(f"{len(datagrams)} datagrams and {len(streams)} streams were heard: too few to replay")
    at_stranger = stranger.capture()
    udp = stranger.socket()
    for _ in range(3):
        for payload, target in datagrams:
            udp.sendto(payload, target)
    # From the very port as well: what is sealed may name the source, and this source is not it.
    for (_, ip, port), said in streams.items():
        for part in (said, said[: len(said) // 2], said):
            with stranger.socket(kind=socket.SOCK_STREAM) as tcp:
                tcp.settimeout(2)
                tcp.connect((ip, port))
                try:
                    tcp.sendall(part)
                    if answer := tcp.recv(1000):
                        raise Failed(f"{ip}:{port} answered a replayed stream with {len(answer)} bytes: {answer[:40].hex()}")
                except OSError:
                    pass
    udp.close()
    # Enough for TCP in the capture even where one stream was heard.
    probe(stranger, {boot.ip: PORT}, magnet)
    time.sleep(1)
    heard_nothing(at_stranger.finish(), stranger, members | {taker.ip})


@case
def libtorrent_in_an_open_network(network):
    """libtorrent shares in an open network and dhtget fetches; dhtget shares and libtorrent fetches."""
    (boot, ours, theirs), path, _, _ = office(network, 3, "--open", "--allow", "10.77.0.0/16")
    mine = torrents.album(ours.folder, "of dhtget")
    served, magnet = share(ours, path, mine.path)
    other = torrents.album(theirs.folder, "of libtorrent").pack(49_157)
    os.makedirs(f"{theirs.folder}/got")
    config = {"role": "peer", "listen": f"{theirs.ip}:{PORT}", "bootstrap": [f"{boot.ip}:{PORT}"], "save": f"{theirs.folder}/got",
              "torrents": [[other.file, other.parent]], "magnets": [magnet.split("&")[0]]}
    libtorrent = theirs.start(*LIBTORRENT, json.dumps(config), name="libtorrent")
    event(libtorrent, "done", 60, hash=re.search("btih:([0-9a-f]{40})", magnet)[1])
    same(mine.path, f"{theirs.folder}/got/{mine.name}")
    event(fetch(boot, path, other.magnet), "finished", 60)
    same(other.path, f"{boot.folder}/got/{other.name}")


@case
def aria2_in_an_open_network(network):
    """aria2 finds and fetches what dhtget shares in an open network, knowing one entry point of its DHT."""
    (boot, ours, theirs), path, _, _ = office(network, 3, "--open", "--allow", "10.77.0.0/16")
    mine = torrents.album(ours.folder, "of dhtget")
    _, magnet = share(ours, path, mine.path)
    got = f"{theirs.folder}/got"
    aria2 = theirs.run("aria2c", "--no-conf", "--enable-dht=true", f"--dht-entry-point={boot.ip}:{PORT}", "--enable-dht6=false",
                       f"--dht-file-path={theirs.folder}/dht.dat", f"--dht-listen-port={PORT}", f"--listen-port={PORT}", "--bt-enable-lpd=false",
                       "--seed-time=0", "--file-allocation=none", "--console-log-level=warn", "--summary-interval=0", f"--dir={got}",
                       magnet.split("&")[0], seconds=90)
    if aria2.returncode:
        raise Failed(f"aria2c ended with {aria2.returncode}: {aria2.stdout[-500:]}")
    same(mine.path, f"{got}/{mine.name}")


@case
def a_sharer_that_moves(network):
    """A sharer gets another address while it runs: whoever comes after that finds it there."""
    (_, sharer, new), path, _, _ = office(network, 3)
    folder = torrents.small(sharer.folder, "on the move")
    _, magnet = share(sharer, path, folder.path)
    sharer.move("10.77.201.9")
    event(fetch(new, path, magnet), "finished", 40)
    same(folder.path, f"{new.folder}/got/{folder.name}")


@case
def a_key_changed_at_once(network):
    """The node takes a new key up on SIGHUP; members with the new file are served, one with the old file is a stranger."""
    (boot, sharer, new, old), path, _, entry = office(network, 4)
    before = copied(path, old)
    done = boot.run(DHTGET, "network", "rotate", path, "--grace", "0")
    if done.returncode:
        raise Failed(f"network rotate ended with {done.returncode}: {done.stderr}")
    entry.signal(SIGHUP)
    folder = torrents.small(sharer.folder, "after the change")
    _, magnet = share(sharer, path, folder.path)
    event(fetch(new, path, magnet), "finished", 30)
    same(folder.path, f"{new.folder}/got/{folder.name}")
    lost = old.run(DHTGET, magnet, "--network", before, "--peer", f"{sharer.ip}:{PORT}", "--stop-timeout", "4", seconds=30)
    if lost.returncode != 3 or os.path.exists(f"{old.folder}/{folder.name}"):
        raise Failed(f"a member with the old key got on, or ended with {lost.returncode}: {lost.stderr}")


@case
def it_outlives_its_bootstrap(network):
    """The bootstrap machine is switched off: members find a new swarm, one restarts, and a newcomer enters through a member."""
    (boot, first, second, third, new), path, _, entry = office(network, 5)
    nodes = [node(m, path, "--listen", f"{m.ip}:{PORT}", "--status") for m in (first, second, third)]
    for machine in (first, second, third):
        wait_until(lambda: known(machine) >= 3, 20, f"{machine.name} knows everybody", nodes, 0.3)
    for machine in (first, second, third):
        wait_until(lambda: remembers(machine), 45, f"{machine.name} has saved whom it knows", nodes, 0.5)
    invited = first.run(DHTGET, "network", "invite", copied(path, first))
    if invited.returncode:
        raise Failed(f"network invite ended with {invited.returncode}: {invited.stderr}")
    invite = next(word for word in invited.stdout.split() if word.startswith("dhtget-invite"))
    entry.kill()
    boot.unplug()
    # One of them starts again, and finds back by what it remembers.
    nodes[2].signal(SIGTERM)
    nodes[2].wait(10)
    nodes[2] = node(third, path, "--listen", f"{third.ip}:{PORT}", "--status", name="again")
    wait_until(lambda: known(third) >= 2, 30, "the restarted node knows the others", [nodes[2]], 0.3)
    folder = torrents.small(second.folder, "after the bootstrap")
    _, magnet = share(second, path, folder.path)
    join(new, invite)
    event(fetch(new, "corp", magnet), "finished", 40)
    same(folder.path, f"{new.folder}/got/{folder.name}")


@case
def halves_find_together(network):
    """Two halves that were cut apart, and shared things meanwhile, are one again within a minute of healing; one changed its address."""
    (boot, here, there, far), path, _, _ = office(network, 4)
    nodes = [node(m, path, "--listen", f"{m.ip}:{PORT}", "--status") for m in (here, there)]
    wanderer = node(far, path, "--listen", f"0.0.0.0:{PORT}", "--status")
    for machine in (here, there, far):
        wait_until(lambda: known(machine) >= 3, 20, f"{machine.name} knows everybody", [*nodes, wanderer], 0.3)
    for machine in (here, there, far):
        wait_until(lambda: remembers(machine), 45, f"{machine.name} has saved whom it knows", [*nodes, wanderer], 0.5)
    network.cut([there, far])
    folder = torrents.small(there.folder, "beyond the cut")
    _, magnet = share(there, path, folder.path)
    time.sleep(15)
    far.move("10.77.200.9")
    time.sleep(5)
    network.heal()
    healed = time.monotonic()
    while True:
        done = here.run(DHTGET, "lookup", magnet, *networked(here, path), seconds=60)
        if there.ip in done.stdout:
            break
        if time.monotonic() - healed > 60:
            raise Failed(f"a minute after healing the other half's swarm is not found: {done.stdout}{done.stderr}")
    event(fetch(here, path, magnet), "finished", 30)
    event(fetch(far, path, magnet), "finished", 30)
    same(folder.path, f"{here.folder}/got/{folder.name}")
    same(folder.path, f"{far.folder}/got/{folder.name}")


def known(machine):
    """How many good nodes are in the table of the node with --status; none while it does not answer."""
    try:
        return sum(family["good"] for family in status(machine)["families"])
    except Failed:
        return 0


def remembers(machine):
    """Whether its node has saved its table."""
    return any("dht.state" in files for _, _, files in os.walk(machine.folder))


@case
def the_key_is_nowhere(network):
    """Neither `ps`, nor logs at their loudest, nor JSON, nor state tells the key or the invite, while everything runs."""
    boot, sharer, taker = (network.add() for _ in range(3))
    path, invite = create(boot, "corp", [f"{boot.ip}:{PORT}"])
    words = secrets(path, invite)
    loud = ("-vvv",)
    node(boot, path, "--listen", f"{boot.ip}:{PORT}", "--status", *loud)
    folder = torrents.small(sharer.folder, "seen by all")
    process, magnet = share(sharer, path, folder.path, *loud)
    join(taker, invite)
    get = fetch(taker, "corp", magnet, "--seed", *loud)
    event(get, "finished", 30)
    # Whoever types an invite is told to join with it; until then it does not stay in the list of processes.
    typed = fetch(taker, invite, magnet, "-o", "typed", "--seed", *loud, name="typed")
    event(typed, "finished", 30)
    checked = boot.run(DHTGET, "network", "check", path, "-vvv", "--json", seconds=60)
    printed = boot.run(DHTGET, "node", "--network", path, "--print-config")
    listed = taker.run(DHTGET, "network", "list", "--json")
    figures = boot.run(DHTGET, "node", "status", "--json")
    damaged = f"{boot.folder}/damaged.network"
    with open(path) as source, open(damaged, "w") as out:
        os.chmod(damaged, 0o600)
        out.write(source.read().replace('key = "', 'key = "x'))
    refused = boot.run(DHTGET, "lookup", magnet, "--network", damaged)
    if not refused.returncode:
        raise Failed("a damaged network file was taken")
    for label, done in (("check", checked), ("print-config", printed), ("list", listed), ("status", figures), ("refusal", refused)):
        unsaid(words, (done.stdout + done.stderr).encode(), label)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("cmdline", "comm"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as stream:
                    unsaid(words, stream.read(), f"/proc/{pid}/{name}")
            except OSError:
                pass  # it has ended meanwhile
    read = 0
    for machine in (boot, sharer, taker):
        for folder_path, _, files in os.walk(machine.folder):
            for name in files:
                file = os.path.join(folder_path, name)
                with open(file, "rb") as stream:
                    data = stream.read()
                if name.endswith(".network"):
                    if os.stat(file).st_mode & 0o077:
                        raise Failed(f"others may read {file}")
                else:
                    read += len(data)
                    unsaid(words, data, file)
    if read < 100_000:
        raise Failed(f"only {read} bytes of logs and state were there to be looked at")


def unsaid(words, data, where):
    for word in words:
        if word in data:
            raise Failed(f"{where} tells the key or the invite")


@case
def two_networks_on_one_machine(network):
    """Members of two keyed networks and an open one on the same machines never learn of each other, and keep their state apart."""
    machines = [network.add() for _ in range(2)]
    boot = machines[0]
    kinds = {"red": (7001, ()), "blue": (7002, ()), "green": (7003, ("--open",))}
    paths, folders, magnets = {}, {}, {}
    for name, (port, options) in kinds.items():
        paths[name], _ = create(boot, name, [f"{boot.ip}:{port}"], *options)
        node(boot, paths[name], "--listen", f"{boot.ip}:{port}", "--status", f"127.0.0.1:{port - 1000}", name=f"node-{name}")
        folders[name] = torrents.small(machines[1].folder, f"of {name}")
        _, magnets[name] = share(machines[1], paths[name], folders[name].path, name=f"share-{name}")
    for name in kinds:
        for other in kinds:
            done = boot.run(DHTGET, "lookup", magnets[other], *networked(boot, paths[name]), "--json")
            found = '"event":"peer"' in done.stdout
            if found != (name == other):
                raise Failed(f"in {name} the swarm of {other} is {'' if found else 'not '}found: {done.stdout}{done.stderr}")
    for name, (port, _) in kinds.items():
        others = [p for n, (p, _) in kinds.items() if n != name]
        words = json.dumps(status(boot, port - 1000))
        met = [p for p in others if f":{p}" in words]
        if met:
            raise Failed(f"the node of {name} knows the ports of others: {met}")
    folder = f"{boot.folder}/dhtget"
    states = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    apart = [s for s in states if os.path.isdir(f"{folder}/{s}")]
    if len(apart) < len(kinds):
        raise Failed(f"the state of {len(kinds)} networks lies in {states}")
