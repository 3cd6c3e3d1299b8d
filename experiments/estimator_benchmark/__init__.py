"""Every estimator of mutual information on the forty tasks whose truth is known."""
