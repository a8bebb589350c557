//! Headers and properties as a person gives them on the command line: `-H k=v`, `-H k:=json`,
//! `--expiration 60000`. Only the texts are known here, not the flags.

use crate::base::time::{HumanDuration, Timestamp};

use super::notation::{parse_time, parse_value};
use super::value::{FieldTable, FieldValue};

/// Reads one header: `name=text` gives a long string, `name:=JSON` a value in the
/// [`notation`](super::notation). The first `=` decides.
pub fn parse_header(argument: &str) -> Result<(String, FieldValue), String> {
    let Some((left, right)) = argument.split_once('=') else {
        return Err(format!(
            "header `{argument}` has no `=`; write NAME=TEXT, or NAME:=JSON for another type"
        ));
    };
    let (name, typed) = match left.strip_suffix(':') {
        Some(name) => (name, true),
        None => (left, false),
    };
    if name.is_empty() {
        return Err(format!(
            "header `{argument}` has no name before `{}`",
            if typed { ":=" } else { "=" }
        ));
    }
    if name.len() > 255 {
        return Err(format!("a header name is {} bytes long; AMQP allows 255", name.len()));
    }
    if !typed {
        return Ok((name.to_owned(), FieldValue::from(right)));
    }
    match parse_value(right) {
        Ok(value) => Ok((name.to_owned(), value)),
        Err(problems) => {
            let said: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
            let plain = right.chars().next().is_some_and(char::is_alphabetic);
            let hint =
                if plain { format!(" (for text write `{name}={right}`)") } else { String::new() };
            Err(format!("header `{name}`: `{right}` is no typed value: {}{hint}", said.join("; ")))
        }
    }
}

/// Reads all headers and reports every bad one at once. A name given twice is refused.
pub fn parse_headers<'a>(
    arguments: impl IntoIterator<Item = &'a str>,
) -> Result<FieldTable, Vec<String>> {
    let mut table = FieldTable::new();
    let mut wrong = Vec::new();
    for argument in arguments {
        match parse_header(argument) {
            Ok((name, _)) if table.get(&name).is_some() => {
                wrong.push(format!("header `{name}` is given twice"));
            }
            Ok((name, value)) => {
                table.insert(name, value);
            }
            Err(why) => wrong.push(why),
        }
    }
    if wrong.is_empty() { Ok(table) } else { Err(wrong) }
}

/// The largest time to live that RabbitMQ takes, in milliseconds.
const LARGEST_EXPIRATION: u64 = 315_360_000_000;

/// Reads a time to live, `60000` (milliseconds) or `1m`, and gives the property `expiration`.
pub fn parse_expiration(text: &str) -> Result<String, String> {
    let ms = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().unwrap_or(u64::MAX)
    } else {
        text.parse::<HumanDuration>()
            .map_err(|_| {
                format!(
                    "expiration `{text}` is neither milliseconds in digits nor a duration like 10s"
                )
            })?
            .as_ms()
    };
    if ms > LARGEST_EXPIRATION {
        return Err(format!(
            "expiration `{text}` is longer than {LARGEST_EXPIRATION} ms, which the broker refuses"
        ));
    }
    Ok(ms.to_string())
}

/// Reads a priority from 0 to 255.
pub fn parse_priority(text: &str) -> Result<u8, String> {
    text.parse().map_err(|_| format!("priority `{text}` is no integer from 0 to 255"))
}

/// Reads the property `timestamp`: RFC 3339 or whole seconds since 1970; `now` gives the time handed in.
pub fn parse_timestamp(text: &str, now: Timestamp) -> Result<u64, String> {
    if text == "now" {
        return Ok(u64::try_from(now.unix_s()).unwrap_or(0));
    }
    parse_time(text).map_err(|why| format!("timestamp: {why}"))
}

/// Reads a delivery mode: `persistent` (2) or `transient` (1).
pub fn parse_delivery_mode(text: &str) -> Result<u8, String> {
    match text {
        "persistent" | "2" => Ok(2),
        "transient" | "1" => Ok(1),
        _ => Err(format!("delivery mode `{text}` is neither persistent (2) nor transient (1)")),
    }
}

/// Checks the property `user_id`, which the broker refuses unless it is the login.
pub fn check_user_id(user_id: &str, login: &str) -> Result<(), String> {
    if user_id == login {
        return Ok(());
    }
    Err(format!(
        "user id `{user_id}` is not the login `{login}`; the broker refuses a message that says so"
    ))
}

/// Checks a property that AMQP keeps as a short string.
pub fn check_short(property: &str, text: &str) -> Result<(), String> {
    if text.len() <= 255 {
        return Ok(());
    }
    Err(format!("{property} is {} bytes long; AMQP allows 255", text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_text_unless_they_are_typed() {
        for (argument, name, value) in [
            ("a=1", "a", FieldValue::from("1")),
            ("a=", "a", FieldValue::from("")),
            ("a=b=c:=d", "a", FieldValue::from("b=c:=d")),
            ("a:=1", "a", FieldValue::Int64(1)),
            ("a:=1.0", "a", FieldValue::Double(1.0)),
            ("a:=\"x\"", "a", FieldValue::from("x")),
            ("a:={\"$int32\":5}", "a", FieldValue::Int32(5)),
            ("a:=null", "a", FieldValue::Void),
            ("a.b=x", "a.b", FieldValue::from("x")),
            (
                "a:={\"b\":[true]}",
                "a",
                FieldTable::new().with("b", FieldValue::Array(vec![FieldValue::Bool(true)])).into(),
            ),
        ] {
            assert_eq!(parse_header(argument), Ok((name.to_owned(), value)), "{argument}");
        }
    }

    #[test]
    fn bad_headers_are_all_named() {
        let wrong = parse_headers(["a", "=x", ":=1", "b:=five", "c=1", "c=2"]).unwrap_err();
        assert_eq!(
            wrong,
            [
                "header `a` has no `=`; write NAME=TEXT, or NAME:=JSON for another type",
                "header `=x` has no name before `=`",
                "header `:=1` has no name before `:=`",
                "header `b`: `five` is no typed value: column 1: expected a value, found `f` (for text \
                 write `b=five`)",
                "header `c` is given twice",
            ]
        );
    }

    #[test]
    fn properties_are_checked_before_the_broker_would() {
        assert_eq!(parse_expiration("60000").as_deref(), Ok("60000"));
        assert_eq!(parse_expiration("0060").as_deref(), Ok("60"));
        assert_eq!(parse_expiration("1m30s").as_deref(), Ok("90000"));
        for text in ["", "-1", "1.5", " 5", "abc", "315360000001", "99999999999999999999999"] {
            assert!(parse_expiration(text).is_err(), "{text}");
        }
        assert_eq!(parse_priority("255"), Ok(255));
        assert!(parse_priority("256").is_err());
        let now = Timestamp::from_unix_ms(1_700_000_000_999);
        assert_eq!(parse_timestamp("now", now), Ok(1_700_000_000));
        assert_eq!(parse_timestamp("2023-11-14T22:13:20Z", now), Ok(1_700_000_000));
        assert_eq!(parse_timestamp("5", now), Ok(5));
        assert!(parse_timestamp("1969-12-31T23:59:59Z", now).is_err());
        assert_eq!(parse_delivery_mode("persistent"), Ok(2));
        assert!(parse_delivery_mode("3").is_err());
        assert!(check_user_id("guest", "guest").is_ok());
        assert!(check_user_id("root", "guest").is_err());
        assert!(check_short("messageId", &"x".repeat(256)).is_err());
    }
}
