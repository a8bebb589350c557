//! Documents as a whole: what is read, what is refused and how that looks.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::base::diagnostic::{Findings, Source};
use crate::base::id::QueueName;
use crate::base::size::ByteSize;
use crate::base::time::HumanDuration;

document_enum! {
    /// What a queue does when it is full.
    enum Overflow {
        /// The oldest message goes.
        DropHead,
        /// The publisher is told.
        RejectPublish,
        RejectPublishDlx = "reject-publish-dlx!",
    }
}

document_struct! {
    /// A queue.
    struct QueueFile {
        /// Its type.
        r#type: String,
        durable: bool = true,
        message_ttl: Option<HumanDuration>,
        max_bytes as "maxLengthBytes": Option<Spanned<ByteSize>>,
        overflow: Overflow = Overflow::DropHead,
        queues: Vec<QueueName>,
        priority: Option<u32>,
        arguments: Entries<Node>,
    }
}

document_struct! {
    /// A test of whole documents.
    ///
    /// With two paragraphs.
    #[derive(Default)]
    struct File: Topology {
        /// Queues by name.
        queues: Entries<Spanned<QueueFile>>,
    }
}

fn read(text: &str) -> Result<Vec<Node>, Findings> {
    read_documents(&Source::new("t.yaml", text))
}

#[track_caller]
fn one(text: &str) -> Node {
    let mut documents = read(text).unwrap_or_else(|findings| panic!("{}", shown(&findings)));
    assert_eq!(documents.len(), 1, "{documents:?}");
    documents.remove(0)
}

fn shown(findings: &Findings) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Findings as `line:column code: message (hint)`.
fn brief(findings: &Findings) -> Vec<String> {
    findings
        .iter()
        .map(|finding| {
            let place = finding.span.as_ref().map_or_else(String::new, |span| {
                format!("{}:{}+{} ", span.line, span.column, span.width)
            });
            let hint = finding.hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
            format!("{place}{}: {}{hint}", finding.code, finding.message)
        })
        .collect()
}

#[test]
fn a_whole_document_is_decoded() {
    let node =
        one("apiVersion: nexus/v1\nkind: Topology\nqueues:\n  orders:\n    type: quorum\n    \
         messageTtl: 1m30s\n    maxLengthBytes: 10MiB\n    overflow: reject-publish\n    \
         queues: [a, b]\n    arguments: {x-foo: 1}\n");
    let file: File = decode(&node).unwrap();
    let queue = file.queues.get("orders").unwrap();
    assert_eq!(queue.r#type, "quorum");
    assert!(queue.durable);
    assert_eq!(queue.message_ttl, Some(HumanDuration::from_ms(90_000)));
    assert_eq!(queue.max_bytes.as_ref().map(|size| size.value), Some(ByteSize(10 << 20)));
    assert_eq!(queue.overflow, Overflow::RejectPublish);
    assert_eq!(queue.queues.len(), 2);
    assert_eq!(queue.arguments.get("x-foo").map(Node::to_json), Some(1.into()));
    let span = queue.max_bytes.as_ref().and_then(|size| size.span.clone()).unwrap();
    assert_eq!((span.line, span.column, span.width), (7, 21, 5));
}

#[test]
fn all_errors_of_a_document_are_found_at_once() {
    let node =
        one("apiVersion: nexus/v1\nkind: Topology\nqueues:\n  orders:\n    durable: yes\n    \
         mesageTtl: 10\n    messageTtl: 10\n    overflow: drop-haed\n    priority: -1\n    \
         queues: [a, 5, '']\n  other: 7\nqeues: {}\n");
    let findings = decode::<File>(&node).unwrap_err();
    assert_eq!(
        brief(&findings),
        [
            "5:5+1 document/missing-key: the key `type` is missing",
            "5:14+3 document/wrong-type: expected true or false, found the text `yes` (write `true`)",
            "6:5+9 document/unknown-key: unknown key `mesageTtl` (known keys: type, durable, \
             messageTtl, maxLengthBytes, overflow, queues, priority, arguments)",
            "7:17+2 document/invalid-value: a duration needs a unit (write 10ms, 10s, 10m, 10h or 10d)",
            "8:15+9 document/invalid-value: unknown value `drop-haed` (did you mean `drop-head`?)",
            "9:15+2 document/invalid-value: the number must lie between 0 and 4294967295",
            "10:17+1 document/wrong-type: expected text, found a number (if it is text, put it in \
             quotes: \"5\")",
            "10:20+2 document/invalid-value: queue name is empty",
            "11:10+1 document/wrong-type: expected a mapping, found a number",
            "12:1+5 document/unknown-key: unknown key `qeues` (known keys: apiVersion, kind, queues)",
        ]
    );
}

#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    match read(text) {
        Ok(documents) => panic!("{text:?} was read as {documents:?}"),
        Err(findings) => {
            assert_eq!(brief(&findings), expected, "{text:?}");
            assert!(shown(&findings).contains("-->"), "every finding has its place");
        }
    }
}

