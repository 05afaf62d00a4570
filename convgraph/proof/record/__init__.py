"""What stays of a proof: the certificate, the counterexample, the page."""
