//! The management API: the few calls that AMQP has no word for, read leniently.
//!
//! `rabbitmq_http_client` would do most of this, but it is written for 3.13 and later and decodes
//! strictly, so one value of an unexpected shape fails the whole list on the versions we support;
//! hence this small client.
//!
//! Every call ends within the time-out, and no answer may be larger than [`LARGEST_ANSWER`].

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::base::id::{QueueName, VhostName};
use crate::base::secret::Secret;
use crate::base::time::HumanDuration;
use crate::base::url::ManagementUrl;
use crate::broker::change::{Change, Changed};
use crate::broker::definition::PolicyDefinition;
use crate::broker::error::{BrokerError, ErrorKind};
use crate::broker::snapshot::{Permissions, QueueDetails, QueueState, Snapshot, VhostState};
use crate::broker::version::{BrokerIdentity, Capabilities, Product};
use crate::message::FieldTable;

use super::listing;
use super::tls::{self, TlsOptions};

/// Bytes that one answer may have.
const LARGEST_ANSWER: usize = 64 << 20;

/// Queues in one page.
const PAGE: usize = 500;

/// What a broker tells of its queues without gathering statistics.
const COUNTS: &str = "disable_stats=true&enable_queue_totals=true";

/// The columns that are read from the list with statistics.
const STATISTICS: &str = "columns=name,type,durable,auto_delete,exclusive,arguments,state,node,\
    leader,members,online,messages_ready,messages_unacknowledged,consumers,policy,operator_policy,\
    message_bytes,memory,head_message_timestamp,message_stats.publish,message_stats.deliver_get,\
    message_stats.ack,message_stats.redeliver";

/// A client of one vhost.
pub(super) struct Management {
    url: ManagementUrl,
    user: String,
    password: Secret,
    amqp_user: String,
    vhost: VhostName,
    tls: TlsOptions,
    timeout: Duration,
    // Made at the first call: publishing a message needs none of this.
    client: OnceLock<Client>,
}

impl std::fmt::Debug for Management {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Management").field("url", &self.url).finish_non_exhaustive()
    }
}

/// A refused call: the status, and the reason in the broker's words.
struct Refusal {
    status: u16,
    reason: String,
}

/// Finds the addresses of another host than the one that is asked for: the URL names what the
/// certificate is for, and this is where its server really is.
struct Elsewhere {
    host: String,
}

