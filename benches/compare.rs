//! Ratios against peers, each pair taken in turn in one run; started by `benches/run.sh`, which
//! installs the peers and starts a RabbitMQ.
//!
//! Re-executes itself as the bare lapin loops, so that both sides are whole processes.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "benches/run.sh hands its folders over by environment, and reads nothing but stdout"
)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use nexus::base::time::Timestamp;
use nexus::resilience::reorder::{Feed, ReorderBuffer, ReorderSettings};
use nexus::resilience::{Dedup, Holder, SharedState};

const WINDOW: usize = 512;
const BULK: usize = 100_000;
const BODY_BYTES: usize = 1024;
const ROUND_TRIPS: usize = 5_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("bare-publish") => bare(publish_bare(&arguments[2], &arguments[3])),
        Some("bare-consume") => bare(consume_bare(&arguments[2], &arguments[3])),
        Some("answer-lines") => answer_lines(),
        Some("bare-request") => bare(request_bare(&arguments[2], &arguments[3])),
        Some("bare-respond") => bare(respond_bare(&arguments[2], &arguments[3])),
        _ if std::env::var_os("BENCH_NODE").is_none() => {
            println!("run benches/run.sh: it starts a broker and installs the peers");
        }
        _ => compare(),
    }
}

fn bare(work: impl Future<Output = lapin::Result<()>>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(work).expect("the bare loop");
}

/// The bare loop: persistent messages of 1 KiB, mandatory, a window of confirms, oldest first.
async fn publish_bare(url: &str, queue: &str) -> lapin::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let body = vec![b'x'; BODY_BYTES];
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let mut window = std::collections::VecDeque::new();
    for _ in 0..BULK {
        if window.len() == WINDOW
            && let Some(oldest) = window.pop_front()
        {
            let confirm: lapin::PublisherConfirm = oldest;
            assert!(confirm.await?.is_ack());
        }
        let properties = BasicProperties::default().with_delivery_mode(2);
        window.push_back(
            channel.basic_publish("".into(), queue.into(), options, &body, properties).await?,
        );
    }
    for confirm in window {
        assert!(confirm.await?.is_ack());
    }
    connection.close(200, "done".into()).await
}

