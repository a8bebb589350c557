//! Where a tap is bound, and what that changes for others. Pure.
//!
//! A tap that is bound wider than the queues beside it makes messages routable that were not: they are
//! not returned to their publisher, and do not reach an alternate exchange. The first is said; the
//! second would take messages from those behind the alternate, so there a tap takes the keys that are
//! bound already and taps the alternate, too.

use std::collections::BTreeSet;

use crate::base::id::{ExchangeName, RoutingKey};
use crate::broker::{BindingDefinition, ExchangeKind};
use crate::message::FieldTable;
use crate::topology::view::{TopologyView, ViewExchange};

/// What is to be tapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapTarget {
    /// The exchange, up to the first colon.
    pub exchange: String,
    /// The binding key or pattern; `None` is everything.
    pub key: Option<String>,
}

impl TapTarget {
    /// Reads `EXCHANGE` or `EXCHANGE:KEY`.
    pub fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((exchange, key)) => {
                TapTarget { exchange: exchange.to_owned(), key: Some(key.to_owned()) }
            }
            None => TapTarget { exchange: text.to_owned(), key: None },
        }
    }

    fn text(&self) -> String {
        match &self.key {
            Some(key) => format!("{}:{key}", self.exchange),
            None => self.exchange.clone(),
        }
    }
}

/// One binding of the tap.
#[derive(Clone, Debug, PartialEq)]
pub struct TapBinding {
    /// The exchange.
    pub exchange: ExchangeName,
    /// The key or pattern.
    pub key: RoutingKey,
    /// Header values and `x-match`.
    pub arguments: FieldTable,
}

/// How a tap is bound.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TapPlan {
    /// The bindings.
    pub bindings: Vec<TapBinding>,
    /// What to know.
    pub warnings: Vec<String>,
    /// What others lose while the tap is there; wants consent.
    pub losses: Vec<String>,
}

/// Why something cannot be tapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapRefusal {
    /// There is no such exchange.
    Missing(String),
    /// It cannot be tapped.
    Impossible {
        /// Which and why.
        why: String,
        /// What to do instead.
        instead: String,
    },
}

/// Where to bind for `targets`. `headers` are for headers exchanges; with `mirror` only what is bound
/// already is taken. `view` is `None` when the broker cannot be listed.
///
/// # Errors
/// The first target that cannot be tapped.
pub fn plan(
    targets: &[TapTarget],
    headers: &FieldTable,
    mirror: bool,
    view: Option<&TopologyView>,
) -> Result<TapPlan, TapRefusal> {
    let mut plan = TapPlan::default();
    let mut headers_used = headers.is_empty();
    for target in targets {
        let text = target.text();
        let (name, key) = cut(&text, view);
        if name.is_empty() {
            return Err(impossible(
                "the default exchange cannot be tapped: nothing can be bound to it",
                "`nexusctl queue peek QUEUE` shows what waits in a queue; to see a flow, let it go \
                 through an exchange of your own",
            ));
        }
        let exchange = ExchangeName::new(name)
            .map_err(|error| impossible(&error.to_string(), "name an exchange"))?;
        match view {
            None => blind(&mut plan, &exchange, key, headers)?,
            Some(view) => {
                let found =
                    view.exchanges.get(name).ok_or_else(|| TapRefusal::Missing(name.to_owned()))?;
                headers_used |= found.definition.kind == ExchangeKind::Headers;
                bind(&mut plan, view, found, key, headers, mirror)?;
            }
        }
    }
    if !headers_used && view.is_some() {
        return Err(impossible(
            "header values are given, and none of these is a headers exchange",
            "leave them out, or choose messages with `--filter`",
        ));
    }
    Ok(plan)
}