#[test]
fn what_is_no_document_of_ours_is_refused_with_its_place() {
    refused(
        "a: 1\nb: 2\n\"a\": 3\na: 4\n",
        &[
            "3:1+3 document/duplicate-key: the key `a` is here twice (the first one is at t.yaml:1:1)",
            "4:1+1 document/duplicate-key: the key `a` is here twice (the first one is at t.yaml:1:1)",
        ],
    );
    refused(
        "{\"a\":1,\"b\":{},\"a\":[{\"c\":0,\"c\":0}]}",
        &[
            "1:15+3 document/duplicate-key: the key `a` is here twice (the first one is at t.yaml:1:2)",
            "1:27+3 document/duplicate-key: the key `c` is here twice (the first one is at t.yaml:1:21)",
        ],
    );
    refused(
        "a: &x {b: 1}\nc:\n  <<: *x\n  d: 1\n",
        &["3:3+2 document/merge-key: merge keys (`<<`) are not part of YAML 1.2 and are not \
           supported (write the keys out, or use an alias for a whole value)"],
    );
    refused(
        "a: *nowhere\nb: &x [*x]\n",
        &[
            "1:4+8 document/unknown-alias: no anchor `nowhere` stands before this alias (in quotes \
             it is text)",
            "2:8+2 document/unknown-alias: this alias stands for a value that it is part of",
        ],
    );
    refused(
        "a: !mine 1\nb: !!int x\nc: !!set {a}\n",
        &[
            "1:10+1 document/tag: the tag `!mine` means nothing here (leave it out; a text that \
             begins with `!` needs quotes)",
            "2:10+1 document/tag: `x` is no `!!int`",
            "3:10+1 document/tag: the tag `!!set` means nothing here (leave it out; a text that \
             begins with `!` needs quotes)",
        ],
    );
    refused(
        "a: -.inf\nb: 1e999\nc: 18446744073709551616\nd: -9223372036854775809\n",
        &[
            "1:4+5 document/number: -.inf is no finite number (if it is text, put it in quotes)",
            "2:4+5 document/number: `1e999` is too large a number (if it is text, put it in quotes)",
            "3:4+20 document/number: `18446744073709551616` is too large a number (if it is text, \
             put it in quotes)",
            "4:4+20 document/number: `-9223372036854775809` is too large a number (if it is text, \
             put it in quotes)",
        ],
    );
    refused(
        "? [a]\n: 1\n? {b: 1}\n: 2\n*x : 3\n~: 4\n: 5\n",
        &[
            "1:3+1 document/invalid-key: a key must be text, and this is a list (a text that begins \
             with `{`, `[` or `*` needs quotes)",
            "3:3+1 document/invalid-key: a key must be text, and this is a mapping (a text that \
             begins with `{`, `[` or `*` needs quotes)",
            "5:1+2 document/unknown-alias: no anchor `x` stands before this alias (in quotes it is \
             text)",
            "6:1+1 document/invalid-key: a key is missing before the colon",
            "7:1+1 document/invalid-key: a key is missing before the colon",
        ],
    );
    refused(
        "a:\n\t- b\n",
        &["2:2+1 document/syntax: this is no YAML: tabs disallowed within this context (block \
           indentation) (indent with spaces)"],
    );
    refused(
        "a: b: c\n",
        &[
            "1:5+1 document/syntax: this is no YAML: mapping values are not allowed in this context \
           (a text with `: ` in it needs quotes; a key is followed by a colon and a space)",
        ],
    );
    refused("a: \"x\nb: 3\n", &["1:4+1 document/syntax: this is no YAML: unclosed quote"]);
    refused(
        "a: @x\n",
        &["1:4+1 document/syntax: this is no YAML: unexpected character: `@' (a text that begins \
           with a sign such as `@`, `%` or a backquote needs quotes)"],
    );
    refused(
        "ä: \u{1b}[31m\n",
        &[
            "1:4+1 document/character: the character U+001B may not stand in a file (between double \
           quotes it can be written as an escape such as \\x1b)",
        ],
    );
    refused(
        "a: 1\rb: 2\n",
        &["1:5+1 document/character: a carriage return without a line feed (end lines with LF or \
           CR LF)"],
    );
    // What was found before the text stops being YAML is kept.
    refused(
        "a: 1\na: 2\n---\njunk: [",
        &[
            "2:1+1 document/duplicate-key: the key `a` is here twice (the first one is at t.yaml:1:1)",
            "4:7+1 document/syntax: this is no YAML: unclosed bracket '['",
        ],
    );
}

