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
        assert!(scans.forget(ScanId(4)).await.unwrap());
        assert!(!scans.forget(ScanId(4)).await.unwrap());
        assert_eq!(scans.at(ScanId(4), 1).unwrap(), None);
        assert!(scans.at(ScanId(5), 1).unwrap().is_some());
        assert_eq!(scans.groups(ScanId(4)).unwrap(), []);
    });
}

/// A selection that was marked letter by letter names more of them than one statement takes.
#[test]
fn thousands_of_names_are_found() {
    block(async {
        let folder = tempfile::tempdir().unwrap();
        let scans = opened(&folder).await;
        let scan = scanned(&scans, 3000, 99).await;
        let odd = |n: &u64| !n.is_multiple_of(2) && !n.is_multiple_of(7);
        let meant: Vec<u64> = (1..=3000).filter(odd).collect();
        let heads = scans.heads(scan.id, &meant).unwrap();
        assert_eq!(heads.iter().map(|head| head.position).collect::<Vec<_>>(), meant);
        assert!(heads.iter().all(|head| head.delivery.message.body.is_empty()));
        let names = heads.iter().map(|head| IdPrefix::parse(head.id.as_str()).unwrap());
        let all = Selection { ids: names.collect(), ..Selection::default() };
        for condition in [None, Some("position > 0".to_owned())] {
            for (first, last) in [(None, None), (Some(700), None), (None, Some(700))] {
                let selection =
                    Selection { condition: condition.clone(), first, last, ..all.clone() };
                let found = scans.find(&scan, &selection, usize::MAX).unwrap();
                let positions: Vec<u64> = found.letters.iter().map(|l| l.position).collect();
                let expected = match (first, last) {
                    (Some(_), _) => &meant[..700],
                    (_, Some(_)) => &meant[meant.len() - 700..],
                    _ => &meant[..],
                };
                assert_eq!(
                    (positions.as_slice(), found.matched),
                    (expected, expected.len() as u64)
                );
            }
        }
    });
}

#[test]
fn windows_of_groups_and_places_are_parts_of_the_whole() {
    block(async {
        let folder = tempfile::tempdir().unwrap();
        let scans = opened(&folder).await;
        let scan = scanned(&scans, 100, 99).await;
        let groups = scans.groups(scan.id).unwrap();
        assert_eq!(scans.group_count(scan.id).unwrap(), groups.len() as u64);
        assert_eq!(scans.groups_from(scan.id, 1, 2).unwrap(), groups[1..3]);
        assert_eq!(scans.groups_from(scan.id, 99, 2).unwrap(), []);
        let names = [groups[2].group, Fingerprint::from_bits(1), groups[0].group];
        let named = scans.groups_named(scan.id, &names).unwrap();
        assert_eq!(named, [groups[2].clone(), groups[0].clone()]);
        let mut all = LetterSet::new();
        for group in &groups {
            let places = scans.places_of(scan.id, group.group).unwrap();
            assert_eq!((places.len(), places.iter().next()), (group.letters, Some(group.first)));
            assert_eq!(all.common(&places), 0);
            all = all.or(&places);
        }
        assert_eq!(all, LetterSet::up_to(100));
        let found = scans.matches(&scan, "position > 90", &mut |_| ControlFlow::Continue(()));
        let found = found.unwrap();
        assert_eq!(found.places.iter().collect::<Vec<_>>(), (91..=100).collect::<Vec<_>>());
        assert_eq!(found.groups.values().sum::<u64>(), 10);
        let wrong = scans.matches(&scan, "position >", &mut |_| ControlFlow::Continue(()));
        assert!(matches!(wrong, Err(FindError::Select(_))), "{wrong:?}");
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
