//! Which messages are wanted: a CEL condition over what a record shows.
//!
//! Variables: `exchange`, `routingKey`, `queue`, `redelivered`, `properties` (as in the record, without
//! headers), `headers` (plain values: integers of any width are `int`, timestamps are seconds),
//! `body` (the value when it is JSON, else the text, else bytes) and `size` in bytes.

use serde_json::{Map, Number, Value};

use crate::base::expression::{Context, Expression, ExpressionError, Template};
use crate::broker::Delivery;
use crate::message::record::write_properties;
use crate::message::{FieldTable, FieldValue, Properties};

/// The names that a filter may use.
pub const FILTER_VARIABLES: [&str; 8] =
    ["exchange", "routingKey", "queue", "redelivered", "properties", "headers", "body", "size"];

/// Which of the names an expression uses: only those are converted.
#[derive(Clone, Copy, Debug)]
struct Uses([bool; 8]);

impl Uses {
    fn of(expressions: &[&Expression]) -> Self {
        Uses(FILTER_VARIABLES.map(|name| {
            expressions.iter().any(|expression| expression.variables().any(|used| used == name))
        }))
    }

    fn context<'a>(self, delivery: &'a Delivery, queue: &str) -> Context<'a> {
        let mut context = Context::new();
        for (name, _) in FILTER_VARIABLES.iter().zip(self.0).filter(|(_, used)| *used) {
            context = with_variable(context, name, delivery, queue);
        }
        context
    }
}

/// The context with one of the [`FILTER_VARIABLES`], as `delivery` from `queue` has it.
pub(crate) fn with_variable<'a>(
    context: Context<'a>,
    name: &'static str,
    delivery: &'a Delivery,
    queue: &str,
) -> Context<'a> {
    let message = &delivery.message;
    match name {
        "exchange" => context.with_owned(name, delivery.exchange.as_str().into()),
        "routingKey" => context.with_owned(name, delivery.routing_key.as_str().into()),
        "queue" => context.with_owned(name, queue.into()),
        "redelivered" => context.with_owned(name, delivery.redelivered.into()),
        "properties" => context.with_owned(name, plain_properties(&message.properties)),
        "headers" => {
            let headers = message.properties.headers.as_ref();
            let empty = || Value::Object(Map::new());
            context.with_owned(name, headers.map_or_else(empty, plain_table))
        }
        "size" => context.with_owned(name, message.body.len().into()),
        _ => match serde_json::from_slice(&message.body) {
            Ok(value) => context.with_owned(name, value),
            Err(_) => match std::str::from_utf8(&message.body) {
                Ok(text) => context.with_owned(name, text.into()),
                Err(_) => context.with_bytes(name, &message.body),
            },
        },
    }
}

/// A condition on messages.
#[derive(Clone, Debug)]
pub struct Filter {
    condition: Expression,
    uses: Uses,
}

impl Filter {
    /// Reads a condition.
    pub fn parse(source: &str) -> Result<Self, ExpressionError> {
        let condition = Expression::parse_with(source, &FILTER_VARIABLES)?;
        let uses = Uses::of(&[&condition]);
        Ok(Filter { condition, uses })
    }

    /// Whether `delivery`, taken from `queue`, is wanted. An error is for example a header that this
    /// message does not have; such a message is not wanted.
    pub fn wants(&self, delivery: &Delivery, queue: &str) -> Result<bool, String> {
        let context = self.uses.context(delivery, queue);
        self.condition.evaluate_bool(&context).map_err(|error| error.to_string())
    }
}

/// What messages have in common, as a text: an expression over the same variables.
#[derive(Clone, Debug)]
pub struct MessageKey {
    expression: Expression,
    uses: Uses,
}

impl MessageKey {
    /// Reads an expression.
    pub fn parse(source: &str) -> Result<Self, ExpressionError> {
        let expression = Expression::parse_with(source, &FILTER_VARIABLES)?;
        let uses = Uses::of(&[&expression]);
        Ok(MessageKey { expression, uses })
    }

