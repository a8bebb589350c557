//! The terminal view of dead letters without a terminal: frames as they are drawn, and what keys make
//! of them, on real scans in a state file.
//!
//! Frames are kept in `tests/frames`; `NEXUSCTL_REGENERATE=1` writes them anew.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and reads what it is told by"
)]

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use nexus::base::id::{ExchangeName, QueueName, RoutingKey};
use nexus::base::time::Timestamp;
use nexus::broker::{Delivery, DeliveryTag};
use nexus::dashboard::dead_letters::desk::read;
use nexus::dashboard::dead_letters::model::Screen;
use nexus::dashboard::dead_letters::{
    Browse, Data, Effect, Ending, Event, HandOver, Key, Palette, draw,
};
use nexus::deadletter::Scans;
use nexus::deadletter::sighting::Sighting;
use nexus::deadletter::store::{Ending as ScanEnding, Row, Scan, Scanned};
use nexus::message::{FieldTable, FieldValue, Message, Properties};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

const NOW: i64 = 1_700_010_000;

fn queue() -> QueueName {
    QueueName::new("dead.orders").unwrap()
}

/// A letter as a broker leaves it that died in `from`.
fn letter(
    id: &str,
    from: &str,
    reason: &str,
    died: u64,
    headers: FieldTable,
    body: &[u8],
) -> Delivery {
    let entry = FieldTable::new()
        .with("queue", from)
        .with("reason", reason)
        .with("count", 1)
        .with("exchange", "shop")
        .with("routing-keys", FieldValue::Array(vec!["order.created".into()]))
        .with("time", FieldValue::Timestamp(died));
    let mut headers = headers;
    headers.insert("x-death", FieldValue::Array(vec![FieldValue::Table(entry)]));
    Delivery {
        tag: DeliveryTag { generation: 0, tag: 0 },
        exchange: ExchangeName::default_exchange(),
        routing_key: RoutingKey::new("dead.orders").unwrap(),
        redelivered: false,
        message: Message {
            properties: Properties {
                message_id: (!id.is_empty()).then(|| id.to_owned()),
                headers: Some(headers),
                ..Properties::default()
            },
            body: body.to_vec(),
        },
    }
}

/// The `n`th of many: of five groups, the first of which has every other letter.
fn one_of_many(n: u64) -> Delivery {
    let (from, reason, text) = match n % 10 {
        0 | 2 | 4 | 6 | 8 => ("orders", "rejected", "no such customer 4711"),
        1 | 3 => ("orders", "expired", ""),
        5 => ("billing", "rejected", "connection to db-3.example.org:5432 refused"),
        7 => ("billing", "maxlen", ""),
        _ => ("shipping.with.a.rather.long.name", "delivery_limit", "kaputt"),
    };
    let headers = FieldTable::new().with("x-error", text);
    let body = format!("{{\"order\":{n}}}");
    letter(&format!("order-{n}"), from, reason, 1_700_000_000 + n, headers, body.as_bytes())
}

/// A scan in a state file of its own.
struct Place {
    scans: Scans,
    scan: Scan,
    _folder: tempfile::TempDir,
}

fn place(letters: impl IntoIterator<Item = Delivery>) -> Place {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (scans, scan) = runtime.block_on(async {
        let path = folder.path().join("state.db");
        let scans = Scans::open(path, Duration::from_secs(10)).await.unwrap();
        let of = Scanned { cluster: "here".to_owned(), vhost: "/".to_owned(), queue: queue() };
        let at = |second: i64| Timestamp::from_unix_ms(second * 1000);
        let id = scans.begin(&of, at(NOW - 300), None).await.unwrap();
        let rows: Vec<Row> = (1..)
            .zip(letters)
            .map(|(n, delivery)| Row::of(Sighting::of("/", &queue(), n, delivery), 65_536))
            .collect();
        for batch in rows.chunks(1000) {
            scans.append(id, batch.to_vec()).await.unwrap();
        }
        let ending = ScanEnding { complete: true, remark: None };
        let scan = scans.finish(id, ending, at(NOW - 299), 5).await.unwrap();
        (scans, scan)
    });
    Place { scans, scan, _folder: folder }
}

