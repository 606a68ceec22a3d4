"""Figures of studies: capacity, rates, sensitivities, calibrations and validations."""
