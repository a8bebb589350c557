//! Circuits as they are shown.

use schemars::JsonSchema;
use serde::Serialize;

use crate::base::time::{HumanDuration, Timestamp};
use crate::resilience::circuit::{Circuit, CircuitBreaker, CircuitSettings};

use crate::cli::output::{Page, Style, View};

/// One circuit and its state.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CircuitRow {
    /// Its name.
    name: String,
    /// `closed`, `open`, `half-open`, `forced-open` or `disabled`.
    state: &'static str,
    /// Whether nexus.yaml names it.
    configured: bool,
    /// What opened it, or why an operator decides; null when it is closed.
    cause: Option<String>,
    /// Since when it is open or an operator decides.
    since: Option<String>,
    /// When the first probe is let out, or the order ends; null when nothing tells.
    until: Option<String>,
    /// Requests in the window: all, failed and slow; null without a window.
    window: Option<WindowView>,
    /// When it was written last; null when it was never used.
    changed: Option<String>,
}

/// What is counted in the window.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct WindowView {
    requests: u32,
    failed: u32,
    slow: u32,
}

impl CircuitRow {
    pub(super) fn new(
        name: &str,
        breaker: &CircuitBreaker,
        configured: bool,
        changed: Option<Timestamp>,
        now: Timestamp,
    ) -> CircuitRow {
        let state = breaker.state(now);
        let order = breaker.order(now);
        let opened = breaker.opened().filter(|_| state == Circuit::Open);
        let (cause, since, until) = match (order, opened) {
            (Some(order), _) => (Some(order.reason.clone()), Some(order.since), order.until),
            (None, Some((cause, since, until))) => {
                (Some(cause.to_string()), Some(since), Some(until))
            }
            (None, None) => (None, None, None),
        };
        let window = breaker.settings().rate.map(|_| {
            let (requests, failed, slow) = breaker.counts_in_window(now);
            WindowView { requests, failed, slow }
        });
        let shown = |time: Option<Timestamp>| time.map(|time| time.to_string());
        CircuitRow {
            name: name.to_owned(),
            state: state.as_str(),
            configured,
            cause,
            since: shown(since),
            until: shown(until),
            window,
            changed: shown(changed),
        }
    }
}

fn painted(state: &str, style: Style) -> String {
    match state {
        "closed" => style.good(state),
        "open" | "forced-open" => style.bad(state),
        _ => style.attention(state),
    }
}

/// All circuits.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CircuitListView {
    /// By name.
    pub(super) circuits: Vec<CircuitRow>,
}

impl View for CircuitListView {
    const KIND: &'static str = "CircuitList";
    const ITEMS: Option<&'static str> = Some("circuits");
    fn text(&self, page: &mut Page) {
        if self.circuits.is_empty() {
            page.line("no circuits: nexus.yaml names none, and none was used");
        }
        let style = page.style;
        let rows = self.circuits.iter().map(|circuit| {
            [
                circuit.name.clone(),
                painted(circuit.state, style),
                circuit.until.clone().unwrap_or_default(),
                circuit.cause.clone().unwrap_or_default(),
            ]
        });
        page.table(["CIRCUIT", "STATE", "UNTIL", "CAUSE"], rows.collect());
    }
}

/// Settings as nexus.yaml would say them.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SettingsView {
    threshold: u32,
    recovery: String,
    longest_recovery: String,
    probes: u32,
    probe_lapse: String,
    window: Option<String>,
    failed_percent: Option<u8>,
    slow: Option<SlowView>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SlowView {
    longer_than: String,
    percent: u8,
}

impl SettingsView {
    pub(super) fn new(settings: &CircuitSettings) -> SettingsView {
        let CircuitSettings { threshold, recovery, longest_recovery, probes, probe_lapse, rate } =
            settings;
        let shown = |duration| HumanDuration(duration).to_string();
        SettingsView {
            threshold: *threshold,
            recovery: shown(*recovery),
            longest_recovery: shown(*longest_recovery),
            probes: *probes,
            probe_lapse: shown(*probe_lapse),
            window: rate.map(|rate| shown(rate.window)),
            failed_percent: rate.map(|rate| rate.failed_percent),
            slow: rate.and_then(|rate| rate.slow).map(|slow| SlowView {
                longer_than: shown(slow.longer_than),
                percent: slow.percent,
            }),
        }
    }
}

