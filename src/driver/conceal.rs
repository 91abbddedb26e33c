//! Keeps secrets of the command line out of the list of processes, which every user of a machine can read.
//!
//! An invite that was typed is moved into memory that only this process has a name for, and the program starts anew, under
//! the same process id, with that name in the invite's place. The moment before that cannot be hidden: whoever wants to be
//! sure pipes the invite in. Must not know what an invite holds.

use std::ffi::{OsStr, OsString};
use std::io;

/// Where what begins with `prefix` stands among the words, as a word or behind the `=` of a flag.
fn find<'a>(args: &'a [OsString], prefix: &str) -> Option<(usize, &'a str, &'a str)> {
    args.iter().enumerate().skip(1).find_map(|(at, arg)| {
        let arg = arg.to_str()?;
        let (flag, value) = match arg.split_once('=').filter(|(flag, _)| flag.starts_with("--")) {
            Some((flag, value)) => (&arg[..=flag.len()], value),
            None => ("", arg),
        };
        value.trim_start().starts_with(prefix).then_some((at, flag, value))
    })
}

/// Starts the program anew if one of its words begins with `prefix`; comes back if none does, or with an error.
#[cfg(target_os = "linux")]
pub fn words(args: &[OsString], prefix: &str) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::process::CommandExt as _;

    use rustix::fs::MemfdFlags;

    let Some((at, flag, value)) = find(args, prefix) else { return Ok(()) };
    let memory = rustix::fs::memfd_create("invite", MemfdFlags::empty())?;
    let mut bytes = value.as_bytes();
    while !bytes.is_empty() {
        bytes = &bytes[rustix::io::write(&memory, bytes)?..];
    }
    let mut args = args.to_vec();
    args[at] = format!("{flag}/proc/self/fd/{}", memory.as_raw_fd()).into();
    let program = std::env::current_exe()?;
    let mut command = std::process::Command::new(program);
    command.arg0(args.first().map_or(OsStr::new("dhtget"), OsString::as_os_str));
    // There is no return from success.
    Err(command.args(args.iter().skip(1)).exec())
}

/// Other systems offer nothing of the kind.
#[cfg(not(target_os = "linux"))]
pub fn words(_args: &[OsString], _prefix: &str) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invite_is_found_wherever_it_stands() {
        let line = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let found = |text: &str| find(&line(text), "inv.").map(|(at, flag, _)| (at, flag.to_owned()));
        assert_eq!(found("dhtget network join inv.x"), Some((3, String::new())));
        assert_eq!(found("dhtget node --network inv.x"), Some((3, String::new())));
        assert_eq!(found("dhtget node --network=inv.x"), Some((2, "--network=".to_owned())));
        assert_eq!(found("dhtget node --network corp.network"), None);
        assert_eq!(found("inv.x get a"), None);
    }
}
