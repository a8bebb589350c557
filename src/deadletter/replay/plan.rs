//! How a replay is to be done, and what stands in its way, from what is known before anything is touched.
//!
//! Pure. Each objection names the option by which a person goes on nonetheless; some have none.

use crate::base::time::HumanDuration;
use crate::broker::QueueType;
use crate::delivery::peek::MANY_LIVES;

use super::machine::{Order, Rules};

/// The most letters that are held at once.
pub const MOST_HELD: u64 = 50_000;

/// Letters out at once, unless another number is asked for.
pub const WINDOW: u64 = 256;

/// What is known of the queue and of the target.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Its type; `None` when the broker does not tell.
    pub queue_type: Option<QueueType>,
    /// Letters that wait.
    pub ready: u64,
    /// Consumers attached.
    pub consumers: u64,
    /// Whether only one of them gets letters.
    pub single_active_consumer: bool,
    /// After how many returns a letter is gone.
    pub delivery_limit: Option<u64>,
    /// How long letters live, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// Whether urgent letters overtake others.
    pub has_priorities: bool,
    /// The one target, when there is one.
    pub target: Option<TargetFacts>,
}

/// What is known of the target queue.
#[derive(Clone, Debug, Default)]
pub struct TargetFacts {
    /// Its name.
    pub name: String,
    /// Messages that wait in it.
    pub ready: u64,
    /// Consumers attached.
    pub consumers: u64,
    /// How many it keeps before it drops the oldest.
    pub drops_beyond: Option<u64>,
    /// How long messages live in it, in milliseconds.
    pub ttl_ms: Option<u64>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Whether letters are chosen, so that others stay.
    pub selects: bool,
    /// How many at most.
    pub first: Option<u64>,
    /// How many of those that wait are known to go, so that they need not be held.
    pub going: u64,
    /// How many may be out at once.
    pub window: u64,
    /// What a refusal means.
    pub order: Order,
    /// How often a letter may have been replayed.
    pub max_replays: u64,
    /// Whether worn out letters are put aside.
    pub parks: bool,
    /// Beside other consumers.
    pub alongside: bool,
    /// The fewest lives that a letter which goes back may have.
    pub min_lives: u64,
    /// Hold letters that may expire meanwhile.
    pub allow_expiry: bool,
    /// Into a target that drops what it has.
    pub allow_loss: bool,
    /// Whether letters stay when their copies are confirmed.
    pub keeps: bool,
}

/// Something in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// What it is.
    pub why: String,
    /// By which option one goes on nonetheless.
    pub by: Option<&'static str>,
}

/// What becomes of letters that stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// There are none: any number goes through.
    Drain,
    /// They are held to the end, and go back to their places.
    Hold,
}

/// How it is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What becomes of letters that stay.
    pub mode: Mode,
    /// The rules of the run.
    pub rules: Rules,
    /// Whether a resumed run may look along the queue first.
    pub looks: bool,
    /// What stands in the way.
    pub objections: Vec<Objection>,
    /// What else to know.
    pub warnings: Vec<String>,
}

