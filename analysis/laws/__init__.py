"""Functional forms by name; `law.py` says how to add one."""

from analysis.laws import broken, joint, powers  # importing a room registers its laws
from analysis.laws.law import LAWS, Law, Param, get_law, register

__all__ = ["LAWS", "Law", "Param", "broken", "get_law", "joint", "powers", "register"]
