//! What other tools for the same job get wrong, checked on the program as a whole: every test runs the
//! real binary, on the embedded broker and on both RabbitMQ versions, kills it, hangs or kills its
//! broker, fills its disk, and then counts messages by another way than the program's own.
//!
//! `NEXUSCTL_TEST_KILLS` says how often something is killed (3 when it is not set).

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a step that fails should fail its test, and a skipped one say so"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nexus::base::time::Timestamp;
use nexus::broker::{
    BindingDefinition, Change, Destination, LockHolder, QueueDefinition, QueueType,
};
use nexus::delivery::transfer;
use nexus::message::{
    FieldTable, FieldValue, Message, Properties, Record, parse_record, write_record,
};
use nexus::topology::migrate::WINDOW;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use support::program::*;
use support::{Node, Vhost};

#[path = "../src/message/arbitrary.rs"]
mod arbitrary;

// ------------------------------------------------------------------- checks

/// What holds on every broker.
mod checks {
    use super::*;

    pub(super) fn a_kill_during_a_filtered_consume_loses_nothing_and_keeps_the_order(
        place: &Place,
    ) {
        place.declare("q");
        place.put("q", &numbers(0..1000));
        let out = place.path("out");
        let out_name = out.display().to_string();
        let mut running = Running::start(&mut place.command(&[
            "consume",
            "q",
            "--filter",
            "body % 2 == 0",
            "--raw",
            "--out",
            &out_name,
        ]));
        await_bytes(&out, 1, &mut running);
        running.kill();
        let taken = as_numbers(&whole_lines(&out));
        assert!(taken.iter().all(|n| n % 2 == 0), "the filter let an odd one pass");
        let left = as_numbers(&place.drain("q"));
        assert!(left.is_sorted(), "the order is lost: {left:?}");
        let odd: Vec<u64> = left.iter().copied().filter(|n| n % 2 == 1).collect();
        assert_eq!(odd, (0..1000).filter(|n| n % 2 == 1).collect::<Vec<_>>());
        let all: BTreeSet<u64> = left.into_iter().chain(taken).collect();
        assert_eq!(all.len(), 1000, "messages are lost");
    }

    pub(super) fn a_full_disk_acks_nothing(place: &Place) {
        place.declare("q");
        place.put("q", &numbers(0..100));
        let full = File::options().write(true).open("/dev/full").unwrap();
        let ran = Running::start(place.command(&["consume", "q", "--until-empty"]).stdout(full));
        let ran = ran.ends_within(Duration::from_secs(30)).is(1);
        ran.says(&["No space left on device", "still in the queue"]);
        assert_eq!(as_numbers(&place.drain("q")), (0..100).collect::<Vec<_>>());
    }

    pub(super) fn a_reader_that_goes_away_ends_it_quietly_and_loses_nothing(place: &Place) {
        place.declare("q");
        // Longer than a pipe, so that it is not the pipe that swallows them.
        let body = |n: u64| format!("{n} {}\n", "x".repeat(300_000));
        place.put("q", &(0..20).map(body).collect::<String>());
        let script = r#""$0" "$@" | head -n 1; echo "status ${PIPESTATUS[0]}""#;
        let mut command = place.wrapped(&["bash", "-c", script], &["consume", "q", "--raw"]);
        let ran = Running::start(command.stdout(File::create(place.path("out")).unwrap()))
            .ends_within(Duration::from_secs(60))
            .is(0);
        let lines = whole_lines(&place.path("out"));
        assert_eq!(lines.last().unwrap(), "status 0", "{}", ran.stderr);
        assert_eq!(lines.len(), 2, "the first message and the status");
        for word in ["error", "panic", "roken pipe"] {
            assert!(!ran.stderr.contains(word), "{}", ran.stderr);
        }
        let bodies = place.drain("q").into_iter().chain([lines[0].clone()]);
        let seen: BTreeSet<u64> =
            bodies.map(|body| body.split_once(' ').unwrap().0.parse().unwrap()).collect();
        assert_eq!(seen, (0..20).collect());
    }

    pub(super) fn five_megabytes_on_one_line_are_one_message(place: &Place) {
        place.declare("q");
        let body: String = (0..5_000_000u32).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
        place.put("q", &format!("{body}\n"));
        let input = body.as_bytes();
        place.run_with(&["publish", "", "q", "-f", "-"], input).is(0);
        let back = place.drain("q");
        assert_eq!(back.len(), 2);
        assert!(back.iter().all(|one| *one == body), "the bytes differ");
    }

    pub(super) fn what_no_queue_takes_is_status_5_and_named(place: &Place) {
        let ran = place.run(&["publish", "", "missing", "hi", "--message-id", "m-1"]).is(5);
        ran.says(&["m-1", "missing", "NO_ROUTE", "0 messages confirmed, 1 returned"]);
        let ran = place.run(&["publish", "nowhere", "key", "hi", "--message-id", "m-2"]).is(5);
        ran.says(&["m-2", "no exchange 'nowhere'", "404"]);
        // A queue that exists gets what is its own, and the status still tells of the other.
        place.declare("q");
        let input = br#"{"exchange":"","routingKey":"q","body":1}
{"exchange":"","routingKey":"missing","body":2,"properties":{"messageId":"m-3"}}
{"exchange":"","routingKey":"q","body":3}
"#;
        let ran = place.run_with(&["publish", "--records"], input).is(5);
        ran.says(&["m-3", "2 messages confirmed, 1 returned"]);
        assert_eq!(place.drain("q"), ["1", "3"]);
    }

