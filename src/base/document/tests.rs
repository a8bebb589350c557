//! Documents as a whole: what is read, what is refused and how that looks.

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