/// How a replay is to be done.
pub fn plan(facts: &Facts, request: &Request) -> Plan {
    let window = if request.order == Order::Strict { 1 } else { request.window.max(1) };
    let mode = if request.selects || request.keeps { Mode::Hold } else { Mode::Drain };
    let rules = Rules {
        window,
        prefetch: 0,
        watermark: facts.ready,
        first: request.first,
        is_resumed: false,
        order: request.order,
        max_replays: request.max_replays,
        parks: request.parks,
        keeps: request.keeps,
        rests: false,
        is_diverted: false,
        passes: false,
    };
    let prefetch = match mode {
        Mode::Drain => rules.intents(),
        Mode::Hold => facts.ready.min(MOST_HELD) + rules.intents(),
    };
    let mut objections = Vec::new();
    let mut object = |why: String, by| objections.push(Objection { why, by });
    let mut warnings = Vec::new();
    if facts.queue_type == Some(QueueType::Stream) {
        object("it is a stream, which keeps what it has".to_owned(), None);
    }
    if facts.consumers > 0 && facts.single_active_consumer {
        object("a single active consumer gets every letter".to_owned(), None);
    } else if facts.consumers > 0 && !request.alongside {
        object(
            format!("others consume it ({}): what they hold is not replayed", facts.consumers),
            Some("--alongside"),
        );
    }
    if mode == Mode::Hold && facts.ready.saturating_sub(request.going) > MOST_HELD {
        object(
            format!(
                "letters that stay are held until the end, {MOST_HELD} at most, and {} wait",
                facts.ready
            ),
            None,
        );
    }
    if let Some(limit) = facts.delivery_limit
        && facts.queue_type == Some(QueueType::Quorum)
    {
        if mode == Mode::Hold && limit < request.min_lives {
            object(
                format!(
                    "a letter that stays loses one of at most {limit} lives, and {} are to be kept",
                    request.min_lives
                ),
                Some("--min-lives"),
            );
        } else if mode == Mode::Hold && limit < MANY_LIVES {
            warnings.push(format!("a letter that stays loses one of its {limit} lives"));
        }
    }
    if let Some(ttl) = facts.ttl_ms {
        let ttl = HumanDuration(std::time::Duration::from_millis(ttl));
        let why = format!("its letters live for {ttl}, and one that is held when it ends is gone");
        if mode == Mode::Hold && !request.allow_expiry {
            object(why, Some("--allow-expiry"));
        } else {
            warnings.push(why);
        }
    }
    if let Some(target) = &facts.target {
        let name = &target.name;
        let coming = request.first.map_or(facts.ready, |first| first.min(facts.ready));
        if let Some(most) = target.drops_beyond
            && target.ready + coming > most
        {
            let over = target.ready + coming - most;
            let why = format!(
                "queue `{name}` keeps {most} messages: up to {over} of its oldest go when it is full"
            );
            if request.allow_loss {
                warnings.push(why);
            } else {
                object(why, Some("--allow-loss"));
            }
        }
        if let Some(ttl) = target.ttl_ms {
            let ttl = HumanDuration(std::time::Duration::from_millis(ttl));
            warnings.push(format!("queue `{name}` ends messages after {ttl}"));
        }
        if target.consumers == 0 {
            warnings.push(format!("nobody consumes queue `{name}` now"));
        }
    }
    if facts.queue_type.is_none() {
        warnings
            .push("what the queue is, and what holding its letters costs, is not known".to_owned());
    }
    // Only where looking costs no lives that would not be used anyway, nobody takes letters meanwhile, and
    // the order is that of arrival.
    let looks = (facts.queue_type == Some(QueueType::Classic) || request.keeps)
        && facts.consumers == 0
        && !facts.has_priorities;
    Plan { mode, rules: Rules { prefetch, ..rules }, looks, objections, warnings }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            selects: false,
            first: None,
            going: 0,
            window: WINDOW,
            order: Order::Queue,
            max_replays: 3,
            parks: false,
            alongside: false,
            min_lives: 3,
            allow_expiry: false,
            allow_loss: false,
            keeps: false,
        }
    }

    fn facts() -> Facts {
        Facts { queue_type: Some(QueueType::Quorum), ready: 100_000, ..Facts::default() }
    }

    #[test]
    fn what_stands_in_the_way_names_its_override() {
        let all = request();
        let some = Request { selects: true, ..request() };
        let few = Facts { ready: 10, ..facts() };
        let target = |drops_beyond| {
            Some(TargetFacts { drops_beyond, consumers: 1, ready: 5, ..TargetFacts::default() })
        };
        for (facts, request, expected) in [
            (facts(), all, None),
            (facts(), some, Some(None)),
            (few.clone(), some, None),
            (Facts { consumers: 1, ..few.clone() }, all, Some(Some("--alongside"))),
            (Facts { consumers: 1, ..few.clone() }, Request { alongside: true, ..all }, None),
            (
                Facts { consumers: 1, single_active_consumer: true, ..few.clone() },
                Request { alongside: true, ..all },
                Some(None),
            ),
            (Facts { delivery_limit: Some(2), ..few.clone() }, some, Some(Some("--min-lives"))),
            (Facts { delivery_limit: Some(2), ..few.clone() }, all, None),
            (Facts { ttl_ms: Some(5), ..few.clone() }, some, Some(Some("--allow-expiry"))),
            (Facts { ttl_ms: Some(5), ..few.clone() }, all, None),
            (Facts { target: target(Some(15)), ..few.clone() }, all, None),
            (Facts { target: target(Some(14)), ..few.clone() }, all, Some(Some("--allow-loss"))),
            (Facts { queue_type: Some(QueueType::Stream), ..few }, all, Some(None)),
        ] {
            let plan = plan(&facts, &request);
            let found = plan.objections.first().map(|objection| objection.by);
            assert_eq!(found, expected, "{facts:?} {request:?}");
        }
    }

    #[test]
    fn the_prefetch_has_room_for_what_stays_and_for_the_window() {
        assert_eq!(plan(&facts(), &request()).rules.prefetch, 384);
        let strict = Request { order: Order::Strict, ..request() };
        let strict = plan(&facts(), &strict).rules;
        assert_eq!((strict.window, strict.prefetch), (1, 2));
        let some = Request { selects: true, ..request() };
        assert_eq!(plan(&Facts { ready: 9, ..facts() }, &some).rules.prefetch, 393);
    }
}
