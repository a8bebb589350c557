//! Who else gets the copies, as far as a stored scan tells.

use crate::base::id::QueueName;
use crate::broker::Broker;
use crate::deadletter::Scans;
use crate::deadletter::replay::audience::{Heard, warnings};
use crate::deadletter::replay::preflight::Around;
use crate::deadletter::replay::spec::RunSpec;
use crate::deadletter::replay::survey::{SurveyError, Targets, survey};
use crate::deadletter::store::{Scan, Scanned};

use crate::cli::error::CliError;
use crate::cli::settings::Settings;

use super::stored::look;

/// Who gets the copies, and what to warn of.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// Who; `None` when it is not known, or only the queue that is named.
    pub(super) heard: Option<Vec<Heard>>,
    /// What to warn of.
    pub(super) warnings: Vec<String>,
}

/// The newest scan of a queue that came to its end.
pub(super) async fn newest(
    queue: &QueueName,
    broker: &dyn Broker,
    settings: &Settings,
) -> Result<Option<(Scans, Scan)>, CliError> {
    let Some(scans) = look(settings).await? else { return Ok(None) };
    let identity = broker.identity();
    let of = Scanned {
        cluster: identity.cluster_name.clone(),
        vhost: identity.vhost.to_string(),
        queue: queue.clone(),
    };
    let newest = scans.scans(Some(&of))?.into_iter().find(|scan| scan.ended.is_some());
    Ok(newest.map(|scan| (scans, scan)))
}

impl From<SurveyError> for CliError {
    fn from(error: SurveyError) -> Self {
        match error {
            SurveyError::Spec(error) => error.into(),
            SurveyError::Find(error) => error.into(),
        }
    }
}

/// Who gets the copies of a run that goes through an exchange.
pub(super) async fn hear(
    queue: &QueueName,
    spec: &RunSpec,
    around: &Around,
    another: bool,
    broker: &dyn Broker,
    settings: &Settings,
) -> Result<Hearing, CliError> {
    // Whoever runs a plan has been told by it.
    if !spec.target()?.is_routed() || spec.planned.is_some() {
        return Ok(Hearing::default());
    }
    let unknown = |why: &str| Hearing {
        heard: None,
        warnings: vec![format!("who else gets the copies is not known: {why}")],
    };
    if spec.verb.reads_bundle() {
        return Ok(unknown("the letters of a bundle were not scanned"));
    }
    let Some(view) = around.of_targets(spec.elsewhere.is_some()) else {
        return Ok(unknown("the broker cannot be listed without its management API"));
    };
    let Some((scans, scan)) = newest(queue, broker, settings).await? else {
        return Ok(unknown(&format!(
            "queue {queue} was not scanned; `nexusctl dlq plan {queue}` with these options tells"
        )));
    };
    let targets = Targets { view: Some(view), elsewhere: another };
    let heard = survey(&scans, &scan, spec, targets)?.heard.unwrap_or_default();
    let mut warnings = warnings(&heard, (!another).then_some(queue));
    warnings.push(format!("who gets the copies is told by scan {} of {}", scan.id.0, scan.began));
    Ok(Hearing { heard: Some(heard), warnings })
}
