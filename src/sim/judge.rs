//! The judge: remembers what every client was told and holds the store to it.

use std::collections::{BTreeMap, BTreeSet};

use crate::causal::{Context, Dot, Object};
use crate::types::{Key, Micros, WriteId};

/// A promise that was broken, and the key concerned.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub(super) key: Key,
    pub(super) what: String,
}

/// A write as its client knows it. Deletes have an id here too, drawn like a put's.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) key: Key,
    pub(super) context: Context,
    pub(super) is_delete: bool,
    /// False once it is certain that it was never carried out.
    pub(super) possible: bool,
    /// When, with which W and with which dot it was acknowledged.
    pub(super) acknowledged: Option<(Micros, u8, Option<Dot>)>,
}

/// What a client is told of a write.
pub(super) struct Acknowledgement {
    pub(super) now: Micros,
    pub(super) w: u8,
    pub(super) dot: Option<Dot>,
    pub(super) context: Context,
}

/// Everything that was written and read.
#[derive(Debug, Default)]
pub(super) struct Judge {
    writes: BTreeMap<WriteId, Write>,
    by_key: BTreeMap<Key, Vec<WriteId>>,
    dots: BTreeMap<(Key, Dot), WriteId>,
}

/// The value that the simulator writes for a write id.
pub(super) fn value_of(write: WriteId) -> Vec<u8> {
    write.0.to_be_bytes().to_vec()
}

fn write_of(value: &[u8]) -> Option<WriteId> {
    value.try_into().ok().map(|bytes| WriteId(u128::from_be_bytes(bytes)))
}

impl Judge {
    /// A client is about to send a write.
    pub(super) fn issue(&mut self, id: WriteId, write: Write) {
        self.by_key.entry(write.key.clone()).or_default().push(id);
        self.writes.insert(id, write);
    }

    /// The client was told that its write was refused, at every attempt.
    pub(super) fn refuse(&mut self, id: WriteId) {
        if let Some(write) = self.writes.get_mut(&id) {
            write.possible = false;
        }
    }

