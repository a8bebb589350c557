//! What the person or the script sees: reports on stdout, everything else on stderr.
//!
//! A command makes a report value; this file decides whether it becomes text, JSON, YAML or NDJSON.
//! Text is understandable without colour, and colour never leaves a terminal unless it is asked for.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::base::document::to_yaml;

use super::error::CliError;
use super::host::{Environment, Output};

/// The version of every document we print.
pub const API_VERSION: &str = "nexus/v1";

/// How a report is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people: text and tables.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// The same document as YAML.
    Yaml,
    /// One JSON value per line: the items of a list, or the whole document.
    Ndjson,
}

impl Format {
    /// The word on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Format::Table => "table",
            Format::Json => "json",
            Format::Yaml => "yaml",
            Format::Ndjson => "ndjson",
        }
    }

    /// Whether a program reads it.
    pub const fn is_machine(self) -> bool {
        !matches!(self, Format::Table)
    }
}

impl FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Format::Table, Format::Json, Format::Yaml, Format::Ndjson]
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| {
                format!("`{text}` is no output format; there are table, json, yaml and ndjson")
            })
    }
}

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless the environment speaks against it.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl ColorChoice {
    /// Whether to colour a stream: the flag, then `NO_COLOR`, `CLICOLOR_FORCE`, `TERM=dumb`, then
    /// whether a person reads it.
    pub fn applies(self, environment: &Environment, is_terminal: bool) -> bool {
        match self {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                if environment.get("NO_COLOR").is_some() {
                    false
                } else if environment.get("CLICOLOR_FORCE").is_some_and(|value| value != "0") {
                    true
                } else {
                    is_terminal && environment.get("TERM") != Some("dumb")
                }
            }
        }
    }
}

/// A report that can be shown. Serialises to the fields beside `apiVersion` and `kind`.
pub trait View: Serialize + JsonSchema {
    /// The `kind` of the document.
    const KIND: &'static str;
    /// The field whose items NDJSON prints one by one; `None` prints the document on one line.
    const ITEMS: Option<&'static str> = None;
    /// Writes the text for people.
    fn text(&self, page: &mut Page);
}

/// The document of a report: `apiVersion`, `kind`, then its own fields.
pub fn document<V: View>(view: &V) -> Value {
    let mut document = Map::new();
    document.insert("apiVersion".into(), API_VERSION.into());
    document.insert("kind".into(), V::KIND.into());
    match serde_json::to_value(view) {
        Ok(Value::Object(fields)) => document.extend(fields),
        Ok(other) => {
            document.insert("value".into(), other);
        }
        // Only a map with keys that are no text fails, and no view has one.
        Err(error) => {
            document.insert("unprintable".into(), error.to_string().into());
        }
    }
    Value::Object(document)
}

/// The JSON Schema of the documents of one kind.
pub fn schema<V: View>() -> Value {
    let mut schema = schemars::generate::SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator()
        .into_root_schema_for::<V>()
        .to_value();
    if let Some(object) = schema.as_object_mut() {
        object.insert("title".into(), V::KIND.into());
        let fields = object.remove("properties").unwrap_or_default();
        let mut properties = Map::new();
        properties.insert("apiVersion".into(), serde_json::json!({"const": API_VERSION}));
        properties.insert("kind".into(), serde_json::json!({"const": V::KIND}));
        if let Value::Object(fields) = fields {
            properties.extend(fields);
        }
        object.insert("properties".into(), properties.into());
        let mut required = vec![Value::from("apiVersion"), Value::from("kind")];
        if let Some(Value::Array(own)) = object.remove("required") {
            required.extend(own);
        }
        object.insert("required".into(), required.into());
    }
    schema
}

/// Colours, or none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Whether escape sequences are written.
    pub color: bool,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.color && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Something went well, or is added.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Something failed, or is removed.
    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// Something deserves attention, or changes.
    pub fn attention(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// A heading or a name.
    pub fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What matters least.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// Text on its way to stdout.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    /// Colours, or none.
    pub style: Style,
    /// Columns of the terminal; `None` does not wrap.
    pub columns: Option<usize>,
}

impl Page {
    /// Adds one line.
    pub fn line(&mut self, text: impl AsRef<str>) {
        self.text.push_str(text.as_ref());
        self.text.push('\n');
    }

    /// Adds an empty line, unless the page is still empty.
    pub fn gap(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
    }

    /// Adds a table without borders; nothing when there are no rows.
    pub fn table<const N: usize>(&mut self, headers: [&str; N], rows: Vec<[String; N]>) {
        let headers = headers.map(str::to_owned).to_vec();
        self.wide_table(headers, rows.into_iter().map(Vec::from).collect());
    }

