//! The settings of `dhtget node`, from flags and from a file, and as that file is written.
//!
//! Owns the keys, which are the flags' names, and who wins: a flag beats the file. Must not know what a
//! setting does.

use std::fmt::Display;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::flags::{LogFormat, NodeArgs, memory};
use crate::cli::args::{NetworkArgs, ReportArgs};
use crate::cli::error::{CliError, Code};
use crate::cli::network::args::ChoiceArgs;
use crate::cli::values::rate;
use crate::driver::networks::EXTENSION;
use crate::wire::entry::EntryPoint;

/// Bytes read of a configuration file: room for a long bootstrap list.
const MAX_FILE: u64 = 256 << 10;

/// Everything that can be set; what is not set is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// `--network`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<PathBuf>,
    /// `--lan`
    pub lan: bool,
    /// `--bootstrap`
    #[serde(with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub bootstrap: Vec<EntryPoint>,
    /// `--bootstrap-file`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap_file: Option<PathBuf>,
    /// `--no-dht`
    pub no_dht: bool,
    /// `--listen`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// `--state-dir`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// `--no-state`
    pub no_state: bool,
    /// `--limit-queries`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_queries: Option<u32>,
    /// `--limit-queries-per-address`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_queries_per_address: Option<u32>,
    /// `--limit-bytes`
    #[serde(deserialize_with = "a_rate", skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// `--memory`
    #[serde(deserialize_with = "a_memory", skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// `--status`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<SocketAddr>,
    /// `--metrics`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// `--allow-host`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_host: Vec<String>,
    /// `--json`
    pub json: bool,
    /// `--quiet`
    pub quiet: bool,
    /// `--verbose`, how often
    pub verbose: u8,
    /// `--log-format`
    pub log_format: LogFormat,
}

impl Settings {
    /// What was typed, on top of what the file says where one was named.
    pub fn resolve(args: &NodeArgs, cwd: &Path) -> Result<Self, CliError> {
        let file = match &args.config {
            Some(path) => Self::read(&cwd.join(path))?,
            None => Self::default(),
        };
        Ok(file.under(args, cwd))
    }