    /// The key of `delivery`, taken from `queue`; `None` when it is null. Whatever is no text is
    /// written as JSON.
    pub fn of(&self, delivery: &Delivery, queue: &str) -> Result<Option<String>, String> {
        let context = self.uses.context(delivery, queue);
        match self.expression.evaluate(&context) {
            Ok(Value::Null) => Ok(None),
            Ok(Value::String(text)) => Ok(Some(text)),
            Ok(other) => Ok(Some(other.to_string())),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A text made from a message: `${ CEL }` over the same variables.
#[derive(Clone, Debug)]
pub struct MessageTemplate {
    template: Template,
    uses: Uses,
}

impl MessageTemplate {
    /// Reads a template.
    pub fn parse(source: &str) -> Result<Self, ExpressionError> {
        let template = Template::parse_with(source, &FILTER_VARIABLES)?;
        let uses = Uses::of(&template.expressions().collect::<Vec<_>>());
        Ok(MessageTemplate { template, uses })
    }

    /// The text for `delivery`, taken from `queue`.
    pub fn text(&self, delivery: &Delivery, queue: &str) -> Result<String, String> {
        let context = self.uses.context(delivery, queue);
        self.template.evaluate_text(&context).map_err(|error| error.to_string())
    }
}

fn plain_properties(properties: &Properties) -> Value {
    let bare = Properties { headers: None, ..properties.clone() };
    let mut out = Vec::new();
    write_properties(&mut out, &bare);
    serde_json::from_slice(&out).unwrap_or_default()
}

fn plain_table(table: &FieldTable) -> Value {
    table.iter().map(|(name, value)| (name.to_owned(), plain(value))).collect::<Map<_, _>>().into()
}

fn plain(value: &FieldValue) -> Value {
    match value {
        FieldValue::Void => Value::Null,
        FieldValue::Bool(flag) => (*flag).into(),
        FieldValue::Float(n) => Number::from_f64(f64::from(*n)).map_or(Value::Null, Value::Number),
        FieldValue::Double(n) => Number::from_f64(*n).map_or(Value::Null, Value::Number),
        FieldValue::Decimal { scale, unscaled } => {
            (f64::from(*unscaled) / 10f64.powi(i32::from(*scale))).into()
        }
        FieldValue::Text(bytes) | FieldValue::Bytes(bytes) => String::from_utf8_lossy(bytes).into(),
        FieldValue::Timestamp(seconds) => (*seconds).into(),
        FieldValue::Array(values) => values.iter().map(plain).collect::<Vec<_>>().into(),
        FieldValue::Table(table) => plain_table(table),
        integer => integer.as_i64().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::delivery;
    use super::*;

    #[test]
    fn a_condition_sees_the_whole_message() {
        let mut given = delivery(1, r#"{"region":"eu","items":[{"price":5}]}"#);
        given.message.properties.priority = Some(4);
        let headers = given.message.properties.headers_mut();
        headers.insert("tries", FieldValue::Int8(3));
        headers.insert("at", FieldValue::Timestamp(1_700_000_000));
        for (condition, wanted) in [
            ("body.region == 'eu'", true),
            ("body.items.exists(i, i.price > 4)", true),
            ("headers.tries == 3 && headers['at'] > 1600000000", true),
            ("routingKey.startsWith('k') && queue == 'q' && exchange == ''", true),
            ("properties.priority >= 5", false),
            ("redelivered", false),
            ("size == 37", true),
            ("has(headers.none)", false),
        ] {
            let filter = Filter::parse(condition).unwrap();
            assert_eq!(filter.wants(&given, "q"), Ok(wanted), "{condition}");
        }
        let text = delivery(1, "plain text");
        assert_eq!(Filter::parse("body.contains('text')").unwrap().wants(&text, "q"), Ok(true));
        assert!(Filter::parse("headers.none == 1").unwrap().wants(&text, "q").is_err());
        assert!(Filter::parse("bodi == 1").is_err());
    }
}
