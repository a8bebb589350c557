//! What `version` prints.

use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::output::{Page, View};

/// The version and what is built in.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionView {
    /// The program.
    name: String,
    /// Its version.
    version: String,
    /// The machine it is built for, such as `linux-x86_64`.
    platform: String,
    /// Whether it was built with optimisation.
    optimised: bool,
    /// The RabbitMQ versions it is tested with.
    tested_with: Vec<String>,
    /// The `apiVersion` it reads and writes.
    documents: String,
}

impl VersionView {
    /// This program.
    pub fn current() -> Self {
        VersionView {
            name: "nexusctl".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
            optimised: !cfg!(debug_assertions),
            tested_with: vec!["3.10.8".into(), "4.0.5".into()],
            documents: crate::cli::output::API_VERSION.into(),
        }
    }
}

impl View for VersionView {
    const KIND: &'static str = "Version";
    fn text(&self, page: &mut Page) {
        page.line(format!("nexusctl {}", self.version));
        let build = if self.optimised { "" } else { ", without optimisation" };
        page.line(format!("built for {}{build}", self.platform));
        page.line(format!("tested with RabbitMQ {}", self.tested_with.join(" and ")));
    }
}
