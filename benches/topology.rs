//! How the time for what is asked about a topology grows with it: `cargo bench --bench topology`.
//!
//! Linear is 2 from one size to the next, quadratic 4.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that cannot be made ends here, and says what it found"
)]

#[path = "../tests/support/fake.rs"]
mod fake;

use std::time::{Duration, Instant};

use fake::Fake;
use nexus::base::diagnostic::Source;
use nexus::base::document::read_documents;
use nexus::broker::{Change, QueueState, Snapshot, Version};
use nexus::message::FieldTable;
use nexus::topology::Topology;
use nexus::topology::destroy::destroy;
use nexus::topology::expand::load;
use nexus::topology::export::export;
use nexus::topology::lint::{permissions_needed, validate};
use nexus::topology::object::ObjectKind;
use nexus::topology::observed::Observed;
use nexus::topology::plan::{Options, plan};
use nexus::topology::saved_plan;
use nexus::topology::view::TopologyView;

const V4_0: Version = Version::new(4, 0, 5);

/// So many queues in one long chain of dead letters, five bindings each, a policy for every tenth.
fn file(queues: usize) -> String {
    use std::fmt::Write as _;
    let mut text = String::from(
        "apiVersion: nexus/v1\nkind: Topology\nmetadata: {owner: me}\n\
         naming: {queues: \"[a-z]+[.][0-9]+\", exchanges: \"[a-z]+\"}\n\
         exchanges: {events: {type: topic}, again: {type: direct}}\nqueues:\n",
    );
    for n in 0..queues {
        let last = n + 1 == queues;
        let after = if last {
            String::new()
        } else {
            format!("deadLetter: {{exchange: again, routingKey: k{}}}, ", n + 1)
        };
        writeln!(
            text,
            "  queue.{n}: {{type: classic, maxLength: {}, {after}bind: [{{from: again, key: k{n}}}, \
             {{from: events, keys: [a.{n}, b.{n}, \"c.*.{n}\", d.#]}}]}}",
            n + 10
        )
        .unwrap();
    }
    text.push_str("policies:\n");
    for n in 0..queues / 10 {
        writeln!(
            text,
            "  policy.{n}: {{pattern: \"^queue[.]{n}$\", applyTo: queues, priority: {n}, definition: {{expires: 1h}}}}"
        )
        .unwrap();
    }
    text
}

fn topology(text: &str) -> Topology {
    let documents = read_documents(&Source::new("t.yaml", text.to_owned())).unwrap();
    load(&documents, &Default::default()).unwrap()
}

/// A broker that holds just this.
fn snapshot(topology: &Topology) -> Snapshot {
    let broker = Fake::new(V4_0);
    for exchange in &topology.exchanges {
        broker.make(&Change::DeclareExchange(exchange.definition.clone()));
    }
    let mut snapshot = broker.snapshot();
    snapshot.queues = topology
        .queues
        .iter()
        .map(|queue| QueueState {
            definition: queue.definition.clone(),
            ready: Some(3),
            unacked: Some(0),
            consumers: Some(0),
            policy: None,
            operator_policy: None,
        })
        .collect();
    snapshot.bindings = topology.bindings.iter().map(|b| b.definition.clone()).collect();
    snapshot.policies = topology.policies.iter().map(|p| p.definition.clone()).collect();
    snapshot
}

type Question = (&'static str, Box<dyn Fn()>);

fn questions(queues: usize) -> Vec<Question> {
    let text = file(queues);
    let wanted = topology(&text);
    let same = snapshot(&wanted);
    let empty = Fake::new(V4_0).snapshot();
    // Every queue drifts.
    let mut drifted = same.clone();
    for queue in &mut drifted.queues {
        queue.definition.arguments.insert("x-max-length", 1_000_000);
    }
    // And every queue has its stand-in by now, which each has to be told from the others.
    let mut stood_in = drifted.clone();
    let planned = plan(&wanted, &drifted, &Options { policy_instead: true, ..Options::default() });
    for change in &planned.changes {
        stood_in.policies.extend(change.policy.clone());
    }
    assert_eq!(stood_in.policies.len(), same.policies.len() + queues);
    let mut nothing = wanted.clone();
    nothing.queues.clear();
    nothing.bindings.clear();
    let saved = plan(&wanted, &empty, &Options::default());
    let prune = Options {
        prune: [ObjectKind::Queue, ObjectKind::Binding].into(),
        lose_messages: true,
        max_deletes: usize::MAX,
        ..Options::default()
    };
    let options = |migrate: bool, policy_instead: bool| Options {
        migrate,
        policy_instead,
        ..Options::default()
    };
    macro_rules! ask {
        ($what:literal, [$($held:ident),*], $question:expr) => {{
            $(let $held = $held.clone();)*
            ($what, Box::new(move || { std::hint::black_box($question); }) as Box<dyn Fn()>)
        }};
    }
    vec![
        ask!("read and expand", [text], topology(&text)),
        ask!("validate", [wanted], validate(&wanted, V4_0)),
        ask!("permissions", [wanted], permissions_needed(&wanted)),
        ask!("plan: all is new", [wanted, empty], plan(&wanted, &empty, &Options::default())),
        ask!("plan: nothing to do", [wanted, same], plan(&wanted, &same, &Options::default())),
        ask!(
            "plan: all to migrate",
            [wanted, drifted],
            plan(&wanted, &drifted, &options(true, false))
        ),
        ask!(
            "plan: all by policy",
            [wanted, drifted],
            plan(&wanted, &drifted, &options(false, true))
        ),
        ask!(
            "plan: stand-ins there",
            [wanted, stood_in],
            plan(&wanted, &stood_in, &options(false, true))
        ),
        ask!("plan: all to prune", [nothing, same, prune], plan(&nothing, &same, &prune)),
        ask!("destroy", [wanted, same, prune], destroy(&wanted, &same, &prune)),
        ask!("export", [same], export(&same, "me")),
        ask!("stale", [saved, same], saved_plan::stale(&saved, &Observed::new(&same))),
        ask!("view and routing", [wanted], {
            let view = TopologyView::of_topology(&wanted, V4_0);
            let routing = view.routing();
            routing.targets(&"events".parse().unwrap(), "d.x", &FieldTable::new(), &[]).len()
        }),
    ]
}

/// The quickest of several: what else the machine does makes things slower, never quicker.
fn quickest(question: &dyn Fn()) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let started = Instant::now();
        question();
        best = best.min(started.elapsed());
    }
    best
}

fn main() {
    const SIZES: [usize; 5] = [250, 500, 1000, 2000, 4000];
    let all: Vec<Vec<Question>> = SIZES.iter().map(|size| questions(*size)).collect();
    println!("{:<24}{}", "queues", SIZES.map(|size| format!("{size:>18}")).concat());
    for index in 0..all[0].len() {
        let times: Vec<Duration> =
            all.iter().map(|questions| quickest(questions[index].1.as_ref())).collect();
        let mut row = format!("{:<24}{:>15.2} ms", all[0][index].0, times[0].as_secs_f64() * 1e3);
        for pair in times.windows(2) {
            let growth = pair[1].as_secs_f64() / pair[0].as_secs_f64();
            row += &format!("{:>9.2} ms {growth:>4.1} x", pair[1].as_secs_f64() * 1e3);
        }
        println!("{row}");
    }
}
