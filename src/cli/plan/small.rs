//! Plans of the commands about the DHT's store: `item`, `publish` and `follow`; and of `verify`.
//!
//! Owns what names, keys and values mean. Reads the value from stdin where that was asked for.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Env, asking, bad_option, client, needs_dht, no_transfers};
use crate::cli::args::{FollowArgs, ItemGetArgs, ItemPutArgs, PublishArgs, VerifyArgs};
use crate::cli::error::{CliError, Code};
use crate::cli::target::Target;
use crate::client::{ClientConfig, Source};
use crate::driver::place;
use crate::id::Id160;
use crate::wire::bencode::{Limits, Value, Writer};
use crate::wire::item::{MAX_SALT, MAX_VALUE};
use crate::wire::magnet::Magnet;
use crate::wire::metainfo::Info;
use crate::wire::pointer::{Pointer, parse_key};

/// A run of `item put`.
#[derive(Debug)]
pub struct ItemPutPlan {
    /// Bencoded; none: it comes from stdin, see [`value_of_stdin`].
    pub value: Option<Vec<u8>>,
    /// What comes from stdin is bencoded already.
    pub bencoded: bool,
    /// The file of the secret key, for a value that can be replaced.
    pub key: Option<PathBuf>,
    /// With the key.
    pub salt: Vec<u8>,
    /// The version; none: one more than what is in store.
    pub seq: Option<i64>,
    /// The version to replace.
    pub cas: Option<i64>,
    /// The node.
    pub client: ClientConfig,
}

/// A run of `verify`.
#[derive(Debug)]
pub struct VerifyPlan {
    /// What it should be.
    pub info: Arc<Info>,
    /// Where it lies.
    pub path: PathBuf,
}

/// The torrent's metadata is at hand, or was left beside the data by a download.
pub(super) fn verify(args: &VerifyArgs, env: &Env) -> Result<VerifyPlan, CliError> {
    let target = Target::resolve(&args.target, &env.cwd)?;
    let given = args.path.as_ref().map(|path| env.cwd.join(path));
    let folder = given.as_deref().and_then(Path::parent).unwrap_or(&env.cwd);
    let info = match target.torrent().map(|t| t.source) {
        Some(Source::Info(info)) => Some(info),
        Some(Source::Hash(hash)) => place::claimed_metadata(folder, hash).map(Arc::new),
        None => None,
    };
    let Some(info) = info else {
        let message = format!("{}: what it should hold is not known here", args.target.display());
        return Err(CliError::new(Code::BadTarget, message)
            .hint("fetch the metadata first: dhtget info TARGET --torrent OUT, then dhtget verify OUT"));
    };
    let named = given.is_some();
    let mut path = given.unwrap_or_else(|| env.cwd.join(info.name()));
    // A folder that nobody named is not where the file lies but in its place.
    if named && !info.is_multi_file() && path.is_dir() {
        path.push(info.name());
    }
    Ok(VerifyPlan { info, path })
}

/// How an item is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemName {
    /// By where it is stored, with the salt.
    Target(Id160, Vec<u8>),
    /// By whose it is.
    Pointer(Pointer),
}

impl ItemName {
    /// Where it is stored.
    pub fn target(&self) -> Id160 {
        match self {
            Self::Target(target, _) => *target,
            Self::Pointer(pointer) => pointer.target(),
        }
    }

    /// What its signature covers beside the value.
    pub fn salt(&self) -> &[u8] {
        match self {
            Self::Target(_, salt) => salt,
            Self::Pointer(pointer) => &pointer.salt,
        }
    }
}

/// A run of `item get`.
#[derive(Debug)]
pub struct ItemGetPlan {
    /// Which.
    pub name: ItemName,
    /// Print it as it is stored.
    pub bencoded: bool,
    /// The node.
    pub client: ClientConfig,
}

