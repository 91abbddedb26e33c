//! Values of single flags: sizes, rates, times, addresses, as people write them.
//!
//! Owns their grammar and the sentence for what is none. Must not know which flag they belong to.

use std::time::Duration;

use super::progress::bytes;
use crate::driver::chunks::MIN_MEMORY;
use crate::wire::entry::EntryPoint;
use crate::wire::magnet::HostPort;

/// `HOST:PORT`.
pub fn host_port(text: &str) -> Result<HostPort, String> {
    text.parse::<HostPort>().map_err(|e| e.to_string())
}

/// `HOST:PORT`, or the name of SRV records.
pub fn entry_point(text: &str) -> Result<EntryPoint, String> {
    text.parse::<EntryPoint>().map_err(|e| e.to_string())
}

/// Bytes with a 1024-based suffix: `500`, `64k`, `1.5M`, `2GiB`.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size such as 500, 64k, 1.5M or 2G");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    // Twelve decimals are below one byte even of a terabyte.
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || fraction.len() > 12 {
        return Err(wrong());
    }
    let whole = whole.parse::<u64>().map_err(|_| wrong())?.checked_mul(1 << shift).ok_or_else(wrong)?;
    let scale = 10u128.pow(fraction.len() as u32);
    let part = fraction.parse::<u128>().unwrap_or(0) * (1u128 << shift) / scale;
    whole.checked_add(part as u64).ok_or_else(wrong)
}

/// Like [`size`], a second; 0 is no rate, because nothing would ever move.
pub fn rate(text: &str) -> Result<u64, String> {
    let text = text.strip_suffix("/s").unwrap_or(text);
    match size(text)? {
        0 => Err("a rate of 0 would never move anything; leave the option out for no limit".to_owned()),
        rate => Ok(rate),
    }
}

/// A size that a transfer can do with.
pub fn memory(text: &str) -> Result<u64, String> {
    match size(text)? {
        size if size < MIN_MEMORY => Err(format!("a transfer needs {} at least", bytes(MIN_MEMORY))),
        size => Ok(size),
    }
}

/// `60`, `1.5`, `60s`, `10m`, `2h`, `1d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time such as 60, 60s, 10m or 2h");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(wrong()),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(wrong());
    }
    let seconds = digits.parse::<f64>().map_err(|_| wrong())? * unit;
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// A number of times.
pub fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse::<f64>().ok().filter(|r| r.is_finite() && *r >= 0.0);
    ratio.ok_or_else(|| format!("`{text}` is not a ratio such as 1 or 1.5"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact() {
        assert_eq!(size("500"), Ok(500));
        assert_eq!(size("64k"), Ok(65_536));
        assert_eq!(size("1.5M"), Ok(1_572_864));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        assert_eq!(rate("0.5k/s"), Ok(512));
        for wrong in ["", "k", "-1", "1x", "1e3", "99999999999999999999", "99999999T", ".5", "+1"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert!(rate("0").is_err());
        assert_eq!((memory("12M"), memory("1G")), (Ok(12 << 20), Ok(1 << 30)));
        assert_eq!(memory("11M"), Err("a transfer needs 12.0 MiB at least".to_owned()));
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("60"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "s", "-1", "1w", "inf", "1e99"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
