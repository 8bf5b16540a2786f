"""The offline gate: may this version be promoted? Metrics with intervals, comparisons, a verdict and a report."""
