//! Every schema we publish: of the documents we print and of the files that people write.

use serde_json::Value;

use crate::project::spec::ProjectFile;

use super::context::{ContextListView, ContextView, CurrentContextView, EffectiveSettingsView};
use super::error::ErrorView;
use super::explain::{ExplainListView, ExplainView};
use super::output::{View, schema};
use super::version::VersionView;

/// The schema of every document we print, by its kind.
pub fn output() -> Vec<(&'static str, Value)> {
    fn of<V: View>() -> (&'static str, Value) {
        (V::KIND, schema::<V>())
    }
    vec![
        of::<ContextListView>(),
        of::<ContextView>(),
        of::<CurrentContextView>(),
        of::<EffectiveSettingsView>(),
        of::<ErrorView>(),
        of::<ExplainListView>(),
        of::<ExplainView>(),
        of::<VersionView>(),
    ]
}

/// The schema of every kind of file that people write.
pub fn files() -> Vec<(&'static str, Value)> {
    vec![("Project", schemars::schema_for!(ProjectFile).to_value())]
}