/// The view with somebody who reads what it asks for.
struct Watched<'a> {
    place: &'a Place,
    view: Browse,
    ended: Option<Ending>,
    written: Vec<String>,
    /// The most rows that were asked for at once.
    most: u64,
}

fn watch(place: &Place, size: (u16, u16)) -> Watched<'_> {
    let groups = place.scans.group_count(place.scan.id).unwrap();
    let now = Timestamp::from_unix_ms(NOW * 1000);
    let view = Browse::new(place.scan.clone(), groups, now, size);
    let mut watched = Watched { place, view, ended: None, written: Vec::new(), most: 0 };
    watched.take(Event::Size(size.0, size.1));
    watched
}

impl Watched<'_> {
    fn answer(&mut self, effect: Effect) -> Option<Data> {
        match &effect {
            Effect::End(ending) => {
                self.ended = Some(ending.clone());
                return None;
            }
            Effect::Write { path } => {
                self.written.push(path.clone());
                let letters = Ok(self.view.marks.places.len());
                return Some(Data::Written { path: path.clone(), letters });
            }
            Effect::Groups { most, .. } => self.most = self.most.max(*most),
            Effect::NamedGroups { names, .. } => self.most = self.most.max(names.len() as u64),
            Effect::Letters { places, .. } => self.most = self.most.max(places.len() as u64),
            _ => {}
        }
        let mut looked = |_| ControlFlow::Continue(());
        read(&self.place.scans, &self.place.scan, effect, self.view.now, &mut looked)
    }

    /// Takes an event, and reads everything that follows from it.
    fn take(&mut self, event: Event) {
        let mut effects: Vec<Effect> = self.view.step(event);
        while !effects.is_empty() {
            let mut next = Vec::new();
            for effect in effects {
                if let Some(data) = self.answer(effect) {
                    next.extend(self.view.step(Event::Data(data)));
                }
            }
            effects = next;
        }
    }

    fn keys(&mut self, keys: &[Key]) -> &mut Self {
        for key in keys {
            self.take(Event::Key(*key));
        }
        self
    }

    /// Characters one by one.
    fn text(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            self.take(Event::Key(Key::Char(c)));
        }
        self
    }

    fn marked(&self) -> Vec<u64> {
        self.view.marks.places.iter().collect()
    }

    fn frame(&self) -> String {
        drawn(&self.view)
    }
}

