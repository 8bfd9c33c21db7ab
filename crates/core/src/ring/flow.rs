//! The repair of a table: the fewest moves that bring every member within its bounds and every
//! partition to its zones, as a minimum-cost flow.
//!
//! From the source flow N replicas to each partition, on to its zones, on to their members, and
//! into the sink:
//!
//! ```text
//! source ──low──▶ cell ──1──▶ member ──▶ sink          a cell is a zone of a partition
//! source ──N-Σlow──▶ partition ──high-low──▶ cell
//! ```
//!
//! From a cell to a member costs [`MOVE`], or nothing where the member was owner of the partition
//! in the previous table; each replica of a member above its quota costs [`OVER`], so that a quota
//! is exceeded rather than a replica moved in vain. A full flow always exists: member i taking
//! quota(i) / Q of every partition is one in fractions, and a network of whole capacities then has
//! one in whole numbers.
//!
//! First all members are filled to their least, then on to quota and most. Either time the flow
//! begins with replicas that stay, at no cost, and grows along cheapest paths, which keeps it the
//! cheapest of its size (successive shortest paths: Jewell 1958, Busacker and Gowen 1960); of
//! these, all that are equally long are filled together (Dinic 1970). What the sink has stays
//! there, so a member that has its least keeps as much. No path costs less than nothing (what it
//! undoes has a way back to the source), so staying is always among the cheapest. Garage places
//! data by the same means (Oulamara and Auvolat, "An algorithm for geo-distributed and redundant
//! storage in Garage", 2023).

use std::collections::VecDeque;

use super::shares::{Bounds, Layout};

/// The cost of what cannot be reached.
const FAR: i32 = i32::MAX;
/// What it costs to put a replica on a member that had none of the partition.
const MOVE: i32 = 2;
/// What it costs to give a member one more than its quota.
const OVER: i32 = 1;

pub(super) struct Flow<'a> {
    layout: &'a Layout,
    bounds: &'a Bounds,
    /// How many replicas a member may have without a cost, for now.
    limit: &'a [usize],
    /// How many it may have at all, for now.
    most: &'a [usize],
    /// The replicas that may stay, in the order in which they are kept: partition and member.
    kept: &'a [(usize, usize)],
    /// Partition by member: owner in the previous table.
    was: Vec<bool>,
    /// Partition by member: owner in the table that is made.
    holds: Vec<bool>,
    /// Partition by zone: replicas.
    count: Vec<usize>,
    /// Per partition: replicas above the zones' least that have no place yet.
    free: Vec<usize>,
    /// Per member: replicas.
    load: Vec<usize>,
}

impl<'a> Flow<'a> {
    /// `kept`: partition and member of each replica of the previous table whose member is still
    /// there. The first ones stay rather than the last.
    pub fn new(layout: &'a Layout, bounds: &'a Bounds, kept: &'a [(usize, usize)]) -> Self {
        let (q, members, zones) = (layout.partitions, layout.weights.len(), layout.zones.len());
        let mut was = vec![false; q * members];
        kept.iter().for_each(|(p, i)| was[p * members + i] = true);
        Flow {
            layout,
            bounds,
            limit: &bounds.low,
            most: &bounds.low,
            kept,
            was,
            holds: vec![false; q * members],
            count: vec![0; q * zones],
            free: vec![layout.free(); q],
            load: vec![0; members],
        }
    }

    /// Places all replicas; returns the members of each partition.
    pub fn run(mut self) -> Vec<Vec<usize>> {
        self.keep();
        self.grow();
        (self.limit, self.most) = (&self.bounds.quota, &self.bounds.high);
        self.keep();
        self.grow();
        let members = self.layout.weights.len();
        self.holds.chunks(members).map(|row| (0..members).filter(|i| row[*i]).collect()).collect()
    }

    /// Leaves replicas where they were, as far as the limits permit: paths of cost 0.
    fn keep(&mut self) {
        let Layout { zone_of, zones, low, high, .. } = self.layout;
        for &(p, i) in self.kept {
            let zone = zone_of[i];
            let (cell, place) = (p * zones.len() + zone, p * self.load.len() + i);
            let above = self.count[cell] >= low[zone];
            let fits = self.count[cell] < high[zone] && !(above && self.free[p] == 0);
            if fits && self.load[i] < self.limit[i] && !self.holds[place] {
                self.free[p] -= usize::from(above);
                self.count[cell] += 1;
                self.load[i] += 1;
                self.holds[place] = true;
            }
        }
    }

    /// Lets the flow grow until all is placed or no member may have more.
    fn grow(&mut self) {
        loop {
            let cost = self.costs();
            if cost[self.sink()] == FAR {
                return;
            }
            while self.fill(&cost) {}
        }
    }

    // Vertices: the source is 0, then the partitions, the cells, the members, and the sink.

    fn first_cell(&self) -> usize {
        1 + self.layout.partitions
    }

    fn first_member(&self) -> usize {
        self.first_cell() + self.count.len()
    }

    fn sink(&self) -> usize {
        self.first_member() + self.load.len()
    }

