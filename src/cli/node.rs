//! `dhtget node`: takes part in the DHT until stopped, and keeps its id and table for the next run.
//!
//! Owns what a person sees of that. Must not know what the node answers to whom.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, interval_at};

use super::error::CliError;
use super::get::goodbye;
use super::json::Event;
use super::progress::count;
use super::report::Reporter;
use super::signals::Signals;
use crate::client::{Client, ClientConfig};
use crate::driver::clock;
use crate::driver::udp::DhtStatus;

/// Figures are looked at this often.
const TICK: Duration = Duration::from_millis(250);
/// The table is saved this often: a killed node loses no more than this.
const SAVE_EACH: Duration = Duration::from_secs(5 * 60);

/// Runs until a signal comes, which is also the only way it ends.
pub async fn run(
    config: &ClientConfig,
    reporter: &mut Reporter,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let client = Client::start(config.clone()).await?;
    let port = client.port();
    reporter.tell(&Event::Started {
        command: "node",
        version: env!("CARGO_PKG_VERSION"),
        info_hash: None,
        port: Some(port),
    });
    let on = config.listen.map_or_else(|| "every address".to_owned(), |a| a.ip().to_string());
    reporter.note(&format!("listening on {on}, port {port} (UDP and TCP); Ctrl-C ends it"));
    let status = client.dht().status();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut save = interval_at((clock::now() + SAVE_EACH).into(), SAVE_EACH);
    let stop = loop {
        tokio::select! {
            biased;
            stop = signals.next() => break stop,
            _ = save.tick() => client.save_state().await,
            _ = tick.tick() => {
                let status = status.borrow().clone();
                reporter.node(clock::now(), &status, &words(&status));
            }
        }
    };
    reporter.clear();
    goodbye(client, Vec::new()).await;
    Err(stop)
}

/// What the node does, or why it is alone.
pub fn words(status: &DhtStatus) -> String {
    let nodes = count(status.nodes_v4 + status.nodes_v6, "node");
    let trouble = trouble(status).map(|t| format!("; {t}")).unwrap_or_default();
    if status.bootstrapped {
        let (v4, v6) = (status.nodes_v4, status.nodes_v6);
        let (asked, answered) = (status.queries_out, status.queries_in);
        format!("{nodes} in the table (IPv4 {v4}, IPv6 {v6}), {answered} queries received, {asked} sent")
    } else {
        format!("joining the DHT ({nodes}{trouble})")
    }
}

/// What of the bootstrap list did not work; addresses are only counted, names are shown.
pub fn trouble(status: &DhtStatus) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(bad) = status.bad_bootstrap.first() {
        parts.push(bad.clone());
    }
    if let Some(name) = status.unresolved.first() {
        let more = status.unresolved.len() - 1;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        parts.push(format!("{name}{more} did not resolve yet"));
    }
    if !status.unanswering.is_empty() {
        let silent = count(status.unanswering.len(), "bootstrap address");
        parts.push(format!("{silent} asked without an answer"));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lonely_node_says_why() {
        let mut status = DhtStatus {
            unresolved: vec!["a.example:1".into(), "b.example:2".into()],
            unanswering: vec!["127.0.0.1:1".parse().unwrap()],
            ..DhtStatus::default()
        };
        assert_eq!(
            words(&status),
            "joining the DHT (0 nodes; a.example:1 and 1 more did not resolve yet; \
             1 bootstrap address asked without an answer)"
        );
        (status.bootstrapped, status.nodes_v4, status.queries_out) = (true, 1, 5);
        assert_eq!(words(&status), "1 node in the table (IPv4 1, IPv6 0), 0 queries received, 5 sent");
    }
}
