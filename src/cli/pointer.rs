//! `dhtget publish` and `dhtget follow`: one link, a torrent behind it that changes (BEP 46).
//!
//! Owns when to publish again and when to look again, and following a link that another command was given.

use std::time::Duration;

use data_encoding::HEXLOWER;
use ed25519_dalek::SigningKey;
use tokio::time::sleep;

use super::error::{CliError, Code};
use super::get::goodbye;
use super::item;
use super::json::Event;
use super::lookup;
use super::plan::{FollowPlan, PublishPlan};
use super::progress::count;
use super::report::Reporter;
use super::signals::Signals;
use super::target::{Target, Torrent};
use crate::client::{Client, Source};
use crate::id::InfoHash;
use crate::wire::item::Item;
use crate::wire::magnet::Magnet;
use crate::wire::pointer::Pointer;

/// Items are forgotten after two hours; once an hour leaves room for one failure (BEP 44, "Expiration").
const PUBLISH_AGAIN: Duration = Duration::from_secs(60 * 60);
/// Wait after a round that reached nobody.
const PUBLISH_RETRY: Duration = Duration::from_secs(60);

/// The torrent of a target; a pointer is followed first.
pub async fn settle(
    client: &Client,
    target: &Target,
    reporter: &mut Reporter,
    signals: &mut Signals,
) -> Result<Torrent, CliError> {
    let pointer = match target {
        Target::Pointer(pointer, _) => pointer,
        _ => {
            return target
                .torrent()
                .ok_or_else(|| CliError::new(Code::BadTarget, "the target names no torrent"));
        }
    };
    let (hash, _) = tokio::select! {
        biased;
        stop = signals.next() => Err(stop),
        found = look(client, pointer, reporter) => found?.ok_or_else(|| nothing_there(pointer)),
    }?;
    reporter.note(&format!("the link points at {hash}"));
    Ok(Torrent { hash, source: Source::Hash(hash) })
}

fn nothing_there(pointer: &Pointer) -> CliError {
    let message = format!("nothing is published under the key {}", HEXLOWER.encode(&pointer.key));
    CliError::new(Code::NotFound, message)
        .hint("its publisher must publish again at least every two hours; or the link lacks its salt (`&s=`)")
}

/// Where a pointer points now, and which version that is.
async fn look(
    client: &Client,
    pointer: &Pointer,
    reporter: &mut Reporter,
) -> Result<Option<(InfoHash, i64)>, CliError> {
    lookup::joined(client, reporter).await?;
    let found = item::newest(client, pointer.target(), &pointer.salt, reporter).await?;
    reporter.clear();
    let Some(item) = found else { return Ok(None) };
    let hash = Pointer::torrent(&item).ok_or_else(|| {
        CliError::new(Code::BadTarget, "what is published under this key points at no torrent (BEP 46)")
            .hint("`dhtget item get` shows it")
    })?;
    Ok(Some((hash, item.seq().unwrap_or(0))))
}

/// Makes the link of `plan` point at its torrent, and keeps it so.
pub async fn publish(
    plan: &PublishPlan,
    reporter: &mut Reporter,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let key = item::secret_key(&plan.key, reporter)?;
    let client = Client::start(plan.client.clone()).await?;
    reporter.tell(&Event::Started {
        command: "publish",
        version: env!("CARGO_PKG_VERSION"),
        info_hash: Some(plan.hash.to_string()),
        port: Some(client.port()),
    });
    let result = tokio::select! {
        biased;
        stop = signals.next() => Err(stop),
        result = keep_published(plan, &key, &client, reporter) => result,
    };
    reporter.clear();
    goodbye(client, Vec::new()).await;
    result
}

async fn keep_published(
    plan: &PublishPlan,
    key: &SigningKey,
    client: &Client,
    reporter: &mut Reporter,
) -> Result<(), CliError> {
    let pointer = Pointer { key: key.verifying_key().to_bytes(), salt: plan.salt.clone() };
    lookup::joined(client, reporter).await?;
    let in_store = item::newest(client, pointer.target(), &pointer.salt, reporter).await?;
    let old = in_store.as_ref().and_then(Item::seq);
    // What points there already is renewed; anything else is replaced.
    let current = in_store.filter(|item| Pointer::torrent(item) == Some(plan.hash));
    let ours = match current {
        Some(item) => item,
        None => {
            item::sign(key, &plan.salt, old.map_or(1, |s| s.saturating_add(1)), &Pointer::value(plan.hash))?
        }
    };
    let mut nodes = item::store(client, ours.clone(), None, reporter).await?;
    reporter.clear();
    let seq = ours.seq().unwrap_or(0);
    let (magnet, info_hash) = (pointer.to_string(), plan.hash.to_string());
    lookup::data(&magnet, reporter)?;
    reporter.tell(&Event::Pointer { magnet, info_hash, seq });
    loop {
        reporter.note(&format!("version {seq} is on {}", count(nodes as usize, "node")));
        if plan.once {
            return Ok(());
        }
        sleep(PUBLISH_AGAIN).await;
        nodes = loop {
            match renew(client, &ours, reporter).await {
                // A newer version elsewhere is final; an hour without a network is not.
                Err(error) if error.code == Code::NotFound => {
                    reporter.note(&format!("not renewed: {}", error.message))
                }
                other => break other?,
            }
            sleep(PUBLISH_RETRY).await;
        };
    }
}

