//! `dlq …`: letters of every reason are found, scanned without harm, grouped and explained, on the
//! embedded broker and on both RabbitMQ versions.

use nexus::base::id::ExchangeName;
use nexus::broker::{
    Change, ConsumerOptions, Outcome, Publish, PublisherOptions, QueueDefinition, QueueType,
    Settlement,
};
use nexus::message::{FieldTable, FieldValue, Message, Properties};
use serde_json::Value;

use crate::queue::{Place, places};
use crate::support::{eventually, fixture};

const TOPOLOGY: &str = "apiVersion: nexus/v1\nkind: Topology\nqueues:\n  \
    dead: {type: classic}\n  \
    dead.quorum: {type: quorum, deliveryLimit: 20}\n  \
    rejects: {type: quorum, deadLetter: {exchange: '', routingKey: dead}}\n  \
    expires: {type: classic, messageTtl: 1ms, deadLetter: {exchange: '', routingKey: dead}}\n  \
    small: {type: classic, maxLength: 1, deadLetter: {exchange: '', routingKey: dead}}\n  \
    limited: {type: quorum, deliveryLimit: 0, deadLetter: {exchange: '', routingKey: dead}}\n";

pub(crate) fn with_topology(purpose: &str) -> Vec<Place> {
    let places = places(purpose);
    for place in &places {
        place.machine.write("dead.yaml", TOPOLOGY);
        let ran = place.machine.run("topology apply dead.yaml --yes");
        assert_eq!(ran.status, 0, "{}: {}", place.label, ran.shown());
    }
    places
}

pub(crate) fn send(place: &Place, queue: &str, bodies: &[&str]) {
    let text: String = bodies.iter().map(|body| format!("{body}\n")).collect();
    let ran = place.machine.run_with(&format!("publish '' {queue} --lines -f -"), text.as_bytes());
    assert_eq!(ran.status, 0, "{}: {}", place.label, ran.shown());
}

/// Publishes messages as they are.
fn publish(place: &Place, queue: &str, messages: Vec<Message>) {
    let (url, management) = place.connection();
    let queue: nexus::base::id::QueueName = queue.parse().unwrap();
    fixture::ask(&url, management.as_deref(), async |broker| {
        let mut publisher = broker.publisher(PublisherOptions::default()).await.unwrap();
        for message in messages {
            let publish = Publish {
                exchange: ExchangeName::default_exchange(),
                routing_key: queue.as_routing_key(),
                message,
            };
            publisher.send(publish).await.unwrap();
            assert_eq!(publisher.outcome().await.unwrap().1, Outcome::Confirmed);
        }
        publisher.close().await.unwrap();
    });
}

/// Takes `many` messages and settles each so; without a settlement they go back by the closing.
pub(crate) fn take(place: &Place, queue: &str, many: usize, how: Option<Settlement>) {
    let (url, management) = place.connection();
    let queue = queue.parse().unwrap();
    fixture::ask(&url, management.as_deref(), async |broker| {
        let mut consumer = broker.consumer(&queue, ConsumerOptions::default()).await.unwrap();
        for _ in 0..many {
            let delivery = consumer.next().await.unwrap();
            if let Some(how) = how {
                consumer.settle(delivery.tag, how).await.unwrap();
            }
        }
        consumer.close().await.unwrap();
    });
}

pub(crate) fn wait_for_depth(place: &Place, queue: &str, depth: u64) {
    eventually("the letters are there", || {
        let list = place.json(&format!("dlq list {queue}"));
        (list["queues"][0]["ready"] == depth).then_some(())
    });
}

/// The queue, message by message, without what a look may change.
fn contents(place: &Place, queue: &str) -> Vec<Value> {
    let ran = place.machine.run(&format!("queue peek {queue} --count 60000 --min-lives 0 -q"));
    assert_eq!(ran.status, 0, "{}: {}", place.label, ran.shown());
    let lines = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .map(|mut record| {
            for key in ["redelivered", "deliveryTag"] {
                record.as_object_mut().unwrap().remove(key);
            }
            let properties = record["properties"].as_object_mut().unwrap();
            let headers = properties.get_mut("headers").and_then(Value::as_object_mut);
            let empty = headers.is_some_and(|headers| {
                headers.remove("x-delivery-count");
                headers.is_empty()
            });
            if empty {
                properties.remove("headers");
            }
            record
        })
        .collect()
}