    /// Reads a file; paths in it are relative to its own folder.
    fn read(path: &Path) -> Result<Self, CliError> {
        let refuse = |why: String| {
            let words = format!("--config {}: {why}", path.display());
            CliError::new(Code::BadOption, words)
                .hint("`dhtget node --print-config` prints a file with every setting in force")
        };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|e| refuse(e.to_string()))?;
        // One more than allowed, so that a longer file is seen to be one.
        file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|e| refuse(e.to_string()))?;
        if text.len() as u64 > MAX_FILE {
            return Err(refuse(format!("larger than {MAX_FILE} bytes")));
        }
        let mut settings = Self::parse(&text).map_err(refuse)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        // The name of a network that was joined is no path.
        let is_path = |network: &&mut PathBuf| network.extension().is_some_and(|e| e == EXTENSION);
        settings.network.as_mut().filter(is_path).into_iter().for_each(|path| *path = folder.join(&*path));
        for path in [&mut settings.bootstrap_file, &mut settings.state_dir].into_iter().flatten() {
            *path = folder.join(&*path);
        }
        Ok(settings)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let settings: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let place = line.map(|n| format!("line {n}: ")).unwrap_or_default();
            format!("{place}{}", error.message().replace("unknown field", "unknown key"))
        })?;
        let own = !settings.bootstrap.is_empty() || settings.bootstrap_file.is_some();
        for (both, words) in [
            (settings.no_dht && own, "`no-dht` and a bootstrap list exclude each other"),
            (
                settings.no_state && settings.state_dir.is_some(),
                "`no-state` and `state-dir` exclude each other",
            ),
            (settings.quiet && settings.verbose > 0, "`quiet` and `verbose` exclude each other"),
        ] {
            if both {
                return Err(words.to_owned());
            }
        }
        let zero = [settings.limit_queries, settings.limit_queries_per_address].contains(&Some(0));
        if zero { Err("a limit of 0 queries would serve nobody".to_owned()) } else { Ok(settings) }
    }

    /// These settings where nothing else was typed.
    fn under(mut self, args: &NodeArgs, cwd: &Path) -> Self {
        let NetworkArgs { choice, lan, bootstrap, bootstrap_file, no_dht, listen, state_dir, no_state } =
            &args.network;
        if let Some(network) = &choice.network {
            self.network = Some(network.into());
        }
        self.lan |= lan;
        if !bootstrap.is_empty() || bootstrap_file.is_some() {
            self.bootstrap.clone_from(bootstrap);
            self.bootstrap_file = bootstrap_file.as_ref().map(|p| cwd.join(p));
            self.no_dht = false;
        }
        if *no_dht {
            (self.no_dht, self.bootstrap, self.bootstrap_file) = (true, Vec::new(), None);
        }
        if *no_state || state_dir.is_some() {
            (self.no_state, self.state_dir) = (*no_state, state_dir.as_ref().map(|p| cwd.join(p)));
        }
        let ReportArgs { json, quiet, verbose } = args.report;
        if quiet || verbose > 0 {
            (self.quiet, self.verbose) = (quiet, verbose);
        }
        let (limits, web) = (&args.limits, &args.web);
        self.json |= json;
        self.listen = listen.or(self.listen);
        self.limit_queries = limits.limit_queries.or(self.limit_queries);
        self.limit_queries_per_address = limits.limit_queries_per_address.or(self.limit_queries_per_address);
        self.limit_bytes = limits.limit_bytes.or(self.limit_bytes);
        self.memory = limits.memory.or(self.memory);
        self.status = web.status.or(self.status);
        self.metrics = web.metrics.or(self.metrics);
        if !web.allow_host.is_empty() {
            self.allow_host.clone_from(&web.allow_host);
        }
        self.log_format = args.log_format.unwrap_or(self.log_format);
        self
    }

    /// How to join, as every other command says it.
    pub fn network(&self) -> NetworkArgs {
        NetworkArgs {
            choice: ChoiceArgs { network: self.network.clone().map(PathBuf::into_os_string) },
            lan: self.lan,
            bootstrap: self.bootstrap.clone(),
            bootstrap_file: self.bootstrap_file.clone(),
            no_dht: self.no_dht,
            listen: self.listen,
            state_dir: self.state_dir.clone(),
            no_state: self.no_state,
        }
    }

    /// How to report.
    pub fn report(&self) -> ReportArgs {
        ReportArgs { json: self.json, quiet: self.quiet, verbose: self.verbose }
    }

    /// The file that says the same.
    pub fn to_toml(&self) -> Result<String, CliError> {
        toml::to_string(self).map_err(|e| {
            CliError::new(Code::BadOption, format!("the settings cannot be written as TOML: {e}"))
        })
    }
}

/// A number, or a text such as `64k`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "neither a whole number of bytes nor a text such as \"64k\"")]
enum Amount {
    Number(u64),
    Text(String),
}

fn a_memory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    amount(from, memory)
}

fn a_rate<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    amount(from, rate)
}

fn amount<'de, D: Deserializer<'de>>(
    from: D,
    parse: impl Fn(&str) -> Result<u64, String>,
) -> Result<Option<u64>, D::Error> {
    let text = match Amount::deserialize(from)? {
        Amount::Number(number) => number.to_string(),
        Amount::Text(text) => text,
    };
    parse(&text).map(Some).map_err(serde::de::Error::custom)
}

/// Values that are written as text.
mod texts {
    use super::{Deserialize as _, Deserializer, Display, FromStr, Serializer};

