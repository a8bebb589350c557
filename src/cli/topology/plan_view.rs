//! What `plan`, `apply`, `diff` and `destroy` print.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::broker::{BrokerIdentity, Product};
use crate::topology::apply::{ApplyReport, StepOutcome, StepReport};
use crate::topology::diff::{DriftReport, Drifted};
use crate::topology::keep::KEPT_EXCHANGE;
use crate::topology::object::ObjectRef;
use crate::topology::ownership::{OWNERS_EXCHANGE, Owner};
use crate::topology::plan::{
    Action, Blocker, Extra, FieldChange, Loss, Plan, PlannedChange, ValueSource, Warning,
};

use crate::cli::output::{Page, View, count};

/// Which broker was read.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BrokerView {
    /// `rabbitmq` or `embedded`.
    product: String,
    /// Its version; of the embedded one, the RabbitMQ that it imitates.
    version: String,
    /// The cluster's name, or the state file's id.
    cluster_name: String,
    /// The virtual host.
    vhost: String,
}

impl From<&BrokerIdentity> for BrokerView {
    fn from(identity: &BrokerIdentity) -> Self {
        let product = match identity.product {
            Product::RabbitMq => "rabbitmq",
            Product::Embedded => "embedded",
        };
        BrokerView {
            product: product.to_owned(),
            version: identity.version.to_string(),
            cluster_name: identity.cluster_name.clone(),
            vhost: identity.vhost.to_string(),
        }
    }
}

impl BrokerView {
    /// `vhost / of RabbitMQ 4.0.5 (rabbit@host)`.
    pub(crate) fn words(&self) -> String {
        let BrokerView { product, version, cluster_name, vhost } = self;
        match product.as_str() {
            "embedded" => "the embedded broker".to_owned(),
            _ => format!("vhost {vhost} of RabbitMQ {version} ({cluster_name})"),
        }
    }
}

/// One field, old and new.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FieldView {
    /// `durable`, `type`, `arguments.x-max-length`.
    field: String,
    /// What it is; null when it is not set.
    old: Value,
    /// Where that comes from.
    old_source: ValueSource,
    /// What it shall be; null when it shall not be set.
    new: Value,
}

impl From<&FieldChange> for FieldView {
    fn from(change: &FieldChange) -> Self {
        FieldView {
            field: change.field.clone(),
            old: change.old.clone().unwrap_or_default(),
            old_source: change.old_source.clone(),
            new: change.new.clone().unwrap_or_default(),
        }
    }
}

fn source_words(source: &ValueSource) -> String {
    match source {
        ValueSource::Property | ValueSource::Unset => String::new(),
        ValueSource::Argument => " (argument)".to_owned(),
        ValueSource::Policy(name) => format!(" (policy {name})"),
        ValueSource::OperatorPolicy(name) => format!(" (operator policy {name})"),
        ValueSource::VhostDefault => " (vhost default)".to_owned(),
        ValueSource::BrokerDefault => " (broker default)".to_owned(),
    }
}

fn value_words(value: &Value) -> String {
    if value.is_null() { "unset".to_owned() } else { value.to_string() }
}

impl FieldView {
    fn line(&self, page: &mut Page) {
        page.line(format!(
            "      {}: {}{} → {}",
            self.field,
            value_words(&self.old),
            source_words(&self.old_source),
            value_words(&self.new)
        ));
    }
}

fn owner_words(owner: &Owner) -> Option<String> {
    match owner {
        Owner::Nobody => None,
        Owner::Ours => Some("ours".to_owned()),
        Owner::Other(names) => Some(names.clone()),
    }
}

/// One object and what becomes of it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChangeView {
    /// Which object.
    object: ObjectRef,
    /// What is done, or would be if nothing stood in the way.
    action: Action,
    /// Old and new values.
    fields: Vec<FieldView>,
    /// Who owns the object now: `ours`, another owner's name, or null.
    owner: Option<String>,
    /// How many messages it holds, where that matters and is known.
    messages: Option<u64>,
    /// Bindings that go with the object and are put back.
    bindings: usize,
    /// What is lost.
    loses: Vec<Loss>,
    /// Why nothing is done; empty when it is done.
    blockers: Vec<Blocker>,
    /// The policy that does it, or that could: name and definition.
    policy: Option<Value>,
    /// `FILE:LINE:COLUMN` where it is declared.
    declared_at: Option<String>,
    /// What made it, when nobody wrote it out.
    expanded_from: Option<String>,
}

