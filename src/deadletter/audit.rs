//! Where this topology loses dead letters. Pure.
