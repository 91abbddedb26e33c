//! Every bound of a swarm, with its reason.

use std::time::Duration;

use crate::id::Id160;
use crate::wire::allow::AllowList;

/// Connections of one torrent (libtorrent: 200).
pub const MAX_CONNECTIONS: usize = 200;
/// Of these, connections that were opened by the other side: we must be able to dial whom we choose.
pub const MAX_INCOMING: usize = 150;
/// Connections from one address, where that is not our own machine's: many behind one NAT share it.
pub const MAX_PER_ADDRESS: usize = 8;
/// The same from one IPv6 /64, which may be one host or a street of them.
pub const MAX_PER_SITE: usize = 24;
/// Peers that gave payload and have gone, remembered in case it was false.
pub const MAX_DEPARTED: usize = 512;
/// A peer of no use may be displaced by one of higher priority (BEP 40) after this long: by then it has said what
/// it has and wants.
pub const DISPLACE_AFTER: Duration = Duration::from_secs(60);
/// What peers say of our own address is remembered of this many networks.
pub const MAX_OWN_VOTES: usize = 32;
/// Networks that must agree on it; little depends on it, but one liar must not suffice.
pub const MIN_OWN_VOTES: usize = 3;
/// Dials under way at once: enough to find live peers among many dead ones in seconds, few enough for a home router.
pub const MAX_HALF_OPEN: usize = 100;
/// New dials in a second, once there are a few peers; what is not used adds up to [`MAX_HALF_OPEN`]. As many as libtorrent's
/// `connection_speed`.
pub const DIALS_A_SECOND: usize = 30;
/// With fewer connections and dials than this, [`MAX_HALF_OPEN`] go out in a second.
pub const FEW_MEMBERS: usize = 10;
/// How long one dial may take while others wait.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a dial may take when nobody else is left to try.
pub const PATIENT_DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses remembered; past this the worst is forgotten.
pub const MAX_CANDIDATES: usize = 2000;
/// Of these, addresses that only other peers named (BEP 11): half, so that there is room for what others find.
pub const MAX_PEX_CANDIDATES: usize = MAX_CANDIDATES / 2;
/// Of these, addresses that one peer named: four of its messages, and no more than a tenth.
pub const MAX_NAMED_BY_ONE: usize = 200;
/// Addresses kept apart because their peer has a second connection.
pub const MAX_PARKED: usize = 64;
/// Ports of one host that other peers may name: more would make us a tool against that host.
pub const MAX_NAMED_PORTS: usize = MAX_PER_ADDRESS;
/// How often a peer is told who came and went (BEP 11: not more often than once a minute).
pub const PEX_EVERY: Duration = Duration::from_secs(60);
/// How soon it is looked at again while there is nobody to tell of.
pub const PEX_AGAIN: Duration = Duration::from_secs(5);
/// Peer exchange messages taken from one peer in a minute; past this its connection ends. One is due, and some
/// clients send the first few close together.
pub const MAX_PEX_A_MINUTE: usize = 6;
/// How often a torrent is announced to the local network (BEP 14).
pub const LSD_EVERY: Duration = Duration::from_secs(5 * 60);
/// The least time between two such announces of a torrent, whatever happens meanwhile (BEP 14: a minute).
pub const LSD_AT_MOST: Duration = Duration::from_secs(60);
/// Hosts of the local network that are passed on for one torrent in a minute: more are no swarm but a flood.
pub const MAX_NEIGHBOURS: usize = 50;
/// DHT ports one peer may name (BEP 5): it has one node, and some clients repeat it.
pub const MAX_DHT_PORTS: u8 = 4;
/// Addresses of proven liars remembered.
pub const MAX_BANNED: usize = 1000;
/// Of one IPv6 /64, so many are all of it: whoever rents one has 2^64 addresses.
pub const MAX_BANNED_OF_A_SITE: usize = 3;
/// How often rates, snubbing and dials are looked at.
pub const TICK: Duration = Duration::from_secs(1);
/// Tit-for-tat looks at the peers this often (BEP 3: ten seconds).
pub const CHOKE_ROUND: Duration = Duration::from_secs(10);
/// Rounds until the optimistic unchoke moves on (BEP 3: 30 s).
pub const OPTIMISTIC_ROUNDS: u32 = 3;
/// Who holds a slot and asks for nothing for this long, while others wait, makes room for them.
pub const IDLE_SLOT: Duration = Duration::from_secs(5);
/// The same for who has asked and takes nothing of it: longer, since a small upload limit serves one after the other.
pub const STALLED_SLOT: Duration = Duration::from_secs(4);
/// The same for who has taken payload before: behind a full modem nothing seems to move for a while.
pub const SLOW_SLOT: Duration = Duration::from_secs(15);
/// Regular upload slots at the most.
pub const MAX_UPLOAD_SLOTS: usize = 50;
/// Slots there may be where most of those who hold one ask for nothing, if there are not more anyway.
pub const MAX_IDLE_SLOTS: usize = 20;
/// Regular upload slots where there is no limit, before anybody has taken anything (BEP 3: four).
pub const UPLOAD_SLOTS: usize = 4;
/// Regular upload slots under the lowest limit, and of the narrowest link: with one, whoever takes nothing would stop us.
pub const MIN_UPLOAD_SLOTS: usize = 2;
/// Slots are the square root of the rate in this unit: four at a home's 128 KiB/s, 22 at 4 MiB/s. Each gets more where there is
/// more, so that a piece still passes in seconds.
pub const SLOT_RATE: u64 = 8 << 10;
/// As a seed, a slot is held for so long, where others wait: a piece of 4 MiB over a home's slot.
pub const SEED_TURN: Duration = Duration::from_secs(180);
/// And for so long by who turns out slow.
pub const SEED_TRIAL: Duration = Duration::from_secs(30);
/// A peer that owes us blocks and sends none for this long has stalled: others may have its blocks.
pub const STALL_AFTER: Duration = Duration::from_secs(20);
/// The same for a peer that has not sent any block yet: it may never have meant to.
pub const STALL_AT_FIRST: Duration = Duration::from_secs(6);
/// A peer that owes us blocks and sends none for this long snubs us: it is served by chance only.
pub const SNUB_AFTER: Duration = Duration::from_secs(60);
/// A peer that rejects or drops our requests is asked again after this; doubles up to 32 times.
pub const STRIKE_REST: Duration = Duration::from_secs(1);
/// Requests a new peer gets before its rate is known; slow start doubles it each round trip.
pub const FIRST_DEPTH: usize = 8;
/// What is asked of a peer ahead of its round trip: so much of its time.
pub const QUEUE_TIME: Duration = Duration::from_secs(1);
/// Requests that go out together, at most, once the pipeline is full: one for each block that arrives would wake the other side
/// for each, and more would leave a hole in a long pipeline.
pub const REQUEST_BATCH: usize = 64;
/// Seconds of the user's limit that are requested ahead, over all peers: what is on its way waits in sockets.
pub const LIMIT_SECONDS: u64 = 5;
/// Requests a peer always may have under way, however slow it seems: one on its way and one behind it. Four kept a home
/// uplink's slot busy for three seconds with what might be had elsewhere by then.
pub const MIN_DEPTH: usize = 2;
/// How many peers may be asked for the same block at the end, beside the first.
pub const ENDGAME_EXTRA: usize = 2;
/// A block is asked for twice only where its peer needs at least this long for what it was asked; most of the
/// last blocks are on their way, and a second copy of those is waste.
pub const ENDGAME_AFTER: Duration = Duration::from_millis(250);
/// Who has sent nothing in the time of so many blocks at its rate sends nothing at all.
pub const MUTE_BLOCKS: f64 = 4.0;
/// Requests one peer may have under way for blocks that others were asked for.
pub const ENDGAME_DEPTH: usize = 16;
/// Bytes of blocks that are read or unsent for a fast peer: enough to keep its socket busy.
pub const UPLOAD_AHEAD: usize = 1 << 20;
/// The same for a slow one: what is unsent can no longer be cancelled, and haves wait behind it.
pub const MIN_UPLOAD_AHEAD: usize = 4 << 10;
/// Bytes that the disk is asked for at once, where blocks follow each other: one look at the file, one answer.
pub const READ_RUN: u32 = 256 << 10;
/// Bytes unsent for one peer, answers to its questions included: who asks on and reads nothing is let go.
pub const MAX_UNSENT: usize = 2 << 20;
/// Bytes of a piece under way that are still served after a choke.
pub const MAX_FINISHING: usize = 1 << 20;
/// Requests of one peer we queue; a little over what we announce.
pub const MAX_PEER_REQUESTS: usize = 2048;
/// Pieces that one peer may ask for while it is choked, and we of it (BEP 6, and libtorrent: ten).
pub const ALLOWED_FAST: usize = 10;
/// Bytes of these that we serve on one connection, or one piece where that is more: a newcomer needs a first
/// few pieces, and no more than that goes past tit-for-tat.
pub const ALLOWED_FAST_BYTES: u64 = 1 << 20;
/// Requests of a choked peer that we queue: a full pipeline, and no more that could keep others waiting.
pub const ALLOWED_FAST_QUEUE: usize = 64;
/// Requests under way at a peer that chokes us: a pipeline, and no more to wait for than necessary.
pub const ALLOWED_FAST_DEPTH: usize = 16;
/// Haves and losses remembered of one peer before the number of pieces is known.
pub const MAX_EARLY_HAVES: usize = 16_384;
/// Missing haves sent one by one to a peer that connected before we knew our pieces; past this it is cheaper to reconnect.
pub const MAX_LATE_HAVES: u32 = 8192;
/// Failed pieces remembered until it is known who lied; each costs 16 bytes a block.
pub const MAX_SUSPECTS: usize = 64;
/// Sizes of metadata that may be collected at once.
pub const MAX_METADATA_SIZES: usize = 8;
/// Bytes of metadata held at once, over all sizes.
pub const MAX_METADATA_HELD: usize = 64 << 20;
/// Metadata requests under way at one peer.
pub const METADATA_DEPTH: usize = 8;
/// Pieces a seed names to one peer ahead, beside two seconds of its rate.
pub const MIN_NAMED: usize = 4;
/// The same for the fastest.
pub const MAX_NAMED: usize = 64;
/// Pieces that a seed has given and nobody passed on yet, of those it remembers: the latest.
pub const MAX_GIVEN: usize = 16_384;
/// Pieces that only we and a peer have, and that it may keep to itself: some find no taker.
pub const MAX_HOARD: u32 = 4;
/// A piece that nobody else has after this long was not passed on: a slow uplink passes one of 64 KiB within seconds.
pub const HOARD_AFTER: Duration = Duration::from_secs(20);
/// After its last suggestion a seed is asked for nothing else for so long, where there are others to share with: what it does
/// not name to us it names to them.
pub const LED_FOR: Duration = Duration::from_secs(3);
/// But no longer than this while it has nothing to do for us.
pub const LED_IDLE: Duration = Duration::from_millis(600);
/// Suggestions of one peer that are remembered; the oldest make way.
pub const MAX_SUGGESTED: usize = 64;
/// Pieces that a super-seed shows ahead to a peer that has a slot: one to pass on, one to fetch meanwhile.
pub const SUPER_AHEAD: usize = 2;
/// More at first where pieces are small: so many bytes, since most of the time goes by until others say that they have them.
pub const SUPER_AHEAD_BYTES: u32 = 64 << 10;
/// The same for one that passes on all it is shown, and is slow to say so: Transmission gathers its haves for ten seconds.
pub const MAX_SUPER_AHEAD: usize = 64;
/// A super-seed shows the next piece after this long, if nobody else has taken the last.
pub const SUPER_PATIENCE: Duration = Duration::from_secs(30);
/// Copies that make a super-seed an ordinary one.
pub const SUPER_COPIES: usize = 2;
/// Metadata blocks that peers wait for: a crowd of 200 asking for eight each, with room to spare.
pub const MAX_METADATA_QUEUE: usize = 4096;
/// Bytes of metadata that wait for the sockets: a home uplink must serve one peer after the other, not all at once.
pub const METADATA_AHEAD: usize = 64 << 10;
/// A peer that reads nothing for this long does not keep metadata from others.
pub const METADATA_STALL: Duration = Duration::from_secs(2);
/// Metadata blocks served to one peer, as a multiple of the dictionary.
pub const METADATA_SERVINGS: u32 = 4;
/// Pieces that are picked at random before rarest-first begins: a first piece must come soon, to have something to give.
pub const RANDOM_FIRST_PIECES: u32 = 4;
/// A peer that needs longer than this for a whole piece helps with pieces others have begun.
pub const WHOLE_PIECE_SECONDS: u64 = 20;

