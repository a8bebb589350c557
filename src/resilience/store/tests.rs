//! The shared state against the machines in memory, under company, kills, full disks and clocks that
//! jump.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use proptest::prelude::*;

use crate::base::time::{Clock, FixedClock, SystemClock, Timestamp};
use crate::resilience::circuit::{Circuit, CircuitSettings, Order};
use crate::resilience::dedup::{self, Ask, ClaimId, ClaimLost, Entry, Holder, NotClaimed};
use crate::resilience::limiter::{Limit, Priority, Reserve, Shortage};
use crate::resilience::sequence::{Seen, Start};

use super::*;

const LAPSE: Duration = Duration::from_millis(100);
const TTL: Duration = Duration::from_millis(1000);
const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(60);

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms)
}

fn keys<K: ToString>(keys: impl IntoIterator<Item = K>) -> Vec<String> {
    keys.into_iter().map(|key| key.to_string()).collect()
}

async fn open(path: &Path) -> SharedState {
    SharedState::open(path, PATIENCE).await.unwrap()
}

fn clock(ms: i64) -> Arc<dyn Clock> {
    Arc::new(FixedClock::at(at(ms)))
}

/// The only answer there is.
fn only<T>(answers: Vec<T>) -> T {
    let [answer] = <[T; 1]>::try_from(answers).unwrap_or_else(|_| panic!("one answer"));
    answer
}

fn bucket(capacity: u32, per_second: f64) -> LimitSettings {
    LimitSettings { limit: Limit::new(capacity, per_second).unwrap(), reserve: Reserve::NONE }
}

fn circuit(threshold: u32, probes: u32) -> CircuitSettings {
    let recovery = Duration::from_secs(1);
    CircuitSettings {
        threshold,
        recovery,
        longest_recovery: recovery,
        probes,
        ..CircuitSettings::default()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Claim(Vec<u8>, usize),
    Commit(Vec<usize>),
    Release(usize),
    Die(usize),
    Wait(i64),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (proptest::collection::vec(0u8..6, 1..4), 0usize..3)
            .prop_map(|(keys, holder)| Step::Claim(keys, holder)),
        4 => proptest::collection::vec(0usize..8, 1..3).prop_map(Step::Commit),
        1 => (0usize..8).prop_map(Step::Release),
        1 => (0usize..3).prop_map(Step::Die),
        3 => (0i64..400).prop_map(Step::Wait),
        1 => Just(Step::Sweep),
    ]
}

/// Whatever the order of claims, commits, releases, deaths and sweeps: the file answers as the rules
/// of one entry do on a map.
#[test]
fn keys_in_the_file_agree_with_entries_in_a_map() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let state = runtime.block_on(open(&directory.path().join("state.db")));
    let round = Cell::new(0);
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() };
    proptest!(config, |(steps in proptest::collection::vec(step(), 1..80))| {
        round.set(round.get() + 1);
        let scope = format!("queue {}", round.get());
        runtime.block_on(async {
            let mut model: BTreeMap<String, Entry> = BTreeMap::new();
            let mut dead: BTreeSet<Holder> = BTreeSet::new();
            let mut sessions = Vec::new();
            for _ in 0..3 {
                sessions.push(state.begin_session().await.unwrap());
            }
            let mut given: Vec<Claim> = Vec::new();
            let mut now = i64::from(round.get()) * 1_000_000;
            for step in steps {
                match step {
                    Step::Wait(ms) => now += ms,
                    Step::Sweep => {
                        state.sweep(at(now), 3).await.unwrap();
                    }
                    Step::Claim(wanted, who) => {
                        let answers = state
                            .claim(&scope, keys(&wanted), &sessions[who], LAPSE, at(now))
                            .await
                            .unwrap();
                        prop_assert_eq!(answers.len(), wanted.len());
                        for (key, answer) in keys(&wanted).into_iter().zip(answers) {
                            let id = answer.as_ref().map_or(ClaimId(u64::MAX), Claim::id);
                            prop_assert!(given.iter().all(|claim| claim.id() != id));
                            let holder = Holder(sessions[who].id().to_string().into());
                            let ask = Ask { id, holder, now: at(now), lapse: LAPSE };
                            let known = model.get(&key);
                            let expected = dedup::claim(known, ask, |who| dead.contains(who));
                            prop_assert_eq!(answer.as_ref().err(), expected.as_ref().err());
                            if let (Ok(claim), Ok(entry)) = (answer, expected) {
                                prop_assert_eq!(claim.key(), &key);
                                given.push(claim);
                                model.insert(key, entry);
                            }
                        }
                    }
                    Step::Commit(which) => {
                        let chosen: Vec<Claim> =
                            which.iter().filter_map(|one| given.get(*one)).cloned().collect();
                        let answers = state.commit(chosen.clone(), TTL, at(now)).await.unwrap();
                        for (claim, answer) in chosen.iter().zip(answers) {
                            let known = model.get(claim.key());
                            let expected = dedup::commit(known, claim.id(), at(now), TTL);
                            prop_assert_eq!(answer.is_ok(), expected.is_ok());
                            model.extend(expected.map(|entry| (claim.key().to_owned(), entry)));
                        }
                    }
                    Step::Release(which) => {
                        let Some(claim) = given.get(which).cloned() else { continue };
                        if dedup::release(model.get(claim.key()), claim.id()) {
                            model.remove(claim.key());
                        }
                        state.release(vec![claim]).await.unwrap();
                    }
                    Step::Die(who) => {
                        dead.insert(Holder(sessions[who].id().to_string().into()));
                        sessions[who] = state.begin_session().await.unwrap();
                    }
                }
            }
            Ok(())
        })?;
    });
}

