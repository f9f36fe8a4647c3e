"""Of SciPy, loaded when a statistic is asked for: one seed has none, and the import takes a tenth of a second."""


def t_quantile(df: float, share: float) -> float:
    """What Student's t stays below with this probability."""
    from scipy import special

    return float(special.stdtrit(df, share))


def f_tail(between: float, within: float, value: float) -> float:
    """How likely an F of so many degrees of freedom exceeds a value."""
    from scipy import special

    return float(special.fdtrc(between, within, value))
