//! Schema 3: GC epochs of partitions. Frozen: this file and its copies of the types never change
//! again.
//!
//! `1 gc_epoch ddddd` (the partition in five decimal digits) is a small record: the GC epoch of a
//! partition, absent while it is the first one. A hint has its object's GC epoch in front of it,
//! and the version byte 2; one with the version byte 1, as schema 2 has them, is of the first GC
//! epoch, and is left as it is.
//!
//! What a store knows of itself, `1 incarnation`, has a list of numbers (the fresh ids) behind all
//! that it had: empty, one byte, for a store of schema 2. Nothing else changes.

use super::{Batch, Sled, StoreFault, meta_key, seal, unseal};

const INCARNATION: &str = "life";

/// Makes a store of schema 2 one of schema 3. A record that is damaged stays what it is: it is
/// found when it is read.
pub(super) fn migrate(sled: &Sled) -> Result<Batch, StoreFault> {
    let mut batch = Batch::default();
    let incarnation = sled.get(&meta_key(INCARNATION))?;
    if let Some(known) = incarnation.and_then(|bytes| unseal(INCARNATION, &bytes)) {
        batch.insert(meta_key(INCARNATION), seal(INCARNATION, &[&known[..], &[0]].concat()));
    }
    Ok(batch)
}

/// The types of schema 3 as they are where they differ from those of schema 2. Until there is a
/// schema 4 to migrate to, only the test needs them: it holds today's types to these bytes.
#[cfg(test)]
mod tests {
    use bincode::Encode;
    use bytes::Bytes;
    use pixii_core::causal::ActorEpoch;
    use pixii_core::store;
    use pixii_core::types::{Key, NodeId};

    #[derive(Encode)]
    struct GcState {
        number: u64,
        purgeable: Vec<PurgeableKey>,
        purged: Vec<PurgeableKey>,
    }

    #[derive(Encode)]
    struct PurgeableKey {
        key: Vec<u8>,
        dead: Vec<Dot>,
    }

    #[derive(Encode)]
    struct Dot {
        store: u64,
        actor_epoch: u64,
        counter: u64,
    }

    fn encode(value: &impl Encode) -> Vec<u8> {
        bincode::encode_to_vec(value, bincode::config::standard()).unwrap()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn gc_epochs_and_hints_have_the_bytes_of_schema_3() {
        let purgeable_key = |key: &[u8]| PurgeableKey {
            key: key.to_vec(),
            dead: vec![Dot { store: 1 << 40, actor_epoch: 7, counter: 300 }],
        };
        let golden = encode(&GcState {
            number: 300,
            purgeable: vec![purgeable_key(b"a"), purgeable_key(b"b")],
            purged: vec![purgeable_key(b"c")],
        });
        assert_eq!(
            hex(&golden),
            "fb2c0102016101fd000000000001000007fb2c01016201fd000000000001000007fb2c01\
             01016301fd000000000001000007fb2c01"
        );
        let today: pixii_core::gc_epoch::GcState =
            pixii_core::wire::decode(&Bytes::from(golden.clone())).unwrap();
        assert_eq!(today.number.0, 300);
        assert_eq!(pixii_core::wire::encode(&today), golden);
        let key = Key::new("key").unwrap();
        let hint = store::Record {
            own_epoch: Some(ActorEpoch(7)),
            gc_epoch: today.number,
            ..Default::default()
        };
        let bytes = store::encode_hint(NodeId(0x0304), &key, &hint);
        assert_eq!(hex(&bytes[..bytes.len() - 8]), "02fb2c01010700");
        let found = store::decode_hint(NodeId(0x0304), &key, bytes.into());
        assert_eq!(found, store::Found::Record(hint));
    }
}
