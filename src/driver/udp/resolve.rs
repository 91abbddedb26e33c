//! Names of nodes to start from, turned into addresses in the background.
//!
//! Plain sequential code: each name has a task that ends once it has resolved.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::srv;
use super::task::Command;
use crate::wire::allow::AllowList;
use crate::wire::entry::EntryPoint;

/// Waits between attempts: the network may come up long after us. The last one is repeated.
const RETRIES_S: [u64; 5] = [1, 3, 10, 30, 60];
const RETRY_AT_MOST_S: u64 = 60;

/// A list, sorted by what can be done with each entry.
pub(super) struct Sorted {
    /// Usable at once.
    pub addrs: Vec<SocketAddr>,
    /// To be resolved.
    pub names: Vec<String>,
    /// Neither, with the reason.
    pub bad: Vec<String>,
}

impl Sorted {
    /// Moves the addresses outside the network to those that are of no use.
    pub(super) fn keep_out(&mut self, allow: &AllowList) {
        let all = std::mem::take(&mut self.addrs).into_iter();
        let (inside, outside): (Vec<_>, Vec<_>) = all.partition(|addr| allow.allows(addr.ip()));
        self.addrs = inside;
        self.bad.extend(outside.iter().map(|addr| outside_of(allow, addr)));
    }
}

/// What is wrong with an address to start from that the list keeps out.
pub(super) fn outside_of(allow: &AllowList, addr: &SocketAddr) -> String {
    format!("{addr} is not asked: this network consists of {allow}")
}

pub(super) fn sort_out(entries: Vec<String>) -> Sorted {
    let mut sorted = Sorted { addrs: Vec::new(), names: Vec::new(), bad: Vec::new() };
    for entry in entries {
        match (entry.parse::<SocketAddr>(), crate::driver::bootstrap::parse_argument(&entry)) {
            (Ok(addr), Ok(_)) => sorted.addrs.push(addr),
            (_, Ok(names)) => sorted.names.extend(names),
            (_, Err(error)) => sorted.bad.push(error.to_string()),
        }
    }
    sorted
}

/// The tasks that look for the addresses of names, one for each name that is wanted.
#[derive(Debug)]
pub(super) struct Resolvers {
    commands: mpsc::WeakSender<Command>,
    tasks: BTreeMap<String, AbortHandle>,
}

impl Resolvers {
    pub(super) fn new(commands: mpsc::WeakSender<Command>) -> Self {
        Self { commands, tasks: BTreeMap::new() }
    }

    /// Looks for these from now on, within a tokio runtime: whoever is looked for already goes on, others end.
    pub(super) fn want(&mut self, names: &[String]) {
        self.tasks.retain(|name, task| {
            let stays = names.contains(name) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        for name in names {
            let start = || tokio::spawn(resolve(name.clone(), self.commands.clone())).abort_handle();
            self.tasks.entry(name.clone()).or_insert_with(start);
        }
    }
}

impl Drop for Resolvers {
    fn drop(&mut self) {
        self.tasks.values().for_each(AbortHandle::abort);
    }
}

/// Resolves one name to all its addresses and hands them to the task, for as long as that lives.
async fn resolve(name: String, commands: mpsc::WeakSender<Command>) {
    for wait_s in RETRIES_S.into_iter().chain(std::iter::repeat(RETRY_AT_MOST_S)) {
        let found = look_up(&name).await;
        match found {
            Ok(addrs) => {
                if let Some(commands) = commands.upgrade() {
                    let _ = commands.send(Command::Resolved(name, addrs)).await;
                }
                return;
            }
            Err(error) => tracing::debug!(%name, %error, "a node to start from has no address yet"),
        }
        tokio::time::sleep(Duration::from_secs(wait_s)).await;
        if commands.strong_count() == 0 {
            return;
        }
    }
}

/// All addresses of an entry of a bootstrap list.
pub async fn look_up(name: &str) -> Result<Vec<SocketAddr>, String> {
    if EntryPoint::is_service(name) {
        // On the heap, and gone with the attempt: few nodes have such an entry.
        return Box::pin(srv::find(name)).await.map_err(|e| e.to_string());
    }
    tokio::net::lookup_host(name).await.map(Iterator::collect).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_names_and_mistakes_are_told_apart() {
        let service = "_dhtget._udp.example";
        let list = ["127.0.0.1:5", "[::1]:6", "localhost:7", service, "localhost", "1.2.3.4:0", "_dhtget"];
        let sorted = sort_out(list.map(String::from).to_vec());
        assert_eq!((sorted.addrs.len(), sorted.names.len(), sorted.bad.len()), (2, 2, 3));
        assert!(sorted.bad[0].contains("port is missing"), "{:?}", sorted.bad);
    }
    /// However often the same list is read again, each name has one task, and none when it is gone.
    #[tokio::test]
    async fn each_name_is_looked_for_once() {
        let (commands, _inbox) = mpsc::channel(1);
        let mut resolvers = Resolvers::new(commands.downgrade());
        let [a, b] = ["a.invalid:1", "b.invalid:1"].map(String::from);
        resolvers.want(&[a.clone(), b.clone()]);
        let first: Vec<_> = resolvers.tasks.values().map(AbortHandle::id).collect();
        resolvers.want(&[a.clone(), b.clone()]);
        assert_eq!(first, resolvers.tasks.values().map(AbortHandle::id).collect::<Vec<_>>());
        let gone = resolvers.tasks[&b].clone();
        resolvers.want(std::slice::from_ref(&a));
        assert_eq!(resolvers.tasks.keys().collect::<Vec<_>>(), [&a]);
        let kept = resolvers.tasks[&a].clone();
        drop(resolvers);
        while !gone.is_finished() || !kept.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}
