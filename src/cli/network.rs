//! `dhtget network`: makes private networks, keeps those that were joined, and says how they fare.
//!
//! Owns the words for people. An invite and a key go to stdout where they were asked for, and nowhere else: not into events,
//! not into errors.

pub mod args;
mod check;
pub mod choose;
pub mod enter;

use std::ffi::OsStr;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use self::args::{CreateArgs, InviteArgs, JoinArgs, LeaveArgs, NetworkCommand, RotateArgs};
use self::choose::Chosen;
use super::error::{CliError, Code};
use super::json::{Event, NetworkEvent};
use super::lookup::printed;
use super::plan::Env;
use super::progress::count;
use super::report::Reporter;
use super::signals::Signals;
use crate::driver::clock;
use crate::driver::networks::{self, EXTENSION, Kept, Networks, ReadError};
use crate::driver::state::StateFolder;
use crate::network::file::{MAX_FILE, is_name};
use crate::network::{PrivateNetwork, date};
use crate::rng::Rng;

/// Members that an invite names: some of them will be alive for long enough.
const MEMBERS_NAMED: usize = 8;

/// Runs one of the commands.
pub async fn run(
    command: &NetworkCommand,
    env: &Env,
    reporter: &mut Reporter,
    signals: &mut Signals,
) -> Result<(), CliError> {
    match command {
        NetworkCommand::Create(args) => create(args, env, reporter),
        NetworkCommand::Join(args) => join(args, env, reporter),
        NetworkCommand::List(_) => list(env, reporter),
        NetworkCommand::Leave(args) => leave(args, env, reporter),
        NetworkCommand::Invite(args) => invite(args, env, reporter),
        NetworkCommand::Rotate(args) => rotate(args, env, reporter),
        NetworkCommand::Check(args) => check::run(&args.network, env, reporter, signals).await,
    }
}

fn entropy() -> Result<Rng, CliError> {
    let seed = clock::entropy_seed();
    seed.map(Rng::from_seed).map_err(|e| CliError::new(Code::Unknown, format!("no randomness: {e}")))
}

fn refused(error: &dyn std::fmt::Display, hint: &str) -> CliError {
    CliError::new(Code::BadOption, error.to_string()).hint(hint)
}

fn cannot_write(path: &Path, error: &std::io::Error) -> CliError {
    match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            CliError::new(Code::TargetExists, format!("{} is there already", path.display()))
                .hint("give another NAME or --output FILE; a network that is written over cannot be had back")
        }
        _ => CliError::new(Code::Unknown, format!("{} cannot be written: {error}", path.display()))
            .hint("choose a folder that you may write to with --output FILE"),
    }
}

fn create(args: &CreateArgs, env: &Env, reporter: &Reporter) -> Result<(), CliError> {
    let mut network = PrivateNetwork::new(&args.name, !args.open, &mut entropy()?)
        .map_err(|error| refused(&error, "such as `dhtget network create corp --bootstrap 10.0.0.5:6881`"))?;
    network.bootstrap = args.bootstrap.iter().map(ToString::to_string).collect();
    network.allow.clone_from(&args.allow);
    network.lan = args.lan;
    network.check().map_err(|error| {
        refused(&error, "name a machine that will run a node with --bootstrap HOST:PORT, or give --lan")
    })?;
    let file = format!("{}.{EXTENSION}", network.name);
    let path = env.cwd.join(args.output.as_ref().unwrap_or(&PathBuf::from(file)));
    networks::create(&path, &network).map_err(|error| cannot_write(&path, &error))?;
    let event = NetworkEvent::new(&network, Some(&path));
    reporter.tell(&Event::NetworkCreated(event));
    reporter.note(&format!("{} network `{}`: {}", kind(&network), network.name, path.display()));
    if network.is_keyed() {
        reporter.note("whoever has the file or this invite is a member: keep them as you keep a password");
    } else if network.allow.is_empty() {
        reporter.note("no --allow: a member that also knows the public network could join the two");
    }
    if network.bootstrap.len() == 1 {
        reporter.note("one bootstrap node alone must be up for newcomers to enter; two are better");
    }
    printed(reporter.data(&network.to_invite()))
}

