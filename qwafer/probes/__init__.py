"""Questions asked of a circuit, a head or a data set before it is trusted. Every probe returns a frozen `Report`."""
