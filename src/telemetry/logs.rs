//! Log lines on a stream that is handed in, with the credentials of URLs blotted out.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text {
        /// Whether escape sequences are written.
        color: bool,
    },
    /// One JSON object per line.
    Json,
}

/// A subscriber that writes to `writer` what `filter` lets through, such as `nexus=debug,lapin=info`.
///
/// # Errors
/// When the filter cannot be read.
pub fn subscriber(
    filter: &str,
    format: LogFormat,
    writer: Box<dyn Write + Send>,
) -> Result<Box<dyn Subscriber + Send + Sync>, String> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| error.to_string())?;
    let writer = Shared(Arc::new(Mutex::new(writer)));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match format {
        LogFormat::Text { color } => Box::new(builder.with_ansi(color).finish()),
        LogFormat::Json => Box::new(builder.json().finish()),
    })
}

/// One stream for all threads; each line is written at once.
#[derive(Clone)]
struct Shared(Arc<Mutex<Box<dyn Write + Send>>>);

impl<'a> MakeWriter<'a> for Shared {
    type Writer = Line;
    fn make_writer(&'a self) -> Line {
        Line { stream: self.clone() }
    }
}

struct Line {
    stream: Shared,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = redact(&String::from_utf8_lossy(bytes));
        let mut stream = self.stream.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        stream.write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).flush()
    }
}

/// `text` with the password of every `scheme://user:password@host` replaced by `****`.
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '`'))
            .unwrap_or(after.len());
        let authority = &after[..end];
        match authority.rsplit_once('@') {
            Some((login, host)) => {
                let user = login.split_once(':').map_or(login, |(user, _)| user);
                out.push_str(user);
                if login.contains(':') {
                    out.push_str(":****");
                }
                out.push('@');
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_blotted_out() {
        let cases = [
            ("to amqp://guest:hunter2@host:5672/%2f now", "to amqp://guest:****@host:5672/%2f now"),
            ("http://a:b@c, amqps://d:e@f", "http://a:****@c, amqps://d:****@f"),
            ("amqp://a:p@ss@host/", "amqp://a:****@host/"),
            ("embedded:/tmp/x and http://host/a@b", "embedded:/tmp/x and http://host/a@b"),
            ("user@host", "user@host"),
        ];
        for (given, expected) in cases {
            assert_eq!(redact(given), expected);
        }
    }

    #[test]
    fn the_filter_decides_what_is_written_and_a_bad_one_is_refused() {
        #[derive(Clone, Default)]
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let sink = Sink::default();
        let format = LogFormat::Text { color: false };
        let logs = subscriber("nexus=info", format, Box::new(sink.clone())).unwrap();
        tracing::subscriber::with_default(logs, || {
            tracing::info!("reached amqp://guest:hunter2@host");
            tracing::debug!("hidden");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("reached amqp://guest:****@host"), "{text}");
        assert!(!text.contains("hidden"));
        assert!(subscriber("nexus=loudly", format, Box::new(Sink::default())).is_err());
    }
}