/// Exchange and key. A name may hold colons, so the longest that exists counts.
fn cut<'a>(text: &'a str, view: Option<&TopologyView>) -> (&'a str, Option<&'a str>) {
    let exists = |name: &str| view.is_some_and(|view| view.exchanges.contains_key(name));
    if exists(text) {
        return (text, None);
    }
    let mut ends = text.rmatch_indices(':').map(|(at, _)| at);
    match ends.find(|at| exists(&text[..*at])).or_else(|| text.find(':')) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

fn impossible(why: &str, instead: &str) -> TapRefusal {
    TapRefusal::Impossible { why: why.to_owned(), instead: instead.to_owned() }
}

impl TapPlan {
    fn add(&mut self, exchange: &ExchangeName, key: &str, arguments: FieldTable) {
        // What is read from a broker and what is typed are names already.
        let Ok(key) = RoutingKey::new(key) else { return };
        let binding = TapBinding { exchange: exchange.clone(), key, arguments };
        if !self.bindings.contains(&binding) {
            self.bindings.push(binding);
        }
    }
}

/// Without a list of exchanges neither type nor alternate is known.
fn blind(
    plan: &mut TapPlan,
    exchange: &ExchangeName,
    key: Option<&str>,
    headers: &FieldTable,
) -> Result<(), TapRefusal> {
    let Some(key) = key else {
        return Err(impossible(
            &format!(
                "the type of exchange `{exchange}` is not known without the management API, so \
                 neither is the key that takes everything"
            ),
            &format!(
                "set `--management-url`, or write the key: `{exchange}:#` for a topic exchange, \
                 `{exchange}:` for a fanout exchange"
            ),
        ));
    };
    plan.add(exchange, key, headers.clone());
    plan.warnings.push(format!(
        "exchange `{exchange}`: without the management API it is not known whether it has an \
         alternate exchange; if so, messages that only the tap takes do not reach it"
    ));
    Ok(())
}

fn bind(
    plan: &mut TapPlan,
    view: &TopologyView,
    exchange: &ViewExchange,
    key: Option<&str>,
    headers: &FieldTable,
    mirror: bool,
) -> Result<(), TapRefusal> {
    let name = &exchange.definition.name;
    let bound: Vec<&BindingDefinition> =
        view.bindings.iter().filter(|binding| binding.source == *name).collect();
    let kind = kind_of(exchange);
    if let ExchangeKind::Other(kind) = &kind {
        return Err(impossible(
            &format!(
                "exchange `{name}` is of the type `{kind}`: such types may give each message to one \
                 binding only, and a tap would take it from the others"
            ),
            "tap an exchange before or behind it",
        ));
    }
    let alternate = exchange.effective.alternate();
    if mirror || (alternate.is_some() && key.is_none() && headers.is_empty()) {
        mirror_all(plan, view, exchange, &mut BTreeSet::new());
        if let Some(alternate) = alternate.filter(|_| !mirror) {
            plan.warnings.push(format!(
                "exchange `{name}` has the alternate exchange `{alternate}`: the tap takes what is \
                 bound now, and the alternate, so that nothing is kept from it; bindings that come \
                 later are not followed"
            ));
        }
        if plan.bindings.is_empty() {
            return Err(impossible(
                &format!("nothing is bound to exchange `{name}`, so there is nothing to mirror"),
                "leave `--mirror` out",
            ));
        }
        return Ok(());
    }
    let arguments = match kind {
        ExchangeKind::Headers => headers.clone(),
        _ => FieldTable::new(),
    };
    let key = match (&kind, key) {
        (_, Some(key)) => key,
        (ExchangeKind::Topic, None) => "#",
        (ExchangeKind::Direct, None) => return Err(needs_key(name, &bound)),
        _ => "",
    };
    plan.add(name, key, arguments.clone());
    let everything = |binding: &&BindingDefinition| match kind {
        ExchangeKind::Topic => binding.routing_key.as_str() == "#",
        ExchangeKind::Fanout => true,
        _ => false,
    };
    let same = |binding: &&BindingDefinition| {
        binding.routing_key.as_str() == key && binding.arguments == arguments
    };
    if bound.iter().any(|binding| everything(binding) || same(binding)) {
        return Ok(());
    }
    match alternate {
        Some(alternate) => plan.losses.push(format!(
            "messages of exchange `{name}` that only the tap takes do not reach its alternate \
             exchange `{alternate}`"
        )),
        None => plan.warnings.push(format!(
            "exchange `{name}`: while the tap is there, a message that only the tap takes is not \
             returned to its publisher; `--mirror` takes no more than what is bound already"
        )),
    }
    Ok(())
}

/// How it routes; a delayed exchange routes as another type says.
fn kind_of(exchange: &ViewExchange) -> ExchangeKind {
    match &exchange.definition.kind {
        ExchangeKind::Other(kind) if kind == "x-delayed-message" => exchange
            .definition
            .arguments
            .get("x-delayed-type")
            .and_then(|kind| kind.as_text())
            .map_or(ExchangeKind::Other(kind.clone()), ExchangeKind::from),
        kind => kind.clone(),
    }
}

fn needs_key(name: &ExchangeName, bound: &[&BindingDefinition]) -> TapRefusal {
    const SHOWN: usize = 8;
    let keys: BTreeSet<&str> = bound.iter().map(|binding| binding.routing_key.as_str()).collect();
    let shown: Vec<String> = keys.iter().take(SHOWN).map(|key| format!("`{name}:{key}`")).collect();
    let instead = match keys.len().checked_sub(SHOWN) {
        _ if keys.is_empty() => "nothing is bound to it yet; name the key".to_owned(),
        None | Some(0) => {
            format!("bound are {}; `--mirror` takes all that are bound", shown.join(", "))
        }
        Some(more) => format!(
            "bound are {} and {more} more; `--mirror` takes all that are bound",
            shown.join(", ")
        ),
    };
    TapRefusal::Impossible {
        why: format!("exchange `{name}` is direct: it routes by equal keys, so a tap names them"),
        instead,
    }
}

/// The keys that are bound already, and those of the alternate exchanges.
fn mirror_all<'a>(
    plan: &mut TapPlan,
    view: &'a TopologyView,
    exchange: &'a ViewExchange,
    seen: &mut BTreeSet<&'a str>,
) {
    let name = &exchange.definition.name;
    if !seen.insert(name.as_str()) {
        return;
    }
    for binding in view.bindings.iter().filter(|binding| binding.source == *name) {
        plan.add(name, binding.routing_key.as_str(), binding.arguments.clone());
    }
    if let Some(next) = exchange.effective.alternate().and_then(|name| view.exchanges.get(name)) {
        mirror_all(plan, view, next, seen);
    }
}

