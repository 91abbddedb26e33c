//! The file of a private network, and what it says.
//!
//! ```toml
//! format = 1
//! name = "corp"
//! id = "ccqmbd2r7e…"              # tells networks apart; no secret
//! key = "…"                       # a keyed network's secret; an open one has none
//! bootstrap = ["10.0.0.5:6881", "boot.corp.example:6881"]
//! allow = ["10.0.0.0/8"]          # nobody else is talked to
//! lan = true                      # members in the local network find each other
//! old-key = "…"                   # the key before, while members change …
//! old-key-until = 2026-12-04T05:00:00Z    # … which all speak until then
//! ```
//!
//! Owns the format and every bound of it. Errors name the place and never hold a secret. Must not open files.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::date;
use super::key::{KeyError, Keys, NetworkKey, OldKey};
use crate::rng::Rng;
use crate::wire::allow::AllowList;
use crate::wire::entry::EntryPoint;

/// The largest file: every list full of long names has room.
pub const MAX_FILE: u64 = 64 << 10;
/// Entries of one list: more than a join can use.
pub const MAX_ENTRIES: usize = 64;
/// The longest name.
const MAX_NAME: usize = 63;
const FORMAT: i64 = 1;
/// What `--network` takes for the network that needs no file.
pub const PUBLIC: &str = "public";
/// Words of a message longer than this may be a key, and are not shown.
const LONG_WORD: usize = 40;

/// Tells networks apart on one machine. It is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetworkId(pub [u8; 20]);

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

/// A network that is not the public one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateNetwork {
    /// What its members call it.
    pub name: String,
    /// What tells it apart.
    pub id: NetworkId,
    /// Its keys; an open network has none.
    pub keys: Option<Keys>,
    /// Where to enter.
    pub bootstrap: Vec<String>,
    /// Members that were alive when an invite was made.
    pub members: Vec<String>,
    /// Networks in CIDR notation outside of which nobody is talked to; none: everybody may be.
    pub allow: Vec<String>,
    /// Whether members look for each other in the local network.
    pub lan: bool,
}

/// What is wrong with the file of a network.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NetworkError {
    /// Not the file that it should be.
    #[error("{0}")]
    Text(String),
    /// Larger than any such file.
    #[error("it is larger than {} KiB", MAX_FILE >> 10)]
    Large,
    /// Made by a later version.
    #[error("it has format {0}, and this version of dhtget knows {FORMAT}")]
    Format(i64),
    /// The name.
    #[error(
        "`name` must be 1 to {MAX_NAME} of the characters a-z, 0-9, `-`, `_` and `.`, begin with a letter or digit, and not be `{PUBLIC}`"
    )]
    Name,
    /// The id.
    #[error("`id` is damaged: it has 32 characters of base32")]
    Id,
    /// A key.
    #[error("`{0}`: {1}")]
    Key(&'static str, KeyError),
    /// A time without a key, a key without its time, or an old key beside none.
    #[error("`old-key` and `old-key-until` go together, beside `key`")]
    Rotation,
    /// Not a moment.
    #[error("`old-key-until` is not a time such as 2026-12-04T05:00:00Z")]
    Until,
    /// An entry of a list.
    #[error("`{list}`: `{entry}`: {why}")]
    Entry {
        /// Which list.
        list: &'static str,
        /// What stands there.
        entry: String,
        /// Why it is none.
        why: String,
    },
    /// A list that is too long.
    #[error("`{0}` has more than {MAX_ENTRIES} entries")]
    Many(&'static str),
    /// Nobody could ever be found.
    #[error("it names no `bootstrap` node, no member, and `lan` is off: nobody could be found")]
    Nobody,
}

/// The text of a file, as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Text {
    format: i64,
    name: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default)]
    bootstrap: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    members: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    allow: Vec<String>,
    #[serde(default)]
    lan: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_key_until: Option<toml::value::Datetime>,
}

impl PrivateNetwork {
    /// A new one, with a new key if it is `keyed`.
    pub fn new(name: &str, keyed: bool, rng: &mut Rng) -> Result<Self, NetworkError> {
        let network = Self {
            name: name.to_owned(),
            id: NetworkId(rng.bytes()),
            keys: keyed.then(|| Keys::new(NetworkKey::random(rng))),
            bootstrap: Vec::new(),
            members: Vec::new(),
            allow: Vec::new(),
            lan: true,
        };
        if is_name(name) { Ok(network) } else { Err(NetworkError::Name) }
    }

    /// What the state of its nodes is kept under, apart from that of all other networks.
    pub fn state_name(&self) -> [String; 1] {
        [format!("network {}", self.id)]
    }

