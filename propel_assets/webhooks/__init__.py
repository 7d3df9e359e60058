"""PropelAuth's webhooks: the receiver, which verifies and stores them, and the webhook store. See docs/webhooks.md."""
