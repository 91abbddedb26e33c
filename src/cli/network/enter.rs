//! Puts a run into the private network that was chosen.
//!
//! Owns what such a network changes in a run's configuration. Must not open a socket or print.

use std::sync::Arc;

use super::args::ChoiceArgs;
use super::choose;
use crate::cli::args::NetworkArgs;
use crate::cli::error::{CliError, Code};
use crate::cli::plan::Env;
use crate::client::{ClientConfig, LanIdentity};
use crate::driver::clock;
use crate::network::PrivateNetwork;
use crate::wire::allow::AllowList;

/// The private network that was chosen, if one was.
pub fn chosen(args: &ChoiceArgs, env: &Env) -> Result<Option<PrivateNetwork>, CliError> {
    Ok(choose::choose(args.network.as_deref(), env)?.map(|chosen| chosen.network))
}

/// Puts a run into a private network.
pub fn enter(config: &mut ClientConfig, network: PrivateNetwork, args: &NetworkArgs) -> Result<(), CliError> {
    if !network.is_keyed() && network.allow.is_empty() {
        tracing::debug!("an open network without an allow-list is kept apart by its entry points alone");
    }
    config.allow = AllowList::parse(&network.allow).map_err(|error| {
        CliError::new(Code::BadOption, format!("`allow` of the network: {error}"))
            .hint("mend the network's file")
    })?;
    if !args.no_dht {
        // What was typed comes on top: a machine that just came up, say.
        config.bootstrap.splice(..0, network.bootstrap.iter().chain(&network.members).cloned());
    }
    config.private_network = true;
    // Announcing torrents to everybody near is not for a network that others shall not see.
    config.lsd = false;
    config.lan =
        (network.lan || args.lan).then(|| LanIdentity::new(network.lan_secret(clock::unix_time().as_secs())));
    config.network = Some(Arc::new(network));
    Ok(())
}