/// What a network is called by its kind.
fn kind(network: &PrivateNetwork) -> &'static str {
    if network.is_keyed() { "keyed" } else { "open" }
}

fn place(env: &Env) -> Result<Networks, CliError> {
    choose::joined(env).ok_or_else(|| {
        CliError::new(
            Code::Unknown,
            "this user has no folder for configuration, so that no network can be kept",
        )
        .hint("set HOME or XDG_CONFIG_HOME, or give the file with --network NAME.network each time")
    })
}

fn join(args: &JoinArgs, env: &Env, reporter: &Reporter) -> Result<(), CliError> {
    let mut network = if args.invite == "-" {
        let mut bytes = Vec::new();
        let stdin = std::io::stdin().lock();
        stdin
            .take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| refused(&format!("stdin: {e}"), "pipe it in"))?;
        networks::parse(&bytes).map_err(|error| choose::cannot_read(Path::new("/dev/fd/0"), &error))?
    } else {
        choose::find(&args.invite, env)?.network
    };
    if let Some(name) = &args.name {
        network.name.clone_from(name);
        network.check().map_err(|error| refused(&error, "choose another --name"))?;
    }
    let networks = place(env)?;
    let path = networks.path_of(&network.name);
    let name = &network.name;
    let (message, hint) = match networks.keep(&network, args.force) {
        Ok(Kept::Yes) => (String::new(), ""),
        Ok(Kept::Another) => (
            format!("another network called `{name}` was joined before"),
            "keep this one under another name with --name, or `dhtget network leave` the other",
        ),
        Ok(Kept::Older) => (
            format!("`{name}` was joined with a later key than this one"),
            "ask for a new invite; --force goes back to the old key all the same",
        ),
        Ok(Kept::Unrelated) => (
            format!("`{name}` was joined with another key, and this one says nothing of it"),
            "after a change without a grace period, and if you trust whoever gave you this, give --force",
        ),
        Err(ReadError::Io(error)) => return Err(cannot_write(&path, &error)),
        Err(error) => return Err(choose::cannot_read(&path, &error)),
    };
    if !message.is_empty() {
        return Err(CliError::new(Code::TargetExists, message).hint(hint));
    }
    reporter.tell(&Event::NetworkJoined(NetworkEvent::new(&network, Some(&path))));
    reporter.note(&format!(
        "joined the {} network `{name}`: use it with `--network {name}`, or for the whole machine with DHTGET_NETWORK={name}",
        kind(&network),
        name = network.name
    ));
    Ok(())
}

fn list(env: &Env, reporter: &Reporter) -> Result<(), CliError> {
    let networks = place(env)?;
    let listed = networks.list().map_err(|e| CliError::new(Code::Unknown, format!("the networks: {e}")))?;
    if listed.is_empty() {
        reporter.note("no network was joined: `dhtget network join INVITE` joins one");
    }
    for (path, read) in &listed {
        match read {
            Ok(read) => {
                let network = &read.network;
                let entries = match network.bootstrap.len() {
                    0 => "found in the local network".to_owned(),
                    number => count(number, "bootstrap node"),
                };
                let line = format!("{}\t{}\t{entries}\t{}", network.name, kind(network), path.display());
                printed(reporter.data(&line))?;
                printed(reporter.event(&Event::Network(NetworkEvent::new(network, Some(path)))))?;
            }
            Err(error) => tracing::warn!("{} is damaged: {error}", path.display()),
        }
    }
    Ok(())
}