/// The frame as text, line by line, without what is blank at the ends.
fn drawn(view: &Browse) -> String {
    let (columns, rows) = view.size;
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| draw(view, Palette { color: true }, frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..rows {
        let mut line = String::new();
        let mut x = 0;
        while x < columns {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            // What follows a wide character is under it.
            let wide = ratatui::text::Span::raw(symbol).width().max(1);
            x += u16::try_from(wide).unwrap();
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[track_caller]
fn is_frame(watched: &Watched<'_>, name: &str) {
    let shown = watched.frame();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/frames/{name}.txt"));
    if std::env::var_os("NEXUSCTL_REGENERATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &shown).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == shown, "{name} is kept as\n{kept}\nand drawn as\n{shown}");
}

// ---------------------------------------------------------------------- frames

#[test]
fn an_empty_scan_says_so() {
    let place = place([]);
    let mut view = watch(&place, (80, 24));
    is_frame(&view, "empty_80x24");
    view.keys(&[Key::Enter, Key::Down, Key::End, Key::Tab]).text(" aixGcnu");
    assert_eq!((view.view.screen(), view.marked().len()), (Screen::Groups, 0));
}

#[test]
fn groups_letters_and_one_letter_are_shown() {
    let place = place((1..=40).map(one_of_many));
    for (columns, rows) in [(80, 24), (120, 40)] {
        let size = format!("{columns}x{rows}");
        let mut view = watch(&place, (columns, rows));
        is_frame(&view, &format!("groups_{size}"));
        view.keys(&[Key::Down, Key::Char(' '), Key::Home, Key::Enter, Key::Down, Key::Char(' ')]);
        is_frame(&view, &format!("letters_{size}"));
        view.keys(&[Key::Enter]);
        is_frame(&view, &format!("letter_{size}"));
        view.keys(&[Key::Esc, Key::Esc]);
        is_frame(&view, &format!("groups_marked_{size}"));
        view.keys(&[Key::Char('?')]);
        is_frame(&view, &format!("help_{size}"));
    }
}

#[test]
fn one_group_fills_the_screen_alone() {
    let same = (1..=3).map(|n| {
        letter("", "orders", "rejected", 1_700_000_000 + n, FieldTable::new(), b"{\"a\":1}")
    });
    let place = place(same);
    let mut view = watch(&place, (80, 24));
    is_frame(&view, "one_group_80x24");
    view.keys(&[Key::Enter]);
    is_frame(&view, "one_group_letters_80x24");
}

/// A letter that tries everything: wide characters, long headers, orders to the terminal.
fn nasty() -> Place {
    let headers = FieldTable::new()
        .with("x-error", "\u{1b}]0;owned\u{7}\u{1b}[2J no such thing 日本語のエラー")
        .with("long", "0123456789".repeat(300).as_str())
        .with("turned", "abc\u{202e}fed\u{200b}")
        .with("password", "hunter2");
    let body = "\u{1b}[31mred\u{1b}c\r\nнебо 🦀 日本語日本語日本語日本語日本語日本語日本語日本語日本語日本語日本語\r\n\u{9b}2J\tend";
    let body = body.as_bytes();
    let one =
        letter("日本語-\u{1b}[1m-1", "orders", "rejected", 1_700_000_000, headers.clone(), body);
    let other = letter("b", "orders", "rejected", 1_700_000_001, headers, &[0xff, 0x1b, 0x5b]);
    place([one, other])
}

#[test]
fn nothing_in_a_letter_reaches_the_terminal_raw() {
    let place = nasty();
    let mut view = watch(&place, (80, 24));
    is_frame(&view, "nasty_groups_80x24");
    view.keys(&[Key::Enter]);
    is_frame(&view, "nasty_letters_80x24");
    view.keys(&[Key::Enter]);
    is_frame(&view, "nasty_letter_80x24");
    view.keys(&[Key::End]);
    is_frame(&view, "nasty_letter_end_80x24");
    view.keys(&[Key::Esc, Key::Char('c'), Key::Down, Key::Char('c')]);
    is_frame(&view, "nasty_pair_80x24");
    view.take(Event::Size(120, 40));
    is_frame(&view, "nasty_pair_120x40");
    let all: String = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/frames"))
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    let steers = |c: &char| c.is_control() && *c != '\n' || ('\u{202a}'..='\u{202e}').contains(c);
    assert_eq!(all.chars().find(steers), None);
    assert!(!all.contains("hunter2"), "a secret is shown");
}

#[test]
fn a_terminal_that_is_too_small_is_told_what_is_needed() {
    let place = place((1..=3).map(one_of_many));
    let mut view = watch(&place, (30, 5));
    is_frame(&view, "small_30x5");
    view.take(Event::Size(50, 10));
    is_frame(&view, "small_50x10");
}

#[test]
fn what_is_typed_and_what_is_wrong_with_it_stand_at_the_bottom() {
    let place = place((1..=40).map(one_of_many));
    let mut view = watch(&place, (80, 24));
    view.text("/reason == ").keys(&[Key::Enter]);
    is_frame(&view, "filter_wrong_80x24");
    view.text("'expired' && body.order > 12").keys(&[Key::Enter]);
    is_frame(&view, "filter_80x24");
    view.text(" w").keys(&[Key::Left, Key::Left]);
    is_frame(&view, "path_80x24");
}

// ------------------------------------------------------------------------ keys

#[test]
fn marks_are_set_inverted_and_cleared_and_always_counted() {
    let place = place((1..=40).map(one_of_many));
    let mut view = watch(&place, (80, 24));
    // The largest group, as a whole.
    view.text(" ");
    assert_eq!(view.marked(), (2..=40).step_by(2).collect::<Vec<_>>());
    assert!(view.frame().lines().next().unwrap().ends_with("20 marked"), "{}", view.frame());
    // One of its letters, not any more.
    view.keys(&[Key::Home, Key::Enter, Key::Down, Key::Char(' '), Key::Esc]);
    assert_eq!(view.marked().len(), 19);
    assert!(!view.marked().contains(&4));
    assert!(view.frame().lines().nth(4).unwrap().starts_with('+'), "{}", view.frame());
    // All but those; within the group, its other letters.
    view.text("i");
    assert_eq!(view.marked().len(), 21);
    view.keys(&[Key::Enter, Key::Char('i'), Key::Esc]);
    assert_eq!(view.marked().len(), 20 + 19);
    view.text("a");
    assert_eq!(view.marked().len(), 40);
    view.text("a");
    assert_eq!(view.marked().len(), 0);
    view.text("ax");
    assert_eq!(view.marked().len(), 0);
}

#[test]
fn a_filter_narrows_what_is_shown_and_what_a_mark_takes() {
    let place = place((1..=40).map(one_of_many));
    let mut view = watch(&place, (80, 24));
    view.text("/position > 30").keys(&[Key::Enter]);
    assert_eq!((view.view.group_count(), view.view.shown()), (5, 10));
    view.text(" ");
    assert_eq!(view.marked(), [32, 34, 36, 38, 40]);
    view.keys(&[Key::Enter]);
    assert_eq!(view.view.letters.as_ref().unwrap().shown.len(), 2, "the second group: expired");
    view.text("a").keys(&[Key::Esc]);
    assert_eq!(view.marked(), [31, 32, 33, 34, 36, 38, 40]);
    // Another filter leaves the marks.
    view.text("/").keys(&[Key::Clear]).text("reason == 'maxlen'").keys(&[Key::Enter]);
    assert_eq!((view.view.group_count(), view.marked().len()), (1, 7));
    // What cannot be decided is not let through, and is counted.
    view.text("/").keys(&[Key::Clear]).text("headers.nobody == 1").keys(&[Key::Enter]);
    assert_eq!(view.view.filter.found.as_ref().unwrap().undecided.0, 40);
    view.keys(&[Key::Esc]);
    assert_eq!((view.view.group_count(), view.view.filter.text.as_str()), (5, ""));
}

#[test]
fn an_answer_that_comes_too_late_is_not_shown() {
    let place = place((1..=40).map(one_of_many));
    let mut view = watch(&place, (80, 24));
    let begin = |view: &mut Watched<'_>, text: &str| {
        for key in [Key::Char('/'), Key::Clear] {
            view.view.step(Event::Key(key));
        }
        for c in text.chars() {
            view.view.step(Event::Key(Key::Char(c)));
        }
        let effects = view.view.step(Event::Key(Key::Enter));
        effects.into_iter().find(|effect| matches!(effect, Effect::Filter { .. })).unwrap()
    };
    let first = begin(&mut view, "position > 38");
    let second = begin(&mut view, "position > 35");
    for (effect, shown) in [(first, 40), (second, 5)] {
        let data = view.answer(effect).unwrap();
        view.take(Event::Data(data));
        assert_eq!(view.view.shown(), shown);
    }
}

#[test]
fn two_letters_are_compared_both_ways() {
    let place = place((1..=40).map(one_of_many));
    let mut view = watch(&place, (120, 40));
    view.keys(&[Key::Enter, Key::Char('c'), Key::Down, Key::Char('c')]);
    let frame = view.frame();
    assert!(frame.contains("body.order") && frame.contains("of one group"), "{frame}");
    assert_eq!(view.view.pair.as_ref().unwrap().places, (2, 4));
    view.keys(&[Key::Tab]);
    assert_eq!(view.view.pair.as_ref().unwrap().places, (4, 2));
    view.keys(&[Key::Esc]);
    assert_eq!(view.view.screen(), Screen::Letters);
    // The same letter twice: not meant any more.
    view.text("cc");
    assert_eq!((view.view.anchor, view.view.screen()), (None, Screen::Letters));
}

#[test]
fn secrets_are_shown_only_when_it_was_begun_so() {
    let place = nasty();
    let mut view = watch(&place, (80, 40));
    view.keys(&[Key::Enter, Key::Enter]).text("u");
    let text = |view: &Watched<'_>| {
        let lines = view.view.reader.as_ref().unwrap().text.clone().unwrap();
        lines.into_iter().map(|line| line.text).collect::<Vec<_>>().join("\n")
    };
    assert!(!text(&view).contains("hunter2"));
    view.view.can_unmask = true;
    view.text("u");
    assert!(text(&view).contains("hunter2"));
    view.text("u");
    assert!(!text(&view).contains("hunter2"));
}

#[test]
fn marks_are_handed_on_written_or_left_with_a_warning() {
    let place = place((1..=40).map(one_of_many));
    let mut view = watch(&place, (80, 24));
    view.text("p");
    assert!(view.ended.is_none() && view.frame().contains("nothing is marked"));
    view.text(" w").keys(&[Key::Enter]);
    assert_eq!(view.written, ["dead.orders.selection.json"]);
    assert!(view.frame().contains("20 letters written"), "{}", view.frame());
    view.text("q");
    assert!(view.ended.is_none() && view.frame().contains("20 letters marked: q again"));
    view.text("q");
    assert_eq!(view.ended, Some(Ending::Quit));

    let mut view = watch(&place, (80, 24));
    view.text(" p").keys(&[Key::Clear]).text("mine.json").keys(&[Key::Enter]);
    assert_eq!(view.ended, Some(Ending::Written { path: "mine.json".to_owned() }));
    let mut view = watch(&place, (80, 24));
    view.view.hand_over = HandOver::Print;
    view.view.prints = true;
    view.text(" p");
    assert_eq!(view.ended, Some(Ending::Print));
    let mut view = watch(&place, (80, 24));
    view.view.prints = true;
    view.text(" q");
    assert_eq!(view.ended, Some(Ending::Quit), "what is marked is printed");
    let mut view = watch(&place, (80, 24));
    view.text("/rea").keys(&[Key::Interrupt]);
    assert_eq!(view.ended, Some(Ending::Interrupted));
}

#[test]
fn a_file_that_cannot_be_written_keeps_the_view_open() {
    let place = place((1..=40).map(one_of_many));
    let mut view = watch(&place, (80, 24));
    view.view.hand_over = HandOver::File("there.json".to_owned());
    view.view.step(Event::Key(Key::Char('a')));
    let effects = view.view.step(Event::Key(Key::Char('p')));
    assert!(effects.contains(&Effect::Write { path: "there.json".to_owned() }), "{effects:?}");
    let why = "cannot write there.json: no space".to_owned();
    view.take(Event::Data(Data::Written { path: "there.json".to_owned(), letters: Err(why) }));
    assert!(view.ended.is_none() && view.frame().contains("no space"), "{}", view.frame());
    view.text("p");
    assert_eq!(view.ended, Some(Ending::Written { path: "there.json".to_owned() }));
}

#[test]
fn only_what_is_on_the_screen_is_read_of_many_letters() {
    let place = place((1..=6000).map(one_of_many));
    let mut view = watch(&place, (80, 24));
    view.keys(&[Key::Enter, Key::End]);
    assert!(view.frame().contains("order-6000"), "{}", view.frame());
    for _ in 0..30 {
        view.keys(&[Key::PageUp]);
    }
    view.keys(&[Key::Home, Key::Char('a')]);
    assert_eq!(view.marked().len(), 3000);
    let rows = view.view.letters.as_ref().unwrap().rows.read.len() as u64;
    assert!(rows <= 7 * view.view.height(), "{rows} rows are kept");
    assert!(view.most <= 3 * view.view.height(), "{} rows were read at once", view.most);
}

fn any_key() -> impl Strategy<Value = Key> {
    let plain = prop::sample::select(vec![
        Key::Up,
        Key::Down,
        Key::Left,
        Key::Right,
        Key::PageUp,
        Key::PageDown,
        Key::Home,
        Key::End,
        Key::Enter,
        Key::Esc,
        Key::Tab,
        Key::Backspace,
        Key::Delete,
        Key::Clear,
    ]);
    let chars =
        prop::sample::select("hjklgGnNacixupwr?/ 0>=po日\u{1b}".chars().collect::<Vec<_>>());
    prop_oneof![2 => plain, 3 => chars.prop_map(Key::Char)]
}

/// What happens to a view: mostly keys, and answers in any order.
#[derive(Clone, Debug)]
enum Happens {
    Key(Key),
    Filter(&'static str),
    Size(u16, u16),
    Answer(prop::sample::Index),
    Fails,
}

fn any_happening() -> impl Strategy<Value = Happens> {
    let filters =
        ["position > 20", "body.order > 3", "reason == 'expired'", "headers.x == 1", "1 +"];
    prop_oneof![
        12 => any_key().prop_map(Happens::Key),
        2 => prop::sample::select(filters.to_vec()).prop_map(Happens::Filter),
        1 => (0u16..130, 0u16..45).prop_map(|(columns, rows)| Happens::Size(columns, rows)),
        8 => any::<prop::sample::Index>().prop_map(Happens::Answer),
        1 => Just(Happens::Fails),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Whatever is typed, and in whatever order answers come: nothing panics, and in the end what is
    /// said of the marks is true.
    #[test]
    fn any_keys_and_any_order_of_answers_are_borne(
        happenings in proptest::collection::vec(any_happening(), 0..120)
    ) {
        thread_local! {
            static PLACE: Place = place((1..=40).map(one_of_many));
        }
        PLACE.with(|place| {
            let mut watched = watch(place, (80, 24));
            let mut open: Vec<Effect> = Vec::new();
            for happens in happenings {
                let events = match happens {
                    Happens::Key(key) => vec![Event::Key(key)],
                    Happens::Filter(text) => {
                        let typed = text.chars().map(|c| Event::Key(Key::Char(c)));
                        let keys = [Key::Esc, Key::Char('/'), Key::Clear].map(Event::Key);
                        keys.into_iter().chain(typed).chain([Event::Key(Key::Enter)]).collect()
                    }
                    Happens::Size(columns, rows) => vec![Event::Size(columns, rows)],
                    Happens::Answer(_) if open.is_empty() => Vec::new(),
                    Happens::Answer(which) => {
                        let effect = open.swap_remove(which.index(open.len()));
                        watched.answer(effect).map(Event::Data).into_iter().collect()
                    }
                    // All that was asked for is lost.
                    Happens::Fails => {
                        open.retain(|effect| matches!(effect, Effect::Filter { .. } | Effect::Write { .. }));
                        vec![Event::Data(Data::Failed("disk on fire".to_owned()))]
                    }
                };
                for event in events {
                    open.extend(watched.view.step(event));
                    drawn(&watched.view);
                }
            }
            // The rest is answered, and a key asks again for what was lost.
            for key in [Key::Esc, Key::Esc, Key::Esc, Key::Esc, Key::Char('x')] {
                open.extend(watched.view.step(Event::Key(key)));
            }
            while let Some(effect) = open.pop() {
                if let Some(data) = watched.answer(effect) {
                    open.extend(watched.view.step(Event::Data(data)));
                }
            }
            watched.take(Event::Size(80, 24));
            watched.keys(&[Key::Enter, Key::Char(' '), Key::Char(' '), Key::Esc]);
            let view = &watched.view;
            let marked: BTreeSet<u64> = view.marks.places.iter().collect();
            assert_eq!(marked.len() as u64, view.marks.places.len());
            for row in 0..view.group_count() {
                let Some(group) = view.groups.rows.get(row) else { panic!("row {row} is not read") };
                let places = place.scans.places_of(place.scan.id, group.group).unwrap();
                let truly = places.iter().filter(|place| marked.contains(place)).count() as u64;
                assert_eq!(view.marked_in(group), Some(truly), "{}", group.group);
            }
        });
    }
}
