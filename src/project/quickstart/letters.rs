//! The dead letters' part: found, read once, grouped by why they died, and sent back once the cause is
//! mended.

use async_trait::async_trait;

use crate::base::id::QueueName;

use super::{QuickstartError, Run};

/// Runs commands as a person does who types them, in the project and on the broker of the quickstart.
#[async_trait]
pub trait Commands: Send + Sync {
    /// What the command of these words prints on standard output.
    ///
    /// # Errors
    /// When it ends with another status than 0: what it said.
    async fn run(&self, words: &[String]) -> Result<String, String>;
}

/// What is typed about the queue `DEAD`, and why. The one before the last says what will be done, the
/// last does it.
const STEPS: [(&str, &str); 5] = [
    ("find where dead letters are", "dlq list DEAD"),
    ("read them once, leaving them where they are", "dlq scan DEAD"),
    ("see what died of the same cause", "dlq groups DEAD"),
    ("plan where each of them would go", "dlq plan DEAD --stored"),
    ("send them back to be packed", "dlq replay DEAD --yes --reason mended"),
];

impl Run<'_, '_> {
    pub(super) async fn dead_letter_commands(&mut self) -> Result<(), QuickstartError> {
        let dead = QueueName::new(self.name("rejected"))?;
        let expected = self.report.rejected + self.report.worked.dead_lettered;
        for (title, command) in STEPS {
            // A broker puts back what was looked at after it has answered.
            self.dead_letters(&dead, expected).await?;
            let command = command.replace("DEAD", dead.as_str());
            let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
            let shown = self.commands.run(&words).await;
            self.go_on()?;
            let shown = shown.map_err(|why| QuickstartError::Unexpected {
                step: title,
                why: format!("`nexusctl {command}`: {why}"),
            })?;
            self.done(title, command, shown.trim_end().to_owned());
        }
        self.dead_letters(&dead, 0).await?;
        self.report.replayed = expected;
        Ok(())
    }
}