/// The bare loop: prefetch as ours, each hundredth delivery acked with all before it.
async fn consume_bare(url: &str, queue: &str) -> lapin::Result<()> {
    use futures_util::StreamExt as _;
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(1000, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume(queue.into(), "bench".into(), options, FieldTable::default()).await?;
    let mut sink = std::io::BufWriter::new(std::io::stdout().lock());
    for n in 1..=BULK {
        let delivery = consumer.next().await.expect("a delivery")?;
        sink.write_all(&delivery.data).and_then(|()| sink.write_all(b"\n")).expect("stdout");
        if n.is_multiple_of(100) {
            delivery.ack(BasicAckOptions { multiple: true }).await?;
        }
    }
    sink.flush().expect("stdout");
    connection.close(200, "done".into()).await
}

/// The bare loop: one question at a time, mandatory and confirmed, its answer by direct reply-to.
async fn request_bare(url: &str, queue: &str) -> lapin::Result<()> {
    use futures_util::StreamExt as _;
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let reply_to = "amq.rabbitmq.reply-to";
    let mut answers =
        channel.basic_consume(reply_to.into(), "".into(), no_ack, FieldTable::default()).await?;
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    for n in 0..ROUND_TRIPS {
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_reply_to(reply_to.into())
            .with_correlation_id(n.to_string().into());
        let confirm =
            channel.basic_publish("".into(), queue.into(), options, b"x", properties).await?;
        let answer = answers.next().await.expect("an answer")?;
        let id = answer.properties.correlation_id().as_ref().map(ToString::to_string);
        assert_eq!(id, Some(n.to_string()));
        assert!(confirm.await?.is_ack());
    }
    connection.close(200, "done".into()).await
}

/// Answers until it is killed.
async fn respond_bare(url: &str, queue: &str) -> lapin::Result<()> {
    use futures_util::StreamExt as _;
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(100, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut requests =
        channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
    while let Some(request) = requests.next().await {
        let request = request?;
        let asked = &request.properties;
        if let (Some(to), Some(id)) = (asked.reply_to(), asked.correlation_id()) {
            let properties = BasicProperties::default().with_correlation_id(id.clone());
            let options = BasicPublishOptions::default();
            channel.basic_publish("".into(), to.clone(), options, b"y", properties).await?;
        }
        request.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

/// What `tests/broker.sh start` wrote about its node, and where this run may write.
struct Bench {
    node: BTreeMap<String, String>,
    work: PathBuf,
}

impl Bench {
    fn from_env() -> Bench {
        let env = std::env::var("BENCH_NODE").expect("BENCH_NODE");
        let node = std::fs::read_to_string(env).expect("the node's env file");
        let node = node
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.trim_matches(['\'', '"']).to_owned()))
            .collect();
        Bench { node, work: PathBuf::from(std::env::var("BENCH_WORK").expect("BENCH_WORK")) }
    }

    fn amqp(&self) -> &str {
        &self.node["NODE_AMQP_URL"]
    }

    fn management(&self) -> &str {
        &self.node["NODE_MANAGEMENT_URL"]
    }

    fn nexusctl(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nexusctl"));
        command.env_clear().env("HOME", &self.work).current_dir(&self.work);
        command.args(["--broker", self.amqp(), "--management-url", self.management()]);
        command
    }

    fn embedded(&self, state: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nexusctl"));
        command.env_clear().env("HOME", &self.work).current_dir(&self.work);
        command.args(["--broker", &format!("embedded:{}", state.display())]);
        command
    }

    fn itself(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(arguments);
        command
    }

    /// A file of `count` records with bodies of 1 KiB; its path.
    fn records(&self, name: &str, count: usize) -> String {
        let path = self.work.join(name);
        let line = format!("{{\"body\":\"{}\"}}\n", "x".repeat(BODY_BYTES));
        std::fs::write(&path, line.repeat(count)).expect("the file of records");
        path.to_string_lossy().into_owned()
    }

    fn topology(&self, name: &str, text: &str) -> PathBuf {
        let path = self.work.join(name);
        std::fs::write(&path, text).expect("a topology file");
        path
    }
}

/// Runs to the end and returns how long it took; what it prints goes to `/dev/null`.
fn time(command: &mut Command) -> Duration {
    let from = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("to start");
    assert!(status.success(), "{command:?} ended with {status}");
    from.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Times each command `rounds` times, in turn, after one round that does not count.
fn in_turn(rounds: usize, commands: &mut [&mut dyn FnMut() -> Duration]) -> Vec<Duration> {
    let mut times = vec![Vec::new(); commands.len()];
    for round in 0..=rounds {
        for (index, command) in commands.iter_mut().enumerate() {
            let took = command();
            if round > 0 {
                times[index].push(took);
            }
        }
    }
    times.into_iter().map(median).collect()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn per_second(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn row(what: &str, figure: &str, bound: &str) {
    println!("{what:<52} {figure:<44} {bound}");
}

/// A part's name for the command line, and what measures it.
type Part = (&'static str, fn(&Bench));

const PARTS: [Part; 10] = [
    ("version", version),
    ("cold", cold_publish),
    ("bulk", bulk),
    ("request", request),
    ("worker", worker),
    ("memory", memory),
    ("embedded", embedded),
    ("plan", plan),
    ("resilience", resilience),
    ("queues", queues),
];

fn compare() {
    let bench = Bench::from_env();
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    row("what", "measured (medians of one run)", "bound");
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            part(&bench);
        }
    }
}

fn version(bench: &Bench) {
    let mut ours = || time(Command::new(env!("CARGO_BIN_EXE_nexusctl")).arg("--version"));
    let mut empty = || time(&mut Command::new(bench.work.join("empty")));
    let times = in_turn(40, &mut [&mut ours, &mut empty]);
    row(
        "--version, beyond an empty C program",
        &format!(
            "{:.2} ms ({:.2} - {:.2})",
            ms(times[0]) - ms(times[1]),
            ms(times[0]),
            ms(times[1])
        ),
        "<= 3 ms",
    );
}

fn cold_publish(bench: &Bench) {
    declare_queue(bench, "cold");
    let mut ours = || time(bench.nexusctl().args(["publish", "", "cold", "hello"]));
    let mut amqp_publish = || {
        time(Command::new("amqp-publish").args([
            "-u",
            bench.amqp(),
            "-r",
            "cold",
            "-p",
            "-b",
            "hello",
        ]))
    };
    let python = bench.work.join("venv/bin/python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/publish.py");
    let mut pika = || time(Command::new(&python).args([script, bench.amqp(), "cold", "hello"]));
    let times = in_turn(20, &mut [&mut ours, &mut amqp_publish, &mut pika]);
    row(
        "cold publish of one message / amqp-publish",
        &format!(
            "{:.2} x ({:.1} / {:.1} ms)",
            ms(times[0]) / ms(times[1]),
            ms(times[0]),
            ms(times[1])
        ),
        "<= 2 x",
    );
    row(
        "pika script / cold publish of one message",
        &format!("{:.1} x ({:.1} ms)", ms(times[2]) / ms(times[0]), ms(times[2])),
        ">= 10 x",
    );
}

fn bulk(bench: &Bench) {
    declare_queue(bench, "bulk");
    let file = bench.records("bulk.ndjson", BULK);
    let window = WINDOW.to_string();
    let count = BULK.to_string();
    let mut publish_ours = || {
        time(bench.nexusctl().args([
            "publish",
            "",
            "bulk",
            "--records",
            "-f",
            &file,
            "--window",
            &window,
            "-q",
        ]))
    };
    let mut consume_ours =
        || time(bench.nexusctl().args(["consume", "bulk", "--count", &count, "--raw", "-q"]));
    let mut publish_bare = || time(&mut bench.itself(&["bare-publish", bench.amqp(), "bulk"]));
    let mut consume_bare = || time(&mut bench.itself(&["bare-consume", bench.amqp(), "bulk"]));
    let times = in_turn(
        3,
        &mut [&mut publish_ours, &mut consume_bare, &mut publish_bare, &mut consume_ours],
    );
    for (what, ours, bare) in
        [("bulk publish", times[0], times[2]), ("bulk consume", times[3], times[1])]
    {
        row(
            &format!("{what}, {BULK} x 1 KiB / a bare lapin loop"),
            &format!(
                "{:.2} x ({:.0} / {:.0} per s)",
                ms(bare) / ms(ours),
                per_second(BULK, ours),
                per_second(BULK, bare)
            ),
            ">= 0.9 x",
        );
    }
}

/// The quickest handler there is: it says of each line that it is done.
fn answer_lines() {
    let mut input = std::io::BufReader::with_capacity(1 << 20, std::io::stdin().lock());
    let mut answers = Vec::new();
    let mut rest: Vec<u8> = Vec::new();
    loop {
        let piece = std::io::BufRead::fill_buf(&mut input).expect("to read");
        if piece.is_empty() {
            return;
        }
        let taken = piece.len();
        rest.extend_from_slice(piece);
        std::io::BufRead::consume(&mut input, taken);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in rest[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let end = line.iter().position(|byte| *byte == b',').expect("an id");
            answers.extend_from_slice(&line[..end]);
            answers.extend_from_slice(b"}\n");
        }
        rest.drain(..whole);
        std::io::stdout().write_all(&answers).expect("to write");
        std::io::stdout().flush().expect("to write");
        answers.clear();
    }
}

/// Handling messages by a command, beside doing nothing with them, and beside starting processes alone.
fn worker(bench: &Bench) {
    const PROCESSES: usize = 2_000;
    declare_queue(bench, "work");
    let file = bench.records("bulk.ndjson", BULK);
    let fill = |count: usize| {
        let count = count.to_string();
        let mut publish = bench.nexusctl();
        publish.args(["publish", "", "work", "--records", "-f", &file, "-q"]);
        if count != BULK.to_string() {
            publish = bench.nexusctl();
            publish.args(["publish", "", "work", "x", "--count", &count, "-q"]);
        }
        time(&mut publish);
    };
    let count = BULK.to_string();
    let myself = std::env::current_exe().expect("this program").display().to_string();
    let mut ours = || {
        fill(BULK);
        time(bench.nexusctl().args([
            "worker",
            "work",
            "--ndjson",
            "--window",
            "500",
            "--prefetch",
            "500",
            "--count",
            &count,
            "--stop-on-failure",
            "-q",
            "--",
            &myself,
            "answer-lines",
        ]))
    };
    let mut bare = || {
        fill(BULK);
        time(&mut bench.itself(&["bare-consume", bench.amqp(), "work"]))
    };
    let times = in_turn(3, &mut [&mut ours, &mut bare]);
    row(
        &format!("worker, a command that lives on, {BULK} x 1 KiB / a bare lapin loop"),
        &format!(
            "{:.2} x ({:.0} / {:.0} per s)",
            ms(times[1]) / ms(times[0]),
            per_second(BULK, times[0]),
            per_second(BULK, times[1])
        ),
        ">= 0.8 x",
    );
    let count = PROCESSES.to_string();
    let mut ours = || {
        fill(PROCESSES);
        time(bench.nexusctl().args([
            "worker",
            "work",
            "--jobs",
            "2",
            "--count",
            &count,
            "--stop-on-failure",
            "-q",
            "--",
            "/bin/true",
        ]))
    };
    let mut xargs = || {
        let script = format!("seq {PROCESSES} | xargs -n 1 -P 2 /bin/true");
        time(Command::new("sh").args(["-c", &script]))
    };
    let times = in_turn(3, &mut [&mut ours, &mut xargs]);
    row(
        &format!("worker, a process a message, {PROCESSES} / xargs -P"),
        &format!(
            "{:.2} x ({:.0} / {:.0} per s)",
            ms(times[1]) / ms(times[0]),
            per_second(PROCESSES, times[0]),
            per_second(PROCESSES, times[1])
        ),
        ">= 0.9 x",
    );
}

/// One question at a time: what is measured is the way there and back.
fn request(bench: &Bench) {
    declare_queue(bench, "rpc");
    let mut responder = bench
        .itself(&["bare-respond", bench.amqp(), "rpc"])
        .stdout(Stdio::null())
        .spawn()
        .expect("a responder");
    let ready = |_: &usize| {
        let one = bench.nexusctl().args(["request", "--queue", "rpc", "x", "-q"]).output();
        one.expect("to start").status.success()
    };
    let is_ready = (0..200).any(|n| {
        std::thread::sleep(Duration::from_millis(50));
        ready(&n)
    });
    assert!(is_ready, "nobody answers");
    let count = ROUND_TRIPS.to_string();
    let arguments =
        ["request", "--queue", "rpc", "x", "--count", &count, "--window", "1", "--raw", "-q"];
    let mut ours = || time(bench.nexusctl().args(arguments));
    let mut bare = || time(&mut bench.itself(&["bare-request", bench.amqp(), "rpc"]));
    let times = in_turn(5, &mut [&mut ours, &mut bare]);
    responder.kill().expect("to end the responder");
    responder.wait().expect("the responder's end");
    let each = |took: Duration| ms(took) * 1000.0 / ROUND_TRIPS as f64;
    row(
        &format!("round trip, {ROUND_TRIPS} one by one / a bare lapin loop"),
        &format!(
            "{:.2} x ({:.0} / {:.0} us each)",
            ms(times[0]) / ms(times[1]),
            each(times[0]),
            each(times[1])
        ),
        "<= 1.5 x",
    );
}

/// Four times the messages shall not need more memory.
fn memory(bench: &Bench) {
    declare_queue(bench, "memory");
    let peaks = [BULK, 4 * BULK].map(|count| {
        let file = bench.records("memory.ndjson", count);
        let publish = ["publish", "", "memory", "--records", "-q", "-f", &file];
        let publish = peak_memory_mib(bench.nexusctl().args(publish));
        let count = count.to_string();
        let consume = ["consume", "memory", "--count", &count, "--raw", "-q"];
        (publish, peak_memory_mib(bench.nexusctl().args(consume)))
    });
    for (what, few, many) in
        [("publish", peaks[0].0, peaks[1].0), ("consume", peaks[0].1, peaks[1].1)]
    {
        row(
            &format!("peak memory of bulk {what}, {} / {BULK}", 4 * BULK),
            &format!("{:.2} x ({many:.0} / {few:.0} MiB)", many / few),
            "<= 1.25 x",
        );
    }
}

fn embedded(bench: &Bench) {
    let file = bench.records("bulk.ndjson", BULK);
    let state = bench.work.join("state.db");
    let topology = bench.topology(
        "embedded.yaml",
        "apiVersion: nexus/v1\nkind: Topology\nmetadata: {owner: bench}\nqueues:\n  bulk: {type: classic}\n",
    );
    time(bench.embedded(&state).args(["topology", "apply", "--yes"]).arg(&topology));
    let count = BULK.to_string();
    let mut publish = || {
        time(bench.embedded(&state).args([
            "publish",
            "",
            "bulk",
            "--records",
            "--window",
            "2048",
            "-q",
            "-f",
            &file,
        ]))
    };
    let mut consume =
        || time(bench.embedded(&state).args(["consume", "bulk", "--count", &count, "--raw", "-q"]));
    let times = in_turn(3, &mut [&mut publish, &mut consume]);
    row(
        "embedded: publish durably / consume, 1 KiB each",
        &format!("{:.0} / {:.0} per s", per_second(BULK, times[0]), per_second(BULK, times[1])),
        ">= 50000 per s each",
    );
}

fn plan(bench: &Bench) {
    let mut text = String::from(
        "apiVersion: nexus/v1\nkind: Topology\nmetadata: {owner: bench}\nexchanges:\n  hub: {type: topic}\nqueues:\n",
    );
    for n in 0..1000 {
        text.push_str(&format!("  load.{n}:\n    type: classic\n"));
    }
    text.push_str("bindings:\n");
    for n in 0..5000 {
        text.push_str(&format!("  - {{from: hub, queue: load.{}, key: \"k.{n}\"}}\n", n % 1000));
    }
    let topology = bench.topology("large.yaml", &text);
    time(bench.nexusctl().args(["topology", "apply", "--yes", "-q"]).arg(&topology));
    let list =
        ["queues?disable_stats=true", "exchanges", "bindings", "policies", "operator-policies"];
    let mut listing = || {
        let from = Instant::now();
        for what in list {
            let url = format!("{}/api/{what}", bench.management());
            time(Command::new("curl").args(["-sf", "-u", "guest:guest", "-o", "/dev/null", &url]));
        }
        from.elapsed()
    };
    let mut ours = || time(bench.nexusctl().args(["topology", "plan"]).arg(&topology));
    let times = in_turn(5, &mut [&mut ours, &mut listing]);
    row(
        "plan of 1,000 queues and 5,000 bindings, beyond listing",
        &format!(
            "{:.0} ms ({:.0} - {:.0})",
            ms(times[0]) - ms(times[1]),
            ms(times[0]),
            ms(times[1])
        ),
        "<= 1000 ms",
    );
    let rss = peak_memory_mib(bench.nexusctl().args(["topology", "plan"]).arg(&topology));
    row("peak memory of that plan", &format!("{rss:.0} MiB"), "<= 100 MiB");
}

/// The state machines of the library, in this process; needs no broker.
fn resilience(bench: &Bench) {
    const MILLION: usize = 1_000_000;
    let keys: Vec<String> = (0..MILLION).map(|n| format!("{:032x}", n as u128 * 7919)).collect();
    let now = Timestamp::from_unix_ms(0);
    let (mut fresh, mut known) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let mut dedup = Dedup::new(Default::default());
        let me = Holder("bench".into());
        fresh.push(timed(|| {
            for key in &keys {
                let claim = dedup.claim(key, &me, now).expect("a new key");
                dedup.commit(key, claim, now).expect("its own claim");
            }
        }));
        known.push(timed(|| {
            assert!(keys.iter().all(|key| dedup.claim(key, &me, now).is_err()));
        }));
    }
    row(
        "dedup in memory: claim and commit / duplicates",
        &format!(
            "{:.0} / {:.0} per s",
            per_second(MILLION, median(fresh)),
            per_second(MILLION, median(known))
        ),
        ">= 1000000 per s each",
    );
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let took = runtime.expect("a runtime").block_on(claim_in_groups(&bench.work, &keys[..BULK]));
    row(
        "dedup in the state file: claimed, committed to disk",
        &format!("{:.0} per s, in groups of 500", per_second(BULK, took)),
        ">= 10000 per s",
    );
    // Each second pair of numbers comes in the wrong order.
    let workflows: Vec<String> = (0..100).map(|n| format!("workflow-{n}")).collect();
    let order = |n: usize| match n % 4 {
        2 => n + 1,
        3 => n - 1,
        _ => n,
    };
    let took = median((0..3).map(|_| reorder(&workflows, MILLION / 100, order)).collect());
    row(
        "reorder buffer, half of it out of order",
        &format!("{:.0} messages per s", per_second(MILLION, took)),
        ">= 500000 per s",
    );
}

fn timed(work: impl FnOnce()) -> Duration {
    let from = Instant::now();
    work();
    from.elapsed()
}

/// Claims and commits `keys` in groups of 500, two groups at a time.
async fn claim_in_groups(work: &Path, keys: &[String]) -> Duration {
    let hour = Duration::from_secs(3600);
    let state = SharedState::open(work.join("shared.db"), hour).await.expect("a state file");
    let groups: Vec<Vec<String>> = keys.chunks(500).map(<[String]>::to_vec).collect();
    let (first, second) = groups.split_at(groups.len() / 2);
    let lane = |groups: Vec<Vec<String>>| {
        let state = state.clone();
        async move {
            let me = state.begin_session().await.expect("a session");
            for group in groups {
                let now = Timestamp::from_unix_ms(0);
                let answers = state.claim("bench", group, &me, hour, now).await.expect("claims");
                let claims = answers.into_iter().map(|answer| answer.expect("a new key"));
                let kept = state.commit(claims.collect(), hour, now).await.expect("commits");
                assert!(kept.iter().all(Result::is_ok));
            }
        }
    };
    let from = Instant::now();
    tokio::join!(lane(first.to_vec()), lane(second.to_vec()));
    from.elapsed()
}

fn reorder(workflows: &[String], each: usize, order: impl Fn(usize) -> usize) -> Duration {
    let feed = Feed { prefetch: 500, consumer_timeout: None };
    let mut buffer = ReorderBuffer::new(ReorderSettings::default(), feed).expect("sound settings");
    let now = Timestamp::from_unix_ms(0);
    let mut out = Vec::new();
    let mut released = 0;
    let took = timed(|| {
        for n in 0..each {
            for workflow in workflows {
                buffer.push(workflow, order(n) as u64, n, BODY_BYTES, now, &mut out);
                released += out.drain(..).len();
            }
        }
    });
    assert_eq!(released, each * workflows.len());
    took
}

/// A broker with 10,000 queues, in a vhost of their own that goes when this is done.
fn queues(bench: &Bench) {
    const QUEUES: usize = 10_000;
    let api = |method: &str, path: &str, body: &str| {
        let url = format!("{}/api/{path}", bench.management());
        time(Command::new("curl").args([
            "-sf",
            "-u",
            "guest:guest",
            "-X",
            method,
            "-H",
            "content-type: application/json",
            "-d",
            body,
            "-o",
            "/dev/null",
            &url,
        ]))
    };
    api("PUT", "vhosts/queues", "{}");
    api("PUT", "permissions/queues/guest", r#"{"configure":".*","write":".*","read":".*"}"#);
    let all: Vec<String> = (0..QUEUES)
        .map(|n| {
            let (durable, more) = (r#""durable":true"#, r#""auto_delete":false,"arguments":{}"#);
            format!(r#"{{"name":"load.{n:05}",{durable},{more}}}"#)
        })
        .collect();
    let definitions =
        bench.topology("queues.json", &format!(r#"{{"queues":[{}]}}"#, all.join(",")));
    api("POST", "definitions/queues", &format!("@{}", definitions.display()));
    // The cheapest that shows the same columns.
    let path = format!(
        "{}/api/queues/queues?disable_stats=true&enable_queue_totals=true",
        bench.management()
    );
    let mut listing =
        || time(Command::new("curl").args(["-sf", "-u", "guest:guest", "-o", "/dev/null", &path]));
    let list = || {
        let mut command = bench.nexusctl();
        command.args(["--vhost", "queues", "queue", "list", "-o", "json"]);
        command
    };
    let mut ours = || time(&mut list());
    let times = in_turn(5, &mut [&mut ours, &mut listing]);
    row(
        "queue list of 10,000 queues, beyond listing",
        &format!(
            "{:.0} ms ({:.0} - {:.0})",
            ms(times[0]) - ms(times[1]),
            ms(times[0]),
            ms(times[1])
        ),
        "<= 2000 ms",
    );
    let rss = peak_memory_mib(&list());
    row("peak memory of that list", &format!("{rss:.0} MiB"), "<= 150 MiB");
    api("DELETE", "vhosts/queues", "");
}

/// Peak resident memory of a command, as GNU time reports it.
fn peak_memory_mib(command: &Command) -> f64 {
    let mut timed = Command::new("/usr/bin/time");
    timed.args(["-f", "%M"]).arg(command.get_program()).args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        timed.env(name, value.unwrap_or_default());
    }
    let output = timed.stdout(Stdio::null()).output().expect("GNU time");
    let text = String::from_utf8_lossy(&output.stderr);
    let kib: f64 = text.lines().last().and_then(|line| line.trim().parse().ok()).expect("a size");
    kib / 1024.0
}

fn declare_queue(bench: &Bench, name: &str) {
    let text = format!(
        "apiVersion: nexus/v1\nkind: Topology\nmetadata: {{owner: bench-{name}}}\nqueues:\n  {name}: {{type: classic}}\n"
    );
    let topology = bench.topology(&format!("{name}.yaml"), &text);
    time(bench.nexusctl().args(["topology", "apply", "--yes", "-q"]).arg(topology));
}
