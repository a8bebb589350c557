//! What expressions may ask about one letter that goes: all that a selection may ask but for its place,
//! which is another one when others went before. Pure.

use crate::base::expression::{Context, Expression};
use crate::base::id::QueueName;
use crate::broker::Delivery;
use crate::deadletter::letter::LetterId;
use crate::deadletter::select::{LETTER_VARIABLES, Named, with_letter};
use crate::deadletter::sighting::Told;
use crate::delivery::filter::FILTER_VARIABLES;

/// The names that such an expression may use.
pub(crate) fn names() -> Vec<&'static str> {
    let all = FILTER_VARIABLES.iter().chain(&LETTER_VARIABLES);
    all.copied().filter(|name| *name != "position").collect()
}

/// Of the names, those that any of these expressions uses.
pub(crate) fn used<'e>(expressions: impl IntoIterator<Item = &'e Expression>) -> Vec<&'static str> {
    let expressions: Vec<&Expression> = expressions.into_iter().collect();
    names()
        .into_iter()
        .filter(|name| expressions.iter().any(|e| e.variables().any(|used| used == *name)))
        .collect()
}

/// What these names mean for a letter in `queue`. The body is that of `delivery`, as it is there.
pub(crate) fn context<'a>(
    uses: &[&'static str],
    delivery: &'a Delivery,
    id: &LetterId,
    queue: &QueueName,
) -> Context<'a> {
    let told = Told::of(delivery);
    let group = uses.contains(&"group").then(|| told.traits(delivery).fingerprint());
    let named = Named { told: &told, id: Some(id), group, position: 0 };
    uses.iter().fold(Context::new(), |context, name| {
        with_letter(context, name, delivery, queue.as_str(), &named)
    })
}
