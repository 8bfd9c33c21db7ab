//! The log alone, on a disk that fails and forgets.

use bytes::Bytes;
use pixii_core::rng::Rng;

use super::device::twin::Twin;
use super::*;

const ID: u64 = 0x0102_0304_0506_0708;
const LIMITS: Limits = Limits {
    segment_bytes: 4 << 10,
    min_segments: 4,
    max_segments: 8,
    table_bytes: 8 << 10,
    step_changes: 4,
    rest: 0,
};
/// Numbers of errors of the operating system.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What a record of the write `seq` holds.
fn edits(seq: u64) -> Vec<Edit> {
    let mut rng = Rng::new(seq);
    let longest = if rng.chance(0.1) { 3_000 } else { 300 };
    let value = vec![seq as u8; rng.below(longest) as usize];
    let place = rng.below(20).to_be_bytes().to_vec();
    vec![(place, (!rng.chance(0.2)).then(|| Bytes::from(value)))]
}

type Records = Vec<(u64, Vec<Edit>)>;

fn read(device: &Arc<Twin>, applied: u64) -> Result<(CommitLog, Records), Problem> {
    let mut records = Vec::new();
    let mut visit = |seq, edits| records.push((seq, edits));
    let log = CommitLog::open(device.clone(), ID, applied, 0, &mut visit)?;
    Ok((log, records))
}

fn created() -> Arc<Twin> {
    let device = Arc::new(Twin::default());
    CommitLog::create(&*device, ID, &LIMITS, 0).unwrap();
    device
}

/// A log with what its user knows of it.
struct Run {
    device: Arc<Twin>,
    log: CommitLog,
    applied: u64,
    acknowledged: u64,
}

impl Run {
    fn new(device: Arc<Twin>, applied: u64) -> Self {
        let (log, records) = read(&device, applied).unwrap();
        let run = Run { device, acknowledged: log.synced, log, applied };
        run.assert_holds(&records);
        run
    }

    /// Everything behind what the tree has, up to the last one, in order.
    fn assert_holds(&self, records: &Records) {
        let expected: Records =
            (self.applied + 1..=self.log.seq).map(|seq| (seq, edits(seq))).collect();
        let seqs = |records: &Records| records.iter().map(|(seq, _)| *seq).collect::<Vec<_>>();
        assert_eq!(seqs(records), seqs(&expected));
        assert!(*records == expected);
    }