fn find<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    let found = list.as_array().unwrap().iter().find(|item| item[key] == value);
    found.unwrap_or_else(|| panic!("no {key} {value} in {list:#}"))
}

#[test]
fn letters_of_every_reason_are_found_grouped_and_explained_and_nothing_is_changed() {
    for place in with_topology("reasons") {
        let label = &place.label;
        send(&place, "rejects", &["{\"n\":1}", "{\"n\":2}"]);
        take(&place, "rejects", 2, Some(Settlement::Reject));
        wait_for_depth(&place, "dead", 2);
        send(&place, "expires", &["late"]);
        wait_for_depth(&place, "dead", 3);
        send(&place, "small", &["first", "second"]);
        wait_for_depth(&place, "dead", 4);
        send(&place, "limited", &["again"]);
        take(&place, "limited", 1, None);
        wait_for_depth(&place, "dead", 5);
        place.machine.script("fail.sh", "cat >/dev/null; echo no order 4711 >&2; exit 65");
        send(&place, "work.classic", &["{\"order\":1}"]);
        let worker = "worker work.classic --dead-letter-queue dead --until-empty -- ./fail.sh";
        let ran = place.machine.run(worker);
        assert!(matches!(ran.status, 0 | 3), "{label}: {}", ran.shown());
        wait_for_depth(&place, "dead", 6);

        let before = contents(&place, "dead");
        let scan = place.json("dlq scan dead");
        assert_eq!(
            (&scan["letters"], &scan["complete"]),
            (&6.into(), &true.into()),
            "{label}: {scan:#}"
        );
        assert_eq!((&scan["orderKept"], &scan["twins"]), (&true.into(), &0.into()), "{label}");
        assert_eq!(contents(&place, "dead"), before, "{label}: the scan left everything as it was");

        let groups = place.json("dlq groups dead");
        let list = &groups["groups"];
        for (reason, queue, letters) in [
            ("rejected", "rejects", 2),
            ("expired", "expires", 1),
            ("maxlen", "small", 1),
            ("delivery_limit", "limited", 1),
            ("poison", "work.classic", 1),
        ] {
            let group = find(list, "reason", reason);
            assert_eq!(group["queue"], queue, "{label}: {group}");
            assert_eq!(group["letters"], letters, "{label}: {group}");
        }
        assert_eq!(list[0]["reason"], "rejected", "{label}: the largest is the first");
        assert_eq!(find(list, "reason", "poison")["error"], "no order #", "{label}");

        let known = place.json("dlq list");
        let dead = find(&known["queues"], "queue", "dead");
        assert_eq!(dead["ready"], 6, "{label}");
        let sources: Vec<&str> = dead["sources"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["queue"].as_str().unwrap())
            .collect();
        assert_eq!(sources, ["expires", "limited", "rejects", "small"], "{label}");
        assert_eq!(dead["seen"]["reasons"][0]["reason"], "rejected", "{label}: {dead}");

        let shown = place.json("dlq show @1");
        let way = shown["journey"].as_str().unwrap();
        assert_eq!(way, "published to rejects → rejects (rejected) → dead", "{label}");
        assert_eq!(shown["body"]["n"], 1, "{label}");
        let id = shown["id"].as_str().unwrap();
        assert_eq!(place.json(&format!("dlq show {}", &id[..20]))["position"], 1, "{label}");
        let worker = place.json("dlq show @6 --queue dead");
        assert_eq!(worker["steps"][1]["error"], "no order 4711", "{label}: {worker:#}");
        assert!(worker["journey"].as_str().unwrap().contains("(poison, exit 65)"), "{label}");

        for (question, places) in [
            ("--where \"reason == 'rejected'\"", vec![1, 2]),
            ("--where \"deaths.exists(d, d.queue == 'small') || body == 'late'\"", vec![3, 4]),
            ("--last 2", vec![5, 6]),
            ("--first 1 --where 'position > 2'", vec![3]),
            ("--since 1h --last 1", vec![6]),
        ] {
            let found = place.json(&format!("dlq letters dead {question}"));
            let found: Vec<u64> = found["letters"]
                .as_array()
                .unwrap()
                .iter()
                .map(|letter| letter["position"].as_u64().unwrap())
                .collect();
            assert_eq!(found, places, "{label}: {question}");
        }
        let none = place.machine.run("dlq letters dead --until 1h");
        assert_eq!(none.status, 2, "{label}: {}", none.shown());
        place.machine.write("groups.json", &place.machine.run("dlq groups --top 1 -o json").ok());
        let chosen = place.json("dlq letters --selection groups.json");
        assert_eq!(chosen["matched"], 2, "{label}");
        let diff = place.json("dlq diff @1 @2");
        assert_eq!(diff["sameGroup"], true, "{label}");
        let paths = diff["differences"].to_string();
        assert!(paths.contains("\"body.n\""), "{label}: {paths}");

        let again = place.json("dlq scan dead --first 3");
        assert!(again["complete"] == false && again["letters"] == 3, "{label}: {again}");
    }
}

