//! Retry, circuit breaker and their like: state machines that are handed the time. No sockets here, no brokers.
