"""From a provider to the index: pinning, fetching, building, withdrawals."""
