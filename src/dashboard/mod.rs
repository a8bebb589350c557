//! What a person looks at while it changes under their keys. Each view is a state, a machine that
//! says what a key makes of it and what has to be read, and a frame that draws it.
//!
//! Nothing here waits or knows a terminal: whoever runs a view hands it keys and data and has its
//! frames drawn.

pub mod dead_letters;
