//! The schema of the data, and the migrations from every older one to the newest: forward only, at
//! open, before anything is served. The last batch of each migration carries the new version, so
//! that a kill at any instant leaves either the old schema or the new one.

use bytes::Bytes;

use super::guarded::{Batch, Sled, StoreFault};
use super::layout::{NEWEST, SCHEMA, meta_key, seal, unseal};

#[path = "../../migrations/v1.rs"]
mod v1;
#[path = "../../migrations/v2.rs"]
mod v2;
#[path = "../../migrations/v3.rs"]
mod v3;
#[path = "../../migrations/v4.rs"]
mod v4;

/// A migration from the schema before to its own. Batches that it applies itself must be harmless
/// to the schema before and to a second run. The batch that it returns is applied together with the
/// new version.
type Migration = fn(&Sled) -> Result<Batch, StoreFault>;

/// The migration to schema N is at N-1.
const MIGRATIONS: [Migration; NEWEST as usize] =
    [v1::migrate, v2::migrate, v3::migrate, v4::migrate];

/// The subject of each migration: that to schema N is at N-1.
const ABOUT: [&str; MIGRATIONS.len()] =
    ["an empty store", "hints and the list of members", "GC epochs of partitions", "a commit log"];

/// Why the data does not have the newest schema.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SchemaError {
    /// It has a newer one; nothing was changed.
    Newer(u32),
    /// It has an older one, and was not to be changed.
    Older(u32),
    /// It has none; nothing was changed.
    Lost,
    /// A migration failed; those before it are done.
    StoreFault(StoreFault),
}

impl From<StoreFault> for SchemaError {
    fn from(fault: StoreFault) -> Self {
        SchemaError::StoreFault(fault)
    }
}

/// Brings an empty store to the newest schema, and syncs it.
pub(super) fn create(sled: &Sled) -> Result<(), StoreFault> {
    run(sled, &MIGRATIONS, 0)
}

/// Brings the store from its schema to the newest, and syncs it.
pub(super) fn migrate(sled: &Sled) -> Result<(), SchemaError> {
    migrate_with(sled, &MIGRATIONS)
}

/// The schema of the store, if this program knows it. Changes nothing.
pub(super) fn found(sled: &Sled) -> Result<u32, SchemaError> {
    match version(sled)? {
        newer if newer > NEWEST => Err(SchemaError::Newer(newer)),
        known => Ok(known),
    }
}

/// The migrations that a store of this schema needs: the schema that each leads to, and its
/// subject.
pub(super) fn steps(from: u32) -> Vec<(u32, &'static str)> {
    (1..).zip(ABOUT).filter(|(to, _)| *to > from).collect()
}

/// Returns an error unless the store has the newest schema. Changes nothing.
pub(super) fn verify(sled: &Sled) -> Result<(), SchemaError> {
    match version(sled)? {
        NEWEST => Ok(()),
        newer @ NEWEST.. => Err(SchemaError::Newer(newer)),
        older => Err(SchemaError::Older(older)),
    }
}

fn migrate_with(sled: &Sled, migrations: &[Migration]) -> Result<(), SchemaError> {
    let version = version(sled)?;
    if version as usize > migrations.len() {
        return Err(SchemaError::Newer(version));
    }
    Ok(run(sled, migrations, version)?)
}

fn version(sled: &Sled) -> Result<u32, SchemaError> {
    let bytes = sled.get(&meta_key(SCHEMA))?.ok_or(SchemaError::Lost)?;
    decode(&bytes).filter(|version| *version > 0).ok_or(SchemaError::Lost)
}

fn decode(bytes: &Bytes) -> Option<u32> {
    Some(u32::from_be_bytes(unseal(SCHEMA, bytes)?.as_ref().try_into().ok()?))
}

fn run(sled: &Sled, migrations: &[Migration], done: u32) -> Result<(), StoreFault> {
    for (version, migration) in (1u32..).zip(migrations).skip(done as usize) {
        let mut batch = migration(sled)?;
        batch.insert(meta_key(SCHEMA), seal(SCHEMA, &version.to_be_bytes()));
        sled.apply(batch)?;
        sled.sync()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fifth(_: &Sled) -> Result<Batch, StoreFault> {
        let mut batch = Batch::default();
        batch.insert(meta_key("fifth"), &b"done"[..]);
        Ok(batch)
    }

    fn killed(sled: &Sled) -> Result<Batch, StoreFault> {
        let mut batch = Batch::default();
        batch.insert(meta_key("half"), &b"done"[..]);
        sled.apply(batch)?;
        Err(StoreFault::Io("killed".into()))
    }

    #[test]
    fn steps_run_once_in_order_and_an_interrupted_one_runs_again() {
        let dir = tempfile::tempdir().unwrap();
        let sled = Sled::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(migrate(&sled), Err(SchemaError::Lost), "an empty store is not an old one");
        create(&sled).unwrap();
        let version = || decode(&sled.get(&meta_key(SCHEMA)).unwrap().unwrap());
        assert_eq!(version(), Some(4));
        let steps = [v1::migrate, v2::migrate, v3::migrate, v4::migrate];
        let stopped = migrate_with(&sled, &[&steps[..], &[killed]].concat());
        assert_eq!(stopped, Err(SchemaError::StoreFault(StoreFault::Io("killed".into()))));
        assert_eq!(version(), Some(4), "the half-done step does not count");
        migrate_with(&sled, &[killed, killed, killed, killed, fifth]).unwrap();
        assert_eq!(version(), Some(5));
        assert_eq!(sled.get(&meta_key("fifth")).unwrap().unwrap(), "done");
        migrate_with(&sled, &[killed as Migration; 5]).unwrap();
        assert_eq!(migrate(&sled), Err(SchemaError::Newer(5)));
    }

    #[test]
    fn a_store_of_schema_1_becomes_the_newest_or_stays_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let sled = Sled::open(dir.path(), 1 << 20).unwrap();
        run(&sled, &[v1::migrate], 0).unwrap();
        assert_eq!(verify(&sled), Err(SchemaError::Older(1)));
        assert!(migrate_with(&sled, &[killed, killed]).is_err());
        assert_eq!(verify(&sled), Err(SchemaError::Older(1)));
        migrate(&sled).unwrap();
        assert_eq!(verify(&sled), Ok(()));
        migrate_with(&sled, &[killed as Migration; 4]).unwrap();
        assert_eq!(migrate_with(&sled, &[v1::migrate]), Err(SchemaError::Newer(4)));
    }
}