    pub(super) fn serialize<S: Serializer, T: Display>(values: &[T], out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(values.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        let texts = Vec::<String>::deserialize(from)?;
        let parse =
            |text: &String| text.parse().map_err(|e| serde::de::Error::custom(format!("`{text}`: {e}")));
        texts.iter().map(parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Command, CommandLine};
    use clap::{CommandFactory as _, Parser as _};

    fn flags(line: &str) -> NodeArgs {
        let words = ["dhtget", "node"].into_iter().chain(line.split_whitespace());
        match CommandLine::try_parse_from(words).unwrap().command {
            Command::Node(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    const ALL: &str = r#"
        network = "corp"
        lan = true
        bootstrap = ["router.example:6881", "[::1]:5", "_dhtget._udp.example.org"]
        bootstrap-file = "list"
        no-dht = false
        listen = "0.0.0.0:6881"
        state-dir = "state"
        no-state = false
        limit-queries = 1000
        limit-queries-per-address = 50
        limit-bytes = "1M"
        memory = 4194304
        status = "127.0.0.1:6880"
        metrics = "127.0.0.1:9100"
        allow-host = ["node.example"]
        json = true
        quiet = false
        verbose = 2
        log-format = "json"
    "#;

    #[test]
    fn every_flag_has_a_key_and_every_key_a_flag() {
        let line = CommandLine::command();
        let node = line.find_subcommand("node").unwrap();
        let meta = ["config", "print-config", "help", "version"];
        let mut of_flags: Vec<_> = node.get_arguments().filter_map(clap::Arg::get_long).collect();
        of_flags.retain(|long| !meta.contains(long));
        of_flags.sort_unstable();
        let keys: toml::Table = toml::from_str(ALL).unwrap();
        let mut keys: Vec<_> = keys.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(of_flags, keys);
        assert!(Settings::parse(ALL).is_ok());
    }

    #[test]
    fn what_is_printed_says_the_same() {
        let settings = Settings::parse(ALL).unwrap();
        assert_eq!((settings.limit_bytes, settings.memory), (Some(1 << 20), Some(4 << 20)));
        assert_eq!(Settings::parse(&settings.to_toml().unwrap()), Ok(settings));
        let none = Settings::default();
        assert_eq!(Settings::parse(&none.to_toml().unwrap()), Ok(none));
    }

    #[test]
    fn mistakes_are_named_with_file_line_and_key() {
        let dir = tempfile::tempdir().unwrap();
        for (text, words) in [
            ("json = true\nstatsu = \"127.0.0.1:1\"", &["line 2", "unknown key `statsu`"][..]),
            ("listen = 5", &["line 1"]),
            ("status = \"nowhere\"", &["line 1", "socket address"]),
            ("memory = \"much\"", &["line 1", "not a size"]),
            ("memory = \"1k\"", &["line 1", "64k is the least"]),
            ("memory = -5", &["line 1", "neither a whole number"]),
            ("memory = 1.5", &["line 1", "neither a whole number"]),
            ("limit-bytes = true", &["line 1", "neither a whole number"]),
            (&"#".repeat(300 << 10), &["larger than"]),
            ("limit-bytes = 0", &["line 1", "rate of 0"]),
            ("bootstrap = [\"a\"]", &["line 1", "`a`"]),
            ("bootstrap = [\"_a\"]", &["line 1", "`_a`", "_dhtget._udp.example.org"]),
            ("limit-queries = 0", &["serve nobody"]),
            ("no-state = true\nstate-dir = \"x\"", &["exclude each other"]),
            ("no-dht = true\nbootstrap = [\"a:1\"]", &["exclude each other"]),
            ("= 1", &["line 1"]),
        ] {
            std::fs::write(dir.path().join("node.toml"), text).unwrap();
            let error = Settings::resolve(&flags("--config node.toml"), dir.path()).unwrap_err();
            assert_eq!(error.code, Code::BadOption);
            assert!(error.message.contains("node.toml"), "{error}");
            assert!(words.iter().all(|w| error.message.contains(w)), "{text}: {error}");
        }
        assert!(Settings::resolve(&flags("--config absent"), dir.path()).is_err());
    }

    #[test]
    fn a_flag_beats_the_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/node.toml"), ALL).unwrap();
        let resolve = |line: &str| {
            Settings::resolve(&flags(&format!("--config etc/node.toml {line}")), dir.path()).unwrap()
        };
        let file = resolve("");
        assert_eq!(file.state_dir, Some(dir.path().join("etc/state")));
        assert_eq!(file.bootstrap_file, Some(dir.path().join("etc/list")));
        let typed = resolve(
            "--bootstrap 10.0.0.1:1 --state-dir s --limit-queries 5 --memory 1M --status --allow-host x -q",
        );
        assert_eq!((typed.bootstrap.len(), typed.bootstrap_file.as_ref()), (1, None));
        assert_eq!(typed.state_dir, Some(dir.path().join("s")));
        assert_eq!((typed.limit_queries, typed.memory), (Some(5), Some(1 << 20)));
        assert_eq!(typed.status, crate::web::DEFAULT_ADDRESS.parse().ok());
        assert_eq!((typed.allow_host, typed.quiet, typed.verbose), (vec!["x".to_owned()], true, 0));
        assert_eq!((typed.limit_bytes, typed.listen), (file.limit_bytes, file.listen));
        let alone = resolve("--no-dht --no-state");
        assert!(alone.no_dht && alone.bootstrap.is_empty() && alone.bootstrap_file.is_none());
        assert!(alone.no_state && alone.state_dir.is_none());
    }
}
