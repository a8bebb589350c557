//! What `broker::arguments` says RabbitMQ refuses is what RabbitMQ refuses: random queues and policies
//! are declared on real nodes and the answers compared.

use nexus::base::id::{PolicyName, QueueName};
use nexus::broker::arguments::{
    QUEUE_ARGUMENTS, check_policy, check_queue_arguments, field_of_json, json_of_field, policy_keys,
};
use nexus::broker::{ApplyTo, PolicyDefinition, QueueDefinition, QueueType, Version};
use nexus::message::FieldValue;
use serde_json::{Map, Value, json};

const CASES: usize = 300;

/// A running node, from the directory that `variable` names; `None` (said aloud) without one.
struct Node {
    client: reqwest::Client,
    api: String,
    version: Version,
}

#[expect(clippy::disallowed_methods, reason = "tests are told of their nodes by the environment")]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn node(variable: &str) -> Option<Node> {
    let Ok(directory) = std::env::var(variable) else {
        eprintln!("skipped: {variable} names no node");
        return None;
    };
    let text = std::fs::read_to_string(format!("{directory}/env")).expect("a node has an env file");
    let value = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.trim_start_matches("export ").strip_prefix(name)?.strip_prefix('=')
            })
            .expect("the env file names it")
            .trim_matches(['"', '\''])
            .to_owned()
    };
    // The first caller installs it, the others find it there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Some(Node {
        client: reqwest::Client::new(),
        api: format!("{}/api", value("NODE_MANAGEMENT_URL").trim_end_matches('/')),
        version: value("NODE_VERSION").parse().expect("a version"),
    })
}

impl Node {
    /// Status and body of one call.
    async fn call(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, String) {
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.api))
            .basic_auth("guest", Some("guest"))
            .header("content-type", "application/json");
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let response = request.send().await.expect("the node answers");
        let status = response.status().as_u16();
        (status, response.text().await.unwrap_or_default())
    }
}

fn values() -> Vec<Value> {
    let numbers = [0, 1, 2, 5, -1, -2, 255, 256, 15, 16, 60_000, 3_000_000_000, 3_000_000_001];
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

async fn compare(node: &Node, vhost: &str, seed: u64) -> Vec<String> {
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
        let path = format!("/queues/{vhost}/q");
        let (status, answer) = node.call(reqwest::Method::PUT, &path, Some(&body)).await;
        node.call(reqwest::Method::DELETE, &path, None).await;
        let problems = check_queue_arguments(&queue, kind, node.version);
        if problems.iter().any(|p| p.refused) != (status >= 300) {
            disagreements.push(format!("{body}: {status} {answer}\n  ours: {problems:?}"));
        }
    }
    let keys: Vec<&str> = policy_keys().collect();
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
        let path = format!("/{kind}/{vhost}/p");
        let (status, answer) = node.call(reqwest::Method::PUT, &path, Some(&body)).await;
        node.call(reqwest::Method::DELETE, &path, None).await;
        let problems = check_policy(&policy, operator, node.version);
        if problems.iter().any(|p| p.refused) != (status >= 300) {
            disagreements.push(format!("{kind} {body}: {status} {answer}\n  ours: {problems:?}"));
        }
    }
    disagreements
}

async fn agree(variable: &str, vhost: &str) {
    let Some(node) = node(variable) else { return };
    let path = format!("/vhosts/{vhost}");
    node.call(reqwest::Method::PUT, &path, None).await;
    let disagreements = compare(&node, vhost, 11).await;
    node.call(reqwest::Method::DELETE, &path, None).await;
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

#[tokio::test]
async fn rabbitmq_3_10_refuses_what_we_say_it_refuses() {
    agree("NEXUSCTL_TEST_RABBITMQ_3_10", "nexusctl-arguments-3-10").await;
}

#[tokio::test]
async fn rabbitmq_4_0_refuses_what_we_say_it_refuses() {
    agree("NEXUSCTL_TEST_RABBITMQ_4_0", "nexusctl-arguments-4-0").await;
}
