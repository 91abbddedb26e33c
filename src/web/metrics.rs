//! The figures of a node as Prometheus text (exposition format 0.0.4).
//!
//! Owns metric names and the text's grammar. docs/OPERATING.md says what each metric means; a test holds
//! both together.

use std::fmt::Write as _;

use super::status::{Family, Status};

/// What `/metrics` is served as.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything under `/metrics`.
pub fn text(status: &Status) -> String {
    let mut out = Exposition::default();
    process(&mut out, status);
    table(&mut out, status);
    traffic(&mut out, status);
    stored(&mut out, status);
    out.text
}

fn process(out: &mut Exposition, status: &Status) {
    out.gauge("dhtget_build_info", "Version of the program and the node's id; always 1.");
    out.value(&[("version", &status.version), ("node_id", &status.id)], 1.0);
    out.gauge("dhtget_uptime_seconds", "Time since the node started.").value(&[], status.uptime_s);
    out.gauge("dhtget_joined", "Whether the own neighbourhood was looked up with success.");
    out.value(&[], f64::from(u8::from(status.health.joined)));
    if let Some(bytes) = status.resident_bytes {
        out.gauge("process_resident_memory_bytes", "Resident memory size in bytes.").value(&[], bytes as f64);
    }
    if let Some(seconds) = status.cpu_s {
        out.counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.");
        out.value(&[], seconds);
    }
    out.counter("dhtget_sleeps_total", "Times the machine was found to have slept.");
    out.value(&[], status.sleeps as f64);
    out.counter("dhtget_renewals_total", "Times the network changed so much that all is announced again.");
    out.value(&[], status.renewals as f64);
    out.gauge("dhtget_members_remembered", "Members of a private network that are remembered.");
    out.value(&[], status.remembered as f64);
    out.gauge("dhtget_members_lost", "Of these, members that were silent when last asked.");
    out.value(&[], status.lost as f64);
}

fn table(out: &mut Exposition, status: &Status) {
    out.gauge("dhtget_nodes", "Entries of the routing table by family and evidence (BEP 5).");
    for family in &status.families {
        let states = [("good", family.good), ("questionable", family.questionable), ("bad", family.bad)];
        for (state, count) in states {
            out.value(&[("family", &family.name), ("state", state)], count as f64);
        }
    }
    let each = |out: &mut Exposition, figure: &dyn Fn(&Family) -> Option<f64>| {
        for family in &status.families {
            if let Some(value) = figure(family) {
                out.value(&[("family", &family.name)], value);
            }
        }
    };
    out.gauge("dhtget_spares", "Verified nodes waiting to replace an entry.");
    each(out, &|f| Some(f.spares as f64));
    out.gauge("dhtget_buckets", "Buckets with somebody in them.");
    each(out, &|f| Some(f.buckets.len() as f64));
    if status.families.iter().any(|f| f.network_size.is_some()) {
        out.gauge("dhtget_network_size", "Estimated number of nodes in the network.");
        each(out, &|f| f.network_size);
        out.gauge("dhtget_network_size_error", "Relative standard error of that estimate.");
        each(out, &|f| f.network_size_error);
    }
    out.gauge("dhtget_external_votes", "Networks that have told us our own address (BEP 42).");
    each(out, &|f| Some(f.external_votes as f64));
    out.gauge(
        "dhtget_unverified",
        "Strangers waiting for the ping that decides whether they enter the table.",
    );
    out.value(&[], status.unverified as f64);
    out.gauge("dhtget_bootstrap", "Addresses to start from, by state.");
    for state in ["answered", "silent", "not asked", "unresolved", "unusable"] {
        let count = status.bootstrap.iter().filter(|b| b.state == state).count();
        out.value(&[("state", state)], count as f64);
    }
}

