//! Messages out and in: publish with every outcome accounted for, consume without losing one. Knows no dead letters, no sagas.
