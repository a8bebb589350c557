//! How a replay is to be done, and what stands in its way, from what is known before anything is touched.
//!
//! Pure. Each objection names the option by which a person goes on nonetheless; some have none.

use std::time::Duration;

use crate::base::id::QueueName;
use crate::base::time::HumanDuration;
use crate::broker::QueueType;
use crate::delivery::peek::MANY_LIVES;

use super::machine::{Order, Rules};

/// The most letters that are held at once, unless another number is asked for.
pub const MOST_HELD: u64 = 50_000;

/// RabbitMQ takes back what somebody holds for longer, and closes the channel, unless it is told
/// another time.
pub const CONSUMER_TIMEOUT: Duration = Duration::from_secs(30 * 60);

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
    /// How many it keeps before it drops the oldest.
    pub drops_beyond: Option<u64>,
    /// Whether urgent letters overtake others.
    pub has_priorities: bool,
    /// Letters that somebody held, as the management API counted some seconds ago.
    pub held_by_others: Option<u64>,
    /// Whether the broker takes back what is held for too long.
    pub takes_back: bool,
    /// What our login may not do that it would have to.
    pub forbidden: Vec<String>,
    /// The one target, when there is one.
    pub target: Option<TargetFacts>,
    /// A queue that is not there, and that the run declares.
    pub declares: Option<QueueName>,
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
    /// Where what dies in it goes; `None` when that is not known.
    pub dead_letters: Option<DeadLettersOf>,
}

/// Where what dies in a target goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLettersOf {
    /// Into the queue that is replayed.
    Here,
    /// Into these other queues.
    Elsewhere(Vec<String>),
    /// To an exchange from which no queue takes it.
    Nowhere,
    /// It has no dead-letter exchange.
    Dropped,
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
    /// Look only at so many letters from the head.
    pub within: Option<u64>,
    /// Begin at this offset of a stream.
    pub from: Option<u64>,
    /// Hold letters for so long at most.
    pub max_hold: Option<Duration>,
    /// Hold so many at most.
    pub most_held: u64,
    /// Put letters that stay into a queue of their own meanwhile.
    pub staged: bool,
    /// Whether letters stay when their copies are confirmed.
    pub keeps: bool,
    /// Whether it is to be counted how many come back.
    pub counts_returns: bool,
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
    /// They wait in a queue of their own, and are brought back in the end.
    Staged,
    /// The queue is a stream, and keeps all it has.
    Stream,
}

impl Mode {
    /// The mode as a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Drain => "drain",
            Mode::Hold => "hold",
            Mode::Staged => "staged",
            Mode::Stream => "stream",
        }
    }
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
    /// How long letters that stay are held, at most.
    pub longest: Option<Duration>,
    /// What stands in the way.
    pub objections: Vec<Objection>,
    /// What else to know.
    pub warnings: Vec<String>,
}

/// Of what type a queue is that the run declares: as the one that the letters are in.
pub fn declared_type(facts: &Facts) -> QueueType {
    facts.queue_type.unwrap_or(QueueType::Classic)
}

