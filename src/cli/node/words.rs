//! The state of a node as text for a terminal: for `dhtget node status`, and for SIGUSR1 with every contact.
//!
//! Pure functions of the figures. Must not print.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::cli::progress::{bytes, count, seconds};
use crate::cli::text::visible;
use crate::web::status::{Bucket, Family, Search, Status};

/// Cells of the widest bucket's bar.
const BAR: usize = 32;

/// The state on a screen.
pub fn state(status: &Status) -> String {
    let mut out = head(status);
    for family in &status.families {
        out.push_str(&table(family, false));
    }
    out + &tail(status)
}

/// The same with every contact.
pub fn dump(status: &Status) -> String {
    let mut out = head(status);
    for family in &status.families {
        out.push_str(&table(family, true));
    }
    out + &tail(status)
}

// Writing to a String cannot fail.

fn head(status: &Status) -> String {
    let mut out = String::new();
    let (version, id) = (visible(&status.version), visible(&status.id));
    let _ = writeln!(out, "dhtget {version}, up {}, port {}", time(status.uptime_s), status.port);
    let _ = writeln!(out, "id       {id}");
    let ok = if status.health.ok { "" } else { "  (not healthy)" };
    let _ = writeln!(out, "state    {}{ok}", visible(&status.health.words));
    for family in &status.families {
        if let Some(address) = &family.external_address {
            let votes = count(family.external_votes, "vote");
            let _ = writeln!(out, "address  {} ({votes})", visible(address));
        }
        if let (Some(size), Some(error)) = (family.network_size, family.network_size_error) {
            let percent = (error * 100.0).round();
            let _ = writeln!(
                out,
                "network  about {} {} nodes (+-{percent} %)",
                grouped(size as u64),
                visible(&family.name)
            );
        }
    }
    if let Some(resident) = status.resident_bytes {
        let cpu = status.cpu_s.map(|s| format!(", {s:.1} s of CPU time")).unwrap_or_default();
        let _ = writeln!(out, "process  {} resident{cpu}", bytes(resident));
    }
    if status.sleeps > 0 {
        let _ = writeln!(out, "slept    {}", count(status.sleeps as usize, "time"));
    }
    out
}

fn table(family: &Family, contacts: bool) -> String {
    let mut out = String::new();
    let name = visible(&family.name);
    let Family { nodes, good, questionable, bad, spares, .. } = family;
    let _ = writeln!(
        out,
        "\n{name} table: {nodes} nodes, {good} good, {questionable} questionable, {bad} bad; {spares} spare"
    );
    if family.buckets.is_empty() {
        return out;
    }
    let _ = writeln!(out, "  bits  {:BAR$}  good   ?  bad  room  spare  median rtt     oldest", "");
    for bucket in &family.buckets {
        let _ = writeln!(
            out,
            "  {:>4}  {:BAR$}  {:>4} {:>3} {:>4} {:>5} {:>6}  {:>8.1} ms  {:>9}",
            bucket.index,
            bar(bucket),
            bucket.good,
            bucket.questionable,
            bucket.bad,
            bucket.capacity,
            bucket.spares,
            bucket.median_rtt_ms,
            time(bucket.oldest_s)
        );
        for contact in bucket.contacts.iter().filter(|_| contacts) {
            let _ = writeln!(
                out,
                "        {}  {:<22} {:<12} rtt {:>7.1} ms, answered {} ago, known for {}, failures {}",
                visible(&contact.id),
                visible(&contact.address),
                visible(&contact.state),
                contact.rtt_ms,
                time(contact.answered_s),
                time(contact.known_s),
                contact.failures
            );
        }
    }
    out
}

/// `#` good, `?` questionable, `x` bad, `.` free.
fn bar(bucket: &Bucket) -> String {
    let cells = bucket.capacity.min(BAR);
    let share = |n: usize| (n * cells).div_ceil(bucket.capacity.max(1)).min(cells);
    let mut bar = "#".repeat(share(bucket.good));
    for (n, sign) in [(bucket.questionable, "?"), (bucket.bad, "x")] {
        let room = cells - bar.len();
        bar.push_str(&sign.repeat(share(n).min(room)));
    }
    let free = cells - bar.len();
    bar + &".".repeat(free)
}

