//! A configuration that was read again: what takes effect at once, and what needs another start.

use pixii_core::node::{Input, Limits};
use pixii_core::secret::Secrets;
use pixii_core::types::MILLI;
use tracing::{info, warn};

use super::Engine;
use super::drain::Drain;
use crate::config::{Config, ConfigError, SecretFiles};

/// The settings that can change while the daemon runs, as they are in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RuntimeConfig {
    /// The log filter; whoever reads the configuration again has applied it.
    pub(super) log: String,
    /// Most hints that are kept for other members, in MiB.
    pub(super) hint_limit_mib: u64,
    /// A hint of this age, in milliseconds, is also offered to the other owners.
    pub(super) hint_age_ms: u64,
    /// Interval between two comparisons of a partition with another owner, in milliseconds.
    pub(super) repair_interval_ms: u64,
    /// Time in which all data on disk is read once, in milliseconds.
    pub(super) scrub_interval_ms: u64,
    /// Most MiB a second of records that are taken over from other nodes; 0 for no limit.
    pub(super) transfer_mib_per_second: u64,
    /// The state of a drain, by an operator's order; it is no part of the configuration. Like the
    /// others, it outlasts an incarnation.
    pub(super) drain: Drain,
}

impl RuntimeConfig {
    /// The settings of a configuration.
    pub(super) fn of(config: &Config) -> Self {
        RuntimeConfig {
            log: config.log.clone(),
            hint_limit_mib: config.hint_limit_mib,
            hint_age_ms: config.hint_age_ms,
            repair_interval_ms: config.repair_interval_ms,
            scrub_interval_ms: config.scrub_interval_ms,
            transfer_mib_per_second: config.transfer_mib_per_second,
            drain: Drain::No,
        }
    }

    /// The settings that the machine needs.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            hint_limit_bytes: self.hint_limit_mib << 20,
            hint_age: self.hint_age_ms * MILLI,
            repair_interval: self.repair_interval_ms * MILLI,
            scrub_interval: self.scrub_interval_ms * MILLI,
            transfer_bytes_per_second: self.transfer_mib_per_second << 20,
        }
    }

    /// Each setting, as a line of a configuration file.
    fn lines(&self) -> [String; 6] {
        let RuntimeConfig {
            log,
            hint_limit_mib,
            hint_age_ms,
            repair_interval_ms,
            scrub_interval_ms,
            transfer_mib_per_second,
            drain: _,
        } = self;
        [
            format!("log = \"{log}\""),
            format!("hint_limit_mib = {hint_limit_mib}"),
            format!("hint_age_ms = {hint_age_ms}"),
            format!("repair_interval_ms = {repair_interval_ms}"),
            format!("scrub_interval_ms = {scrub_interval_ms}"),
            format!("transfer_mib_per_second = {transfer_mib_per_second}"),
        ]
    }
}

impl Engine<'_> {
    /// Takes over what can change, and logs that, and the keys that need another start.
    pub(super) fn reload(&mut self, read: Result<Box<Config>, ConfigError>) {
        let name = &self.config.name;
        let config = match read {
            Ok(config) => config,
            Err(why) => return warn!("node {name} goes on as it is configured: {why}"),
        };
        let new = RuntimeConfig::of(&config);
        let (before, after) = (self.runtime_config.lines(), new.lines());
        let changed = after.into_iter().zip(before).filter(|(after, before)| after != before);
        let changed: Vec<String> = changed.map(|(after, _)| after).collect();
        let fixed = fixed(self.config, &config);
        if !changed.is_empty() {
            info!("node {name} goes on with {}", changed.join(", "));
        }
        config.warnings.iter().for_each(|warning| warn!("{warning}"));
        if !fixed.is_empty() {
            warn!("node {name} has to be started again for {}", fixed.join(", "));
        }
        let others = self.take_secrets(&config);
        if changed.is_empty() && fixed.is_empty() && !others {
            info!("node {name} finds nothing new in its configuration");
        }
        *self.runtime_config = RuntimeConfig { drain: self.runtime_config.drain, ..new };
        self.scrubber.set_interval(self.runtime_config.scrub_interval_ms);
        self.input(Input::Limits(self.runtime_config.limits()));
    }

    /// Takes over the secrets that were read; true if they are others, or the first ones. Open
    /// links stay.
    fn take_secrets(&mut self, config: &Config) -> bool {
        let name = &self.config.name;
        let Some(new) = config.secrets.get() else { return false };
        let others = self.config.secrets.get().is_none_or(|old| old != new);
        if others {
            self.config.secrets.set(Some(Secrets::clone(&new)));
            info!("node {name} goes on with other secrets, those that its files hold now");
        } else if config.secret_files.as_ref().is_some_and(SecretFiles::are_credentials) {
            info!(
                "the secrets of node {name} are the same: they are credentials, which systemd \
                 copies when a unit starts, \
                 so that changed ones take a restart"
            );
        }
        others
    }
}

