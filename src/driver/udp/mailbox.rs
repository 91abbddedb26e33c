//! What a search has to tell, between the node's task and whoever listens.
//!
//! Peers and progress merge while nobody looks, so that a slow listener costs bounded memory and loses
//! nothing: the node reports each peer of a search once, and a bounded number of them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::SearchEvent;
use crate::dht::LookupStats;
use crate::wire::item::Item;

#[derive(Debug, Default)]
struct Content {
    peers: Vec<SocketAddr>,
    /// The newest version; the ones before it are of no use any more.
    item: Option<Item>,
    scrape: Option<(u32, u32)>,
    progress: Option<(u32, u32)>,
    done: Option<LookupStats>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    content: Mutex<Content>,
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The listener's end.
#[derive(Debug)]
pub(super) struct Mailbox(Arc<Shared>);

/// The task's end.
#[derive(Debug)]
pub(super) struct Sender(Arc<Shared>);

pub(super) fn pair() -> (Sender, Mailbox) {
    let shared = Arc::new(Shared::default());
    (Sender(shared.clone()), Mailbox(shared))
}

impl Mailbox {
    pub(super) async fn next(&mut self) -> Option<SearchEvent> {
        loop {
            {
                let mut content = self.0.lock();
                if !content.peers.is_empty() {
                    return Some(SearchEvent::Peers(std::mem::take(&mut content.peers)));
                }
                if let Some(item) = content.item.take() {
                    return Some(SearchEvent::Item(item));
                }
                if let Some((seeds, leechers)) = content.scrape.take() {
                    return Some(SearchEvent::Scrape { seeds, leechers });
                }
                if let Some((asked, answered)) = content.progress.take() {
                    return Some(SearchEvent::Progress { asked, answered });
                }
                if let Some(stats) = content.done.take() {
                    return Some(SearchEvent::Done(stats));
                }
                if content.closed {
                    return None;
                }
            }
            // A change between the look and the wait leaves a permit behind.
            self.0.changed.notified().await;
        }
    }
}

impl Sender {
    pub(super) fn send(&self, event: SearchEvent) {
        {
            let mut content = self.0.lock();
            match event {
                SearchEvent::Peers(peers) => content.peers.extend(peers),
                SearchEvent::Item(item) => content.item = Some(item),
                SearchEvent::Scrape { seeds, leechers } => content.scrape = Some((seeds, leechers)),
                SearchEvent::Progress { asked, answered } => content.progress = Some((asked, answered)),
                SearchEvent::Done(stats) => content.done = Some(stats),
            }
        }
        self.0.changed.notify_one();
    }

    /// Whether nobody listens any more.
    pub(super) fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.0) < 2
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}
