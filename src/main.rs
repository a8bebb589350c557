//! The binary. Everything is in the library.

fn main() -> nexus::cli::ExitStatus {
    nexus::cli::process()
}
