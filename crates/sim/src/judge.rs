//! The judge: remembers every answer that a client received and holds the store to it.

mod erasures;

use std::collections::{BTreeMap, BTreeSet};

use pixii_core::causal::{Actor, Context, Dot, Object};
use pixii_core::gc_epoch::GcState;
use pixii_core::types::{Key, NodeId, Time, WriteId};

use erasures::Erasures;

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
    /// What it covers; of a decided write, what it was seen to cover.
    pub(super) context: Context,
    /// What its client was shown and asked to replace.
    pub(super) shown: Context,
    pub(super) is_delete: bool,
    /// True if its issuer decides what it covers.
    pub(super) is_decided: bool,
    /// When its client ceased to wait for it.
    pub(super) ended: Option<Time>,
    /// False once it is certain that no node carried it out.
    pub(super) possible: bool,
    pub(super) acknowledged: Option<Acknowledged>,
}

/// What a host would have of a key after a power cut at this moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    /// Its place among the owners of the key; `None` if it owns no replica.
    pub(super) owner: Option<usize>,
    /// Its own replica; an empty object if it has none.
    pub(super) own: Object,
    /// The hints that it keeps, with the place of the owner that each is for; `None` if that one
    /// is an owner under the other table of a change only.
    pub(super) hints: Vec<(Option<usize>, Object)>,
}

impl Image {
    /// The merge of the replica and all hints.
    pub(super) fn joined(&self) -> Object {
        self.hints.iter().fold(self.own.clone(), |all, (_, hint)| all.sync(hint))
    }
}

/// Counts the slots that hold something. An owner fills its own slot, any other host the slot of
/// one owner that it keeps a hint for.
fn slots(images: &[Image], strict: bool, holds: &impl Fn(&Object) -> bool) -> usize {
    let mut filled: BTreeMap<usize, Option<usize>> = BTreeMap::new();
    for image in images {
        if let Some(owner) = image.owner
            && holds(&image.own)
        {
            filled.insert(owner, None);
        }
    }
    let others = images.iter().enumerate().filter(|(_, image)| image.owner.is_none() && !strict);
    for (host, _) in others {
        place(host, images, holds, &mut filled, &mut BTreeSet::new());
    }
    filled.len()
}

fn place(
    host: usize,
    images: &[Image],
    holds: &impl Fn(&Object) -> bool,
    filled: &mut BTreeMap<usize, Option<usize>>,
    tried: &mut BTreeSet<usize>,
) -> bool {
    for (slot, hint) in &images[host].hints {
        let Some(slot) = slot else { continue };
        if !holds(hint) || !tried.insert(*slot) {
            continue;
        }
        let free = match filled.get(slot).copied() {
            None => true,
            Some(None) => false,
            Some(Some(other)) => place(other, images, holds, filled, tried),
        };
        if free {
            filled.insert(*slot, Some(host));
            return true;
        }
    }
    false
}

/// What is known of a write that was acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Acknowledged {
    since: Time,
    at: Time,
    w: u8,
    strict: bool,
    dot: Option<Dot>,
    /// The hosts whose disks held the write when it was acknowledged, or that may have held it
    /// before they lost data.
    holders: Vec<usize>,
}

/// A disk that lost data: all keys, or one.
#[derive(Debug)]
struct Loss {
    at: Time,
    host: usize,
    key: Option<Key>,
    /// True if no node could notice the loss: the host stays read-eligible all the same.
    silent: bool,
}

impl Loss {
    fn concerns(&self, key: &Key) -> bool {
        self.key.as_ref().is_none_or(|lost| lost == key)
    }
}

/// The acknowledgement of a write, as its client receives it.
pub(super) struct Acknowledgement {
    /// When the client sent the request, and when it receives the acknowledgement.
    pub(super) since: Time,
    pub(super) now: Time,
    pub(super) w: u8,
    pub(super) strict: bool,
    pub(super) dot: Option<Dot>,
    pub(super) context: Context,
}

