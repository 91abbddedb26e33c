//! Replays every file of `fuzz/corpus/` through the bodies of the fuzz targets.

use std::path::{Path, PathBuf};

use peak_alloc::PeakAlloc;

#[path = "../fuzz/targets.rs"]
mod targets;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Heap one case may need beside its own bytes: the tables of a swarm and a node, and room to spare.
const MAX_HEAP: usize = 2 << 20;
/// Heap for each byte of a case: parsed values cost more than their text, by a constant factor.
const MAX_HEAP_PER_BYTE: usize = 64;

fn cases(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = entries.map(|e| e.expect("a readable corpus folder").path()).collect();
    files.sort();
    files
}

/// One test for all, in one thread: the heap is shared, and its peak is what is measured.
#[test]
fn every_case_holds_twice_the_same_way_within_bounded_memory() {
    for (target, run) in targets::TARGETS {
        let files = cases(target);
        assert!(!files.is_empty(), "fuzz/corpus/{target} is empty");
        for file in files {
            let data = std::fs::read(&file).unwrap();
            // A panic names its case by this line, which is only shown then.
            println!("{}", file.display());
            let before = HEAP.current_usage();
            HEAP.reset_peak_usage();
            let fingerprint = run(&data);
            let used = HEAP.peak_usage().saturating_sub(before);
            println!("{used} of heap: {}", file.display());
            let allowed = MAX_HEAP + data.len() * MAX_HEAP_PER_BYTE;
            assert!(used <= allowed, "{}: {used} bytes of heap", file.display());
            assert_eq!(run(&data), fingerprint, "{}: a second run differs", file.display());
        }
    }
}
