//! The secret of a keyed network, and the keys that are made from it.
//!
//! Owns that no text of the key leaves but through [`NetworkKey::expose`]: there is no `Display`, and `Debug` prints a
//! word. Must not know what is sealed.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use ring::hmac;
use thiserror::Error;

use crate::rng::Rng;

/// Characters of a key in base32.
const KEY_CHARS: usize = 52;
/// Time after a change of keys in which the old one still opens what is sealed with it, in seconds: clocks of members
/// differ, and a datagram may be under way.
pub const OLD_KEY_MARGIN_S: u64 = 10 * 60;

/// 256 bits that make a machine a member.
#[derive(Clone, PartialEq, Eq)]
pub struct NetworkKey([u8; 32]);

/// What is wrong with the text of a key. It never holds the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Too short or too long.
    #[error("the key has {0} characters where {KEY_CHARS} are needed")]
    Length(usize),
    /// A character that base32 does not have, or bits that are not there.
    #[error("the key is not base32 (letters a-z and digits 2-7): a character is wrong")]
    Characters,
}

impl fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkKey(secret)")
    }
}

impl NetworkKey {
    /// A new one.
    pub fn random(rng: &mut Rng) -> Self {
        Self(rng.bytes())
    }

    /// These 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads what [`expose`](Self::expose) wrote, in any case.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let count = text.chars().count();
        if count != KEY_CHARS {
            return Err(KeyError::Length(count));
        }
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok();
        bytes.and_then(|b| b.try_into().ok()).map(Self).ok_or(KeyError::Characters)
    }

    /// The text of the key, for the file of the network and for an invite, and for nothing else.
    pub fn expose(&self) -> String {
        BASE32_NOPAD.encode(&self.0).to_ascii_lowercase()
    }

    /// The bytes, for an invite.
    pub fn expose_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key for one purpose, which tells nothing of this one (HMAC-SHA-256 as a pseudo-random function).
    pub fn derive(&self, purpose: &str, data: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        // The length keeps one purpose from running into the data of another.
        context.update(&[u8::try_from(purpose.len()).unwrap_or(u8::MAX)]);
        context.update(purpose.as_bytes());
        context.update(data);
        let mut out = [0; 32];
        out.copy_from_slice(context.sign().as_ref());
        out
    }
}

/// A key that a newer one is replacing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldKey {
    /// The key.
    pub key: NetworkKey,
    /// Until then members speak with it, in seconds since 1970: whoever has not got the new one understands.
    pub until_s: u64,
}

/// The keys of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The one that stays.
    pub current: NetworkKey,
    /// The one before it.
    pub old: Option<OldKey>,
}

impl Keys {
    /// One key alone.
    pub fn new(current: NetworkKey) -> Self {
        Self { current, old: None }
    }

    /// The key to speak with now. While members change to a new key that is the old one, which all of them have.
    pub fn spoken(&self, now_s: u64) -> &NetworkKey {
        match &self.old {
            Some(old) if now_s < old.until_s => &old.key,
            _ => &self.current,
        }
    }

    /// The keys that are understood now, the one that is spoken first.
    pub fn understood(&self, now_s: u64) -> impl Iterator<Item = &NetworkKey> {
        let spoken = self.spoken(now_s);
        let old = self.old.as_ref().filter(|old| now_s < old.until_s.saturating_add(OLD_KEY_MARGIN_S));
        let other = old.map(|old| if *spoken == self.current { &old.key } else { &self.current });
        [Some(spoken), other].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u64) -> NetworkKey {
        NetworkKey::random(&mut Rng::from_u64(seed))
    }

    #[test]
    fn a_key_is_read_as_it_was_written_and_never_printed() {
        let key = key(1);
        let text = key.expose();
        assert_eq!(NetworkKey::parse(&format!(" {} ", text.to_uppercase())).unwrap(), key);
        let debug = format!("{key:?} {:?}", Keys::new(key.clone()));
        assert!(!debug.to_lowercase().contains(&text[..8]), "{debug}");
        assert_eq!(NetworkKey::parse(&text[1..]), Err(KeyError::Length(51)));
        assert_eq!(NetworkKey::parse(&format!("{text}a")), Err(KeyError::Length(53)));
        assert_eq!(NetworkKey::parse(&text.replace(&text[3..4], "1")), Err(KeyError::Characters));
        // 52 characters hold 260 bits: the last four must not be set, or two texts would mean one key.
        assert_eq!(NetworkKey::parse(&format!("{}7", &text[..51])), Err(KeyError::Characters));
    }

    #[test]
    fn purposes_have_keys_of_their_own() {
        let of = |purpose, data: &[u8]| key(1).derive(purpose, data);
        assert_eq!(of("a", b"b"), of("a", b"b"));
        assert_ne!(of("a", b"b"), of("ab", b""));
        assert_ne!(of("a", b"b"), key(2).derive("a", b"b"));
    }

    #[test]
    fn the_old_key_is_spoken_while_members_change_and_understood_a_little_longer() {
        let (new, old) = (key(1), key(2));
        let keys = Keys { current: new.clone(), old: Some(OldKey { key: old.clone(), until_s: 1000 }) };
        let understood = |now| keys.understood(now).cloned().collect::<Vec<_>>();
        assert_eq!((keys.spoken(999), keys.spoken(1000)), (&old, &new));
        assert_eq!(understood(999), [old.clone(), new.clone()]);
        assert_eq!(understood(1000), [new.clone(), old]);
        assert_eq!(understood(1000 + OLD_KEY_MARGIN_S), std::slice::from_ref(&new));
        assert_eq!(Keys::new(new.clone()).understood(5).cloned().collect::<Vec<_>>(), [new]);
    }
}
