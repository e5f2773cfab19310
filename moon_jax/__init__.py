"""MOON in JAX: data, models, losses, stages and metrics. Import the room you need; nothing is loaded here."""