impl From<&PlannedChange> for ChangeView {
    fn from(change: &PlannedChange) -> Self {
        ChangeView {
            object: change.object.clone(),
            action: change.action,
            fields: change.fields.iter().map(FieldView::from).collect(),
            owner: owner_words(&change.owner),
            messages: change.messages,
            bindings: change.bindings,
            loses: change.loses.clone(),
            blockers: change.blockers.clone(),
            policy: change.policy.as_ref().map(|policy| {
                serde_json::json!({
                    "name": policy.name.as_str(),
                    "pattern": policy.pattern,
                    "applyTo": policy.apply_to.as_str(),
                    "priority": policy.priority,
                    "definition": policy.definition,
                })
            }),
            declared_at: change.declared_at.clone(),
            expanded_from: change.expanded_from.clone(),
        }
    }
}

impl ChangeView {
    fn write(&self, page: &mut Page) {
        let style = page.style;
        let blocked = !self.blockers.is_empty();
        let (mark, verb) = match self.action {
            Action::Create => (style.good("+"), "create"),
            Action::Update => (style.attention("~"), "update"),
            Action::PolicyInstead => (style.attention("~"), "set by policy"),
            Action::ReplaceWhileEmpty | Action::Replace => (style.attention("±"), "replace"),
            Action::Migrate => (style.attention("±"), "migrate"),
            Action::Delete => (style.bad("-"), "delete"),
            Action::Adopt => (style.dim("="), "adopt"),
        };
        let mark = if blocked { style.bad("!") } else { mark };
        let mut line = format!("  {mark} {verb} {}", self.object);
        if let Some(messages) = self.messages.filter(|messages| *messages > 0) {
            line.push_str(&format!(" holding {}", count(messages, "message")));
        }
        if let Some(from) = &self.expanded_from {
            line.push_str(&style.dim(&format!("  ({from})")));
        }
        page.line(line);
        for field in &self.fields {
            field.line(page);
        }
        if self.bindings > 0 {
            page.line(format!("      {} put back", count(self.bindings as u64, "binding")));
        }
        if let Some(policy) = &self.policy {
            page.line(format!("      policy: {policy}"));
        }
        for loss in &self.loses {
            page.line(format!("      {} {}", style.bad("loses:"), loss.text));
        }
        for blocker in &self.blockers {
            page.line(format!(
                "      {} {} [{}]",
                style.bad("blocked:"),
                blocker.why,
                blocker.code
            ));
            page.line(format!("      next: {}", blocker.next));
        }
    }
}

/// An object that is there and not declared.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExtraView {
    /// Which.
    object: ObjectRef,
    /// Its owner: `ours`, another owner's name, or null.
    owner: Option<String>,
    /// Whether this plan removes it.
    pruned: bool,
}

impl From<&Extra> for ExtraView {
    fn from(extra: &Extra) -> Self {
        ExtraView {
            object: extra.object.clone(),
            owner: owner_words(&extra.owner),
            pruned: extra.pruned,
        }
    }
}

/// How many changes of each kind.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PlanSummary {
    /// Objects to make.
    create: usize,
    /// Objects to change where they stand, by policy included.
    update: usize,
    /// Objects to make anew.
    replace: usize,
    /// Objects to remove.
    delete: usize,
    /// Objects whose owner is recorded.
    adopt: usize,
    /// Objects that something stands in the way of.
    blocked: usize,
}

/// What would be done.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanView {
    /// The broker it is for.
    broker: BrokerView,
    /// Whose topology it is.
    owner: String,
    /// How many changes of each kind.
    summary: PlanSummary,
    /// One item for each object that changes or should change.
    changes: Vec<ChangeView>,
    /// Objects that are there and not declared.
    extra: Vec<ExtraView>,
    /// What is legal but may surprise.
    warnings: Vec<Warning>,
    /// Why nothing of it may run.
    refusals: Vec<Blocker>,
    /// How many requests it takes.
    steps: usize,
}