/// One circuit.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CircuitView {
    /// The circuit.
    #[serde(flatten)]
    pub(super) circuit: CircuitRow,
    /// The settings in force.
    pub(super) settings: SettingsView,
}

impl View for CircuitView {
    const KIND: &'static str = "Circuit";
    fn text(&self, page: &mut Page) {
        let CircuitRow { name, state, configured, cause, since, until, window, changed } =
            &self.circuit;
        let (style, settings) = (page.style, &self.settings);
        page.line(format!("circuit {}: {}", style.strong(name), painted(state, style)));
        if let Some(cause) = cause {
            page.line(format!("  because {cause}"));
        }
        let facts = [("since", since), ("until", until), ("last written", changed)];
        for (what, when) in facts {
            if let Some(when) = when {
                page.line(format!("  {what} {when}"));
            }
        }
        if let Some(WindowView { requests, failed, slow }) = window {
            page.line(format!("  in the window: {requests} ended, {failed} failed, {slow} slow"));
        }
        let from = if *configured { "nexus.yaml" } else { "the last use" };
        page.gap();
        page.line(format!("settings of {from}:"));
        page.line(format!("  opens after {} failures in a row", settings.threshold));
        if let (Some(window), Some(percent)) = (&settings.window, settings.failed_percent) {
            page.line(format!("  opens when {percent} % fail within {window}"));
            if let Some(SlowView { longer_than, percent }) = &settings.slow {
                page.line(format!("  opens when {percent} % take longer than {longer_than}"));
            }
        }
        let SettingsView { recovery, longest_recovery, probes, probe_lapse, .. } = settings;
        page.line(format!("  stays open for {recovery}, later up to {longest_recovery}"));
        page.line(format!("  then needs {probes} to succeed, each lost after {probe_lapse}"));
    }
}

/// What an operator changed.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CircuitChangesView {
    /// One for each circuit.
    pub(super) changes: Vec<CircuitChange>,
    /// Whether nothing was to be changed.
    pub(super) dry_run: bool,
}

/// One circuit before and afterwards.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CircuitChange {
    /// The circuit.
    pub(super) name: String,
    /// Its state before.
    pub(super) before: &'static str,
    /// Its state afterwards.
    pub(super) after: &'static str,
    /// Why, when an operator decides now.
    pub(super) reason: Option<String>,
    /// Until when; null until it is closed.
    pub(super) until: Option<String>,
}

impl View for CircuitChangesView {
    const KIND: &'static str = "CircuitChanges";
    const ITEMS: Option<&'static str> = Some("changes");
    fn text(&self, page: &mut Page) {
        let style = page.style;
        for CircuitChange { name, before, after, reason, until } in &self.changes {
            let name = style.strong(name);
            let after = painted(after, style);
            let until = until.as_ref().map(|until| format!(" until {until}")).unwrap_or_default();
            let reason = reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            page.line(format!("circuit {name}: {before} -> {after}{until}{reason}"));
        }
        if self.changes.is_empty() {
            page.line("no circuit was used yet");
        }
        if self.dry_run {
            page.line("nothing was changed");
        }
    }
}

/// Whether something is let out.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CircuitTryView {
    /// The circuit.
    pub(super) name: String,
    /// Its state.
    pub(super) state: &'static str,
    /// Whether something is let out, or would be on a dry run.
    pub(super) let_out: bool,
    /// To be told with the result; null when nothing was let out.
    pub(super) permit: Option<String>,
    /// After how many milliseconds to ask again; null when nothing tells.
    pub(super) retry_after_ms: Option<u64>,
    /// Why nothing is let out, as far as it is known.
    pub(super) cause: Option<String>,
    /// Whether nothing was to be let out.
    pub(super) dry_run: bool,
}

impl View for CircuitTryView {
    const KIND: &'static str = "CircuitTry";
    fn text(&self, page: &mut Page) {
        let CircuitTryView { name, state, let_out, permit, retry_after_ms, cause, dry_run } = self;
        if let Some(permit) = permit {
            page.line(permit);
            return;
        }
        let name = page.style.strong(name);
        let wait = retry_after_ms.map(|ms| format!(" for {}", HumanDuration::from_ms(ms)));
        let cause = cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default();
        page.line(match let_out {
            true => format!("circuit {name} is {state} and would let it out"),
            false => format!("circuit {name} is {state}{}{cause}", wait.unwrap_or_default()),
        });
        if *dry_run {
            page.line("nothing was changed");
        }
    }
}
