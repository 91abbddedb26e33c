//! Rates of the last minutes, for the page's lines.
//!
//! Owns a ring of samples of a few counters. Must not know the clock: who samples keeps the pace.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::status::History;
use crate::dht::traffic::{Kind, Traffic};

/// Between two samples.
pub const STEP: Duration = Duration::from_secs(2);
/// Samples kept: five minutes, as many as a line on a page shows apart.
const SAMPLES: usize = 150;

/// The last samples, oldest first.
#[derive(Debug, Default)]
pub struct Ring {
    last: Option<Traffic>,
    rates: VecDeque<Rates>,
}

/// What came to pass in one step.
#[derive(Debug)]
struct Rates {
    queries_in: [u64; Kind::ALL.len()],
    queries_out: [u64; Kind::ALL.len()],
    bytes_in: u64,
    bytes_out: u64,
}

impl Ring {
    /// Takes the counters as they are now.
    pub fn sample(&mut self, now: &Traffic) {
        let Some(last) = self.last.replace(*now) else { return };
        let since = |now: &[u64; Kind::ALL.len()], last: &[u64; Kind::ALL.len()]| {
            std::array::from_fn(|at| now[at].saturating_sub(last[at]))
        };
        self.rates.push_back(Rates {
            queries_in: since(&now.queries_in, &last.queries_in),
            queries_out: since(&now.queries_out, &last.queries_out),
            bytes_in: now.bytes_in.saturating_sub(last.bytes_in),
            bytes_out: now.bytes_out.saturating_sub(last.bytes_out),
        });
        if self.rates.len() > SAMPLES {
            self.rates.pop_front();
        }
    }

    /// The lines; a kind of which there was nothing is left out.
    pub fn lines(&self) -> History {
        let by_kind = |of: &dyn Fn(&Rates) -> &[u64; Kind::ALL.len()]| {
            let line = |kind: Kind| self.rates.iter().map(|r| of(r)[kind as usize]).collect::<Vec<_>>();
            let lines = Kind::ALL.into_iter().map(|kind| (kind.name().to_owned(), line(kind)));
            lines.filter(|(_, line)| line.iter().any(|n| *n > 0)).collect::<BTreeMap<_, _>>()
        };
        History {
            step_s: STEP.as_secs(),
            samples: SAMPLES,
            queries_in: by_kind(&|r| &r.queries_in),
            queries_out: by_kind(&|r| &r.queries_out),
            bytes_in: self.rates.iter().map(|r| r.bytes_in).collect(),
            bytes_out: self.rates.iter().map(|r| r.bytes_out).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_hold_differences_and_no_more_than_fit() {
        let (mut ring, mut traffic) = (Ring::default(), Traffic::default());
        ring.sample(&traffic);
        assert!(ring.lines().bytes_in.is_empty());
        for n in 0..SAMPLES as u64 + 10 {
            traffic.on_query_in(Kind::Ping);
            traffic.on_receive(n as usize);
            ring.sample(&traffic);
        }
        let lines = ring.lines();
        assert_eq!(lines.queries_in.keys().collect::<Vec<_>>(), ["ping"]);
        assert_eq!(lines.queries_in["ping"], vec![1; SAMPLES]);
        assert_eq!((lines.bytes_in[0], lines.bytes_in.len()), (10, SAMPLES));
        assert!(lines.queries_out.is_empty());
    }
}
