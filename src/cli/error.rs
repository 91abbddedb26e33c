//! Exit codes and the words of an error: a sentence that names the object, its cause, a hint.
//!
//! Owns the table of codes and which failure of the library means which. Must not print.

use std::fmt;

use super::text::visible;
use crate::client::{ChoiceError, StartError, TransferError};
use crate::driver::create::CreateError;
use crate::driver::listen::ListenError;
use crate::driver::storage::Present;

/// Exit codes; the meanings are aria2's where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Everything was done.
    Done = 0,
    /// Nothing below fits.
    Unknown = 1,
    /// Nothing arrived for too long.
    Timeout = 2,
    /// No peer, or no metadata.
    NotFound = 3,
    /// The disk is full.
    DiskFull = 9,
    /// What stands at the target is not ours.
    TargetExists = 13,
    /// Not a magnet link, info-hash or torrent.
    BadTarget = 27,
    /// A bad option.
    BadOption = 28,
    /// The bytes are not what they should be.
    Checksum = 32,
    /// SIGHUP: the terminal was closed.
    HungUp = 129,
    /// Whoever read stdout has gone, as a shell says it of SIGPIPE.
    ReaderGone = 141,
    /// SIGINT.
    Interrupted = 130,
    /// SIGTERM.
    Terminated = 143,
}

/// What a hint says of runs that can be continued.
pub const CONTINUES: &str = "it continues where it stopped";

/// What ends a command before its work is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliError {
    /// The exit code.
    pub code: Code,
    /// A sentence that names the object, with its cause.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl CliError {
    /// An error without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The same with a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Nothing more can be written to stdout.
    pub fn of_stdout(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::new(Code::ReaderGone, "nobody reads stdout");
        }
        Self::new(Code::Unknown, format!("stdout: {error}"))
    }

    /// The same, of a run that writes a file to stdout and keeps nothing of it.
    pub fn of_a_stream(mut self) -> Self {
        let anew = "it begins anew, because `-o -` keeps nothing";
        self.hint = self.hint.map(|hint| hint.replace(CONTINUES, anew));
        self
    }
}

