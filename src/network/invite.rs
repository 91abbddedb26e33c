//! A network as one line of text, to be pasted into a message to a new member.
//!
//! `dhtget-invite1.` and base64url of a bencoded dictionary with the fields of the file, behind its CRC-32C, so that a line that
//! was cut off or retyped is told from one of another kind. An invite to a keyed network is as secret as the file.
//! Owns this format. Must not know where an invite came from.

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use thiserror::Error;

use super::file::{NetworkError, NetworkId, PrivateNetwork};
use super::key::{Keys, NetworkKey, OldKey};
use crate::wire::bencode::{Limits, Value};

/// What every invite begins with.
pub const INVITE_PREFIX: &str = "dhtget-invite1.";
/// The longest invite: every list of the file full of long names.
pub const MAX_INVITE: usize = 64 << 10;
/// What an invite of ours can be: three levels deep, and far fewer tokens.
const SHAPE: Limits = Limits { depth: 4, tokens: 4096 };

/// What is wrong with an invite. It never holds the text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InviteError {
    /// Something else.
    #[error("this is no invite: an invite begins with `{INVITE_PREFIX}`")]
    Kind,
    /// A character or a piece is missing or wrong.
    #[error("the invite is damaged: a part of it is missing or was changed")]
    Damaged,
    /// It says something that no network can be.
    #[error("the invite is damaged: {0}")]
    Network(#[from] NetworkError),
}

#[derive(Serialize, Deserialize)]
struct Words {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    a: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    b: Vec<String>,
    i: ByteBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    k: Option<ByteBuf>,
    l: u8,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    m: Vec<String>,
    n: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    o: Option<ByteBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    u: Option<u64>,
}

impl PrivateNetwork {
    /// The network as a line of text, secrets and all.
    pub fn to_invite(&self) -> String {
        let key = |key: &NetworkKey| ByteBuf::from(key.expose_bytes().as_slice());
        let old = self.keys.as_ref().and_then(|keys| keys.old.as_ref());
        let words = Words {
            a: self.allow.clone(),
            b: self.bootstrap.clone(),
            i: ByteBuf::from(self.id.0.as_slice()),
            k: self.keys.as_ref().map(|keys| key(&keys.current)),
            l: u8::from(self.lan),
            m: self.members.clone(),
            n: self.name.clone(),
            o: old.map(|old| key(&old.key)),
            u: old.map(|old| old.until_s),
        };
        let body = serde_bencode::to_bytes(&words).unwrap_or_default();
        let mut bytes = crc32c::crc32c(&body).to_be_bytes().to_vec();
        bytes.extend_from_slice(&body);
        format!("{INVITE_PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }

    /// Reads an invite; blanks and line ends that a mail has put in do no harm.
    pub fn from_invite(text: &str) -> Result<Self, InviteError> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).take(MAX_INVITE + 1).collect();
        let encoded = text.strip_prefix(INVITE_PREFIX).ok_or(InviteError::Kind)?;
        if text.len() > MAX_INVITE {
            return Err(InviteError::Damaged);
        }
        let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| InviteError::Damaged)?;
        let (sum, body) = bytes.split_first_chunk::<4>().ok_or(InviteError::Damaged)?;
        if u32::from_be_bytes(*sum) != crc32c::crc32c(body) {
            return Err(InviteError::Damaged);
        }
        // The deserialiser recurses: what nests deeper than an invite must not reach it.
        Value::parse(body, SHAPE).map_err(|_| InviteError::Damaged)?;
        let words: Words = serde_bencode::from_bytes(body).map_err(|_| InviteError::Damaged)?;
        let key = |bytes: ByteBuf| <[u8; 32]>::try_from(bytes.into_vec()).map(NetworkKey::from_bytes);
        let keys = match (words.k, words.o, words.u) {
            (None, None, None) => None,
            (Some(current), None, None) => Some(Keys::new(key(current).map_err(|_| InviteError::Damaged)?)),
            (Some(current), Some(old), Some(until_s)) => {
                let (current, old) = (key(current), key(old));
                let [current, old] = [current, old].map(|k| k.map_err(|_| InviteError::Damaged));
                Some(Keys { current: current?, old: Some(OldKey { key: old?, until_s }) })
            }
            _ => return Err(InviteError::Damaged),
        };
        let id = words.i.into_vec().try_into().map_err(|_| InviteError::Damaged)?;
        let network = Self {
            name: words.n,
            id: NetworkId(id),
            keys,
            bootstrap: words.b,
            members: words.m,
            allow: words.a,
            lan: words.l != 0,
        };
        network.check()?;
        Ok(network)
    }
}

