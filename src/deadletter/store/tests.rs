//! What is asked of a scan is answered as the live queue would be, by index or letter by letter.

use proptest::prelude::*;

use crate::deadletter::select::IdPrefix;
use crate::message::{FieldTable, FieldValue, Message, Properties};

use super::*;

fn queue() -> QueueName {
    QueueName::new("dead").unwrap()
}

fn of() -> Scanned {
    Scanned { cluster: "here".to_owned(), vhost: "/".to_owned(), queue: queue() }
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_unix_ms(i64::try_from(second).unwrap() * 1000)
}

/// A letter of one of three groups; every fifth does not tell when it died, every seventh is the twin
/// of another.
fn letter(number: u64) -> Delivery {
    let mut entry = FieldTable::new()
        .with("queue", format!("q{}", ["a", "b", "c"][usize::try_from(number % 3).unwrap()]))
        .with("reason", "rejected")
        .with("count", 1);
    if !number.is_multiple_of(5) {
        entry.insert("time", FieldValue::Timestamp(1000 + number));
    }
    let headers =
        FieldTable::new().with("x-death", FieldValue::Array(vec![FieldValue::Table(entry)]));
    let body = if number.is_multiple_of(7) { 0 } else { number };
    if number.is_multiple_of(7) {
        let properties = Properties::default();
        let message = Message { properties, body: b"twin".to_vec() };
        return delivery(message);
    }
    let properties = Properties { headers: Some(headers), ..Properties::default() };
    delivery(Message { properties, body: format!("{{\"n\":{body}}}").into_bytes() })
}

fn delivery(message: Message) -> Delivery {
    Delivery {
        tag: DeliveryTag { generation: 0, tag: 0 },
        exchange: ExchangeName::default_exchange(),
        routing_key: RoutingKey::new("dead").unwrap(),
        redelivered: true,
        message,
    }
}

async fn scanned(scans: &Scans, many: u64, keep: usize) -> Scan {
    let id = scans.begin(&of(), at(1), Some(many)).await.unwrap();
    let rows: Vec<Row> =
        (1..=many).map(|n| Row::of(Sighting::of("/", &queue(), n, letter(n)), keep)).collect();
    for batch in rows.chunks(7) {
        scans.append(id, batch.to_vec()).await.unwrap();
    }
    let ending = Ending { complete: true, remark: None };
    scans.finish(id, ending, at(2), 3).await.unwrap()
}

