//! The last lines of what a command wrote, in bounded memory.

use std::collections::VecDeque;

/// Lines that are kept.
const LINES: usize = 20;
/// Bytes that are kept.
const BYTES: usize = 4096;

/// Keeps the end of a stream.
#[derive(Debug, Default)]
pub(super) struct Tail {
    kept: VecDeque<u8>,
    cut: bool,
}

impl Tail {
    /// Takes the next bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let new = &bytes[bytes.len().saturating_sub(BYTES)..];
        let over = (self.kept.len() + new.len()).saturating_sub(BYTES);
        self.cut |= over > 0 || new.len() < bytes.len();
        self.kept.drain(..over.min(self.kept.len()));
        self.kept.extend(new);
    }

    /// The last lines as text; what is no UTF-8 is replaced.
    pub(super) fn text(&self) -> String {
        let bytes: Vec<u8> = self.kept.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end();
        let mut lines: Vec<&str> = text.lines().collect();
        // The first line of what was cut is half a line.
        if self.cut && lines.len() > 1 {
            lines.remove(0);
        }
        lines.drain(..lines.len().saturating_sub(LINES));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_begins_with_a_whole_line() {
        let mut tail = Tail::default();
        assert_eq!(tail.text(), "");
        tail.take(b"one\ntwo");
        tail.take(b" more\n\n");
        assert_eq!(tail.text(), "one\ntwo more");
        for number in 0..10_000 {
            tail.take(format!("line {number}\n").as_bytes());
        }
        let text = tail.text();
        assert!(text.starts_with("line 9980\n") && text.ends_with("line 9999"), "{text}");
        let mut tail = Tail::default();
        tail.take(&vec![b'x'; 100_000]);
        assert_eq!(tail.text().len(), BYTES);
        let mut tail = Tail::default();
        tail.take(b"\xff\xfe bad");
        assert_eq!(tail.text(), "\u{fffd}\u{fffd} bad");
    }
}
