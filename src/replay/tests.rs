//! The decisions against a plain model, without SQLite.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

const WINDOW: u64 = 300;
const START: u64 = 1_727_712_000;

/// Pages in memory; a snapshot of it is what a rolled back transaction returns to.
#[derive(Clone, Debug, Default)]
struct Disk {
    pages: BTreeMap<(u64, u32), Vec<u8>>,
    filters: BTreeMap<(u64, u32), Vec<u8>>,
    runs: BTreeMap<u64, RunRecord>,
    state: State,
    /// What the log holds: entry, timestamp, received.
    log: Vec<(Entry, u64, u64)>,
}

impl Pages for Disk {
    type Error = FilterError;

    fn scan(
        &self,
        run: RunId,
        pages: Range<u32>,
        each: &mut dyn FnMut(&[u8]) -> Result<(), FilterError>,
    ) -> Result<(), FilterError> {
        self.pages
            .range((run.0, pages.start)..(run.0, pages.end))
            .try_for_each(|(_, page)| each(page))
    }
    fn put_page(&mut self, run: RunId, page: u32, bytes: &[u8]) -> Result<(), FilterError> {
        self.pages.insert((run.0, page), bytes.to_vec());
        Ok(())
    }
    fn put_filter(&mut self, run: RunId, piece: u32, bytes: &[u8]) -> Result<(), FilterError> {
        self.filters.insert((run.0, piece), bytes.to_vec());
        Ok(())
    }
    fn remove_pages(&mut self, run: RunId, pages: Range<u32>) -> Result<(), FilterError> {
        for page in pages {
            self.pages.remove(&(run.0, page));
        }
        Ok(())
    }
    fn put_run(&mut self, run: &RunRecord) -> Result<(), FilterError> {
        self.runs.insert(run.id.0, *run);
        Ok(())
    }
    fn remove_run(&mut self, run: RunId) -> Result<(), FilterError> {
        self.filters.retain(|(id, _), _| *id != run.0);
        self.runs.remove(&run.0);
        Ok(())
    }
    fn put_state(&mut self, state: State) -> Result<(), FilterError> {
        self.state = state;
        Ok(())
    }
}

impl Disk {
    /// What a start finds.
    fn open(&self) -> Memory {
        let records = self
            .runs
            .values()
            .map(|run| {
                let filters = if run.state == RunState::Live {
                    (0..pieces(run))
                        .map(|piece| Filter::decode(&self.filters[&(run.id.0, piece)]).unwrap())
                        .collect()
                } else {
                    Vec::new()
                };
                (*run, filters)
            })
            .collect();
        let mut memory = Memory::new(HashKey([5; 16]), WINDOW, 1, self.state, records);
        for (entry, timestamp, received) in &self.log[self.state.sealed_through as usize..] {
            memory.restore(*entry, *timestamp, *received);
        }
        memory
    }
}