/// In order: bytes ahead that are fetched in order, at least; a start must not wait for a rate.
pub const MIN_WINDOW: u64 = 4 << 20;
/// The same as seconds of everybody's rate: a slow peer can be used for what is due that late.
pub const WINDOW_SECONDS: u64 = 20;
/// Pieces looked at for it each time: a choice must stay cheap where pieces are small.
pub const WINDOW_PIECES: usize = 1024;
/// What is due within so many milliseconds belongs to whoever brings it soonest: about a pipeline's depth.
pub const DUE_SOON: u64 = 2_500;
/// What is due within so many is asked for twice where it is late.
pub const DUE_NOW: u64 = 1_000;
/// The same as [`SNUB_AFTER`] where somebody reads what comes: he would wait as long.
pub const STALL_IN_ORDER_AFTER: Duration = Duration::from_secs(5);
/// A block that is due is asked for twice only where its peer needs this long for what it was asked; pipelines
/// are [`QUEUE_TIME`] long as a rule.
pub const LATE_AFTER: Duration = Duration::from_secs(3);
/// Bytes that may be asked for twice at any time because they are late.
pub const TWICE_FREE: u64 = 512 << 10;
/// The same grows by one part in so many of what came: waste stays below 1/32 of the whole.
pub const TWICE_SHARE: u64 = 32;

