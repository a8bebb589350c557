//! What the topology commands promise, kept by the real binary on the embedded broker and on both
//! RabbitMQ versions: what is refused changes nothing and names the object, what is somebody else's
//! stays, what is saved is what runs.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a helper that fails should fail its test"
)]

mod support;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use nexus::base::id::{ExchangeName, PolicyName, QueueName, RoutingKey};
use nexus::broker::{
    ApplyTo, BindingDefinition, Broker, Change, Destination, PolicyDefinition, QueueDefinition,
    Snapshot,
};
use nexus::message::{FieldTable, FieldValue};
use support::{Node, Vhost};

/// A broker with nothing in it, and a directory for files.
struct Place {
    url: String,
    management: Option<String>,
    vhost: Option<Vhost>,
    home: tempfile::TempDir,
}

#[derive(Debug)]
struct Ran {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn is(self, status: i32) -> Ran {
        assert_eq!(self.status, Some(status), "{}\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    fn says(self, words: &[&str]) -> Ran {
        for word in words {
            assert!(
                self.stdout.contains(word) || self.stderr.contains(word),
                "`{word}` is not in\n{}\n{}",
                self.stdout,
                self.stderr
            );
        }
        self
    }
}

impl Place {
    fn all(purpose: &str) -> Vec<Place> {
        let embedded = {
            let home = tempfile::tempdir().unwrap();
            let url = format!("embedded:{}", home.path().join("state.db").display());
            Place { url, management: None, vhost: None, home }
        };
        let real = Node::all().into_iter().map(|node| {
            let vhost = node.vhost(purpose);
            Place {
                url: vhost.amqp_url(),
                management: Some(vhost.management_url()),
                vhost: Some(vhost),
                home: tempfile::tempdir().unwrap(),
            }
        });
        std::iter::once(embedded).chain(real).collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn file(&self, name: &str, body: &str) {
        let text = format!("apiVersion: nexus/v1\nkind: Topology\n{body}");
        std::fs::write(self.path(name), text).unwrap();
    }

    /// `nexusctl topology ARGS`.
    fn run(&self, args: &str) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nexusctl"));
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", "/usr/bin:/bin")
            .current_dir(self.home.path())
            .arg("topology")
            .args(args.split(' '))
            .args(["--broker", &self.url])
            .stdin(Stdio::null());
        if let Some(management) = &self.management {
            command.args(["--management-url", management]);
        }
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran {
            status: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Asks the broker without the program.
    fn ask<T>(&self, question: impl AsyncFnOnce(&dyn Broker) -> T) -> T {
        support::fixture::ask(&self.url, self.management.as_deref(), question)
    }

    fn make(&self, changes: &[Change]) {
        self.ask(async |broker| {
            for change in changes {
                broker.change(change).await.unwrap();
            }
        });
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.ask(async |broker| broker.inspect().await.unwrap());
        snapshot.bindings.sort_by_key(|binding| format!("{binding:?}"));
        for queue in &mut snapshot.queues {
            // Counted now and then, and policies are applied a moment later.
            (queue.ready, queue.unacked, queue.consumers) = (None, None, None);
            (queue.policy, queue.operator_policy) = (None, None);
        }
        snapshot
    }

    fn has_queue(&self, name: &str) -> bool {
        self.snapshot().queues.iter().any(|queue| queue.definition.name.as_str() == name)
    }

    fn has_exchange(&self, name: &str) -> bool {
        self.snapshot().exchanges.iter().any(|exchange| exchange.name.as_str() == name)
    }

    /// Publishes `count` messages into a queue, each confirmed, and waits until all are counted.
    fn put(&self, queue: &str, count: usize) {
        self.put_beyond(queue, count, count as u64);
    }

    /// The same, when only so many `stay`.
    fn put_beyond(&self, queue: &str, count: usize, stay: u64) {
        let lines = "m\n".repeat(count);
        let mut child = Command::new(env!("CARGO_BIN_EXE_nexusctl"))
            .env_clear()
            .env("HOME", self.home.path())
            .args(["publish", "", queue, "--lines", "--broker", &self.url])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), lines.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        self.holds(queue, stay);
    }

    /// Waits until the listing that plans are made of counts so many messages.
    #[track_caller]
    fn holds(&self, queue: &str, count: u64) {
        support::eventually("the messages counted", || {
            let snapshot = self.ask(async |broker| broker.inspect().await.unwrap());
            let found = snapshot.queues.iter().find(|q| q.definition.name.as_str() == queue)?;
            (found.messages() == Some(count)).then_some(())
        });
    }
}

fn queue(name: &str, arguments: FieldTable) -> Change {
    Change::DeclareQueue(QueueDefinition {
        name: QueueName::new(name).unwrap(),
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments,
    })
}

fn binding(source: &str, queue: &str, key: &str) -> BindingDefinition {
    BindingDefinition {
        source: ExchangeName::new(source).unwrap(),
        destination: Destination::Queue(QueueName::new(queue).unwrap()),
        routing_key: RoutingKey::new(key).unwrap(),
        arguments: FieldTable::new(),
    }
}

fn policy(name: &str, priority: i64, length: i64) -> PolicyDefinition {
    PolicyDefinition {
        name: PolicyName::new(name).unwrap(),
        pattern: "^orders$".to_owned(),
        apply_to: ApplyTo::Queues,
        priority,
        definition: [("max-length".to_owned(), length.into())].into_iter().collect(),
    }
}

const SHOP: &str = "metadata: {owner: shop}
exchanges:
  events: {type: topic}
queues:
  orders: {type: classic, bind: [{from: events, key: order.*}]}
  spare: {type: classic}
";

#[test]
fn a_saved_plan_is_what_runs_and_one_that_was_overtaken_names_the_object() {
    for place in Place::all("saved") {
        place.file("t.yaml", SHOP);
        place.run("plan t.yaml --out plan.json").is(0);
        // What the file says by now is not what was saved.
        place.file("t.yaml", &SHOP.replace("spare", "later"));
        place.run("apply plan.json").is(0);
        assert!(place.has_queue("spare") && !place.has_queue("later"));

        place.file("t.yaml", &SHOP.replace("classic, bind", "classic, maxLength: 5, bind"));
        place.run("plan t.yaml --out plan.json").is(0).says(&["queue `orders`"]);
        place.make(&[Change::Bind(binding("amq.direct", "orders", "new"))]);
        let before = place.snapshot();
        place.run("apply plan.json --yes").is(4).says(&[
            "queue `orders`",
            "its bindings were changed",
            "make the plan again",
        ]);
        assert_eq!(place.snapshot(), before, "nothing was changed");
        place.run("plan t.yaml --out plan.json").is(0);
        place.run("apply plan.json --yes").is(0);
        place.run("plan t.yaml --exit-code").is(0);

        let text = std::fs::read_to_string(place.path("plan.json")).unwrap();
        std::fs::write(place.path("plan.json"), text.replace("orders", "others")).unwrap();
        place.run("apply plan.json --yes").is(65).says(&["changed after it was made"]);
    }
}

#[test]
fn destroy_takes_what_is_its_own_and_leaves_the_rest() {
    for place in Place::all("destroy") {
        let shop = format!(
            "{SHOP}  kept: {{type: classic, protect: true}}\n  found: {{type: classic}}\n\
             bindings: [{{from: amq.topic, queue: orders, key: a}}]\n"
        );
        place.make(&[queue("found", FieldTable::new()), queue("foreign", FieldTable::new())]);
        place.make(&[Change::Bind(binding("amq.topic", "foreign", "f"))]);
        place.file("t.yaml", &shop);
        place.run("apply t.yaml").is(0);
        let before = place.snapshot();

        place.run("destroy t.yaml --yes").is(4).says(&["kept", "protect: true"]);
        assert_eq!(place.snapshot(), before, "nothing was changed");
        place.run("destroy t.yaml --yes --skip-blocked").is(3);
        for (name, stays) in [
            ("orders", false),
            ("spare", false),
            ("kept", true),
            ("found", true),
            ("foreign", true),
        ] {
            assert_eq!(place.has_queue(name), stays, "{name}");
        }
        assert!(!place.has_exchange("events"));
        let after = place.snapshot();
        let predeclared = |snapshot: &Snapshot| -> Vec<String> {
            let names = snapshot.exchanges.iter().filter(|e| e.name.is_predeclared());
            names.map(|e| e.name.to_string()).collect()
        };
        assert_eq!(predeclared(&after), predeclared(&before));
        assert!(predeclared(&after).iter().any(|name| name == "amq.topic"));
        assert!(after.bindings.contains(&binding("amq.topic", "foreign", "f")));
    }
}

/// Definitions as RabbitMQ itself writes them, of one vhost and of the whole node.
#[test]
fn what_the_node_exports_is_imported_and_there_is_nothing_to_plan() {
    for place in Place::all("import") {
        let Some(vhost) = &place.vhost else { continue };
        place.file("t.yaml", SHOP);
        place.run("apply t.yaml").is(0);
        let typed = FieldTable::new()
            .with("x-queue-type", "quorum")
            .with("x-max-length", 7)
            .with("x-mine", FieldValue::Array(vec![1.into(), "a".into(), true.into()]));
        let mut matched = binding("amq.headers", "typed", "");
        matched.arguments = FieldTable::new().with("x-match", "any").with("n", 5).with("s", "ü");
        let mut up = binding("events", "orders", "a/b~#");
        up.destination = Destination::Exchange(ExchangeName::new("amq.topic").unwrap());
        let operator = PolicyDefinition { priority: 2, ..policy("o", 1, 100) };
        place.make(&[
            queue("typed", typed),
            queue("ab c/%~ü", FieldTable::new().with("x-message-ttl", 60_000)),
            Change::Bind(matched),
            Change::Bind(up),
            Change::PutPolicy(policy("p", 3, 9)),
            Change::PutOperatorPolicy(operator),
        ]);
        let exported = vhost.api("GET", "definitions", "", None).ok().body;
        std::fs::write(place.path("one.json"), exported).unwrap();
        let exported = vhost.node.http("GET", "/api/definitions", None).ok().body;
        std::fs::write(place.path("all.json"), exported).unwrap();
        let whole = format!("import all.json --owner shop --vhost {}", vhost.name);
        for args in ["import one.json --owner shop", &whole] {
            let imported = place.run(args).is(0);
            std::fs::write(place.path("imported.yaml"), imported.stdout).unwrap();
            let objects = ["orders", "typed", "ab c/%~ü", "amq.headers", "max-length: 9"];
            let text = std::fs::read_to_string(place.path("imported.yaml")).unwrap();
            for object in &objects[..4] {
                assert!(text.contains(object), "{object}\n{text}");
            }
            place.run("plan imported.yaml --exit-code").is(0);
            let before = place.snapshot();
            place.run("apply imported.yaml").is(0);
            assert_eq!(place.snapshot(), before);
        }
        // And the plan is empty because they agree, not because it sees nothing.
        place.make(&[Change::PutPolicy(policy("p", 3, 10))]);
        place.run("plan imported.yaml --exit-code").is(2).says(&["policy `p`"]);
    }
}

#[test]
fn what_belongs_to_another_owner_is_refused_and_never_pruned() {
    for place in Place::all("owners") {
        let theirs = "metadata: {owner: them}
exchanges:
  hub: {type: topic}
queues:
  inbox: {type: classic, bind: [{from: hub, key: in.#}]}
policies:
  limits: {pattern: ^inbox$, applyTo: queues, definition: {maxLength: 5}}
";
        place.file("theirs.yaml", theirs);
        place.run("apply theirs.yaml").is(0);
        let before = place.snapshot();
        for (ours, object) in [
            (theirs.replace("hub: {type: topic}", "hub: {type: fanout}"), "exchange `hub`"),
            (theirs.replace("classic, bind", "classic, maxLength: 9, bind"), "queue `inbox`"),
            (theirs.replace("maxLength: 5", "maxLength: 6"), "policy `limits`"),
        ] {
            place.file("ours.yaml", &ours.replace("owner: them", "owner: us"));
            for more in [
                "",
                " --prune exchanges,queues,bindings,policies --max-deletes 1000 --lose-messages",
            ] {
                place.run(&format!("apply ours.yaml --yes{more}")).is(4).says(&[
                    object,
                    "it belongs to `them`",
                    "foreign-owner",
                ]);
            }
            assert_eq!(place.snapshot(), before, "{object}");
        }
        // The same things declared by two: nothing to do, and nothing to remove afterwards either.
        place.file("ours.yaml", &theirs.replace("owner: them", "owner: us"));
        place.run("apply ours.yaml --adopt").is(0);
        place.file("ours.yaml", "metadata: {owner: us}\n");
        let all = "--prune exchanges,queues,bindings,policies --max-deletes 1000 --lose-messages";
        place.run(&format!("apply ours.yaml --yes {all}")).is(0);
        assert_eq!(place.snapshot(), before, "the binding, too, is theirs");
        place.file("ours.yaml", &theirs.replace("owner: them", "owner: us"));
        place.run("destroy ours.yaml --yes --lose-messages").is(0);
        assert_eq!(place.snapshot(), before);
        place.run("destroy theirs.yaml --yes").is(0);
        assert!(!place.has_queue("inbox") && !place.has_exchange("hub"));
    }
}

#[test]
fn too_many_removals_stop_the_whole_plan_and_skip_blocked_leaves_out_only_them() {
    for place in Place::all("deletes") {
        let queues = |names: &[&str]| {
            let lines: String =
                names.iter().map(|n| format!("  {n}: {{type: classic}}\n")).collect();
            format!("metadata: {{owner: shop}}\nqueues:\n{lines}")
        };
        place.file("t.yaml", &queues(&["a", "b", "c"]));
        place.run("apply t.yaml").is(0);
        place.file("t.yaml", &queues(&["new"]));
        let pruned = "apply t.yaml --yes --prune queues --max-deletes 2";
        place.run(pruned).is(4).says(&["max-deletes", "3 objects would be removed"]);
        assert!(!place.has_queue("new") && place.has_queue("a"), "nothing at all was changed");
        place.run(&format!("{pruned} --skip-blocked")).is(3);
        assert!(place.has_queue("new") && place.has_queue("a"), "all but the removals");
        place.run("apply t.yaml --yes --prune queues --max-deletes 3").is(0);
        assert!(!place.has_queue("a") && !place.has_queue("c"));
    }
}

#[test]
fn a_policy_stands_in_for_an_argument_and_touches_no_message() {
    for place in Place::all("instead") {
        let shop = |length: u32| {
            SHOP.replace("classic, bind", &format!("classic, maxLength: {length}, bind"))
        };
        place.file("t.yaml", &shop(1000));
        place.run("apply t.yaml").is(0);
        place.make(&[Change::PutPolicy(PolicyDefinition {
            definition: [("message-ttl".to_owned(), 86_400_000.into())].into_iter().collect(),
            ..policy("displaced", 5, 0)
        })]);
        place.put("orders", 20);
        place.file("t.yaml", &shop(50));
        place.run("apply t.yaml --yes").is(4).says(&[
            "20 messages",
            "--policy-instead",
            "--migrate",
        ]);
        let shown = place.run("plan t.yaml --policy-instead").is(0);
        shown.says(&["nexusctl.queue.orders"]);
        place.run("apply t.yaml --policy-instead --yes").is(0);
        let snapshot = place.snapshot();
        let put = snapshot
            .policies
            .iter()
            .find(|policy| policy.name.as_str() == "nexusctl.queue.orders")
            .expect("the policy that stands in");
        assert_eq!(put.definition.get("max-length"), Some(&50.into()));
        assert_eq!(
            put.definition.get("message-ttl"),
            Some(&86_400_000.into()),
            "it carries on what it displaces"
        );
        assert!(put.priority > 5 && put.pattern == "^orders$", "{put:?}");
        support::eventually("the policy on the queue", || {
            let snapshot = place.ask(async |broker| broker.inspect().await.unwrap());
            let orders = snapshot.queues.iter().find(|q| q.definition.name.as_str() == "orders")?;
            (orders.policy.as_deref() == Some("nexusctl.queue.orders")).then_some(())
        });
        place.holds("orders", 20);
        place.run("plan t.yaml --exit-code").is(0);
        place.run("plan t.yaml --exit-code --policy-instead").is(0);
        // It works: of more messages than fit, the newest stay.
        place.put_beyond("orders", 60, 50);
    }
}

#[test]
fn a_policy_that_others_outrank_is_warned_of() {
    for place in Place::all("shadow") {
        place.make(&[Change::PutPolicy(policy("above", 50, 9))]);
        place.file(
            "t.yaml",
            &format!(
                "{SHOP}policies:\n  mine: {{pattern: ^orders$, applyTo: queues, priority: 1, definition: {{maxLength: 5}}}}\n"
            ),
        );
        let told = ["policy-shadowed", "policy `mine`", "queue `orders`", "`above`", "priority 50"];
        place.run("plan t.yaml").is(0).says(&told);
        place.run("apply t.yaml").is(0);
        place.run("plan t.yaml --exit-code").is(0).says(&told);
        // As it says: what applies is the other one.
        support::eventually("the policy on the queue", || {
            let snapshot = place.ask(async |broker| broker.inspect().await.unwrap());
            let orders = snapshot.queues.iter().find(|q| q.definition.name.as_str() == "orders")?;
            (orders.policy.as_deref() == Some("above")).then_some(())
        });
    }
}

#[test]
fn operator_policies_are_put_changed_and_removed() {
    for place in Place::all("operator") {
        let with = |length: u32| {
            format!(
                "{SHOP}operatorPolicies:\n  cap: {{pattern: ^orders$, applyTo: queues, definition: {{maxLength: {length}}}}}\n"
            )
        };
        let cap = |place: &Place| {
            let snapshot = place.snapshot();
            let found = snapshot.operator_policies.iter().find(|p| p.name.as_str() == "cap");
            found.and_then(|policy| policy.definition.get("max-length").cloned())
        };
        place.file("t.yaml", &with(10));
        place.run("apply t.yaml").is(0);
        assert_eq!(cap(&place), Some(10.into()));
        place.file("t.yaml", &with(4));
        place.run("plan t.yaml --exit-code").is(2).says(&["operator policy `cap`", "10", "4"]);
        place.run("apply t.yaml").is(0);
        assert_eq!(cap(&place), Some(4.into()));
        place.put_beyond("orders", 9, 4);
        place.file("t.yaml", SHOP);
        place.run("apply t.yaml").is(0);
        assert_eq!(cap(&place), Some(4.into()), "not without --prune");
        place.run("apply t.yaml --yes --prune operator-policies").is(0);
        assert_eq!(cap(&place), None);
    }
}

#[test]
fn another_cluster_or_vhost_than_the_file_is_for_is_refused() {
    for place in Place::all("cluster") {
        let identity = place.snapshot().identity;
        let before = place.snapshot();
        for wrong in ["cluster: {name: production}", "cluster: {vhost: another}"] {
            place.file("t.yaml", &format!("{wrong}\n{SHOP}"));
            for command in [
                "plan t.yaml",
                "apply t.yaml --yes",
                "apply t.yaml --yes --skip-blocked",
                "destroy t.yaml --yes",
            ] {
                place.run(command).is(4).says(&["the file is for"]);
            }
            assert_eq!(place.snapshot(), before, "{wrong}");
        }
        let right = format!(
            "cluster: {{name: {:?}, vhost: {:?}}}\n{SHOP}",
            identity.cluster_name,
            identity.vhost.as_str()
        );
        place.file("t.yaml", &right);
        place.run("apply t.yaml").is(0);
        assert!(place.has_queue("orders"));
    }
}

#[test]
fn what_is_protected_is_neither_made_anew_nor_moved() {
    for place in Place::all("protect") {
        let shop = SHOP
            .replace("{type: topic}", "{type: topic, protect: true}")
            .replace("classic, bind", "classic, protect: true, bind");
        place.file("t.yaml", &shop);
        place.run("apply t.yaml").is(0);
        let before = place.snapshot();
        for (changed, object) in [
            (
                shop.replace("protect: true, bind", "protect: true, maxLength: 5, bind"),
                "queue `orders`",
            ),
            (shop.replace("topic, protect", "direct, protect"), "exchange `events`"),
        ] {
            place.file("t.yaml", &changed);
            for more in ["", " --migrate", " --while-consumed --lose-messages"] {
                place
                    .run(&format!("apply t.yaml --yes{more}"))
                    .is(4)
                    .says(&[object, "protect: true"]);
            }
        }
        assert_eq!(place.snapshot(), before);
        // What touches neither messages nor bindings is no harm.
        place.file(
            "t.yaml",
            &shop.replace("protect: true, bind", "protect: true, maxLength: 5, bind"),
        );
        place.run("apply t.yaml --yes --policy-instead").is(0);
        place.run("plan t.yaml --exit-code").is(0);
    }
}

#[test]
fn an_empty_queue_and_an_exchange_are_made_anew_with_what_others_bound() {
    for place in Place::all("anew") {
        place.file("t.yaml", SHOP);
        place.run("apply t.yaml").is(0);
        let mut headers = binding("amq.headers", "orders", "");
        headers.arguments = FieldTable::new().with("x-match", "any").with("n", 5).with("s", "t");
        let mut out = binding("events", "orders", "x");
        out.destination = Destination::Exchange(ExchangeName::new("amq.fanout").unwrap());
        let foreign = [binding("amq.topic", "orders", "a b/~%ü"), headers, out];
        place.make(&foreign.clone().map(Change::Bind));
        place.file(
            "t.yaml",
            &SHOP.replace("classic, bind", "quorum, bind").replace("topic", "direct"),
        );
        place.run("apply t.yaml --yes").is(0);
        let snapshot = place.snapshot();
        for binding in &foreign {
            assert!(snapshot.bindings.contains(binding), "{binding:?}\n{:?}", snapshot.bindings);
        }
        assert!(
            !snapshot.bindings.iter().any(|b| b.source.as_str() == "nexusctl.kept"),
            "what was kept is forgotten"
        );
        place.run("plan t.yaml --exit-code").is(0);

        // The queue is made anew, and the run is gone before the bindings are back: its machine, too.
        let kept = nexus::topology::keep::keep(&foreign[0]);
        place.make(&[Change::Unbind(foreign[0].clone()), kept]);
        let told = place.run("plan t.yaml --exit-code").is(2);
        told.says(&["amq.topic -> queue orders", "binding-put-back"]);
        place.run("apply t.yaml").is(0);
        assert!(place.snapshot().bindings.contains(&foreign[0]));
        place.run("plan t.yaml --exit-code").is(0);
    }
}

#[test]
fn a_migration_puts_back_what_others_bound_and_keeps_every_message() {
    for place in Place::all("moved") {
        place.file("t.yaml", SHOP);
        place.run("apply t.yaml").is(0);
        let mut headers = binding("amq.headers", "orders", "");
        headers.arguments = FieldTable::new().with("x-match", "all").with("n", 5);
        let foreign = [binding("amq.topic", "orders", "x.#"), headers];
        place.make(&foreign.clone().map(Change::Bind));
        place.put("orders", 30);
        place.file("t.yaml", &SHOP.replace("classic, bind", "quorum, bind"));
        place.run("apply t.yaml").is(4).says(&["30 messages", "--migrate"]);
        place.run("apply t.yaml --migrate --yes").is(0);
        place.holds("orders", 30);
        let snapshot = place.snapshot();
        for binding in &foreign {
            assert!(snapshot.bindings.contains(binding), "{binding:?}\n{:?}", snapshot.bindings);
        }
        place.run("plan t.yaml --exit-code").is(0);
    }
}
