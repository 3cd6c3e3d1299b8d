"""A transport map fitted by a Sinkhorn divergence and the Monge gap."""
