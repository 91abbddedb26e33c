//! From what was typed after `--network` to a network: a file, an invite, or the name of one that was joined.
//!
//! Owns the order in which these are tried and the words where none fits. What may be a key is never repeated.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::cli::error::{CliError, Code};
use crate::cli::plan::Env;
use crate::driver::networks::{self, EXTENSION, Networks, ReadError};
use crate::network::PrivateNetwork;
use crate::network::file::PUBLIC;
use crate::network::invite::{INVITE_PREFIX, is_like_invite};

/// Words longer than this may be a damaged key or invite, and are not repeated.
const MAX_SHOWN: usize = 40;

/// A network, and where its file is, if it has one.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// The network.
    pub network: PrivateNetwork,
    /// Its file; an invite has none.
    pub path: Option<PathBuf>,
}

/// What is typed where a network is chosen, or what the environment says; none for the public network.
pub fn choose(typed: Option<&OsStr>, env: &Env) -> Result<Option<Chosen>, CliError> {
    match typed.or(env.network.as_deref()) {
        None => Ok(None),
        Some(value) if value.is_empty() || value == PUBLIC => Ok(None),
        Some(value) => find(value, env).map(Some),
    }
}

/// The network that `value` means.
pub fn find(value: &OsStr, env: &Env) -> Result<Chosen, CliError> {
    let text = value.to_str().unwrap_or_default();
    if text.trim_start().starts_with(INVITE_PREFIX) {
        let network =
            PrivateNetwork::from_invite(text).map_err(|error| bad("the invite", &error.to_string()))?;
        return Ok(Chosen { network, path: None });
    }
    let path = env.cwd.join(value);
    let is_path = text.contains('/') || text.ends_with(&format!(".{EXTENSION}"));
    // What a machine lives in must not depend on the files of the folder that one stands in.
    if let Some(networks) = joined(env).filter(|_| !is_path)
        && networks.path_of(text).is_file()
    {
        return read(networks.path_of(text));
    }
    if path.is_file() || is_descriptor(&path) {
        return read(path);
    }
    Err(unknown(text, &path, env))
}

/// The networks that were joined, where this user has a place for them.
pub fn joined(env: &Env) -> Option<Networks> {
    env.config_dir.as_deref().map(Networks::below)
}

/// What `driver::conceal` puts in an invite's place, and pipes of a shell.
fn is_descriptor(path: &Path) -> bool {
    path.starts_with("/proc/self/fd") || path.starts_with("/dev/fd")
}

fn read(path: PathBuf) -> Result<Chosen, CliError> {
    let read = networks::read(&path).map_err(|error| cannot_read(&path, &error))?;
    if read.exposed && !is_descriptor(&path) {
        tracing::warn!(
            "{} holds the key of the network and can be read by others on this machine; `chmod 600` mends that",
            path.display()
        );
    }
    let path = if is_descriptor(&path) { None } else { Some(path) };
    Ok(Chosen { network: read.network, path })
}

/// Why a file gives no network.
pub fn cannot_read(path: &Path, error: &ReadError) -> CliError {
    match error {
        ReadError::Io(error) => CliError::new(Code::BadOption, format!("{}: {error}", path.display()))
            .hint("give the path of a file that you may read"),
        _ if is_descriptor(path) => bad("the invite", &error.to_string()),
        error => bad(&path.display().to_string(), &error.to_string()),
    }
}

fn bad(what: &str, why: &str) -> CliError {
    CliError::new(Code::BadOption, format!("{what} is no network that this version can use: {why}"))
        .hint("ask a member for the file or a new invite: `dhtget network invite NAME` prints one")
}

fn unknown(text: &str, path: &Path, env: &Env) -> CliError {
    if is_like_invite(text) || text.len() > MAX_SHOWN && !text.contains('/') {
        return bad("what was given", "it looks like a damaged invite");
    }
    if text.contains('/') || text.ends_with(&format!(".{EXTENSION}")) {
        return CliError::new(Code::BadOption, format!("there is no file {}", path.display())).hint(
            "`dhtget network create NAME` makes a network; `dhtget network list` shows those you have joined",
        );
    }
    let names = joined(env).and_then(|networks| networks.list().ok()).unwrap_or_default();
    let names: Vec<String> =
        names.iter().filter_map(|(path, _)| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    let known = match names.len() {
        0 => "none was joined yet: `dhtget network join INVITE` joins one".to_owned(),
        _ => format!("joined are: {}", names.join(", ")),
    };
    CliError::new(Code::BadOption, format!("no network `{text}` was joined, and no file has that name"))
        .hint(known)
}