fn traffic(out: &mut Exposition, status: &Status) {
    let traffic = &status.traffic;
    out.gauge("dhtget_searches", "Searches under way.").value(&[], status.searches.len() as f64);
    out.gauge("dhtget_queries_in_flight", "Queries without an answer so far.");
    out.value(&[], status.in_flight as f64);
    out.gauge("dhtget_stall_seconds", "Silence after which an answer has become unlikely.");
    out.value(&[], status.stall_ms / 1e3);
    out.counter("dhtget_queries_total", "Queries by method, received and looked at (in) or sent (out).");
    for (direction, counts) in [("in", &traffic.queries_in), ("out", &traffic.queries_out)] {
        for (method, count) in counts {
            out.value(&[("direction", direction), ("method", method)], *count as f64);
        }
    }
    out.counter("dhtget_replies_total", "Answers that matched a query of ours (in) or that we sent (out).");
    out.value(&[("direction", "in")], traffic.replies_in as f64);
    out.value(&[("direction", "out")], traffic.replies_out as f64);
    out.counter("dhtget_errors_total", "Errors by code, in answer to a query of ours (in) or sent (out).");
    for (direction, counts) in [("in", &traffic.errors_in), ("out", &traffic.errors_out)] {
        for (code, count) in counts {
            out.value(&[("direction", direction), ("code", code)], *count as f64);
        }
    }
    out.counter("dhtget_timeouts_total", "Queries of ours that nobody answered.");
    out.value(&[], traffic.timeouts as f64);
    out.counter("dhtget_datagrams_total", "Datagrams by direction.");
    out.value(&[("direction", "in")], traffic.datagrams_in as f64);
    out.value(&[("direction", "out")], traffic.datagrams_out as f64);
    out.counter("dhtget_bytes_total", "Payload of datagrams in bytes, by direction.");
    out.value(&[("direction", "in")], traffic.bytes_in as f64);
    out.value(&[("direction", "out")], traffic.bytes_out as f64);
    out.counter("dhtget_refused_total", "What was not served, by reason.");
    for (reason, count) in &status.refused {
        out.value(&[("reason", reason)], *count as f64);
    }
}

fn stored(out: &mut Exposition, status: &Status) {
    let stored = &status.stored;
    out.gauge("dhtget_stored_hashes", "Info-hashes for which peers are stored.");
    out.value(&[], stored.hashes as f64);
    out.gauge("dhtget_stored_peers", "Announced peers that are stored.").value(&[], stored.peers as f64);
    out.gauge("dhtget_stored_items", "Items that are stored (BEP 44).").value(&[], stored.items as f64);
    out.gauge("dhtget_stored_bytes", "Memory that they take.").value(&[], stored.bytes as f64);
    out.gauge("dhtget_stored_limit_bytes", "Memory that they may take.");
    out.value(&[], stored.limit_bytes as f64);
}

/// The text as it grows: `# HELP`, `# TYPE`, then the samples of that metric.
#[derive(Debug, Default)]
struct Exposition {
    text: String,
    name: &'static str,
}

impl Exposition {
    fn gauge(&mut self, name: &'static str, help: &str) -> &mut Self {
        self.begin(name, help, "gauge")
    }

    fn counter(&mut self, name: &'static str, help: &str) -> &mut Self {
        self.begin(name, help, "counter")
    }

    fn begin(&mut self, name: &'static str, help: &str, kind: &str) -> &mut Self {
        self.name = name;
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self
    }

    fn value(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        self.text.push_str(self.name);
        for (at, (name, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let open = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{name}=\"{text}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::Report;
    use crate::driver::DhtStatus;

    fn sample() -> String {
        let mut report = Report::default();
        report.families[0].enabled = true;
        report.families[0].network_size = Some((12_345.0, 0.06));
        report.counters.traffic.on_error_out(203);
        text(&Status::new(&report, &DhtStatus::default(), 6881))
    }

    #[test]
    fn labels_and_help_are_escaped() {
        let mut out = Exposition::default();
        out.counter("a_total", "one\ntwo \\").value(&[("x", "q\"\\\n"), ("y", "")], 1.5).value(&[], 3e9);
        let expected = "# HELP a_total one\\ntwo \\\\\n# TYPE a_total counter\n\
             a_total{x=\"q\\\"\\\\\\n\",y=\"\"} 1.5\na_total 3000000000\n";
        assert_eq!(out.text, expected);
    }

    #[test]
    fn every_sample_belongs_to_a_metric_that_is_declared_once() {
        let text = sample();
        let (mut seen, mut current, mut kind) = (Vec::new(), String::new(), String::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                current = help.split(' ').next().unwrap().to_owned();
                assert!(!seen.contains(&current), "{current} twice");
                seen.push(current.clone());
            } else if let Some(declared) = line.strip_prefix("# TYPE ") {
                let (name, of) = declared.split_once(' ').unwrap();
                assert_eq!(name, current);
                assert_eq!(name.ends_with("_total"), of == "counter", "{name} is a {of}");
                kind = of.to_owned();
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                assert_eq!(series.split('{').next().unwrap(), current, "{line}");
                assert!(value.parse::<f64>().unwrap() >= 0.0 && !kind.is_empty(), "{line}");
            }
        }
        assert!(text.contains("dhtget_errors_total{direction=\"out\",code=\"203\"} 1\n"), "{text}");
        assert!(text.contains("dhtget_network_size{family=\"IPv4\"} 12345\n") && text.ends_with('\n'));
    }

    #[test]
    fn every_metric_is_explained_to_the_operator() {
        let page = include_str!("../../docs/OPERATING.md");
        for name in sample().lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()) {
            assert!(page.contains(&format!("| `{name}`")), "docs/OPERATING.md does not explain {name}");
        }
    }
}
