"""The compiled kernels; their sources lie in ``src_ext/etacore/_kernels``."""