#[test]
fn a_text_without_quotes_means_what_yaml_1_2_says_less_what_surprises() {
    let table = [
        ("", json!(null)),
        ("~", json!(null)),
        ("NULL", json!(null)),
        ("nULL", json!("nULL")),
        ("true", json!(true)),
        ("FALSE", json!(false)),
        ("yes", json!("yes")),
        ("on", json!("on")),
        ("No", json!("No")),
        ("0", json!(0)),
        ("-0", json!(0)),
        ("+12", json!(12)),
        ("-9223372036854775808", json!(i64::MIN)),
        ("18446744073709551615", json!(u64::MAX)),
        ("0x1F", json!(31)),
        ("0xffffffffffffffff", json!(u64::MAX)),
        ("0o17", json!(15)),
        ("-0x1F", json!("-0x1F")),
        ("0b11", json!("0b11")),
        ("0x", json!("0x")),
        ("012", json!("012")),
        ("-012", json!("-012")),
        ("00.5", json!("00.5")),
        ("1_000", json!("1_000")),
        ("12:30:45", json!("12:30:45")),
        ("2024-01-01", json!("2024-01-01")),
        ("1.5", json!(1.5)),
        ("-.5", json!(-0.5)),
        ("1.", json!(1.0)),
        ("1e3", json!(1000.0)),
        ("1E-3", json!(0.001)),
        ("0.0", json!(0.0)),
        ("1.2.3", json!("1.2.3")),
        (".", json!(".")),
        ("+", json!("+")),
        ("1e", json!("1e")),
        ("e3", json!("e3")),
        ("'12'", json!("12")),
        ("\"12\"", json!("12")),
        ("!!str 12", json!("12")),
        ("!!float 12", json!(12)),
        ("|\n  12\n", json!("12\n")),
        (">\n  a\n  b\n", json!("a b\n")),
        ("\"\\ud83d\\ude00\\/\\x1b\"", json!("😀/\u{1b}")),
    ];
    for (text, expected) in table {
        let node = one(&format!("v: {text}\n"));
        assert_eq!(node.get("v").map(Node::to_json), Some(expected), "{text:?}");
    }
}

#[test]
fn documents_come_from_yaml_and_json_however_they_are_laid_out() {
    let json = "{\r\n\t\"a\": [1, 2.5, null, true, \"x\\ty\"],\r\n\t\"b\":{}}\r\n";
    assert_eq!(
        one(json).to_json(),
        serde_json::from_str::<serde_json::Value>(json).unwrap(),
        "JSON with tabs and CR LF is read as JSON is"
    );
    let text = "%YAML 1.2\n---\na: 1\n---\n# nothing\n---\n- b\n...\n";
    let documents = read(text).unwrap();
    assert_eq!(documents.iter().map(Node::kind_name).collect::<Vec<_>>(), ["a mapping", "a list"]);
    assert_eq!(documents[1].span.line, 7);
    assert_eq!(read("").unwrap(), []);
    assert_eq!(read("# only a comment\n").unwrap(), []);
    let node = one("a: &x {b: [1]}\nc: *x\nd: &y text\ne: [*y, *y]\n");
    assert_eq!(
        node.to_json(),
        json!({"a": {"b": [1]}, "c": {"b": [1]}, "d": "text", "e": ["text", "text"]})
    );
    let long = "k".repeat(2000);
    assert_eq!(one(&format!("{{\"{long}\": 1}}")).to_json(), json!({ long: 1 }));
}

