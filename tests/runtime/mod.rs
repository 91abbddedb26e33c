//! A runtime for one test, and a bound on its time.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail that way")]

use std::future::Future;
use std::time::Duration;

/// Runs a test on one thread; one that hangs fails.
pub fn run_within(patience: Duration, test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(patience, test).await.expect("a test hangs") });
}