impl Resolve for Elsewhere {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.host.clone();
        Box::pin(async move {
            // The port is the URL's.
            let found: Vec<_> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

enum Failure {
    /// No answer of the API, or none that can be used.
    Transport(BrokerError),
    Refused(Refusal),
}

impl Management {
    pub(super) fn new(
        url: ManagementUrl,
        amqp_user: &str,
        amqp_password: &Secret,
        vhost: VhostName,
        tls: TlsOptions,
        timeout: Duration,
    ) -> Management {
        let (user, password) = url
            .credentials
            .clone()
            .unwrap_or_else(|| (amqp_user.to_owned(), amqp_password.clone()));
        Management {
            url,
            user,
            password,
            amqp_user: amqp_user.to_owned(),
            vhost,
            tls,
            timeout,
            client: OnceLock::new(),
        }
    }

    /// There is no management API to ask.
    pub(super) fn missing(attempted: &str) -> BrokerError {
        BrokerError::new(
            ErrorKind::Unsupported,
            attempted,
            "AMQP cannot do it, and no management URL is set",
        )
        .hint("set management_url (often http://HOST:15672); the broker needs rabbitmq_management")
    }

    fn client(&self, attempted: &str) -> Result<&Client, BrokerError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let invalid = |cause: String| BrokerError::new(ErrorKind::Invalid, attempted, cause);
        // The client wants a TLS configuration even for plain HTTP; authorities are read only when
        // they are needed.
        let config = if self.url.tls {
            tls::client_config(attempted, &self.tls)?
        } else {
            tls::trusting_nobody(attempted)?
        };
        let builder = Client::builder();
        let builder = match self.server_name() {
            Some(name) if name.parse::<IpAddr>().is_ok() => {
                let cause = format!("tls.server_name is `{name}`, and HTTPS asks for names only");
                return Err(invalid(cause).hint(
                    "name the management API by this address in management_url, and leave \
                     tls.server_name out",
                ));
            }
            Some(_) => builder.dns_resolver(Arc::new(Elsewhere { host: self.url.host.clone() })),
            None => builder,
        };
        let client = builder
            .tls_backend_preconfigured(Arc::unwrap_or_clone(config))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(self.timeout)
            .build()
            .map_err(|error| invalid(format!("HTTP client: {error}")))?;
        Ok(self.client.get_or_init(|| client))
    }

    /// The name that the certificate has to have, when it is another than the URL's host.
    fn server_name(&self) -> Option<&str> {
        self.tls.server_name.as_deref().filter(|name| self.url.tls && *name != self.url.host)
    }

    /// Host and port of the URL.
    fn host(&self) -> String {
        let base = ManagementUrl { prefix: String::new(), ..self.url.clone() }.base();
        base.split_once("://").map_or_else(String::new, |(_, host)| host.to_owned())
    }

    /// One call: the parsed answer, `Null` when it is empty.
    async fn call(
        &self,
        attempted: &str,
        method: Method,
        segments: &[&str],
        query: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let client = self.client(attempted).map_err(Failure::Transport)?;
        let mut request = match self.server_name() {
            None => client.request(method, self.url.endpoint(segments) + query),
            Some(name) => {
                let asked = ManagementUrl { host: name.to_owned(), ..self.url.clone() };
                // What stands between may tell its sites apart by this header.
                client.request(method, asked.endpoint(segments) + query).header("host", self.host())
            }
        }
        .basic_auth(&self.user, Some(self.password.reveal()));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let exchange = async {
            let response =
                request.send().await.map_err(|error| self.unreachable(attempted, &error))?;
            let status = response.status();
            let answer = self.read(attempted, response).await?;
            Ok::<_, BrokerError>((status, answer))
        };
        let (status, answer) = timeout(self.timeout, exchange)
            .await
            .map_err(|_| Failure::Transport(self.late(attempted)))?
            .map_err(Failure::Transport)?;
        if status.is_redirection() {
            let cause = format!("the management URL answers with a redirection ({status})");
            return Err(Failure::Transport(self.strange(
                attempted,
                cause,
                "set management_url to where it leads",
            )));
        }
        if status.is_success() {
            if answer.is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_slice(&answer)
                .map_err(|_| Failure::Transport(self.no_json(attempted, &answer)));
        }
        let parsed: Value = serde_json::from_slice(&answer).unwrap_or(Value::Null);
        if parsed.is_null() && status == StatusCode::NOT_FOUND && looks_like_html(&answer) {
            return Err(Failure::Transport(self.no_json(attempted, &answer)));
        }
        let reason = listing::text(&parsed, "reason")
            .or_else(|| listing::text(&parsed, "error"))
            .map_or_else(|| status.to_string(), unescape);
        Err(Failure::Refused(Refusal { status: status.as_u16(), reason }))
    }

    async fn read(&self, attempted: &str, mut response: Response) -> Result<Vec<u8>, BrokerError> {
        let mut body = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| self.unreachable(attempted, &error))?
        {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                let limit = crate::base::size::ByteSize(LARGEST_ANSWER as u64);
                let cause = format!("the management API's answer is larger than {limit}");
                return Err(BrokerError::new(ErrorKind::Refused, attempted, cause));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn late(&self, attempted: &str) -> BrokerError {
        let time = HumanDuration(self.timeout);
        let cause =
            format!("the management API at {} did not answer within {time}", self.url.base());
        BrokerError::new(ErrorKind::TimedOut, attempted, cause)
            .hint("the broker may hang or be overloaded; raise --timeout if it is slow")
    }

    fn strange(&self, attempted: &str, cause: String, hint: &str) -> BrokerError {
        BrokerError::new(ErrorKind::Unreachable, attempted, cause).hint(hint)
    }

    fn no_json(&self, attempted: &str, answer: &[u8]) -> BrokerError {
        let base = self.url.base();
        let what = if looks_like_html(answer) { "a web page" } else { "no JSON" };
        self.strange(
            attempted,
            format!("{base} answers with {what}: this is not the management API"),
            "check port and path: it listens on 15672, a proxy may put a path before /api",
        )
    }

    fn unreachable(&self, attempted: &str, error: &reqwest::Error) -> BrokerError {
        let base = self.url.base();
        let causes: Vec<String> =
            std::iter::successors(std::error::Error::source(error), |error| error.source())
                .map(ToString::to_string)
                .collect();
        // The innermost says what happened; the URL in the outermost is ours.
        let cause = causes.last().cloned().unwrap_or_else(|| "no answer".to_owned());
        let hint = if causes.iter().any(|cause| cause.contains("Connection refused")) {
            "is the plugin rabbitmq_management enabled, and the port right (15672)?"
        } else if causes.iter().any(|cause| cause.contains("invalid HTTP")) {
            "this may be the AMQP port; the management API listens on 15672"
        } else if causes.iter().any(|cause| cause.contains("certificate")) {
            "tls.ca has to be the authority that signed it, and it has to be for the host in \
             management_url or for tls.server_name"
        } else {
            "check management_url"
        };
        let cause = format!("the management API at {base} cannot be reached: {cause}");
        BrokerError::new(ErrorKind::Unreachable, attempted, cause).hint(hint)
    }

    async fn get(&self, attempted: &str, segments: &[&str], query: &str) -> Result<Value, Failure> {
        self.call(attempted, Method::GET, segments, query, None).await
    }

    /// What a refusal means. A 401 may be a wrong login or a right one that may not do this, which
    /// only asking who we are tells.
    async fn explain(&self, attempted: &str, failure: Failure) -> BrokerError {
        let Refusal { status, reason } = match failure {
            Failure::Transport(error) => return error,
            Failure::Refused(refusal) => refusal,
        };
        let vhost = self.vhost.as_str();
        let error = |kind, cause: String| {
            BrokerError::new(kind, attempted, cause).reply(status, reason.clone())
        };
        match status {
            401 | 403 => self.explain_access(attempted, status, &reason).await,
            400 | 404 | 405
                if vhost.contains('/') && self.lists_vhost(attempted).await == Some(true) =>
            {
                error(
                    ErrorKind::Unreachable,
                    "something between here and the broker decodes %2F in the path".to_owned(),
                )
                .hint(
                    "a proxy in front of the management API has to hand the path on as it is \
                     (nginx: proxy_pass without a path; Apache: AllowEncodedSlashes NoDecode)",
                )
            }
            404 => match self.lists_vhost(attempted).await {
                Some(true) => error(ErrorKind::NotFound, reason.clone()),
                Some(false) => {
                    error(ErrorKind::NoSuchVhost, format!("the vhost `{vhost}` does not exist"))
                        .hint("check its name, or ask an administrator to make it")
                }
                None => {
                    let base = self.url.base();
                    error(
                        ErrorKind::Unreachable,
                        format!("there is no management API below {base}"),
                    )
                    .hint("check the path of management_url: what it needs stands before /api")
                }
            },
            400 => error(ErrorKind::Invalid, reason.clone()),
            405 => error(ErrorKind::Unsupported, reason.clone()),
            _ => {
                error(ErrorKind::Refused, format!("the management API answered {status}: {reason}"))
            }
        }
    }

    async fn explain_access(&self, attempted: &str, status: u16, reason: &str) -> BrokerError {
        let user = &self.user;
        let error = |cause: String, hint: String| {
            BrokerError::new(ErrorKind::AccessRefused, attempted, cause)
                .reply(status, reason)
                .hint(hint)
        };
        match self.get(attempted, &["whoami"], "").await {
            Ok(whoami) => {
                let tags = match whoami.get("tags") {
                    Some(Value::Array(tags)) => {
                        tags.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
                    }
                    Some(Value::String(tags)) => tags.clone(),
                    _ => String::new(),
                };
                let hint = if reason.contains("virtual host") {
                    format!("grant `{user}` permissions in vhost `{}`", self.vhost)
                } else {
                    "policies need the tag policymaker, limits and vhost settings administrator"
                        .to_owned()
                };
                error(format!("the login `{user}` (tags: {tags}) may not do this: {reason}"), hint)
            }
            Err(Failure::Refused(refusal)) if refusal.reason.contains("Not management") => error(
                format!("the login `{user}` may not use the management API"),
                format!("give it the tag: rabbitmqctl set_user_tags {user} management"),
            ),
            Err(Failure::Refused(_)) => error(
                format!("the management API refused the login `{user}`"),
                "check user name and password; they may differ from AMQP's".to_owned(),
            ),
            Err(Failure::Transport(error)) => error,
        }
    }

    /// Whether the list of vhosts, which needs no escaping, has ours; `None` when it cannot be read.
    async fn lists_vhost(&self, attempted: &str) -> Option<bool> {
        let list = self.get(attempted, &["vhosts"], "").await.ok()?;
        let vhost = self.vhost.as_str();
        Some(listing::entries(list).iter().any(|entry| listing::text(entry, "name") == Some(vhost)))
    }

    /// The vhosts that the login may see, as far as they can be read.
    pub(super) async fn vhosts(&self) -> Option<Vec<String>> {
        let list = self.get("list vhosts", &["vhosts"], "").await.ok()?;
        let entries = listing::entries(list);
        Some(entries.iter().filter_map(|v| listing::text(v, "name")).map(str::to_owned).collect())
    }

    async fn list(&self, attempted: &str, what: &str, query: &str) -> Result<Vec<Value>, Failure> {
        self.get(attempted, &[what, self.vhost.as_str()], query).await.map(listing::entries)
    }

    /// All queues with their counts.
    async fn queues(&self, attempted: &str) -> Result<Vec<QueueState>, Failure> {
        let mut queues = self.all_queues(attempted, COUNTS, listing::queue, |q| q).await?;
        if queues.iter().any(|queue| queue.ready.is_none() || queue.unacked.is_none()) {
            self.add_counts(attempted, &mut queues).await?;
        }
        Ok(queues)
    }

    /// All queues, sorted by name. In one answer when it is not too large: for each page the broker
    /// lists all queues again, which made 10,000 of them take 31 s instead of 3 s.
    async fn all_queues<T>(
        &self,
        attempted: &str,
        wanted: &str,
        read: fn(&Value) -> Option<T>,
        state: fn(&T) -> &QueueState,
    ) -> Result<Vec<T>, Failure> {
        match self.list(attempted, "queues", &format!("?{wanted}")).await {
            Ok(entries) => {
                let mut queues: Vec<T> = entries.iter().filter_map(read).collect();
                queues.sort_by(|a, b| state(a).definition.name.cmp(&state(b).definition.name));
                Ok(queues)
            }
            Err(Failure::Transport(error)) if error.kind == ErrorKind::Refused => {
                self.all_pages(attempted, wanted, read, state).await
            }
            Err(failure) => Err(failure),
        }
    }

    /// All queues, page by page, sorted by name. When the number of queues changes meanwhile, a queue
    /// may have moved from one page to the one before; then all is read again.
    async fn all_pages<T>(
        &self,
        attempted: &str,
        wanted: &str,
        read: fn(&Value) -> Option<T>,
        state: fn(&T) -> &QueueState,
    ) -> Result<Vec<T>, Failure> {
        const TRIES: usize = 3;
        let name = |queue: &T| state(queue).definition.name.clone();
        let mut queues = Vec::new();
        for _ in 0..TRIES {
            queues.clear();
            let mut page = 1;
            let mut total = None;
            let mut steady = true;
            loop {
                let query = format!("?{wanted}&page={page}&page_size={PAGE}");
                let answer = self.get(attempted, &["queues", self.vhost.as_str()], &query).await?;
                let pages = listing::pages(&answer);
                queues.extend(listing::entries(answer).iter().filter_map(read));
                let Some((count, all)) = pages else { break };
                steady &= total.replace(all).is_none_or(|before| before == all);
                if page >= count {
                    break;
                }
                page += 1;
            }
            queues.sort_by_key(name);
            queues.dedup_by(|a, b| state(a).definition.name == state(b).definition.name);
            let complete = total.is_none_or(|total| usize::try_from(total) == Ok(queues.len()));
            if steady && complete {
                break;
            }
        }
        Ok(queues)
    }

    /// The queues with what is told cheaply, or with everything.
    pub(super) async fn list_queues(
        &self,
        statistics: bool,
    ) -> Result<Vec<QueueDetails>, BrokerError> {
        let attempted = format!("list the queues of vhost `{}`", self.vhost);
        match self.details_of_all(&attempted, statistics).await {
            Ok(queues) => Ok(queues),
            Err(failure) => Err(self.explain(&attempted, failure).await),
        }
    }

    async fn details_of_all(
        &self,
        attempted: &str,
        statistics: bool,
    ) -> Result<Vec<QueueDetails>, Failure> {
        let read = listing::queue_details;
        if statistics {
            return self.all_queues(attempted, STATISTICS, read, |q| &q.state).await;
        }
        let (queues, consumers) = tokio::join!(
            self.all_queues(attempted, COUNTS, read, |q| &q.state),
            self.consumers(attempted)
        );
        let (mut queues, consumers) = (queues?, consumers?);
        // A stream is left out of the totals, and a version may know none.
        let uncounted = |queue: &QueueDetails| queue.state.ready.is_none();
        if queues.iter().any(uncounted) {
            let mut states: Vec<QueueState> = queues.iter().map(|q| q.state.clone()).collect();
            self.add_counts(attempted, &mut states).await?;
            for (queue, state) in queues.iter_mut().zip(states) {
                queue.state = state;
            }
        }
        if let Some(consumers) = consumers {
            for queue in &mut queues {
                let state = &mut queue.state;
                let count = consumers.get(state.definition.name.as_str()).copied().unwrap_or(0);
                state.consumers = Some(state.consumers.unwrap_or(0).max(count));
            }
        }
        Ok(queues)
    }

    /// Everything about one queue; `None` when it does not exist.
    pub(super) async fn queue_details(
        &self,
        queue: &QueueName,
    ) -> Result<Option<QueueDetails>, BrokerError> {
        let attempted = format!("look at queue `{queue}`");
        Ok(self.one_queue(&attempted, queue).await?.as_ref().and_then(listing::queue_details))
    }

    async fn one_queue(
        &self,
        attempted: &str,
        queue: &QueueName,
    ) -> Result<Option<Value>, BrokerError> {
        let segments = ["queues", self.vhost.as_str(), queue.as_str()];
        match self.get(attempted, &segments, "").await {
            Ok(value) => Ok(Some(value)),
            Err(Failure::Refused(refusal)) if refusal.status == 404 => Ok(None),
            Err(failure) => Err(self.explain(attempted, failure).await),
        }
    }

    /// Counts from the list with statistics, for versions and settings without the short way.
    async fn add_counts(&self, attempted: &str, queues: &mut [QueueState]) -> Result<(), Failure> {
        let query = "?columns=name,messages_ready,messages_unacknowledged,consumers";
        let list = self.list(attempted, "queues", query).await?;
        for counted in list.iter().filter_map(listing::queue) {
            let name = &counted.definition.name;
            let found = queues.binary_search_by(|queue| queue.definition.name.cmp(name));
            if let Ok(index) = found {
                let queue = &mut queues[index];
                queue.ready = queue.ready.or(counted.ready);
                queue.unacked = queue.unacked.or(counted.unacked);
                queue.consumers = queue.consumers.or(counted.consumers);
            }
        }
        Ok(())
    }

    /// `None` when the vhost is not listed: it does not exist, or the login may not see it.
    async fn vhost_state(&self, attempted: &str) -> Result<Option<VhostState>, Failure> {
        // One vhost alone needs an administrator; the list does not.
        let list = listing::entries(self.get(attempted, &["vhosts"], "").await?);
        let name = self.vhost.as_str();
        let entry = list.iter().find(|entry| listing::text(entry, "name") == Some(name));
        Ok(entry.map(listing::vhost))
    }

    async fn permissions(&self, attempted: &str) -> Result<Option<Permissions>, Failure> {
        let user = &self.amqp_user;
        match self.get(attempted, &["permissions", self.vhost.as_str(), user], "").await {
            Ok(value) => Ok(listing::permissions(&value, user)),
            // Only an administrator is told; nobody else has to know.
            Err(Failure::Refused(_)) => Ok(None),
            Err(transport) => Err(transport),
        }
    }

    /// Everything in the vhost, the lists at the same time.
    pub(super) async fn inspect(&self, identity: BrokerIdentity) -> Result<Snapshot, BrokerError> {
        let attempted = format!("list vhost `{}`", self.vhost);
        let a = attempted.as_str();
        let all = async {
            tokio::try_join!(
                self.vhost_state(a),
                self.list(a, "vhost-limits", ""),
                self.list(a, "exchanges", "?disable_stats=true"),
                self.queues(a),
                self.list(a, "bindings", ""),
                self.list(a, "policies", ""),
                self.list(a, "operator-policies", ""),
                self.permissions(a),
                self.consumers(a),
            )
        };
        let listed = timeout(self.timeout, all).await.map_err(|_| self.late(a))?;
        let (
            vhost,
            limits,
            exchanges,
            mut queues,
            bindings,
            policies,
            operator,
            permissions,
            consumers,
        ) = match listed {
            Ok(listed) => listed,
            Err(failure) => return Err(self.explain(a, failure).await),
        };
        // What a login may not see is refused by the other lists, with the reason; so this vhost went
        // while we looked.
        let Some(mut vhost) = vhost else {
            let gone = Refusal { status: 404, reason: "Not Found".to_owned() };
            return Err(self.explain(a, Failure::Refused(gone)).await);
        };
        vhost.limits = listing::limits(&limits, self.vhost.as_str());
        if let Some(consumers) = consumers {
            for queue in &mut queues {
                let count = consumers.get(queue.definition.name.as_str()).copied().unwrap_or(0);
                queue.consumers = Some(queue.consumers.unwrap_or(0).max(count));
            }
        }
        Ok(Snapshot {
            identity,
            vhost,
            exchanges: exchanges.iter().filter_map(listing::exchange).collect(),
            queues,
            bindings: bindings.iter().filter_map(listing::binding).collect(),
            policies: policies.iter().filter_map(listing::policy).collect(),
            operator_policies: operator.iter().filter_map(listing::policy).collect(),
            permissions,
        })
    }

    /// Consumers per queue, which the short list of queues does not count.
    async fn consumers(
        &self,
        attempted: &str,
    ) -> Result<Option<std::collections::HashMap<String, u64>>, Failure> {
        match self.list(attempted, "consumers", "").await {
            Ok(list) => Ok(Some(listing::consumers(&list))),
            Err(Failure::Refused(_)) => Ok(None),
            Err(transport) => Err(transport),
        }
    }

    /// One queue with its counts; `None` when it does not exist.
    pub(super) async fn queue(&self, queue: &QueueName) -> Result<Option<QueueState>, BrokerError> {
        let attempted = format!("look at queue `{queue}`");
        Ok(self.one_queue(&attempted, queue).await?.as_ref().and_then(listing::queue))
    }

    /// The arguments of a queue, as far as they can be read.
    pub(super) async fn queue_arguments(&self, queue: &QueueName) -> Option<FieldTable> {
        self.queue(queue).await.ok().flatten().map(|queue| queue.definition.arguments)
    }

    /// The cluster's identity as the management API tells it.
    pub(super) async fn identity(&self) -> Result<BrokerIdentity, BrokerError> {
        let attempted = "read the broker's version";
        match self.get(attempted, &["overview"], "?disable_stats=true").await {
            Ok(overview) => {
                let version = listing::text(&overview, "rabbitmq_version")
                    .or_else(|| listing::text(&overview, "management_version"))
                    .and_then(|version| version.parse().ok());
                let Some(version) = version else {
                    return Err(self.no_json(attempted, b""));
                };
                Ok(BrokerIdentity {
                    product: Product::RabbitMq,
                    version,
                    cluster_name: listing::text(&overview, "cluster_name")
                        .unwrap_or_default()
                        .to_owned(),
                    vhost: self.vhost.clone(),
                })
            }
            Err(failure) => Err(self.explain(attempted, failure).await),
        }
    }

    /// Carries out a change that only the management API can.
    pub(super) async fn change(
        &self,
        attempted: &str,
        change: &Change,
        capabilities: Capabilities,
    ) -> Result<Changed, BrokerError> {
        let vhost = self.vhost.as_str();
        let (method, segments, body): (Method, Vec<&str>, Option<Value>) = match change {
            Change::PutPolicy(policy) => {
                (Method::PUT, vec!["policies", vhost, policy.name.as_str()], Some(put(policy)))
            }
            Change::DeletePolicy(name) => {
                (Method::DELETE, vec!["policies", vhost, name.as_str()], None)
            }
            Change::PutOperatorPolicy(policy) => (
                Method::PUT,
                vec!["operator-policies", vhost, policy.name.as_str()],
                Some(put(policy)),
            ),
            Change::DeleteOperatorPolicy(name) => {
                (Method::DELETE, vec!["operator-policies", vhost, name.as_str()], None)
            }
            Change::SetVhostLimit { name, value: Some(value) } => {
                (Method::PUT, vec!["vhost-limits", vhost, name], Some(json!({ "value": value })))
            }
            Change::SetVhostLimit { name, value: None } => {
                (Method::DELETE, vec!["vhost-limits", vhost, name], None)
            }
            Change::SetDefaultQueueType(kind) => {
                if !capabilities.default_queue_type {
                    // 3.10 says 204 to it and does nothing.
                    return Err(BrokerError::new(
                        ErrorKind::Unsupported,
                        attempted,
                        "this version has no default queue type; 3.11 and later do",
                    )
                    .hint("write the type on each queue"));
                }
                let body = self.vhost_with_type(attempted, kind.as_str()).await?;
                (Method::PUT, vec!["vhosts", vhost], Some(body))
            }
            _ => {
                return Err(BrokerError::new(
                    ErrorKind::Unsupported,
                    attempted,
                    "this is done over AMQP",
                ));
            }
        };
        let deletes = method == Method::DELETE;
        match self.call(attempted, method, &segments, "", body.as_ref()).await {
            Ok(_) => Ok(Changed::Done),
            Err(Failure::Refused(Refusal { status: 404, .. })) if deletes => {
                // Absent is what was asked for, if the vhost itself is there.
                match self.lists_vhost(attempted).await {
                    Some(false) => {
                        let refusal = Refusal { status: 404, reason: "Not Found".to_owned() };
                        Err(self.explain(attempted, Failure::Refused(refusal)).await)
                    }
                    _ => Ok(Changed::Done),
                }
            }
            Err(failure) => Err(self.explain(attempted, failure).await),
        }
    }

    /// What to put for a vhost so that nothing but its default queue type changes.
    async fn vhost_with_type(&self, attempted: &str, kind: &str) -> Result<Value, BrokerError> {
        let list = match self.get(attempted, &["vhosts"], "").await {
            Ok(list) => listing::entries(list),
            Err(failure) => return Err(self.explain(attempted, failure).await),
        };
        let name = self.vhost.as_str();
        let entry = list.iter().find(|entry| listing::text(entry, "name") == Some(name));
        let mut body = json!({ "default_queue_type": kind });
        if let Some(entry) = entry {
            for key in ["description", "tags", "tracing"] {
                if let Some(value) = entry.get(key).filter(|value| !value.is_null()) {
                    body[key] = value.clone();
                }
            }
        }
        Ok(body)
    }
}

fn put(policy: &PolicyDefinition) -> Value {
    json!({
        "pattern": policy.pattern,
        "apply-to": policy.apply_to.as_str(),
        "priority": policy.priority,
        "definition": policy.definition,
    })
}

fn looks_like_html(answer: &[u8]) -> bool {
    let start =
        String::from_utf8_lossy(&answer[..answer.len().min(256)]).trim_start().to_lowercase();
    start.starts_with("<!doctype") || start.starts_with("<html") || start.starts_with("<head")
}

/// Some reasons come escaped for a web page and over several lines.
fn unescape(text: &str) -> String {
    let plain = text
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&amp;", "&");
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_shown_as_plain_text() {
        assert_eq!(
            unescape("Validation failed\n\n[{&lt;&lt;\"x\"&gt;&gt;,1}] are not recognised\n"),
            "Validation failed [{<<\"x\">>,1}] are not recognised"
        );
    }

    #[test]
    fn a_web_page_is_no_answer() {
        assert!(looks_like_html(b"\n <!DOCTYPE html><html>"));
        assert!(!looks_like_html(b"{\"error\":\"<html>\"}"));
    }

    /// Answers every request with what `answer` makes of its path, until the process ends.
    fn serve(answer: fn(&str) -> Vec<u8>) -> ManagementUrl {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                    request.push(byte[0]);
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let body = answer(request.split(' ').nth(1).unwrap_or_default());
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length";
                let _ = write!(stream, "{head}: {}\r\n\r\n", body.len());
                // Who has read enough hangs up.
                let _ = stream.write_all(&body);
            }
        });
        url
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_too_large_for_one_answer_is_read_page_by_page() {
        fn answer(path: &str) -> Vec<u8> {
            let page = path.split_once("&page=").and_then(|(_, rest)| rest.split('&').next());
            match page {
                None if path.contains("/queues/") => vec![b' '; LARGEST_ANSWER + 1],
                None => b"[]".to_vec(),
                Some(page) => json!({
                    "items": [{"name": format!("q{page}"), "type": "classic", "durable": true}],
                    "page_count": 3,
                    "total_count": 3,
                })
                .to_string()
                .into_bytes(),
            }
        }
        let management = Management::new(
            serve(answer),
            "guest",
            &Secret::new("guest"),
            VhostName::default(),
            TlsOptions::default(),
            Duration::from_secs(20),
        );
        let queues = management.list_queues(true).await.unwrap();
        let names: Vec<&str> = queues.iter().map(|q| q.state.definition.name.as_str()).collect();
        assert_eq!(names, ["q1", "q2", "q3"]);
    }
}