impl From<&Plan> for PlanView {
    fn from(plan: &Plan) -> Self {
        let mut summary = PlanSummary::default();
        for change in &plan.changes {
            let place = match change.action {
                _ if !change.blockers.is_empty() => &mut summary.blocked,
                Action::Create => &mut summary.create,
                Action::Update | Action::PolicyInstead => &mut summary.update,
                Action::ReplaceWhileEmpty | Action::Replace | Action::Migrate => {
                    &mut summary.replace
                }
                Action::Delete => &mut summary.delete,
                Action::Adopt => &mut summary.adopt,
            };
            *place += 1;
        }
        PlanView {
            broker: (&plan.broker).into(),
            owner: plan.owner.clone(),
            summary,
            changes: plan.changes.iter().map(ChangeView::from).collect(),
            extra: plan.extra.iter().map(ExtraView::from).collect(),
            warnings: plan.warnings.clone(),
            refusals: plan.refusals.clone(),
            steps: plan.steps.len(),
        }
    }
}

impl PlanView {
    /// `12 to create, 1 to update`, without what is none.
    pub fn summary_words(&self) -> String {
        let PlanSummary { create, update, replace, delete, adopt, blocked } = self.summary;
        let parts: Vec<String> = [
            (create, "to create"),
            (update, "to update"),
            (replace, "to replace"),
            (delete, "to delete"),
            (adopt, "to adopt"),
            (blocked, "blocked"),
        ]
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{number} {what}"))
        .collect();
        if parts.is_empty() { "nothing to change".to_owned() } else { parts.join(", ") }
    }
}

impl View for PlanView {
    const KIND: &'static str = "TopologyPlan";
    const ITEMS: Option<&'static str> = Some("changes");
    fn text(&self, page: &mut Page) {
        for refusal in &self.refusals {
            let word = page.style.bad("refused:");
            page.line(format!("{word} {} [{}]", refusal.why, refusal.code));
            page.line(format!("  next: {}", refusal.next));
        }
        for change in &self.changes {
            change.write(page);
        }
        let kept: Vec<String> = self
            .extra
            .iter()
            .filter(|extra| !extra.pruned && extra.owner.as_deref() == Some("ours"))
            .map(|extra| extra.object.to_string())
            .collect();
        if !kept.is_empty() {
            page.gap();
            page.line(format!(
                "kept though no longer declared (--prune removes): {}",
                kept.join(", ")
            ));
        }
        if !self.warnings.is_empty() {
            page.gap();
        }
        for warning in &self.warnings {
            let word = page.style.attention("warning:");
            page.line(format!("{word} {}: {} [{}]", warning.object, warning.text, warning.code));
        }
        page.gap();
        page.line(format!("{}: {}", self.broker.words(), self.summary_words()));
    }
}

/// What `apply` and `destroy` did.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplyView {
    /// The broker.
    broker: BrokerView,
    /// Whether broker and files agree now.
    complete: bool,
    /// How many requests changed something.
    requests: usize,
    /// How many changes of declared objects were carried out.
    changed: usize,
    /// How many steps belonged to a run that was interrupted before.
    resumed: usize,
    /// How many steps did not come true.
    failed: usize,
    /// Every step that was tried or skipped.
    steps: Vec<StepReport>,
    /// What still differs.
    residue: Vec<ChangeView>,
    /// Why owners could not be recorded; `--prune` will not know these objects as ours.
    owners_not_recorded: Option<String>,
}

impl From<&ApplyReport> for ApplyView {
    fn from(report: &ApplyReport) -> Self {
        ApplyView {
            broker: (&report.broker).into(),
            complete: report.is_complete(),
            requests: report.changes(),
            changed: report
                .steps
                .iter()
                .filter(|step| step.outcome == StepOutcome::Done)
                .filter(|step| !step.object.name.starts_with(OWNERS_EXCHANGE))
                .count(),
            resumed: report.resumed,
            failed: report.failed().count(),
            steps: report.steps.clone(),
            residue: report.residue.iter().map(ChangeView::from).collect(),
            owners_not_recorded: report.owners_not_recorded.clone(),
        }
    }
}

