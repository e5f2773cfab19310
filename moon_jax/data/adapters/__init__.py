"""Adapters turn public sets, as the user downloaded them, into contract directories. Named here, imported on use."""

ADAPTERS = {
    "fashion": "moon_jax.data.adapters.fashion:import_fashion",
    "movielens": "moon_jax.data.adapters.movielens:import_movielens",
}
