"""What all tests share: figures are drawn in memory, and the property tests try the same examples on every machine."""

import matplotlib
from hypothesis import settings

matplotlib.use("Agg")
settings.register_profile("same every time", derandomize=True, deadline=None, database=None)
settings.load_profile("same every time")
