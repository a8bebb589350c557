//! What two letters differ in. Pure.

use std::collections::BTreeSet;

use serde_json::Value;

/// Differences that are listed at most.
const MOST: usize = 500;

/// One difference between two values.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Where: `properties.headers.tries`, `body.items[2]`.
    pub path: String,
    /// What the first has there; `None` when nothing.
    pub left: Option<Value>,
    /// What the second has there.
    pub right: Option<Value>,
}

/// Every place where two values differ, in order; at most 500.
pub fn compare(left: &Value, right: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    walk(String::new(), Some(left), Some(right), &mut found);
    found
}

fn walk(path: String, left: Option<&Value>, right: Option<&Value>, found: &mut Vec<Difference>) {
    if left == right || found.len() >= MOST {
        return;
    }
    match (left, right) {
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for name in names {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                walk(path, left.get(name), right.get(name), found);
            }
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) => {
            for at in 0..left.len().max(right.len()) {
                walk(format!("{path}[{at}]"), left.get(at), right.get(at), found);
            }
        }
        _ => found.push(Difference { path, left: left.cloned(), right: right.cloned() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_place_that_differs_is_named_once() {
        let one = json!({"a": 1, "b": {"c": [1, 2, {"d": true}]}, "same": [1]});
        let other = json!({"a": "1", "b": {"c": [1, 3]}, "same": [1], "new": null});
        let found = compare(&one, &other);
        let paths: Vec<&str> = found.iter().map(|d| d.path.as_str()).collect();
        assert_eq!(paths, ["a", "b.c[1]", "b.c[2]", "new"]);
        assert_eq!((&found[2].left, &found[2].right), (&Some(json!({"d": true})), &None));
        assert_eq!(found[3].right, Some(Value::Null));
        assert_eq!(compare(&one, &one), []);
    }
}
