//! The tables of the reference page of the configuration.

use pixii_core::node::Experiment;
use pixii_core::types::{MAX_MEMBERS, MAX_NAME_BYTES};

use super::numbers::{self, Number};
use super::{DEFAULT_LISTEN, DEFAULT_LOG};
use crate::table::{Table, number};

const HEAD: [&str; 3] = ["key", "default", "range, meaning"];

/// A number as the pages write it; none is below zero.
fn shown(given: i64) -> String {
    number(given.unsigned_abs())
}

/// The row of a number: its default, its range, and the meaning.
fn numeric(table: Table, of: &Number, meaning: &str) -> Table {
    let range = format!("{} to {}", shown(*of.range.start()), shown(*of.range.end()));
    let (key, default) = (format!("`{}`", of.key), shown(of.default));
    table.row([&key, &default, &format!("{range}: {meaning}")])
}

pub(crate) fn node() -> Table {
    let name = format!(
        "1 to {MAX_NAME_BYTES} letters, digits, `-`, `_`, `.`; the node's identity, whatever its \
         address"
    );
    let listen = format!("`{DEFAULT_LISTEN}`");
    let members = format!(
        "a table per member with `name` and `address`; the same list on every node, at most {}",
        number(MAX_MEMBERS as u64)
    );
    let table = Table::new(HEAD)
        .row(["`name`", "required", &name])
        .row(["`cluster`", "required", "the same characters; the same on every node"])
        .row([
            "`data_dir`",
            "required",
            "created if it does not exist; belongs to one node of one cluster for ever; a relative \
             path begins at the directory of the file, `~` is refused",
        ])
        .row([
            "`listen`",
            &listen,
            "one port for peers and clients; an IPv6 address is in brackets: `[fd00::2]:7432`; an \
             address that is not there yet is waited for, 60 s",
        ])
        .row(["`members`", "required", &members]);
    let table =
        numeric(table, &numbers::N, "owners of each key; fixed when the cluster is created");
    numeric(table, &numbers::PARTITIONS, "fixed when the cluster is created")
}

pub(crate) fn requests() -> Table {
    Table::new(HEAD)
        .row([
            "`r`, `w`",
            "a majority of n",
            "1 to n: quorums of requests that name none; a strict read sees every strict \
             acknowledged write while r + w > n",
        ])
        .row([
            "`strict`",
            "false",
            "true: only owners count for requests that do not say (`--strict`, `--sloppy`)",
        ])
}

pub(crate) fn background() -> Table {
    let (usual, least) = numbers::TIMEOUT_INTERVALS;
    let (usual, timeout) = (
        format!("{usual} intervals"),
        format!(
            "{least} intervals to {}: a member that is silent for longer, and unusually long for \
             its pace, is marked down",
            shown(numbers::MAX_GOSSIP_TIMEOUT_MS)
        ),
    );
    let table =
        numeric(Table::new(HEAD), &numbers::GOSSIP_INTERVAL_MS, "between two rounds of gossip");
    let table = table.row(["`gossip_timeout_ms`", &usual, &timeout]);
    let table = numeric(
        table,
        &numbers::HINT_LIMIT_MIB,
        "most bytes of hints that the node keeps; at the limit it is no fallback any more",
    );
    let table = numeric(
        table,
        &numbers::HINT_AGE_MS,
        "a hint of this age is also offered to the other owners; it stays until its target has it",
    );
    let table = numeric(
        table,
        &numbers::REPAIR_INTERVAL_MS,
        "each partition is compared with every other owner about as often as this",
    );
    let table = numeric(
        table,
        &numbers::SCRUB_INTERVAL_MS,
        "everything on disk is read from the device and its checksums tested once in this time",
    );
    numeric(
        table,
        &numbers::TRANSFER_MIB_PER_SECOND,
        "most MiB a second of records that this node takes over from others, when it gets \
         partitions or has lost its disk; 0 for no limit",
    )
}

pub(crate) fn store() -> Table {
    let (least, most) = (*numbers::CACHE_MIB.start(), *numbers::CACHE_MIB.end());
    let cache = format!(
        "{} to {}: the store's page cache; the process takes a few times as much \
         ([Memory](../operating/configure.md#memory))",
        shown(least),
        shown(most)
    );
    let table =
        Table::new(HEAD).row(["`cache_mib`", "an eighth of the memory limit, 8 to 1,024", &cache]);
    numeric(
        table,
        &numbers::DISK_RESERVE_MIB,
        "with less free space than this, the node refuses writes, serves reads, and resumes by \
         itself",
    )
}

pub(crate) fn access() -> Table {
    let table = Table::new(HEAD)
        .row([
            "`secret_file`",
            "none",
            "the peer secret; with `client_secret_file` required to listen beyond loopback \
             ([Secrets](../operating/secrets.md))",
        ])
        .row([
            "`client_secret_file`",
            "none",
            "the client secret; a relative path names a credential of the systemd unit",
        ])
        .row([
            "`allow_insecure_network`",
            "false",
            "true: the node may listen beyond loopback without secrets, and whoever can reach the \
             port may read and write everything",
        ]);
    numeric(
        table,
        &numbers::CONNECTIONS,
        "clients from one address (IPv6: one /64); further ones are refused, except in [places of \
         the operator](limits.md#connections-and-descriptors); peers are not counted",
    )
}

pub(crate) fn logs() -> Table {
    let log = format!("`{DEFAULT_LOG}`");
    Table::new(HEAD)
        .row([
            "`log`",
            &log,
            "`error`, `warn`, `info`, `debug`, `trace` or `off`, or levels by target: \
             `info,pixii::net=debug`; logs go to standard error",
        ])
        .row(["`log_format`", "`text`", "`json`: an object per line"])
        .row([
            "`http_listen`",
            "none",
            "the address of `/metrics`, `/livez`, `/readyz` and `/`, for example `127.0.0.1:7480`",
        ])
        .row([
            "`http_allow_remote`",
            "false",
            "true: that address may be beyond loopback; whoever can reach it may read the \
             members' names and states",
        ])
}

pub(crate) fn measurements() -> Table {
    let switches = Experiment::SWITCHES.map(|switch| format!("`{switch}`")).join(", ");
    let experiment = format!(
        "with `allow_emulation`, a list of: {switches}; with `ask-all` a read asks all owners, \
         with `own-link` the node's own replica is as far as the others"
    );
    Table::new(HEAD)
        .row([
            "`allow_emulation`",
            "false",
            "true: `pixii emulate` may delay, lose or block messages and slow the disk",
        ])
        .row([
            "`emulation`",
            "`[]`",
            "rules from the start ([language](commands-local.md#pixii-emulate))",
        ])
        .row(["`emulation_seed`", "drawn", "the seed of the emulated network"])
        .row(["`experiment`", "`[]`", &experiment])
}
