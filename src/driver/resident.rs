//! Gives the code that starting took back to the system.
//!
//! Owns one advice to the kernel. Must not know what the process does.
//!
//! A node that answers queries for months executes a few hundred kilobytes of a binary of four megabytes; the rest
//! was mapped by reading options, opening sockets and saving state, and stays resident until the system is
//! short of memory. Let go of, what is still in use is mapped again by the next call into it, page fault by
//! page fault, from the page cache.
#![allow(unsafe_code, reason = "the standard library has no madvise; the argument is at the call")]

/// Unmaps the pages of code in this process, of the binary and its libraries, until they are executed again.
/// Returns how many bytes of code were resident. Where the system has no such advice, nothing happens.
///
/// Only mappings that are executable, not writable, backed by a file and without a page of their own (copied on
/// write, as a debugger's breakpoint makes) are touched.
#[cfg(target_os = "linux")]
pub fn give_back_code() -> usize {
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else { return 0 };
    let mut resident = 0;
    for mapping in code(&maps) {
        let start = std::ptr::without_provenance_mut(mapping.start);
        // SAFETY: no Rust object lives in these pages: they are a private, read-only view of a file without a page of
        // its own, so what is dropped here is read from that file again, the same bytes, when it is
        // next executed or read. A file that is executed cannot be written to, and one that is replaced keeps its
        // pages for as long as it is mapped.
        let advised =
            unsafe { rustix::mm::madvise(start, mapping.length, rustix::mm::Advice::LinuxDontNeed) };
        if advised.is_ok() {
            resident += mapping.resident;
        }
    }
    resident
}

/// As on Linux, where there is something to do.
#[cfg(not(target_os = "linux"))]
pub fn give_back_code() -> usize {
    0
}

/// One mapping of code, in bytes.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    length: usize,
    resident: usize,
}

/// The mappings of unchanged code in the text of `smaps` (proc(5)).
fn code(maps: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut current: Option<Mapping> = None;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        let value = words.next();
        let kilobytes = || value.and_then(|v| v.parse::<usize>().ok()).unwrap_or(usize::MAX);
        match first {
            "Rss:" => current.iter_mut().for_each(|m| m.resident = kilobytes().saturating_mul(1024)),
            "Anonymous:" => found.extend(current.take().filter(|_| kilobytes() == 0)),
            key if key.ends_with(':') => {}
            range => {
                // Address range, permissions, offset, device, inode, path.
                let is_code = value == Some("r-xp") && words.nth(3).is_some_and(|path| path.starts_with('/'));
                current = span(range).filter(|_| is_code);
            }
        }
    }
    found
}

fn span(range: &str) -> Option<Mapping> {
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some(Mapping { start, length: end.checked_sub(start)?, resident: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unchanged_code_of_files_is_let_go() {
        let smaps = "\
55d0-55d4 r-xp 00000000 00:1d 12 /usr/bin/dhtget\nSize: 16 kB\nRss: 8 kB\nAnonymous: 0 kB\nVmFlags: rd ex\n\
55d4-55d8 r-xp 00000000 00:1d 12 /usr/bin/patched\nRss: 8 kB\nAnonymous: 4 kB\n\
55d8-55dc r--p 00000000 00:1d 12 /usr/bin/dhtget\nRss: 8 kB\nAnonymous: 0 kB\n\
55dc-55e0 r-xp 00000000 00:00 0 [vdso]\nRss: 8 kB\nAnonymous: 0 kB\n\
55e0-55e4 r-xp 00000000 00:00 0\nRss: 8 kB\nAnonymous: 0 kB\n";
        assert_eq!(code(smaps), [Mapping { start: 0x55d0, length: 4, resident: 8192 }]);
    }

    /// `.ci/run` runs this one under valgrind too.
    #[cfg(target_os = "linux")]
    #[test]
    fn code_runs_on_after_it_was_given_back() {
        let answer = || "7 11 13".split(' ').map(|n| n.parse::<u64>().unwrap()).product::<u64>();
        let busy = std::thread::spawn(move || (0..200).map(|_| answer()).sum::<u64>());
        for _ in 0..20 {
            assert!(give_back_code() > 0);
            assert_eq!(answer(), 1001);
        }
        assert_eq!(busy.join().unwrap(), 200_200);
        let resident = || {
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            code(&maps).iter().map(|m| m.resident).sum::<usize>()
        };
        // Other tests run beside this one, and bring back what they execute.
        let shrinks = |_| {
            let before = resident();
            give_back_code();
            resident() < before
        };
        assert!((0..100).any(shrinks));
    }
}
