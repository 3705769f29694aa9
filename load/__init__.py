"""Storms, benchmarks, simulation and chaos: what the library is measured and attacked with."""
