//! Asking before something is lost.
//!
//! Destructive work wants a yes: typed, or `--yes`. Any change in a protected context wants the
//! context's name: typed, or `--confirm NAME`; `--yes` is not enough there. Without a terminal nothing
//! is assumed: the run ends with status 4 and nothing is changed.

use super::error::CliError;
use super::session::Session;
use super::settings::Settings;

/// What is about to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// The change in a few words, such as `delete 2 queues`.
    pub what: String,
    /// What will be lost, line by line; empty when nothing is.
    pub losses: Vec<String>,
}

/// Returns when the person agrees.
///
/// # Errors
/// When they do not, or cannot be asked.
pub fn ask(session: &mut Session, settings: &Settings, deed: &Deed) -> Result<(), CliError> {
    if settings.protected.value {
        return ask_for_name(session, settings, deed);
    }
    if deed.losses.is_empty() || session.global.yes {
        return Ok(());
    }
    show(session, deed);
    if !session.can_ask() {
        return Err(CliError::consent(format!("cannot {} without consent", deed.what))
            .hint("nothing was changed; add `--yes` to agree"));
    }
    session.ui.prompt("Go on? [y/N] ");
    let answer = session.read_line()?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err(CliError::consent(format!("did not {}", deed.what)).hint("nothing was changed"))
    }
}

fn ask_for_name(session: &mut Session, settings: &Settings, deed: &Deed) -> Result<(), CliError> {
    let Some(name) = settings.context.as_ref().map(|context| context.value.clone()) else {
        return Err(CliError::consent(format!("cannot {}: the broker is protected", deed.what)));
    };
    let refused = |given: &str| {
        Err(CliError::consent(format!(
            "cannot {}: the context is `{name}`, and `{given}` was confirmed",
            deed.what
        ))
        .object(name.clone())
        .hint("nothing was changed"))
    };
    match session.global.confirm.clone() {
        Some(given) if given == name => return Ok(()),
        Some(given) => return refused(&given),
        None => {}
    }
    show(session, deed);
    if !session.can_ask() {
        return Err(CliError::consent(format!(
            "cannot {} in the protected context `{name}` without its name",
            deed.what
        ))
        .object(name.clone())
        .hint(format!("nothing was changed; add `--confirm {name}` to agree")));
    }
    session.ui.prompt(&format!("The context is protected. Type its name ({name}) to go on: "));
    let given = session.read_line()?;
    if given.trim() == name { Ok(()) } else { refused(given.trim()) }
}

fn show(session: &mut Session, deed: &Deed) {
    session.ui.say(&format!("About to {}:", deed.what));
    for loss in &deed.losses {
        session.ui.say(&format!("  {loss}"));
    }
}
