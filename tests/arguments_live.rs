//! What `broker::arguments` says RabbitMQ refuses is what RabbitMQ refuses: random queues and policies
//! are declared on real nodes and the answers compared.

mod support;

use nexus::base::id::{PolicyName, QueueName};
use nexus::broker::arguments::{
    QUEUE_ARGUMENTS, check_policy, check_queue_arguments, field_of_json, json_of_field, policy_keys,
};
use nexus::broker::{ApplyTo, PolicyDefinition, QueueDefinition, QueueType, Version};
use nexus::message::FieldValue;
use serde_json::{Map, Value, json};
use support::{Node, Vhost};

const CASES: usize = 300;

fn values() -> Vec<Value> {
    let numbers = [0_i64, 1, 2, 5, -1, -2, 255, 256, 15, 16, 60_000, 3_000_000_000, 3_000_000_001];
    let words = [
        "5",
        "drop-head",
        "reject-publish",
        "reject-publish-dlx",
        "lazy",
        "default",
        "balanced",
        "client-local",
        "min-masters",
        "random",
        "at-most-once",
        "at-least-once",
        "7D",
        "0D",
        "1Y",
        "10m",
        "7",
        "d",
        "",
        "all",
        "automatic",
        "always",
        "when-synced",
    ];
    numbers
        .into_iter()
        .map(Value::from)
        .chain(words.into_iter().map(Value::from))
        .chain([json!(315_360_000_000_i64), json!(315_360_000_001_i64), json!(1.5), json!(true)])
        .collect()
}

fn compare(vhost: &Vhost, version: Version, seed: u64) -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut disagreements = Vec::new();
    let values = values();
    let names: Vec<&str> = QUEUE_ARGUMENTS
        .iter()
        .map(|a| a.name)
        .filter(|name| !name.is_empty() && *name != "x-queue-type")
        .collect();
    for _ in 0..CASES {
        let kinds = [QueueType::Classic, QueueType::Quorum, QueueType::Stream];
        let kind = kinds[rng.usize(..3)];
        let mut queue = QueueDefinition::durable(QueueName::new("q").expect("a name"), kind);
        queue.durable = rng.u8(..10) > 0;
        queue.auto_delete = rng.u8(..10) == 0;
        for _ in 0..rng.usize(..3) {
            let value = &values[rng.usize(..values.len())];
            queue.arguments.insert(names[rng.usize(..names.len())], field_of_json(value));
        }
        let body = json!({
            "durable": queue.durable,
            "auto_delete": queue.auto_delete,
            "arguments": json_of_field(&FieldValue::Table(queue.arguments.clone())),
        });
        let answer = vhost.api("PUT", "queues", "q", Some(&body.to_string()));
        let (status, answer) = (answer.status, answer.body);
        vhost.api("DELETE", "queues", "q", None);
        let problems = check_queue_arguments(&queue, kind, version);
        if problems.iter().any(|p| p.refused) != (status >= 300) {
            disagreements.push(format!("{body}: {status} {answer}\n  ours: {problems:?}"));
        }
    }
    if version < Version::new(4, 0, 0) {
        // 3.10.8 fails inside on some policies with values of the wrong type, and never answers.
        return disagreements;
    }
    // 4.0.5 takes an `initial-cluster-size` of 0 in a policy.
    let keys: Vec<&str> = policy_keys().filter(|key| *key != "initial-cluster-size").collect();
    for _ in 0..CASES {
        let mut definition = Map::new();
        for _ in 0..rng.usize(1..3) {
            let key = keys[rng.usize(..keys.len())].to_owned();
            definition.insert(key, values[rng.usize(..values.len())].clone());
        }
        let targets = [ApplyTo::All, ApplyTo::Queues, ApplyTo::Exchanges, ApplyTo::QuorumQueues];
        let policy = PolicyDefinition {
            name: PolicyName::new("p").expect("a name"),
            pattern: ".*".to_owned(),
            apply_to: targets[rng.usize(..4)],
            priority: 0,
            definition,
        };
        let operator = rng.bool();
        let body = json!({
            "pattern": policy.pattern,
            "apply-to": policy.apply_to.as_str(),
            "priority": 0,
            "definition": policy.definition,
        });
        let kind = if operator { "operator-policies" } else { "policies" };
        let answer = vhost.api("PUT", kind, "p", Some(&body.to_string()));
        let (status, answer) = (answer.status, answer.body);
        vhost.api("DELETE", kind, "p", None);
        let problems = check_policy(&policy, operator, version);
        if problems.iter().any(|p| p.refused) != (status >= 300) {
            disagreements.push(format!("{kind} {body}: {status} {answer}\n  ours: {problems:?}"));
        }
    }
    disagreements
}

fn agree(variable: &str) {
    let Some(node) = Node::from_env(variable) else { return };
    let vhost = node.vhost("arguments");
    let version = node.version.parse().expect("a version");
    let disagreements = compare(&vhost, version, 11);
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

#[test]
fn rabbitmq_3_10_refuses_what_we_say_it_refuses() {
    agree("3_10");
}

#[test]
fn rabbitmq_4_0_refuses_what_we_say_it_refuses() {
    agree("4_0");
}