/// The keys that differ and take effect only at a start.
fn fixed(old: &Config, new: &Config) -> Vec<&'static str> {
    // All fields by name, so that the compiler asks for a decision on a new one.
    let Config {
        name,
        cluster,
        data_dir,
        listen,
        secret_files: _,
        secrets,
        max_connections_per_address,
        http_listen,
        r,
        w,
        strict,
        gossip_interval_ms,
        gossip_timeout_ms,
        hint_limit_mib: _,
        hint_age_ms: _,
        repair_interval_ms: _,
        scrub_interval_ms: _,
        transfer_mib_per_second: _,
        bootstrap: _,
        rejoin_empty: _,
        new_identity: _,
        cache_mib,
        disk_reserve_mib,
        allow_emulation,
        emulation,
        emulation_seed,
        experiment,
        log: _,
        warnings: _,
        log_json,
        members,
        ring,
    } = old;
    let differs = [
        ("name", *name != new.name),
        ("cluster", *cluster != new.cluster),
        ("data_dir", *data_dir != new.data_dir),
        ("listen", *listen != new.listen),
        ("secret_file", secrets.get().is_some() && new.secret_files.is_none()),
        (
            "max_connections_per_address",
            *max_connections_per_address != new.max_connections_per_address,
        ),
        ("http_listen", *http_listen != new.http_listen),
        ("log_format", *log_json != new.log_json),
        ("n", ring.n() != new.ring.n()),
        ("r", *r != new.r),
        ("w", *w != new.w),
        ("strict", *strict != new.strict),
        ("gossip_interval_ms", *gossip_interval_ms != new.gossip_interval_ms),
        ("gossip_timeout_ms", *gossip_timeout_ms != new.gossip_timeout_ms),
        ("partitions", ring.partitions() != new.ring.partitions()),
        ("cache_mib", *cache_mib != new.cache_mib),
        ("disk_reserve_mib", *disk_reserve_mib != new.disk_reserve_mib),
        ("allow_emulation", *allow_emulation != new.allow_emulation),
        ("emulation", *emulation != new.emulation),
        ("emulation_seed", *emulation_seed != new.emulation_seed),
        ("experiment", *experiment != new.experiment),
        ("members", *members != new.members),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(more: &str) -> Config {
        let text = format!(
            "name = \"n1\"\ncluster = \"test\"\ndata_dir = \"d\"\nn = 1\n{more}\n\
             [[members]]\nname = \"n1\"\naddress = \"127.0.0.1:1\"\n"
        );
        Config::parse(&text, Path::new("test.toml")).unwrap()
    }

    #[test]
    fn what_needs_a_start_is_named_and_what_does_not_is_not() {
        let old = config("");
        assert_eq!(fixed(&old, &old), Vec::<&str>::new());
        let changes = "log = \"debug\"\nhint_limit_mib = 1\nrepair_interval_ms = 2000";
        let new = config(changes);
        assert_eq!(fixed(&old, &new), Vec::<&str>::new());
        let lines = RuntimeConfig::of(&new).lines();
        assert!(changes.lines().all(|line| lines.contains(&line.to_owned())), "{lines:?}");
        let new = config("partitions = 8\nlisten = \"127.0.0.1:2\"\ncache_mib = 1");
        assert_eq!(fixed(&old, &new), ["listen", "partitions", "cache_mib"]);
    }
}
