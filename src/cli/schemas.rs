//! Every schema we publish: of the documents we print and of the files that people write.

use serde_json::Value;

use crate::deadletter::labels::LabelsFile;
use crate::deadletter::replay::mapping::ReplayMapSpec;
use crate::project::spec::ProjectFile;
use crate::topology::explain::QueueExplanation;
use crate::topology::route::RouteReport;
use crate::topology::spec::TopologySpec;

use super::circuit::{CircuitChangesView, CircuitListView, CircuitTryView, CircuitView};
use super::consume::{ConsumePlanView, ConsumeView, MessagesView};
use super::context::{
    ContextListView, ContextValidationView, ContextView, CurrentContextView, EffectiveSettingsView,
};
use super::dlq::{
    AuditHeadView, AuditTrailView, AuditVerificationView, DeadLetterAlertView, DeadLetterAuditView,
    DeadLetterDiffView, DeadLetterGroupsView, DeadLetterLabelView, DeadLetterPlan,
    DeadLetterQueuesView, DeadLetterScanView, DeadLetterScansView, DeadLetterView,
    DeadLetterWatchView, DeadLettersView, IncidentExportView, IncidentView, ReplayRunView,
    ReplayRunsView, ReplayView,
};
use super::error::ErrorView;
use super::explain::{ExplainListView, ExplainView, RetryTableView};
use super::init::InitView;
use super::journal::{JournalReplayView, JournalView};
use super::limit::{LimitListView, LimitTakeView, LimitView};
use super::output::{View, schema};
use super::play::PlayView;
use super::publish::PublishView;
use super::queue::{PeekPlanView, PurgeView, QueueListView, QueueView, TransferView};
use super::quickstart::{QuickstartPlanView, QuickstartView};
use super::request::RequestView;
use super::sequence::{SequenceListView, SequenceView};
use super::tap::{TapPlanView, TapView};
use super::topology::{ApplyView, DiffView, FindingsView, GraphView, PlanView};
use super::version::VersionView;
use super::worker::{WorkPlanView, WorkView};

/// The schema of every document we print, by its kind.
pub fn output() -> Vec<(&'static str, Value)> {
    fn of<V: View>() -> (&'static str, Value) {
        (V::KIND, schema::<V>())
    }
    vec![
        of::<ApplyView>(),
        of::<AuditHeadView>(),
        of::<AuditTrailView>(),
        of::<AuditVerificationView>(),
        of::<CircuitChangesView>(),
        of::<CircuitListView>(),
        of::<CircuitTryView>(),
        of::<CircuitView>(),
        of::<ConsumePlanView>(),
        of::<ConsumeView>(),
        of::<ContextListView>(),
        of::<ContextValidationView>(),
        of::<ContextView>(),
        of::<CurrentContextView>(),
        of::<DeadLetterAlertView>(),
        of::<DeadLetterAuditView>(),
        of::<DeadLetterDiffView>(),
        of::<DeadLetterGroupsView>(),
        of::<DeadLetterLabelView>(),
        of::<DeadLetterPlan>(),
        of::<DeadLetterQueuesView>(),
        of::<DeadLetterScanView>(),
        of::<DeadLetterScansView>(),
        of::<DeadLetterView>(),
        of::<DeadLetterWatchView>(),
        of::<DeadLettersView>(),
        of::<DiffView>(),
        of::<EffectiveSettingsView>(),
        of::<ErrorView>(),
        of::<ExplainListView>(),
        of::<ExplainView>(),
        of::<FindingsView>(),
        of::<GraphView>(),
        of::<IncidentExportView>(),
        of::<IncidentView>(),
        of::<InitView>(),
        of::<LimitListView>(),
        of::<LimitTakeView>(),
        of::<LimitView>(),
        of::<JournalReplayView>(),
        of::<JournalView>(),
        of::<MessagesView>(),
        of::<PeekPlanView>(),
        of::<PlanView>(),
        of::<PlayView>(),
        of::<PublishView>(),
        of::<PurgeView>(),
        of::<QueueExplanation>(),
        of::<QueueListView>(),
        of::<QueueView>(),
        of::<QuickstartPlanView>(),
        of::<QuickstartView>(),
        of::<ReplayRunView>(),
        of::<ReplayRunsView>(),
        of::<ReplayView>(),
        of::<RequestView>(),
        of::<RetryTableView>(),
        of::<RouteReport>(),
        of::<TransferView>(),
        of::<SequenceListView>(),
        of::<SequenceView>(),
        of::<TapPlanView>(),
        of::<TapView>(),
        of::<VersionView>(),
        of::<WorkPlanView>(),
        of::<WorkView>(),
    ]
}

/// The schema of every kind of file that people write.
pub fn files() -> Vec<(&'static str, Value)> {
    vec![
        ("DeadLetterLabels", schemars::schema_for!(LabelsFile).to_value()),
        ("Project", schemars::schema_for!(ProjectFile).to_value()),
        ("ReplayMap", schemars::schema_for!(ReplayMapSpec).to_value()),
        ("Topology", schemars::schema_for!(TopologySpec).to_value()),
    ]
}