#[cfg(test)]
mod tests {
    use crate::broker::version::Version;
    use crate::topology::expand::testing::topology;

    use super::*;

    const FILE: &str = "exchanges:\n  t: {type: topic}\n  'a:b': {type: topic}\n  d: {type: direct}\n  \
        f: {type: fanout}\n  h: {type: headers}\n  main: {type: topic, alternateExchange: rest}\n  \
        rest: {type: fanout}\n  lone: {type: direct}\nqueues:\n  \
        q: {bind: [{from: d, key: one}, {from: d, key: two}, {from: f}, {from: main, key: order.*}, {from: rest}]}\n";

    fn planned(
        targets: &[&str],
        headers: &FieldTable,
        mirror: bool,
    ) -> Result<TapPlan, TapRefusal> {
        let view = TopologyView::of_topology(&topology(FILE), Version::new(4, 0, 5));
        let targets: Vec<TapTarget> = targets.iter().map(|text| TapTarget::parse(text)).collect();
        plan(&targets, headers, mirror, Some(&view))
    }

    fn keys(targets: &[&str]) -> Vec<String> {
        planned(targets, &FieldTable::new(), false)
            .unwrap()
            .bindings
            .iter()
            .map(|binding| format!("{}:{}", binding.exchange, binding.key))
            .collect()
    }

    #[test]
    fn everything_is_taken_where_the_type_has_a_key_for_it() {
        assert_eq!(keys(&["t", "f", "h", "t"]), ["t:#", "f:", "h:"]);
        assert_eq!(keys(&["t:order.#", "d:one"]), ["t:order.#", "d:one"]);
        assert_eq!(keys(&["a:b", "a:b:c"]), ["a:b:#", "a:b:c"]);
    }

    #[test]
    fn what_cannot_be_tapped_is_refused_with_another_way() {
        let refused =
            |targets: &[&str], headers: &FieldTable| match planned(targets, headers, false)
                .unwrap_err()
            {
                TapRefusal::Missing(name) => format!("missing {name}"),
                TapRefusal::Impossible { why, instead } => format!("{why}; {instead}"),
            };
        let none = FieldTable::new();
        assert!(refused(&[""], &none).contains("queue peek"));
        assert_eq!(refused(&["nowhere"], &none), "missing nowhere");
        let direct = refused(&["d"], &none);
        assert!(direct.contains("`d:one`, `d:two`"), "{direct}");
        assert!(refused(&["lone"], &none).contains("nothing is bound"));
        assert!(refused(&["t"], &FieldTable::new().with("a", 1)).contains("headers exchange"));
        let blind = plan(&[TapTarget::parse("t")], &none, false, None);
        assert!(matches!(blind, Err(TapRefusal::Impossible { .. })));
        let blind = plan(&[TapTarget::parse("t:#")], &none, false, None).unwrap();
        assert_eq!(blind.bindings.len(), 1);
    }

    #[test]
    fn nothing_is_kept_from_an_alternate_exchange() {
        assert_eq!(keys(&["main"]), ["main:order.*", "rest:"]);
        let none = FieldTable::new();
        let same = planned(&["main:order.*"], &none, false).unwrap();
        assert!(same.losses.is_empty());
        let wider = planned(&["main:#"], &none, false).unwrap();
        assert!(wider.losses[0].contains("`rest`"), "{wider:?}");
    }

    #[test]
    fn what_changes_for_publishers_is_said_and_a_mirror_changes_nothing() {
        let none = FieldTable::new();
        assert_eq!(planned(&["t"], &none, false).unwrap().warnings.len(), 1);
        assert!(planned(&["f"], &none, false).unwrap().warnings.is_empty());
        let mirror = planned(&["d"], &none, true).unwrap();
        assert_eq!((mirror.bindings.len(), mirror.warnings.len()), (2, 0));
        assert!(planned(&["t"], &none, true).is_err());
    }
}