impl View for ApplyView {
    const KIND: &'static str = "TopologyApplied";
    const ITEMS: Option<&'static str> = Some("steps");
    fn text(&self, page: &mut Page) {
        let records = |step: &&StepReport| {
            step.object.name.starts_with(OWNERS_EXCHANGE)
                || (step.object.name.starts_with(KEPT_EXCHANGE)
                    && matches!(step.outcome, StepOutcome::Done | StepOutcome::AlreadySo))
        };
        for step in self.steps.iter().filter(|step| !records(step)) {
            let style = page.style;
            let (mark, note) = match step.outcome {
                StepOutcome::Done => (style.good("ok"), ""),
                StepOutcome::AlreadySo => (style.dim("ok"), " (was so already)"),
                StepOutcome::Failed => (style.bad("failed"), ""),
                StepOutcome::NotVerified => {
                    (style.bad("not so"), " (the broker agreed, and reading shows otherwise)")
                }
                StepOutcome::Skipped => (style.attention("skipped"), ""),
            };
            page.line(format!("  {mark} {}{note}", step.what));
            if let Some(moved) = &step.moved {
                page.line(format!("      {} moved", count(moved.back, "message")));
            }
            if let Some(error) = &step.error {
                page.line(format!("      {error}"));
            }
            if let Some(hint) = &step.hint {
                page.line(format!("      hint: {hint}"));
            }
        }
        if !self.residue.is_empty() {
            page.gap();
            page.line("still different:");
            for change in &self.residue {
                change.write(page);
            }
        }
        if let Some(why) = &self.owners_not_recorded {
            let word = page.style.attention("warning:");
            page.line(format!("{word} owners are not recorded: {why}"));
        }
        if !self.steps.is_empty() || !self.residue.is_empty() {
            page.gap();
        }
        let verdict = match (self.complete, self.changed, self.failed) {
            (true, 0, _) => "nothing to change".to_owned(),
            (true, changed, _) => format!("{} done", count(changed as u64, "change")),
            (false, changed, failed) => format!(
                "{} done, {} failed, {} still different",
                count(changed as u64, "change"),
                count(failed as u64, "step"),
                count(self.residue.len() as u64, "object")
            ),
        };
        page.line(format!("{}: {verdict}", self.broker.words()));
    }
}

/// How a broker differs from the files.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiffView {
    /// The broker.
    broker: BrokerView,
    /// Whether everything declared is there and equal.
    agrees: bool,
    /// Objects that are there and different.
    changed: Vec<DriftedView>,
    /// Objects that are declared and not there.
    missing: Vec<DriftedView>,
    /// Objects that are there and not declared.
    extra: Vec<ExtraView>,
    /// Why nothing could be compared.
    refusals: Vec<Blocker>,
}

/// One object that differs.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DriftedView {
    /// Which.
    object: ObjectRef,
    /// Its owner: `ours`, another owner's name, or null.
    owner: Option<String>,
    /// Old and new values.
    fields: Vec<FieldView>,
    /// `FILE:LINE:COLUMN` where it is declared.
    declared_at: Option<String>,
}

impl From<&Drifted> for DriftedView {
    fn from(drifted: &Drifted) -> Self {
        DriftedView {
            object: drifted.object.clone(),
            owner: owner_words(&drifted.owner),
            fields: drifted.fields.iter().map(FieldView::from).collect(),
            declared_at: drifted.declared_at.clone(),
        }
    }
}

impl From<&DriftReport> for DiffView {
    fn from(report: &DriftReport) -> Self {
        DiffView {
            broker: (&report.broker).into(),
            agrees: report.agrees(),
            changed: report.changed.iter().map(DriftedView::from).collect(),
            missing: report.missing.iter().map(DriftedView::from).collect(),
            extra: report.extra.iter().map(ExtraView::from).collect(),
            refusals: report.refusals.clone(),
        }
    }
}

impl View for DiffView {
    const KIND: &'static str = "TopologyDiff";
    fn text(&self, page: &mut Page) {
        let style = page.style;
        for refusal in &self.refusals {
            page.line(format!("{} {} [{}]", style.bad("refused:"), refusal.why, refusal.code));
            page.line(format!("  next: {}", refusal.next));
        }
        for object in &self.changed {
            page.line(format!("  {} {}", style.attention("changed"), object.object));
            for field in &object.fields {
                field.line(page);
            }
        }
        for object in &self.missing {
            page.line(format!("  {} {}", style.bad("missing"), object.object));
        }
        for extra in &self.extra {
            let owner = extra.owner.as_ref().map(|o| format!(" ({o})")).unwrap_or_default();
            page.line(format!("  {} {}{owner}", style.dim("extra"), extra.object));
        }
        page.gap();
        page.line(format!(
            "{}: {} changed, {} missing, {} extra",
            self.broker.words(),
            self.changed.len(),
            self.missing.len(),
            self.extra.len()
        ));
    }
}