    pub(super) fn records_keep_properties_types_and_bytes_on_their_way_through_the_program(
        place: &Place,
    ) {
        place.declare("first");
        place.declare("second");
        let strategy = arbitrary::message();
        let mut runner = TestRunner::default();
        let mut messages: Vec<Message> = (0..300)
            .map(|_| acceptable(strategy.new_tree(&mut runner).unwrap().current()))
            .collect();
        messages.push(Message { body: (0..=255).collect::<Vec<u8>>(), ..Message::default() });
        messages.push(Message { body: b"\n\r\n\0\xff".to_vec(), ..Message::default() });
        let mut input = Vec::new();
        for message in &messages {
            let record = Record { message: message.clone(), ..Record::default() };
            write_record(&mut input, &record.as_ref());
            input.push(b'\n');
        }
        place.run_with(&["publish", "--records", "", "first"], &input).is(0);
        let once = place.run(&["consume", "first", "--until-empty"]).is(0);
        place.run_with(&["publish", "--records", "", "second"], &once.stdout).is(0);
        let twice = place.run(&["consume", "second", "--until-empty"]).is(0);
        let back: Vec<Record> = twice
            .stdout
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| parse_record(line).unwrap())
            .collect();
        assert_eq!(back.len(), messages.len());
        for (record, message) in back.iter().zip(&messages) {
            assert!(
                arbitrary::same(&record.message, message),
                "sent {message:?}\ngot  {:?}",
                record.message
            );
        }
        assert_eq!(place.waiting("first") + place.waiting("second"), 0);
    }

    pub(super) fn what_a_killed_publish_called_confirmed_is_there_and_the_rest_can_be_sent(
        place: &Place,
    ) {
        let input = place.file("lines", numbers(1..20_001));
        for kill in 1..=kills() {
            let name = format!("q{kill}");
            place.declare(&name);
            let report = place.path(&format!("report{kill}"));
            let report_name = report.display().to_string();
            let mut running = Running::start(&mut place.command(&[
                "publish",
                "",
                &name,
                "--lines",
                "-f",
                &input,
                "--report",
                &report_name,
            ]));
            await_bytes(&report, 1 + (kill - 1) * 60_000 % 300_000, &mut running);
            running.kill();
            let claimed = confirmed_lines(&report);
            assert!(!claimed.is_empty() && claimed.len() < 20_000, "killed at {}", claimed.len());
            // The first line without a confirm is where a rerun begins.
            let next = (1..).find(|line| !claimed.contains(line)).unwrap();
            place.put(&name, &numbers(next..20_001));
            let bodies = as_numbers(&place.drain(&name));
            let mut times = BTreeMap::<u64, u64>::new();
            bodies.iter().for_each(|n| *times.entry(*n).or_default() += 1);
            for line in &claimed {
                assert!(times.contains_key(line), "line {line} was confirmed and is lost");
            }
            assert_eq!(times.len(), 20_000, "the rerun left something out");
            assert!(times.values().all(|times| *times <= 2), "a line came more than twice");
        }
    }

    pub(super) fn consume_killed_again_and_again_loses_nothing_and_repeats_little(place: &Place) {
        let (prefetch, total) = (50, 4000);
        place.declare("q");
        place.put("q", &numbers(0..total));
        let mut taken = Vec::new();
        for kill in 0..kills() {
            let out = place.path(&format!("out{kill}"));
            let out_name = out.display().to_string();
            let mut running = Running::start(&mut place.command(&[
                "consume",
                "q",
                "--raw",
                "--out",
                &out_name,
                "--prefetch",
                &prefetch.to_string(),
            ]));
            await_bytes(&out, 1 + kill * 100 % 700, &mut running);
            running.kill();
            let lines = whole_lines(&out);
            assert!(!lines.is_empty(), "killed before it wrote");
            taken.extend(as_numbers(&lines));
        }
        let left = as_numbers(&place.drain("q"));
        assert!(!left.is_empty(), "every kill came too late");
        let seen = taken.len() + left.len();
        let all: BTreeSet<u64> = taken.into_iter().chain(left).collect();
        assert_eq!(all, (0..total).collect(), "messages are lost");
        let repeats = seen as u64 - total;
        assert!(repeats <= prefetch * kills(), "{repeats} repeats after {} kills", kills());
    }

    pub(super) fn an_interrupted_publish_says_where_to_go_on_exactly(place: &Place) {
        for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
            let name = format!("q{status}");
            place.declare(&name);
            let input = place.file("lines", numbers(1..20_001));
            let report = place.path(&format!("report{status}"));
            let report_name = report.display().to_string();
            let mut running = Running::start(&mut place.command(&[
                "publish",
                "",
                &name,
                "--lines",
                "-f",
                &input,
                "--report",
                &report_name,
            ]));
            await_bytes(&report, 1, &mut running);
            running.signal(signal);
            let ran = running.ends_within(Duration::from_secs(10)).is(status);
            let said = ran.out();
            let confirmed = number_before(&said, " messages confirmed").expect(&said);
            let next = said.split_once("; line ").and_then(|(_, rest)| {
                rest.split_once(" is the first that was not sent")?.0.parse::<u64>().ok()
            });
            let next = next.unwrap_or_else(|| panic!("no word on where to go on: {said}"));
            assert_eq!(confirmed_lines(&report), (1..=confirmed).collect());
            assert_eq!(place.waiting(&name), confirmed, "{said}");
            place.put(&name, &numbers(next..20_001));
            assert_eq!(as_numbers(&place.drain(&name)), (1..20_001).collect::<Vec<_>>());
        }
    }

    pub(super) fn a_signal_ends_a_waiting_consume_with_its_own_status(place: &Place) {
        place.declare("q");
        for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
            place.put("q", "1\n");
            let out = place.path(&format!("out{status}"));
            let out_name = out.display().to_string();
            let mut running =
                Running::start(&mut place.command(&["consume", "q", "--raw", "--out", &out_name]));
            await_bytes(&out, 2, &mut running);
            running.signal(signal);
            running.ends_within(Duration::from_secs(5)).is(status).says(&["1 message written"]);
            assert_eq!(place.waiting("q"), 0, "what was written was not acked");
        }
    }

    pub(super) fn a_second_interrupt_ends_a_consume_that_is_stuck_at_once(place: &Place) {
        place.declare("q");
        let body = |n: u64| format!("{n} {}\n", "x".repeat(300_000));
        place.put("q", &(0..10).map(body).collect::<String>());
        // Nobody reads its output: the first message fills the pipe and the next write waits for ever.
        let mut running = Running::start(&mut place.command(&["consume", "q", "--raw"]));
        place.ask(async |broker| {
            let end = Instant::now() + Duration::from_secs(30);
            while depth(broker, "q").await.ready > 0 {
                assert!(Instant::now() < end, "it does not fetch");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let began = Instant::now();
        while !running.has_ended() {
            running.signal("-INT");
            assert!(began.elapsed() < Duration::from_secs(3), "still running");
            std::thread::sleep(Duration::from_millis(100));
        }
        let status = running.child().wait().unwrap();
        assert_eq!(status.code(), Some(130));
        assert_eq!(place.waiting("q"), 10, "a message left the queue and was not read by anybody");
    }
}

/// The value with NaN and infinities replaced: RabbitMQ ends the connection when it reads them.
fn finite(value: &mut FieldValue) {
    match value {
        FieldValue::Float(n) if !n.is_finite() => *n = -0.0,
        FieldValue::Double(n) if !n.is_finite() => *n = -0.0,
        FieldValue::Array(values) => values.iter_mut().for_each(finite),
        FieldValue::Table(table) => table.0.values_mut().for_each(finite),
        _ => {}
    }
}

/// Any message that RabbitMQ takes.
fn acceptable(mut message: Message) -> Message {
    if let Some(headers) = &mut message.properties.headers {
        headers.0.values_mut().for_each(finite);
    }
    let properties: &mut Properties = &mut message.properties;
    if properties.expiration.is_some() {
        properties.expiration = Some("86400000".to_owned());
    }
    properties.user_id = None;
    properties.delivery_mode = properties.delivery_mode.map(|mode| 1 + mode % 2);
    message
}

macro_rules! on_every_broker {
    ($($check:ident,)*) => {
        on_every_broker!(@ embedded $($check)*);
        on_every_broker!(@ rabbitmq_3_10 $($check)*);
        on_every_broker!(@ rabbitmq_4_0 $($check)*);
    };
    (@ $kind:ident $($check:ident)*) => {
        mod $kind {
            $(
                #[test]
                fn $check() {
                    if let Some(place) = super::Place::open(stringify!($kind), "peer") {
                        super::checks::$check(&place);
                    }
                }
            )*
        }
    };
}

on_every_broker! {
    a_kill_during_a_filtered_consume_loses_nothing_and_keeps_the_order,
    a_full_disk_acks_nothing,
    a_reader_that_goes_away_ends_it_quietly_and_loses_nothing,
    five_megabytes_on_one_line_are_one_message,
    what_no_queue_takes_is_status_5_and_named,
    records_keep_properties_types_and_bytes_on_their_way_through_the_program,
    what_a_killed_publish_called_confirmed_is_there_and_the_rest_can_be_sent,
    consume_killed_again_and_again_loses_nothing_and_repeats_little,
    an_interrupted_publish_says_where_to_go_on_exactly,
    a_signal_ends_a_waiting_consume_with_its_own_status,
    a_second_interrupt_ends_a_consume_that_is_stuck_at_once,
}

// --------------------------------------------------------- connections cut

/// An operator closes the connection in the management page while messages are on their way.
#[test]
fn a_consume_whose_connection_is_closed_goes_on_loses_nothing_and_says_so() {
    const ALL: u64 = 3000;
    for node in Node::all() {
        let place = Place::on(&node, "closed");
        let mut definition = QueueDefinition::durable(queue("q"), QueueType::Quorum);
        definition.arguments.insert("x-delivery-limit", 20i64);
        let declare = Change::DeclareQueue(definition);
        place.ask(async |broker| broker.change(&declare).await.unwrap());
        place.put("q", &numbers(1..ALL / 2 + 1));
        let out = place.path("out");
        let (out_name, report) = (out.display().to_string(), place.path("report"));
        let mut consumer = Running::start(&mut place.command(&[
            "consume",
            "q",
            "--format",
            "{body} {headers.x-delivery-count}\\n",
            "--count",
            &ALL.to_string(),
            "--out",
            &out_name,
            "--report",
            &report.display().to_string(),
            "--deadline",
            "60s",
        ]));
        await_bytes(&out, 100, &mut consumer);
        let vhost = place.vhost.as_ref().unwrap();
        assert!(vhost.cut_connections(2) >= 2, "the connection was not closed");
        // The second half comes when it has subscribed again, or before; both are well.
        place.put("q", &numbers(ALL / 2 + 1..ALL + 1));
        let ran = consumer.ends_within(Duration::from_secs(70));
        assert_eq!(ran.status, Some(0), "{ran:?}");
        let written = whole_lines(&out);
        let numbers_of = |lines: &[String]| -> Vec<u64> {
            lines.iter().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
        };
        let written_numbers = numbers_of(&written);
        let taken: BTreeSet<u64> = written_numbers.iter().copied().collect();
        let left: BTreeSet<u64> = as_numbers(&place.drain("q")).into_iter().collect();
        let all: BTreeSet<u64> = taken.union(&left).copied().collect();
        assert_eq!(all, (1..ALL + 1).collect(), "{}: a message is lost", node.version);
        // One connection was lost, so no message has lost more than one life.
        let counts = written.iter().filter_map(|line| line.split(' ').nth(1)?.parse::<u64>().ok());
        assert!(counts.max().unwrap_or(0) <= 1, "{}: lives were wasted", node.version);
        // Repeats are few, and said.
        let report: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
        let repeats = written_numbers.len() as u64 - taken.len() as u64;
        // No more than may be unsettled at once.
        assert!(repeats <= 1000, "{}: {repeats} repeats", node.version);
        assert!(report["reconnects"].as_u64().unwrap() >= 1, "{report}");
        assert!(repeats <= report["repeatsPossible"].as_u64().unwrap(), "{report}: {repeats}");
        ran.says(&["the connection was lost and made again once"]);
    }
}

// ------------------------------------------------------------ access refused

/// A user of one test, without any tag.
struct User<'a> {
    node: &'a Node,
    name: String,
}

impl<'a> User<'a> {
    fn new(vhost: &'a Vhost, permissions: Option<&str>) -> User<'a> {
        let node = &vhost.node;
        let name = format!("user-of-{}", vhost.name);
        let body = r#"{"password":"secret","tags":""}"#;
        node.http("PUT", &format!("/api/users/{name}"), Some(body)).ok();
        if permissions.is_some() {
            let path = format!("/api/permissions/{}/{name}", vhost.name);
            node.http("PUT", &path, permissions).ok();
        }
        User { node, name }
    }
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        let (node, path) = (self.node.clone(), format!("/api/users/{}", self.name));
        // On a thread, because a second panic would hide the first.
        let _ = std::thread::spawn(move || node.http("DELETE", &path, None)).join();
    }
}

#[test]
fn a_refused_login_and_a_missing_permission_say_so_with_a_hint() {
    for node in Node::all() {
        let mut place = Place::on(&node, "access");
        place.declare("q");
        place.put("q", "1\n");
        place.file("t.yaml", "apiVersion: nexus/v1\nkind: Topology\nqueues:\n  q: {}\n");
        let vhost = place.vhost.take().unwrap();
        let of_guest = place.url.clone();
        let api_of_guest = place.management.clone().unwrap();
        let publish = ["publish", "", "q", "hi"];
        let consume = ["consume", "q", "--until-empty"];
        let plan = ["topology", "plan", "t.yaml"];

        place.url = of_guest.replace("guest:guest@", "guest:wrong@");
        place.management = Some(api_of_guest.replace("guest:guest@", "guest:wrong@"));
        for args in [&publish[..], &consume, &plan] {
            let ran = place.run(args).is(77);
            ran.says(&["error: cannot ", "login", "hint: check user name and password"]);
            assert!(!ran.stderr.contains("wrong@"), "the password is shown: {}", ran.stderr);
        }

        let nothing = r#"{"configure":"^$","write":"^$","read":"^$"}"#;
        let user = User::new(&vhost, Some(nothing));
        let login = format!("{}:secret@", user.name);
        place.url = of_guest.replace("guest:guest@", &login);
        place.management = Some(api_of_guest.replace("guest:guest@", &login));
        place.run(&publish).is(77).says(&["403", "ACCESS_REFUSED", "hint: "]);
        place.run(&consume).is(77).says(&["error: cannot consume", "`q`", "hint: "]);
        place.run(&plan).is(77).says(&["error: ", "hint: "]);

        drop(user);
        place.url = of_guest;
        place.management = Some(api_of_guest);
        assert_eq!(place.drain("q"), ["1"], "something was published or taken");
        drop(vhost);
    }
}

/// Whatever is asked for, the same obstacle has the same status and says the next step.
#[test]
fn every_way_not_to_get_in_has_its_status_and_its_next_step() {
    for node in Node::all() {
        let mut place = Place::on(&node, "doors");
        place.declare("q");
        place.file("t.yaml", "apiVersion: nexus/v1\nkind: Topology\nqueues:\n  q: {}\n");
        let vhost = place.vhost.take().unwrap();
        let (good, api) = (place.url.clone(), place.management.clone().unwrap());
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = |url: &str, to: &str| {
            let (before, after) = url.split_once('@').unwrap();
            let path = after.split_once('/').map_or("", |(_, path)| path);
            format!("{before}@{to}/{path}")
        };
        let stranger = User::new(&vhost, None);
        let as_stranger =
            |url: &str| url.replace("guest:guest@", &format!("{}:secret@", stranger.name));
        let misspelt = vhost.name.replacen("doors", "dors", 1);
        let meant = format!("did you mean `{}`?", vhost.name);
        let from_url = "the vhost comes from the URL of flag --broker";
        let silent_at = silent.local_addr().unwrap().to_string();
        let cases: &[(&str, String, String, i32, &[&str])] = &[
            (
                "wrong password",
                good.replace("guest:guest@", "guest:wrong@"),
                api.clone(),
                77,
                &["refused the login", "hint: check user name and password"],
            ),
            (
                "no permission in the vhost",
                as_stranger(&good),
                as_stranger(&api),
                77,
                &["refused for user", "hint: the login has no permissions in this vhost"],
            ),
            (
                "no such vhost",
                good.replace(&vhost.name, "nothing-like-it"),
                api.clone(),
                78,
                &["the vhost `nothing-like-it` does not exist", from_url, "the login may see "],
            ),
            (
                "a misspelt vhost",
                good.replace(&vhost.name, &misspelt),
                api.clone(),
                78,
                &[from_url, &meant],
            ),
            (
                "no such vhost, and no management API to ask",
                good.replace(&vhost.name, "nothing-like-it"),
                address(&api, "127.0.0.1:1"),
                78,
                &[from_url, "check its name"],
            ),
            (
                "the empty vhost",
                good.replace(&vhost.name, ""),
                api.clone(),
                78,
                &["flag --broker: the vhost is empty", "hint: leave the slash off"],
            ),
            (
                "nobody listens",
                address(&good, "127.0.0.1:1"),
                api.clone(),
                69,
                &["nobody listens on 127.0.0.1:1", "hint: is the broker running"],
            ),
            (
                "nobody answers",
                address(&good, &silent_at),
                api.clone(),
                69,
                &["within 500ms", "hint: "],
            ),
        ];
        for (case, url, management, status, words) in cases {
            place.url.clone_from(url);
            place.management = Some(management.clone());
            for args in [
                &["publish", "", "q", "hi"][..],
                &["consume", "q", "--until-empty"],
                &["consume", "q", "--dry-run"],
                &["topology", "plan", "t.yaml"],
                &["topology", "export"],
            ] {
                let limit = if *case == "nobody answers" { "500ms" } else { "20s" };
                let ran = place.run(&[args, &["--timeout", limit]].concat());
                assert_eq!(ran.status, Some(*status), "{case}: {args:?}: {ran:?}");
                ran.says(&["error: "]);
                ran.says(words);
                assert!(ran.stdout.is_empty(), "{case}: {args:?}: {ran:?}");
            }
        }
        // Said by the variable, it is the variable that is named.
        place.url.clone_from(&good);
        place.management = Some(api);
        let mut command = place.command(&["topology", "export"]);
        command.env("NEXUSCTL_VHOST", "nothing-like-it");
        let ran = Ran::from(command.output().unwrap()).is(78);
        ran.says(&["the vhost comes from environment NEXUSCTL_VHOST"]);
        // Somebody else at work is a reason to try later.
        place.file("t.yaml", "apiVersion: nexus/v1\nkind: Topology\nqueues:\n  more: {}\n");
        place.ask(async |broker| {
            let holder =
                LockHolder { who: "the test".to_owned(), since: Timestamp::from_unix_ms(0) };
            let name = format!("topology.{}", broker.identity().vhost);
            let lock = broker.lock(&name, &holder).await.unwrap();
            let apply = ["topology", "apply", "t.yaml", "--lock-timeout", "100ms"];
            place.run(&apply).is(75).says(&["the test since 1970", "hint: wait for it"]);
            lock.release().await.unwrap();
        });
        drop(stranger);
        drop(vhost);
    }
}

// ---------------------------------------------------- a broker of one's own

#[test]
fn a_broker_that_hangs_or_dies_is_noticed_in_time_and_no_confirmed_message_is_lost() {
    let Some(mut own) = OwnNode::start("4.0") else { return };
    // Declared early: RabbitMQ keeps a new queue in memory for a moment before it is on the disk.
    let place = Place::on(&own.node, "killed");
    place.declare("q");
    hung_while_nothing_is_connected(&own);
    hung_in_the_middle(&own);
    killed_in_the_middle(&mut own, &place);
}

/// A node that has stopped, until this is dropped.
struct Hung(u32);

impl Hung {
    fn new(own: &OwnNode) -> Hung {
        signal(own.node.pid, "-STOP");
        Hung(own.node.pid)
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-CONT", &self.0.to_string()]).status();
    }
}

/// What `--timeout 2s` allows, and the second that it may take on top.
const IN_TIME: Duration = Duration::from_secs(3);

fn hung_while_nothing_is_connected(own: &OwnNode) {
    let place = Place::on(&own.node, "hung");
    place.declare("q");
    place.file("t.yaml", "apiVersion: nexus/v1\nkind: Topology\nqueues:\n  q: {}\n");
    let hung = Hung::new(own);
    for args in [
        &["publish", "", "q", "hi", "--timeout", "2s"][..],
        &["consume", "q", "--until-empty", "--timeout", "2s"],
        &["topology", "plan", "t.yaml", "--timeout", "2s"],
        &["topology", "export", "--timeout", "2s"],
    ] {
        let ran = Running::start(&mut place.command(args)).ends_within(IN_TIME);
        assert_eq!(ran.status, Some(69), "{args:?}: {ran:?}");
        ran.says(&["error: cannot connect", "2s", "hint: "]);
    }
    drop(hung);
    assert_eq!(place.waiting("q"), 0);
}

fn hung_in_the_middle(own: &OwnNode) {
    let place = Place::on(&own.node, "middle");
    place.declare("q");
    place.put("q", "0\n");

    let mut publish = Running::start(
        place.command(&["publish", "", "q", "--lines", "--timeout", "2s"]).stdin(Stdio::piped()),
    );
    let mut input = publish.child().stdin.take().unwrap();
    input.write_all(b"1\n").unwrap();
    place.ask(async |broker| {
        let end = Instant::now() + Duration::from_secs(30);
        while depth(broker, "q").await.ready < 2 {
            assert!(Instant::now() < end, "the first line does not arrive");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    // With an endless time-out only a second Ctrl-C ends a publish that waits for its confirm.
    let mut patient = Running::start(
        place.command(&["publish", "", "q", "--lines", "--timeout", "1h"]).stdin(Stdio::piped()),
    );
    let mut patient_input = patient.child().stdin.take().unwrap();
    patient_input.write_all(b"a\n").unwrap();
    place.ask(async |broker| {
        let end = Instant::now() + Duration::from_secs(30);
        while depth(broker, "q").await.ready < 3 {
            assert!(Instant::now() < end, "the first line does not arrive");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });

    // It has written all there is, acked it, and waits for more.
    place.declare("other");
    place.put("other", "x\n");
    let out = place.path("out");
    let out_name = out.display().to_string();
    let args = ["consume", "other", "--raw", "--out", &out_name, "--timeout", "2s"];
    let mut consumer = Running::start(&mut place.command(&args));
    await_bytes(&out, 2, &mut consumer);

    let hung = Hung::new(own);
    let began = Instant::now();
    input.write_all(b"2\n3\n").unwrap();
    drop(input);
    let ran = publish.ends_within(IN_TIME).is(6);
    assert!(began.elapsed() > Duration::from_millis(1500), "it did not wait for the confirm");
    ran.says(&["1 message confirmed, 2 of unknown outcome", "2s"]);

    consumer.signal("-TERM");
    let ran = consumer.ends_within(IN_TIME);
    assert!(matches!(ran.status, Some(143 | 69)), "{ran:?}");
    ran.says(&["1 message written"]);

    patient_input.write_all(b"b\n").unwrap();
    // The first interrupt lets it wait for what is in flight.
    patient.signal("-INT");
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(700) {
        assert!(!patient.has_ended(), "it did not wait: {:?}", patient.end());
        pause();
    }
    patient.signal("-INT");
    let ran = patient.ends_within(Duration::from_secs(2));
    assert!(matches!(ran.status, Some(6 | 130)), "{ran:?}");
    drop(hung);
    let left = place.drain("q");
    assert_eq!(left[..3], ["0", "1", "a"], "a confirmed message is lost");
}

fn killed_in_the_middle(own: &mut OwnNode, place: &Place) {
    let input = place.file("lines", numbers(1..20_001));
    let report = place.path("report");
    let report_name = report.display().to_string();
    let mut running = Running::start(&mut place.command(&[
        "publish",
        "",
        "q",
        "--lines",
        "-f",
        &input,
        "--report",
        &report_name,
        "--timeout",
        "2s",
    ]));
    await_bytes(&report, 50_000, &mut running);
    signal(own.node.pid, "-KILL");
    let ran = running.ends_within(Duration::from_secs(10)).is(6);
    let said = ran.out();
    let unknown = number_before(&said, " of unknown outcome").expect(&said);
    let confirmed = number_before(&said, " messages confirmed").expect(&said);
    assert!((1..=512).contains(&unknown), "more than the window is unknown: {said}");
    let claimed = confirmed_lines(&report);
    assert_eq!(claimed.len() as u64, confirmed, "report and summary differ: {said}");
    assert!(confirmed < 20_000);
    let next = said.split_once("going on at line ").expect(&said).1;
    let next: u64 = next.split(' ').next().unwrap().parse().unwrap();
    own.restart();
    place.put("q", &numbers(next..20_001));
    let there = as_numbers(&place.drain("q"));
    let all: BTreeSet<u64> = there.iter().copied().collect();
    assert_eq!(all, (1..20_001).collect(), "a confirmed message is lost");
    assert!(there.len() as u64 <= 20_000 + 512, "more repeats than were in flight");
}

// ------------------------------------- the broker killed while a queue is made anew

/// A queue with messages is made anew, now of one type, now of the other, and the broker is killed at
/// a random moment of it; started again, the next run goes on. Nothing is lost, the order is kept, and
/// no more comes twice than was in flight at each kill, or than the broker itself forgot the acks of.
fn migrated_while_the_broker_is_killed(version: &str) {
    const MESSAGES: u64 = 5_000;
    let Some(mut own) = OwnNode::start(version) else { return };
    let place = Place::on(&own.node, "moved");
    let file = |kind: &str| {
        let text = format!(
            "apiVersion: nexus/v1\nkind: Topology\nmetadata: {{owner: team}}\n\
             exchanges: {{in: {{type: topic}}}}\n\
             queues: {{work: {{type: {kind}, bind: [{{from: in, key: k.#}}]}}}}\n"
        );
        place.file(&format!("{kind}.yaml"), text)
    };
    let files = [file("quorum"), file("classic")];
    place.run(&["topology", "apply", &files[1]]).is(0);
    let foreign = BindingDefinition {
        source: "amq.direct".parse().unwrap(),
        destination: Destination::Queue(queue("work")),
        routing_key: "foreign".parse().unwrap(),
        arguments: FieldTable::new(),
    };
    let bind = Change::Bind(foreign.clone());
    place.ask(async |broker| broker.change(&bind).await.unwrap());
    place.put("work", &numbers(0..MESSAGES));

    let seed = u64::from(std::process::id());
    let mut dice = fastrand::Rng::with_seed(seed);
    let (mut hits, mut way, mut allowed) = (0, 0, 0);
    let apply = |way: usize| {
        let args = ["topology", "apply", &files[way], "--migrate", "--yes", "--timeout", "20s"];
        place.command(&args)
    };
    for round in 0u64.. {
        if hits == kills() {
            break;
        }
        // At any time, or in the middle of the messages on their way out.
        let at = Duration::from_millis(dice.u64(500..14_000));
        let moved = dice.u64(1..MESSAGES);
        let began = Instant::now();
        let mut running = Running::start(&mut apply(way));
        if round.is_multiple_of(2) {
            place.ask(async |broker| {
                let hold = queue("nexusctl.migrate.hold.work");
                while !running.has_ended()
                    && broker.depth(&hold).await.unwrap().is_none_or(|depth| depth.ready < moved)
                {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            });
        } else {
            while began.elapsed() < at && !running.has_ended() {
                pause();
            }
        }
        if running.has_ended() {
            running.end().is(0);
            way = 1 - way;
            continue;
        }
        signal(own.node.pid, "-KILL");
        let ran = running.ends_within(Duration::from_secs(60));
        assert!(ran.status.is_some(), "{ran:?}");
        hits += 1;
        // A broker that is killed forgets acks that the index of a classic queue had in memory, and
        // delivers those messages again; what a quorum queue was told it knows.
        allowed += if way == 0 { MESSAGES + allowed } else { u64::from(WINDOW) };
        own.restart();
        // A node that has just been started has counted nothing yet.
        let end = Instant::now() + Duration::from_secs(180);
        loop {
            let ran = Running::start(&mut apply(way)).end();
            if ran.status == Some(0) {
                break;
            }
            assert!(Instant::now() < end, "seed {seed}: it does not get to its end: {ran:?}");
            std::thread::sleep(Duration::from_secs(1));
        }
        place.run(&["topology", "plan", &files[way], "--exit-code"]).is(0);
        way = 1 - way;
    }
    let snapshot = place.ask(async |broker| broker.inspect().await.unwrap());
    assert!(snapshot.bindings.contains(&foreign), "seed {seed}: {:?}", snapshot.bindings);
    let temporary = snapshot.queues.iter().find(|q| q.definition.name.as_str() != "work");
    assert!(temporary.is_none(), "seed {seed}: {temporary:?}");

    let there = as_numbers(&place.drain("work"));
    let mut seen = BTreeSet::new();
    let firsts: Vec<u64> = there.iter().copied().filter(|number| seen.insert(*number)).collect();
    let twice = there.len() - firsts.len();
    println!("{version}: seed {seed}, {hits} kills of the broker, {twice} duplicates");
    assert_eq!(firsts, (0..MESSAGES).collect::<Vec<_>>(), "seed {seed}: lost or out of order");
    assert!(twice as u64 <= allowed, "seed {seed}: {twice} came twice, {allowed} might");
}

#[test]
fn a_queue_is_made_anew_while_the_broker_is_killed_on_3_10() {
    migrated_while_the_broker_is_killed("3.10");
}

#[test]
fn a_queue_is_made_anew_while_the_broker_is_killed_on_4_0() {
    migrated_while_the_broker_is_killed("4.0");
}

// ------------------------------------------------------------- messages moved

/// How a move under kills is done.
#[derive(Clone, Copy, Debug)]
struct Moving {
    from: QueueType,
    to: QueueType,
    /// Only the even ones go.
    filtered: bool,
}

impl Moving {
    const MESSAGES: u64 = 6000;

    fn set_up(self, place: &Place) {
        for (name, kind) in [("a", self.from), ("b", self.to)] {
            let mut definition = QueueDefinition::durable(queue(name), kind);
            if kind == QueueType::Quorum {
                definition.arguments.insert("x-delivery-limit", 1000i64);
            }
            let declare = Change::DeclareQueue(definition);
            place.ask(async |broker| broker.change(&declare).await.unwrap());
        }
        place.put("a", &numbers(0..Moving::MESSAGES));
    }

    fn command(self, place: &Place) -> Command {
        let filter = ["--filter", "body % 2 == 0"];
        let filter = if self.filtered { &filter[..] } else { &[] };
        let args = ["queue", "move", "a", "b", "--timeout", "20s", "-o", "json"];
        place.command(&[&args[..], filter].concat())
    }

    fn is_wanted(self, number: u64) -> bool {
        !self.filtered || number.is_multiple_of(2)
    }

    /// Waits until nobody holds messages of the source. A queue that is being recovered may count what
    /// was true some time before the kill, so all have to be counted, here or there. Whether all are
    /// there is not asked here, so the wait has an end.
    fn settled(place: &Place) {
        let end = Instant::now() + Duration::from_secs(20);
        place.ask(async |broker| {
            let mut looks = 0;
            while looks < 3 && Instant::now() < end {
                let moved = quiet_depth(broker, "b").await;
                let depth = depth(broker, "a").await;
                let are_all_counted = depth.ready + moved >= Moving::MESSAGES;
                looks = if depth.consumers == 0 && are_all_counted { looks + 1 } else { 0 };
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }

    /// Waits until the target holds so many, or the run has ended; whether it still runs.
    fn has_moved(place: &Place, running: &mut Running, number: u64) -> bool {
        place.ask(async |broker| {
            while !running.has_ended() && depth(broker, "b").await.ready < number {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        !running.has_ended()
    }

    /// Runs to the end, empties both queues, and counts. Returns how many are there twice.
    fn check(self, place: &Place, what: &str) -> u64 {
        let view = loop {
            Moving::settled(place);
            let ran = Ran::from(self.command(place).output().unwrap()).is(0);
            let view: serde_json::Value = serde_json::from_str(&ran.out()).unwrap();
            // A broker that was started again may count wrongly at first.
            if view["transferred"] == 0 {
                break view;
            }
        };
        let there = as_numbers(&place.drain("b"));
        let mut seen = BTreeSet::new();
        let firsts: Vec<u64> = there.iter().copied().filter(|n| seen.insert(*n)).collect();
        let all = 0..Moving::MESSAGES;
        let wanted: Vec<u64> = all.clone().filter(|n| self.is_wanted(*n)).collect();
        let lost: Vec<&u64> = wanted.iter().filter(|n| !seen.contains(n)).collect();
        let gap = lost.first().zip(lost.last());
        assert!(lost.is_empty(), "{what}: {} lost, {gap:?}\n{view}", lost.len());
        let turn = firsts.windows(2).find(|two| two[0] > two[1]);
        assert!(firsts == wanted, "{what}: out of order at {turn:?}\n{view}");
        let rest: Vec<u64> = all.filter(|n| !self.is_wanted(*n)).collect();
        let left = as_numbers(&place.drain("a"));
        let turn = left.windows(2).find(|two| two[0] > two[1]);
        assert!(left == rest, "{what}: {} are left, {turn:?}\n{view}", left.len());
        there.len() as u64 - firsts.len() as u64
    }

    /// Kills the tool again and again at random numbers of moved messages.
    fn under_kills(self, place: &Place) {
        self.set_up(place);
        let seed = u64::from(std::process::id());
        let mut dice = fastrand::Rng::with_seed(seed);
        let what = format!("{self:?} on {}, seed {seed}", place.url);
        let going = if self.filtered { Moving::MESSAGES / 2 } else { Moving::MESSAGES };
        let (mut hits, mut since, mut twice) = (0, 0, 0);
        while hits < kills() {
            let there = place.waiting("b");
            let at = there + dice.u64(1..(going / 4));
            let mut running = Running::start(&mut self.command(place));
            if at < going && Moving::has_moved(place, &mut running, at) {
                running.child().kill().unwrap();
                running.end();
                hits += 1;
                since += 1;
                // What it held comes back when the broker notices.
                Moving::settled(place);
                continue;
            }
            running.ends_within(Duration::from_secs(60)).is(0);
            let repeated = self.check(place, &what);
            assert!(repeated <= since * u64::from(transfer::WINDOW), "{what}: {repeated}");
            twice += repeated;
            since = 0;
            place.put("a", &numbers(0..Moving::MESSAGES));
        }
        let repeated = self.check(place, &what);
        assert!(repeated <= since * u64::from(transfer::WINDOW), "{what}: {repeated}");
        println!("{what}: {hits} kills, {} came twice", twice + repeated);
    }

    /// Kills the broker under it, and goes on when it is back.
    fn while_the_broker_is_killed(self, version: &str) {
        let Some(mut own) = OwnNode::start(version) else { return };
        let place = Place::on(&own.node, "moving");
        self.set_up(&place);
        let seed = u64::from(std::process::id());
        let mut dice = fastrand::Rng::with_seed(seed);
        let what = format!("{self:?} on {version}, seed {seed}");
        // A quorum queue that is new is not on the disk yet.
        std::thread::sleep(Duration::from_secs(3));
        let mut hits = 0;
        while hits < kills() {
            let at = place.waiting("b") + dice.u64(1..Moving::MESSAGES / kills().max(3));
            let mut running = Running::start(&mut self.command(&place));
            if !Moving::has_moved(&place, &mut running, at) {
                break;
            }
            signal(own.node.pid, "-KILL");
            let ran = running.ends_within(Duration::from_secs(60));
            assert!(matches!(ran.status, Some(3 | 6 | 69)), "{what}: {ran:?}");
            if ran.status == Some(3) {
                let view: serde_json::Value = serde_json::from_str(&ran.out()).unwrap();
                let there = view["transferred"].as_u64().unwrap();
                assert!(there > 0 && view["stopped"].is_string(), "{what}: {view}");
            }
            own.restart();
            Moving::settled(&place);
            hits += 1;
        }
        let repeated = self.check(&place, &what);
        println!("{what}: {hits} kills of the broker, {repeated} came twice");
        assert!(repeated <= hits * u64::from(transfer::WINDOW), "{what}: {repeated}");
    }
}

/// An interrupt ends a move or a copy with exact numbers: none is lost, none is twice.
fn interrupted_while_moving(place: &Place) {
    let (from, to) = (QueueType::Classic, QueueType::Classic);
    let moving = Moving { from, to, filtered: false };
    moving.set_up(place);
    for verb in ["copy", "move"] {
        let mut hit = false;
        for _ in 0..10 {
            let args = ["queue", verb, "a", "b", "--timeout", "20s", "-o", "json"];
            let mut running = Running::start(&mut place.command(&args));
            if Moving::has_moved(place, &mut running, 100) {
                running.signal("-INT");
            }
            let ran = running.ends_within(Duration::from_secs(30));
            let view: serde_json::Value = serde_json::from_str(&ran.out()).unwrap();
            let transferred = view["transferred"].as_u64().unwrap();
            let there = as_numbers(&place.drain("b"));
            assert_eq!(there, (0..transferred).collect::<Vec<_>>(), "{verb}: {view}");
            assert_eq!(view["inBoth"], 0, "{verb}: {view}");
            let gone = if verb == "move" { transferred } else { 0 };
            assert_eq!(place.waiting("a"), Moving::MESSAGES - gone, "{verb}: {view}");
            hit = transferred < Moving::MESSAGES;
            // The signal may come when everything is done, and is then the reason of the end or not.
            let expected = if hit { [130, 130] } else { [0, 130] };
            assert!(ran.status.is_some_and(|status| expected.contains(&status)), "{verb}: {ran:?}");
            if hit || verb == "move" {
                let rest = as_numbers(&place.drain("a"));
                assert_eq!(rest, (gone..Moving::MESSAGES).collect::<Vec<_>>(), "{verb}: {view}");
                place.put("a", &numbers(0..Moving::MESSAGES));
            }
            if hit {
                break;
            }
        }
        assert!(hit, "{verb}: it was never in the middle");
    }
}

mod interrupted {
    use super::{Place, interrupted_while_moving};

    #[test]
    fn embedded() {
        interrupted_while_moving(&Place::embedded());
    }

    #[test]
    fn rabbitmq() {
        for kind in ["rabbitmq_3_10", "rabbitmq_4_0"] {
            if let Some(place) = Place::open(kind, "interrupted") {
                interrupted_while_moving(&place);
            }
        }
    }
}

mod moved_under_kills {
    use super::{Moving, Place, QueueType};

    fn on(kind: &str) {
        for (from, to) in
            [(QueueType::Classic, QueueType::Quorum), (QueueType::Quorum, QueueType::Classic)]
        {
            for filtered in [false, true] {
                if let Some(place) = Place::open(kind, "moved") {
                    Moving { from, to, filtered }.under_kills(&place);
                }
            }
        }
    }

    #[test]
    fn embedded() {
        on("embedded");
    }

    #[test]
    fn rabbitmq_3_10() {
        on("rabbitmq_3_10");
    }

    #[test]
    fn rabbitmq_4_0() {
        on("rabbitmq_4_0");
    }
}

#[test]
fn a_move_between_quorum_queues_goes_on_after_the_broker_was_killed_on_3_10() {
    let (from, to) = (QueueType::Quorum, QueueType::Quorum);
    Moving { from, to, filtered: false }.while_the_broker_is_killed("3.10");
}

#[test]
fn a_move_between_quorum_queues_goes_on_after_the_broker_was_killed_on_4_0() {
    let (from, to) = (QueueType::Quorum, QueueType::Quorum);
    Moving { from, to, filtered: true }.while_the_broker_is_killed("4.0");
}

// ----------------------------------------------------------- embedded broker

#[test]
fn several_processes_share_a_state_file_and_one_that_is_killed_takes_nothing_with_it() {
    let place = Place::embedded();
    place.declare("q");
    let out = place.path("out");
    let out_name = out.display().to_string();
    let consume = ["consume", "q", "--raw", "--out", &out_name];
    let mut consumer = Running::start(&mut place.command(&consume));
    let mut publishers = Vec::new();
    for (name, count) in [("a", 20_000), ("b", 5000)] {
        let lines: String = (1..=count).map(|n| format!("{name} {n}\n")).collect();
        let input = place.file(name, lines);
        let report = place.path(&format!("report-{name}"));
        let report_name = report.display().to_string();
        let args = ["publish", "", "q", "--lines", "-f", &input, "--report", &report_name];
        publishers.push((Running::start(&mut place.command(&args)), report));
    }
    let (unharmed, report_b) = publishers.pop().unwrap();
    let (mut victim, report_a) = publishers.pop().unwrap();
    await_bytes(&report_a, 1, &mut victim);
    victim.kill();
    unharmed.ends_within(Duration::from_secs(60)).is(0);
    place.ask(async |broker| {
        let end = Instant::now() + Duration::from_secs(60);
        while depth(broker, "q").await.ready > 0 {
            assert!(Instant::now() < end, "the consumer does not come to an end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    consumer.signal("-INT");
    consumer.ends_within(Duration::from_secs(10)).is(130);
    assert_eq!(place.waiting("q"), 0);
    let mut times = BTreeMap::<String, u64>::new();
    for line in whole_lines(&out) {
        *times.entry(line).or_default() += 1;
    }
    assert!(times.values().all(|times| *times == 1), "something came twice");
    assert_eq!(confirmed_lines(&report_b).len(), 5000);
    let confirmed = confirmed_lines(&report_a);
    assert!(!confirmed.is_empty() && confirmed.len() < 20_000);
    for line in
        confirmed.iter().map(|n| format!("a {n}")).chain((1..=5000).map(|n| format!("b {n}")))
    {
        assert!(times.contains_key(&line), "`{line}` was confirmed and is lost");
    }
    assert!(times.keys().all(|line| {
        let (name, number) = line.split_once(' ').unwrap();
        matches!(name, "a" | "b") && (1..=20_000).contains(&number.parse::<u64>().unwrap())
    }));
}

/// Copies the state file without what other processes keep beside it, and opens that one.
fn copied(place: &Place, name: &str) -> (Place, PathBuf) {
    let copy = Place::embedded();
    let path = copy.path(name);
    fs::copy(place.path("state.db"), &path).unwrap();
    let url = format!("embedded:{}", path.display());
    (Place { url, ..copy }, path)
}

/// A state file with messages in it, all of it in the one file.
fn filled() -> Place {
    let place = Place::embedded();
    place.declare("q");
    place.put("q", &(1..=300).map(|n| format!("{n} {}\n", "x".repeat(200))).collect::<String>());
    let file = rusqlite::Connection::open(place.path("state.db")).unwrap();
    file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    place
}

#[test]
fn a_state_file_that_cannot_be_opened_is_named_with_the_reason_and_the_next_step() {
    let place = filled();
    let consume = ["consume", "q", "--until-empty", "--raw"];
    let refused = |place: &Place, path: &Path, reason: &str| {
        let ran = Running::start(&mut place.command(&consume)).ends_within(Duration::from_secs(20));
        let ran = ran.is(69);
        ran.says(&[&path.display().to_string(), reason, "hint: "]);
        assert!(!ran.stderr.contains("panic"), "{ran:?}");
    };
    let (copy, path) = copied(&place, "newer.db");
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute_batch("UPDATE storage_room SET format = 99 WHERE name = 'broker'").unwrap();
    drop(file);
    refused(&copy, &path, "is newer than this program: its part `broker` has format 99");
    let (copy, path) = copied(&place, "directory.db");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused(&copy, &path, "it is a directory");
    let (mut copy, path) = copied(&place, "file");
    copy.url = format!("embedded:{}", path.join("state.db").display());
    refused(&copy, &path, "it is no directory");
    let (copy, path) = copied(&place, "text.db");
    fs::write(&path, "no database at all, but long enough for a header\n".repeat(90)).unwrap();
    refused(&copy, &path, "is no state file of nexusctl");
    let whole = fs::metadata(place.path("state.db")).unwrap().len();
    for length in [100, 4096, 8192, 20_000, whole / 2, whole - 8192] {
        let (copy, path) = copied(&place, "short.db");
        File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        refused(&copy, &path, "is damaged");
    }
    // An empty file is what `mktemp` makes: it becomes a state file.
    let (copy, path) = copied(&place, "empty.db");
    fs::write(&path, "").unwrap();
    copy.run(&consume).is(1).says(&["no queue 'q'"]);
}

#[test]
fn a_state_file_that_may_not_be_read_or_written_says_so() {
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let allowed = Command::new(nobody[0]).args(&nobody[1..]).arg("true").output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        println!("skipped: setpriv cannot change the user here (it needs root)");
        return;
    }
    let place = filled();
    for mode in [0o000, 0o400] {
        let (copy, path) = copied(&place, "state.db");
        let program = copy.path("nexusctl");
        fs::copy(env!("CARGO_BIN_EXE_nexusctl"), &program).unwrap();
        let allow = |path: &Path, mode| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(path, mode).unwrap();
        };
        allow(copy.home.path(), 0o777);
        allow(&program, 0o755);
        allow(&path, mode);
        let mut command = Command::new(nobody[0]);
        command.args(&nobody[1..]).arg(&program).args(["consume", "q", "--broker", &copy.url]);
        command.env_clear().env("HOME", copy.home.path()).current_dir(copy.home.path());
        let ran = Ran::from(command.stdin(Stdio::null()).output().unwrap());
        let ran = ran.is(69);
        ran.says(&[&path.display().to_string(), "Permission denied", "hint: "]);
    }
}

#[test]
fn flipped_bytes_in_a_state_file_end_in_an_answer_and_never_in_a_panic() {
    let place = filled();
    let whole = fs::read(place.path("state.db")).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut refused = 0;
    for round in 0..(8 * kills()) {
        let (copy, path) = copied(&place, "flipped.db");
        let mut bytes = whole.clone();
        for _ in 0..random.usize(1..200) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        fs::write(&path, bytes).unwrap();
        let args = ["consume", "q", "--until-empty", "--raw", "--timeout", "5s"];
        let ran = Running::start(&mut copy.command(&args)).ends_within(Duration::from_secs(30));
        assert!(!ran.stderr.contains("panic"), "round {round}: {ran:?}");
        match ran.status {
            // Inside of a body or where nothing lies, nobody can tell.
            Some(0) => {}
            // Its tables are whole and the queue's name is not.
            Some(1) if ran.stderr.contains("no queue 'q'") => {}
            // The counts are whole, and what they count is not there.
            Some(3) if ran.stderr.contains("counts messages and hands none out") => refused += 1,
            // Some messages came out before it was noticed, or none.
            Some(3 | 69) => {
                refused += 1;
                ran.says(&[&path.display().to_string(), "hint: "]);
            }
            other => panic!("round {round}: {other:?} {}", ran.stderr),
        }
    }
    assert!(refused > 0, "no flipped byte was ever noticed");
}

/// Bodies that a consumer's output names, one a line, in order.
fn bodies(path: &Path) -> Vec<u64> {
    whole_lines(path)
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|record| match record["bodyText"].as_str() {
            Some(text) => text.split(' ').next().unwrap().parse().unwrap(),
            None => record["body"].as_u64().unwrap(),
        })
        .collect()
}

#[test]
fn what_a_killed_consumer_held_goes_to_the_one_in_another_process_marked_and_counted() {
    for kind in [QueueType::Classic, QueueType::Quorum] {
        let place = Place::embedded();
        let definition = QueueDefinition::durable(queue("q"), kind);
        place.ask(async |broker| {
            broker.change(&Change::DeclareQueue(definition)).await.unwrap();
        });
        // The first does not fit into a pipe that nobody reads, so forty are held and none is settled.
        place.put("q", &format!("1 {}\n{}", "x".repeat(200_000), numbers(2..101)));
        let consume = ["consume", "q", "--raw", "--prefetch", "40"];
        let mut victim = Running::start(&mut place.command(&consume));
        let held = |broker_says: u64| {
            let end = Instant::now() + Duration::from_secs(30);
            while place.ask(async |broker| depth(broker, "q").await.ready) != broker_says {
                assert!(Instant::now() < end, "{kind:?}: {broker_says} do not come to be ready");
                pause();
            }
        };
        held(60);
        let out = place.path("out");
        let out_name = out.display().to_string();
        let mut other = Running::start(&mut place.command(&["consume", "q", "--out", &out_name]));
        let end = Instant::now() + Duration::from_secs(30);
        while whole_lines(&out).len() < 60 {
            assert!(Instant::now() < end && !other.has_ended(), "{kind:?}");
            pause();
        }
        assert_eq!(bodies(&out), (41..=100).collect::<Vec<_>>());
        victim.signal("-KILL");
        drop(victim);
        while whole_lines(&out).len() < 100 {
            assert!(Instant::now() < end && !other.has_ended(), "{kind:?}");
            pause();
        }
        assert_eq!(bodies(&out)[60..], (1..=40).collect::<Vec<_>>(), "{kind:?}");
        for (n, line) in whole_lines(&out).iter().enumerate() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(record["redelivered"], n >= 60, "{line}");
            let counted = line.contains("x-delivery-count");
            assert_eq!(counted, n >= 60 && kind == QueueType::Quorum, "{line}");
        }
        other.signal("-INT");
        other.ends_within(Duration::from_secs(10)).is(130);
        assert_eq!(place.waiting("q"), 0);
    }
}

#[test]
fn a_process_killed_while_it_holds_the_writer_lock_harms_nobody() {
    let place = filled();
    for _ in 0..kills() {
        // Whoever writes holds this lock for as long as its transaction takes; here it takes for ever.
        let script = r#"
            import sqlite3, sys, time
            db = sqlite3.connect(sys.argv[1], isolation_level=None)
            db.execute("BEGIN IMMEDIATE")
            db.execute("DELETE FROM broker_message")
            print("held", flush=True)
            time.sleep(60)"#;
        let script = script.replace("\n            ", "\n");
        let mut holder = Command::new("python3");
        holder.args(["-c", &script]).arg(place.path("state.db")).stdout(Stdio::piped());
        let mut holder = Running::start(&mut holder);
        let mut said = [0; 4];
        std::io::Read::read_exact(holder.child().stdout.as_mut().unwrap(), &mut said).unwrap();
        assert_eq!(&said, b"held");
        let late = place.run_with(&["publish", "", "q", "--lines", "--timeout", "1s"], b"late\n");
        late.is(69).says(&["state.db", "was busy for", "hint: "]);
        let mut waiting = Running::start(&mut place.command(&["publish", "", "q", "patient"]));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiting.has_ended(), "it does not wait for the writer");
        holder.signal("-KILL");
        drop(holder);
        waiting.ends_within(Duration::from_secs(20)).is(0);
    }
    assert_eq!(place.waiting("q"), 300 + kills());
}

/// Publishes 200 messages of 100 kB where 4 MB have room; `by` starts the program. What it did, and
/// the lines that it called confirmed.
fn publish_until_it_is_full(place: &Place, by: &[&str]) -> (Ran, BTreeSet<u64>) {
    let body = |n: u64| format!("{n} {}\n", "x".repeat(100_000));
    let input = place.file("lines", (1..=200).map(body).collect::<String>());
    let report = place.path("report");
    let report_name = report.display().to_string();
    let args = [
        "publish",
        "",
        "q",
        "--lines",
        "-f",
        &input,
        "--report",
        &report_name,
        "--window",
        "8",
        "--timeout",
        "5s",
    ];
    let ran = Running::start(&mut place.wrapped(by, &args)).ends_within(Duration::from_secs(30));
    ran.says(&["state.db", "messages confirmed"]);
    assert!(!ran.stderr.contains("panic"), "{ran:?}");
    let claimed = confirmed_lines(&report);
    assert!(!claimed.is_empty() && claimed.len() < 200, "{} confirmed", claimed.len());
    (ran, claimed)
}

fn all_confirmed_are_there(place: &Place, claimed: &BTreeSet<u64>) {
    let there: BTreeSet<u64> = place
        .drain("q")
        .iter()
        .map(|body| body.split_once(' ').unwrap().0.parse().unwrap())
        .collect();
    assert!(claimed.is_subset(&there), "confirmed {claimed:?}, there {there:?}");
}

#[test]
fn a_state_file_that_may_not_grow_loses_nothing_that_was_confirmed() {
    let place = Place::embedded();
    place.declare("q");
    // Without the trap the signal would end the program before it can say anything.
    let limited = ["bash", "-c", r#"trap '' XFSZ; ulimit -f 4096; exec "$0" "$@""#];
    // A write that fails half-way leaves its transaction in doubt.
    let (ran, claimed) = publish_until_it_is_full(&place, &limited);
    ran.is(6);
    all_confirmed_are_there(&place, &claimed);
}

#[test]
fn a_full_disk_under_the_state_file_loses_nothing_that_was_confirmed() {
    let Some(disk) = SmallDisk::mount() else {
        println!("skipped: a tmpfs cannot be mounted here (it needs root)");
        return;
    };
    let mut place = Place::embedded();
    place.url = format!("embedded:{}", disk.0.path().join("state.db").display());
    place.declare("q");
    let (ran, claimed) = publish_until_it_is_full(&place, &[]);
    let ran = ran.is(69);
    let next = claimed.len() as u64 + 1;
    let state = disk.0.path().join("state.db").display().to_string();
    ran.says(&[
        &format!("{} messages confirmed\n", claimed.len()),
        &format!("line {next} is the first that was not sent"),
        &format!("no space left for the state file {state}"),
        "free some space",
    ]);
    // One error, and no line of its own for every message that was not taken.
    let said = format!("{}{}", ran.out(), ran.stderr);
    assert_eq!(said.matches("no space left").count(), 1, "{said}");
    assert!(!said.contains("returned") && !said.contains("506"), "{said}");
    assert_eq!(claimed.last(), Some(&(claimed.len() as u64)), "a line overtook one before it");
    disk.enlarge();
    let rest = (next..=200).map(|n| format!("{n} \n")).collect::<String>();
    place.put("q", &rest);
    let there = place.drain("q");
    let numbers: Vec<u64> =
        there.iter().map(|body| body.split_once(' ').unwrap().0.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=200).collect::<Vec<_>>(), "going on where it says repeats nothing");
}
