"""Launchers start workers and watch them. Workers need none of them."""