/// A run of `publish`.
#[derive(Debug)]
pub struct PublishPlan {
    /// What the link shall point at.
    pub hash: Id160,
    /// The file of the secret key.
    pub key: PathBuf,
    /// Which link of that key.
    pub salt: Vec<u8>,
    /// Leave when it is stored.
    pub once: bool,
    /// The node.
    pub client: ClientConfig,
}

/// A run of `follow`.
#[derive(Debug)]
pub struct FollowPlan {
    /// Which link.
    pub pointer: Pointer,
    /// Leave with the first answer.
    pub once: bool,
    /// Wait between two looks.
    pub interval: Duration,
    /// The node.
    pub client: ClientConfig,
}

fn salt(text: Option<&String>) -> Result<Vec<u8>, CliError> {
    let salt = text.map(|t| t.as_bytes().to_vec()).unwrap_or_default();
    if salt.len() > MAX_SALT {
        let message = format!("--salt: {} bytes, {MAX_SALT} are the most (BEP 44)", salt.len());
        return Err(bad_option(message, "give a shorter one; it only tells several items of one key apart"));
    }
    Ok(salt)
}

pub(super) fn item_put(args: &ItemPutArgs, env: &Env) -> Result<ItemPutPlan, CliError> {
    needs_dht(&args.network)?;
    // What waits for stdin is read where a signal can end the wait.
    let value = match args.value == "-" {
        true => None,
        false => Some(value(args.value.as_encoded_bytes().to_vec(), args.bencoded)?),
    };
    if args.seq == Some(i64::MAX) {
        let message =
            format!("--seq {}: the last number there is: nothing could replace that version", i64::MAX);
        return Err(bad_option(message, "leave --seq out: the next number is found by itself"));
    }
    Ok(ItemPutPlan {
        value,
        bencoded: args.bencoded,
        key: args.key.as_ref().map(|k| env.cwd.join(k)),
        salt: salt(args.salt.as_ref())?,
        seq: args.seq,
        cas: args.cas,
        client: asking(&args.network, &[], env)?,
    })
}

/// The value that stands on stdin, bencoded. Waits for the end of it.
pub fn value_of_stdin(bencoded: bool) -> Result<Vec<u8>, CliError> {
    let mut raw = Vec::new();
    // One byte more than fits, so that too much is noticed.
    let read = std::io::stdin().take(MAX_VALUE as u64 + 1).read_to_end(&mut raw);
    read.map_err(|e| CliError::new(Code::Unknown, format!("stdin: {e}")))?;
    value(raw, bencoded)
}

fn value(raw: Vec<u8>, bencoded: bool) -> Result<Vec<u8>, CliError> {
    let value = if bencoded {
        let canonical = Value::parse(&raw, Limits::MESSAGE).is_ok_and(|v| v.is_canonical());
        if !canonical {
            return Err(bad_option(
                "VALUE is not bencoded, or not in the one canonical way (sorted keys)",
                "leave --bencoded out to store the bytes as they are",
            ));
        }
        raw
    } else {
        let mut out = Vec::new();
        Writer::new(&mut out).bytes(&raw);
        out
    };
    if value.len() > MAX_VALUE {
        let message =
            format!("VALUE takes {} bytes when bencoded, {MAX_VALUE} are the most (BEP 44)", value.len());
        return Err(bad_option(message, "share it as a file: dhtget share FILE"));
    }
    Ok(value)
}

pub(super) fn item_get(args: &ItemGetArgs, env: &Env) -> Result<ItemGetPlan, CliError> {
    needs_dht(&args.network)?;
    let given = salt(args.salt.as_ref())?;
    let name = match pointer(&args.name, &given)? {
        Some(pointer) => ItemName::Pointer(pointer),
        None => match args.name.trim().parse() {
            Ok(target) => ItemName::Target(target, given),
            Err(_) => return Err(no_name(&args.name)),
        },
    };
    let client = asking(&args.network, &[], env)?;
    Ok(ItemGetPlan { name, bencoded: args.bencoded, client })
}