fn tail(status: &Status) -> String {
    let mut out = String::new();
    let traffic = &status.traffic;
    let _ = writeln!(out, "\n{:<18} {:>12} {:>12}", "queries", "received", "sent");
    let none = 0;
    for (method, sent) in &traffic.queries_out {
        let received = traffic.queries_in.get(method).unwrap_or(&none);
        if *sent + *received > 0 {
            let _ =
                writeln!(out, "  {:<16} {:>12} {:>12}", visible(method), grouped(*received), grouped(*sent));
        }
    }
    let line = |out: &mut String, name: &str, received: u64, sent: u64| {
        let _ = writeln!(out, "{name:<18} {:>12} {:>12}", grouped(received), grouped(sent));
    };
    line(&mut out, "answers", traffic.replies_in, traffic.replies_out);
    line(&mut out, "errors", traffic.errors_in.values().sum(), traffic.errors_out.values().sum());
    line(&mut out, "datagrams", traffic.datagrams_in, traffic.datagrams_out);
    line(&mut out, "bytes", traffic.bytes_in, traffic.bytes_out);
    let _ = writeln!(out, "without an answer  {:>12} {:>12}", "", grouped(traffic.timeouts));
    let _ = writeln!(out, "\nrefused  {}", listed(&status.refused, "nothing"));
    let stored = &status.stored;
    let peers = count(stored.peers, "peer");
    let hashes =
        if stored.hashes == 1 { "1 info-hash".to_owned() } else { format!("{} info-hashes", stored.hashes) };
    let (used, limit) = (bytes(stored.bytes as u64), bytes(stored.limit_bytes as u64));
    let items = count(stored.items, "item");
    let _ = writeln!(out, "stored   {peers} of {hashes}, {items}, {used} of {limit}");
    let _ = writeln!(out, "limits   {}", limits(status));
    for search in &status.searches {
        let _ = writeln!(out, "search   {}", search_words(search));
    }
    for entry in &status.bootstrap {
        let router = if entry.router { ", router" } else { "" };
        let _ = writeln!(out, "start    {}: {}{router}", visible(&entry.address), visible(&entry.state));
    }
    out
}

fn limits(status: &Status) -> String {
    let limits = &status.limits;
    let all = limits.queries.map_or("no limit in all".to_owned(), |n| format!("{n} in all"));
    let rate = limits.answer_bytes.map_or(String::new(), |n| format!("; answers {}/s", bytes(n)));
    format!(
        "{} queries/s an address, {} a network, {all}{rate}",
        limits.queries_per_address, limits.queries_per_network
    )
}

fn search_words(search: &Search) -> String {
    let bits = search.best_bits.map_or("nobody yet".to_owned(), |bits| format!("{bits} bits close"));
    format!(
        "{} {}: {:.1} s, {} asked, {} answered, {bits}",
        visible(&search.kind),
        visible(&search.target),
        search.elapsed_s,
        search.asked,
        search.answered
    )
}

fn listed(counts: &BTreeMap<String, u64>, none: &str) -> String {
    let some = counts.iter().filter(|(_, n)| **n > 0);
    let parts: Vec<_> =
        some.map(|(name, n)| format!("{} {}", grouped(*n), visible(&name.replace('_', " ")))).collect();
    if parts.is_empty() { none.to_owned() } else { parts.join(", ") }
}

fn time(seconds_: f64) -> String {
    Duration::try_from_secs_f64(seconds_).map(seconds).unwrap_or_default()
}

/// `1234567` as `1 234 567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_what_is_in_a_bucket() {
        let bucket = |capacity, good, questionable, bad| {
            bar(&Bucket { capacity, good, questionable, bad, ..Bucket::default() })
        };
        assert_eq!(bucket(8, 4, 2, 1), "####??x.");
        assert_eq!(bucket(128, 64, 0, 1), format!("{}x{}", "#".repeat(16), ".".repeat(15)));
        assert_eq!(bucket(8, 8, 3, 3), "########");
        assert_eq!(bucket(0, 0, 0, 0), "");
    }

    #[test]
    fn a_server_cannot_move_the_cursor() {
        let evil = "\x1b[2J\u{202e}".to_owned();
        let mut status = Status { id: evil.clone(), version: evil.clone(), ..Status::default() };
        status.health.words = evil.clone();
        let (network_size, network_size_error) = (Some(5.0), Some(0.1));
        let external_address = Some(evil.clone());
        let mut family = Family { network_size, network_size_error, external_address, ..Family::default() };
        family.name = evil.clone();
        family.buckets.push(Bucket::default());
        status.families.push(family);
        status.refused.insert(evil.clone(), 1);
        status.traffic.queries_out.insert(evil, 1);
        for text in [state(&status), dump(&status)] {
            assert!(!text.contains(['\x1b', '\u{202e}']), "{text:?}");
        }
    }

    #[test]
    fn numbers_are_grouped() {
        let all = [0, 12, 123, 1234, 1_234_567].map(grouped);
        assert_eq!(all, ["0", "12", "123", "1 234", "1 234 567"]);
    }
}
