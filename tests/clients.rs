//! Real programs that go through the gateway.
