"""What is wrong with a tensor train."""


class TrainError(ValueError):
    """A tensor train that makes no sense, or does not fit a weight."""