/// How a replay is to be done.
pub fn plan(facts: &Facts, request: &Request) -> Plan {
    let window = if request.order == Order::Strict { 1 } else { request.window.max(1) };
    let mode = if facts.queue_type == Some(QueueType::Stream) {
        Mode::Stream
    } else if request.keeps {
        Mode::Hold
    } else if !request.selects {
        Mode::Drain
    } else if request.staged {
        Mode::Staged
    } else {
        Mode::Hold
    };
    let ready = facts.ready.min(request.within.unwrap_or(u64::MAX));
    let rules = Rules {
        window,
        prefetch: 0,
        watermark: match mode {
            // It ends by its offsets.
            Mode::Stream => request.within.unwrap_or(u64::MAX),
            Mode::Drain | Mode::Hold | Mode::Staged => ready,
        },
        first: request.first,
        is_resumed: false,
        order: request.order,
        max_replays: request.max_replays,
        parks: request.parks,
        keeps: request.keeps,
        rests: mode == Mode::Staged,
        is_diverted: false,
        passes: mode == Mode::Stream,
    };
    let prefetch = match mode {
        Mode::Drain | Mode::Staged => rules.intents(),
        Mode::Hold => {
            // More are not looked at, and each that is handed out may lose a life.
            let most = request.first.filter(|_| !request.selects).unwrap_or(u64::MAX);
            ready.min(request.most_held).min(most) + rules.intents()
        }
        Mode::Stream => u64::MAX,
    };
    let mut way = InTheWay::default();
    match mode {
        Mode::Stream => way.of_a_stream(request),
        Mode::Drain | Mode::Hold | Mode::Staged => way.of_a_queue(facts, request, mode, ready),
    }
    if let Some(target) = &facts.target {
        let coming = request.first.map_or(ready, |first| first.min(ready));
        way.of_the_target(target, coming, request);
    }
    if let Some(queue) = &facts.declares {
        let kind = declared_type(facts).as_str();
        way.warnings
            .push(format!("queue `{queue}` does not exist: it is declared, durable, {kind}"));
    }
    for what in &facts.forbidden {
        way.object(what.clone(), None);
    }
    if facts.queue_type.is_none() {
        way.warnings.push(
            "what the queue is, what holding its letters costs, who holds some already and what this \
             login may do is not known without the management API"
                .to_owned(),
        );
    }
    // Only where looking costs no lives that would not be used anyway, nobody takes letters meanwhile, and
    // the order is that of arrival.
    let looks = (facts.queue_type == Some(QueueType::Classic) || request.keeps)
        && mode != Mode::Stream
        && facts.consumers == 0
        && !facts.has_priorities;
    let longest = (mode == Mode::Hold).then(|| longest_hold(facts, request)).flatten();
    let InTheWay { objections, warnings } = way;
    Plan { mode, rules: Rules { prefetch, ..rules }, looks, longest, objections, warnings }
}

/// How long letters may be held: well below half of the time after which the broker takes them back,
/// for who looks at them next may need as long; and less than a letter that has just come has to live.
fn longest_hold(facts: &Facts, request: &Request) -> Option<Duration> {
    let by_broker = facts.takes_back.then(|| CONSUMER_TIMEOUT / 2 - Duration::from_secs(60));
    let by_ttl = facts.ttl_ms.map(|ttl| Duration::from_millis(ttl - ttl / 10));
    request.max_hold.or_else(|| by_broker.into_iter().chain(by_ttl).min())
}

#[derive(Default)]
struct InTheWay {
    objections: Vec<Objection>,
    warnings: Vec<String>,
}

impl InTheWay {
    fn object(&mut self, why: String, by: Option<&'static str>) {
        self.objections.push(Objection { why, by });
    }

    /// An objection, unless it was overruled.
    fn unless(&mut self, overruled: bool, why: String, by: &'static str) {
        if overruled {
            self.warnings.push(why);
        } else {
            self.object(why, Some(by));
        }
    }

    fn of_a_stream(&mut self, request: &Request) {
        self.warnings.push(
            "it is a stream, which keeps what it has: another run replays the same letters again, unless \
             --from or a condition keeps it from that"
                .to_owned(),
        );
        if request.staged {
            self.object("it is a stream, from which nothing is taken".to_owned(), None);
        }
        if request.counts_returns {
            let why = "it is a stream, in which what comes back cannot be told from what was there";
            self.object(why.to_owned(), None);
        }
    }