fn leave(args: &LeaveArgs, env: &Env, reporter: &Reporter) -> Result<(), CliError> {
    if !is_name(&args.name) {
        return Err(refused(
            &"what was given is not the name of a network that was joined",
            "`dhtget network list` shows those that were",
        ));
    }
    let path = place(env)?.path_of(&args.name);
    let network = match networks::read(&path) {
        Err(ReadError::Io(_)) => {
            return Err(choose::find(OsStr::new(&args.name), env).err().unwrap_or_else(|| {
                refused(
                    &format!("no network `{}` was joined", args.name),
                    "`dhtget network list` shows those that were",
                )
            }));
        }
        // A damaged file can be left, too.
        read => read.ok().map(|read| read.network),
    };
    let failed = |path: &Path, error: &std::io::Error| {
        CliError::new(Code::Unknown, format!("{} cannot be removed: {error}", path.display()))
            .hint("remove it by hand; until then this machine stays a member")
    };
    std::fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
    // It may have been joined under a second name.
    let others = place(env)?.list().unwrap_or_default();
    let is_other = |network: &PrivateNetwork| {
        others.iter().filter_map(|(_, read)| read.as_ref().ok()).any(|read| read.network.id == network.id)
    };
    if let (Some(network), Some(state)) = (network.as_ref().filter(|n| !is_other(n)), &env.state_dir) {
        let folder = StateFolder::path(state, Some(&network.state_name()));
        if folder.exists() && StateFolder::open(state, Some(&network.state_name())).is_guest() {
            reporter.note(&format!(
                "left `{}`; a run of it goes on, and keeps what it learns in {}",
                args.name,
                folder.display()
            ));
            return Ok(());
        }
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(&folder, &error));
            }
            _ => {}
        }
    }
    reporter.note(&format!("left `{}`: its key and what its node had learned are gone from here", args.name));
    Ok(())
}

/// Members of a network that an earlier run on this machine has met, the most trusted first.
fn known_members(network: &PrivateNetwork, env: &Env) -> Vec<SocketAddr> {
    let Some(state) = &env.state_dir else { return Vec::new() };
    StateFolder::contacts(state, Some(&network.state_name()))
}

fn invite(args: &InviteArgs, env: &Env, reporter: &Reporter) -> Result<(), CliError> {
    let Chosen { mut network, .. } = choose::find(&args.network, env)?;
    let known = known_members(&network, env).into_iter().map(|addr| addr.to_string());
    let others = known.filter(|member| !network.bootstrap.contains(member));
    let mut members: Vec<String> = others.take(MEMBERS_NAMED).collect();
    let room = MEMBERS_NAMED - members.len();
    members.extend(network.members.iter().take(room).cloned());
    members.sort();
    members.dedup();
    let named = members.len();
    network.members = members;
    reporter.note(&format!(
        "an invite to `{}` with {} and {} met lately{}",
        network.name,
        count(network.bootstrap.len(), "bootstrap node"),
        count(named, "member"),
        if network.is_keyed() { "; it is as secret as a password" } else { "" }
    ));
    printed(reporter.data(&network.to_invite()))
}

fn rotate(args: &RotateArgs, env: &Env, reporter: &Reporter) -> Result<(), CliError> {
    let Chosen { mut network, path } = choose::find(&args.network, env)?;
    let Some(path) = path else {
        return Err(refused(&"an invite cannot be changed", "give the file or the name of the network"));
    };
    let now_s = clock::unix_time().as_secs();
    let until_s = now_s.saturating_add(args.grace.as_secs());
    let Some(keys) = &network.keys else {
        return Err(refused(
            &format!("`{}` is an open network: it has no key", network.name),
            "`dhtget network create` without --open makes a keyed one",
        ));
    };
    if let Some(old) = keys.old.as_ref().filter(|old| now_s < old.until_s)
        && !args.force
    {
        let message = format!(
            "`{}` is changing its key already, until {}: who has not got the key in between would be cut off",
            network.name,
            date::written(old.until_s)
        );
        return Err(refused(&message, "wait until then, or give --force"));
    }
    let at_once = args.grace.is_zero();
    network.rotate((!at_once).then_some(until_s), &mut entropy()?);
    networks::replace(&path, &network).map_err(|error| cannot_write(&path, &error))?;
    reporter.tell(&Event::NetworkRotated(NetworkEvent::new(&network, Some(&path))));
    let file = path.display();
    let members = match at_once {
        true => format!("Members are cut off until they have the new {file}"),
        false => format!(
            "Give every member the new {file} before {}; until then all speak with the old key, after that only with the new one",
            date::written(until_s)
        ),
    };
    let name = &network.name;
    reporter.note(&format!(
        "`{name}` has a new key. {members}. Running nodes take it up on SIGHUP or at their next start"
    ));
    Ok(())
}
