//! W3C trace context: the headers `traceparent` and `tracestate` that tie messages to one trace.

use std::fmt;
use std::str::FromStr;

/// Where in which trace something happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// 16 bytes, never all zero.
    pub trace_id: u128,
    /// 8 bytes, never all zero.
    pub span_id: u64,
    /// Bit 0: the trace is recorded.
    pub flags: u8,
}

impl TraceContext {
    /// A new trace with random ids.
    pub fn new(random: &mut fastrand::Rng) -> Self {
        TraceContext { trace_id: random.u128(1..), span_id: random.u64(1..), flags: 1 }
    }

    /// The next span of the same trace.
    #[must_use]
    pub fn child(&self, random: &mut fastrand::Rng) -> Self {
        TraceContext { span_id: random.u64(1..), ..self.clone() }
    }
}

/// As the header `traceparent` has it.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

impl FromStr for TraceContext {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (version, rest) = text.split_at_checked(2)?;
            let hex = |part: &str, length: usize| {
                part.len() == length
                    && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            };
            // Later versions may append fields; the first three stay.
            if !hex(version, 2) || version == "ff" || (version == "00" && text.len() != 55) {
                return None;
            }
            let mut parts = rest.strip_prefix('-')?.split('-');
            let trace = parts.next().filter(|part| hex(part, 32))?;
            let span = parts.next().filter(|part| hex(part, 16))?;
            let flags = parts.next().filter(|part| hex(part, 2))?;
            let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
            let span_id = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
            Some(TraceContext { trace_id, span_id, flags: u8::from_str_radix(flags, 16).ok()? })
        };
        parse().ok_or_else(|| {
            format!(
                "`{text}` is no traceparent; it looks like \
                 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_reads_and_writes_the_same() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(text.parse::<TraceContext>().unwrap().to_string(), text);
        let mut random = fastrand::Rng::with_seed(7);
        let root = TraceContext::new(&mut random);
        assert_eq!(root.to_string().parse(), Ok(root.clone()));
        let child = root.child(&mut random);
        assert_eq!(child.trace_id, root.trace_id);
        assert_ne!(child.span_id, root.span_id);
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(later.parse::<TraceContext>().is_ok());
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "0",
            "é0-x",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        ] {
            assert!(text.parse::<TraceContext>().is_err(), "{text}");
        }
    }
}
