"""One or many libtorrent sessions in a process of their own, told what to do by a JSON object in argv[1].

Prints a JSON object a line on stdout: {"event": "ready" | "metadata" | "done" | "stats" | "peers" | "announce" | "put" |
"item" | "samples" | "live"}. Runs until SIGTERM. Keys: role ("peer", "nodes", "obeys"), listen, bootstrap,
torrents [[file, save]], unchecked (they are taken to be there), priorities [one a file], magnets, save, connect ["ip:port"],
lookup [info hash], upload_limit, direct (no DHT), settings {}, commands (a file to which JSON objects are appended, one a line: see `obey`).
"""

import json
import os
import signal
import sys
import time
import warnings

warnings.simplefilter("ignore")
import libtorrent as lt  # noqa: E402

# A private DHT has few nodes, all in one small range: what guards the public one would empty it.
PRIVATE = {
    "enable_dht": True,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "dht_restrict_routing_ips": False,
    "dht_restrict_search_ips": False,
    "dht_enforce_node_id": False,
    "dht_prefer_verified_node_ids": False,
    "dht_ignore_dark_internet": False,
    # Twelve nodes carry what thousands share outside; the limit for each address stays at its default.
    "dht_upload_rate_limit": 200_000,
    # The default of 15 minutes is longer than the whole suite.
    "dht_announce_interval": 5,
    "allow_multiple_connections_per_ip": True,
}


def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def endpoint(text):
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)


def written(ip, port):
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def open_session(listen, bootstrap, **extra):
    host, _ = endpoint(listen)
    category = lt.alert.category_t
    session = lt.session({
        **PRIVATE,
        "listen_interfaces": listen,
        "outgoing_interfaces": host,
        "dht_bootstrap_nodes": ",".join(bootstrap),
        "alert_mask": category.status_notification | category.error_notification | category.storage_notification
        | category.dht_notification | category.dht_operation_notification,
        **extra,
    })
    # Bootstrap addresses alone are routers to libtorrent and never enter its table.
    for address in bootstrap:
        session.add_dht_node(endpoint(address))
    return session


def nodes(config):
    """One session a listen address, all told about each other, so that the network is whole after a second."""
    sessions = [open_session(listen, config["listen"][:2], aio_threads=1, hashing_threads=1) for listen in config["listen"]]
    introduce(sessions, config["listen"])
    say("ready")
    while not stopping:
        time.sleep(0.2)
        for session in sessions:
            session.pop_alerts()


def introduce(sessions, addresses):
    """Tells each of the others, several times: the first may come before there is a DHT."""
    for _ in range(3):
        time.sleep(0.5)
        for session, own in zip(sessions, addresses):
            for address in addresses:
                if address != own:
                    session.add_dht_node(endpoint(address))


def add(session, params, save, config):
    params.save_path = save
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    params.flags |= lt.torrent_flags.disable_pex | lt.torrent_flags.disable_lsd
    if config.get("pex"):
        params.flags &= ~lt.torrent_flags.disable_pex
    if config.get("lsd"):
        params.flags &= ~lt.torrent_flags.disable_lsd
    if config.get("unchecked"):
        params.flags |= lt.torrent_flags.seed_mode
    return session.add_torrent(params)


def peer(config):
    extra = dict(config.get("settings", {}))
    if config.get("direct"):
        extra["enable_dht"] = False
    if config.get("lsd"):
        extra["enable_lsd"] = True
    session = open_session(config["listen"], config["bootstrap"], **extra)
    handles = []
    for file, save in config.get("torrents", []):
        params = lt.load_torrent_file(file)
        handles.append(add(session, params, save, config))
    for magnet in config.get("magnets", []):
        handles.append(add(session, lt.parse_magnet_uri(magnet), config["save"], config))
    for handle in handles:
        if config.get("priorities"):
            handle.prioritize_files(config["priorities"])
        if config.get("upload_limit"):
            handle.set_upload_limit(config["upload_limit"])
        if config.get("download_limit"):
            handle.set_download_limit(config["download_limit"])
        for address in config.get("connect", []):
            handle.connect_peer(endpoint(address))
    wanted = [lt.sha1_hash(bytes.fromhex(h)) for h in config.get("lookup", [])]
    say("ready")
    finished, next_stats, next_lookup = set(), 0.0, 0.0
    while not stopping:
        session.wait_for_alert(100)
        for alert in session.pop_alerts():
            on_alert(alert, handles, finished)
        now = time.monotonic()
        if wanted and now >= next_lookup:
            next_lookup = now + 3
            for info_hash in wanted:
                session.dht_get_peers(info_hash)
        if now >= next_lookup and not config.get("direct"):
            # Its first lookup sometimes runs while its table is still empty.
            next_lookup = now + 3
            for handle in handles:
                if not handle.status().is_seeding:
                    handle.force_dht_announce()
        if handles and now >= next_stats:
            next_stats = now + 0.5
            stats = {}
            for h in handles:
                s = h.status()
                stats[str(h.info_hashes().v1)] = [s.total_payload_download, s.total_payload_upload, s.progress]
            say("stats", torrents=stats)
    session.pause()