    fn of_a_queue(&mut self, facts: &Facts, request: &Request, mode: Mode, ready: u64) {
        if request.from.is_some() {
            self.object("--from is for streams, and it is none".to_owned(), None);
        }
        if facts.consumers > 0 && facts.single_active_consumer {
            self.object("a single active consumer gets every letter".to_owned(), None);
        } else if facts.consumers > 0 && !request.alongside {
            self.object(
                format!("others consume it ({}): what they hold is not replayed", facts.consumers),
                Some("--alongside"),
            );
        } else if let Some(held) = facts.held_by_others.filter(|held| *held > 0) {
            self.warnings.push(format!(
                "a moment ago others held {held} of its letters: what they still hold is not replayed"
            ));
        }
        match mode {
            Mode::Hold => self.of_holding(facts, request, ready),
            Mode::Staged => self.of_stages(facts, request),
            Mode::Drain | Mode::Stream => {}
        }
        if let Some(ttl) = facts.ttl_ms {
            let ttl = HumanDuration(Duration::from_millis(ttl));
            let why =
                format!("its letters live for {ttl}, and one that is held when it ends is gone");
            self.unless(mode != Mode::Hold || request.allow_expiry, why, "--allow-expiry");
        }
    }

    fn of_holding(&mut self, facts: &Facts, request: &Request, ready: u64) {
        if ready.saturating_sub(request.going) > request.most_held {
            self.object(
                format!(
                    "letters that stay are held until the end, {} at most, and {ready} wait",
                    request.most_held
                ),
                Some("--staged"),
            );
        }
        if let Some(limit) = facts.delivery_limit
            && facts.queue_type == Some(QueueType::Quorum)
        {
            if limit < request.min_lives {
                self.object(
                    format!(
                        "a letter that stays loses one of at most {limit} lives, and {} are to be kept",
                        request.min_lives
                    ),
                    Some("--min-lives"),
                );
            } else if limit < MANY_LIVES {
                self.warnings.push(format!("a letter that stays loses one of its {limit} lives"));
            }
        }
        if let (true, Some(longest)) = (facts.takes_back, request.max_hold)
            && longest >= CONSUMER_TIMEOUT
        {
            self.warnings.push(format!(
                "a broker takes back what is held for {}, unless it is told another time; the run \
                 then ends where it is",
                HumanDuration(CONSUMER_TIMEOUT)
            ));
        }
    }

    fn of_stages(&mut self, facts: &Facts, request: &Request) {
        if facts.queue_type.is_none() {
            self.object(
                "the queue in which letters wait has to be like this one, and what that is, is not known \
                 without the management API"
                    .to_owned(),
                None,
            );
        }
        if request.counts_returns {
            let why = "how many come back cannot be counted while letters wait elsewhere: let a canary \
                       go first, with --first, and the others with --staged";
            self.object(why.to_owned(), None);
        }
        if let Some(most) = facts.drops_beyond {
            let why = format!(
                "it keeps {most} letters: if more come meanwhile, the oldest go when the others are \
                 brought back"
            );
            self.unless(request.allow_loss, why, "--allow-loss");
        }
        self.warnings.push(format!(
            "letters that stay are written twice, into a queue of their own and back; for each kill up to \
             {} of them come twice",
            request.window
        ));
        self.warnings.push(
            "what comes back lies there as published now: routing key, place in x-death and time to live \
             begin anew, CC and a foreign user id are kept in headers x-nexus-orig-*; 4.x reads no more \
             in its x-death"
                .to_owned(),
        );
        self.warnings.push(
            "a letter that dies while the others are brought back overtakes those that are not back yet"
                .to_owned(),
        );
    }

