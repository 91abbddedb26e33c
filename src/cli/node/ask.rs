//! `dhtget node status`: the figures of a running node, fetched from its status address.
//!
//! Owns one bounded HTTP request. HTTP/1.0, so that the answer ends where the connection does.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::words;
use crate::cli::error::{CliError, Code};
use crate::cli::lookup;
use crate::cli::report::Reporter;
use crate::cli::signals::Signals;
use crate::id::Id160;
use crate::web::status::Status;

/// A node that does not answer in this time is not there, or not itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer: a full table of both families takes about 300 kB.
const MAX_ANSWER: u64 = 4 << 20;

/// Prints the state of the node at `address`.
pub async fn run(
    address: SocketAddr,
    reporter: &mut Reporter,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let answer = tokio::select! {
        biased;
        stop = signals.next() => return Err(stop),
        answer = timeout(PATIENCE, fetch(address)) => answer,
    };
    let refuse = |why: String| {
        CliError::new(Code::NotFound, format!("no node tells its state at {address}: {why}")).hint(
            "start one with `dhtget node --status`, or give the address that its --status has: \
             `dhtget node status ADDR:PORT`",
        )
    };
    let body = match answer {
        Ok(Ok(body)) => body,
        Ok(Err(why)) => return Err(refuse(why)),
        Err(_) => return Err(refuse(format!("no answer within {} seconds", PATIENCE.as_secs()))),
    };
    let status: Status =
        serde_json::from_slice(&body).map_err(|e| refuse(format!("not a node's figures: {e}")))?;
    // Every key may be absent, so that versions differ in peace; a node without an id is none.
    if status.id.parse::<Id160>().is_err() {
        return Err(refuse("not a node's figures: they name no node id".to_owned()));
    }
    let text =
        if reporter.json() { String::from_utf8_lossy(&body).into_owned() } else { words::state(&status) };
    lookup::printed(reporter.raw(text.trim_end()))
}

async fn fetch(address: SocketAddr) -> Result<Vec<u8>, String> {
    let mut stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let request = format!("GET /status.json HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await.map_err(|e| e.to_string())?;
    body(&answer).map(<[u8]>::to_vec)
}

/// The body of an answer that says 200.
fn body(answer: &[u8]) -> Result<&[u8], String> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or("it does not speak HTTP")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let first = head.lines().next().unwrap_or_default();
    match first.split(' ').nth(1) {
        Some("200") if first.starts_with("HTTP/") => Ok(&answer[end + 4..]),
        Some("404") => Err("what listens there serves no status page (--metrics alone has none)".to_owned()),
        _ => Err(format!("it answers `{}`", crate::cli::text::visible(first))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_200_has_a_body() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\nx: y\r\n\r\n{}"), Ok(&b"{}"[..]));
        assert!(body(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap_err().contains("--metrics"));
        assert!(
            body(b"HTTP/1.1 421 Misdirected\x1b[2J\r\n\r\nx").unwrap_err().contains("421 Misdirected_[2J")
        );
        assert!(body(b"SSH-2.0-OpenSSH\r\n").is_err() && body(b"").is_err());
    }
}
