//! Magnet links (BEP 9 "magnet URI format", BEP 53 file selection): reading and making them.
//!
//! Owns [`Magnet`] and [`HostPort`], an address as a person or a link writes it. A link is text from a
//! stranger: its length, peers and ranges are bounded, a range is never expanded, and what is merely odd
//! is counted and left out. Trackers and web seeds are counted too, because nothing here uses them.
//! Must not resolve names or know who downloads.

use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use thiserror::Error;

use crate::id::{InfoHash, ParseIdError};

/// Links longer than this are refused; hundreds of trackers still fit.
pub const MAX_MAGNET_BYTES: usize = 256 * 1024;
/// Peers kept of one link: more are dialled later through the DHT anyway.
pub const MAX_PEERS: usize = 128;
/// Ranges kept of `so`: a longer selection is cut, and the cut is counted.
pub const MAX_RANGES: usize = 1024;
/// Bytes kept of the display name; it is only shown until the metadata names the torrent.
pub const MAX_NAME_BYTES: usize = 1024;
/// Parts that cannot be read of which the words are kept, to be shown.
pub const MAX_EXAMPLES: usize = 4;
/// Bytes kept of each.
const MAX_EXAMPLE_BYTES: usize = 64;
/// Bytes of a host name (RFC 1035, 2.3.4).
const MAX_HOST_BYTES: usize = 253;

/// What a magnet link says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Magnet {
    /// The v1 info-hash (`xt=urn:btih:`).
    pub hash: InfoHash,
    /// The display name (`dn`); a suggestion of whoever wrote the link.
    pub name: Option<String>,
    /// Peers to dial at once (`x.pe`).
    pub peers: Vec<HostPort>,
    /// Indices of the files to fetch (`so`), as written; empty: all of them.
    pub select: Vec<RangeInclusive<u64>>,
    /// What the link also held.
    pub ignored: Ignored,
}

/// Parts of a link that are not used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ignored {
    /// Trackers (`tr`): peers come from the DHT.
    pub trackers: usize,
    /// Web seeds (`ws`, `as`, `xs`).
    pub web_seeds: usize,
    /// Other info-hashes than the first, v2 hashes beside a v1 hash.
    pub topics: usize,
    /// Those of them that name another v1 torrent.
    pub torrents: usize,
    /// Peers (`x.pe`).
    pub peers: LeftOut,
    /// Parts of the selection (`so`).
    pub ranges: LeftOut,
}

/// Values of a parameter that are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// How many cannot be read.
    pub unread: usize,
    /// The first of them, at most [`MAX_EXAMPLES`], cut to a length that can be shown.
    pub examples: Vec<String>,
    /// How many are over the bound.
    pub excess: usize,
}

impl LeftOut {
    fn on_unread(&mut self, text: &str) {
        self.unread += 1;
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(text[..text.floor_char_boundary(MAX_EXAMPLE_BYTES)].to_owned());
        }
    }
}

/// Why a text is no usable magnet link.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MagnetError {
    /// It does not begin with `magnet:?`.
    #[error("not a magnet link: it does not begin with `magnet:?`")]
    NotMagnet,
    /// Over [`MAX_MAGNET_BYTES`].
    #[error("a magnet link of {0} bytes, the limit is {MAX_MAGNET_BYTES}")]
    TooLong(usize),
    /// No `xt` at all, or none of BitTorrent.
    #[error("the magnet link names no torrent: it has no `xt=urn:btih:` part")]
    NoTopic,
    /// A pointer whose key cannot be read (BEP 46).
    #[error("the public key of the magnet link cannot be read: after `urn:btpk:` stand 64 hex digits")]
    Key,
    /// A pointer whose salt cannot be read (BEP 46).
    #[error("the salt of the magnet link cannot be read: after `s=` stand hex digits, {0} at most")]
    Salt(usize),
    /// Only a v2 hash (BEP 52).
    #[error("the magnet link names a v2 torrent only (`urn:btmh:`, BEP 52)")]
    V2Only,
    /// A v1 hash that cannot be read.
    #[error("the info-hash of the magnet link cannot be read: {0}")]
    Hash(#[from] ParseIdError),
}

