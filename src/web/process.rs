//! What the process costs, as the system counts it. Must not know what it does.

use std::fs;

/// Memory of this process that is in RAM, where the system tells.
pub fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// CPU time of this process so far, where the system tells.
pub fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; fields are counted from behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok());
    let all = ticks.next()? + ticks.next()?;
    Some(all as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_tells_what_we_cost() {
        assert!(super::resident_bytes().unwrap() > 1 << 20);
        assert!(super::cpu_seconds().unwrap() >= 0.0);
    }
}
