//! Letters on their way into the queue in which they wait, and back. Pure.
//!
//! There nothing may end them, reorder them or route them on: what would do that is put into one header
//! and given back afterwards. All else stays as it is, so a letter has the same name there. Not given
//! back is only what a broker would act upon or refuse: `CC` and `BCC` route again, a foreign `user_id`
//! is an error, and its own counters would be taken for real.

use crate::base::id::{ExchangeName, QueueName};
use crate::broker::{Delivery, Publish};
use crate::message::{FieldTable, FieldValue, Message};

use super::address::{ORIGINAL_BCC, ORIGINAL_CC, ORIGINAL_USER_ID};

/// How the names of such queues begin; the run's follows.
pub const PREFIX: &str = "nexusctl.rest.";

/// What a letter had that it has not while it waits.
pub const LAY: &str = "x-nexus-lay";

/// Headers that a broker puts on a delivery.
const OF_THE_BROKER: [&str; 3] = ["x-delivery-count", "x-acquired-count", "x-stream-offset"];

/// `delivery`, to wait in `rest`.
pub fn away(delivery: &Delivery, rest: &QueueName) -> Publish {
    let mut message = delivery.message.clone();
    let properties = &mut message.properties;
    let mut lay = FieldTable::new();
    let headers = properties.headers.take();
    let had_headers = headers.is_some();
    let mut headers = headers.unwrap_or_default();
    for name in OF_THE_BROKER {
        headers.remove(name);
    }
    lay.insert("headers", had_headers);
    for name in ["CC", "BCC", LAY] {
        if let Some(value) = headers.remove(name) {
            lay.insert(name, value);
        }
    }
    if let Some(mode) = properties.delivery_mode {
        lay.insert("delivery-mode", i64::from(mode));
    }
    properties.delivery_mode = Some(2);
    if let Some(priority) = properties.priority.take() {
        lay.insert("priority", i64::from(priority));
    }
    if let Some(expiration) = properties.expiration.take() {
        lay.insert("expiration", expiration);
    }
    if let Some(user) = properties.user_id.take() {
        lay.insert("user-id", user);
    }
    headers.insert(LAY, FieldValue::Table(lay));
    properties.headers = Some(headers);
    to_queue(rest, message)
}

/// What waited as `delivery`, to lie in `home` again.
pub fn back(delivery: &Delivery, home: &QueueName, login: Option<&str>) -> Publish {
    let mut message = delivery.message.clone();
    let properties = &mut message.properties;
    let mut headers = properties.headers.take().unwrap_or_default();
    for name in OF_THE_BROKER {
        headers.remove(name);
    }
    let Some(FieldValue::Table(mut lay)) = headers.remove(LAY) else {
        // Somebody else put it there.
        properties.headers = (!headers.is_empty()).then_some(headers);
        return to_queue(home, message);
    };
    let small = |lay: &FieldTable, name: &str| {
        lay.get(name).and_then(FieldValue::as_i64).and_then(|number| u8::try_from(number).ok())
    };
    let text = |lay: &FieldTable, name: &str| {
        lay.get(name).and_then(FieldValue::as_text).map(str::to_owned)
    };
    properties.delivery_mode = small(&lay, "delivery-mode");
    properties.priority = small(&lay, "priority");
    properties.expiration = text(&lay, "expiration");
    if let Some(user) = text(&lay, "user-id") {
        if login == Some(user.as_str()) {
            properties.user_id = Some(user);
        } else {
            headers.insert(ORIGINAL_USER_ID, user);
        }
    }
    for (name, kept) in [("CC", ORIGINAL_CC), ("BCC", ORIGINAL_BCC), (LAY, LAY)] {
        if let Some(value) = lay.remove(name) {
            headers.insert(kept, value);
        }
    }
    let had_headers = lay.get("headers") == Some(&FieldValue::Bool(true));
    properties.headers = (had_headers || !headers.is_empty()).then_some(headers);
    to_queue(home, message)
}

fn to_queue(queue: &QueueName, message: Message) -> Publish {
    Publish {
        exchange: ExchangeName::default_exchange(),
        routing_key: queue.as_routing_key(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::id::RoutingKey;
    use crate::broker::DeliveryTag;
    use crate::deadletter::letter::LetterId;
    use crate::message::Properties;
    use crate::message::arbitrary::{message, same};

    fn delivered(message: Message) -> Delivery {
        Delivery {
            tag: DeliveryTag { generation: 0, tag: 1 },
            exchange: ExchangeName::new("dlx").unwrap(),
            routing_key: RoutingKey::new("k").unwrap(),
            redelivered: false,
            message,
        }
    }

    proptest! {
        #[test]
        fn what_comes_back_is_what_went_away(given in message()) {
            let (home, rest) = (QueueName::new("dead").unwrap(), QueueName::new("rest").unwrap());
            let mut given = given;
            if let Some(headers) = &mut given.properties.headers {
                for name in OF_THE_BROKER.iter().chain(&["CC", "BCC"]) {
                    headers.remove(name);
                }
            }
            let login = given.properties.user_id.clone();
            let there = away(&delivered(given.clone()), &rest).message;
            prop_assert_eq!(there.properties.delivery_mode, Some(2));
            prop_assert!(there.properties.expiration.is_none() && there.properties.priority.is_none());
            prop_assert_eq!(
                LetterId::of("/", &home, &there), LetterId::of("/", &home, &given)
            );
            let back = back(&delivered(there), &home, login.as_deref());
            prop_assert!(same(&back.message, &given), "{:?} {:?}", back.message, given);
        }
    }

    #[test]
    fn what_a_broker_would_act_upon_is_kept_elsewhere() {
        let (home, rest) = (QueueName::new("dead").unwrap(), QueueName::new("rest").unwrap());
        let headers = FieldTable::new()
            .with("CC", FieldValue::Array(vec!["other".into()]))
            .with("x-delivery-count", 3_i64);
        let properties = Properties {
            headers: Some(headers),
            user_id: Some("somebody".to_owned()),
            ..Properties::default()
        };
        let given = Message { properties, body: vec![1] };
        let there = away(&delivered(given), &rest);
        assert_eq!(there.routing_key.as_str(), "rest");
        assert!(there.message.properties.header("CC").is_none());
        let back = back(&delivered(there.message), &home, Some("me")).message.properties;
        assert_eq!(back.user_id, None);
        assert_eq!(back.header(ORIGINAL_USER_ID).and_then(FieldValue::as_text), Some("somebody"));
        assert!(back.header(ORIGINAL_CC).is_some() && back.header("CC").is_none());
        assert!(back.header("x-delivery-count").is_none() && back.header(LAY).is_none());
    }
}