#[test]
fn bytes_become_a_source_when_they_are_utf_8_of_a_bearable_size() {
    let wrong = |bytes: &[u8]| shown(&source_from_bytes("t.yaml", bytes).unwrap_err());
    assert_eq!(source_from_bytes("t.yaml", b"\xef\xbb\xbfa: 1").unwrap().text, "a: 1");
    assert_eq!(
        wrong(b"a: 1\nb: \xc3\xa4\xff\n"),
        "error[document/encoding]: t.yaml is not UTF-8: byte 0xff\n  --> t.yaml:2:5\n   |\n \
         2 | b: ä\u{fffd}\n   |     ^\n  hint: save the file as UTF-8"
    );
    assert!(wrong(b"\xff\xfea\0:\0").contains("is UTF-16"));
    assert_eq!(
        wrong(&vec![b' '; (8 << 20) + 1]),
        "error[document/too-large]: t.yaml is 8388609 bytes long; 8MiB is the limit"
    );
}

#[test]
fn hostile_documents_are_refused_before_they_hurt() {
    let mut laughs = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n".to_owned();
    for i in 1..20 {
        let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
        laughs.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
    }
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 100].join(", "));
    for (text, code) in [
        (laughs, "document/too-large"),
        (long, "document/too-large"),
        ("[".repeat(100_000), "document/too-deep"),
        ("{a: ".repeat(100_000), "document/too-deep"),
        ("- ".repeat(100_000), "document/too-deep"),
        ("? ".repeat(100_000), "document/too-deep"),
        ("[0,".to_owned() + &"0,".repeat(3 << 20), "document/too-large"),
        (format!("{}1{}", "[".repeat(65), "]".repeat(65)), "document/too-deep"),
        (format!("a: &a {}{}\nb: [*a]", "[".repeat(63), "]".repeat(63)), "document/too-deep"),
    ] {
        let findings = read(&text).unwrap_err();
        let last = findings.0.last().unwrap();
        assert_eq!(last.code.0, code, "{}", shown(&findings));
    }
    let many = "a: 1\n".repeat(100_000);
    assert_eq!(read(&many).unwrap_err().0.len(), Limits::default().findings);
    let deep = format!("{}1{}", "[".repeat(64), "]".repeat(64));
    assert!(read(&deep).is_ok());
}

#[test]
fn the_header_says_what_a_document_is() {
    let header_of = |text: &str| {
        let mut findings = Findings::default();
        let header = header(&one(text), &mut findings);
        (header.map(|header| header.kind.value), brief(&findings).join("; "))
    };
    assert_eq!(
        header_of("apiVersion: nexus/v1\nkind: Saga\nsteps: []\n"),
        (Some(Kind::Saga), String::new())
    );
    for (text, expected) in [
        (
            "kind: topology\n",
            "1:1+1 document/missing-key: the key `apiVersion` is missing; \
             1:7+8 document/kind: unknown kind `topology` (did you mean `Topology`?)",
        ),
        (
            "apiVersion: nexus/v2\nkind: Deployment\n",
            "1:13+8 document/api-version: unknown apiVersion `nexus/v2` (this program reads \
             `nexus/v1`); 2:7+10 document/kind: unknown kind `Deployment` (known kinds: Project, \
             Topology, Saga, Rules, Access, Schemas, Health, ReplayMap, DeadLetterLabels)",
        ),
        (
            "apiVersion: 1\n",
            "1:13+1 document/wrong-type: expected text, found a number (if it is text, put it in \
             quotes: \"1\"); 1:1+1 document/missing-key: the key `kind` is missing",
        ),
        ("- a\n", "1:1+1 document/wrong-type: expected a mapping, found a list"),
    ] {
        assert_eq!(header_of(text), (None, expected.to_owned()), "{text}");
    }
    let saga = one("apiVersion: nexus/v1\nkind: Saga\n");
    assert_eq!(
        brief(&decode::<File>(&saga).unwrap_err()),
        ["2:7+4 document/kind: a document of kind Topology is needed here, this is Saga"]
    );
}