    /// The edge number `at` of vertex `from` in the residual network: `None` behind the last one,
    /// `Some(None)` where nothing may flow now, else the vertex it leads to and its cost.
    fn edge(&self, from: usize, at: usize) -> Option<Option<(usize, i32)>> {
        let Layout { partitions: q, zones, zone_of, low, high, .. } = self.layout;
        let (cells, members) = (self.first_cell(), self.first_member());
        let open = |free: bool, to: usize, cost: i32| Some(free.then_some((to, cost)));
        if from == 0 {
            let cell = at.wrapping_sub(*q);
            return match at {
                _ if at < *q => open(self.free[at] > 0, 1 + at, 0),
                _ if self.layout.spread == 1 || cell >= self.count.len() => None,
                _ => open(self.count[cell] < low[cell % zones.len()], cells + cell, 0),
            };
        }
        if from < cells {
            // Each partition begins elsewhere, so that the first zones are not always the first
            // choice.
            let zone = (at + from) % zones.len();
            let cell = (from - 1) * zones.len() + zone;
            let room = self.count[cell] >= low[zone] && self.count[cell] < high[zone];
            return if at == zones.len() { None } else { open(room, cells + cell, 0) };
        }
        if from < members {
            let (p, zone) = ((from - cells) / zones.len(), (from - cells) % zones.len());
            if at == 0 {
                return open(self.count[from - cells] > low[zone], 1 + p, 0);
            }
            let theirs = &zones[zone];
            let i = theirs[(at + p) % theirs.len()];
            let place = p * self.load.len() + i;
            let cost = MOVE * i32::from(!self.was[place]);
            return if at > theirs.len() {
                None
            } else {
                open(!self.holds[place], members + i, cost)
            };
        }
        let i = from - members;
        if i == self.load.len() || at > *q {
            return None;
        }
        if at == 0 {
            let over = self.load[i] >= self.limit[i];
            return open(self.load[i] < self.most[i], self.sink(), OVER * i32::from(over));
        }
        let place = (at - 1) * self.load.len() + i;
        let cost = -MOVE * i32::from(!self.was[place]);
        open(self.holds[place], cells + (at - 1) * zones.len() + zone_of[i], cost)
    }

    /// One replica more flows from a vertex to the next.
    fn push(&mut self, from: usize, to: usize) {
        let (cells, members) = (self.first_cell(), self.first_member());
        let (zones, all) = (self.layout.zones.len(), self.load.len());
        let kind = |v: usize| match v {
            0 => 'S',
            v if v < cells => 'p',
            v if v < members => 'c',
            v if v < members + all => 'm',
            _ => 'T',
        };
        match (kind(from), kind(to)) {
            ('S', 'p') => self.free[to - 1] -= 1,
            ('S' | 'p', 'c') => self.count[to - cells] += 1,
            ('c', 'p') => self.count[from - cells] -= 1,
            ('c', _) => self.holds[(from - cells) / zones * all + to - members] = true,
            ('m', 'c') => self.holds[(to - cells) / zones * all + from - members] = false,
            _ => self.load[from - members] += 1,
        }
    }

    /// The cost of the cheapest path from the source to every vertex (Bellman and Ford, with a
    /// queue).
    fn costs(&self) -> Vec<i32> {
        let mut cost = vec![FAR; self.sink() + 1];
        let mut queued = vec![false; cost.len()];
        let mut queue = VecDeque::from([0]);
        cost[0] = 0;
        while let Some(from) = queue.pop_front() {
            queued[from] = false;
            for (to, price) in (0..).map_while(|at| self.edge(from, at)).flatten() {
                if cost[from] + price < cost[to] {
                    cost[to] = cost[from] + price;
                    if !queued[to] {
                        queued[to] = true;
                        queue.push_back(to);
                    }
                }
            }
        }
        cost
    }

    /// Fills the cheapest paths that have the fewest edges, until none is left; false if there was
    /// none.
    fn fill(&mut self, cost: &[i32]) -> bool {
        let cheapest = |from: usize, (to, price): (usize, i32)| cost[from] + price == cost[to];
        let mut level = vec![usize::MAX; cost.len()];
        level[0] = 0;
        let mut queue = VecDeque::from([0]);
        while let Some(from) = queue.pop_front() {
            for edge in (0..).map_while(|at| self.edge(from, at)).flatten() {
                if level[edge.0] == usize::MAX && cheapest(from, edge) {
                    level[edge.0] = level[from] + 1;
                    queue.push_back(edge.0);
                }
            }
        }
        if level[self.sink()] == usize::MAX {
            return false;
        }
        let mut next = vec![0; cost.len()];
        let mut path = vec![0];
        while let Some(&from) = path.last() {
            if from == self.sink() {
                path.windows(2).for_each(|step| self.push(step[0], step[1]));
                path.truncate(1);
                continue;
            }
            match self.edge(from, next[from]) {
                None => {
                    path.pop();
                    if let Some(before) = path.last() {
                        next[*before] += 1;
                    }
                }
                Some(Some(edge)) if level[edge.0] == level[from] + 1 && cheapest(from, edge) => {
                    path.push(edge.0);
                }
                Some(_) => next[from] += 1,
            }
        }
        true
    }
}
