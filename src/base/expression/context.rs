//! Variables, and the way of values between JSON and CEL.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use cel::Value;
use cel::objects::{Key, Map};
use serde_json::Value as Json;

use super::EvaluationError;
use super::check::Need;
use super::cost::{Known, Shape};

/// What an expression is evaluated with. Holding a variable costs nothing: it is converted when an
/// expression uses it, and only the keys that the expression uses.
#[derive(Clone, Debug, Default)]
pub struct Context<'a> {
    variables: Vec<(&'a str, Variable<'a>)>,
}

#[derive(Clone, Debug)]
enum Variable<'a> {
    Json(Cow<'a, Json>),
    Bytes(&'a [u8]),
}

/// How deep a variable may be nested.
const MAX_NESTING: usize = 128;

impl<'a> Context<'a> {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// With the variable `name`, in place of one of the same name. Whole numbers enter as `int`,
    /// beyond its range as `uint`.
    #[must_use]
    pub fn with(self, name: &'a str, value: &'a Json) -> Self {
        self.set(name, Variable::Json(Cow::Borrowed(value)))
    }

    /// [`Context::with`], keeping the value.
    #[must_use]
    pub fn with_owned(self, name: &'a str, value: Json) -> Self {
        self.set(name, Variable::Json(Cow::Owned(value)))
    }

    /// With a variable of type `bytes`, such as a body that is no JSON.
    #[must_use]
    pub fn with_bytes(self, name: &'a str, value: &'a [u8]) -> Self {
        self.set(name, Variable::Bytes(value))
    }

    fn set(mut self, name: &'a str, value: Variable<'a>) -> Self {
        match self.variables.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.variables.push((name, value)),
        }
        self
    }

    /// The variable that is needed as CEL has it, with those of its keys that are needed. Adds what
    /// its shape is, or the shapes of those keys.
    pub(super) fn convert<'n>(
        &self,
        need: &'n Need,
        shapes: &mut Vec<Known<'n>>,
    ) -> Result<Value, EvaluationError> {
        let name = need.variable.as_str();
        let variable = self.variables.iter().find(|(known, _)| *known == name);
        let (value, shape) = match variable.map(|(_, value)| value) {
            None => return Err(EvaluationError::UnknownVariable { name: name.to_owned() }),
            Some(Variable::Bytes(bytes)) => {
                (Value::Bytes(Arc::new(bytes.to_vec())), Shape::bytes(bytes.len()))
            }
            Some(Variable::Json(json)) => match (json.as_ref(), &need.fields) {
                (Json::Object(object), Some(fields)) => {
                    let mut map = HashMap::with_capacity(fields.len());
                    for field in fields {
                        if let Some(json) = object.get(field) {
                            let (value, shape) = from_json(json, MAX_NESTING)?;
                            shapes.push(Known { name, field: Some(field), shape });
                            map.insert(Key::String(Arc::new(field.clone())), value);
                        }
                    }
                    return Ok(Value::Map(Map { map: Arc::new(map) }));
                }
                (json, _) => from_json(json, MAX_NESTING)?,
            },
        };
        shapes.push(Known { name, field: None, shape });
        Ok(value)
    }
}

fn from_json(json: &Json, nesting: usize) -> Result<(Value, Shape), EvaluationError> {
    Ok(match json {
        Json::Null => (Value::Null, Shape::scalar()),
        Json::Bool(value) => (Value::Bool(*value), Shape::scalar()),
        Json::Number(number) => {
            let value = match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Value::Int(value),
                (_, Some(value)) => Value::UInt(value),
                _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            };
            (value, Shape::scalar())
        }
        Json::String(text) => (Value::String(Arc::new(text.clone())), Shape::bytes(text.len())),
        Json::Array(items) => {
            let nesting = deeper(nesting)?;
            let mut shape = Shape::container();
            let mut values = Vec::with_capacity(items.len());
            for item in items {
                let (value, inner) = from_json(item, nesting)?;
                shape.add_child(&inner, true);
                values.push(value);
            }
            (Value::List(Arc::new(values)), shape)
        }
        Json::Object(object) => {
            let nesting = deeper(nesting)?;
            let mut shape = Shape::container();
            let mut map = HashMap::with_capacity(object.len());
            for (key, value) in object {
                let (value, inner) = from_json(value, nesting)?;
                shape.add_child(&Shape::bytes(key.len()), true);
                shape.add_child(&inner, false);
                map.insert(Key::String(Arc::new(key.clone())), value);
            }
            (Value::Map(Map { map: Arc::new(map) }), shape)
        }
    })
}

fn deeper(nesting: usize) -> Result<usize, EvaluationError> {
    nesting.checked_sub(1).ok_or_else(|| EvaluationError::Failed {
        message: format!("a variable is nested deeper than {MAX_NESTING} levels"),
    })
}

/// A result as JSON.
pub(super) fn to_json(value: &Value) -> Result<Json, EvaluationError> {
    let failed = |message: &str| Err(EvaluationError::Failed { message: message.to_owned() });
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => (*value).into(),
        Value::UInt(value) => (*value).into(),
        Value::Float(value) => match serde_json::Number::from_f64(*value) {
            Some(number) => Json::Number(number),
            None => return failed("the result is no finite number"),
        },
        Value::String(text) => Json::String(text.to_string()),
        Value::Bytes(bytes) => {
            Json::String(base64::engine::general_purpose::STANDARD.encode(bytes.as_slice()))
        }
        Value::List(items) => Json::Array(items.iter().map(to_json).collect::<Result<_, _>>()?),
        Value::Map(map) => {
            let mut entries = map
                .map
                .iter()
                .map(|(key, value)| Ok((key.to_string(), to_json(value)?)))
                .collect::<Result<Vec<_>, EvaluationError>>()?;
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Json::Object(entries.into_iter().collect())
        }
        Value::Function(..) | Value::Opaque(_) | Value::Struct(_) => {
            return failed("the result is a type, which is no value");
        }
    })
}

/// What `value` is, with its article.
pub(super) fn kind_name(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "true or false",
        Json::Number(_) => "a number",
        Json::String(_) => "text",
        Json::Array(_) => "a list",
        Json::Object(_) => "a map",
    }
}
