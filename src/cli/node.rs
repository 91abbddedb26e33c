//! `dhtget node`: takes part in the DHT until stopped, and keeps its id and table for the next run.
//!
//! Owns what a person sees of that and the signals an operator sends. Must not know what the node answers
//! to whom, nor how its figures are served.

pub mod ask;
pub mod flags;
pub mod plan;
pub mod settings;
mod words;

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, interval_at};

use self::plan::NodePlan;
use super::error::{CliError, Code};
use super::get::goodbye;
use super::json::Event;
use super::lookup;
use super::progress::count;
use super::report::Reporter;
use super::signals::Signals;
use crate::client::Client;
use crate::driver::supervisor::Supervisor;
use crate::driver::udp::DhtStatus;
use crate::driver::{clock, resident};
use crate::web::status::Status;
use crate::web::{Server, WebError};
use crate::wire::entry::EntryPoint;

/// Figures are looked at this often.
const TICK: Duration = Duration::from_millis(250);
/// The table is saved this often: a killed node loses no more than this.
const SAVE_EACH: Duration = Duration::from_secs(5 * 60);
/// The first time comes this long after joining: a node killed young would start from nothing again.
const SAVE_FIRST: Duration = Duration::from_secs(5);

/// Prints a configuration file.
pub fn print_config(text: &str, reporter: &Reporter) -> Result<(), CliError> {
    lookup::printed(reporter.raw(text.trim_end()))
}

/// Runs until a signal comes, or until nobody reads its events any more.
pub async fn run(plan: &NodePlan, reporter: &mut Reporter, signals: &mut Signals) -> Result<(), CliError> {
    let listen = |kind| signal(kind).map_err(|e| CliError::new(Code::Unknown, format!("no signals: {e}")));
    let (hangup, user) = (listen(SignalKind::hangup())?, listen(SignalKind::user_defined1())?);
    let client = Client::start(plan.client.clone()).await?;
    let server = Server::start(&plan.web, client.dht().clone(), client.port()).await;
    let server = match server {
        Ok(server) => server,
        Err(error) => {
            goodbye(client, Vec::new()).await;
            return Err(no_server(&error));
        }
    };
    started(plan, &client, &server, reporter);
    let mut supervisor = Supervisor::from_environment();
    supervisor.ready();
    let mut work =
        Work { client: &client, plan, current: None, reporter, supervisor: &mut supervisor, hangup, user };
    let stop = work.until_stopped(signals).await;
    supervisor.stopping();
    reporter.clear();
    drop(server);
    goodbye(client, Vec::new()).await;
    stop
}

fn no_server(error: &WebError) -> CliError {
    CliError::new(Code::Unknown, error.to_string())
        .hint("choose another address with --status or --metrics ADDR:PORT, port 0 for any free one")
}

fn started(plan: &NodePlan, client: &Client, server: &Server, reporter: &Reporter) {
    let port = client.port();
    reporter.tell(&Event::Started {
        command: "node",
        version: env!("CARGO_PKG_VERSION"),
        info_hash: None,
        port: Some(port),
    });
    let on = plan.client.listen.map_or_else(|| "every address".to_owned(), |a| a.ip().to_string());
    reporter.note(&format!("listening on {on}, port {port} (UDP and TCP); Ctrl-C ends it"));
    let status = server.status.map(|addr| format!("http://{addr}/"));
    let metrics = server.metrics.map(|addr| format!("http://{addr}/metrics"));
    for url in [&status, &metrics].into_iter().flatten() {
        reporter.note(&format!("serving {url}"));
    }
    let open = |addr: &std::net::SocketAddr| !addr.ip().is_loopback();
    if server.status.as_ref().is_some_and(open) {
        tracing::warn!("whoever reaches the status address sees this node's figures and contacts");
    }
    if server.metrics.as_ref().is_some_and(|addr| open(addr) && server.status != Some(*addr)) {
        tracing::warn!("whoever reaches the address of /metrics sees this node's figures");
    }
    if client.is_guest() {
        tracing::warn!("another run holds the node id: this one has an id of its own and saves nothing");
    }
    if status.is_some() || metrics.is_some() {
        reporter.tell(&Event::Serving { status, metrics });
    }
}

/// A node at work, and what may change while it is.
struct Work<'a> {
    client: &'a Client,
    /// As it started.
    plan: &'a NodePlan,
    /// As it was last read again.
    current: Option<NodePlan>,
    reporter: &'a mut Reporter,
    supervisor: &'a mut Supervisor,
    hangup: Signal,
    user: Signal,
}

