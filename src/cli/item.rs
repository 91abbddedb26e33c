//! `dhtget item`: small values in the DHT, put and got (BEP 44).
//!
//! Owns how a value is shown, and putting the next version of what is in store. Must not know who stores it.

use data_encoding::HEXLOWER;
use ed25519_dalek::SigningKey;

use super::error::{CliError, Code};
use super::get::goodbye;
use super::json::Event;
use super::lookup;
use super::plan::{ItemGetPlan, ItemName, ItemPutPlan, value_of_stdin};
use super::progress::count;
use super::report::Reporter;
use super::signals::Signals;
use crate::client::Client;
use crate::driver::clock;
use crate::driver::keyfile;
use crate::driver::udp::{PeerSearch, SearchEvent};
use crate::id::Id160;
use crate::wire::bencode::{Limits, Value};
use crate::wire::item::{Item, ItemError, MutableItem, mutable_target};
use crate::wire::krpc::code;

/// Puts the value of `plan`.
pub async fn put(plan: &ItemPutPlan, reporter: &mut Reporter, signals: &mut Signals) -> Result<(), CliError> {
    let value = match &plan.value {
        Some(value) => value.clone(),
        None => {
            let bencoded = plan.bencoded;
            // A thread of its own: whoever types the value may change his mind.
            let read = tokio::task::spawn_blocking(move || value_of_stdin(bencoded));
            let read = tokio::select! {
                biased;
                stop = signals.next() => return Err(stop),
                read = read => read,
            };
            read.map_err(|e| CliError::new(Code::Unknown, format!("stdin: {e}")))??
        }
    };
    let key = plan.key.as_deref().map(|path| secret_key(path, reporter)).transpose()?;
    let client = Client::start(plan.client.clone()).await?;
    started(&client, reporter);
    let result = tokio::select! {
        biased;
        stop = signals.next() => Err(stop),
        result = put_now(plan, value, key.as_ref(), &client, reporter) => result,
    };
    reporter.clear();
    goodbye(client, Vec::new()).await;
    result
}

/// Gets the value of `plan`.
pub async fn get(plan: &ItemGetPlan, reporter: &mut Reporter, signals: &mut Signals) -> Result<(), CliError> {
    let client = Client::start(plan.client.clone()).await?;
    started(&client, reporter);
    let result = tokio::select! {
        biased;
        stop = signals.next() => Err(stop),
        result = get_now(plan, &client, reporter) => result,
    };
    reporter.clear();
    goodbye(client, Vec::new()).await;
    result
}

fn started(client: &Client, reporter: &Reporter) {
    let (version, port) = (env!("CARGO_PKG_VERSION"), Some(client.port()));
    reporter.tell(&Event::Started { command: "item", version, info_hash: None, port });
}

/// The secret key in a file, which is made where there is none.
pub fn secret_key(path: &std::path::Path, reporter: &Reporter) -> Result<SigningKey, CliError> {
    let (key, made) = keyfile::load_or_create(path).map_err(|e| {
        CliError::new(Code::BadOption, e.to_string())
            .hint("a missing file is made; give another name with --key")
    })?;
    if made {
        reporter.note(&format!(
            "made a new key: {} (whoever has this file can sign in your name)",
            path.display()
        ));
    }
    Ok(key)
}

async fn put_now(
    plan: &ItemPutPlan,
    value: Vec<u8>,
    key: Option<&SigningKey>,
    client: &Client,
    reporter: &mut Reporter,
) -> Result<(), CliError> {
    lookup::joined(client, reporter).await?;
    let Some(key) = key else {
        let item = Item::Immutable { value };
        let nodes = store(client, item.clone(), None, reporter).await?;
        return told(&item, nodes, reporter);
    };
    let target = mutable_target(key.verifying_key().as_bytes(), &plan.salt);
    let old = newest(client, target, &plan.salt, reporter).await?.as_ref().and_then(Item::seq);
    let seq = plan.seq.unwrap_or_else(|| old.map_or(1, |seq| seq.saturating_add(1)));
    // A node that has no version would take any: whether ours may replace the newest is seen here.
    if let Some(old) = old
        && (seq <= old || plan.cas.is_some_and(|cas| cas != old))
    {
        return Err(overtaken(seq, old));
    }
    let item = sign(key, &plan.salt, seq, &value)?;
    let nodes = store(client, item.clone(), plan.cas, reporter).await?;
    told(&item, nodes, reporter)
}

/// Signs a version.
pub fn sign(key: &SigningKey, salt: &[u8], seq: i64, value: &[u8]) -> Result<Item, CliError> {
    let signed = MutableItem::sign(key, salt, seq, value);
    signed.map(Item::Mutable).map_err(|e: ItemError| CliError::new(Code::BadOption, e.to_string()))
}

fn told(item: &Item, nodes: u32, reporter: &Reporter) -> Result<(), CliError> {
    reporter.clear();
    let key = if let Item::Mutable(m) = item { Some(HEXLOWER.encode(&m.key)) } else { None };
    let (target, seq) = (item.target().to_string(), item.seq());
    let name = key.clone().unwrap_or_else(|| target.clone());
    reporter.tell(&Event::Stored { target, key, seq, nodes });
    lookup::data(&name, reporter)?;
    let version = seq.map(|seq| format!(" as version {seq}")).unwrap_or_default();
    reporter.note(&format!("stored{version} on {}; it is kept for two hours", count(nodes as usize, "node")));
    Ok(())
}

