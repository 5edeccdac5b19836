"""Bounds on the loss surface, as printed and as they truly hold."""

from stillscape.bounds.loss_difference import loss_difference, sufficient_size

__all__ = ["loss_difference", "sufficient_size"]