#[tokio::test]
async fn claims_of_different_scopes_do_not_meet_and_a_key_of_any_length_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory.path().join("state.db")).await;
    let me = state.begin_session().await.unwrap();
    let long = "x".repeat(1 << 20);
    for key in ["", "é\0'\"", &long] {
        let mut ids = BTreeSet::new();
        for scope in ["one", "other", &long] {
            let claim = only(state.claim(scope, keys([key]), &me, HOUR, at(0)).await.unwrap());
            assert!(ids.insert(claim.unwrap().id()));
            let again = only(state.claim(scope, keys([key]), &me, HOUR, at(0)).await.unwrap());
            assert!(matches!(again, Err(NotClaimed::InWork { .. })), "{again:?}");
        }
    }
    let twice = state.claim("one", keys(["a", "a"]), &me, HOUR, at(0)).await.unwrap();
    assert!(twice[0].is_ok() && twice[1].is_err());
    assert!(std::fs::metadata(state.file().path()).unwrap().len() < 1 << 20);
}

#[tokio::test]
async fn what_is_over_is_swept_in_bounded_steps() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory.path().join("state.db")).await;
    let me = state.begin_session().await.unwrap();
    let claims = state.claim("q", keys(0..1000), &me, LAPSE, at(0)).await.unwrap();
    let claims = claims.into_iter().map(Result::unwrap).collect();
    state.commit(claims, TTL, at(0)).await.unwrap();
    assert_eq!(state.keys().unwrap(), 1000);
    assert_eq!(state.sweep(at(999), 5000).await.unwrap(), 0);
    // Claims sweep twice what they add.
    let claims = state.claim("q", keys(1000..1100), &me, LAPSE, at(1000)).await.unwrap();
    assert_eq!((state.keys().unwrap(), claims.len()), (900, 100));
    assert_eq!(state.sweep(at(1000), 300).await.unwrap(), 300);
    assert_eq!(state.sweep(at(1000), 5000).await.unwrap(), 500);
    assert_eq!(state.keys().unwrap(), 100);
}