    /// Appends and syncs until something fails, and lets the tree have what was synced now and
    /// then.
    fn go_on(&mut self, rng: &mut Rng, records: usize) -> io::Result<()> {
        for _ in 0..records {
            let seq = self.log.seq + 1;
            self.log.retire(self.applied);
            if self.log.wants_segments(&edits(seq)) + self.log.live_segments() > 4 {
                self.log.sync()?;
                (self.acknowledged, self.applied) = (self.log.synced, self.log.synced);
                self.log.retire(self.applied);
            }
            self.log.append(&edits(seq), seq, self.applied, 4)?;
            if rng.chance(0.4) {
                self.log.sync()?;
                self.acknowledged = seq;
            }
            if rng.chance(0.05) {
                self.applied = self.acknowledged;
            }
        }
        Ok(())
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_power_cut_or_a_kill_at_any_call() {
    let mut ends = [0, 0];
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let mut run = Run::new(created(), 0);
        for round in 0..3 {
            let begun = run.device.calls();
            let error = if rng.chance(0.5) { EIO } else { ENOSPC };
            run.device.fail_at(begun + rng.below(60) as usize, error);
            if run.go_on(&mut rng, 80).is_ok() {
                continue;
            }
            let is_cut = rng.chance(0.5);
            let device = match is_cut {
                true => run.device.after_power_cut(&mut rng),
                false => run.device.after_kill(),
            };
            ends[usize::from(is_cut)] += 1;
            let before = (run.acknowledged, run.log.seq);
            run = Run::new(Arc::new(device), run.applied);
            let last = run.log.seq;
            assert!(
                (before.0..=before.1).contains(&last),
                "seed {seed}, {round}: {last} {before:?}"
            );
        }
    }
    println!("{ends:?} kills and power cuts");
    assert!(ends.iter().all(|ends| *ends > 200), "{ends:?}");
}

#[test]
fn a_sync_is_one_append_and_one_sync_and_nothing_without_a_change() {
    let device = created();
    let (mut log, _) = read(&device, 0).unwrap();
    let (calls, syncs) = (device.calls(), device.syncs());
    for seq in 1..=3 {
        log.append(&edits(seq), seq, 0, 4).unwrap();
    }
    log.sync().unwrap();
    assert_eq!((device.calls() - calls, device.syncs() - syncs), (2, 1), "for all three");
    log.sync().unwrap();
    assert_eq!(device.syncs() - syncs, 1);
}

#[test]
fn a_flipped_bit_in_what_was_synced_is_damage_or_cuts_the_last_group_only() {
    let device = created();
    let (mut log, _) = read(&device, 0).unwrap();
    let mut ends = Vec::new();
    let mut seq = 0;
    while log.live_segments() < 3 {
        seq += 1;
        log.append(&edits(seq), seq, 0, 4).unwrap();
        log.sync().unwrap();
        let used = log.used.back().unwrap();
        ends.push(FIRST_SEGMENT_AT as usize + used.slot as usize * (4 << 10) + log.at.unwrap());
    }
    let synced = log.synced;
    let (mut damaged, mut cut) = (0, 0);
    let last = ends[ends.len() - 1];
    for at in (FIRST_SEGMENT_AT as usize..last).step_by(7) {
        device.flip(at, (at % 8) as u8);
        match read(&device, 0) {
            Err(Problem::Damaged(what)) => {
                assert!(what.contains("was synced"), "{what}");
                damaged += 1;
            }
            // The mark, which is noted outside, has this one.
            Ok((log, records)) if log.seq == synced - 1 => {
                assert_eq!(records.len() as u64, log.seq);
                cut += 1;
            }
            // Too little for a head.
            Ok(_) if 4_096 - at % 4_096 < RECORD_HEAD_BYTES => {}
            Ok((log, _)) => panic!("a flip at {at} leaves {} of {synced} writes", log.seq),
            Err(Problem::Io(error)) => panic!("{error}"),
        }
        device.flip(at, (at % 8) as u8);
    }
    println!("{damaged} flips found, {cut} cut the last write off");
    assert!(damaged > 500 && cut > 0);
    assert_eq!(read(&device, 0).unwrap().1.len() as u64, synced);
    // Of a segment's head that is all there is to the log behind it.
    device.flip(FIRST_SEGMENT_AT as usize + 9, 1);
    assert!(matches!(read(&device, 0), Err(Problem::Damaged(_))));
    // What the tree has already is not missed.
    assert!(read(&device, synced).is_ok());
}

#[test]
fn a_salvage_takes_every_record_that_is_whole_and_none_of_an_end_that_was_given_up() {
    let device = created();
    let mut rng = Rng::new(1);
    let mut run = Run::new(device.clone(), 0);
    for seq in 1..=20 {
        run.log.append(&edits(seq), seq, 0, 4).unwrap();
        if seq <= 5 {
            run.log.sync().unwrap();
        }
    }
    run.log.write().unwrap();
    // Torn: of what was not synced the first record is damaged, and others are whole.
    let at = FIRST_SEGMENT_AT as usize + SEGMENT_HEAD_BYTES;
    let five: usize = (1..=5).map(|seq| RECORD_HEAD_BYTES + body_bytes(&edits(seq))).sum();
    device.flip(at + five + 50, 3);
    let mut run = Run::new(device.clone(), 0);
    assert_eq!(run.log.seq, 5);
    run.go_on(&mut rng, 1).unwrap();
    for seq in 7..=9 {
        run.log.append(&[(vec![7], Some(Bytes::from("new")))], seq, 0, 4).unwrap();
    }
    run.log.sync().unwrap();
    // Record 2 is damaged.
    device.flip(at + RECORD_HEAD_BYTES + body_bytes(&edits(1)) + 50, 3);
    assert!(matches!(read(&device, 0), Err(Problem::Damaged(_))));
    let mut found = Vec::new();
    replay::salvage(&*device, ID, 0, &mut |seq, edits| found.push((seq, edits))).unwrap();
    let seqs: Vec<u64> = found.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs, [1, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(found[5].1, [(vec![7], Some(Bytes::from("new")))]);
}

#[test]
fn a_torn_end_is_never_followed_by_what_was_behind_it() {
    let device = created();
    let (mut log, _) = read(&device, 0).unwrap();
    let of = |text: &'static str| vec![(b"place".to_vec(), Some(Bytes::from(text)))];
    for (seq, text) in [(1, "first"), (2, "torn."), (3, "stale")] {
        log.append(&of(text), seq, 0, 4).unwrap();
        if seq == 1 {
            log.sync().unwrap();
        }
    }
    log.write().unwrap();
    let record = RECORD_HEAD_BYTES + body_bytes(&of("first"));
    device.flip(FIRST_SEGMENT_AT as usize + SEGMENT_HEAD_BYTES + 2 * record - 1, 0);
    let (mut log, records) = read(&device, 0).unwrap();
    assert_eq!(records, [(1, of("first"))]);
    // As long as the one that was torn: the stale one is where the next one would be.
    log.append(&of("other"), 2, 0, 4).unwrap();
    log.sync().unwrap();
    let (_, records) = read(&device, 0).unwrap();
    assert_eq!(records, [(1, of("first")), (2, of("other"))]);
}

#[test]
fn a_segment_whose_head_was_lost_leaves_no_record_to_the_next_opening() {
    let of = |text: &'static str| vec![(b"place".to_vec(), Some(Bytes::from(text)))];
    let open = |device: &Arc<Twin>, jump| {
        CommitLog::open(device.clone(), ID, 0, jump, &mut |_, _| {}).unwrap()
    };
    for (first, second) in [(0, 0), (7, 9)] {
        let device = created();
        let mut log = open(&device, 1);
        log.append(&of("first"), 1, 0, 4).unwrap();
        log.sync().unwrap();
        // The power is cut: of a new segment all reaches the disk but its beginning.
        let mut log = open(&device, first);
        for (seq, text) in [(2, "torn."), (3, "stale")] {
            log.append(&of(text), seq, 0, 4).unwrap();
        }
        log.write().unwrap();
        let slot = log.used.back().unwrap().slot;
        let head = FIRST_SEGMENT_AT as usize + slot as usize * (4 << 10);
        (0..SEGMENT_HEAD_BYTES).for_each(|at| device.flip(head + at, 0));
        device.flip(head + SEGMENT_HEAD_BYTES + 1, 0);
        // The next opening uses the same place, for a record of the same length.
        let mut log = open(&device, second);
        assert_eq!(log.seq, 1);
        log.append(&of("other"), 2, 0, 4).unwrap();
        assert_eq!(log.used.back().unwrap().slot, slot);
        log.sync().unwrap();
        let (_, records) = read(&device, 0).unwrap();
        let mut expected = vec![(1, of("first")), (2, of("other"))];
        if first == second {
            // What the jump is for.
            expected.push((3, of("stale")));
        }
        assert_eq!(records, expected);
    }
}

#[test]
fn a_segment_that_is_written_over_shows_nothing_of_its_use_before() {
    let device = created();
    let mut run = Run::new(device.clone(), 0);
    let mut rng = Rng::new(3);
    // Many times around; each time the log is read, it has what is behind the tree and no more.
    for _ in 0..300 {
        run.go_on(&mut rng, 3).unwrap();
        run.log.sync().unwrap();
        run.acknowledged = run.log.synced;
        let (log, records) = read(&device, run.applied).unwrap();
        assert_eq!(log.seq, run.log.seq);
        run.assert_holds(&records);
    }
    assert!(run.log.next_number > 40, "{}", run.log.next_number);
}

#[test]
fn records_of_the_use_before_follow_those_of_this_one_and_are_none() {
    let device = created();
    let (mut log, _) = read(&device, 0).unwrap();
    // All as long as each other: what is left of the use before begins where the log ends.
    let edits = |seq: u64| vec![(seq.to_be_bytes().to_vec(), Some(Bytes::from(vec![7; 50])))];
    for seq in 1..=400 {
        log.retire(seq - 1);
        log.append(&edits(seq), seq, seq - 1, 4).unwrap();
        log.sync().unwrap();
        let (again, records) = read(&device, seq - 1).unwrap();
        assert_eq!((again.seq, records), (seq, vec![(seq, edits(seq))]), "write {seq}");
    }
    assert!(log.next_number > 8, "segments were written over");
}

#[test]
fn the_log_of_another_store_is_none_of_this_one() {
    let (ours, other) = (created(), Arc::new(Twin::default()));
    CommitLog::create(&*other, ID + 1, &LIMITS, 0).unwrap();
    let mut log = CommitLog::open(other.clone(), ID + 1, 0, 0, &mut |_, _| {}).unwrap();
    log.append(&edits(1), 1, 0, 4).unwrap();
    log.sync().unwrap();
    assert!(matches!(read(&other, 0), Err(Problem::Damaged(_))), "by its head");
    let mut segment = vec![0; 4 << 10];
    other.read(FIRST_SEGMENT_AT, &mut segment).unwrap();
    ours.write(FIRST_SEGMENT_AT, &segment).unwrap();
    assert_eq!(read(&ours, 0).unwrap().1, [], "and by its records");
}

#[test]
fn the_tree_must_have_what_was_written_over() {
    let device = created();
    let mut run = Run::new(device.clone(), 0);
    run.go_on(&mut Rng::new(7), 200).unwrap();
    run.log.sync().unwrap();
    let floor = replay::floor(&*device).unwrap().unwrap();
    assert!(floor > 0 && floor <= run.applied, "{floor}");
    let Err(Problem::Damaged(what)) = read(&device, floor / 2) else { panic!("not missed") };
    assert!(what.contains("lacks the segment before"), "{what}");
}