#[test]
fn a_finding_inside_an_anchored_value_is_made_once() {
    let node =
        one("apiVersion: nexus/v1\nkind: Topology\nqueues:\n  a: &q {type: 1}\n  b: *q\n  c: *q\n");
    assert_eq!(
        brief(&decode::<File>(&node).unwrap_err()),
        ["4:16+1 document/wrong-type: expected text, found a number (if it is text, put it in \
          quotes: \"1\")"]
    );
}

#[test]
fn what_is_written_is_minimal_and_reads_back() {
    let file = File {
        queues: [(
            "orders",
            Spanned::nowhere(QueueFile {
                r#type: "quorum".to_owned(),
                durable: true,
                message_ttl: Some(HumanDuration::from_ms(90_000)),
                max_bytes: None,
                overflow: Overflow::RejectPublishDlx,
                queues: Vec::new(),
                priority: None,
                arguments: [("x-a", one("{b: [1, yes, '2']}"))].into_iter().collect(),
            }),
        )]
        .into_iter()
        .collect(),
    };
    let yaml = to_yaml(&file);
    assert_eq!(
        yaml,
        "apiVersion: nexus/v1\nkind: Topology\nqueues:\n  orders:\n    type: quorum\n    \
         messageTtl: 1m30s\n    overflow: reject-publish-dlx!\n    arguments:\n      x-a:\n        \
         b:\n        - 1\n        - \"yes\"\n        - \"2\"\n"
    );
    assert_eq!(to_yaml(&decode::<File>(&one(&yaml)).unwrap()), yaml);
    assert_eq!(to_yaml(&File::default()), "apiVersion: nexus/v1\nkind: Topology\n");
}

#[test]
fn the_schema_says_what_is_read() {
    let schema = schemars::schema_for!(File).to_value();
    let at = |pointer: &str| schema.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(at("/description"), "A test of whole documents.\n\nWith two paragraphs.");
    assert_eq!(at("/required"), json!(["apiVersion", "kind"]));
    assert_eq!(at("/properties/queues/description"), "Queues by name.");
    assert_eq!(at("/$defs/QueueFile/required"), json!(["type"]));
    assert_eq!(at("/$defs/QueueFile/properties/durable/default"), true);
    assert_eq!(at("/$defs/QueueFile/properties/overflow/default"), "drop-head");
    assert_eq!(at("/$defs/Overflow/oneOf/1/const"), "reject-publish");
    assert_eq!(at("/$defs/Overflow/oneOf/1/description"), "The publisher is told.");

    let validator = jsonschema::validator_for(&schema).unwrap();
    for (queue, valid) in [
        ("{type: x}", true),
        ("{type: x, durable: false, messageTtl: 1.5s, maxLengthBytes: 7}", true),
        ("{type: x, messageTtl: 0, maxLengthBytes: 64KiB, overflow: reject-publish-dlx!}", true),
        ("{type: x, priority: null, queues: [a], arguments: {b: [1]}}", true),
        ("{}", false),
        ("{type: 1}", false),
        ("{type: x, durable: yes}", false),
        ("{type: x, messageTtl: 10}", false),
        ("{type: x, maxLengthBytes: 10XB}", false),
        ("{type: x, overflow: dropHead}", false),
        ("{type: x, priority: -1}", false),
        ("{type: x, queues: [\"\"]}", false),
        ("{type: x, colour: red}", false),
    ] {
        let node = one(&format!("apiVersion: nexus/v1\nkind: Topology\nqueues: {{q: {queue}}}\n"));
        assert_eq!(decode::<File>(&node).is_ok(), valid, "{queue}");
        assert_eq!(validator.is_valid(&node.to_json()), valid, "the schema on {queue}");
    }
}