impl Work<'_> {
    async fn until_stopped(&mut self, signals: &mut Signals) -> Result<(), CliError> {
        let status = self.client.dht().status();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut save = interval_at((clock::now() + SAVE_EACH).into(), SAVE_EACH);
        let mut joined = false;
        loop {
            tokio::select! {
                biased;
                stop = signals.next() => return Err(stop),
                Some(()) = self.hangup.recv() => self.reload().await,
                Some(()) = self.user.recv() => self.dump().await,
                _ = save.tick() => {
                    self.client.save_state().await;
                    // What starting, and saving just now, has left behind.
                    resident::give_back_code();
                }
                _ = tick.tick() => {
                    let status = status.borrow().clone();
                    if status.bootstrapped && !std::mem::replace(&mut joined, true) {
                        save.reset_after(SAVE_FIRST);
                    }
                    self.supervisor.alive(clock::now(), || words(&status));
                    self.reporter.node(clock::now(), &status, &words(&status));
                    if self.reporter.is_unread() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// SIGHUP: reads the files again and follows what can be followed.
    async fn reload(&mut self) {
        let mut new = match self.plan.again() {
            Ok(new) => new,
            Err(error) => {
                return tracing::warn!("the configuration is not read again: {}", error.message);
            }
        };
        let fixed = self.plan.fixed_changes(&new);
        let current = self.current.as_ref().unwrap_or(self.plan);
        let dht = self.client.dht();
        let mut followed = Vec::new();
        if new.client.dht_limits != current.client.dht_limits {
            dht.set_limits(new.client.dht_limits).await;
            followed.push("limits");
        }
        if new.client.bootstrap != current.client.bootstrap && !fixed.contains(&"bootstrap") {
            dht.set_bootstrap(new.client.bootstrap.clone()).await;
            followed.push("bootstrap");
        }
        let keys = |plan: &NodePlan| plan.client.network.as_ref().and_then(|network| network.keys.clone());
        if let (Some(new), false) = (keys(&new), keys(&new) == keys(current))
            && !fixed.contains(&"network")
        {
            self.client.set_keys(new).await;
            followed.push("keys");
        }
        let followed = if followed.is_empty() { "nothing".to_owned() } else { followed.join(" and ") };
        // What is in force is what the next change is compared with.
        if fixed.contains(&"network") {
            new.client.network.clone_from(&current.client.network);
        }
        if fixed.contains(&"bootstrap") {
            new.client.bootstrap.clone_from(&current.client.bootstrap);
        }
        self.reporter.note(&format!("configuration read again; changed: {followed}"));
        if !fixed.is_empty() {
            tracing::warn!("needs a restart to change: {}", fixed.join(", "));
        }
        self.current = Some(new);
    }

    /// SIGUSR1: everything, with every contact.
    async fn dump(&self) {
        let Some(report) = self.client.dht().report().await else { return };
        let words = self.client.dht().status().borrow().clone();
        let status = Status::new(&report, &words, self.client.port());
        let object = serde_json::json!({ "level": "INFO", "message": "tables", "tables": status });
        self.reporter.dump(&words::dump(&status), &object);
    }
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
        parts.push(match EntryPoint::is_service(name) {
            true => format!("{name}{more} did not lead to a host yet (`dig SRV {name}` shows its records)"),
            false => format!("{name}{more} did not resolve yet"),
        });
    }
    if !status.unanswering.is_empty() {
        let silent = count(status.unanswering.len(), "bootstrap address");
        let key = if status.sealed.is_some() { " (is it up, and has it this network's key?)" } else { "" };
        parts.push(format!("{silent} asked without an answer{key}"));
    }
    parts.extend(status.clock_trouble());
    if let Some(foreign) = status.foreign_only() {
        parts.push(format!("{foreign} datagrams came that this network's key does not open"));
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
        status.unresolved = vec!["_dhtget._udp.a.example".into()];
        let said = words(&status);
        assert!(
            said.contains("_dhtget._udp.a.example did not lead to a host yet (`dig SRV _dhtget"),
            "{said}"
        );
        (status.bootstrapped, status.nodes_v4, status.queries_out) = (true, 1, 5);
        assert_eq!(words(&status), "1 node in the table (IPv4 1, IPv6 0), 0 queries received, 5 sent");
    }
}
