"""What people do with dhtget on machines of a private network: one call for each of their commands.

Owns the command lines. Must not judge what comes of them: cases do.
"""

import json
import os
import shutil
import tomllib

from lab import Failed, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
DHTGET = os.path.abspath(os.environ.get("DHTGET") or f"{HERE}/../../target/release/dhtget")
PORT = 6881


def create(machine, name, bootstrap, *options):
    """`dhtget network create` in the machine's folder: the path of the file, and the invite that was printed."""
    made = machine.run(DHTGET, "network", "create", name, *[f"--bootstrap={b}" for b in bootstrap], *options)
    if made.returncode:
        raise Failed(f"network create ended with {made.returncode}: {made.stderr}")
    path = f"{machine.folder}/{name}.network"
    if not os.path.isfile(path):
        raise Failed(f"network create wrote no {name}.network")
    invite = next((word for word in made.stdout.split() if word.startswith("dhtget-invite")), None)
    if not invite:
        raise Failed(f"network create printed no invite: {made.stdout!r}")
    return path, invite


def copied(path, machine):
    """The network's file, brought to another machine as an administrator does."""
    target = f"{machine.folder}/{os.path.basename(path)}"
    if os.path.realpath(path) != os.path.realpath(target):
        shutil.copy(path, target)
        os.chmod(target, 0o600)
    return target


def join(machine, invite):
    """`network join -`: the invite comes through a pipe, where nobody sees it."""
    done = machine.run(DHTGET, "network", "join", "-", typed=invite + "\n")
    if done.returncode:
        raise Failed(f"network join ended with {done.returncode}: {done.stderr}")
    return done


def node(machine, network, *options, name="node"):
    """A node that is up: its sockets are open."""
    process = machine.start(DHTGET, "node", *networked(machine, network), "--json", *options, name=name)
    process.port = event(process, "started", 10)["port"]
    return process


def share(machine, network, path, *options, announced=True, name="share"):
    """The process and the magnet link that it prints."""
    process = machine.start(DHTGET, "share", path, *networked(machine, network), "--json", *options, name=name)
    magnet = event(process, "shared", 10)["magnet"]
    process.port = event(process, "started", 10)["port"]
    if announced:
        wait_until(lambda: any(e.get("announced_to") for e in process.events() if e["event"] == "dht"), 20,
                   f"{machine.name} has announced what it shares", [process])
    return process, magnet


def fetch(machine, network, magnet, *options, name="get"):
    """Begins to fetch into the machine's folder `got`."""
    return machine.start(DHTGET, magnet, "-d", f"{machine.folder}/got", *networked(machine, network), "--json", *options, name=name)


def networked(machine, network):
    return [f"--network={copied(network, machine) if network.endswith('.network') else network}"] if network else []


def event(process, name, seconds, **fields):
    """The first event of that name with these fields."""
    def fits(e):
        return e["event"] == name and all(e.get(k) == v for k, v in fields.items())
    return wait_until(lambda: next((e for e in process.events() if fits(e)), None), seconds, f"{process.name} told {name}",
                      [process], 0.05)


def same(source, target):
    """Fails unless two files or folders hold the same names and bytes."""
    from torrents import differences
    said = differences(source, target)
    if said:
        raise Failed("; ".join(said))


def secrets(path, *invites):
    """Every form in which a network's key may be written: as in its file, raw, hex, base64, and within invites."""
    import base64
    with open(path, "rb") as stream:
        words = [value for field, value in tomllib.load(stream).items() if "key" in field and isinstance(value, str)]
    if not words:
        raise Failed(f"{path} holds no key")
    found = set()
    for word in words:
        found.add(word.encode())
        padded = word.upper() + "=" * (-len(word) % 8)
        raw = base64.b32decode(padded)
        found |= {raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"="), base64.urlsafe_b64encode(raw).rstrip(b"=")}
    for invite in invites:
        found.add(invite.split(".", 1)[-1].encode())
    return found


def status(machine, process_port=6880):
    """The figures of a node with --status."""
    done = machine.run(DHTGET, "node", "status", str(process_port), "--json")
    if done.returncode:
        raise Failed(f"node status ended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)