#[tokio::test]
async fn a_clock_that_is_set_back_keeps_nothing_for_longer_than_it_was_to_be_kept() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory.path().join("state.db")).await;
    let me = state.begin_session().await.unwrap();
    let late = 1_000_000_000;
    let claim = |key: &'static str, now| {
        let (state, me) = (&state, &me);
        async move { only(state.claim("q", keys([key]), me, LAPSE, at(now)).await.unwrap()) }
    };
    let _held = claim("held", late).await.unwrap();
    let done = claim("done", late).await.unwrap();
    state.commit(vec![done], TTL, at(late)).await.unwrap();
    let in_work = claim("held", 0).await.unwrap_err();
    assert!(matches!(in_work, NotClaimed::InWork { lapses, .. } if lapses == at(100)));
    assert_eq!(claim("done", 0).await, Err(NotClaimed::Duplicate));
    assert_eq!(claim("done", 999).await, Err(NotClaimed::Duplicate));
    assert!(claim("held", 100).await.is_ok());
    assert!(claim("done", 1000).await.is_ok());
    // Clocks of two callers differ by little: that is no clock set back.
    let _held = claim("untidy", 5000).await.unwrap();
    let in_work = claim("untidy", 4500).await.unwrap_err();
    assert!(matches!(in_work, NotClaimed::InWork { lapses, .. } if lapses == at(5100)));
    // Set forward, everything is over.
    assert!(claim("untidy", late).await.is_ok());

    let settings = circuit(1, 1);
    let permit = state.permit("c", &settings, at(late)).await.unwrap().unwrap();
    let ended = |ending, now| Ended { permit, ending, at: at(now) };
    state.record("c", &settings, vec![ended(Ending::Failed, late)], at(late)).await.unwrap();
    let refused = state.permit("c", &settings, at(0)).await.unwrap().unwrap_err();
    assert_eq!(refused.wait, Some(Duration::from_secs(1)));
    assert!(state.permit("c", &settings, at(1000)).await.unwrap().is_ok());

    let limit = bucket(1, 1.0);
    state.take("l", &limit, 1, Priority::Normal, &clock(late)).await.unwrap().unwrap();
    let short = state.take("l", &limit, 1, Priority::Normal, &clock(0)).await.unwrap();
    assert_eq!(short, Err(Shortage::Wait(Duration::from_secs(1))));
    assert_eq!(state.take("l", &limit, 1, Priority::Normal, &clock(1000)).await.unwrap(), Ok(()));
}

#[tokio::test]
async fn a_circuit_is_shared_and_an_operator_has_the_last_word() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let (one, other) = (open(&path).await, open(&path).await);
    let settings = circuit(3, 1);
    assert_eq!(one.circuit("bank").unwrap(), None);
    let (permits, refused) = one.permits("bank", &settings, 3, at(0)).await.unwrap();
    assert_eq!((permits.len(), refused), (3, None));
    let failed = |permit| Ended { permit, ending: Ending::Failed, at: at(0) };
    one.record("bank", &settings, permits.into_iter().map(failed).collect(), at(0)).await.unwrap();
    let refused = other.permit("bank", &settings, at(0)).await.unwrap().unwrap_err();
    assert_eq!(refused.state, Circuit::Open);
    let stored = other.circuits().unwrap();
    assert_eq!((stored[0].name.as_str(), stored[0].settings), ("bank", settings));
    let (probes, refused) = other.permits("bank", &settings, 5, at(1000)).await.unwrap();
    assert_eq!((probes.len(), refused.map(|r| r.state)), (1, Some(Circuit::HalfOpen)));
    let succeeded = Ended { permit: probes[0], ending: Ending::Succeeded, at: at(1000) };
    other.record("bank", &settings, vec![succeeded], at(1000)).await.unwrap();
    assert!(one.permit("bank", &settings, at(1000)).await.unwrap().is_ok());

    let until = Some(at(9000));
    one.force_circuit("bank", None, Order::Open, "audit", at(2000), until).await.unwrap();
    let refused = other.permit("bank", &settings, at(2000)).await.unwrap().unwrap_err();
    assert_eq!(refused.wait, Some(Duration::from_secs(7)));
    let stored = other.circuit("bank").unwrap().unwrap();
    assert_eq!(stored.breaker.order(at(2000)).map(|order| order.reason.as_str()), Some("audit"));
    assert_eq!(stored.settings, settings, "an order leaves the settings alone");
    let lifted = other.lift_circuit("bank", None, at(3000)).await.unwrap();
    assert_eq!(lifted.state(at(3000)), Circuit::HalfOpen);
    let closed = one.close_circuit("bank", None, at(3000)).await.unwrap();
    assert_eq!(closed.state(at(3000)), Circuit::Closed);
    assert!(one.forget_circuit("bank").await.unwrap());
    assert!(!one.forget_circuit("bank").await.unwrap());
}