/// What the owner of a swarm chooses.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our id in this swarm.
    pub peer_id: Id160,
    /// The TCP port we accept on.
    pub listen_port: Option<u16>,
    /// The UDP port of our DHT node.
    pub dht_port: Option<u16>,
    /// Stop at the metadata.
    pub metadata_only: bool,
    /// Bytes a second that the driver lets in, where the user set a limit.
    pub download_limit: Option<u64>,
    /// Bytes a second that the driver lets out, where the user set a limit; with none at all nobody is served.
    pub upload_limit: Option<u64>,
    /// Who belongs to the network: nobody else is dialled, let in or named to anyone.
    pub allow: AllowList,
    /// Behind one address may be a whole site, as in a private network: it is not taken for one peer.
    pub shared_addresses: bool,
    /// Say that we have nothing, and show each peer a few pieces at a time, until some copies are out (BEP 16).
    pub super_seed: bool,
}

impl Config {
    /// A swarm that fetches everything, is reachable nowhere, and knows no limit.
    pub fn new(peer_id: Id160) -> Self {
        Self {
            peer_id,
            listen_port: None,
            dht_port: None,
            metadata_only: false,
            download_limit: None,
            upload_limit: None,
            allow: AllowList::default(),
            shared_addresses: false,
            super_seed: false,
        }
    }
}