    /// The same, with columns that are chosen by whoever looks.
    pub fn wide_table(&mut self, headers: Vec<String>, rows: Vec<Vec<String>>) {
        use comfy_table::{ContentArrangement, Table, presets};
        if rows.is_empty() {
            return;
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.force_no_tty();
        match self.columns {
            Some(columns) => {
                table.set_content_arrangement(ContentArrangement::Dynamic);
                table.set_width(u16::try_from(columns).unwrap_or(u16::MAX));
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        table.set_header(headers);
        for row in rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for (index, line) in table.lines().enumerate() {
            let line = line.trim_end();
            let line = if index == 0 { self.style.strong(line) } else { line.to_owned() };
            self.line(line);
        }
    }

    /// The text so far.
    pub fn into_text(self) -> String {
        self.text
    }
}

/// How much is said on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Warnings and what happens.
    #[default]
    Normal,
    /// Also the log of this program.
    Verbose,
    /// Also its details.
    Debug,
}

/// The two streams a command talks to.
pub struct Ui {
    stdout: Output,
    stderr: Output,
    /// How reports are printed.
    pub format: Format,
    /// How much is said on stderr.
    pub verbosity: Verbosity,
    /// Colours of stdout.
    pub style: Style,
    /// Colours of stderr.
    pub stderr_style: Style,
    /// Columns of the terminal, when there is one.
    pub columns: Option<usize>,
    /// Whether long work may show a bar.
    pub progress: bool,
}

impl std::fmt::Debug for Ui {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ui").field("format", &self.format).finish_non_exhaustive()
    }
}

impl Ui {
    /// The streams of a run, as yet without wishes of the command line.
    pub fn new(stdout: Output, stderr: Output, columns: Option<usize>) -> Self {
        Ui {
            stdout,
            stderr,
            format: Format::Table,
            verbosity: Verbosity::Normal,
            style: Style::default(),
            stderr_style: Style::default(),
            columns,
            progress: false,
        }
    }

    /// Takes the wishes of the command line.
    pub fn configure(
        &mut self,
        environment: &Environment,
        format: Format,
        color: ColorChoice,
        verbosity: Verbosity,
        no_progress: bool,
    ) {
        self.format = format;
        self.verbosity = verbosity;
        self.style = Style { color: color.applies(environment, self.stdout.is_terminal) };
        self.stderr_style = Style { color: color.applies(environment, self.stderr.is_terminal) };
        self.progress = self.stderr.is_terminal
            && !no_progress
            && verbosity != Verbosity::Quiet
            && environment.get("TERM") != Some("dumb");
    }

    /// Whether a person reads stdout.
    pub fn stdout_is_terminal(&self) -> bool {
        self.stdout.is_terminal
    }

    /// Whether a person reads stderr.
    pub fn stderr_is_terminal(&self) -> bool {
        self.stderr.is_terminal
    }

    /// Prints a report on stdout in the format asked for.
    ///
    /// # Errors
    /// When stdout does not take it.
    pub fn report<V: View>(&mut self, view: &V) -> Result<(), CliError> {
        let text = match self.format {
            Format::Table => {
                let columns = if self.stdout.is_terminal { self.columns } else { None };
                let mut page = Page { text: String::new(), style: self.style, columns };
                view.text(&mut page);
                page.into_text()
            }
            Format::Json => {
                let mut text = pretty(&document(view));
                text.push('\n');
                text
            }
            Format::Yaml => to_yaml(&document(view)),
            Format::Ndjson => lines(&document(view), V::ITEMS),
        };
        self.data(text.as_bytes())
    }

    /// Writes bytes on stdout as they are, and hands them to the operating system.
    ///
    /// # Errors
    /// When stdout does not take them.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.stdout
            .writer
            .write_all(bytes)
            .and_then(|()| self.stdout.writer.flush())
            .map_err(|error| CliError::stdout(&error))
    }

    /// Says something on stderr, unless hushed.
    pub fn status(&mut self, text: impl AsRef<str>) {
        if self.verbosity > Verbosity::Quiet {
            self.say(text.as_ref());
        }
    }

    /// Warns on stderr, unless hushed.
    pub fn warning(&mut self, text: impl AsRef<str>) {
        let label = self.stderr_style.attention("warning:");
        self.status(format!("{label} {}", text.as_ref()));
    }

    /// Gives advice on stderr, unless hushed.
    pub fn hint(&mut self, text: impl AsRef<str>) {
        let label = self.stderr_style.strong("hint:");
        self.status(format!("{label} {}", text.as_ref()));
    }

