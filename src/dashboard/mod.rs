//! What a person looks at while it changes under their keys. Each view is a state, a machine that
//! says what a key makes of it and what has to be read, and a frame that draws it.
//!
//! Nothing here reads a file, waits, or knows a terminal: whoever runs a view hands it keys and data
//! and draws its frames.

pub mod dead_letters;