impl Magnet {
    /// A link to `hash` and nothing more.
    pub fn new(hash: InfoHash) -> Self {
        Self { hash, name: None, peers: Vec::new(), select: Vec::new(), ignored: Ignored::default() }
    }

    /// Whether `text` claims to be a magnet link.
    pub fn looks_like(text: &str) -> bool {
        text.trim_start().get(..7).is_some_and(|head| head.eq_ignore_ascii_case("magnet:"))
    }

    /// All that the link says beside its topic; for links that name their torrent in another way (BEP 46).
    pub(super) fn beside_topic(text: &str) -> Self {
        let mut magnet = Self::new(InfoHash::ZERO);
        let query = text.trim().split_once('?').map_or("", |(_, query)| query);
        for part in query.split('&') {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            magnet.on_param(&plain_key(key), value);
        }
        magnet
    }

    /// Takes in every parameter except the topics.
    fn on_param(&mut self, key: &str, value: &str) {
        match key {
            "dn" if self.name.is_none() => {
                let name = percent_decode(&value.replace('+', " "));
                let end = name.floor_char_boundary(MAX_NAME_BYTES);
                self.name = (!name.is_empty()).then(|| name[..end].to_owned());
            }
            "x.pe" => match percent_decode(value).parse() {
                Ok(peer) if self.peers.contains(&peer) => {}
                Ok(peer) if self.peers.len() < MAX_PEERS => self.peers.push(peer),
                Ok(_) => self.ignored.peers.excess += 1,
                Err(_) => self.ignored.peers.on_unread(&percent_decode(value)),
            },
            "so" => self.on_selection(&percent_decode(value)),
            "tr" => self.ignored.trackers += 1,
            // A key, which `Pointer` reads.
            "xs" if percent_decode(value).to_ascii_lowercase().starts_with("urn:btpk:") => {}
            "ws" | "as" | "xs" => self.ignored.web_seeds += 1,
            _ => {}
        }
    }

    /// BEP 53: indices and inclusive ranges, separated by commas.
    fn on_selection(&mut self, value: &str) {
        for item in value.split(',').filter(|item| !item.is_empty()) {
            match parse_range(item) {
                Some(range) if self.select.len() < MAX_RANGES => self.select.push(range),
                Some(_) => self.ignored.ranges.excess += 1,
                None => self.ignored.ranges.on_unread(item),
            }
        }
    }
}

fn parse_range(item: &str) -> Option<RangeInclusive<u64>> {
    // `u64::from_str` takes a leading plus, BEP 53 does not.
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
    let (first, last) = item.split_once('-').unwrap_or((item, item));
    let range: RangeInclusive<u64> = number(first)?..=number(last)?;
    (!range.is_empty()).then_some(range)
}

/// What the `xt` parameters of a link came to.
#[derive(Default)]
struct Topics {
    hash: Option<InfoHash>,
    broken: Option<ParseIdError>,
    v2: bool,
    ignored: usize,
    /// Of these, other v1 torrents.
    others: usize,
}

impl Topics {
    fn on_topic(&mut self, value: &str) {
        let value = percent_decode(value);
        let Some((scheme, body)) = value.get(..9).zip(value.get(9..)) else { return };
        if scheme.eq_ignore_ascii_case("urn:btmh:") {
            self.v2 = true;
            self.ignored += 1;
        } else if scheme.eq_ignore_ascii_case("urn:btih:") {
            match (body.trim().parse(), self.hash) {
                (Ok(hash), None) => self.hash = Some(hash),
                (Ok(hash), Some(first)) if hash == first => {}
                (Ok(_), Some(_)) => {
                    self.ignored += 1;
                    self.others += 1;
                }
                (Err(error), _) => {
                    self.ignored += 1;
                    self.broken.get_or_insert(error);
                }
            }
        }
    }

    fn into_hash(self) -> Result<InfoHash, MagnetError> {
        match (self.hash, self.broken) {
            (Some(hash), _) => Ok(hash),
            (None, Some(error)) => Err(error.into()),
            (None, None) if self.v2 => Err(MagnetError::V2Only),
            (None, None) => Err(MagnetError::NoTopic),
        }
    }
}