fn entry(id: u64) -> Entry {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&id.to_be_bytes());
    let key = Key {
        device: DeviceKey((id % 5) as u32),
        message_id: MessageId::from_bytes(bytes),
    };
    Entry {
        key,
        digest: id ^ 0xabcd,
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A group: so many new messages, with a timestamp this far from the clock, and some repeated.
    Group {
        new: u16,
        offset: i16,
        repeat: Vec<u16>,
        seal: bool,
        fails: bool,
    },
    /// The clock goes on, or jumps.
    Clock(i64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let group = (
        0_u16..120,
        -300_i16..=300,
        prop::collection::vec(any::<u16>(), 0..40),
        prop::bool::weighted(0.7),
        prop::bool::weighted(0.15),
    );
    prop_oneof![
        12 => group.prop_map(|(new, offset, repeat, seal, fails)| {
            Step::Group { new, offset, repeat, seal, fails }
        }),
        6 => (0_i64..90).prop_map(Step::Clock),
        1 => prop_oneof![Just(86_400), Just(-86_400), -700_i64..700].prop_map(Step::Clock),
        2 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_accepted_twice_and_nothing_new_is_refused(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut disk = Disk::default();
        let mut memory = disk.open();
        // Every message that was ever committed, by id: its timestamp.
        let mut accepted: HashMap<u64, u64> = HashMap::new();
        let mut ids: Vec<u64> = Vec::new();
        let mut next = 0;
        let (mut now, mut latest) = (START, START);
        for step in steps {
            match step {
                Step::Clock(by) => {
                    now = now.saturating_add_signed(by).max(START - 100_000);
                    latest = latest.max(now);
                }
                Step::Restart => memory = disk.open(),
                Step::Group { new, offset, repeat, seal, fails } => {
                    let saved = disk.clone();
                    let timestamp = now.saturating_add_signed(offset.into());
                    let fresh = |timestamp: u64| timestamp.abs_diff(now) <= WINDOW;
                    let mut group: Vec<(u64, u64)> = Vec::new();
                    for id in next..next + u64::from(new) {
                        let seen = memory.admit(&disk, entry(id), timestamp, now).unwrap();
                        if fresh(timestamp) && timestamp + WINDOW >= latest {
                            prop_assert_eq!(seen, Seen::Never, "a new message");
                        }
                        match seen {
                            Seen::Never => group.push((id, timestamp)),
                            Seen::Before(_) => prop_assert!(false, "never sent before"),
                            Seen::Unknowable => {}
                        }
                    }
                    next += u64::from(new);
                    for (id, _) in &group {
                        let seen = memory.admit(&disk, entry(*id), timestamp, now).unwrap();
                        prop_assert_eq!(seen, Seen::Before(entry(*id).digest), "in its own group");
                    }
                    for which in repeat {
                        let Some(id) = ids.get(which as usize % ids.len().max(1)) else { continue };
                        let sent = accepted[id];
                        if !fresh(sent) {
                            continue;
                        }
                        // The attack: the same bytes again, while they pass the freshness check.
                        let seen = memory.admit(&disk, entry(*id), sent, now).unwrap();
                        prop_assert_ne!(seen, Seen::Never, "replayed: {} sent at {}", id, sent);
                        // Signed anew under the same id: refused as long as it is remembered.
                        if sent + WINDOW >= latest {
                            let seen = memory.admit(&disk, entry(*id), now, now).unwrap();
                            prop_assert_ne!(seen, Seen::Never, "signed anew");
                        }
                    }
                    for (id, timestamp) in &group {
                        disk.log.push((entry(*id), *timestamp, now));
                    }
                    let moment = Moment {
                        now,
                        log_end: disk.log.len() as u64,
                        // As if it were many, so that merges get on.
                        added: 3_000,
                        unsealed_bytes: u64::from(seal),
                    };
                    memory.maintain(&mut disk, moment).unwrap();
                    if fails {
                        disk = saved;
                        memory.rollback();
                    } else {
                        memory.commit();
                        for (id, timestamp) in group {
                            accepted.insert(id, timestamp);
                            ids.push(id);
                        }
                    }
                    prop_assert!(memory.runs() <= 24, "{} runs", memory.runs());
                }
            }
        }
    }
}

/// Runs `groups` groups of `each` messages, `per_second` of them a second.
fn load(groups: u64, each: u64, per_second: u64) -> (Disk, Memory, u64) {
    let mut disk = Disk::default();
    let mut memory = Memory::new(
        HashKey([5; 16]),
        WINDOW,
        u64::MAX,
        State::default(),
        Vec::new(),
    );
    let mut next = 0;
    for _ in 0..groups {
        for _ in 0..each {
            let now = START + next / per_second;
            assert_eq!(memory.admit(&disk, entry(next), now, now), Ok(Seen::Never));
            next += 1;
        }
        let added = usize::try_from(each).unwrap();
        let moment = Moment {
            now: START + next / per_second,
            log_end: next,
            added,
            unsealed_bytes: 0,
        };
        memory.maintain(&mut disk, moment).unwrap();
        memory.commit();
        assert!(memory.runs() <= 18, "{} runs", memory.runs());
    }
    (disk, memory, next)
}

#[test]
fn a_thousand_messages_a_second_are_remembered_in_600_kb() {
    // Eight minutes of 1,000 devices at one message per second.
    let (disk, mut memory, next) = load(1_200, 400, 1000);
    let bytes = memory.memory_bytes();
    assert!(
        bytes <= 600_000,
        "{bytes} bytes for {} entries",
        memory.len()
    );
    assert!(memory.len() >= WINDOW * 1000);
    assert!(
        memory.len() <= WINDOW * 1000 * 3 / 2,
        "{} entries",
        memory.len()
    );
    let now = START + next / 1000;
    for id in (next - WINDOW * 1000..next).step_by(997) {
        let sent = START + id / 1000;
        let seen = memory.admit(&disk, entry(id), sent, now).unwrap();
        assert_eq!(seen, Seen::Before(entry(id).digest), "{id} of {next}");
    }
    // Disk space is given back: what is on it is what is remembered, and what is being built.
    let on_disk = disk.pages.values().map(Vec::len).sum::<usize>() as u64 / run::ENTRY_BYTES as u64;
    assert!(on_disk < 3 * memory.len(), "{on_disk} entries on disk");
}

#[test]
fn merges_of_many_pieces_lose_nothing() {
    // All within a moment: one tier above the other.
    let (disk, mut memory, next) = load(400, 500, 100_000);
    assert!(
        disk.runs
            .values()
            .any(|run| run.level >= 2 && pieces(run) > 1),
        "{:?}",
        disk.runs
    );
    let now = START + 5;
    for id in 0..next {
        let seen = memory.admit(&disk, entry(id), now, now).unwrap();
        assert_eq!(seen, Seen::Before(entry(id).digest), "{id} of {next}");
    }
    for id in next..next + 20_000 {
        assert_eq!(memory.admit(&disk, entry(id), now, now), Ok(Seen::Never));
    }
}

#[test]
fn a_damaged_page_or_filter_is_an_error() {
    let (mut disk, mut memory, _) = load(20, 500, 100_000);
    for page in disk.pages.values_mut() {
        page[10] ^= 1;
    }
    let seen = (0..8_000).map(|id| memory.admit(&disk, entry(id), START, START));
    assert!(seen.into_iter().any(|seen| seen == Err(FilterError)));
    let filter = disk.filters.values().next().unwrap();
    assert!(Filter::decode(filter).is_ok());
    for at in 0..filter.len() {
        let mut changed = filter.clone();
        changed[at] ^= 1;
        assert!(Filter::decode(&changed).is_err());
    }
    assert!(Filter::decode(&filter[..filter.len() - 1]).is_err());
    assert!(Filter::decode(&[]).is_err());
}

#[test]
fn every_hash_has_its_page_and_every_page_its_first_hash() {
    for pages in [1, 2, 3, 127, 128, 129, 100_003] {
        for page in [0, 1, pages / 2, pages - 1]
            .into_iter()
            .filter(|page| *page < pages)
        {
            let first = run::first_hash(page, pages);
            assert_eq!(run::page_of(first, pages), page);
            if first > 0 {
                assert_eq!(run::page_of(first - 1, pages), page - 1);
            }
        }
        assert_eq!(run::page_of(u64::MAX, pages), pages - 1);
    }
}
