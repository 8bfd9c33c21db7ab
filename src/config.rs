//! The configuration file of a daemon: TOML, every key checked, one sentence per mistake.

mod numbers;
pub(crate) mod reference;
mod secrets;

use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use pixii_core::emulation::{self, Rule};
use pixii_core::members::{Member, Members, check_name, check_written};
use pixii_core::node::Experiment;
use pixii_core::ring::{Ring, RingError};
use pixii_core::secret::{Secrets, Vault};
use pixii_core::types::{MAX_MEMBERS, NodeId};
use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

pub(crate) use secrets::SecretFiles;

/// Where a node listens unless it is reported otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7432";

/// What is logged unless the file says otherwise.
const DEFAULT_LOG: &str = "info";
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What is wrong with a configuration, in one sentence that begins with the file. Nothing was
/// started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// A daemon's configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name; it is one of `members`.
    pub name: String,
    /// Name of the cluster; nodes of other clusters are refused.
    pub cluster: String,
    /// The directory of its data. In the file it may be relative to the directory of the file,
    /// which [`Config::load`] resolves.
    pub data_dir: PathBuf,
    /// Where it listens, `host:port`; loopback, unless it has secrets or the network is trusted.
    pub listen: String,
    /// What its peers and clients have to prove, as [`Config::load`] read it; a running daemon
    /// heeds what is put there.
    pub secrets: Vault,
    pub(crate) secret_files: Option<SecretFiles>,
    /// Most connections from one address: clients, and handshakes in progress.
    pub max_connections_per_address: usize,
    /// R of requests that name none, 1 to N.
    pub r: u8,
    /// W of requests that name none, 1 to N.
    pub w: u8,
    /// True if only owners count, for requests that do not choose.
    pub strict: bool,
    /// Time between two rounds of gossip, in milliseconds.
    pub gossip_interval_ms: u64,
    /// A member that was silent for this time may be marked down, in milliseconds.
    pub gossip_timeout_ms: u64,
    /// Most hints that are kept for other members, in MiB.
    pub hint_limit_mib: u64,
    /// A hint of this age is also offered to the other owners, in milliseconds.
    pub hint_age_ms: u64,
    /// Interval between two comparisons of a partition with another owner, in milliseconds.
    pub repair_interval_ms: u64,
    /// Time in which all data on disk is read once and its checksums are verified, in milliseconds.
    pub scrub_interval_ms: u64,
    /// Most MiB a second of records that are taken over from other nodes; 0 for no limit.
    pub transfer_mib_per_second: u64,
    /// True if this is a new cluster, whose members need not all be up. Not in the file, because it
    /// holds for one start.
    pub bootstrap: bool,
    /// True if a store of another name, that of a removed member, is to be set aside. Not in the
    /// file.
    pub rejoin_empty: bool,
    /// True if the store is a copy that becomes a node of a cluster of its own. Not in the file,
    /// because it holds for one start.
    pub new_identity: bool,
    /// Memory for the store's cache, in MiB; if not given, it follows the memory limit.
    pub cache_mib: Option<u64>,
    /// With less free space on its disk than this, in MiB, the node refuses writes.
    pub disk_reserve_mib: u64,
    /// True if the network of this node may be emulated, by `emulation` or by an order.
    pub allow_emulation: bool,
    /// The rules of the emulated network at the start; none: the network is as it is.
    pub emulation: Vec<Rule>,
    /// The seed of its chances; the system's randomness if not given.
    pub emulation_seed: Option<u64>,
    /// Where metrics and health are reported over HTTP, `host:port`; nowhere if not given.
    pub http_listen: Option<String>,
    /// True if what is logged is a JSON object a line.
    pub log_json: bool,
    /// What the node does otherwise for a measurement.
    pub experiment: Experiment,
    /// What is logged: a level, or more in the syntax of `EnvFilter`.
    pub log: String,
    /// What the operator should change in the file, in sentences; the node runs all the same.
    pub warnings: Vec<String>,
    /// Every member, this node among them.
    pub members: Members,
    /// Where keys live: made of the members, `n` and `partitions`.
    pub ring: Ring,
}

/// Keys of version 0.1 that have another name now, each with that; 0.3 takes them no longer.
const RENAMED_KEYS: [(&str, &str); 2] =
    [("trusted_network", "allow_insecure_network"), ("http_beyond_loopback", "http_allow_remote")];

/// A sentence for each key of the file that is only taken for one version more.
fn renamed_keys(text: &str, path: &Path) -> Vec<String> {
    let Ok(table) = text.parse::<toml::Table>() else { return Vec::new() };
    let used = RENAMED_KEYS.iter().filter(|(old, _)| table.contains_key(*old));
    used.map(|(old, new)| {
        format!("{}: {old} is called {new} now; version 0.3 refuses the old name", path.display())
    })
    .collect()
}

