"""Adapters turn public sets, as the user downloaded them, into contract directories. Named here, imported on use."""

ADAPTERS = {
    "table": "moon_jax.data.adapters.table:import_table",
    "fashion": "moon_jax.data.adapters.fashion:import_fashion",
    "movielens": "moon_jax.data.adapters.movielens:import_movielens",
    "taobao_mm": "moon_jax.data.adapters.taobao_mm:import_taobao_mm",
    "mmctr": "moon_jax.data.adapters.mmctr:import_mmctr",
    "esci": "moon_jax.data.adapters.esci:import_esci",
}