async fn opened(folder: &tempfile::TempDir) -> Scans {
    Scans::open(folder.path().join("state.db"), Duration::from_secs(10)).await.unwrap()
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn letters_and_groups_come_back_as_they_were() {
    block(async {
        let folder = tempfile::tempdir().unwrap();
        let scans = opened(&folder).await;
        let scan = scanned(&scans, 40, 8).await;
        assert_eq!((scan.letters, scan.twins, scan.complete), (40, 5, true));
        assert_eq!((scan.oldest, scan.newest), (Some(at(1001)), Some(at(1039))));
        let groups = scans.groups(scan.id).unwrap();
        assert_eq!(groups.iter().map(|group| group.letters).sum::<u64>(), 40);
        assert_eq!(groups.len(), 4, "{groups:#?}");
        for n in 1..=40 {
            let kept = scans.at(scan.id, n).unwrap().unwrap();
            let seen = Sighting::of("/", &queue(), n, letter(n));
            assert_eq!((&kept.id, kept.group), (&seen.id, seen.group));
            assert_eq!(kept.died_at, seen.died_at);
            assert_eq!(kept.delivery.message.properties, seen.delivery.message.properties);
            let body = &seen.delivery.message.body;
            assert_eq!(kept.delivery.message.body, body[..body.len().min(8)]);
            assert_eq!(kept.is_whole(), body.len() <= 8);
        }
        assert_eq!(scans.at(scan.id, 41).unwrap(), None);
        let twin = scans.at(scan.id, 7).unwrap().unwrap();
        assert_eq!(scans.places(scan.id, &twin.id).unwrap(), [7, 14, 21, 28, 35]);
    });
}

#[test]
fn only_the_newest_scans_are_kept_and_one_can_be_forgotten() {
    block(async {
        let folder = tempfile::tempdir().unwrap();
        let scans = opened(&folder).await;
        for _ in 0..5 {
            scanned(&scans, 10, 99).await;
        }
        let kept = scans.scans(Some(&of())).unwrap();
        assert_eq!(kept.iter().map(|scan| scan.id.0).collect::<Vec<_>>(), [5, 4, 3]);
        assert!(scans.forget(ScanId(4), None).await.unwrap());
        assert!(!scans.forget(ScanId(4), None).await.unwrap());
        assert_eq!(scans.at(ScanId(4), 1).unwrap(), None);
        assert!(scans.at(ScanId(5), 1).unwrap().is_some());
        assert_eq!(scans.groups(ScanId(4)).unwrap(), []);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn an_index_finds_what_the_selector_means(
        ids in proptest::collection::vec(1u64..40, 0..3),
        groups in proptest::collection::vec(1u64..40, 0..3),
        since in proptest::option::of(990u64..1050),
        until in proptest::option::of(990u64..1050),
        first in proptest::option::of(0u64..30),
        last in proptest::option::of(0u64..30),
        with_condition in any::<bool>(),
    ) {
        let sighting = |n: u64| Sighting::of("/", &queue(), n, letter(n));
        let selection = Selection {
            ids: ids.iter().filter_map(|n| IdPrefix::parse(sighting(*n).id.as_str())).collect(),
            groups: groups.iter().map(|n| sighting(*n).group).collect(),
            condition: with_condition.then(|| "position > 0".to_owned()),
            since: since.map(at),
            until: until.map(at),
            first,
            last: last.filter(|_| first.is_none()),
        };
        let mut live = Selector::new(&selection, "/", &queue()).unwrap();
        let mut counting = live.clone();
        let all = (1..=40).filter(|n| counting.matches(*n, &letter(*n)).unwrap()).count();
        live.set_total(all as u64);
        let meant: Vec<u64> = (1..=40).filter(|n| live.wants(*n, &letter(*n)).unwrap()).collect();
        let found = block(async {
            let folder = tempfile::tempdir().unwrap();
            let scans = opened(&folder).await;
            let scan = scanned(&scans, 40, 99).await;
            scans.find(&scan, &selection, 25).unwrap()
        });
        let positions: Vec<u64> = found.letters.iter().map(|letter| letter.position).collect();
        prop_assert_eq!(found.matched, meant.len() as u64);
        prop_assert_eq!(positions, meant.into_iter().take(25).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_cut_off_goes_once_it_is_old_and_a_later_scan_saw_everything() {
    let now = Timestamp::from_unix_ms(1_700_000_000_000);
    let hours = |hours: i64| Timestamp::from_unix_ms(now.unix_ms() - hours * 3_600_000);
    let scan = |id: i64, began: Timestamp, ended: bool, complete: bool| Scan {
        id: ScanId(id),
        of: Scanned {
            cluster: "c".to_owned(),
            vhost: "/".to_owned(),
            queue: QueueName::new("dead").unwrap(),
        },
        began,
        ended: ended.then_some(began),
        depth: None,
        letters: 0,
        twins: 0,
        cut: 0,
        oldest: None,
        newest: None,
        complete,
        remark: None,
    };
    let whole = |id, h| scan(id, hours(h), true, true);
    let part = |id, h| scan(id, hours(h), true, false);
    let cut = |id, h| scan(id, hours(h), false, false);
    for (case, scans, expected) in [
        ("the newest stays however old it is", vec![cut(3, 99), whole(2, 100)], vec![]),
        ("an old one before a whole one goes", vec![whole(3, 1), cut(2, 25)], vec![2]),
        ("a young one may be at work", vec![whole(3, 1), cut(2, 23)], vec![]),
        ("a part is no substitute", vec![part(3, 1), cut(2, 25)], vec![]),
        ("nor is one that went before", vec![part(3, 1), cut(2, 25), whole(1, 30)], vec![]),
        ("a whole one further up is", vec![part(4, 1), whole(3, 2), cut(2, 25)], vec![2]),
        ("ended ones go by their number", vec![whole(4, 1), part(3, 2), whole(2, 3)], vec![2]),
    ] {
        let gone: Vec<i64> = expendable(&scans, 2, now).into_iter().map(|id| id.0).collect();
        assert_eq!(gone, expected, "{case}");
    }
}

#[tokio::test]
async fn who_forgets_a_scan_is_told_to_the_trail_and_only_then() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let scans = Scans::open(&path, Duration::from_secs(5)).await.unwrap();
    let of = Scanned {
        cluster: "c".to_owned(),
        vhost: "/".to_owned(),
        queue: QueueName::new("dead").unwrap(),
    };
    let now = Timestamp::from_unix_ms(1_700_000_000_000);
    let entry = |scan: ScanId| NewEntry {
        at: now,
        who: "me".to_owned(),
        what: "scan forgotten".to_owned(),
        noun: trail::Noun::Scan,
        object: scan.0.to_string(),
        queue: Some("dead".to_owned()),
        run: None,
        reason: None,
        details: serde_json::Value::Null,
    };
    let id = scans.begin(&of, now, None).await.unwrap();
    assert!(scans.forget(id, Some(entry(id))).await.unwrap());
    assert!(!scans.forget(id, Some(entry(id))).await.unwrap());
    let trail = trail::Trail::open(&path, Duration::from_secs(5)).await.unwrap();
    assert_eq!(trail.head().unwrap().sequence, 1);
}