/// An error where a newer version than `ours` is in store, or another value under the same number.
pub async fn unless_overtaken(client: &Client, ours: &Item, reporter: &mut Reporter) -> Result<(), CliError> {
    let Item::Mutable(item) = ours else { return Ok(()) };
    let found = newest(client, ours.target(), &item.salt, reporter).await?;
    match found.as_ref().and_then(Item::seq) {
        Some(seq) if found.as_ref().is_some_and(|found| overtakes(found, ours)) => {
            Err(overtaken(item.seq, seq))
        }
        _ => Ok(()),
    }
}

fn overtakes(found: &Item, ours: &Item) -> bool {
    found.seq() > ours.seq() || found.seq() == ours.seq() && found.value() != ours.value()
}

/// Puts an item on the nodes closest to its name; how many took it.
pub async fn store(
    client: &Client,
    item: Item,
    cas: Option<i64>,
    reporter: &mut Reporter,
) -> Result<u32, CliError> {
    let seq = item.seq();
    let search = client
        .dht()
        .put_item(item.clone(), cas)
        .map_err(|e| CliError::new(Code::BadOption, e.to_string()))?;
    let (_, stats) = follow_search(search, reporter).await?;
    match (stats.announced_to, stats.refused) {
        // One node alone may say so out of malice: what it has must be seen.
        (1.., Some(code::OLD_SEQ | code::CAS)) => {
            unless_overtaken(client, &item, reporter).await?;
            Ok(stats.announced_to)
        }
        (1.., _) => Ok(stats.announced_to),
        (0, Some(code::OLD_SEQ | code::CAS)) => Err(overtaken(seq.unwrap_or(0), seq.unwrap_or(0))),
        (0, refused) => {
            let why = refused.map(|code| format!(" (last error {code})")).unwrap_or_default();
            let asked = count(stats.answered as usize, "node");
            let message = format!("no node stored the item: {asked} answered, none took it{why}");
            Err(CliError::new(Code::NotFound, message)
                .hint("most nodes store items, not all: try again later"))
        }
    }
}

fn overtaken(seq: i64, old: i64) -> CliError {
    let message = format!("version {seq} is not stored: version {old} or a newer one is there already");
    CliError::new(Code::Unknown, message)
        .hint("`dhtget item get KEY` shows what is in store; --cas N replaces version N and no other")
}

/// The newest version of an item that is in store.
pub async fn newest(
    client: &Client,
    target: Id160,
    salt: &[u8],
    reporter: &mut Reporter,
) -> Result<Option<Item>, CliError> {
    let search = client.dht().get_item(target, salt);
    follow_search(search, reporter).await.map(|(item, _)| item)
}

async fn follow_search(
    mut search: PeerSearch,
    reporter: &mut Reporter,
) -> Result<(Option<Item>, crate::dht::LookupStats), CliError> {
    let mut found = None;
    while let Some(event) = search.next().await {
        match event {
            SearchEvent::Item(item) => found = Some(item),
            SearchEvent::Progress { asked, answered } => {
                let words = format!("{} asked, {answered} answered", count(asked as usize, "node"));
                reporter.step(clock::now(), &words);
            }
            SearchEvent::Done(stats) => return Ok((found, stats)),
            SearchEvent::Peers(_) | SearchEvent::Scrape { .. } => {}
        }
    }
    Err(CliError::new(Code::Unknown, "the DHT node is busy: the search did not start"))
}

async fn get_now(plan: &ItemGetPlan, client: &Client, reporter: &mut Reporter) -> Result<(), CliError> {
    lookup::joined(client, reporter).await?;
    let found = newest(client, plan.name.target(), plan.name.salt(), reporter).await?;
    reporter.clear();
    let Some(item) = found else {
        let hint = match &plan.name {
            ItemName::Target(_, salt) if salt.is_empty() => {
                "items are forgotten two hours after they were last put; a signed one with a salt needs --salt"
            }
            _ => "items are forgotten two hours after they were last put",
        };
        let message = format!("no item {} is in store", plan.name.target());
        return Err(CliError::new(Code::NotFound, message).hint(hint));
    };
    let inner = Value::parse(item.value(), Limits::MESSAGE).ok().and_then(|v| v.bytes());
    reporter.tell(&Event::Item {
        target: item.target().to_string(),
        key: if let Item::Mutable(m) = &item { Some(HEXLOWER.encode(&m.key)) } else { None },
        seq: item.seq(),
        bencoded_hex: HEXLOWER.encode(item.value()),
        text: inner.and_then(|b| std::str::from_utf8(b).ok()),
    });
    if let Some(seq) = item.seq() {
        reporter.detail(&format!("version {seq}"));
    }
    // Of a byte string, what it holds; of anything else, how it is written.
    let shown = inner.filter(|_| !plan.bencoded).unwrap_or(item.value());
    if reporter.json() { Ok(()) } else { bytes_out(shown) }
}

/// The value as it is: it may be no text. A terminal gets a line end behind it.
fn bytes_out(value: &[u8]) -> Result<(), CliError> {
    use std::io::{IsTerminal as _, Write as _};
    let mut out = std::io::stdout().lock();
    let shown = if out.is_terminal() {
        let text = super::text::visible(&String::from_utf8_lossy(value));
        writeln!(out, "{text}")
    } else {
        out.write_all(value)
    };
    lookup::printed(shown.and_then(|()| out.flush()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_and_other_values_overtake() {
        let key = SigningKey::from_bytes(&[5; 32]);
        let item = |seq, value: &[u8]| sign(&key, b"", seq, value).unwrap();
        let ours = item(2, b"1:a");
        for (found, is_overtaken) in [
            (item(1, b"1:b"), false),
            (item(2, b"1:a"), false),
            (item(2, b"1:b"), true),
            (item(3, b"1:a"), true),
        ] {
            assert_eq!(overtakes(&found, &ours), is_overtaken, "{found:?}");
        }
    }
}
