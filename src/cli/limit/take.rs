//! `limit try` and `limit wait`: tokens for a script.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::base::time::{HumanDuration, Timestamp};
use crate::resilience::LimitSettings;
use crate::resilience::limiter::{Priority, Shortage};

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;
use crate::cli::state;

use super::Limits;
use super::view::LimitTakeView;

/// How many tokens, for whom.
#[derive(Debug, Args)]
struct WishArgs {
    /// The limit
    name: String,
    /// Take so many at once
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// How important it is: critical, high, normal or low
    #[arg(long, value_name = "PRIORITY", default_value = "normal")]
    priority: Priority,
}

/// Arguments of `limit try`.
#[derive(Debug, Args)]
#[command(
    after_help = "Status 0 when they were taken, 75 when not: then the report says how long it takes \
    until they are there.\n\nExamples:\n  nexusctl limit try api\n  \
    nexusctl limit try api --priority high --tokens 5 -o json\n  nexusctl limit try api --dry-run"
)]
pub(super) struct TryArgs {
    #[command(flatten)]
    wish: WishArgs,
    /// Say whether they would be taken, and take nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `limit wait`.
#[derive(Debug, Args)]
#[command(
    after_help = "Status 0 when they were taken, 75 as soon as it is clear that they will not be there \
    in time. Nothing is kept for who waits, unless the priority is critical.\n\nExamples:\n  \
    nexusctl limit wait api\n  nexusctl limit wait api --deadline 5s --priority low"
)]
pub(super) struct WaitArgs {
    #[command(flatten)]
    wish: WishArgs,
    /// Wait no longer than this; without it as long as for any answer (--timeout)
    #[arg(long, value_name = "DURATION")]
    deadline: Option<HumanDuration>,
    /// Say how long it would take now, and take nothing
    #[arg(long)]
    dry_run: bool,
}

fn report(
    wish: &WishArgs,
    result: Result<(), Shortage>,
    dry_run: bool,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let retry_after_ms = match result {
        Ok(()) | Err(Shortage::Stopped) => None,
        Err(Shortage::Wait(wait)) => Some(state::ms(wait)),
        Err(Shortage::TooLarge { capacity }) => {
            let WishArgs { name, tokens, .. } = wish;
            let message = format!(
                "cannot take {tokens} tokens of `{name}`: it never holds more than {capacity}"
            );
            return Err(CliError::usage(message).object(name));
        }
    };
    session.ui.report(&LimitTakeView {
        name: wish.name.clone(),
        tokens: wish.tokens,
        priority: wish.priority.as_str(),
        taken: result.is_ok(),
        retry_after_ms,
        dry_run,
    })?;
    Ok(if result.is_ok() { ExitStatus::Done } else { ExitStatus::TryLater })
}

/// What would happen now, without taking anything.
fn foresee(
    wish: &WishArgs,
    limits: &Limits,
    settings: &LimitSettings,
    now: Timestamp,
) -> Result<(), Shortage> {
    let stored = limits.stored.get(&wish.name).map(|stored| stored.limiter.clone());
    settings.resume(stored, now).take(wish.tokens, wish.priority, now)
}

pub(super) fn try_now(args: TryArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let TryArgs { wish, dry_run } = args;
    let limits = Limits::of(session)?;
    let settings = limits.settings(&wish.name)?;
    let result = if dry_run {
        foresee(&wish, &limits, &settings, session.clock.now())
    } else {
        let clock = Arc::clone(&session.clock);
        let around = session.settings()?;
        session.drive(async {
            let state = state::open(&around).await?;
            Ok(state.take(&wish.name, &settings, wish.tokens, wish.priority, &clock).await?)
        })?
    };
    report(&wish, result, dry_run, session)
}

pub(super) fn wait(args: WaitArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let WaitArgs { wish, deadline, dry_run } = args;
    let limits = Limits::of(session)?;
    let settings = limits.settings(&wish.name)?;
    if dry_run {
        let result = foresee(&wish, &limits, &settings, session.clock.now());
        return report(&wish, result, true, session);
    }
    let clock = Arc::clone(&session.clock);
    let around = session.settings()?;
    let patience: Duration = deadline.map_or_else(|| around.timeout(), |deadline| deadline.0);
    let deadline = Some(clock.now().after(patience));
    let result = session.drive(unless_stopped(&session.stop, async {
        let state = state::open(&around).await?;
        let WishArgs { name, tokens, priority } = &wish;
        Ok(state.acquire(name, &settings, *tokens, *priority, &clock, deadline).await?)
    }))?;
    report(&wish, result, false, session)
}
