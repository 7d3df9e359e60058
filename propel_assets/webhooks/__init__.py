"""PropelAuth's webhooks: the receiver, which verifies and stores them, and the event store. See docs/webhooks.md."""
