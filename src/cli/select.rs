//! Which files to fetch, and in what order, as a person types it or a link says it.
//!
//! Owns the flags and what they come to. Must not know the files: a bare link has none yet.

use clap::Args;

use super::error::{CliError, Code};
use super::target::Target;
use crate::client::{Choice, Pattern, Sequence, Sink};

/// Which files, and in what order.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Selection")]
pub struct SelectArgs {
    /// Fetch only these files: numbers as `info` lists them (1,3-5), or globs (`*.iso`, `docs/**`); repeatable
    #[arg(long, value_name = "FILES")]
    pub select_file: Vec<String>,
    /// Fetch these files before the others; written like --select-file
    #[arg(long, value_name = "FILES")]
    pub priority_high: Vec<String>,
    /// Fetch from the first byte to the last, so that it can be read while it comes
    #[arg(long)]
    pub sequential: bool,
}

/// What was asked for; a link's own selection counts where nothing was typed.
pub fn choice(args: &SelectArgs, target: &Target) -> Result<Choice, CliError> {
    let mut files = patterns("--select-file", &args.select_file)?;
    if let (true, Some(magnet)) = (files.is_empty(), target.link()) {
        files = magnet.select.iter().cloned().map(Pattern::Indices).collect();
    }
    let first = patterns("--priority-high", &args.priority_high)?;
    let sequence = if args.sequential { Sequence::InOrder } else { Sequence::Rarest };
    Ok(Choice { files, first, sequence })
}

fn patterns(flag: &str, given: &[String]) -> Result<Vec<Pattern>, CliError> {
    let read = |text: &str| {
        Pattern::parse(text.trim()).map_err(|error| {
            let error = CliError::from(error);
            CliError { message: format!("{flag}: {}", error.message), ..error }
        })
    };
    given.iter().flat_map(|list| split(list)).map(read).collect()
}

/// Cuts at commas, but not at those inside a glob's braces.
fn split(list: &str) -> Vec<&str> {
    let (mut parts, mut begin, mut depth) = (Vec::new(), 0, 0usize);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&list[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[begin..]);
    parts
}

/// `-o -` and what does not go with it.
pub fn refuse_with_stdout(json: bool, overwrite: bool) -> Result<(), CliError> {
    let flag = match (json, overwrite) {
        (true, _) => "--json",
        (_, true) => "--overwrite",
        _ => return Ok(()),
    };
    let message =
        format!("{flag} does not go with --output -: stdout is the file, and nothing else is written");
    Err(CliError::new(Code::BadOption, message)
        .hint(format!("leave {flag} out, or give a name instead of `-`")))
}

/// stdout without a buffer that would hold a line back.
pub fn stdout() -> Result<Sink, CliError> {
    use std::os::fd::AsFd as _;
    let out = std::io::stdout().as_fd().try_clone_to_owned();
    let out = out.map_err(|e| CliError::new(Code::Unknown, format!("stdout: {e}")))?;
    Ok(Sink::new(std::fs::File::from(out)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_cut_at_its_commas() {
        assert_eq!(split("1,3-5,*.iso"), ["1", "3-5", "*.iso"]);
        assert_eq!(split("*.{txt,md},7"), ["*.{txt,md}", "7"]);
        assert_eq!(split("a,"), ["a", ""]);
    }

    #[test]
    fn what_is_typed_wins_over_the_link() {
        let link = "magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567&so=0,2-18446744073709551615";
        let target = Target::resolve(link.as_ref(), "/".as_ref()).unwrap();
        let choice = |select: &[&str]| {
            let select_file = select.iter().map(|s| (*s).to_owned()).collect();
            super::choice(&SelectArgs { select_file, ..SelectArgs::default() }, &target)
        };
        assert!(matches!(choice(&[]).unwrap().files[..], [Pattern::Indices(_), Pattern::Indices(_)]));
        let link = format!("magnet:?xs=urn:btpk:{}&so=0,2", "ab".repeat(32));
        let pointer = Target::resolve(link.as_ref(), "/".as_ref()).unwrap();
        let files = super::choice(&SelectArgs::default(), &pointer).unwrap().files;
        assert!(matches!(files[..], [Pattern::Indices(_), Pattern::Indices(_)]));
        assert!(matches!(choice(&["1"]).unwrap().files[..], [Pattern::Numbers(_)]));
        let error = choice(&["1,"]).unwrap_err();
        assert!(error.code == Code::BadOption && error.message.starts_with("--select-file: "), "{error}");
    }
}