/// A key or a link, as far as the text is one of them.
fn pointer(text: &str, salt: &[u8]) -> Result<Option<Pointer>, CliError> {
    if Magnet::looks_like(text) {
        let found = Pointer::in_magnet(text).map_err(|e| {
            CliError::new(Code::BadTarget, e.to_string()).hint("`dhtget publish` prints such links")
        })?;
        let mut pointer = found.ok_or_else(|| {
            CliError::new(
                Code::BadTarget,
                "the magnet link names a torrent itself: there is nothing to follow",
            )
            .hint("a link to follow has `xs=urn:btpk:`; fetch this one with dhtget LINK")
        })?;
        if pointer.salt.is_empty() {
            pointer.salt = salt.to_vec();
        }
        return Ok(Some(pointer));
    }
    Ok(parse_key(text.trim()).map(|key| Pointer { key, salt: salt.to_vec() }))
}

fn no_name(text: &str) -> CliError {
    let message = format!("`{text}`: neither a name of 40 hex digits nor a public key of 64");
    CliError::new(Code::BadTarget, message).hint("`dhtget item put` prints the name to get an item by")
}

fn no_link(text: &str) -> CliError {
    if text.trim().parse::<Id160>().is_ok() {
        let message = format!("`{text}` is the hash of one torrent, or of one item: it cannot change");
        return CliError::new(Code::BadTarget, message)
            .hint("a public key has 64 hex digits; fetch a torrent with dhtget HASH");
    }
    let message = format!("`{text}`: neither a link with `xs=urn:btpk:` nor a public key of 64 hex digits");
    CliError::new(Code::BadTarget, message).hint("`dhtget publish` prints such links")
}

pub(super) fn publish(args: &PublishArgs, env: &Env) -> Result<PublishPlan, CliError> {
    needs_dht(&args.network)?;
    let target = Target::resolve(&args.target, &env.cwd)?;
    let torrent = target.torrent().ok_or_else(|| {
        CliError::new(Code::BadTarget, "the target is a pointer itself")
            .hint("give the torrent: `dhtget follow LINK --once` prints where it points")
    })?;
    let network = &args.network;
    let config = match args.once {
        true => asking(network, &[], env)?,
        false => client(network, &no_transfers(), &[], env)?,
    };
    Ok(PublishPlan {
        hash: torrent.hash,
        key: env.cwd.join(&args.key),
        salt: salt(args.salt.as_ref())?,
        once: args.once,
        client: config,
    })
}