impl fmt::Display for CliError {
    /// The message, and after an empty line the hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever stops a run on purpose need not read that it failed.
        let stopped = matches!(self.code, Code::HungUp | Code::Interrupted | Code::Terminated);
        // What was typed or pasted is shown, not obeyed.
        let lines: Vec<String> = self.message.lines().map(visible).collect();
        write!(f, "{}{}", if stopped { "" } else { "error: " }, lines.join("\n"))?;
        if let Some(hint) = &self.hint {
            write!(f, "\n\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl From<TransferError> for CliError {
    fn from(error: TransferError) -> Self {
        let message = error.to_string();
        match error {
            TransferError::TargetExists { ref what, .. } if !Present::is_a_file(what) => {
                Self::new(Code::TargetExists, message)
                    .hint("move away what stands there, or choose another place with --dir or --output")
            }
            TransferError::TargetExists { .. } => Self::new(Code::TargetExists, message)
                .hint("choose another place with --dir or --output, or give --overwrite to write over it"),
            TransferError::Disk { full: true, .. } => Self::new(Code::DiskFull, message)
                .hint("make room and run the same command again: it continues where it stopped"),
            TransferError::Disk { .. } => Self::new(Code::Unknown, message)
                .hint("check that the folder exists and may be written, or choose another with --dir"),
            TransferError::Output { full: true, .. } => Self::new(Code::DiskFull, message).hint(
                "make room there, or fetch to a folder with --dir: that waits for room, and can be continued",
            ),
            TransferError::Output { .. } => Self::new(Code::Unknown, message),
            TransferError::Choice(error) => error.into(),
            // Quiet: it is how `| head` ends things.
            TransferError::ReaderGone => Self::new(Code::ReaderGone, message),
            TransferError::Metadata(_) => Self::new(Code::BadTarget, message)
                .hint("the torrent itself is made like this; another torrent of the same content may do"),
        }
    }
}

impl From<ChoiceError> for CliError {
    fn from(error: ChoiceError) -> Self {
        let hint = match &error {
            ChoiceError::Pattern(..) => {
                "give numbers as `dhtget info` lists them (1,3-5), or a glob (`*.iso`, `docs/**`)"
            }
            ChoiceError::NoSuchNumber { .. }
            | ChoiceError::NoFile { .. }
            | ChoiceError::NoMatch(_)
            | ChoiceError::Nothing(_) => "`dhtget info TARGET` lists the files with their numbers",
            ChoiceError::NotOne(_) => "choose one with --select-file N; `dhtget info TARGET` lists them",
        };
        Self::new(Code::BadOption, error.to_string()).hint(hint)
    }
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        let hint = match &error {
            StartError::Listen(ListenError::Unusable { .. }) => {
                "--listen takes an address of this machine, such as 0.0.0.0:6881"
            }
            StartError::Listen(_) => {
                "choose another port with --listen ADDR:PORT, port 0 for any free one, or leave --listen out"
            }
            StartError::ZeroLimit(_) => "leave --limit-rate or --limit-upload out for no limit",
            StartError::System(_) => "the system refuses sockets or randomness; `dhtget -vv` says more",
        };
        Self::new(Code::Unknown, error.to_string()).hint(hint)
    }
}

impl From<CreateError> for CliError {
    fn from(error: CreateError) -> Self {
        let hint = match &error {
            CreateError::Read { .. } => "check the path and whether you may read it",
            CreateError::Kind(_) | CreateError::Empty(_) => "share a file or a folder with at least one byte",
            CreateError::NoName(_) => "share a folder inside it",
            CreateError::Name { .. } => "rename it, or move it out of what is shared",
            CreateError::TooMuch { .. } => "share its parts one by one, each as a PATH of its own",
            CreateError::Changed(_) => "wait until nobody writes to it, then share it again",
            CreateError::Cancelled | CreateError::Metainfo(_) => "run the command again",
        };
        Self::new(Code::Unknown, error.to_string()).hint(hint)
    }
}

/// clap's report in the style of the house.
pub fn of_clap(error: &clap::Error, command: &str) -> CliError {
    let text = error.to_string();
    let body = text.split("\n\nUsage:").next().unwrap_or(&text);
    let body = body.split("\n\nFor more information").next().unwrap_or(body);
    let body = body.trim().strip_prefix("error: ").unwrap_or(body.trim());
    let message = if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        "nothing to do: no TARGET and no command was given"
    } else {
        body
    };
    let help =
        if command.is_empty() { "dhtget --help".to_owned() } else { format!("dhtget {command} --help") };
    CliError::new(Code::BadOption, message).hint(format!("`{help}` lists what is understood"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_stands_after_an_empty_line() {
        let error = CliError::new(Code::BadTarget, "x: not a torrent").hint("look again");
        assert_eq!(error.to_string(), "error: x: not a torrent\n\nhint: look again");
    }

    #[test]
    fn transfer_errors_have_their_codes() {
        let disk = |full| TransferError::Disk { path: "/p".into(), cause: "c".into(), full };
        let exists = TransferError::TargetExists { path: "/p".into(), what: "a folder".into() };
        assert_eq!(CliError::from(disk(true)).code, Code::DiskFull);
        assert_eq!(CliError::from(disk(false)).code, Code::Unknown);
        assert_eq!(CliError::from(exists).code, Code::TargetExists);
        let gone = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(CliError::of_stdout(&gone).code, Code::ReaderGone);
        assert_eq!(CliError::of_stdout(&full).code, Code::Unknown);
        let output = |full| TransferError::Output { cause: "c".into(), full };
        assert_eq!(CliError::from(output(true)).code, Code::DiskFull);
        assert_eq!(CliError::from(output(false)).code, Code::Unknown);
    }
}