/// The file's keys as they are written. Numbers are wide so that our own sentence refuses them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    name: String,
    cluster: String,
    data_dir: PathBuf,
    #[serde(default = "default_listen")]
    listen: String,
    #[serde(default, alias = "trusted_network")]
    allow_insecure_network: bool,
    secret_file: Option<PathBuf>,
    client_secret_file: Option<PathBuf>,
    max_connections_per_address: Option<i64>,
    n: Option<i64>,
    r: Option<i64>,
    w: Option<i64>,
    strict: Option<bool>,
    gossip_interval_ms: Option<i64>,
    gossip_timeout_ms: Option<i64>,
    hint_limit_mib: Option<i64>,
    hint_age_ms: Option<i64>,
    repair_interval_ms: Option<i64>,
    scrub_interval_ms: Option<i64>,
    transfer_mib_per_second: Option<i64>,
    partitions: Option<i64>,
    cache_mib: Option<i64>,
    disk_reserve_mib: Option<i64>,
    #[serde(default)]
    allow_emulation: bool,
    #[serde(default)]
    emulation: Vec<String>,
    emulation_seed: Option<i64>,
    http_listen: Option<String>,
    #[serde(default, alias = "http_beyond_loopback")]
    http_allow_remote: bool,
    log_format: Option<String>,
    #[serde(default)]
    experiment: Vec<String>,
    #[serde(default = "default_log")]
    log: String,
    members: Vec<MemberKeys>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberKeys {
    name: String,
    address: String,
}

fn default_listen() -> String {
    DEFAULT_LISTEN.to_owned()
}

fn default_log() -> String {
    DEFAULT_LOG.to_owned()
}

