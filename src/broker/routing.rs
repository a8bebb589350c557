//! Who would get this message: exchanges, bindings and headers in, queues and the way to them out.
//!
//! Pure: the embedded broker routes by it, `topology route` explains by it.