#[tokio::test]
async fn what_changes_nothing_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let (state, other) = (open(&path).await, open(&path).await);
    let settings = circuit(3, 1);
    let first = state.permit("c", &settings, at(0)).await.unwrap().unwrap();
    let ended = |ending| vec![Ended { permit: first, ending, at: at(0) }];
    state.record("c", &settings, ended(Ending::Failed), at(0)).await.unwrap();
    state.record("c", &settings, ended(Ending::Succeeded), at(0)).await.unwrap();
    let mut watch = other.file().watch().unwrap();
    assert!(watch.has_changed().unwrap());
    for _ in 0..10 {
        let permit = state.permit("c", &settings, at(1)).await.unwrap().unwrap();
        let done = Ended { permit, ending: Ending::Succeeded, at: at(1) };
        state.record("c", &settings, vec![done], at(1)).await.unwrap();
    }
    assert!(!watch.has_changed().unwrap());
    state.record("c", &settings, ended(Ending::Failed), at(2)).await.unwrap();
    assert!(watch.has_changed().unwrap());
}

#[tokio::test]
async fn a_bucket_keeps_its_contents_when_the_limit_changes() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory.path().join("state.db")).await;
    let small = bucket(10, 1.0);
    let normal = Priority::Normal;
    assert_eq!(state.take("api", &small, 8, normal, &clock(0)).await.unwrap(), Ok(()));
    let large = bucket(100, 1.0);
    let short = state.take("api", &large, 3, normal, &clock(0)).await.unwrap();
    assert_eq!(short, Err(Shortage::Wait(Duration::from_secs(1))));
    assert_eq!(state.take_up_to("api", &large, 50, normal, &clock(0)).await.unwrap(), Ok(2));
    let none = state.take_up_to("api", &large, 50, normal, &clock(0)).await.unwrap();
    assert_eq!(none, Err(Shortage::Wait(Duration::from_secs(1))));
    state.give_back("api", &large, 1, &clock(0)).await.unwrap();
    assert_eq!(state.limits().unwrap()[0].limiter.tokens(at(0)), 1);
    assert_eq!(state.limit("api").unwrap().unwrap().limiter.limit(), large.limit);
    let too_large = state.take("api", &large, 101, normal, &clock(0)).await.unwrap();
    assert_eq!(too_large, Err(Shortage::TooLarge { capacity: 100 }));
}

/// Four seconds later whenever it is looked at.
#[derive(Debug)]
struct Stepping(FixedClock);

impl Clock for Stepping {
    fn now(&self) -> Timestamp {
        let now = self.0.now();
        self.0.advance(Duration::from_secs(4));
        now
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_tokens_gets_them_or_hears_that_it_takes_too_long() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory.path().join("state.db")).await;
    let slow = bucket(1, 0.1);
    let clock: Arc<dyn Clock> = Arc::new(Stepping(FixedClock::at(at(0))));
    let acquire = |deadline| {
        let (state, clock) = (&state, &clock);
        async move { state.acquire("l", &slow, 1, Priority::Normal, clock, deadline).await.unwrap() }
    };
    assert_eq!(acquire(Some(at(0))).await, Ok(()));
    // Asked for at 4 s, looked at the clock at 8 s.
    let short = Err(Shortage::Wait(Duration::from_secs(6)));
    assert_eq!(acquire(Some(at(13_999))).await, short);
    assert_eq!(acquire(Some(at(0))).await, Ok(()), "at 12 s it is there");
    let began = tokio::time::Instant::now();
    assert_eq!(acquire(None).await, Ok(()));
    assert!(began.elapsed() >= Duration::from_secs(8), "6 s at 16 s, 2 s at 20 s");
}

fn fast() -> SequenceSettings {
    SequenceSettings { start: Start::At(0), max_ranges: 4, keep: TTL }
}

