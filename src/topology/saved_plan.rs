//! A plan in a file: what was shown is what will be run, on the broker it was made for.
//!
//! Pure. The content hash tells an edited file from a whole one; it is no signature.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fingerprint::Fingerprint;
use super::object::ObjectRef;
use super::observed::{Aspect, Observed};
use super::plan::Plan;

/// The format this program writes and the newest it reads.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    format: u32,
    tool_version: String,
    plan: Value,
    content_hash: Fingerprint,
}

/// Why a saved plan is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SavedPlanError {
    /// It is no JSON of this shape.
    #[error("this is no saved plan: {0}")]
    Malformed(String),
    /// It was written by another kind of program or a newer one.
    #[error("this plan has {what} `{found}`, and this program reads `{known}`")]
    Foreign {
        /// Which field.
        what: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        known: String,
    },
    /// Its content does not fit its hash.
    #[error("this plan was changed after it was made: its content hash does not fit")]
    Edited,
}

/// An object that is not what it was when the plan was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stale {
    /// Which.
    pub object: ObjectRef,
    /// How it differs: `it was removed`, `it was made`, `it was changed`, `its bindings were changed`.
    pub how: String,
}

/// The text of a plan file. `tool_version` is what wrote it.
pub fn save(plan: &Plan, tool_version: &str) -> Result<String, SavedPlanError> {
    let malformed = |error: serde_json::Error| SavedPlanError::Malformed(error.to_string());
    let value = serde_json::to_value(plan).map_err(malformed)?;
    let file = File {
        api_version: "nexus/v1".to_owned(),
        kind: "Plan".to_owned(),
        format: FORMAT,
        tool_version: tool_version.to_owned(),
        content_hash: content_hash(tool_version, &value),
        plan: value,
    };
    let mut text = serde_json::to_string_pretty(&file).map_err(malformed)?;
    text.push('\n');
    Ok(text)
}

fn content_hash(tool_version: &str, plan: &Value) -> Fingerprint {
    Fingerprint::of(&serde_json::json!([FORMAT, tool_version, plan]))
}

/// Reads a plan file.
pub fn load(text: &str) -> Result<Plan, SavedPlanError> {
    let malformed = |error: serde_json::Error| SavedPlanError::Malformed(error.to_string());
    let value: Value = serde_json::from_str(text).map_err(malformed)?;
    let says = |field: &'static str, known: &str| {
        let found = match value.get(field) {
            None => return Err(SavedPlanError::Malformed(format!("`{field}` is missing"))),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        if found == known {
            Ok(())
        } else {
            Err(SavedPlanError::Foreign { what: field, found, known: known.to_owned() })
        }
    };
    says("apiVersion", "nexus/v1")?;
    says("kind", "Plan")?;
    says("format", &FORMAT.to_string())?;
    let file = File::deserialize(&value).map_err(malformed)?;
    if content_hash(&file.tool_version, &file.plan) != file.content_hash {
        return Err(SavedPlanError::Edited);
    }
    serde_json::from_value(file.plan).map_err(malformed)
}

/// What has changed on the broker since `plan` was made.
pub fn stale(plan: &Plan, observed: &Observed<'_>) -> Vec<Stale> {
    let mut found: Vec<Stale> = Vec::new();
    // Bindings are found by what they are, not by searching all of them for each.
    let bindings: std::collections::HashMap<String, Fingerprint> = observed
        .snapshot
        .bindings
        .iter()
        .map(|binding| {
            let print = Fingerprint::of(&super::fingerprint::canonical_binding(binding));
            (ObjectRef::binding(binding).name, print)
        })
        .collect();
    for seen in &plan.seen {
        let is = if seen.object.kind == super::object::ObjectKind::Binding {
            bindings.get(&seen.object.name).cloned()
        } else {
            observed.fingerprint(&seen.object, seen.aspect)
        };
        if is == seen.fingerprint {
            continue;
        }
        let how = match (&seen.fingerprint, &is, seen.aspect) {
            (_, _, Aspect::Bindings) => "its bindings were changed",
            (Some(_), None, _) => "it was removed",
            (None, Some(_), _) => "it was made",
            _ => "it was changed",
        };
        found.push(Stale { object: seen.object.clone(), how: how.to_owned() });
    }
    found
}
