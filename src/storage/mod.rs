//! The state file: SQLite in WAL mode, one writer with group commit, migrations. Does not know what is stored.