#[tokio::test]
async fn sequences_are_kept_bounded_and_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let state = open(&path).await;
    let note = |numbers: Vec<(&str, u64)>, now| {
        let numbers = numbers.into_iter().map(|(w, n)| (w.to_owned(), n)).collect();
        let state = state.clone();
        async move { state.processed("q", numbers, fast(), at(now)).await.unwrap() }
    };
    let seen = note(vec![("w", 0), ("w", 2), ("v", 1), ("w", 2), ("w", 1)], 0).await;
    let [next, ahead, other, duplicate, late] = <[Seen; 5]>::try_from(seen).unwrap();
    assert_eq!((next, ahead), (Seen::Next, Seen::Ahead { missing: 1..=1 }));
    assert_eq!(other, Seen::Ahead { missing: 0..=0 });
    assert_eq!((duplicate, late), (Seen::Duplicate, Seen::Late));
    drop(state.clone());
    let again = open(&path).await;
    let tracker = again.sequence("q", "w").unwrap().unwrap();
    assert_eq!((tracker.highest(), tracker.missing().count()), (Some(2), 0));
    assert_eq!(again.sequence("p", "w").unwrap(), None);
    note((2..20).map(|n| ("v", n * 2)).collect(), 500).await;
    let tracker = again.sequence("q", "v").unwrap().unwrap();
    assert_eq!((tracker.missing().count(), tracker.written_off()), (3, 17));
    // `w` was seen last a second ago.
    note(vec![("u", 0)], 1000).await;
    let mut left = Vec::new();
    again
        .sequences(Some("q"), None, |stored| {
            left.push(stored.workflow);
            true
        })
        .unwrap();
    assert_eq!(left, ["u", "v"]);
    let mut first = Vec::new();
    again
        .sequences(None, Some("v"), |stored| {
            first.push((stored.scope, stored.changed));
            false
        })
        .unwrap();
    assert_eq!(first, [("q".to_owned(), at(500))]);
}

#[tokio::test]
async fn a_full_file_says_so_and_goes_on_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { max_pages: Some(64), ..Options::default() };
    let file = StateFile::open(&directory.path().join("state.db"), &[ROOM], options).unwrap();
    let state = SharedState::on(file).unwrap();
    let me = state.begin_session().await.unwrap();
    let mut kept = 0;
    let error = loop {
        let names = keys((0..100).map(|n| format!("{:>200}", kept + n)));
        match state.claim("q", names, &me, LAPSE, at(0)).await {
            Ok(answers) => {
                assert!(answers.iter().all(Result::is_ok));
                kept += 100;
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StorageError::Full { .. }), "{error}");
    assert!(error.to_string().starts_with("no space left for the state file"), "{error}");
    assert_eq!(state.keys().unwrap(), kept, "all or nothing");
    assert!(kept >= 200);
    let first = keys([format!("{:>200}", 0)]);
    // What has lapsed makes room.
    let tomorrow = at(100 + 24 * 3600 * 1000);
    while state.sweep(tomorrow, 50).await.unwrap() > 0 {}
    assert!(only(state.claim("q", first, &me, LAPSE, tomorrow).await.unwrap()).is_ok());
}

#[tokio::test]
async fn a_file_without_the_room_is_refused_and_one_that_cannot_be_made_too() {
    let directory = tempfile::tempdir().unwrap();
    let file = StateFile::open(&directory.path().join("s.db"), &[], Options::default()).unwrap();
    let error = SharedState::on(file).unwrap_err();
    assert!(error.to_string().contains("without the room `resilience`"), "{error}");
    let error = SharedState::open("/proc/nexus/state.db", PATIENCE).await.unwrap_err();
    assert!(matches!(&error, StorageError::Open { .. }), "{error}");
}

// ------------------------------------------------------------------ several processes

const ROLE: &str = "NEXUS_RESILIENCE_CHILD";

fn spawn(role: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "resilience::store::tests::child", "--nocapture"])
        .env(ROLE, role)
        .env("NEXUS_RESILIENCE_PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn say(text: impl std::fmt::Display) {
    writeln!(std::io::stdout(), "\nsaid {text}").unwrap();
}

