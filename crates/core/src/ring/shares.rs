//! How many replicas each member is due: shares by weight under the limits of nodes and zones, in
//! exact fractions, and their rounding to whole replicas.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use super::RingMember;

/// The members by zone, and how many replicas of one partition each zone may and must hold. Members
/// and zones are numbers: places in the sorted list of members, and zones in order of their first
/// member.
pub(super) struct Layout {
    pub n: usize,
    pub partitions: usize,
    pub weights: Vec<u64>,
    pub zone_of: Vec<usize>,
    pub zones: Vec<Vec<usize>>,
    /// Most replicas of one partition that some zone holds.
    pub spread: usize,
    /// Fewest replicas of one partition in each zone.
    pub low: Vec<usize>,
    /// Most replicas of one partition in each zone: `low`, or one more.
    pub high: Vec<usize>,
}

impl Layout {
    /// `members` sorted by id, at least `n` of them.
    pub fn new(members: &[RingMember], n: usize, partitions: usize) -> Self {
        let mut known = BTreeMap::new();
        let mut zones: Vec<Vec<usize>> = Vec::new();
        let mut zone_of = Vec::with_capacity(members.len());
        for (at, member) in members.iter().enumerate() {
            let next = zones.len();
            let zone = member.zone.map_or(next, |zone| *known.entry(zone).or_insert(next));
            if zone == next {
                zones.push(Vec::new());
            }
            zones[zone].push(at);
            zone_of.push(zone);
        }
        let room =
            |limit: usize| zones.iter().map(|zone| zone.len().min(limit)).collect::<Vec<_>>();
        let spread = (1..n).find(|limit| room(*limit).iter().sum::<usize>() >= n).unwrap_or(n);
        let (low, high) = (room(spread - 1), room(spread));
        let weights = members.iter().map(|member| u64::from(member.weight)).collect();
        Layout { n, partitions, weights, zone_of, zones, spread, low, high }
    }

    /// What every member is due, and what every zone is.
    ///
    /// One level λ for all: a member is due λ times its weight, at most Q; a zone with less than
    /// its least or more than its most is frozen there and has a level of its own, and λ is found
    /// again for the others. Which way round to freeze is the rule of CSS flexible boxes (section
    /// 9.7): the side whose total excess is larger, for that one stays excessive whatever the
    /// others do.
    pub fn shares(&self) -> (Vec<Share>, Vec<Share>) {
        let q = self.partitions;
        let mut shares = vec![Share::whole(0); self.weights.len()];
        let mut zone_shares = vec![Share::whole(0); self.zones.len()];
        let mut open: Vec<usize> = (0..self.zones.len()).collect();
        let mut rest = self.n * q;
        loop {
            let members: Vec<usize> = open.iter().flat_map(|z| &self.zones[*z]).copied().collect();
            let per = self.level(&members, rest, &mut shares);
            let (mut over, mut under) = (Vec::new(), Vec::new());
            let (mut excess, mut lack) = (0, 0);
            for &z in &open {
                let sum = self.zones[z].iter().map(|i| shares[*i].parts).sum();
                zone_shares[z] = Share { parts: sum, per };
                let (low, high) = ((self.low[z] * q) as u64 * per, (self.high[z] * q) as u64 * per);
                if sum > high {
                    over.push(z);
                    excess += sum - high;
                } else if sum < low {
                    under.push(z);
                    lack += low - sum;
                }
            }
            let (frozen, bound) =
                if excess >= lack { (over, &self.high) } else { (under, &self.low) };
            if frozen.is_empty() {
                return (shares, zone_shares);
            }
            for z in frozen {
                let total = bound[z] * q;
                zone_shares[z] = Share::whole(total as u64);
                self.level(&self.zones[z], total, &mut shares);
                rest -= total;
                open.retain(|other| *other != z);
            }
        }
    }

    /// Deals `total` replicas to `members` by weight, none above Q; returns the denominator of the
    /// shares.
    fn level(&self, members: &[usize], total: usize, shares: &mut [Share]) -> u64 {
        let q = self.partitions as u64;
        let mut heaviest = members.to_vec();
        heaviest.sort_unstable_by_key(|i| Reverse(self.weights[*i]));
        let mut rest = total as u64;
        let mut weight: u64 = members.iter().map(|i| self.weights[*i]).sum();
        let mut full = 0;
        for &i in &heaviest {
            if self.weights[i] * rest < q * weight {
                break;
            }
            (full, rest, weight) = (full + 1, rest - q, weight - self.weights[i]);
        }
        let per = weight.max(1);
        for (at, &i) in heaviest.iter().enumerate() {
            let parts = if at < full { q * per } else { self.weights[i] * rest };
            shares[i] = Share { parts, per };
        }
        per
    }

