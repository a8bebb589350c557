//! Which arguments each queue type of each version knows, and what values they take.