/// Text that YAML is known to read as something else, and any other text.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "",
            "yes",
            "no",
            "on",
            "y",
            "012",
            "1.0",
            "1e3",
            "+1",
            "0x1f",
            "0o7",
            ".5",
            "1.",
            "null",
            "~",
            "Null",
            "true",
            "True",
            ".inf",
            ".nan",
            "#x",
            "a #b",
            "a: b",
            "a:",
            ":a",
            "- a",
            "-",
            "?",
            "? a",
            "[a]",
            "{a",
            "*a",
            "&a",
            "!a",
            "!!str a",
            "|",
            ">",
            "%a",
            "@a",
            "`a`",
            "'a'",
            "\"a\"",
            " a",
            "a ",
            "\ta",
            "a\n",
            "a\nb",
            "\n",
            "\n\n a\n",
            "  a\n b\n",
            "a\r\nb",
            "a\rb",
            "---",
            "--- a",
            "...",
            "<<",
            "=",
            "2024-01-01",
            "12:30:45",
            "\u{feff}a",
            "a\u{feff}",
            "\u{85}",
            "\u{2028}",
            "\0",
            "\u{1b}[31m",
            "\u{7f}",
            "ünï",
            "😀",
            "\\",
            "a\\nb",
            ",",
            "a,b",
            "${ a }",
            "%YAML 1.2",
            "\u{fffe}",
            "x: |\n y",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
        "[-:#?!&*|>'\"%@`{}\\[\\],. \\n\\ta0\\\\]{0,12}",
        "[a-z ]{0,30}(\\n[a-z ]{0,10}){0,4}",
    ]
}

fn jsons() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|value| json!(value)),
        any::<i64>().prop_map(|value| json!(value)),
        any::<u64>().prop_map(|value| json!(value)),
        any::<f64>()
            .prop_filter("finite", |value| value.is_finite())
            .prop_map(|value| json!(value)),
        texts().prop_map(|value| json!(value)),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|items| json!(items)),
            prop::collection::vec((texts(), inner), 0..6)
                .prop_map(|entries| serde_json::Value::Object(entries.into_iter().collect())),
        ]
    })
}

/// Renders all that a reader of `text` would see, so that nothing on the way may panic.
fn survive(text: &[u8]) {
    let read = source_from_bytes("t.yaml", text).and_then(|source| read_documents(&source));
    match read {
        Ok(documents) => {
            for node in &documents {
                let _ = (node.to_json(), to_yaml(node));
                if let Err(findings) = decode::<File>(node) {
                    assert!(findings.has_errors());
                    shown(&findings);
                }
            }
        }
        Err(findings) => {
            assert!(findings.has_errors());
            shown(&findings);
        }
    }
}

const SAMPLE: &str = "%YAML 1.2\n---\napiVersion: nexus/v1\nkind: Topology\nqueues:\n  \"a b\": &a\n    \
    type: 'it''s'\n    durable: true\n    queues: [x, \"\\u00e4\", ]\n  c: *a\n  ? d\n  : {type: |2-\n   \
    x\n, !!str k: 0x1F}\n  e: >+\n    folded\n    text\n\n...\n--- # two\n- - 1\n  - ~\n";

proptest! {
    #[test]
    fn what_is_written_reads_back_equal(value in jsons()) {
        prop_assume!(!value.is_null());
        let yaml = to_yaml(&value);
        match read(&yaml) {
            Ok(documents) => {
                prop_assert_eq!(documents.len(), 1, "{}", yaml);
                prop_assert_eq!(documents[0].to_json(), value, "{}", yaml);
            }
            Err(findings) => prop_assert!(false, "{}\n{}", yaml, shown(&findings)),
        }
    }

    #[test]
    fn json_is_read_as_json_is(value in jsons()) {
        prop_assume!(!value.is_null());
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            if text.contains(|c: char| c.is_control() && c != '\n') || text.contains("\u{fffe}") {
                continue; // legal in JSON, refused in our files
            }
            match read(&text) {
                Ok(documents) => prop_assert_eq!(documents[0].to_json(), value.clone(), "{}", text),
                Err(findings) => prop_assert!(false, "{}\n{}", text, shown(&findings)),
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        survive(&bytes);
    }

    #[test]
    fn no_text_makes_it_panic(text in "[-:#?!&*|>'\"%@`{}\\[\\],.<~ \\n\\t\\r\u{feff}a1ä\\\\]{0,60}") {
        survive(text.as_bytes());
    }

    #[test]
    fn no_damage_to_a_file_makes_it_panic(
        damages in prop::collection::vec((any::<prop::sample::Index>(), 0..3usize, any::<u8>()), 1..6)
    ) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        for (index, kind, byte) in damages {
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.drain(at..(at + usize::from(byte % 16)).min(bytes.len() - 1).max(at))),
            }
        }
        survive(&bytes);
    }
}
