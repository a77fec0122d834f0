"""One module a command group; each has ``register(app)`` and imports heavy things late."""