def obeys(config):
    """Sessions without torrents that use the DHT as they are told; without `bootstrap` they are a DHT of their own."""
    sessions = [open_session(listen, config["bootstrap"]) for listen in config["listen"]]
    joining = set(range(len(sessions)))
    if not config["bootstrap"]:
        introduce(sessions, config["listen"])
        joining.clear()
        say("ready")
    with open(config["commands"]) as commands:
        while not stopping:
            time.sleep(0.02)
            if not joining and (line := commands.readline()):
                obey(sessions, **json.loads(line))
            for number, session in enumerate(sessions):
                for alert in session.pop_alerts():
                    if isinstance(alert, lt.dht_bootstrap_alert) and joining:
                        joining.discard(number)
                        if not joining:
                            say("ready")
                    tell(alert)


def obey(sessions, do, session=0, **a):
    """One command: do (put, get, announce, lookup, sample, live, settings), the session's number, and what it is about."""
    dht = sessions[session]
    raw = {name: bytes.fromhex(a[name]) for name in ("value", "secret", "key", "salt", "target", "hash") if name in a}
    if do == "put" and "secret" in raw:
        dht.dht_put_mutable_item(raw["secret"], raw["key"], raw["value"], raw.get("salt", b""))
    elif do == "put":
        dht.dht_put_immutable_item(raw["value"])
    elif do == "get" and "key" in raw:
        dht.dht_get_mutable_item(raw["key"], raw.get("salt", b""))
    elif do == "get":
        dht.dht_get_immutable_item(lt.sha1_hash(raw["target"]))
    elif do == "announce":
        dht.dht_announce(lt.sha1_hash(raw["hash"]), a["port"], a.get("flags", 0))
    elif do == "lookup":
        dht.dht_get_peers(lt.sha1_hash(raw["hash"]))
    elif do == "sample":
        dht.dht_sample_infohashes(endpoint(a["node"]), lt.sha1_hash(raw["target"]))
    elif do == "live":
        dht.dht_live_nodes(lt.sha1_hash(raw["target"]))
    elif do == "settings":
        dht.apply_settings(a["settings"])
    else:
        raise ValueError(do)


def tell(alert):
    if isinstance(alert, lt.dht_put_alert):
        say("put", target=str(alert.target), key=alert.public_key.hex(), salt=alert.salt.hex(), seq=alert.seq,
            nodes=alert.num_success)
    elif isinstance(alert, lt.dht_immutable_item_alert):
        say("item", target=str(alert.target), value=lt.bencode(alert.item).hex() if alert.item else None)
    elif isinstance(alert, lt.dht_mutable_item_alert):
        # Without an item in store it is an empty string, version 0.
        say("item", key=alert.key.hex(), salt=alert.salt.hex(), seq=alert.seq, authoritative=alert.authoritative,
            value=lt.bencode(alert.item).hex())
    elif isinstance(alert, lt.dht_sample_infohashes_alert):
        say("samples", node=written(*alert.endpoint), num=alert.num_infohashes, interval=str(alert.interval),
            hashes=[str(h) for h in alert.samples], nodes=alert.num_nodes)
    elif isinstance(alert, lt.dht_live_nodes_alert):
        say("live", target=str(alert.node_id), nodes=[[str(n["nid"]), written(*n["endpoint"])] for n in alert.nodes])
    else:
        on_alert(alert, [], set())


def on_alert(alert, handles, finished):
    if isinstance(alert, lt.dht_bootstrap_alert):
        # Added before the DHT was up, a torrent would wait a whole interval for its first announce.
        for handle in handles:
            handle.force_dht_announce()
    elif isinstance(alert, lt.metadata_received_alert):
        say("metadata", hash=str(alert.handle.info_hashes().v1))
    elif isinstance(alert, lt.torrent_finished_alert):
        alert.handle.flush_cache()
        finished.add(str(alert.handle.info_hashes().v1))
    elif isinstance(alert, lt.cache_flushed_alert):
        info_hash = str(alert.handle.info_hashes().v1)
        if info_hash in finished:
            finished.discard(info_hash)
            say("done", hash=info_hash)
    elif isinstance(alert, lt.dht_get_peers_reply_alert):
        say("peers", hash=str(alert.info_hash), peers=[written(*p) for p in alert.peers()])
    elif isinstance(alert, (lt.torrent_error_alert, lt.file_error_alert, lt.listen_failed_alert)):
        print(alert.message(), file=sys.stderr, flush=True)


stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
config = json.loads(sys.argv[1])
{"nodes": nodes, "peer": peer, "obeys": obeys}[config["role"]](config)
os._exit(0)