#[test]
fn a_scan_costs_a_life_and_is_refused_before_the_last() {
    for place in with_topology("lives") {
        let label = &place.label;
        let numbers: Vec<String> = (0..300).map(|n| n.to_string()).collect();
        let bodies: Vec<&str> = numbers.iter().map(String::as_str).collect();
        send(&place, "dead.quorum", &bodies);
        let before = contents(&place, "dead.quorum");
        assert_eq!(before.len(), 300, "{label}");
        let mut refused = 0;
        for look in 0..20 {
            let ran = place.machine.run("dlq scan dead.quorum -q -o json");
            match ran.status {
                0 => assert_eq!(ran.json()["letters"], 300, "{label}: look {look}"),
                4 => refused += 1,
                _ => panic!("{label}: {}", ran.shown()),
            }
        }
        // Of 20 lives one went for the look above, and 17 more may go before fewer than 3 are left.
        assert_eq!(refused, 3, "{label}");
        let plan = place.machine.run("dlq scan dead.quorum --dry-run -o json");
        assert_eq!((plan.status, &plan.json()["livesLeft"]), (2, &2.into()), "{label}");
        assert_eq!(contents(&place, "dead.quorum"), before, "{label}: in order, all there");
        let kept = place.json("dlq scans dead.quorum");
        assert_eq!(kept["scans"].as_array().unwrap().len(), 5, "{label}: older ones are forgotten");
        let oldest = kept["scans"][4]["scan"].as_i64().unwrap();
        let before = place.json("dlq scans")["scans"].as_array().unwrap().len();
        place.machine.run(&format!("dlq scans --forget {oldest} --dry-run")).ok();
        assert_eq!(place.json("dlq scans")["scans"].as_array().unwrap().len(), before, "{label}");
        place.machine.run(&format!("dlq scans --forget {oldest}")).ok();
        assert_eq!(place.json("dlq scans")["scans"].as_array().unwrap().len(), 4, "{label}");
        let gone = place.machine.run(&format!("dlq scans --forget {oldest}"));
        assert_eq!(gone.status, 1, "{label}: {}", gone.shown());
    }
}

