//! The limits that are constants of the other crates.

use pixii_core::types::{
    MAX_CLOCK_ENTRIES, MAX_KEY_BYTES, MAX_MEMBERS, MAX_MERGED_BYTES, MAX_N, MAX_NAME_BYTES,
    MAX_OBJECT_BYTES, MAX_PARTITIONS, MAX_SIBLINGS, MAX_TIMEOUT_MS, MAX_VALUE_BYTES,
};
use pixii_core::wire::MAX_FRAME_BYTES;

use crate::table::{Table, number, size};

/// Sizes of a cluster and of a request.
pub(super) fn cluster() -> Table {
    let members = number(MAX_MEMBERS as u64);
    let deadline = format!("{} ms", number(MAX_TIMEOUT_MS.into()));
    Table::new(["what", "limit", "at the limit"])
        .row(["members", &members, "the configuration or the change is refused"])
        .row(["owners of a key (n)", &MAX_N.to_string(), "the configuration is refused"])
        .row(["partitions", &number(MAX_PARTITIONS.into()), "the configuration is refused"])
        .row(["name of a node or cluster", &size(MAX_NAME_BYTES), "the configuration is refused"])
        .row(["deadline of a request", &deadline, "the request is refused"])
}

/// Sizes of keys, values and objects.
pub(super) fn objects() -> Table {
    let settle = "the write is refused: read, then write with the context";
    let object =
        format!("{}, or {} / n if that is less", size(MAX_OBJECT_BYTES), size(MAX_MERGED_BYTES));
    let merged = size(MAX_MERGED_BYTES);
    let (siblings, entries) = (MAX_SIBLINGS.to_string(), number(MAX_CLOCK_ENTRIES as u64));
    let frame = size(MAX_FRAME_BYTES);
    Table::new(["what", "limit", "at the limit"])
        .row(["key", &format!("1 to {}", size(MAX_KEY_BYTES)), "the write is refused"])
        .row(["value", &size(MAX_VALUE_BYTES), "the write is refused"])
        .row(["siblings of a key, where a write is accepted", &siblings, settle])
        .row([
            "entries of a key's clock, where a write is accepted",
            &entries,
            "the write is refused, a delete is not",
        ])
        .row(["object, where a write is accepted (*L*)", &object, settle])
        .row([
            "object, where a hint is delivered beside other values",
            "L",
            "the owner declines it; the fallback keeps the hint",
        ])
        .row([
            "object, where a hint is delivered and no other value exists",
            "2 C",
            "as above; its fallback held it to C",
        ])
        .row([
            "object, where owners merge (*C*)",
            &merged,
            "the merge is declined if it would make the record larger",
        ])
        .row([
            "all that a fallback keeps of one key, joined",
            "C",
            "the fallback declines; the coordinator tries the next one",
        ])
        .row([
            "answer to a get",
            "C",
            "it shows as many siblings as fit; its context covers these and no others",
        ])
        .row(["frame between nodes", &frame, "the connection is closed"])
        .row(["record in the store", &frame, "not reached: 2 C is far below it"])
}
