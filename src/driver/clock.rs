//! The only clock and the only source of real randomness.
//!
//! Everything else is handed an [`Instant`] and a seed.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::TryRng as _;
use rand::rngs::SysRng;

/// The monotonic clock; the one that tests of the runtime may pause.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Wall time since 1970, zero where the system's clock stands before that.
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The same in microseconds, as members of a private network stamp what they say.
pub fn unix_us() -> u64 {
    u64::try_from(unix_time().as_micros()).unwrap_or(u64::MAX)
}

/// Time since some fixed moment, with the time that the machine slept, which [`now`] leaves out on Linux.
pub fn with_sleep() -> Duration {
    #[cfg(target_os = "linux")]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos)
    }
    #[cfg(not(target_os = "linux"))]
    unix_time()
}

/// Processor time of the calling thread.
pub fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A seed from the operating system.
pub fn entropy_seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    SysRng.try_fill_bytes(&mut seed).map_err(io::Error::other)?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds_differ() {
        assert_ne!(super::entropy_seed().unwrap(), super::entropy_seed().unwrap());
    }
}