    /// Whether strangers are kept out by a key.
    pub fn is_keyed(&self) -> bool {
        self.keys.is_some()
    }

    /// What members of this network share and announce nowhere: by it they know each other in the local network. That of
    /// an open network is no secret.
    pub fn lan_secret(&self, now_s: u64) -> [u8; 32] {
        match &self.keys {
            Some(keys) => keys.spoken(now_s).derive("lan", &self.id.0),
            None => {
                let mut secret = [0; 32];
                secret[..20].copy_from_slice(&self.id.0);
                secret
            }
        }
    }

    /// Makes a new key; the one that was is spoken until `until_s`, in seconds since 1970, or worth nothing from now on. With one
    /// change still under way the oldest key goes.
    pub fn rotate(&mut self, until_s: Option<u64>, rng: &mut Rng) -> bool {
        let Some(keys) = &mut self.keys else { return false };
        let old = std::mem::replace(&mut keys.current, NetworkKey::random(rng));
        keys.old = until_s.map(|until_s| OldKey { key: old, until_s });
        true
    }

    /// Reads a file.
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        if text.len() as u64 > MAX_FILE {
            return Err(NetworkError::Large);
        }
        let read: Text = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            let place = line.map_or(String::new(), |line| format!("line {line}: "));
            NetworkError::Text(format!("{place}{}", without_secrets(error.message())))
        })?;
        let until =
            read.old_key_until.map(|moment| date::read(&moment.to_string()).ok_or(NetworkError::Until));
        let keys = Self::keys_of(read.key.as_deref(), read.old_key.as_deref(), until.transpose()?)?;
        let id = BASE32_NOPAD.decode(read.id.to_ascii_uppercase().as_bytes()).ok();
        let network = Self {
            name: read.name,
            id: NetworkId(id.and_then(|id| id.try_into().ok()).ok_or(NetworkError::Id)?),
            keys,
            bootstrap: read.bootstrap,
            members: read.members,
            allow: read.allow,
            lan: read.lan,
        };
        if read.format != FORMAT {
            return Err(NetworkError::Format(read.format));
        }
        network.check()?;
        Ok(network)
    }

    fn keys_of(
        key: Option<&str>,
        old: Option<&str>,
        until: Option<u64>,
    ) -> Result<Option<Keys>, NetworkError> {
        let parse = |name, text: Option<&str>| {
            text.map(|t| NetworkKey::parse(t).map_err(|e| NetworkError::Key(name, e))).transpose()
        };
        match (parse("key", key)?, parse("old-key", old)?, until) {
            (None, None, None) => Ok(None),
            (Some(current), None, None) => Ok(Some(Keys::new(current))),
            (Some(current), Some(key), Some(until_s)) => {
                Ok(Some(Keys { current, old: Some(OldKey { key, until_s }) }))
            }
            _ => Err(NetworkError::Rotation),
        }
    }

    /// Whether all of it makes sense.
    pub fn check(&self) -> Result<(), NetworkError> {
        if !is_name(&self.name) {
            return Err(NetworkError::Name);
        }
        AllowList::parse(&self.allow).map_err(|error| {
            NetworkError::Text(format!("`allow`: {}", without_secrets(&error.to_string())))
        })?;
        for (list, entries) in [("bootstrap", &self.bootstrap), ("members", &self.members)] {
            if entries.len() > MAX_ENTRIES {
                return Err(NetworkError::Many(list));
            }
            for entry in entries {
                entry.parse::<EntryPoint>().map_err(|why| NetworkError::Entry {
                    list,
                    entry: without_secrets(entry),
                    why: why.to_string(),
                })?;
            }
        }
        if self.bootstrap.is_empty() && self.members.is_empty() && !self.lan {
            return Err(NetworkError::Nobody);
        }
        Ok(())
    }

    /// The file's text, secrets and all.
    pub fn to_toml(&self) -> String {
        let old = self.keys.as_ref().and_then(|keys| keys.old.as_ref());
        let text = Text {
            format: FORMAT,
            name: self.name.clone(),
            id: self.id.to_string(),
            key: self.keys.as_ref().map(|keys| keys.current.expose()),
            bootstrap: self.bootstrap.clone(),
            members: self.members.clone(),
            allow: self.allow.clone(),
            lan: self.lan,
            old_key: old.map(|old| old.key.expose()),
            old_key_until: old.and_then(|old| date::written(old.until_s).parse().ok()),
        };
        let head = match self.is_keyed() {
            true => {
                "# A private network of dhtget. Whoever has this file is a member: keep it as you keep a password.\n"
            }
            false => "# An open private network of dhtget.\n",
        };
        // Strings, numbers and lists: nothing that TOML could not hold.
        format!("{head}{}", toml::to_string(&text).unwrap_or_default())
    }
}