    fn on_key<'a>(&'a self, key: &Key) -> impl Iterator<Item = (WriteId, &'a Write)> {
        let ids = self.by_key.get(key).map_or(&[][..], Vec::as_slice);
        ids.iter().filter_map(|id| self.writes.get(id).map(|write| (*id, write)))
    }

    /// A write is acknowledged now: W of the `durable` images of its key must hold it, and the context
    /// given must cover nothing that its client was not shown.
    pub(super) fn acknowledge(
        &mut self,
        id: WriteId,
        Acknowledgement { now, w, dot, context }: Acknowledgement,
        durable: &[Object],
    ) -> Result<(), Broken> {
        let Some(write) = self.writes.get_mut(&id) else { return Ok(()) };
        write.acknowledged = Some((now, w, dot));
        let (key, is_delete, seen) = (write.key.clone(), write.is_delete, write.context.clone());
        let broken = |what: String| Err(Broken { key: key.clone(), what });
        if dot.is_some() == is_delete {
            return broken(format!("{id:?} was acknowledged with the dot {dot:?}"));
        }
        let holds = |object: &&Object| match dot {
            Some(dot) => object.covers(dot),
            None => seen.dots().iter().all(|dot| object.covers(*dot)),
        };
        let held = durable.iter().filter(holds).count();
        if held < usize::from(w) {
            return broken(format!("{id:?} was acknowledged with W={w}, and {held} disks hold it"));
        }
        if let Some(dot) = dot {
            self.claim(&key, dot, id)?;
        }
        for (other, theirs) in self.on_key(&key).filter(|(other, _)| *other != id) {
            if let Some((.., Some(dot))) = theirs.acknowledged
                && context.covers(dot)
                && !seen.covers(dot)
                && !self.superseded(&key, other, dot)
            {
                return broken(format!("the context given for {id:?} covers {other:?}, not shown"));
            }
        }
        durable.iter().try_for_each(|object| self.check_object(&key, object))
    }

    /// A dot names one write for ever.
    fn claim(&mut self, key: &Key, dot: Dot, id: WriteId) -> Result<(), Broken> {
        let owner = *self.dots.entry((key.clone(), dot)).or_insert(id);
        if owner != id {
            let what = format!("{dot:?} names two writes, {owner:?} and {id:?}");
            return Err(Broken { key: key.clone(), what });
        }
        Ok(())
    }

    fn check_object(&mut self, key: &Key, object: &Object) -> Result<(), Broken> {
        let mut minted = BTreeSet::new();
        for (dot, version) in object.values() {
            self.claim(key, dot, version.write)?;
            if !minted.insert((version.write, dot.actor)) {
                let what = format!("{:?} happened twice at {:?}", version.write, dot.actor);
                return Err(Broken { key: key.clone(), what });
            }
        }
        Ok(())
    }

    /// True if some write that may have happened, other than `id`, had seen `dot`.
    fn superseded(&self, key: &Key, id: WriteId, dot: Dot) -> bool {
        self.on_key(key)
            .any(|(other, write)| other != id && write.possible && write.context.covers(dot))
    }

    /// A read that began at `since` with quorum `r` of `n` returns these values now: some disk holds
    /// each, and everything that was acknowledged before and intersects is among them, or superseded.
    pub(super) fn check_read(
        &self,
        key: &Key,
        since: Micros,
        (r, n): (u8, u8),
        values: &[Vec<u8>],
        context: &Context,
        durable: &[Object],
    ) -> Result<(), Broken> {
        let broken = |what: String| Err(Broken { key: key.clone(), what });
        let held = |dot: &&Dot| durable.iter().any(|object| object.covers(**dot));
        if let Some(dot) = context.dots().iter().find(|dot| !held(dot)) {
            return broken(format!("a read shows {dot:?}, which no disk holds yet"));
        }
        let mut read = BTreeSet::new();
        for value in values {
            let write = write_of(value).and_then(|id| Some((id, self.writes.get(&id)?)));
            match write {
                Some((id, write)) if write.key == *key && write.possible => {
                    if !read.insert(id) {
                        return broken(format!("a read shows {id:?} twice"));
                    }
                }
                _ => return broken(format!("a read shows {value:?}, which nobody wrote")),
            }
        }
        for (id, write) in self.on_key(key) {
            let Some((at, w, dot)) = write.acknowledged else { continue };
            if at >= since || w + r <= n {
                continue;
            }
            let unseen = match dot {
                Some(dot) => !context.covers(dot),
                None => !write.context.dots().iter().all(|dot| context.covers(*dot)),
            };
            if unseen {
                return broken(format!("a read with R={r} misses {id:?}, acknowledged with W={w}"));
            }
            if let Some(dot) = dot
                && !read.contains(&id)
                && !self.superseded(key, id, dot)
            {
                return broken(format!(
                    "{id:?} was acknowledged, and a read knows it only as gone"
                ));
            }
        }
        Ok(())
    }

    /// A listing of the key's partition at every replica, after healing: a key that was put is in it.
    pub(super) fn check_listing(&self, key: &Key, listed: &[Key]) -> Result<(), Broken> {
        let put = |(_, write): (WriteId, &Write)| write.acknowledged.is_some() && !write.is_delete;
        if self.on_key(key).any(put) && !listed.contains(key) {
            let what = "a listing misses an acknowledged key".into();
            return Err(Broken { key: key.clone(), what });
        }
        Ok(())
    }

    /// The end: `merged` is the join of every disk's copy of the key.
    pub(super) fn check_end(&mut self, key: &Key, merged: &Object) -> Result<(), Broken> {
        self.check_object(key, merged)?;
        let broken = |what: String| Err(Broken { key: key.clone(), what });
        let live: BTreeMap<Dot, WriteId> =
            merged.values().map(|(dot, version)| (dot, version.write)).collect();
        for (id, write) in self.on_key(key) {
            let Some((.., dot)) = write.acknowledged else { continue };
            if let Some(dot) = dot
                && live.get(&dot) != Some(&id)
                && !(merged.covers(dot) && self.superseded(key, id, dot))
            {
                return broken(format!("{id:?} was acknowledged as {dot:?} and is lost"));
            }
            if let Some((dot, _)) = live.iter().find(|(dot, _)| write.context.covers(**dot)) {
                return broken(format!("{dot:?} was overwritten by {id:?} and is alive"));
            }
        }
        for id in live.values() {
            if self.writes.get(id).is_none_or(|write| !write.possible) {
                return broken(format!("{id:?} was refused, and is there"));
            }
        }
        Ok(())
    }
}
