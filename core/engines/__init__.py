"""Engines: one function applied to many tasks, by processes of this machine, by Dask, or by Ray."""
