"""How each kind of destination is loaded: one module per destination that needs special treatment."""
