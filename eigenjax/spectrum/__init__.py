"""The spectrum as a whole: its density, the trace, the diagonal, and functions of the operator."""

from eigenjax.spectrum.density import SpectralDensity, spectral_density

__all__ = ["SpectralDensity", "spectral_density"]