    /// Replicas of each partition that are above the zones' least.
    pub fn free(&self) -> usize {
        self.n - self.low.iter().sum::<usize>()
    }

    /// What the members should hold when they hold `load` now, give or take `slack` parts of
    /// [`super::WHOLE`] of their shares.
    pub fn bounds(&self, load: &[usize], slack: usize) -> Bounds {
        let quota = self.quotas(load);
        if slack == 0 {
            return Bounds { low: quota.clone(), high: quota.clone(), quota };
        }
        let (shares, _) = self.shares();
        let give = |share: &Share| (share.ceil() * slack).div_ceil(super::WHOLE);
        let low = shares.iter().map(|share| share.floor().saturating_sub(give(share))).collect();
        let high = |share: &Share| (share.ceil() + give(share)).min(self.partitions);
        Bounds { low, quota, high: shares.iter().map(high).collect() }
    }

    /// Every member's and every zone's share rounded down or up, as near to what they hold now as
    /// that permits.
    fn quotas(&self, load: &[usize]) -> Vec<usize> {
        let (shares, zone_shares) = self.shares();
        let near: Vec<usize> =
            shares.iter().zip(load).map(|(share, load)| share.near(*load)).collect();
        let near_of = |zone: &Vec<usize>| zone.iter().map(|i| near[*i]).sum();
        let wanted: Vec<usize> = self.zones.iter().map(near_of).collect();
        let totals = apportion(self.n * self.partitions, &zone_shares, &wanted);
        let mut quotas = vec![0; load.len()];
        for (zone, total) in self.zones.iter().zip(totals) {
            let theirs: Vec<Share> = zone.iter().map(|i| shares[*i]).collect();
            let wanted: Vec<usize> = zone.iter().map(|i| near[*i]).collect();
            for (i, quota) in zone.iter().zip(apportion(total, &theirs, &wanted)) {
                quotas[*i] = quota;
            }
        }
        quotas
    }
}

/// How many replicas each member may hold, by member.
pub(super) struct Bounds {
    /// At least so many.
    pub low: Vec<usize>,
    /// Best so many.
    pub quota: Vec<usize>,
    /// At most so many.
    pub high: Vec<usize>,
}

/// A number of replicas as an exact fraction.
#[derive(Clone, Copy)]
pub(super) struct Share {
    parts: u64,
    per: u64,
}

impl Share {
    fn whole(parts: u64) -> Self {
        Share { parts, per: 1 }
    }

    fn floor(self) -> usize {
        (self.parts / self.per) as usize
    }

    fn ceil(self) -> usize {
        self.parts.div_ceil(self.per) as usize
    }

    /// The rounding of the share that is nearer to `load`.
    fn near(self, load: usize) -> usize {
        load.clamp(self.floor(), self.ceil())
    }

    /// The whole part of `done / of` of the share.
    pub fn due(self, done: usize, of: usize) -> usize {
        (self.parts * done as u64 / (self.per * of as u64)) as usize
    }

    /// Compares `a - self` with `b - other`.
    fn excess(self, a: usize, other: Share, b: usize) -> Ordering {
        let lead = |share: Share, held: usize| {
            held as i128 * i128::from(share.per) - i128::from(share.parts)
        };
        (lead(self, a) * i128::from(other.per)).cmp(&(lead(other, b) * i128::from(self.per)))
    }
}

/// Rounds each share down or up, so that the sum is `total` and each is near to what is wanted;
/// what must give way is what is farthest from its share.
fn apportion(total: usize, shares: &[Share], wanted: &[usize]) -> Vec<usize> {
    let mut rounded: Vec<usize> =
        shares.iter().zip(wanted).map(|(share, wanted)| share.near(*wanted)).collect();
    let sum: usize = rounded.iter().sum();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by(|a, b| shares[*a].excess(rounded[*a], shares[*b], rounded[*b]));
    if sum < total {
        order.retain(|i| rounded[*i] < shares[*i].ceil());
        order.iter().take(total - sum).for_each(|i| rounded[*i] += 1);
    } else {
        order.retain(|i| rounded[*i] > shares[*i].floor());
        order.iter().rev().take(sum - total).for_each(|i| rounded[*i] -= 1);
    }
    rounded
}
