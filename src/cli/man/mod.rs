//! `nexusctl man`: manual pages, made from the command tree.

use std::path::PathBuf;

use clap::Args;

use super::error::CliError;
use super::exit::ExitStatus;
use super::session::Session;

/// Arguments of `man`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nexusctl man\n  nexusctl man topology plan\n  \
                        nexusctl man --dir man1")]
pub struct ManArgs {
    /// The command whose page to print
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Vec<String>,
    /// Write the pages of all commands into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints one page, or writes all.
pub(super) fn run(args: ManArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ManArgs { command, dir } = args;
    let pages = pages()?;
    if let Some(dir) = dir {
        let path = session.resolve(&dir);
        std::fs::create_dir_all(&path)
            .map_err(|error| CliError::file(format!("create {}", dir.display()), &error))?;
        for (name, page) in &pages {
            let file = path.join(format!("{name}.1"));
            std::fs::write(&file, page).map_err(|error| CliError::unwritable(&file, &error))?;
        }
        session.ui.status(format!("{} pages written to {}", pages.len(), dir.display()));
        return Ok(ExitStatus::Done);
    }
    let name = std::iter::once("nexusctl").chain(command.iter().map(String::as_str));
    let name = name.collect::<Vec<_>>().join("-");
    let Some((_, page)) = pages.iter().find(|(known, _)| *known == name) else {
        return Err(CliError::usage(format!("there is no command `{}`", command.join(" ")))
            .hint("`nexusctl --help` lists all"));
    };
    session.ui.data(page)?;
    Ok(ExitStatus::Done)
}

/// All pages: `nexusctl`, `nexusctl-topology`, `nexusctl-topology-plan` and so on, with their troff.
fn pages() -> Result<Vec<(String, Vec<u8>)>, CliError> {
    let mut root = super::command().disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    collect(&root, "nexusctl", &mut pages)
        .map_err(|error| CliError::file("render the manual", &error))?;
    Ok(pages)
}

fn collect(
    command: &clap::Command,
    name: &str,
    pages: &mut Vec<(String, Vec<u8>)>,
) -> std::io::Result<()> {
    let mut page = Vec::new();
    let date = concat!("nexusctl ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(command.clone().name(name.to_owned()))
        .source(date)
        .manual("User Commands")
        .render(&mut page)?;
    pages.push((name.to_owned(), page));
    for child in command.get_subcommands().filter(|child| !child.is_hide_set()) {
        collect(child, &format!("{name}-{}", child.get_name()), pages)?;
    }
    Ok(())
}
