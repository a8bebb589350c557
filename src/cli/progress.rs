//! Progress bars: on a terminal only, on stderr only, and never when hushed.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::Ui;

/// A bar, or nothing.
#[derive(Debug)]
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// A bar for `total` of `what`, or a counter when the total is not known.
    pub fn new(ui: &Ui, total: Option<u64>, what: &str) -> Self {
        if !ui.progress {
            return Progress(None);
        }
        let target = ProgressDrawTarget::stderr_with_hz(5);
        let bar = ProgressBar::with_draw_target(total, target);
        let template = match total {
            Some(_) => format!("{{bar:30}} {{pos}}/{{len}} {what} {{per_sec}} {{eta}} {{msg}}"),
            None => format!("{{spinner}} {{pos}} {what} {{per_sec}} {{msg}}"),
        };
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        Progress(Some(bar))
    }

    /// No bar.
    pub fn none() -> Self {
        Progress(None)
    }

    /// So many are done.
    pub fn at(&self, done: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(done);
        }
    }

    /// Says something beside the bar.
    pub fn message(&self, text: String) {
        if let Some(bar) = &self.0 {
            bar.set_message(text);
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