/// The writes and the losses of a run, against which answers are checked.
#[derive(Debug, Default)]
pub(super) struct Judge {
    writes: BTreeMap<WriteId, Write>,
    by_key: BTreeMap<Key, Vec<WriteId>>,
    dots: BTreeMap<(Key, Dot), WriteId>,
    /// Every dot that a write was seen with: more than one if a retry was carried out by another
    /// replica.
    dots_of: BTreeMap<WriteId, Vec<Dot>>,
    losses: Vec<Loss>,
    /// A read with at least this many values may omit others; its context does not cover the
    /// omitted ones.
    cut_from: Option<usize>,
    /// Events of each key that were purged: no clock has to contain them any more.
    purged: BTreeMap<Key, BTreeMap<Actor, u64>>,
    erasures: Erasures,
}

/// The value that the simulator writes for a write id.
pub(super) fn value_of(write: WriteId) -> Vec<u8> {
    write.0.to_be_bytes().to_vec()
}

fn write_of(value: &[u8]) -> Option<WriteId> {
    value.try_into().ok().map(|bytes| WriteId(u128::from_be_bytes(bytes)))
}

impl Judge {
    /// A host begins a GC epoch: clocks need not contain the events that it purges any more.
    pub(super) fn begin_gc_epoch(&mut self, gc_epoch: &GcState) {
        for purgeable_key in &gc_epoch.purged {
            let known = self.purged.entry(purgeable_key.key.clone()).or_default();
            for dot in purgeable_key.dead.dots() {
                let counter = known.entry(dot.actor).or_default();
                *counter = dot.counter.max(*counter);
            }
        }
    }

    /// Reads with this many values or more may omit others.
    pub(super) fn cut_reads_from(&mut self, values: usize) {
        self.cut_from = Some(values);
    }

    /// A host erases what it holds of a key: from now on these hold it. Losses of the host before
    /// go on to count.
    pub(super) fn pass_on(&mut self, key: &Key, host: usize, heirs: &[usize]) {
        for id in self.by_key.get(key).into_iter().flatten() {
            let write = self.writes.get_mut(id).and_then(|write| write.acknowledged.as_mut());
            let Some(acknowledged) = write else { continue };
            if acknowledged.holders.contains(&host) {
                acknowledged.holders.extend(heirs);
                acknowledged.holders.sort_unstable();
                acknowledged.holders.dedup();
            }
        }
    }

    /// True if a host has lost data since then.
    pub(super) fn has_lost_since(&self, host: usize, since: Time) -> bool {
        self.losses.iter().any(|loss| loss.host == host && loss.at >= since)
    }

    pub(super) fn is_purged(&self, key: &Key, dot: Dot) -> bool {
        let counter = self.purged.get(key).and_then(|known| known.get(&dot.actor));
        counter.is_some_and(|counter| *counter >= dot.counter)
    }