fn said(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("said ").map(str::to_owned))
}

/// Runs four children in `role` that begin at once, and gathers what they say.
fn race(role: &str, path: &Path) -> Vec<Vec<String>> {
    let mut children: Vec<Child> = (0..4).map(|_| spawn(role, path)).collect();
    let mut heard: Vec<_> = children.iter_mut().map(said).collect();
    for words in &mut heard {
        assert_eq!(words.next().as_deref(), Some("ready"));
    }
    for child in &mut children {
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }
    let said = heard.into_iter().map(Iterator::collect).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    said
}

const PROBES: u32 = 3;

/// Not a test by itself: what the children of the tests below do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "a child of a test is told its role by environment")]
async fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let state = open(Path::new(&std::env::var("NEXUS_RESILIENCE_PATH").unwrap())).await;
    let me = state.begin_session().await.unwrap();
    say("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    match role.as_str() {
        "claim" => {
            for batch in 0..40 {
                let wanted = keys(batch * 25..(batch + 1) * 25);
                let answers = state.claim("q", wanted, &me, HOUR, at(0)).await.unwrap();
                let won: Vec<Claim> = answers.into_iter().flatten().collect();
                for claim in &won {
                    say(format!("{} {}", claim.key(), claim.id().0));
                }
                let kept = state.commit(won, HOUR, at(0)).await.unwrap();
                assert!(kept.iter().all(|answer| *answer == Ok(())));
            }
        }
        "commit" => {
            for key in 0.. {
                let claim = only(state.claim("q", keys([key]), &me, HOUR, at(0)).await.unwrap());
                state.commit(vec![claim.unwrap()], HOUR, at(0)).await.unwrap();
                say(key);
            }
        }
        "hold" => {
            let held = state.claim("q", keys(0..100), &me, HOUR, at(0)).await.unwrap();
            say(held.into_iter().filter(Result::is_ok).count());
            std::thread::park();
        }
        "take" => {
            let settings = bucket(100, 50.0);
            let clock: Arc<dyn Clock> = Arc::new(SystemClock);
            let mut taken = 0;
            for turn in 0..500 {
                let result = match turn % 3 {
                    0 => state.take_up_to("l", &settings, 7, Priority::Low, &clock).await.unwrap(),
                    _ => {
                        let one = state.take("l", &settings, 1, Priority::High, &clock);
                        one.await.unwrap().map(|()| 1)
                    }
                };
                taken += result.unwrap_or(0);
            }
            say(taken);
        }
        "probe" => {
            let settings = circuit(1, PROBES);
            let mut let_out = 0;
            for _ in 0..200 {
                let permit = state.permit("c", &settings, at(1000)).await.unwrap();
                let_out += u32::from(permit.is_ok());
            }
            say(let_out);
        }
        "fail" => {
            let settings = circuit(10_000, 1);
            for _ in 0..100 {
                let permit = state.permit("c", &settings, at(0)).await.unwrap().unwrap();
                let ended = vec![Ended { permit, ending: Ending::Failed, at: at(0) }];
                state.record("c", &settings, ended, at(0)).await.unwrap();
            }
        }
        "number" => {
            let settings = SequenceSettings { start: Start::At(0), ..SequenceSettings::default() };
            for batch in 0..50 {
                // Whoever is the first to note a number has processed it.
                let numbers = (batch * 10..(batch + 1) * 10).map(|n| ("w".to_owned(), n)).collect();
                let seen = state.processed("q", numbers, settings, at(0)).await.unwrap();
                say(seen.iter().filter(|seen| **seen != Seen::Duplicate).count());
            }
        }
        other => panic!("{other}"),
    }
}

fn total(said: &[Vec<String>]) -> u32 {
    said.iter().flatten().map(|text| text.parse::<u32>().unwrap()).sum()
}

#[tokio::test]
async fn of_racing_processes_one_gets_each_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let said = race("claim", &path);
    let won: Vec<(&str, &str)> =
        said.iter().flatten().map(|line| line.split_once(' ').unwrap()).collect();
    let keys: BTreeSet<&str> = won.iter().map(|(key, _)| *key).collect();
    let ids: BTreeSet<&str> = won.iter().map(|(_, id)| *id).collect();
    assert_eq!((won.len(), keys.len(), ids.len()), (1000, 1000, 1000));
}

