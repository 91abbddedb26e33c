//! Puts a run into the private network that was chosen.
//!
//! Owns the words for what is wrong with it. Must not open a socket or print.

use super::args::ChoiceArgs;
use super::choose;
use crate::cli::args::NetworkArgs;
use crate::cli::error::{CliError, Code};
use crate::cli::plan::Env;
use crate::client::ClientConfig;
use crate::network::PrivateNetwork;

/// The private network that was chosen, if one was.
pub fn chosen(args: &ChoiceArgs, env: &Env) -> Result<Option<PrivateNetwork>, CliError> {
    Ok(choose::choose(args.network.as_deref(), env)?.map(|chosen| chosen.network))
}

/// Puts a run into a private network.
pub fn enter(config: &mut ClientConfig, network: PrivateNetwork, args: &NetworkArgs) -> Result<(), CliError> {
    config.enter(network, args.lan).map_err(|error| {
        CliError::new(Code::BadOption, format!("`allow` of the network: {error}"))
            .hint("mend the network's file")
    })
}