    /// Every key that was written to.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.by_key.keys()
    }

    /// A client is about to send a write.
    pub(super) fn issue(&mut self, id: WriteId, write: Write) {
        self.by_key.entry(write.key.clone()).or_default().push(id);
        self.writes.insert(id, write);
    }

    /// The client learned that its write was refused, at every attempt.
    pub(super) fn refuse(&mut self, id: WriteId) {
        if let Some(write) = self.writes.get_mut(&id) {
            write.possible = false;
        }
    }

    /// The client has given up an attempt and ignores a late acknowledgement of it. The following
    /// attempts decide whether the write counts.
    pub(super) fn unheard(&mut self, id: WriteId) {
        if let Some(write) = self.writes.get_mut(&id) {
            write.acknowledged = None;
        }
    }

    fn on_key<'a>(&'a self, key: &Key) -> impl Iterator<Item = (WriteId, &'a Write)> {
        let ids = self.by_key.get(key).map_or(&[][..], Vec::as_slice);
        ids.iter().filter_map(|id| self.writes.get(id).map(|write| (*id, write)))
    }

    /// A write is acknowledged now: W of the `durable` images of its key must hold it, and the
    /// context given must cover nothing that its client was not shown.
    pub(super) fn acknowledge(
        &mut self,
        id: WriteId,
        Acknowledgement { since, now, w, strict, dot, context }: Acknowledgement,
        durable: &[Image],
    ) -> Result<(), Broken> {
        let Some(write) = self.writes.get_mut(&id) else { return Ok(()) };
        if write.is_decided && write.is_delete {
            // What it covers is known only from the answer.
            write.context = context.clone();
        }
        let (key, is_delete, seen) = (write.key.clone(), write.is_delete, write.context.clone());
        let reported = |object: &Object, dot: Dot| object.covers(dot) || self.is_purged(&key, dot);
        let holds = |object: &Object| match dot {
            Some(dot) => reported(object, dot),
            None => seen.dots().iter().all(|dot| reported(object, *dot)),
        };
        let hosts = durable.iter().enumerate().filter(|(_, image)| holds(&image.joined()));
        let mut holders: Vec<usize> = hosts.map(|(host, _)| host).collect();
        let held = slots(durable, strict, &holds);
        // A hint of a fallback ends up at its owner only.
        let kept =
            durable.iter().filter(|image| image.owner.is_none()).flat_map(|image| &image.hints);
        let heirs: BTreeSet<usize> =
            kept.filter(|(_, hint)| holds(hint)).filter_map(|(owner, _)| *owner).collect();
        let heirs =
            |(_, image): &(usize, &Image)| image.owner.is_some_and(|at| heirs.contains(&at));
        holders.extend(durable.iter().enumerate().filter(heirs).map(|(host, _)| host));
        let lost = self.losses.iter().filter(|loss| loss.at >= since && loss.concerns(&key));
        holders.extend(lost.map(|loss| loss.host));
        holders.sort_unstable();
        holders.dedup();
        let acknowledged = Acknowledged { since, at: now, w, strict, dot, holders };
        if let Some(write) = self.writes.get_mut(&id) {
            write.acknowledged = Some(acknowledged);
        }
        let broken = |what: String| Err(Broken { key: key.clone(), what });
        if dot.is_some() == is_delete {
            return broken(format!("{id:?} was acknowledged with the dot {dot:?}"));
        }
        if held < usize::from(w) && !self.lost_since(since, &key) {
            return broken(format!("{id:?} was acknowledged with W={w}, and {held} slots hold it"));
        }
        if let Some(dot) = dot {
            self.claim(&key, dot, id)?;
        }
        for (other, theirs) in self.on_key(&key).filter(|(other, _)| *other != id) {
            if let Some(Acknowledged { dot: Some(dot), .. }) = theirs.acknowledged
                && context.covers(dot)
                && !seen.covers(dot)
                && !self.superseded(&key, other, dot)
            {
                return broken(format!("the context given for {id:?} covers {other:?}, not shown"));
            }
        }
        durable.iter().try_for_each(|image| self.check_object(&key, &image.joined()))
    }

    /// A host's disk lost all data, or one key.
    pub(super) fn lose(&mut self, at: Time, host: usize, key: Option<Key>) {
        self.losses.push(Loss { at, host, key, silent: false });
    }

    /// The last loss of this host could not be noticed, so it is excused.
    pub(super) fn excuse(&mut self, host: usize) {
        if let Some(loss) = self.losses.iter_mut().rev().find(|loss| loss.host == host) {
            loss.silent = true;
        }
    }

    /// True if a disk that held the write may have lost it unnoticed: a read may miss the write
    /// there.
    fn is_excused(&self, Acknowledged { since, holders, .. }: &Acknowledged) -> bool {
        let mut silent = self.losses.iter().filter(|loss| loss.silent && loss.at >= *since);
        silent.any(|loss| holders.contains(&loss.host))
    }

    /// True if some disk has lost the key since then: it may have lost what it had acknowledged.
    fn lost_since(&self, since: Time, key: &Key) -> bool {
        self.losses.iter().any(|loss| loss.at >= since && loss.concerns(key))
    }

    /// True if W or more of the disks that held the write have lost it: no promise holds any more.
    fn is_void(&self, key: &Key, Acknowledged { since, w, holders, .. }: &Acknowledged) -> bool {
        let forgot = |host: &&usize| {
            let mut losses = self.losses.iter().filter(|loss| loss.host == **host);
            losses.any(|loss| loss.at >= *since && loss.concerns(key))
        };
        holders.iter().filter(forgot).count() >= usize::from(*w)
    }

    /// A dot names the same write for ever.
    fn claim(&mut self, key: &Key, dot: Dot, id: WriteId) -> Result<(), Broken> {
        let owner = *self.dots.entry((key.clone(), dot)).or_insert_with(|| {
            self.dots_of.entry(id).or_default().push(dot);
            id
        });
        if owner != id {
            let what = format!("{dot:?} names two writes, {owner:?} and {id:?}");
            return Err(Broken { key: key.clone(), what });
        }
        Ok(())
    }

    /// A host writes this object: each dot in it names the same write for ever.
    pub(super) fn check_object(&mut self, key: &Key, object: &Object) -> Result<(), Broken> {
        let mut issued = BTreeSet::new();
        for (dot, version) in object.values() {
            self.claim(key, dot, version.write)?;
            if !issued.insert((version.write, dot.actor)) {
                let what = format!("{:?} happened twice at {:?}", version.write, dot.actor);
                return Err(Broken { key: key.clone(), what });
            }
        }
        Ok(())
    }

    /// True if another write that may have happened had seen `dot` or any other dot of `id`.
    fn superseded(&self, key: &Key, id: WriteId, dot: Dot) -> bool {
        let dots = self.dots_of.get(&id).into_iter().flatten().copied();
        let dots: Vec<Dot> = dots.chain([dot]).collect();
        let covers = |write: &Write, dot| write.context.covers(dot) || write.shown.covers(dot);
        let saw = |write: &Write| dots.iter().any(|dot| covers(write, *dot));
        let decided = || dots.iter().any(|dot| self.erasures.is_decided(key, *dot));
        self.on_key(key).any(|(other, write)| other != id && write.possible && saw(write))
            || decided()
    }

    /// A read that began at `since` with quorum `r` of `n` returns these values now: some disk
    /// holds each, and everything that was acknowledged before and intersects is among them, or
    /// superseded.
    pub(super) fn check_read(
        &self,
        key: &Key,
        since: Time,
        (r, n, strict): (u8, u8, bool),
        values: &[Vec<u8>],
        context: &Context,
        durable: &[Image],
    ) -> Result<(), Broken> {
        let broken = |what: String| Err(Broken { key: key.clone(), what });
        let held = |dot: &&Dot| durable.iter().any(|image| image.joined().covers(**dot));
        let held = |dot: &&Dot| held(dot) || self.is_purged(key, **dot);
        if let Some(dot) = context.dots().iter().find(|dot| !held(dot))
            && !self.lost_since(since, key)
        {
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
            let Some(reported) = &write.acknowledged else { continue };
            let Acknowledged { at, w, dot, .. } = *reported;
            // Writes that fallbacks took count for a read once their hints have arrived. But a
            // fallback counts only with the hints that it keeps: if a read shows nothing, not even
            // a tombstone, R owners have answered so.
            let stood_in = !strict && !context.is_empty();
            let sloppy = stood_in || !reported.strict;
            let void = sloppy || self.is_void(key, reported) || self.is_excused(reported);
            if at >= since || w + r <= n || void {
                continue;
            }
            let unseen = |dot: Dot| !context.covers(dot) && !self.is_purged(key, dot);
            let unseen = match dot {
                Some(dot) => unseen(dot),
                None => write.context.dots().iter().any(|dot| unseen(*dot)),
            };
            if unseen && self.cut_from.is_some_and(|limit| values.len() + 1 >= limit) {
                continue;
            }
            if unseen {
                return broken(format!("a read with R={r} misses {id:?}, acknowledged with W={w}"));
            }
            if let Some(back) = read.iter().find(|id| self.has_replaced(write, **id)) {
                return broken(format!("a read shows {back:?}, which {id:?} had replaced"));
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

    /// True if `write` had seen all of `other`, so that no value of `other` may be shown any more.
    /// A write that was sent to several nodes also has a dot of its own actor, and that dot
    /// decides: a client that has seen only the dot of the first node has not seen the other
    /// copies. (A read that does not miss the put once it is acknowledged sees the dot of its own
    /// actor.)
    fn has_replaced(&self, write: &Write, other: WriteId) -> bool {
        let Some(dots) = self.dots_of.get(&other) else { return false };
        let own = Dot { actor: Actor::of_write(other), counter: 1 };
        match dots.contains(&own) {
            true => write.context.covers(own),
            false => dots.iter().all(|dot| write.context.covers(*dot)),
        }
    }

    /// A listing of the key's partition with quorum `r` of `n`, after healing: a key that was put
    /// is in it.
    pub(super) fn check_listing(
        &self,
        key: &Key,
        (r, n): (u8, u8),
        listed: &[Key],
    ) -> Result<(), Broken> {
        let put = |(_, write): (WriteId, &Write)| {
            let reported = write.acknowledged.as_ref();
            let open = |reported: &Acknowledged| {
                // What a fallback took may have gone with its disk before it was delivered.
                let kept = reported.strict || !self.lost_since(reported.since, key);
                reported.w + r > n
                    && kept
                    && !self.is_void(key, reported)
                    && !self.is_excused(reported)
            };
            let gone = reported
                .and_then(|reported| reported.dot)
                .is_some_and(|dot| self.is_purged(key, dot));
            !write.is_delete && !gone && reported.is_some_and(open)
        };
        if self.on_key(key).any(put) && !listed.contains(key) {
            let what = "a listing misses an acknowledged key".into();
            return Err(Broken { key: key.clone(), what });
        }
        Ok(())
    }

    /// An acknowledged write that this copy lacks although it is not purged; `None` if there is
    /// none.
    pub(super) fn lacking(&self, key: &Key, copy: &Object) -> Option<WriteId> {
        let reported = |dot: Dot| copy.covers(dot) || self.is_purged(key, dot);
        let lacks = |(_, write): &(WriteId, &Write)| match &write.acknowledged {
            Some(Acknowledged { dot: Some(dot), .. }) => !reported(*dot),
            Some(_) => write.context.dots().iter().any(|dot| !reported(*dot)),
            None => false,
        };
        self.on_key(key).find(lacks).map(|(id, _)| id)
    }

    /// The end: the copies of a key's owners that answered the last read are the same.
    pub(super) fn check_equal(&self, key: &Key, copies: &[(NodeId, Object)]) -> Result<(), Broken> {
        // Owners purge events one after the other: their copies may differ by these events, and by
        // nothing else.
        let known = self.purged.get(key).into_iter().flatten();
        let purged = Context::new(
            known.map(|(actor, counter)| Dot { actor: *actor, counter: *counter }).collect(),
        );
        let kept = |copy: &Object| copy.forget(&purged);
        let differ = |pair: &&[(NodeId, Object)]| kept(&pair[0].1) != kept(&pair[1].1);
        match copies.windows(2).find(differ) {
            Some([(one, _), (other, _)]) => {
                let what = format!("after a read of all, {one:?} and {other:?} still differ");
                Err(Broken { key: key.clone(), what })
            }
            _ => Ok(()),
        }
    }

    /// The end: `merged` is the join of every disk's copy of the key.
    pub(super) fn check_end(&mut self, key: &Key, merged: &Object) -> Result<(), Broken> {
        self.check_object(key, merged)?;
        let broken = |what: String| Err(Broken { key: key.clone(), what });
        let live: BTreeMap<Dot, WriteId> =
            merged.values().map(|(dot, version)| (dot, version.write)).collect();
        for (id, write) in self.on_key(key) {
            let Some(reported) = &write.acknowledged else { continue };
            if self.is_void(key, reported) {
                continue;
            }
            if let Some(dot) = reported.dot
                && live.get(&dot) != Some(&id)
                && !((merged.covers(dot) || self.is_purged(key, dot))
                    && self.superseded(key, id, dot))
            {
                return broken(format!("{id:?} was acknowledged as {dot:?} and is lost"));
            }
            // A write that was sent to two nodes is one event, and each of them decides what it
            // covers. The one that was not acknowledged may have lost its disk since.
            let twice = write.is_decided && reported.dot.is_some_and(|dot| dot.actor.is_of_write());
            if twice && self.losses.iter().any(|loss| loss.concerns(key)) {
                continue;
            }
            let covered = |(dot, other): &(&Dot, &WriteId)| {
                write.context.covers(**dot)
                    || write.context.covers(Dot { actor: Actor::of_write(**other), counter: 1 })
            };
            if let Some((dot, _)) = live.iter().find(covered) {
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