#[tokio::test]
async fn a_key_whose_commit_was_answered_is_a_duplicate_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let mut child = spawn("commit", &path);
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let answered: Vec<String> = said(&mut child).skip(1).take(60).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(answered.len(), 60);
    let state = open(&path).await;
    let me = state.begin_session().await.unwrap();
    let answers = state.claim("q", answered, &me, HOUR, at(1)).await.unwrap();
    assert!(answers.iter().all(|answer| *answer == Err(NotClaimed::Duplicate)), "{answers:?}");
}

#[tokio::test]
async fn claims_of_a_killed_process_lapse_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let mut child = spawn("hold", &path);
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(said(&mut child).nth(1).as_deref(), Some("100"));
    let state = open(&path).await;
    let me = state.begin_session().await.unwrap();
    let ask = || async { state.claim("q", keys(0..100), &me, HOUR, at(1)).await.unwrap() };
    let in_work = ask().await;
    assert!(in_work.iter().all(|a| matches!(a, Err(NotClaimed::InWork { .. }))), "{in_work:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    let mine: Vec<Claim> = ask().await.into_iter().map(Result::unwrap).collect();
    assert_eq!(mine.len(), 100);
    let sessions = || -> i64 {
        let count = "SELECT count(*) FROM resilience_session";
        state.read(|connection| connection.query_row(count, [], |row| row.get(0))).unwrap()
    };
    assert_eq!(sessions(), 2);
    let other = state.begin_session().await.unwrap();
    assert_eq!(sessions(), 2, "the dead one is forgotten");
    // A session that ends in good order gives up what it held, too.
    drop(me);
    let theirs = state.claim("q", keys([0]), &other, HOUR, at(2)).await.unwrap();
    assert!(only(theirs).is_ok());
    let late = state.commit(mine[..2].to_vec(), HOUR, at(3)).await.unwrap();
    assert_eq!(late, [Err(ClaimLost), Ok(())]);
}

#[tokio::test]
async fn racing_processes_never_take_more_than_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let began = SystemClock.now();
    let said = race("take", &directory.path().join("state.db"));
    let elapsed = SystemClock.now().since(began).as_secs_f64();
    let taken = f64::from(total(&said));
    assert!(taken >= 100.0 && taken <= (100.0 + 50.0 * elapsed).floor(), "{said:?} in {elapsed} s");
}

#[tokio::test]
async fn racing_processes_let_out_no_more_than_the_probes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let state = open(&path).await;
    let settings = circuit(1, PROBES);
    let permit = state.permit("c", &settings, at(0)).await.unwrap().unwrap();
    let failed = vec![Ended { permit, ending: Ending::Failed, at: at(0) }];
    state.record("c", &settings, failed, at(0)).await.unwrap();
    assert_eq!(total(&race("probe", &path)), PROBES);
}

#[tokio::test]
async fn no_failure_is_lost_among_racing_processes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    race("fail", &path);
    let state = open(&path).await;
    let permit = state.permit("c", &circuit(10_000, 1), at(0)).await.unwrap().unwrap();
    let mut opened = BTreeMap::new();
    // 400 failures were noted: one more opens a circuit with the threshold 401, and not one with 402.
    for threshold in [402, 401] {
        let settings = circuit(threshold, 1);
        let before = state.circuit("c").unwrap().unwrap().breaker.into_memory();
        let mut breaker = crate::resilience::CircuitBreaker::resume(settings, before);
        breaker.failed(permit, at(0));
        opened.insert(threshold, breaker.state(at(0)));
    }
    assert_eq!(opened[&402], Circuit::Closed);
    assert_eq!(opened[&401], Circuit::Open);
}

#[tokio::test]
async fn racing_processes_follow_one_sequence() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    assert_eq!(total(&race("number", &path)), 500);
    let tracker = open(&path).await.sequence("q", "w").unwrap().unwrap();
    assert_eq!((tracker.highest(), tracker.missing().count()), (Some(499), 0));
}
