"""Scaling laws and exchange rates from any table: fits, intervals, validation, figures, reports.

table = analysis.read_table("runs.csv")
fit = analysis.fit(table, x="tokens", y="recall", transform="error", law="power_floor", cluster="run")
print(fit.summary())
"""

from analysis.allocation import Allocation, allocate
from analysis.choice import compare_laws
from analysis.costs import Cost
from analysis.equivalent import Equivalent, compute_equivalent
from analysis.exchange import exchange_rate, rank_proxies
from analysis.extrapolation import leave_largest_out
from analysis.fitted import Fit, Prediction
from analysis.fitting import fit
from analysis.forecast import Forecast, extrapolate
from analysis.isoflop import IsoFlop, isoflop
from analysis.laws import LAWS, Law, Param, get_law, register
from analysis.marginal import MarginalTable, marginal_table
from analysis.profile import profile_intervals
from analysis.rates import Ranking, Rate
from analysis.table import TableError, read_results, read_table
from analysis.two_step import TwoStep, two_step

__all__ = [
    "LAWS",
    "Allocation",
    "Cost",
    "Equivalent",
    "Fit",
    "Forecast",
    "IsoFlop",
    "Law",
    "MarginalTable",
    "Param",
    "Prediction",
    "Ranking",
    "Rate",
    "TableError",
    "TwoStep",
    "allocate",
    "compare_laws",
    "compute_equivalent",
    "exchange_rate",
    "extrapolate",
    "fit",
    "get_law",
    "isoflop",
    "leave_largest_out",
    "marginal_table",
    "profile_intervals",
    "rank_proxies",
    "read_results",
    "read_table",
    "register",
    "two_step",
]