/// Whether a network can have this name.
pub fn is_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let all = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
    first && all && name.len() <= MAX_NAME && name != PUBLIC
}

/// A message without the words that may be keys.
pub fn without_secrets(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(400));
    for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').take(200) {
        if word.len() > LONG_WORD { out.push('…') } else { out.push_str(word) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> PrivateNetwork {
        let mut network = PrivateNetwork::new("corp", true, &mut Rng::from_u64(1)).unwrap();
        network.bootstrap =
            vec!["10.0.0.5:6881".into(), "boot.corp.example:6881".into(), "[fd00::5]:6881".into()];
        network.allow = vec!["10.0.0.0/8".into()];
        network
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let mut network = network();
        assert_eq!(PrivateNetwork::parse(&network.to_toml()).as_ref(), Ok(&network));
        assert!(network.rotate(Some(1_800_000_000), &mut Rng::from_u64(2)));
        network.members = vec!["10.0.0.9:7000".into()];
        let text = network.to_toml();
        assert_eq!(PrivateNetwork::parse(&text).as_ref(), Ok(&network));
        assert!(text.contains("old-key-until = 2027-01-15T08:00:00Z"), "{text}");
        let mut open = PrivateNetwork::new("lab-2", false, &mut Rng::from_u64(3)).unwrap();
        assert_eq!(PrivateNetwork::parse(&open.to_toml()).as_ref(), Ok(&open));
        assert!(!open.rotate(Some(5), &mut Rng::from_u64(4)) && !open.to_toml().contains("key"));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_key_is_shown() {
        let good = network().to_toml();
        let key = network().keys.unwrap().current.expose();
        let changed = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            good.replace(from, to)
        };
        for (text, words) in [
            (changed("format = 1", "format = 2"), "format 2"),
            (changed("\"corp\"", "\"Corp\""), "`name`"),
            (changed("\"corp\"", "\"public\""), "`name`"),
            (changed("\"corp\"", "\"../corp\""), "`name`"),
            (changed("id = \"", "id = \"a"), "`id`"),
            (changed(&key, &key[2..]), "`key`: the key has 50 characters where 52 are needed"),
            (changed(&key, &key.replace(&key[5..6], "8")), "`key`: the key is not base32"),
            (changed("key =", "old-key ="), "go together"),
            (changed("lan =", "old-key-until = 2027-01-15T08:00:00Z\nlan ="), "go together"),
            (changed(":6881\"", "\""), "`bootstrap`: `10.0.0.5`: it has no port"),
            (changed("10.0.0.0/8", "10.0.0.1/8"), "`allow`: \"10.0.0.1/8\" names one address and a range"),
            (changed("lan = true", "lan = 1"), "line 8"),
            (changed("lan = true", "lna = true"), "unknown field `lna`"),
            (changed("lan = true", &format!("lan = \"{key}\"")), "invalid type: string \"…"),
            (changed(&format!("key = \"{key}\""), &format!("{key} = 1")), "unknown field"),
            (changed(&format!("key = \"{key}\""), &format!("key = \"{key}")), "line 5"),
            (changed("format = 1\n", ""), "missing field `format`"),
            (String::new(), "missing field"),
            ("x".repeat(70_000), "larger than 64 KiB"),
        ] {
            let error = PrivateNetwork::parse(&text).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
            assert!(!error.to_lowercase().contains(&key[10..30]), "{error}");
        }
        let mut nobody = network();
        (nobody.bootstrap, nobody.lan) = (Vec::new(), false);
        assert_eq!(nobody.check(), Err(NetworkError::Nobody));
        let mut many = network();
        many.bootstrap = vec!["a:1".into(); MAX_ENTRIES + 1];
        assert_eq!(many.check(), Err(NetworkError::Many("bootstrap")));
    }

    #[test]
    fn members_know_each_other_while_they_change_keys() {
        let before = network();
        let mut after = before.clone();
        after.rotate(Some(10), &mut Rng::from_u64(5));
        assert_eq!(before.lan_secret(9), after.lan_secret(9));
        assert_ne!(before.lan_secret(10), after.lan_secret(10));
        after.rotate(None, &mut Rng::from_u64(6));
        assert!(after.keys.as_ref().unwrap().old.is_none() && before.lan_secret(9) != after.lan_secret(9));
        let other = PrivateNetwork::new("corp", true, &mut Rng::from_u64(9)).unwrap();
        assert_ne!(other.lan_secret(9), before.lan_secret(9));
    }
}