#[test]
fn odd_letters_are_letters() {
    let entry = |queue: &str| {
        FieldValue::Table(
            FieldTable::new().with("queue", queue).with("reason", "rejected").with("count", 1),
        )
    };
    let message = |headers: Option<FieldTable>, body: &[u8]| Message {
        properties: Properties { headers, ..Properties::default() },
        body: body.to_vec(),
    };
    let fifty = FieldValue::Array((0..50).map(|n| entry(&format!("q{n}"))).collect());
    let secret = FieldTable::new().with("x-api-key", "k3y").with("x-exception-type", "Boom");
    let text = FieldTable::new().with("x-death", "garbage");
    for place in with_topology("odd") {
        let label = &place.label;
        let letters = vec![
            message(None, b"twin"),
            message(None, b"twin"),
            message(Some(text.clone()), b"{\"password\":\"p\",\"a\":1}"),
            message(Some(FieldTable::new().with("x-death", fifty.clone())), &[0xff, 0, 1]),
            message(Some(secret.clone()), &vec![b'x'; 70_000]),
        ];
        publish(&place, "dead", letters);
        wait_for_depth(&place, "dead", 5);
        let scan = place.json("dlq scan dead");
        assert_eq!((&scan["twins"], &scan["cut"]), (&2.into(), &1.into()), "{label}: {scan:#}");
        let twin = place.json("dlq show @1");
        assert_eq!(twin["twins"], serde_json::json!([2]), "{label}");
        assert_eq!(twin["id"], place.json("dlq show @2")["id"], "{label}");
        let text = place.json("dlq show @3");
        assert!(text["gaps"].to_string().contains("no list"), "{label}: {text:#}");
        assert_eq!(text["body"]["password"], "***", "{label}");
        assert_eq!(place.json("dlq show @3 --unmask")["body"]["password"], "p", "{label}");
        let many = place.json("dlq show @4");
        assert_eq!((many["steps"].as_array().unwrap().len(), &many["bodyAs"]), (52, &"hex".into()));
        let cut = place.json("dlq show @5");
        assert_eq!((&cut["size"], &cut["kept"]), (&70_000.into(), &65_536.into()), "{label}");
        assert_eq!(cut["properties"]["headers"]["x-api-key"], "***", "{label}");
        let asked = place.machine.run("dlq letters --where \"body.startsWith('t')\" -o json");
        let asked_json = asked.json();
        assert_eq!(asked_json["matched"], 2, "{label}: {}", asked.shown());
        assert!(asked.stderr.contains("not decided"), "{label}: {}", asked.shown());
        for (line, status) in [
            ("dlq show @9", 1),
            ("dlq show @x", 64),
            ("dlq show 1", 64),
            ("dlq letters --where 'nonsense ='", 64),
            ("dlq groups nothing", 1),
            ("dlq scan nothing", 1),
        ] {
            let ran = place.machine.run(line);
            assert_eq!(ran.status, status, "{label}: {line}: {}", ran.shown());
        }
    }
}

#[test]
fn the_doctor_finds_where_letters_get_lost() {
    for place in with_topology("doctor") {
        let label = &place.label;
        // No topology file may say this.
        let (url, management) = place.connection();
        fixture::ask(&url, management.as_deref(), async |broker| {
            let mut lost = QueueDefinition::durable("lost".parse().unwrap(), QueueType::Classic);
            lost.arguments.insert("x-dead-letter-exchange", "amq.direct");
            lost.arguments.insert("x-dead-letter-routing-key", "nowhere");
            broker.change(&Change::DeclareQueue(lost)).await.unwrap();
        });
        let ran = place.machine.run("dlq doctor -o json");
        assert_eq!(ran.status, 2, "{label}: {}", ran.shown());
        let audit = ran.json();
        let found: Vec<(&str, &str)> = audit["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| (f["code"].as_str().unwrap(), f["message"].as_str().unwrap()))
            .collect();
        for (code, queue) in [
            ("topology/lost-dead-letters", "lost"),
            ("dead-letters/no-exchange", "work.classic"),
            ("dead-letters/limit-without-exchange", "work.quorum"),
            ("dead-letters/at-most-once", "rejects"),
        ] {
            let named = |f: &&(&str, &str)| f.0 == code && f.1.contains(&format!("`{queue}`"));
            assert!(found.iter().find(named).is_some(), "{label}: {code} of {queue} in {found:#?}");
        }
        let healthy =
            |f: &&(&str, &str)| f.0 != "dead-letters/at-most-once" && f.1.contains("`rejects`");
        assert_eq!(found.iter().find(healthy), None, "{label}");
        assert!(audit["traps"].as_array().unwrap().len() > 10, "{label}");
        let limit = &audit["traps"][0]["here"];
        let is_4 = audit["version"].as_str().unwrap().starts_with('4');
        assert_eq!(limit, if is_4 { "20" } else { "none" }, "{label}");
    }
}
