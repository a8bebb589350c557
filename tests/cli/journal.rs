//! `journal …` on the embedded broker and on both RabbitMQ versions.

use serde_json::Value;

use crate::queue::{Place, places};

const JOURNAL: &str = "apiVersion: nexus/v1\nkind: Topology\nmetadata: {owner: shop}\njournal: true\n\
    exchanges:\n  orders: {type: topic}\n  agents: {type: direct}\n\
    queues:\n  \
    billing: {type: quorum, bind: [{from: orders, key: order.#}, {from: agents, key: billing}]}\n  \
    stock: {type: classic, bind: [{from: orders, key: order.new}]}\n  \
    full: {type: classic, maxLength: 1, overflow: reject-publish}\n";

fn send(place: &Place, workflow: &str, exchange: &str, key: &str, first: u64, count: u64) {
    let line = format!(
        "publish {exchange} {key} {{}} --type order --sender shop --workflow {workflow} \
         --sequence {first} --count {count} -q"
    );
    let ran = place.machine.run(&line);
    assert_eq!(ran.status, 0, "{}: {}", place.label, ran.shown());
}

/// Workflow, number, and whether it was sent again, of everything in a queue, taken out.
fn taken(place: &Place, queue: &str) -> Vec<(String, u64, bool)> {
    let ran = place.machine.run(&format!("consume {queue} --until-empty -q"));
    assert_eq!(ran.status, 0, "{}: {}", place.label, ran.shown());
    ran.stdout
        .lines()
        .map(|line| {
            let record: Value = serde_json::from_str(line).unwrap();
            let headers = &record["properties"]["headers"];
            (
                headers["x-nexus-workflow"].as_str().unwrap().to_owned(),
                headers["x-nexus-sequence"].as_u64().unwrap(),
                headers["x-nexus-retransmission"].is_string(),
            )
        })
        .collect()
}

#[test]
fn what_a_queue_misses_is_found_in_the_journal_and_sent_to_it_alone() {
    for place in places("journal") {
        let label = &place.label;
        let machine = &place.machine;
        let absent = machine.run("journal list");
        assert_eq!(absent.status, 1, "{label}: {}", absent.shown());
        assert!(absent.stderr.contains("journal: true"), "{label}: {}", absent.shown());
        machine.write("journal.yaml", JOURNAL);
        let checked = machine.run("topology validate journal.yaml");
        assert!(checked.shown().contains("journal-blind"), "{label}: {}", checked.shown());
        machine.run("topology apply journal.yaml --yes").ok();

        send(&place, "w1", "orders", "order.new", 1, 6);
        send(&place, "w1", "orders", "order.new", 8, 700);
        send(&place, "w2", "agents", "billing", 1, 3);
        machine.run("publish orders order.odd unnumbered -q").ok();
        // What nobody takes is in the journal all the same.
        send(&place, "w3", "orders", "nobody", 4, 1);
        let list = place.json("journal list");
        assert_eq!((&list["messages"], &list["unnumbered"]), (&711.into(), &1.into()), "{list}");
        let workflows: Vec<String> = list["workflows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|w| {
                format!(
                    "{} {} {}..{} {}",
                    w["workflow"], w["messages"], w["first"], w["last"], w["missing"]
                )
            })
            .collect();
        assert_eq!(
            workflows,
            ["\"w1\" 706 1..707 [\"7\"]", "\"w2\" 3 1..3 []", "\"w3\" 1 4..4 []"],
            "{label}"
        );
        let looked = machine.run("journal list --read-only");
        assert_eq!(looked.status, 0, "{label}: {}", looked.shown());
        let late = place.json("journal list --since 709");
        assert_eq!(late["messages"], 2, "{label}: {late}");

        let shown = machine.run("journal show --workflow w1 --sequence 5..9 -q").ok();
        assert_eq!(shown.lines().count(), 4, "{label}: {shown}");
        assert_eq!(machine.run("journal show --workflow w9").status, 2, "{label}");

        // Both queues have had everything.
        machine.run("queue purge stock --confirm stock").ok();
        machine.run("queue purge billing --confirm billing").ok();
        let replay = "journal replay --workflow w1 --sequence 5..9,700";
        let several = machine.run(replay);
        assert_eq!(several.status, 64, "{label}: {}", several.shown());
        assert!(several.stderr.contains("`billing`"), "{label}: {}", several.shown());
        let plan = machine.run(&format!("{replay} --to billing --dry-run -o json"));
        assert_eq!((plan.status, &plan.json()["confirmed"]), (3, &0.into()), "{label}");
        assert_eq!(taken(&place, "billing"), [], "{label}: a dry run sends nothing");
        let ran = machine.run(&format!("{replay} --to billing -o json"));
        let view = ran.json();
        assert_eq!((ran.status, &view["confirmed"]), (3, &5.into()), "{label}: {view}");
        assert_eq!(view["missing"], serde_json::json!(["7"]), "{label}: {view}");
        let again = |number: u64| ("w1".to_owned(), number, true);
        assert_eq!(taken(&place, "billing"), [5, 6, 8, 9, 700].map(again), "{label}");
        assert_eq!(taken(&place, "stock"), [], "{label}: it misses nothing");
        assert_eq!(place.json("journal list")["messages"], 711, "{label}: nor does the journal");

        // The one queue that got them is found.
        let view = place.json("journal replay --workflow w2 --sequence 2..");
        assert_eq!((&view["to"], &view["confirmed"]), (&"billing".into(), &2.into()), "{view}");
        let numbers: Vec<u64> = taken(&place, "billing").iter().map(|(_, n, _)| *n).collect();
        assert_eq!(numbers, [2, 3], "{label}");

        let none = machine.run("journal replay --workflow w1 --sequence 9000 --to billing -o json");
        assert_eq!((none.status, &none.json()["missing"][0]), (2, &"9000".into()), "{label}");
        let full = machine.run("journal replay --workflow w1 --sequence 1..3 --to full -o json");
        let view = full.json();
        assert_eq!((full.status, &view["confirmed"]), (3, &1.into()), "{label}: {view}");
        assert!(view["stopped"].as_str().unwrap().contains("full"), "{label}: {view}");
        for (line, status, says) in [
            ("--workflow w1 --sequence 5 --to biling", 1, "did you mean `billing`?"),
            ("--workflow w1 --sequence 5 --journal stock", 1, "no stream"),
            ("--workflow w1 --sequence 5 --to nexus.journal", 64, "misses nothing"),
            ("--workflow w1 --sequence 9..5", 64, "begins after its end"),
        ] {
            let ran = machine.run(&format!("journal replay {line}"));
            assert_eq!(ran.status, status, "{label}: {}", ran.shown());
            assert!(ran.stderr.contains(says), "{label}: {}", ran.shown());
        }
    }
}
