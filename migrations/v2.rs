//! Schema 2: hints and the list of members. Frozen: this file and its copies of the types never
//! change again.
//!
//! `4 target:u64 key` holds a hint, or its head where it is long: values, chunks and the numbers of
//! writes are those of schema 1 (`2 partition key` and `3 id index`), but the checksums begin with
//! `hint` and `hint head` in place of `record` and `head`, and cover the target in place of the
//! partition. `1 members` is a small record: the list of members, absent until the store was
//! reported.
//!
//! A store of schema 1 has neither, and nothing else has changed: the step writes nothing but the
//! version. It is there so that a program of schema 1, which would leave hints lying, refuses the
//! data.

use super::{Batch, Sled, StoreFault};

/// Makes a store of schema 1 one of schema 2.
pub(super) fn migrate(_: &Sled) -> Result<Batch, StoreFault> {
    Ok(Batch::default())
}

/// The types of schema 2 as they are; those of schema 1 are the same, without the members. Only the
/// test needs them: it holds today's types to these bytes where no later schema changed them.
#[cfg(test)]
mod tests {
    use bincode::Encode;
    use bytes::Bytes;
    use pixii_core::causal::ActorEpoch;
    use pixii_core::store;

    #[derive(Encode)]
    struct Record {
        own_epoch: Option<u64>,
        object: Object,
    }

    #[derive(Encode)]
    struct Object(Vec<Entry>);

    #[derive(Encode)]
    struct Entry {
        actor: Actor,
        counter: u64,
        values: Vec<Version>,
    }

    #[derive(Encode)]
    struct Actor {
        store: u64,
        actor_epoch: u64,
    }

    #[derive(Encode)]
    struct Version {
        write: u128,
        value: Vec<u8>,
    }

    #[derive(Encode)]
    struct Meta {
        identity: StoreIdentity,
        birth: u64,
        store: u64,
        incarnation: u64,
        actor_epoch_floor: u64,
        actor_epoch_end: u64,
        clean: bool,
        cluster: Option<Cluster>,
        read_ineligible: Vec<u16>,
        lives: Vec<(u64, IncarnationId)>,
    }

    #[derive(Encode)]
    struct Cluster {
        id: u64,
        founders: Vec<(u64, u64)>,
    }

    #[derive(Encode)]
    struct IncarnationId {
        incarnation: u64,
        nonce: u64,
    }

    #[derive(Encode)]
    struct StoreIdentity {
        cluster: String,
        name: String,
        ring: u64,
    }

    #[derive(Encode)]
    struct Members(Vec<Member>);

    #[derive(Encode)]
    struct Member {
        name: String,
        address: String,
        incarnation: u64,
        membership: u32,
        version: u64,
    }

    fn encode(value: &impl Encode) -> Vec<u8> {
        bincode::encode_to_vec(value, bincode::config::standard()).unwrap()
    }

    fn checksum(parts: &[&[u8]]) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        *hasher.finalize().as_bytes().first_chunk().unwrap()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn record() -> Record {
        let version = |write, value: &[u8]| Version { write, value: value.to_vec() };
        let entry = |store, counter, values| Entry {
            actor: Actor { store, actor_epoch: 300 },
            counter,
            values,
        };
        Record {
            own_epoch: Some(7),
            object: Object(vec![
                entry(1, 9, vec![version(1 << 100, b"new"), version(2, b"")]),
                entry(1 << 60, 70_000, vec![]),
            ]),
        }
    }

    fn meta() -> Meta {
        Meta {
            identity: StoreIdentity { cluster: "c".into(), name: "n1".into(), ring: u64::MAX },
            birth: 300,
            store: 1 << 40,
            incarnation: 3,
            actor_epoch_floor: 251,
            actor_epoch_end: 70_000,
            clean: true,
            cluster: Some(Cluster { id: 5, founders: vec![(1, 2), (3, 4)] }),
            read_ineligible: vec![0, 300],
            lives: vec![(3, IncarnationId { incarnation: 8, nonce: 1 << 50 })],
        }
    }

    /// `1 content checksum`, over the place and what comes before.
    fn stored(place: &[&[u8]], content: &[u8]) -> Vec<u8> {
        let body = [&[1], content].concat();
        let sum = checksum(&[place, &[&body]].concat());
        [&body[..], &sum].concat()
    }

    #[test]
    fn records_and_hints_have_the_bytes_of_schema_2() {
        let golden = stored(&[b"record", &[1, 2], b"key"], &encode(&record()));
        assert_eq!(
            hex(&golden),
            "0101070201fb2c010902fe00000000000000000000000010000000036e65770200fd00\
             00000000000010fb2c01fc7011010000c1500b1fe753818e"
        );
        let key = pixii_core::types::Key::new("key").unwrap();
        let partition = pixii_core::types::Partition(0x0102);
        let found = store::decode_record(partition, &key, Bytes::from(golden.clone()));
        let store::Found::Record(today) = found else { panic!("{found:?}") };
        assert_eq!(today.own_epoch, Some(ActorEpoch(7)));
        assert_eq!(today.object.len(), 2);
        assert_eq!(store::encode_record(partition, &key, &today), golden);
        let target = [0, 0, 0, 0, 0, 0, 3, 4];
        let hint = stored(&[b"hint", &target, b"key"], &encode(&record()));
        let node = pixii_core::types::NodeId(0x0304);
        assert_eq!(hint[..hint.len() - 8], golden[..golden.len() - 8]);
        assert_eq!(hex(&hint[hint.len() - 8..]), "4d7b65beea3e82c6");
        let found = store::decode_hint(node, &key, Bytes::from(hint));
        assert_eq!(found, store::Found::Record(today));
    }

    #[test]
    fn small_records_and_hints_have_the_bytes_of_schema_2() {
        let golden = encode(&meta());
        let bytes = "0163026e31fdfffffffffffffffffb2c01fd000000000001000003fbfb00fc70110100010105\
            020102030402\
                     00fb2c01010308fd0000000000000400";
        assert_eq!(hex(&golden), bytes);
        // Schema 3 has a list behind it.
        let golden = [golden, vec![0]].concat();
        let today: store::Meta = pixii_core::wire::decode(&Bytes::from(golden.clone())).unwrap();
        assert_eq!((today.identity.name.as_str(), today.actor_epoch_end.0), ("n1", 70_000));
        assert_eq!(pixii_core::wire::encode(&today), golden);
        let sealed = stored(&[b"meta", b"life"], &golden);
        assert_eq!(crate::disk::layout::seal("life", &golden), sealed);
        let member = |name: &str, membership| Member {
            name: name.into(),
            address: "h:1".into(),
            incarnation: 300,
            membership,
            version: 4,
        };
        let golden = encode(&Members(vec![member("a", 1), member("b", 3)]));
        assert_eq!(hex(&golden), "02016103683a31fb2c010104016203683a31fb2c010304");
        let today: pixii_core::members::Members =
            pixii_core::wire::decode(&Bytes::from(golden.clone())).unwrap();
        assert_eq!(today.iter().map(|member| member.incarnation.0).sum::<u64>(), 600);
        assert_eq!(pixii_core::wire::encode(&today), golden);
    }
}