impl Config {
    /// Reads and checks the file at `path`, and the secrets in the files that it names.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let fault = |what: String| ConfigError(format!("{}: {what}", path.display()));
        let config = Config::read(path)?;
        config.secrets.set(config.read_secrets().map_err(|ConfigError(what)| fault(what))?);
        Ok(config)
    }

    /// Reads and checks the file at `path`, without the secrets.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let fault = |what: String| ConfigError(format!("{}: {what}", path.display()));
        let file = File::open(path).map_err(|error| fault(error.to_string()))?;
        let mut text = String::new();
        let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
        if read.map_err(|error| fault(error.to_string()))? as u64 > MAX_FILE_BYTES {
            return Err(fault(format!("a configuration has at most {MAX_FILE_BYTES} bytes")));
        }
        let mut config = Config::parse(&text, path)?;
        config.data_dir = absolute(&config.data_dir, path).map_err(fault)?;
        Ok(config)
    }

    /// Reads and checks the file as [`Config::load`] does, for a running daemon. A pipe is refused:
    /// it may never end, and what was in it is gone.
    pub fn reload(path: &Path) -> Result<Self, ConfigError> {
        match fs::metadata(path) {
            Ok(about) if !about.is_file() => Err(ConfigError(format!(
                "{}: a configuration that is read again is a file, and this is none",
                path.display()
            ))),
            _ => Config::load(path),
        }
    }

    /// Reads the files of the secrets, which may have changed since; `None` if it names none.
    pub fn read_secrets(&self) -> Result<Option<Secrets>, ConfigError> {
        self.secret_files.as_ref().map(SecretFiles::read).transpose().map_err(ConfigError)
    }

    /// Checks the text of a configuration; `path` is only named in the error. Secrets are not read.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let keys = toml::from_str::<Keys>(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            let what = error.message().lines().collect::<Vec<_>>().join(" ");
            let what = plain(&what);
            ConfigError(format!("{}, line {line}: {what}", path.display()))
        })?;
        let mut config =
            check(keys).map_err(|what| ConfigError(format!("{}: {what}", path.display())))?;
        config.warnings = renamed_keys(text, path);
        Ok(config)
    }

    /// The id of this node, which follows from its name.
    pub fn me(&self) -> NodeId {
        NodeId::of(&self.name)
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// A message of the parser in the terms of TOML rather than in those of Rust.
fn plain(message: &str) -> String {
    let terms = [
        ("expected i64", "expected an integer"),
        ("expected u64", "expected an integer"),
        ("expected path string", "expected a string"),
        ("expected a sequence", "expected a list"),
        ("expected struct Keys", "expected a table"),
        ("expected struct MemberKeys", "expected a table with name and address"),
        ("invalid type: map", "invalid type: a table"),
        ("invalid type: sequence", "invalid type: a list"),
    ];
    terms.iter().fold(message.to_owned(), |text, (rust, toml)| text.replace(rust, toml))
}

/// The data directory in full: a relative one begins at the directory of the configuration,
/// wherever the daemon is started. Where data of a program is that began it at the working
/// directory, that is refused.
fn absolute(data_dir: &Path, config: &Path) -> Result<PathBuf, String> {
    let failed = |error: std::io::Error| format!("data_dir = {data_dir:?}: {error}");
    let beside = config.parent().unwrap_or(Path::new("")).join(data_dir);
    let beside = std::path::absolute(beside).map_err(failed)?;
    let here = std::path::absolute(data_dir).map_err(failed)?;
    if here != beside && here.join("FORMAT").exists() && !beside.join("FORMAT").exists() {
        return Err(format!(
            "data_dir = {data_dir:?}: a relative directory begins at that of the configuration, \
             which makes it {}, where there is no data; but there is some in {}: write the \
             directory in full",
            beside.display(),
            here.display()
        ));
    }
    Ok(beside)
}

fn check(keys: Keys) -> Result<Config, String> {
    check_name("name", &keys.name)?;
    check_name("cluster", &keys.cluster)?;
    check_data_dir(&keys.data_dir)?;
    let secret_files = SecretFiles::new(keys.secret_file, keys.client_secret_file)?;
    check_listen(&keys.listen, keys.allow_insecure_network || secret_files.is_some())?;
    let connections = numbers::CONNECTIONS.of(keys.max_connections_per_address)?;
    let n = numbers::N.of(keys.n)? as u8;
    let partitions = numbers::PARTITIONS.of(keys.partitions)? as u16;
    let majority = i64::from(n / 2 + 1);
    let r = numbers::check("r", keys.r.unwrap_or(majority), 1..=i64::from(n))? as u8;
    let w = numbers::check("w", keys.w.unwrap_or(majority), 1..=i64::from(n))? as u8;
    let interval = numbers::GOSSIP_INTERVAL_MS.of(keys.gossip_interval_ms)?;
    let gossip_interval_ms = interval as u64;
    let gossip_timeout_ms = numbers::gossip_timeout(keys.gossip_timeout_ms, interval)? as u64;
    let hint_limit_mib = numbers::HINT_LIMIT_MIB.of(keys.hint_limit_mib)? as u64;
    let hint_age_ms = numbers::HINT_AGE_MS.of(keys.hint_age_ms)? as u64;
    let repair_interval_ms = numbers::REPAIR_INTERVAL_MS.of(keys.repair_interval_ms)? as u64;
    let scrub_interval_ms = numbers::SCRUB_INTERVAL_MS.of(keys.scrub_interval_ms)? as u64;
    let transfer = numbers::TRANSFER_MIB_PER_SECOND.of(keys.transfer_mib_per_second)?;
    let transfer_mib_per_second = transfer as u64;
    let cache_mib =
        keys.cache_mib.map(|given| numbers::check("cache_mib", given, numbers::CACHE_MIB));
    let cache_mib = cache_mib.transpose()?.map(|given| given as u64);
    let disk_reserve_mib = numbers::DISK_RESERVE_MIB.of(keys.disk_reserve_mib)? as u64;
    check_log(&keys.log)?;
    let log_json = is_json(keys.log_format.as_deref())?;
    if let Some(http) = &keys.http_listen {
        check_http(http, keys.http_allow_remote, &keys.listen)?;
    }
    let members = check_members(keys.members)?;
    if members.get(NodeId::of(&keys.name)).is_none() {
        return Err(format!("name = \"{}\": the node itself is not among [[members]]", keys.name));
    }
    let seed = keys.emulation_seed.map(|seed| numbers::check("emulation_seed", seed, 0..=i64::MAX));
    let emulation_seed = seed.transpose()?.map(|seed| seed as u64);
    let allow_emulation = keys.allow_emulation;
    let emulation = check_emulation(&keys.emulation, allow_emulation, &members)?;
    let experiment = check_experiment(&keys.experiment, allow_emulation)?;
    let ring = Ring::new(&members.ids(), n, partitions).map_err(|e: RingError| e.to_string())?;
    let Keys { name, cluster, data_dir, listen, http_listen, log, .. } = keys;
    let (bootstrap, strict) = (false, keys.strict.unwrap_or(false));
    Ok(Config {
        name,
        cluster,
        data_dir,
        listen,
        secrets: Vault::default(),
        secret_files,
        max_connections_per_address: connections as usize,
        r,
        w,
        strict,
        gossip_interval_ms,
        gossip_timeout_ms,
        hint_limit_mib,
        hint_age_ms,
        repair_interval_ms,
        scrub_interval_ms,
        transfer_mib_per_second,
        bootstrap,
        rejoin_empty: false,
        new_identity: false,
        cache_mib,
        disk_reserve_mib,
        allow_emulation,
        emulation,
        emulation_seed,
        http_listen,
        log_json,
        warnings: Vec::new(),
        experiment,
        log,
        members,
        ring,
    })
}

fn check_data_dir(dir: &Path) -> Result<(), String> {
    if dir.as_os_str().is_empty() {
        return Err("data_dir = \"\": the directory of the data has a name".to_owned());
    }
    if dir.as_os_str().as_encoded_bytes().starts_with(b"~") {
        let why = "no shell replaces the ~ here: write the directory in full";
        return Err(format!("data_dir = {dir:?}: {why}"));
    }
    Ok(())
}

/// True for the JSON format of the log; false for text, which is the default.
fn is_json(format: Option<&str>) -> Result<bool, String> {
    match format {
        None | Some("text") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => {
            let shown = other.escape_debug();
            Err(format!("log_format = \"{shown}\": log_format is \"text\" or \"json\""))
        }
    }
}

/// Bare words that are no level would name a target, of which nothing is ever logged.
fn check_log(log: &str) -> Result<(), String> {
    let is_level = |word: &str| !word.is_empty() && LevelFilter::from_str(word).is_ok();
    let odd = log.split(',').find(|part| !part.contains('=') && !is_level(part));
    let why = match (odd, EnvFilter::try_new(log)) {
        (Some(word), _) => format!("\"{}\" is no level", word.escape_debug()),
        (None, Err(_)) => "that is no filter".to_owned(),
        (None, Ok(_)) => return Ok(()),
    };
    let shown = log.escape_debug();
    Err(format!(
        "log = \"{shown}\": {why}; it is error, warn, info, debug, trace or off, or such levels \
         by target, as in \
         \"info,pixii::net=debug\""
    ))
}

fn check_members(entries: Vec<MemberKeys>) -> Result<Members, String> {
    if entries.len() > MAX_MEMBERS {
        return Err(RingError::TooManyMembers(entries.len()).to_string());
    }
    let mut members: Vec<Member> = Vec::new();
    for MemberKeys { name, address } in entries {
        check_name("members.name", &name)?;
        check_written("members.address", &address)?;
        let id = NodeId::of(&name);
        if members.iter().any(|other| other.id() == id) {
            return Err(format!("members: \"{name}\" is there twice"));
        }
        if let Some(other) = members.iter().find(|other| other.address == address) {
            let other = &other.name;
            return Err(format!("members: \"{other}\" and \"{name}\" both have {address}"));
        }
        members.push(Member::configured(name, address));
    }
    Ok(Members::new(members))
}

fn check_emulation(
    rules: &[String],
    allowed: bool,
    members: &Members,
) -> Result<Vec<Rule>, String> {
    if !rules.is_empty() && !allowed {
        return Err(
            "emulation: the network is emulated only with allow_emulation = true".to_owned()
        );
    }
    emulation::parse(&rules.join("\n"), members).map_err(|what| format!("emulation: {what}"))
}

fn check_experiment(words: &[String], allowed: bool) -> Result<Experiment, String> {
    if !words.is_empty() && !allowed {
        return Err(
            "experiment: a node is measured otherwise only with allow_emulation = true".to_owned()
        );
    }
    let mut experiment = Experiment::default();
    for word in words {
        let unknown = || {
            let (word, known) = (word.chars().take(40).collect::<String>(), Experiment::SWITCHES);
            format!("experiment: \"{}\" is none of {}", word.escape_debug(), known.join(", "))
        };
        *experiment.switch(word).ok_or_else(unknown)? = true;
    }
    Ok(experiment)
}

fn is_loopback(key: &str, listen: &str) -> Result<bool, String> {
    let host = check_written(key, listen)?;
    let address = listen.parse::<SocketAddr>();
    Ok(address.map_or(host == "localhost", |at| at.ip().is_loopback()))
}

fn check_http(listen: &str, beyond_loopback: bool, other: &str) -> Result<(), String> {
    if !is_loopback("http_listen", listen)? && !beyond_loopback {
        return Err(format!(
            "http_listen = \"{listen}\": metrics show the names of the members and how they are, \
             so the port is \
             on a loopback address (127.0.0.1, [::1] or localhost) unless http_allow_remote = \
             true says that \
             everybody who can reach it may know"
        ));
    }
    if listen == other {
        return Err(format!("http_listen = \"{listen}\": that is the port of listen already"));
    }
    Ok(())
}

fn check_listen(listen: &str, anywhere: bool) -> Result<(), String> {
    if !is_loopback("listen", listen)? && !anywhere {
        return Err(format!(
            "listen = \"{listen}\": beyond loopback (127.0.0.1, [::1], localhost) a node has \
             secret_file and \
             client_secret_file, unless allow_insecure_network = true says that everybody who can \
             reach the port may read \
             and write everything"
        ));
    }
    Ok(())
}