/// Puts the version again, unless another run has published since.
async fn renew(client: &Client, ours: &Item, reporter: &mut Reporter) -> Result<u32, CliError> {
    // The nodes that are closest now may not be those that have the newer version: refusals do not show it.
    item::unless_overtaken(client, ours, reporter).await?;
    item::store(client, ours.clone(), None, reporter).await
}

/// Prints where the link of `plan` points, each time that changes.
pub async fn follow(
    plan: &FollowPlan,
    reporter: &mut Reporter,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let client = Client::start(plan.client.clone()).await?;
    let (version, port) = (env!("CARGO_PKG_VERSION"), Some(client.port()));
    reporter.tell(&Event::Started { command: "follow", version, info_hash: None, port });
    let result = tokio::select! {
        biased;
        stop = signals.next() => Err(stop),
        result = keep_following(plan, &client, reporter) => result,
    };
    reporter.clear();
    goodbye(client, Vec::new()).await;
    result
}

async fn keep_following(plan: &FollowPlan, client: &Client, reporter: &mut Reporter) -> Result<(), CliError> {
    let mut last: Option<(InfoHash, i64)> = None;
    loop {
        match look(client, &plan.pointer, reporter).await {
            Ok(Some((hash, seq))) => {
                // A node that missed the latest version may be the only one to answer: never go back.
                if last.is_none_or(|(before, version)| seq > version && hash != before) {
                    let magnet = Magnet::new(hash).to_string();
                    lookup::data(&magnet, reporter)?;
                    reporter.tell(&Event::Pointer { magnet, info_hash: hash.to_string(), seq });
                }
                last = Some(last.map_or((hash, seq), |l| if seq > l.1 { (hash, seq) } else { l }));
                if plan.once {
                    return Ok(());
                }
            }
            Ok(None) if plan.once => return Err(nothing_there(&plan.pointer)),
            Ok(None) => reporter.note("nothing is published under this key now; looking again"),
            Err(error) if plan.once => return Err(error),
            Err(error) => reporter.note(&format!("not followed: {}; looking again", error.message)),
        }
        sleep(plan.interval).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::plan::Output;
    use crate::client::ClientConfig;

    /// Two nodes on loopback; the first stores.
    async fn pair() -> (Client, Client) {
        let listen = Some(std::net::SocketAddr::from(([127, 0, 0, 1], 0)));
        let config = ClientConfig { listen, private_network: true, ..ClientConfig::default() };
        let first = Client::start(config.clone()).await.unwrap();
        let bootstrap = vec![format!("127.0.0.1:{}", first.port())];
        let second = Client::start(ClientConfig { bootstrap, ..config }).await.unwrap();
        (first, second)
    }

    #[tokio::test]
    async fn what_another_run_published_since_is_not_renewed_over() {
        let (stores, client) = pair().await;
        let mut reporter =
            Reporter::new(Output { quiet: true, ..Output::default() }, crate::driver::clock::now());
        let key = SigningKey::from_bytes(&[7; 32]);
        let version =
            |seq, hash| item::sign(&key, b"n", seq, &Pointer::value(crate::id::Id160([hash; 20]))).unwrap();
        lookup::joined(&client, &mut reporter).await.unwrap();
        let ours = version(1, 1);
        item::store(&client, ours.clone(), None, &mut reporter).await.unwrap();
        assert_eq!(renew(&client, &ours, &mut reporter).await, Ok(1), "nobody else has published");
        item::store(&client, version(2, 2), None, &mut reporter).await.unwrap();
        let error = renew(&client, &ours, &mut reporter).await.unwrap_err();
        assert!(error.code == Code::Unknown && error.message.contains("version 2 or a newer one"), "{error}");
        client.shutdown().await;
        stores.shutdown().await;
    }
}