    /// Shows an error on stderr: text, or one JSON document when a program reads.
    pub fn error(&mut self, error: &CliError) {
        let text = if self.format.is_machine() {
            let document = document(&error.view());
            match self.format {
                Format::Yaml => to_yaml(&document).trim_end().to_owned(),
                Format::Ndjson => document.to_string(),
                Format::Json | Format::Table => pretty(&document),
            }
        } else {
            error.text(self.stderr_style)
        };
        self.say(&text);
    }

    /// What cannot be said on stderr cannot be said at all.
    pub fn say(&mut self, text: &str) {
        let mut line = String::with_capacity(text.len() + 1);
        let _ = writeln!(line, "{text}");
        let _ = self.stderr.writer.write_all(line.as_bytes());
        let _ = self.stderr.writer.flush();
    }

    /// Writes to stderr without a line break: a prompt.
    pub fn prompt(&mut self, text: &str) {
        let _ = self.stderr.writer.write_all(text.as_bytes());
        let _ = self.stderr.writer.flush();
    }

    /// Takes the handle to the regular file behind stdout, when there is one.
    pub fn stdout_file(&mut self) -> Option<File> {
        self.stdout.file.take()
    }

    /// Takes stdout away from the run, for a command that streams into it.
    pub fn take_stdout(&mut self) -> Box<dyn Write + Send> {
        std::mem::replace(&mut self.stdout.writer, Box::new(io::sink()))
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}")
}

fn lines(document: &Value, items: Option<&str>) -> String {
    let items = items.and_then(|field| document.get(field)).and_then(Value::as_array);
    match items {
        Some(items) => items.iter().fold(String::new(), |mut text, item| {
            let _ = writeln!(text, "{item}");
            text
        }),
        None => format!("{document}\n"),
    }
}

/// `1 queue`, `2 queues`: a number and its noun.
pub fn count(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    let ending = match noun.as_bytes() {
        _ if number == 1 => "",
        [.., b's' | b'x'] | [.., b's', b'h'] | [.., b'c', b'h'] => "es",
        _ => "s",
    };
    match noun.strip_suffix('y') {
        Some(stem) if number != 1 && !noun.ends_with("ey") => format!("{number} {stem}ies"),
        _ => format!("{number} {noun}{ending}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, JsonSchema)]
    struct Fruits {
        fruits: Vec<String>,
    }

    impl View for Fruits {
        const KIND: &'static str = "Fruits";
        const ITEMS: Option<&'static str> = Some("fruits");
        fn text(&self, page: &mut Page) {
            page.table(
                ["FRUIT", "LETTERS"],
                self.fruits.iter().map(|f| [f.clone(), f.len().to_string()]).collect(),
            );
        }
    }

    #[test]
    fn a_table_has_no_borders_and_no_blanks_at_the_end_of_a_line() {
        let mut page = Page::default();
        Fruits { fruits: vec!["fig".into(), "pomegranate".into()] }.text(&mut page);
        assert_eq!(page.into_text(), "FRUIT        LETTERS\nfig          3\npomegranate  11\n");
    }

    #[test]
    fn a_document_matches_its_schema_and_ndjson_prints_items() {
        let fruits = Fruits { fruits: vec!["fig".into(), "date".into()] };
        let document = document(&fruits);
        assert_eq!(
            document.to_string(),
            r#"{"apiVersion":"nexus/v1","kind":"Fruits","fruits":["fig","date"]}"#
        );
        assert!(jsonschema::is_valid(&schema::<Fruits>(), &document));
        assert!(!jsonschema::is_valid(&schema::<Fruits>(), &serde_json::json!({"fruits": []})));
        assert_eq!(lines(&document, Fruits::ITEMS), "\"fig\"\n\"date\"\n");
    }

    #[test]
    fn colour_follows_the_flag_then_the_environment_then_the_terminal() {
        let set = |name: &str| Environment([(name.to_owned(), "1".to_owned())].into());
        let none = Environment::default();
        assert!(ColorChoice::Always.applies(&set("NO_COLOR"), false));
        assert!(!ColorChoice::Never.applies(&set("CLICOLOR_FORCE"), true));
        assert!(!ColorChoice::Auto.applies(&set("NO_COLOR"), true));
        assert!(ColorChoice::Auto.applies(&set("CLICOLOR_FORCE"), false));
        assert!(ColorChoice::Auto.applies(&none, true));
        assert!(!ColorChoice::Auto.applies(&none, false));
        let dumb = Environment([("TERM".to_owned(), "dumb".to_owned())].into());
        assert!(!ColorChoice::Auto.applies(&dumb, true));
    }

    #[test]
    fn nouns_follow_their_number() {
        assert_eq!(count(1u64, "policy"), "1 policy");
        assert_eq!(count(2u64, "policy"), "2 policies");
        assert_eq!(count(0u64, "queue"), "0 queues");
        assert_eq!(count(3u64, "key"), "3 keys");
    }
}