/// Whether a text may be an invite, or a piece of one, and should not be shown.
pub fn is_like_invite(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with("dhtget-invite")
        || text.len() >= 52 && BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn network() -> PrivateNetwork {
        let mut network = PrivateNetwork::new("corp", true, &mut Rng::from_u64(1)).unwrap();
        network.bootstrap = vec!["10.0.0.5:6881".into(), "boot.corp.example:6881".into()];
        network
    }

    #[test]
    fn an_invite_is_read_as_it_was_written() {
        let mut network = network();
        let invite = network.to_invite();
        assert!(invite.len() < 220 && !invite.contains('='), "{}", invite.len());
        assert_eq!(PrivateNetwork::from_invite(&invite).as_ref(), Ok(&network));
        let (left, right) = invite.split_at(70);
        assert_eq!(PrivateNetwork::from_invite(&format!(" {left}\r\n  {right}\n")).as_ref(), Ok(&network));
        network.rotate(Some(1_900_000_000), &mut Rng::from_u64(2));
        network.members = vec!["10.0.0.7:6881".into()];
        network.allow = vec!["10.0.0.0/8".into()];
        assert_eq!(PrivateNetwork::from_invite(&network.to_invite()).as_ref(), Ok(&network));
        let open = PrivateNetwork::new("lab", false, &mut Rng::from_u64(3)).unwrap();
        assert_eq!(PrivateNetwork::from_invite(&open.to_invite()).as_ref(), Ok(&open));
    }

    #[test]
    fn damage_anywhere_is_told_and_nothing_is_shown() {
        let invite = network().to_invite();
        for at in INVITE_PREFIX.len()..invite.len() {
            let other = if &invite[at..=at] == "A" { "B" } else { "A" };
            let bad = format!("{}{other}{}", &invite[..at], &invite[at + 1..]);
            let error = PrivateNetwork::from_invite(&bad).unwrap_err();
            assert_eq!(error, InviteError::Damaged, "{at}");
            assert_eq!(PrivateNetwork::from_invite(&invite[..at]), Err(InviteError::Damaged));
        }
        assert_eq!(PrivateNetwork::from_invite("magnet:?xt=x"), Err(InviteError::Kind));
        assert_eq!(PrivateNetwork::from_invite(""), Err(InviteError::Kind));
        let long = format!("{INVITE_PREFIX}{}", "A".repeat(MAX_INVITE));
        assert_eq!(PrivateNetwork::from_invite(&long), Err(InviteError::Damaged));
    }

    #[test]
    fn a_well_made_invite_to_an_impossible_network_says_why() {
        let mut bad = network();
        bad.bootstrap = vec!["nowhere".into()];
        let error = PrivateNetwork::from_invite(&bad.to_invite()).unwrap_err();
        assert!(error.to_string().contains("`bootstrap`: `nowhere`"), "{error}");
        let deep = ["d1:a", &"l".repeat(1000), &"e".repeat(1000), "e"].concat();
        let mut bytes = crc32c::crc32c(deep.as_bytes()).to_be_bytes().to_vec();
        bytes.extend_from_slice(deep.as_bytes());
        let invite = format!("{INVITE_PREFIX}{}", BASE64URL_NOPAD.encode(&bytes));
        assert_eq!(PrivateNetwork::from_invite(&invite), Err(InviteError::Damaged));
    }

    #[test]
    fn what_may_be_secret_is_known() {
        let invite = network().to_invite();
        assert!(is_like_invite(&invite) && is_like_invite(&invite[..30]));
        assert!(is_like_invite(&network().keys.unwrap().current.expose()));
        assert!(!is_like_invite("corp") && !is_like_invite("magnet:?xt=urn:btih:abc"));
    }
}
