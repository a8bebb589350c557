//! The other broker or vhost that copies go to.

use std::sync::Arc;

use crate::base::id::QueueName;
use crate::base::url::{AmqpUrl, BrokerUrl};
use crate::broker::{Broker, BrokerIdentity};
use crate::deadletter::replay::spec::{Elsewhere, RunSpec};

use crate::cli::connect::Connector;
use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;
use crate::cli::session::Session;
use crate::cli::settings::{
    Origin, PartialSettings, Sourced, Surroundings, broker_of_flag, named_context,
};

/// `--to-broker` as it was given.
pub(super) fn of_url(url: &str, session: &mut Session) -> Result<Elsewhere, CliError> {
    let (url, warning) = broker_of_flag("--to-broker", url, &session.cwd)?;
    if let Some(warning) = warning {
        session.ui.warning(warning);
    }
    Ok(Elsewhere {
        broker: Some(url.value.to_string()),
        had_password: matches!(&url.value, BrokerUrl::Amqp(url) if url.password.is_some()),
        url: Some(url.value),
        ..Elsewhere::default()
    })
}

/// Takes the URL that somebody gives again, since its password was not written down.
pub(super) fn given_again(
    spec: &mut RunSpec,
    url: Option<&str>,
    session: &mut Session,
) -> Result<(), CliError> {
    let Some(url) = url else { return Ok(()) };
    let given = of_url(url, session)?;
    match &mut spec.elsewhere {
        Some(elsewhere) if elsewhere.broker == given.broker => {
            elsewhere.url = given.url;
            Ok(())
        }
        known => {
            let known = known.as_ref().and_then(|known| known.broker.clone());
            let known = known.unwrap_or_else(|| "no other URL".to_owned());
            let given = given.broker.unwrap_or_default();
            Err(CliError::usage(format!("--to-broker is {given}, and the copies go to {known}"))
                .object(known))
        }
    }
}

/// Leads to where the copies go; `None` when that is where the letters are.
pub(super) fn connector(
    spec: &RunSpec,
    own: &Connector,
    session: &mut Session,
) -> Result<Option<Connector>, CliError> {
    let Some(elsewhere) = &spec.elsewhere else { return Ok(None) };
    let settings = session.settings()?;
    let there = if let Some(context) = &elsewhere.context {
        let around = Surroundings { environment: &session.environment, cwd: &session.cwd };
        let layer = named_context(context, &session.global, around)?;
        let name = Sourced::new(context.clone(), Origin::Flag("--to-context"));
        own.with_settings(settings.with_broker(layer, Some(name)), session)?
    } else if let Some(shown) = &elsewhere.broker {
        let url = match &elsewhere.url {
            Some(url) => url.clone(),
            // What is written down shows that there was one.
            None => match broker_of_flag("--to-broker", shown, &session.cwd)?.0.value {
                BrokerUrl::Amqp(url) => BrokerUrl::Amqp(AmqpUrl { password: None, ..url }),
                url @ BrokerUrl::Embedded(_) => url,
            },
        };
        let url = with_own_password(url, own.url());
        if elsewhere.had_password && matches!(&url, BrokerUrl::Amqp(url) if url.password.is_none())
        {
            return Err(CliError::settings(format!(
                "the password of {shown} was not written down, and is needed to go on"
            ))
            .object(shown)
            .hint("give the URL again with `--to-broker URL`"));
        }
        let broker = Some(Sourced::new(url, Origin::Flag("--to-broker")));
        let layer = PartialSettings { broker, ..PartialSettings::default() };
        own.with_settings(settings.with_broker(layer, None), session).map_err(|error| {
            if error.code == code::SETTINGS {
                error.hint("make a context with a password_file, and name it with `--to-context`")
            } else {
                error
            }
        })?
    } else {
        own.clone()
    };
    Ok(Some(match &elsewhere.vhost {
        Some(vhost) => there.in_vhost(vhost.clone()),
        None => there,
    }))
}

/// The same login on the same server has the same password.
fn with_own_password(url: BrokerUrl, own: &BrokerUrl) -> BrokerUrl {
    let same = |a: &AmqpUrl, b: &AmqpUrl| {
        (&a.host, a.port, &a.username, a.tls) == (&b.host, b.port, &b.username, b.tls)
    };
    match (url, own) {
        (BrokerUrl::Amqp(url), BrokerUrl::Amqp(own))
            if url.password.is_none() && same(&url, own) =>
        {
            BrokerUrl::Amqp(AmqpUrl { password: own.password.clone(), ..url })
        }
        (url, _) => url,
    }
}

/// Connects to it.
pub(super) async fn connect(
    there: Option<&Connector>,
) -> Result<Option<Arc<dyn Broker>>, CliError> {
    match there {
        Some(there) => Ok(Some(there.connect().await?)),
        None => Ok(None),
    }
}

fn is_same(own: &BrokerIdentity, there: &BrokerIdentity) -> bool {
    own.cluster_name == there.cluster_name && own.vhost == there.vhost
}

/// Whether the copies really go to another broker or vhost.
pub(super) fn is_another(own: &dyn Broker, there: Option<&dyn Broker>) -> bool {
    there.is_some_and(|there| !is_same(own.identity(), there.identity()))
}

/// Sees to it that `there` is what was meant, and notes which it is.
pub(super) fn settle(
    spec: &mut RunSpec,
    queue: &QueueName,
    own: &dyn Broker,
    there: Option<&dyn Broker>,
) -> Result<(), CliError> {
    let (Some(elsewhere), Some(there)) = (&mut spec.elsewhere, there) else { return Ok(()) };
    let identity = there.identity();
    match &elsewhere.cluster {
        Some(cluster) if *cluster != identity.cluster_name => {
            let message = format!(
                "the copies are to go to cluster `{cluster}`, and {} is cluster `{}`",
                elsewhere.in_words(),
                identity.cluster_name
            );
            Err(CliError::new(code::WRONG_CLUSTER, ExitStatus::BadSettings, message)
                .object(&identity.cluster_name)
                .hint("nothing was touched; check where the context or the URL leads to"))
        }
        _ => {
            elsewhere.cluster = Some(identity.cluster_name.clone());
            if is_same(own.identity(), identity) {
                // It is no other place: then the queue itself is no target.
                RunSpec { elsewhere: None, ..spec.clone() }.check_plan(queue)?;
            }
            Ok(())
        }
    }
}