/// Parameters may carry a number (`xt.1`, `x.pe` stays whole) and may come out of HTML (`&amp;`).
pub(super) fn plain_key(key: &str) -> String {
    let key = percent_decode(key).to_ascii_lowercase();
    let key = key.strip_prefix("amp;").unwrap_or(&key);
    match key.rsplit_once('.') {
        Some((plain, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => {
            plain.to_owned()
        }
        _ => key.to_owned(),
    }
}

impl FromStr for Magnet {
    type Err = MagnetError;

    fn from_str(text: &str) -> Result<Self, MagnetError> {
        let text = text.trim();
        if text.len() > MAX_MAGNET_BYTES {
            return Err(MagnetError::TooLong(text.len()));
        }
        if !Self::looks_like(text) {
            return Err(MagnetError::NotMagnet);
        }
        let query = text[7..].trim_start_matches('/');
        let query = query.strip_prefix('?').ok_or(MagnetError::NotMagnet)?;
        let mut magnet = Self::new(InfoHash::ZERO);
        let mut topics = Topics::default();
        for part in query.split('&') {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match plain_key(key).as_str() {
                "xt" => topics.on_topic(value),
                key => magnet.on_param(key, value),
            }
        }
        (magnet.ignored.topics, magnet.ignored.torrents) = (topics.ignored, topics.others);
        magnet.hash = topics.into_hash()?;
        Ok(magnet)
    }
}

impl fmt::Display for Magnet {
    /// Hash, name, peers, selection. Addresses keep `:`, `[` and `]`, which some clients do not decode.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "magnet:?xt=urn:btih:{}", self.hash)?;
        if let Some(name) = &self.name {
            f.write_str("&dn=")?;
            percent_encode(f, name)?;
        }
        for peer in &self.peers {
            write!(f, "&x.pe={peer}")?;
        }
        for (i, range) in self.select.iter().enumerate() {
            f.write_str(if i == 0 { "&so=" } else { "," })?;
            write!(f, "{}", range.start())?;
            if range.end() != range.start() {
                write!(f, "-{}", range.end())?;
            }
        }
        Ok(())
    }
}

/// Decodes `%41`; what is no escape stays as it is, bytes that are no UTF-8 become visible.
pub(super) fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex_digit(*high).zip(hex_digit(*low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        out.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|d| d as u8)
}

/// Keeps the unreserved characters of RFC 3986, 2.3.
fn percent_encode(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            f.write_char(char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

/// `1.2.3.4:6881`, `[2001:db8::1]:6881` or `host.example:6881`; the port is never 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// Why a text is no `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HostPortError {
    /// No colon and number at the end.
    #[error("it has no port")]
    NoPort,
    /// The port is no number from 1 to 65535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// Neither an address nor a name.
    #[error("its host is neither an IP address nor a host name")]
    Host,
    /// `::1:80` could be read in two ways.
    #[error("an IPv6 address stands in brackets, as in [::1]:6881")]
    Brackets,
}

impl HostPort {
    /// The host; an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, 1 to 65535.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let text = text.trim();
        let (host, port) = text.rsplit_once(':').ok_or(HostPortError::NoPort)?;
        if port.ends_with(']') {
            return Err(HostPortError::NoPort);
        }
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(inner) if inner.parse::<Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err(HostPortError::Host),
            None if host.contains(':') => return Err(HostPortError::Brackets),
            None if host.parse::<Ipv4Addr>().is_ok() || is_host_name(host) => host,
            None => return Err(HostPortError::Host),
        };
        let number = if port.bytes().all(|b| b.is_ascii_digit()) { port.parse().ok() } else { None };
        let port = number.filter(|&p| p != 0).ok_or(HostPortError::Port)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

/// As the resolver takes it, which knows no letters beyond ASCII; a name of digits and dots only would be a broken address.
pub(super) fn is_host_name(host: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !l.starts_with('-')
    };
    let dotted = host.strip_suffix('.').unwrap_or(host);
    host.len() <= MAX_HOST_BYTES
        && dotted.split('.').all(label)
        && !dotted.chars().all(|c| c.is_ascii_digit() || c == '.')
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef01234567";

    fn parse(rest: &str) -> Magnet {
        format!("magnet:?xt=urn:btih:{HEX}{rest}").parse().unwrap()
    }

    #[test]
    fn hex_base32_case_and_numbered_topics_name_one_hash() {
        let hash: InfoHash = HEX.parse().unwrap();
        let base32 = data_encoding::BASE32_NOPAD.encode(&hash.0);
        for text in [
            format!("magnet:?xt=urn:btih:{HEX}"),
            format!("MAGNET:?XT=URN:BTIH:{}", HEX.to_uppercase()),
            format!("  magnet:?dn=a&xt=urn:btih:{base32}\n"),
            format!("magnet:?xt=urn:btih:{}", base32.to_lowercase()),
            format!("magnet:?xt.1=urn:btih:{HEX}"),
            format!("magnet://?xt=urn:btih:{HEX}"),
            format!("magnet:?xt=urn%3Abtih%3a{HEX}"),
            format!("magnet:?dn=x&amp;xt=urn:btih:{HEX}"),
            format!("magnet:?xt=urn:btmh:1220aa&xt=urn:btih:{HEX}"),
            format!("magnet:?xt=urn:btih:short&xt=urn:btih:{HEX}&xt=urn:btih:{HEX}"),
        ] {
            assert_eq!(text.parse::<Magnet>().unwrap().hash, hash, "{text}");
        }
    }

    #[test]
    fn what_names_no_v1_torrent_says_why() {
        let error = |text: &str| text.parse::<Magnet>().unwrap_err();
        assert_eq!(error("http://example.org"), MagnetError::NotMagnet);
        assert_eq!(error("magnet:xt=urn:btih:"), MagnetError::NotMagnet);
        assert_eq!(error(""), MagnetError::NotMagnet);
        assert_eq!(error("magnet:?dn=a"), MagnetError::NoTopic);
        assert_eq!(error("magnet:?xt=urn:sha1:YNCKHTQCWBTRNJIV4WNAE52SJUQCZO5C"), MagnetError::NoTopic);
        assert_eq!(error("magnet:?xt=urn:btmh:1220cafe"), MagnetError::V2Only);
        assert_eq!(error("magnet:?xt=urn:btih:abc"), MagnetError::Hash(ParseIdError::Length(3)));
        assert_eq!(
            error(&format!("magnet:?xt=urn:btih:{HEX}0")),
            MagnetError::Hash(ParseIdError::Length(41))
        );
        assert_eq!(error("magnet:?xt=urn:btih:"), MagnetError::Hash(ParseIdError::Length(0)));
        let z = "z".repeat(40);
        assert!(matches!(
            error(&format!("magnet:?xt=urn:btih:{z}")),
            MagnetError::Hash(ParseIdError::Alphabet(_))
        ));
    }

    #[test]
    fn several_torrents_in_one_link_keep_the_first() {
        let other = "f".repeat(40);
        let magnet = parse(&format!("&xt.2=urn:btih:{other}"));
        assert_eq!((magnet.hash.to_string().as_str(), magnet.ignored.topics), (HEX, 1));
        assert_eq!(magnet.ignored.torrents, 1);
        assert_eq!(parse("&xt=urn:btmh:1220aa&xt=urn:btih:short").ignored.torrents, 0);
    }

    #[test]
    fn names_are_decoded_and_bounded() {
        assert_eq!(parse("&dn=a%20b+c&dn=second").name.unwrap(), "a b c");
        assert_eq!(parse("&dn=%C3%A4%zz%4").name.unwrap(), "ä%zz%4");
        assert_eq!(parse("&dn=%ff").name.unwrap(), "\u{fffd}");
        assert_eq!(parse("&dn=").name, None);
        assert!(parse(&format!("&dn={}", "ä".repeat(5000))).name.unwrap().len() <= MAX_NAME_BYTES);
    }

    #[test]
    fn peers_of_three_kinds() {
        let magnet = parse(
            "&x.pe=1.2.3.4:5&x.pe=[2001:db8::1]:6881&x.pe=%5B::1%5D:7&x.pe=a.example:80&x.pe=1.2.3.4:5",
        );
        let peers: Vec<_> = magnet.peers.iter().map(ToString::to_string).collect();
        assert_eq!(peers, ["1.2.3.4:5", "[2001:db8::1]:6881", "[::1]:7", "a.example:80"]);
        let magnet =
            parse("&x.pe=1.2.3.4&x.pe=::1:80&x.pe=a:0&x.pe=:5&x.pe=999.1.1.1:5&x.pe=a:65536&x.pe=a:+5");
        assert_eq!((magnet.peers.len(), magnet.ignored.peers.unread), (0, 7));
        assert_eq!(magnet.ignored.peers.examples, ["1.2.3.4", "::1:80", "a:0", ":5"]);
    }

    #[test]
    fn hostile_lengths_are_bounded() {
        let many: String = (0..1000).map(|i| format!("&x.pe=h{i}:1")).collect();
        assert_eq!(parse(&many).peers.len(), MAX_PEERS);
        let many = format!("&so={}", "1,".repeat(5000));
        let magnet = parse(&many);
        assert_eq!((magnet.select.len(), magnet.ignored.ranges.excess), (MAX_RANGES, 5000 - MAX_RANGES));
        let ranges = parse(&format!("&so={}", format!("{},", "ä".repeat(5000)).repeat(9))).ignored.ranges;
        assert_eq!((ranges.unread, ranges.examples.len(), ranges.examples[0].len()), (9, MAX_EXAMPLES, 64));
        let long = format!("magnet:?xt=urn:btih:{HEX}&dn={}", "a".repeat(MAX_MAGNET_BYTES));
        assert!(matches!(long.parse::<Magnet>(), Err(MagnetError::TooLong(_))));
        assert!(parse(&format!("&x.pe={}:1", "a.".repeat(200))).peers.is_empty());
    }

    #[test]
    fn a_selection_is_never_expanded() {
        let magnet = parse("&so=0-18446744073709551615,3,7-9,9-7,x,-1,18446744073709551616,&so=11");
        assert_eq!(magnet.select, [0..=u64::MAX, 3..=3, 7..=9, 11..=11]);
        assert_eq!(magnet.ignored.ranges.examples, ["9-7", "x", "-1", "18446744073709551616"]);
        assert_eq!((magnet.ignored.ranges.unread, magnet.ignored.ranges.excess), (4, 0));
    }

    #[test]
    fn trackers_and_web_seeds_are_counted() {
        let magnet = parse("&tr=udp%3A%2F%2Fa&tr.1=http://b&tr=c&ws=http://d");
        assert_eq!((magnet.ignored.trackers, magnet.ignored.web_seeds), (3, 1));
    }

    #[test]
    fn a_made_link_reads_well_elsewhere() {
        let mut magnet = Magnet::new(HEX.parse().unwrap());
        magnet.name = Some("a b&c=ä".to_owned());
        magnet.peers = vec!["[::1]:6881".parse().unwrap()];
        magnet.select = vec![1..=1, 4..=6];
        let text = magnet.to_string();
        assert_eq!(text, format!("magnet:?xt=urn:btih:{HEX}&dn=a%20b%26c%3D%C3%A4&x.pe=[::1]:6881&so=1,4-6"));
        assert_eq!(text.parse(), Ok(magnet));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text: String, tail in "[a-z0-9.=&%:\\[\\],-]{0,200}") {
            let _ = text.parse::<Magnet>();
            let _ = format!("magnet:?{text}&{tail}").parse::<Magnet>();
            let _ = parse(&format!("&{tail}"));
            let _ = tail.parse::<HostPort>();
        }

        #[test]
        fn what_is_written_is_read_back(
            hash: [u8; 20],
            name in proptest::option::of(".{1,60}"),
            ports in proptest::collection::btree_set(1u16.., 0..5),
            ranges in proptest::collection::vec((0u64..1000, 0u64..1000), 0..5),
        ) {
            let mut magnet = Magnet::new(crate::id::Id160(hash));
            magnet.name = name;
            magnet.peers = ports.iter().map(|p| format!("10.0.0.1:{p}").parse().unwrap()).collect();
            magnet.select = ranges.into_iter().map(|(a, b)| a..=a + b).collect();
            proptest::prop_assert_eq!(magnet.to_string().parse(), Ok(magnet));
        }
    }
}