    fn of_the_target(&mut self, target: &TargetFacts, coming: u64, request: &Request) {
        let name = &target.name;
        if let Some(most) = target.drops_beyond
            && target.ready + coming > most
        {
            let over = target.ready + coming - most;
            let why = format!(
                "queue `{name}` keeps {most} messages: up to {over} of its oldest go when it is full"
            );
            self.unless(request.allow_loss, why, "--allow-loss");
        }
        if let Some(ttl) = target.ttl_ms {
            let ttl = HumanDuration(Duration::from_millis(ttl));
            self.warnings.push(format!("queue `{name}` ends messages after {ttl}"));
        }
        if target.consumers == 0 {
            self.warnings.push(format!("nobody consumes queue `{name}` now"));
        }
        match &target.dead_letters {
            Some(DeadLettersOf::Elsewhere(queues)) => self.warnings.push(format!(
                "what dies in queue `{name}` again goes to {} and not back here",
                queues.iter().map(|queue| format!("`{queue}`")).collect::<Vec<_>>().join(", ")
            )),
            Some(DeadLettersOf::Nowhere) => self.warnings.push(format!(
                "what dies in queue `{name}` again is gone: no queue takes it from its dead-letter \
                 exchange"
            )),
            Some(DeadLettersOf::Dropped) => self.warnings.push(format!(
                "what dies in queue `{name}` again is gone: it has no dead-letter exchange"
            )),
            Some(DeadLettersOf::Here) | None => {}
        }
    }
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
            within: None,
            from: None,
            max_hold: None,
            most_held: MOST_HELD,
            staged: false,
            keeps: false,
            counts_returns: false,
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
            (facts(), some, Some(Some("--staged"))),
            (facts(), Request { staged: true, ..some }, None),
            (facts(), Request { within: Some(MOST_HELD), ..some }, None),
            (few.clone(), Request { most_held: 9, ..some }, Some(Some("--staged"))),
            (few.clone(), Request { from: Some(1), ..all }, Some(None)),
            (
                Facts { queue_type: None, ..few.clone() },
                Request { staged: true, ..some },
                Some(None),
            ),
            (
                Facts { drops_beyond: Some(50), ..few.clone() },
                Request { staged: true, ..some },
                Some(Some("--allow-loss")),
            ),
            (Facts { forbidden: vec!["no".to_owned()], ..few.clone() }, all, Some(None)),
            (
                Facts { delivery_limit: Some(2), ttl_ms: Some(5), ..few.clone() },
                Request { staged: true, ..some },
                None,
            ),
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
            (Facts { queue_type: Some(QueueType::Stream), ..facts() }, some, None),
            (
                Facts { queue_type: Some(QueueType::Stream), ..few.clone() },
                Request { counts_returns: true, ..all },
                Some(None),
            ),
            (few.clone(), Request { counts_returns: true, staged: true, ..some }, Some(None)),
            (
                Facts { queue_type: Some(QueueType::Stream), ..few },
                Request { staged: true, ..some },
                Some(None),
            ),
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

    #[test]
    fn what_stays_is_held_no_longer_than_is_safe() {
        let some = Request { selects: true, allow_expiry: true, ..request() };
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let rabbit = Facts { takes_back: true, ready: 9, ..facts() };
        for (facts, request, longest) in [
            (rabbit.clone(), some, Some(minutes(14))),
            (Facts { ttl_ms: Some(600_000), ..rabbit.clone() }, some, Some(minutes(9))),
            (Facts { takes_back: false, ..rabbit.clone() }, some, None),
            (rabbit.clone(), Request { max_hold: Some(minutes(40)), ..some }, Some(minutes(40))),
            (rabbit.clone(), Request { selects: false, ..some }, None),
            (rabbit, Request { staged: true, ..some }, None),
        ] {
            assert_eq!(plan(&facts, &request).longest, longest, "{facts:?} {request:?}");
        }
    }

    #[test]
    fn what_becomes_of_what_dies_again_is_said() {
        for (dead_letters, word) in [
            (DeadLettersOf::Here, None),
            (DeadLettersOf::Elsewhere(vec!["other".to_owned()]), Some("`other`")),
            (DeadLettersOf::Nowhere, Some("no queue takes it")),
            (DeadLettersOf::Dropped, Some("it has no dead-letter exchange")),
        ] {
            let target = TargetFacts {
                consumers: 1,
                dead_letters: Some(dead_letters),
                ..TargetFacts::default()
            };
            let facts = Facts { target: Some(target), ..facts() };
            let warnings = plan(&facts, &request()).warnings.join("; ");
            match word {
                Some(word) => assert!(warnings.contains(word), "{warnings}"),
                None => assert_eq!(warnings, ""),
            }
        }
    }
}