pub(super) fn follow(args: &FollowArgs, env: &Env) -> Result<FollowPlan, CliError> {
    needs_dht(&args.network)?;
    if args.interval < Duration::from_secs(1) {
        return Err(bad_option("--interval: less than a second", "others pay for each look; 5m is kind"));
    }
    let pointer = pointer(&args.link, &salt(args.salt.as_ref())?)?.ok_or_else(|| no_link(&args.link))?;
    // Others pay for each look, and get a node for it that stays.
    let client = match args.once {
        true => asking(&args.network, &[], env)?,
        false => client(&args.network, &no_transfers(), &[], env)?,
    };
    Ok(FollowPlan { pointer, once: args.once, interval: args.interval, client })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::CommandLine;
    use crate::cli::plan::{Action, Plan};
    use clap::Parser as _;

    fn plan(words: &[&str]) -> Result<Action, CliError> {
        let line = std::iter::once("dhtget").chain(words.iter().copied());
        let env = Env { cwd: "/home/u".into(), ..Env::default() };
        Plan::resolve(CommandLine::try_parse_from(line).unwrap().command, &env).map(|p| p.action)
    }

    #[test]
    fn a_run_that_asks_and_leaves_is_kept_by_nobody() {
        let asks_only = |line: &str| match plan(&line.split(' ').collect::<Vec<_>>()).unwrap() {
            Action::ItemPut(plan) => plan.client.presence == crate::client::Presence::ReadOnly,
            Action::ItemGet(plan) => plan.client.presence == crate::client::Presence::ReadOnly,
            Action::Publish(plan) => plan.client.presence == crate::client::Presence::ReadOnly,
            Action::Follow(plan) => plan.client.presence == crate::client::Presence::ReadOnly,
            other => panic!("{other:?}"),
        };
        let hash = "ab".repeat(20);
        let key = "ab".repeat(32);
        let leaving = ["item put x", &format!("item get {hash}"), &format!("publish --key k --once {hash}")];
        assert!(leaving.iter().all(|line| asks_only(line)) && asks_only(&format!("follow --once {key}")));
        assert!(!asks_only(&format!("publish --key k {hash}")) && !asks_only(&format!("follow {key}")));
    }

    #[test]
    fn a_value_becomes_a_byte_string_unless_it_is_bencoded() {
        let value = |words: &[&str]| match plan(words) {
            Ok(Action::ItemPut(plan)) => plan.value.unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(value(&["item", "put", "hello"]), b"5:hello");
        assert_eq!(value(&["item", "put", "--bencoded", "d1:ai1ee"]), b"d1:ai1ee");
        for words in
            [&["item", "put", "--bencoded", "d1:bi1e1:ai1ee"][..], &["item", "put", &"x".repeat(997)]]
        {
            assert_eq!(plan(words).unwrap_err().code, Code::BadOption);
        }
        let Ok(Action::ItemPut(later)) = plan(&["item", "put", "-"]) else { panic!() };
        assert_eq!(later.value, None);
        assert_eq!(value(&["item", "put", &"x".repeat(996)]).len(), 1000);
        let last = ["item", "put", "x", "--key", "k", "--seq", "9223372036854775807"];
        assert_eq!(plan(&last).unwrap_err().code, Code::BadOption);
        let long = "x".repeat(65);
        let words = ["item", "put", "x", "--key", "k", "--salt", &long];
        assert!(plan(&words).unwrap_err().message.contains("65 bytes"));
    }

    #[test]
    fn an_item_is_named_by_target_key_or_link() {
        let key = "ab".repeat(32);
        let name = |words: &[&str]| match plan(words) {
            Ok(Action::ItemGet(plan)) => plan.name,
            other => panic!("{other:?}"),
        };
        let target = "cd".repeat(20);
        assert_eq!(name(&["item", "get", &target]), ItemName::Target(Id160([0xcd; 20]), Vec::new()));
        let pointer = ItemName::Pointer(Pointer { key: [0xab; 32], salt: b"n".to_vec() });
        assert_eq!(name(&["item", "get", &key, "--salt", "n"]), pointer);
        assert_eq!(name(&["item", "get", &format!("magnet:?xs=urn:btpk:{key}&s=6e")]), pointer);
        assert_eq!(name(&["item", "get", &format!("magnet:?xs=urn:btpk:{key}"), "--salt", "n"]), pointer);
        for wrong in ["abc", &format!("magnet:?xt=urn:btih:{target}"), "magnet:?xs=urn:btpk:12"] {
            let error = plan(&["item", "get", wrong]).unwrap_err();
            assert!(error.code == Code::BadTarget && error.hint.is_some(), "{wrong}");
            assert_eq!(plan(&["follow", wrong]).unwrap_err().code, Code::BadTarget);
        }
        assert!(plan(&["follow", &target]).unwrap_err().message.contains("cannot change"));
    }

    #[test]
    fn what_is_published_is_a_torrent() {
        let key = "ab".repeat(32);
        let link = format!("magnet:?xs=urn:btpk:{key}");
        assert_eq!(plan(&["publish", &link, "--key", "k"]).unwrap_err().code, Code::BadTarget);
        let Ok(Action::Publish(plan)) = plan(&["publish", &"cd".repeat(20), "--key", "k"]) else { panic!() };
        assert_eq!((plan.key, plan.once), (PathBuf::from("/home/u/k"), false));
    }
}
