//! Messages out and in: publish with every outcome accounted for, consume without losing one.
//!
//! Speaks to the broker only through its port. Knows no dead letters, no sagas, no terminal: what
//! happened is returned as a report, and what it means for the exit status as a verdict.

#[cfg(test)]
mod fake;

pub mod compose;
pub mod consume;
pub mod filter;
pub mod format;
pub mod journal;
pub mod pace;
pub mod peek;
pub mod play;
pub mod publish;
pub mod request;
pub mod sink;
pub mod source;
pub mod stop;
pub mod stream;
pub mod transfer;
pub mod worker;
pub mod tap;

pub use compose::{Composer, EnvelopeParts};
pub use consume::{AckMode, ConsumeOptions, ConsumeReport, ConsumeVerdict, consume};
pub use filter::Filter;
pub use format::FormatString;
pub use publish::{OnError, PublishOptions, PublishReport, PublishVerdict, publish};
pub use sink::{DurableFile, Format, Sink, Stream, Target};
pub use source::{LineSource, RecordSource, RepeatSource, Source};
pub use stop::{Stop, Wish};
pub use transfer::{TransferOptions, TransferReport, transfer};
